//! How clients learn which kinds a server has.

use http::Method;
use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::wire::{DISCOVERY, JSON};
use crate::{Entry, Needs};

pub const TRIALS: &[Entry] = &[
    ("aggregated_with_its_type_and_tag", Needs::Nothing, aggregated),
    ("drain_evicts_as_evictions_are_listed", Needs::Nothing, eviction_is_listed),
    ("old_lists_are_still_asked_for", Needs::Nothing, old_lists),
    ("names_and_verbs_of_kinds", Needs::Nothing, names),
    ("versions_and_health", Needs::Nothing, versions),
];

fn aggregated(terminal: &Terminal) {
    let spoken = terminal.spoken("api-resources");
    for path in ["/api?", "/apis?"] {
        let asked = spoken.sent("GET", path);
        assert!(asked.contains(&format!("Accept: {}", DISCOVERY.replace(" ", ""))), "{asked}");
    }
    let form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    spoken.has(&format!("Content-Type: {form}"));
    for path in ["/api", "/apis"] {
        let told = terminal.wire.get(path, DISCOVERY);
        assert_eq!((told.code, told.header("content-type")), (200, form));
        let known = [("accept", DISCOVERY), ("if-none-match", told.header("etag"))];
        let again = terminal.wire.ask(Method::GET, path, &known, b"");
        assert_eq!((again.code, again.body.len()), (304, 0), "{path}");
    }
    terminal.shows("kubectl get --raw /api", &["\"kind\":\"APIVersions\""]);
    terminal.shows("kubectl get --raw /apis", &["\"kind\":\"APIGroupList\""]);
}

fn old_lists(terminal: &Terminal) {
    let spoken = terminal.spoken("auth can-i create pods");
    spoken.sent("GET", "/api/v1'");
    let list = terminal.wire.get("/api/v1", JSON).json();
    assert_eq!((&list["kind"], &list["groupVersion"]), (&json!("APIResourceList"), &json!("v1")));
    let list = terminal.wire.get("/apis/apps/v1", JSON).json();
    assert_eq!(list["groupVersion"], "apps/v1");
    let resources = list["resources"].as_array().expect("there are some");
    assert!(resources.iter().any(|one| one["name"] == "deployments/scale"));
}

fn eviction_is_listed(terminal: &Terminal) {
    let list = terminal.wire.get("/api/v1", JSON).json();
    let resources = list["resources"].as_array().expect("there are some");
    let eviction = resources.iter().find(|one| one["name"] == "pods/eviction");
    let eviction = eviction.expect("it is listed");
    assert_eq!((&eviction["group"], &eviction["version"]), (&json!("policy"), &json!("v1")));
    terminal.ok("kubectl run web --image=nginx --labels=own=$NS");
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    let node = terminal.ok("kubectl get pod web -o jsonpath='{.spec.nodeName}'");
    // Nobody else's pods are touched, and no node is cordoned.
    let line = format!(
        "drain {node} --pod-selector=own={} --force --ignore-daemonsets --dry-run=server",
        terminal.ns
    );
    let spoken = terminal.spoken(&line);
    spoken.sent("GET", "/api/v1'");
    let asked = spoken.sent("POST", "/pods/web/eviction");
    assert!(asked.contains("Content-Type: application/json"), "{asked}");
    spoken.has(&format!("node/{node} drained (server dry run)"));
    assert!(!spoken.requests().any(|line| line.starts_with("DELETE")));
    terminal.ok("kubectl get pod web");
}

fn names(terminal: &Terminal) {
    let told = terminal.ok("kubectl api-resources --no-headers -o wide");
    let line = |plural: &str| {
        let mut lines = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|words| words[0] == plural).unwrap_or_else(|| panic!("{plural}: {told}"))
    };
    assert_eq!(line("pods")[..5], ["pods", "po", "v1", "true", "Pod"]);
    let verbs = "create,delete,deletecollection,get,list,patch,update,watch";
    assert_eq!(line("deployments")[1..], ["deploy", "apps/v1", "true", "Deployment", verbs, "all"]);
    assert_eq!(line("nodes")[1..5], ["no", "v1", "false", "Node"]);
    assert_eq!(line("bindings")[1..], ["v1", "true", "Binding", "create"]);
    terminal.ok("kubectl create deployment web --image=nginx");
    for word in ["deploy", "deployments", "deployment", "deployment.apps", "deployments.v1.apps"] {
        assert_eq!(terminal.ok(&format!("kubectl get {word} -o name")), "deployment.apps/web\n");
    }
    terminal.shows("kubectl get all", &["deployment.apps/web"]);
    terminal.refuses("kubectl get nothing", &["doesn't have a resource type \"nothing\""]);
    let list = terminal.wire.get("/apis", DISCOVERY).json();
    let scale = |groups: &Value| -> Option<Value> {
        let groups = groups["items"].as_array()?;
        let apps = groups.iter().find(|group| group["metadata"]["name"] == "apps")?;
        let kinds = apps["versions"][0]["resources"].as_array()?;
        let kind = kinds.iter().find(|kind| kind["resource"] == "deployments")?;
        let parts = kind["subresources"].as_array()?;
        parts.iter().find(|part| part["subresource"] == "scale").cloned()
    };
    let scale = scale(&list).expect("deployments have a scale");
    assert_eq!(
        scale["responseKind"],
        json!({"group": "autoscaling", "kind": "Scale", "version": "v1"})
    );
}

fn versions(terminal: &Terminal) {
    // An older kubectl warns of its age beside.
    let told = terminal.ok("kubectl version -o json 2>/dev/null");
    let told: Value = serde_json::from_str(&told).expect("kubectl prints JSON");
    for part in ["major", "minor", "gitVersion", "platform"] {
        assert!(told["serverVersion"][part].is_string(), "{part}: {told}");
    }
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(terminal.ok(&format!("kubectl get --raw {path}")), "ok");
        terminal.shows(&format!("kubectl get --raw '{path}?verbose'"), &["[+]ping ok"]);
        assert_eq!(terminal.ok(&format!("kubectl get --raw {path}/ping")), "ok");
    }
    terminal.refuses("kubectl get --raw /livez/nothing", &["NotFound"]);
}
