//! Lists: as tables, as metadata, page by page, selected, and at a resource version.

use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::wire::{JSON, TABLE};
use crate::{Entry, Needs};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const OWN: &str = "labelSelector=own%3Dyes";

pub const TRIALS: &[Entry] = &[
    ("columns_of_custom_kinds", Needs::Nothing, custom_columns),
    ("expired_tokens_come_with_a_fresh_one", Needs::Dev, crate::watch::expired_tokens),
    ("metadata_alone", Needs::Nothing, metadata),
    ("pages", Needs::Nothing, pages),
    ("resource_versions", Needs::Nothing, resource_versions),
    ("selectors_of_fields", Needs::Nothing, field_selectors),
    ("selectors_of_labels", Needs::Nothing, label_selectors),
    ("tables", Needs::Nothing, tables),
    ("tables_in_watches", Needs::Nothing, watched_tables),
];

/// ConfigMaps with these names and labels.
fn make(terminal: &Terminal, maps: &[(&str, Value)]) {
    for (name, labels) in maps {
        let mut labels = labels.clone();
        labels["own"] = "yes".into();
        terminal.wire.made(MAPS, &json!({"metadata": {"name": name, "labels": labels}}));
    }
}

fn tables(terminal: &Terminal) {
    make(terminal, &[("b", json!({})), ("a", json!({}))]);
    terminal.ok("kubectl run web --image=nginx");
    let spoken = terminal.spoken("get pods");
    let asked = spoken.sent("GET", "/pods?limit=500");
    assert!(asked.contains(&format!("Accept: {}", TABLE.replace(' ', ""))), "{asked}");
    spoken.has("columnDefinitions");
    let spoken = terminal.spoken("get configmaps -l own=yes --sort-by=.metadata.name");
    assert!(spoken.sent("GET", "/configmaps?").contains("includeObject=Object"));
    let rows: Vec<&str> =
        spoken.text.lines().filter(|row| row.starts_with("a ") || row.starts_with("b ")).collect();
    assert!(rows.len() == 2 && rows[0].starts_with('a'), "{rows:?}");
    let narrow = terminal.ok("kubectl get pods");
    assert!(narrow.starts_with("NAME   READY   STATUS") && !narrow.contains("NOMINATED"));
    terminal.shows("kubectl get pods -o wide", &["NOMINATED NODE   READINESS GATES"]);
    terminal.shows("kubectl get pods --show-labels", &["LABELS", "run=web"]);
    terminal.shows("kubectl get pods -L run", &["RUN", "web"]);
    for (include, kind) in [
        ("None", Value::Null),
        ("Metadata", "PartialObjectMetadata".into()),
        ("Object", "ConfigMap".into()),
    ] {
        let path = format!("{MAPS}?{OWN}&includeObject={include}");
        let table = terminal.wire.get(&path, TABLE).json();
        let rows = table["rows"].as_array().expect("a table has rows");
        assert_eq!((rows.len(), &rows[0]["object"]["kind"]), (2, &kind), "{include}");
    }
    let path = "/api/v1/namespaces/{ns}/pods";
    let table = terminal.wire.get(path, TABLE).json();
    let columns = table["columnDefinitions"].as_array().expect("a table has columns");
    assert!(columns.iter().any(|one| one["name"] == "IP" && one["priority"] == 1));
}

fn watched_tables(terminal: &Terminal) {
    make(terminal, &[("a", json!({})), ("b", json!({}))]);
    let path = format!("{MAPS}?{OWN}&watch=true&timeoutSeconds=1");
    let told = terminal.wire.get(&path, TABLE).events();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0]["object"]["kind"], "Table");
    assert!(told[0]["object"]["columnDefinitions"].as_array().is_some_and(|all| all.len() == 3));
    let columns = told[1]["object"]["columnDefinitions"].as_array();
    assert!(columns.is_none_or(Vec::is_empty), "only the first has columns");
    let told = terminal.run("timeout 2 kubectl get configmaps -l own=yes --watch", "").1;
    assert!(told.starts_with("NAME   DATA   AGE\n"), "{told}");
}

fn definition(terminal: &Terminal) -> String {
    let group = format!("{}.example.com", terminal.ns);
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: cars.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: cars, kind: Car, singular: car}}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{{jsonPath: .spec.color}}]
    additionalPrinterColumns:
    - {{name: Color, type: string, jsonPath: .spec.color}}
    - {{name: Ready, type: string, jsonPath: '.status.conditions[?(@.type==\"Ready\")].status'}}
    - {{name: Made, type: date, jsonPath: .metadata.creationTimestamp}}
    - {{name: Doors, type: integer, priority: 1, jsonPath: .spec.doors}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {{type: object, properties: {{color: {{type: string}}, doors: {{type: integer}}}}}}
          status:
            type: object
            properties:
              conditions:
                type: array
                items: {{type: object, properties: {{type: {{type: string}}, status: {{type: string}}}}}}
"
    )
}

fn custom_columns(terminal: &Terminal) {
    terminal.ok_with("kubectl create -f -", &definition(terminal));
    let name = format!("cars.{}.example.com", terminal.ns);
    terminal.ok(&format!("kubectl wait --for=condition=established crd/{name} --timeout=60s"));
    let car = |name: &str, color: &str| {
        format!(
            "{{apiVersion: {}.example.com/v1, kind: Car, metadata: {{name: {name}}}, \
             spec: {{color: {color}, doors: 4}}, \
             status: {{conditions: [{{type: Ready, status: 'True'}}]}}}}",
            terminal.ns
        )
    };
    terminal.ok_with("kubectl create -f -", &car("one", "red"));
    terminal.ok_with("kubectl create -f -", &car("two", "blue"));
    let told = terminal.ok(&format!("kubectl get {name}"));
    let rows: Vec<Vec<&str>> = told.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "COLOR", "READY", "MADE"]);
    assert_eq!(rows[1][..3], ["one", "red", "True"]);
    let told = terminal.ok(&format!("kubectl get {name} -o wide"));
    assert!(told.lines().next().is_some_and(|row| row.ends_with("DOORS")), "{told}");
    let line = format!("kubectl get {name} --field-selector spec.color=blue -o name");
    assert!(terminal.ok(&line).trim().ends_with("/two"));
    terminal.refuses(
        &format!("kubectl get {name} --field-selector spec.doors=4"),
        &["field label not supported: spec.doors"],
    );
    terminal.ok(&format!("kubectl delete crd {name}"));
}

fn metadata(terminal: &Terminal) {
    make(terminal, &[("a", json!({}))]);
    let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let told = terminal.wire.get(&format!("{MAPS}?{OWN}"), list).json();
    assert_eq!(told["kind"], "PartialObjectMetadataList");
    assert_eq!(told["items"][0]["metadata"]["name"], "a");
    assert_eq!(told["items"][0].get("data"), None);
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let told = terminal.wire.get(&format!("{MAPS}/a"), one).json();
    assert_eq!(told["kind"], "PartialObjectMetadata");
    let path = format!("{MAPS}?{OWN}&watch=true&timeoutSeconds=1");
    assert_eq!(
        terminal.wire.get(&path, one).events()[0]["object"]["kind"],
        "PartialObjectMetadata"
    );
    // A review is no resource: it has no columns.
    let review =
        json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let headers = [("content-type", JSON), ("accept", table)];
    let told = terminal.wire.ask(http::Method::POST, path, &headers, review.as_bytes());
    assert_eq!(told.reason(), (406, "NotAcceptable".to_owned()));
}

fn pages(terminal: &Terminal) {
    make(terminal, &["a", "b", "c", "d", "e"].map(|name| (name, json!({}))));
    let path = format!("{MAPS}?limit=2");
    let first = terminal.wire.get(&path, JSON).json();
    // The sixth is the certificate that each namespace is given.
    let remaining = first["metadata"]["remainingItemCount"].as_i64();
    assert!(remaining.is_some_and(|left| (3..=4).contains(&left)), "{remaining:?}");
    let mut names = Vec::new();
    let mut page = first.clone();
    loop {
        let items = page["items"].as_array().expect("a list has items");
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["metadata"]["name"].clone()));
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        page = terminal.wire.get(&format!("{path}&continue={token}"), JSON).json();
    }
    assert_eq!(names[..5], ["a", "b", "c", "d", "e"]);
    // With a selector nobody counts what is left.
    let some = terminal.wire.get(&format!("{path}&{OWN}"), JSON).json();
    assert_eq!(some["metadata"].get("remainingItemCount"), None);
    assert!(some["metadata"]["continue"].is_string());
    let spoken = terminal.spoken("get configmaps --chunk-size=2");
    let asked = spoken.requests().filter(|line| line.contains("limit=2")).count();
    assert!(asked >= 3, "{asked} requests");
    assert!(spoken.requests().any(|line| line.contains("continue=")));
    let told = terminal.wire.get(&format!("{MAPS}?limit=2&continue=nonsense"), JSON);
    assert_eq!(told.code, 400, "{}", told.text());
}

fn label_selectors(terminal: &Terminal) {
    make(
        terminal,
        &[
            ("a", json!({"tier": "front", "new": ""})),
            ("b", json!({"tier": "back"})),
            ("c", json!({"tier": "store"})),
            ("d", json!({})),
        ],
    );
    for (selector, expected) in [
        ("own=yes", "a b c d"),
        ("own==yes,tier=front", "a"),
        ("own,tier!=front", "b c d"),
        ("own,tier in (front,back)", "a b"),
        ("own,tier notin (front,back)", "c d"),
        ("own,tier", "a b c"),
        ("own,!tier", "d"),
        ("own,new=", "a"),
    ] {
        let line = format!("kubectl get configmaps -l '{selector}' -o name");
        let found = terminal.ok(&line).replace("configmap/", "").trim().replace('\n', " ");
        assert_eq!(found, expected, "{selector}");
    }
    let told = terminal.wire.get(&format!("{MAPS}?labelSelector=a+is+b"), JSON);
    assert_eq!(told.reason(), (400, "BadRequest".to_owned()));
}

fn field_selectors(terminal: &Terminal) {
    make(terminal, &[("a", json!({})), ("b", json!({}))]);
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok("kubectl run once --image=nginx --restart=Never");
    terminal.ok("kubectl create secret generic s --from-literal=a=b");
    terminal.ok("kubectl wait --for=condition=Ready pod/web pod/once --timeout=60s");
    let uid = terminal.ok("kubectl get pod web -o jsonpath='{.metadata.uid}'");
    let node = terminal.ok("kubectl get pod web -o jsonpath='{.spec.nodeName}'");
    let ns = &terminal.ns;
    for (what, selector, expected) in [
        ("configmaps", "metadata.name=a".to_owned(), "configmap/a\n"),
        ("pods", format!("metadata.namespace={ns},metadata.name=web"), "pod/web\n"),
        ("pods", format!("spec.nodeName={node},metadata.name=web"), "pod/web\n"),
        ("pods", "status.phase=Running,metadata.name!=once".to_owned(), "pod/web\n"),
        ("pods", "status.phase!=Running".to_owned(), ""),
        ("pods", "spec.restartPolicy=Never".to_owned(), "pod/once\n"),
        ("secrets", "type=Opaque".to_owned(), "secret/s\n"),
    ] {
        let line = format!("kubectl get {what} --field-selector '{selector}' -o name");
        assert_eq!(terminal.ok(&line), expected, "{what} {selector}");
    }
    for selector in [
        "involvedObject.name=web",
        &format!("involvedObject.uid={uid}"),
        "involvedObject.kind=Pod,reason=Scheduled",
        &format!("involvedObject.namespace={ns},type=Normal"),
    ] {
        let line = format!("kubectl get events --field-selector '{selector}' -o name");
        assert!(terminal.ok(&line).contains("event/web."), "{selector}");
        let none = terminal
            .ok("kubectl get events --field-selector type=Warning,reason=Scheduled -o name");
        assert_eq!(none, "");
    }
    let all = terminal.ok("kubectl get nodes --field-selector spec.unschedulable=false -o name");
    assert!(all.contains("node/"), "{all}");
    terminal.refuses(
        "kubectl get configmaps --field-selector data.key=1",
        &["field label not supported: data.key"],
    );
}

fn resource_versions(terminal: &Terminal) {
    make(terminal, &[("a", json!({}))]);
    let list = terminal.wire.get(&format!("{MAPS}?{OWN}"), JSON).json();
    let then = list["metadata"]["resourceVersion"].as_str().expect("a list has one").to_owned();
    make(terminal, &[("b", json!({}))]);
    for (query, expected) in [
        (String::new(), 2),
        (format!("&resourceVersion={then}&resourceVersionMatch=Exact"), 1),
        (format!("&resourceVersion={then}&resourceVersionMatch=Exact&limit=500"), 1),
        (format!("&resourceVersion={then}&resourceVersionMatch=NotOlderThan"), 2),
        (format!("&resourceVersion={then}"), 2),
    ] {
        let told = terminal.wire.get(&format!("{MAPS}?{OWN}{query}"), JSON);
        let found = told.json()["items"].as_array().map(Vec::len);
        assert_eq!((told.code, found), (200, Some(expected)), "{query}: {}", told.text());
    }
    // Zero may be any time, so only that it is answered is known.
    assert_eq!(terminal.wire.get(&format!("{MAPS}?resourceVersion=0"), JSON).code, 200);
    for (query, code) in [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=Nearly", 422),
        ("resourceVersion=x", 400),
        ("resourceVersion=999999999", 504),
    ] {
        let told = terminal.wire.get(&format!("{MAPS}?{query}"), JSON);
        assert_eq!(told.code, code, "{query}: {}", told.text());
        if code == 504 {
            let status = told.json();
            let message = status["message"].as_str().unwrap_or_default();
            assert!(message.contains("Too large resource version"), "{message}");
            assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        }
    }
}
