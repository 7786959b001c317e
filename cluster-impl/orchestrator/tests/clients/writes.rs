//! Patches, applies, and the options of writes.

use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::{Entry, Needs};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const STRATEGIC: &str = "Content-Type: application/strategic-merge-patch+json";
const MERGE: &str = "Content-Type: application/merge-patch+json";

pub const TRIALS: &[Entry] = &[
    ("apply_changes_what_it_said_before", Needs::Nothing, client_side_apply),
    ("collections_are_deleted", Needs::Nothing, delete_collection),
    ("custom_kinds_take_no_strategic_patches", Needs::Nothing, custom_patches),
    ("deletions_propagate_as_asked", Needs::Nothing, propagation),
    ("dry_runs_leave_nothing", Needs::Nothing, dry_run),
    ("fields_are_validated_as_asked", Needs::Nothing, field_validation),
    ("generations_are_observed", Needs::Nothing, generation),
    ("json_patches", Needs::Nothing, json_patch),
    ("managers_of_every_write", Needs::Nothing, managers),
    ("merge_patches", Needs::Nothing, merge_patch),
    ("names_are_generated", Needs::Nothing, generate_name),
    ("nodes_are_cordoned_and_tainted", Needs::Dev, nodes),
    ("preconditions_hold", Needs::Nothing, preconditions),
    ("server_side_apply", Needs::Nothing, server_side_apply),
    ("server_side_apply_takes_over", Needs::Nothing, migration),
    ("strategic_directives", Needs::Nothing, directives),
    ("strategic_patches_of_kubectl", Needs::Nothing, strategic),
];

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: 'web:1', env: [{name: A, value: '1'}, {name: B, value: '2'}]}
      - {name: side, image: 'side:1'}
";

fn strategic(terminal: &Terminal) {
    terminal.write("web.yaml", WEB);
    terminal.ok("kubectl apply -f web.yaml");
    let says = |line: &str, path: &str, told: &str| {
        let spoken = terminal.spoken(line);
        let asked = spoken.sent("PATCH", path);
        assert!(asked.contains(STRATEGIC), "{asked}");
        spoken.has(told);
    };
    let path = "/deployments/web";
    terminal.write("web.yaml", &WEB.replace("web:1", "web:2"));
    says("apply -f web.yaml", path, "deployment.apps/web configured");
    says("set image deployment/web main=web:3", path, "image updated");
    says("set env deployment/web --containers=main C=3", path, "env updated");
    says("set resources deployment/web --limits=cpu=1", path, "resource requirements updated");
    says("rollout restart deployment/web", path, "restarted");
    says("rollout pause deployment/web", path, "paused");
    says("rollout resume deployment/web", path, "resumed");
    says("patch deployment web -p '{\"spec\":{\"replicas\":0}}'", path, "patched");
    let web = terminal.object("deployment web");
    let pod = &web["spec"]["template"]["spec"]["containers"];
    assert_eq!((&pod[0]["image"], &pod[1]["image"]), (&json!("web:3"), &json!("side:1")));
    assert_eq!(pod[0]["env"].as_array().map(Vec::len), Some(3));
    let annotations = &web["spec"]["template"]["metadata"]["annotations"];
    assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string());
    terminal.ok("kubectl rollout history deployment/web");
}

fn nodes(terminal: &Terminal) {
    let own = terminal.with_short_history();
    let terminal = own.terminal();
    let says = |line: &str, told: &str| {
        let spoken = terminal.spoken(line);
        let asked = spoken.sent("PATCH", "/api/v1/nodes/node-1");
        assert!(asked.contains(STRATEGIC), "{asked}");
        spoken.has(told);
    };
    says("cordon node-1", "node/node-1 cordoned");
    terminal.shows("kubectl get nodes", &["Ready,SchedulingDisabled"]);
    says("uncordon node-1", "node/node-1 uncordoned");
    says("taint node node-1 a=b:NoSchedule", "node/node-1 tainted");
    says("taint node node-1 a:NoSchedule-", "node/node-1 untainted");
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    terminal.shows("kubectl drain node-1 --force", &["pod/web evicted", "node/node-1 drained"]);
    terminal.refuses("kubectl get pod web", &["NotFound"]);
}

fn directives(terminal: &Terminal) {
    let wire = &terminal.wire;
    terminal.ok_with("kubectl create -f -", WEB);
    let path = "/apis/apps/v1/namespaces/{ns}/deployments/web";
    let patch = |body: Value| {
        let told = wire.patch(path, "strategic-merge-patch+json", &body);
        assert_eq!(told.code, 200, "{body}: {}", told.text());
        told.json()
    };
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let names = |object: &Value, at: &str| -> Vec<String> {
        let list = object.pointer(at).and_then(Value::as_array).expect("it is a list");
        list.iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let containers = "/spec/template/spec/containers";
    let told =
        patch(pod(json!({"$setElementOrder/containers": [{"name": "side"}, {"name": "main"}],
        "containers": [{"name": "side", "image": "side:2"}]})));
    assert_eq!(names(&told, containers), ["side", "main"]);
    let env = json!({"name": "main", "env": [{"name": "A", "$patch": "delete"}]});
    let told = patch(pod(json!({"containers": [env]})));
    assert_eq!(names(&told, "/spec/template/spec/containers/1/env"), ["B"]);
    let told =
        patch(pod(json!({"containers": [{"name": "new", "image": "n"}, {"$patch": "replace"}]})));
    assert_eq!(names(&told, containers), ["new"]);
    let told = patch(json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}));
    assert_eq!(told["spec"]["strategy"], json!({"type": "Recreate"}));
    let keep = json!({"metadata": {"finalizers": ["example.com/a", "example.com/b"]}});
    patch(keep);
    let told = patch(json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}));
    assert_eq!(told["metadata"]["finalizers"], json!(["example.com/b"]));
    let told =
        patch(json!({"metadata": {"finalizers": null, "labels": {"$patch": "replace", "a": "b"}}}));
    assert_eq!(told["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(told["metadata"].get("finalizers"), None);
}

fn client_side_apply(terminal: &Terminal) {
    terminal.write("web.yaml", WEB);
    terminal.shows("kubectl apply -f web.yaml", &["deployment.apps/web created"]);
    terminal.shows("kubectl apply -f web.yaml", &["deployment.apps/web unchanged"]);
    terminal.shows("kubectl diff -f web.yaml", &[]);
    let less = WEB.replace(", {name: B, value: '2'}", "").replace("replicas: 1", "replicas: 3");
    terminal.write("web.yaml", &less);
    terminal.refuses("kubectl diff -f web.yaml", &["-  replicas: 1", "+  replicas: 3", "name: B"]);
    // Somebody else's field stays.
    terminal.ok("kubectl label deployment web other=yes");
    terminal.shows("kubectl apply -f web.yaml", &["deployment.apps/web configured"]);
    let web = terminal.object("deployment web");
    assert_eq!(web["metadata"]["labels"], json!({"other": "yes"}));
    assert_eq!(web["spec"]["replicas"], 3);
    let env = &web["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(*env, json!([{"name": "A", "value": "1"}]));
    terminal.shows("kubectl apply view-last-applied -f web.yaml", &["replicas: 3"]);
    // What is no more in the files goes, with a label that nobody else has.
    let line = "kubectl apply -f - --prune -l set=$NS --prune-allowlist=core/v1/ConfigMap";
    let maps = "{apiVersion: v1, kind: List, items: [
      {apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {set: $NS}}},
      {apiVersion: v1, kind: ConfigMap, metadata: {name: b, labels: {set: $NS}}}]}"
        .replace("$NS", &terminal.ns);
    terminal.ok_with(line, &maps);
    let one = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {set: $NS}}}";
    let told = terminal.ok_with(line, &one.replace("$NS", &terminal.ns));
    assert!(
        told.contains("configmap/b pruned") && told.contains("configmap/a unchanged"),
        "{told}"
    );
}

/// A kind of this trial alone; its name.
fn define(terminal: &Terminal) -> String {
    let group = format!("{}.example.com", terminal.ns);
    let text = format!(
        "{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: cars.{group}}},
          spec: {{group: {group}, scope: Namespaced, names: {{plural: cars, kind: Car, singular: car}},
            versions: [{{name: v1, served: true, storage: true, subresources: {{status: {{}}}}, schema: {{openAPIV3Schema:
              {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}]}}}}"
    );
    terminal.ok_with("kubectl create -f -", &text);
    let name = format!("cars.{group}");
    terminal.ok(&format!("kubectl wait --for=condition=established crd/{name} --timeout=60s"));
    name
}

fn custom_patches(terminal: &Terminal) {
    let name = define(terminal);
    let car = format!(
        "{{apiVersion: {}.example.com/v1, kind: Car, metadata: {{name: one}}, spec: {{color: red}}}}",
        terminal.ns
    );
    terminal.write("car.yaml", &car);
    terminal.ok("kubectl apply -f car.yaml");
    let path = format!("/apis/{0}.example.com/v1/namespaces/{0}/cars/one", terminal.ns);
    let told = terminal.wire.patch(&path, "strategic-merge-patch+json", &json!({}));
    assert_eq!(told.reason(), (415, "UnsupportedMediaType".to_owned()));
    terminal.write("car.yaml", &car.replace("red", "blue"));
    let spoken = terminal.spoken("apply -f car.yaml");
    assert!(spoken.sent("PATCH", "/cars/one").contains(MERGE));
    spoken.has("one configured");
    terminal.refuses(
        &format!("kubectl patch {name} one -p '{{\"spec\":{{\"color\":\"x\"}}}}'"),
        &["application/strategic-merge-patch+json", "not supported"],
    );
    terminal.ok(&format!(
        "kubectl patch {name} one --type=merge -p '{{\"spec\":{{\"color\":\"x\"}}}}'"
    ));
    terminal.ok(&format!(
        "kubectl patch {name} one --subresource=status --type=merge -p '{{\"status\":{{\"at\":1}}}}'"
    ));
    let car = terminal.object(&format!("{name} one"));
    assert_eq!((&car["spec"], &car["status"]), (&json!({"color": "x"}), &json!({"at": 1})));
    terminal.ok(&format!("kubectl delete crd {name}"));
}

fn merge_patch(terminal: &Terminal) {
    terminal.ok("kubectl create deployment web --image=nginx");
    for (line, path) in [
        ("label deployment web a=b", "/deployments/web"),
        ("annotate deployment web a=b", "/deployments/web"),
        ("scale deployment web --replicas=2", "/deployments/web/scale"),
    ] {
        let spoken = terminal.spoken(line);
        let asked = spoken.sent("PATCH", path);
        assert!(asked.contains(MERGE), "{asked}");
    }
    let line = "kubectl patch deployment web --type=merge -p '{\"metadata\":{\"labels\":{\"a\":null,\"c\":\"d\"}}}'";
    terminal.ok(line);
    let web = terminal.object("deployment web");
    assert_eq!(web["metadata"]["labels"], json!({"app": "web", "c": "d"}));
    assert_eq!(
        (&web["metadata"]["annotations"]["a"], &web["spec"]["replicas"]),
        (&json!("b"), &json!(2))
    );
    terminal.ok("kubectl label deployment web c-");
    terminal.refuses("kubectl label deployment web app=x", &["already has a value (web)"]);
    terminal.refuses(
        "kubectl scale deployment web --current-replicas=7 --replicas=1",
        &["Expected replicas to be 7, was 2"],
    );
}

fn json_patch(terminal: &Terminal) {
    terminal.ok("kubectl create configmap a --from-literal=a=1 --from-literal=b=2");
    let patch = |ops: &str| format!("patch configmap a --type=json -p '{ops}'");
    let spoken = terminal.spoken(&patch(
        r#"[{"op":"test","path":"/data/a","value":"1"},{"op":"replace","path":"/data/a","value":"3"},{"op":"remove","path":"/data/b"},{"op":"add","path":"/data/c","value":"4"},{"op":"copy","from":"/data/c","path":"/data/d"},{"op":"move","from":"/data/c","path":"/data/e"}]"#,
    ));
    assert!(spoken.sent("PATCH", "/configmaps/a").contains("application/json-patch+json"));
    assert_eq!(terminal.object("configmap a")["data"], json!({"a": "3", "d": "4", "e": "4"}));
    for ops in [
        r#"[{"op":"test","path":"/data/a","value":"9"}]"#,
        r#"[{"op":"remove","path":"/data/none"}]"#,
        r#"[{"op":"replace","path":"/data/none","value":"1"}]"#,
    ] {
        terminal.refuses(&format!("kubectl {}", patch(ops)), &["The request is invalid"]);
    }
}

fn owners(object: &Value) -> Vec<String> {
    let fields = object["metadata"]["managedFields"].as_array().expect("every write is noted");
    let names = fields.iter().map(|one| {
        let [manager, operation, part] = ["manager", "operation", "subresource"]
            .map(|field| one[field].as_str().unwrap_or_default());
        format!("{manager}/{operation}/{part}")
    });
    names.collect()
}

fn server_side_apply(terminal: &Terminal) {
    terminal.write("web.yaml", WEB);
    let spoken = terminal.spoken("apply --server-side -f web.yaml");
    let asked = spoken.sent("PATCH", "/deployments/web?");
    for part in [
        "application/apply-patch+yaml",
        "fieldManager=kubectl",
        "fieldValidation=Strict",
        "force=false",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    // It says YAML, and is JSON.
    spoken.has("{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\"");
    assert_eq!(terminal.object("deployment web")["spec"]["replicas"], 1);
    terminal.ok("kubectl scale deployment web --replicas=2");
    terminal.refuses(
        "kubectl apply --server-side -f web.yaml",
        &[
            "Apply failed with 1 conflict",
            "with subresource \"scale\" using apps/v1: .spec.replicas",
        ],
    );
    let path = "/apis/apps/v1/namespaces/{ns}/deployments/web";
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 5}});
    let told =
        terminal.wire.patch(&format!("{path}?fieldManager=other"), "apply-patch+yaml", &body);
    assert_eq!(told.reason(), (409, "Conflict".to_owned()));
    let cause = &told.json()["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("FieldManagerConflict"), &json!(".spec.replicas"))
    );
    let told = terminal.wire.patch(path, "apply-patch+yaml", &body);
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
    assert!(told.text().contains("is required for apply patch"), "{}", told.text());
    let told = terminal.wire.patch(
        &format!("{path}?fieldManager=other&force=true"),
        "apply-patch+yaml",
        &body,
    );
    assert_eq!((told.code, &told.json()["spec"]["replicas"]), (200, &json!(5)));
    terminal.ok("kubectl apply --server-side --force-conflicts -f web.yaml");
    // Who no longer names a field gives it up, and it goes if nobody else has it.
    terminal.write("web.yaml", &WEB.replace(", {name: B, value: '2'}", ""));
    terminal.ok("kubectl apply --server-side -f web.yaml");
    let web = terminal.object("deployment web");
    let env = &web["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(*env, json!([{"name": "A", "value": "1"}]));
    terminal.write("web.yaml", &WEB.replace("replicas:", "replica:"));
    terminal.refuses(
        "kubectl apply --server-side -f web.yaml",
        &[".spec.replica: field not declared in schema"],
    );
}

fn migration(terminal: &Terminal) {
    terminal.write(
        "map.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: '1', b: '1'}}",
    );
    terminal.ok("kubectl apply -f map.yaml");
    assert_eq!(owners(&terminal.object("configmap a")), ["kubectl-client-side-apply/Update/"]);
    terminal.write(
        "map.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: '2'}}",
    );
    terminal.ok("kubectl apply --server-side -f map.yaml");
    let map = terminal.object("configmap a");
    // What the client's side had, the server's side has now: `b` went, as it is no longer named.
    assert_eq!(map["data"], json!({"a": "2"}));
    let owners = owners(&map);
    assert!(owners.contains(&"kubectl/Apply/".to_owned()), "{owners:?}");
    assert!(!owners.contains(&"kubectl-client-side-apply/Update/".to_owned()), "{owners:?}");
    // Whether they are shown is up to the client.
    assert!(!terminal.ok("kubectl get configmap a -o yaml").contains("managedFields"));
    assert!(
        terminal
            .ok("kubectl get --raw /api/v1/namespaces/$NS/configmaps/a")
            .contains("managedFields")
    );
}

fn managers(terminal: &Terminal) {
    terminal.ok("kubectl create deployment web --image=nginx");
    terminal.ok("kubectl set image deployment/web nginx=nginx:1");
    terminal.ok("kubectl label deployment web a=b");
    terminal.ok("kubectl annotate deployment web a=b --field-manager=me");
    terminal.ok("kubectl scale deployment web --replicas=2");
    // Without the version that was read: a controller may write in between.
    let told = terminal.ok(
        "kubectl get deployment web -o json | sed '/\"resourceVersion\":/d' | kubectl replace -f -",
    );
    assert!(told.contains("replaced"), "{told}");
    let web = terminal.object("deployment web");
    let owners = owners(&web);
    for owner in [
        "kubectl-create/Update/",
        "kubectl-set/Update/",
        "kubectl-label/Update/",
        "me/Update/",
        "/Update/scale",
    ] {
        assert!(owners.iter().any(|one| one.ends_with(owner)), "{owner} is not among {owners:?}");
    }
    for owner in web["metadata"]["managedFields"].as_array().expect("there are some") {
        assert_eq!(
            (&owner["fieldsType"], &owner["apiVersion"]),
            (&json!("FieldsV1"), &json!("apps/v1"))
        );
        assert!(owner["time"].is_string() && owner["fieldsV1"].is_object());
    }
    let told = terminal.wire.post(&format!("{MAPS}?fieldManager={}", "x".repeat(129)), &json!({}));
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
}

fn dry_run(terminal: &Terminal) {
    terminal.write("web.yaml", WEB);
    let spoken = terminal.spoken("create -f web.yaml --dry-run=server");
    assert!(spoken.sent("POST", "/deployments?").contains("dryRun=All"));
    spoken.has("deployment.apps/web created (server dry run)");
    terminal.refuses("kubectl get deployment web", &["NotFound"]);
    terminal.ok("kubectl apply -f web.yaml");
    let before = terminal.object("deployment web")["spec"].clone();
    for line in [
        "apply -f web.yaml --dry-run=server",
        "apply --server-side -f web.yaml --dry-run=server --force-conflicts",
        "set image deployment/web main=x --dry-run=server",
        "scale deployment web --replicas=7 --dry-run=server",
        "patch deployment web -p '{\"spec\":{\"replicas\":9}}' --dry-run=server",
        "delete deployment web --dry-run=server",
        "label deployment web x=y --dry-run=server",
    ] {
        let told = terminal.ok(&format!("kubectl {line}"));
        // kubectl's own `patch` does not say that it was for nothing.
        let is_told = told.contains("(server dry run)") || line.starts_with("patch");
        assert!(is_told, "{line}: {told}");
    }
    let after = terminal.object("deployment web");
    assert_eq!(after["spec"], before);
    assert_eq!(after["metadata"].get("labels"), None);
    let told =
        terminal.wire.post(&format!("{MAPS}?dryRun=Some"), &json!({"metadata": {"name": "a"}}));
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
}

fn field_validation(terminal: &Terminal) {
    let wire = &terminal.wire;
    let body = json!({"metadata": {"name": "a"}, "dato": {}});
    let ask = |mode: &str, body: &[u8]| {
        let path = format!("{MAPS}?fieldValidation={mode}&dryRun=All");
        wire.ask(http::Method::POST, &path, &[("content-type", "application/json")], body)
    };
    let odd = body.to_string();
    assert_eq!(ask("Ignore", odd.as_bytes()).header("warning"), "");
    assert_eq!(
        ask("Warn", odd.as_bytes()).header("warning"),
        "299 - \"unknown field \\\"dato\\\"\""
    );
    assert_eq!(ask("Strict", odd.as_bytes()).reason(), (400, "BadRequest".to_owned()));
    assert_eq!(ask("Sometimes", odd.as_bytes()).reason(), (422, "Invalid".to_owned()));
    let twice = br#"{"metadata":{"name":"a"},"data":{"a":"1","a":"2"}}"#;
    assert!(ask("Strict", twice).text().contains("duplicate field \\\"data.a\\\""));
    assert_eq!(ask("Warn", twice).header("warning"), "299 - \"duplicate field \\\"data.a\\\"\"");
    assert_eq!(ask("Ignore", twice).json()["data"]["a"], "2");
    // A patch is checked with what comes of it.
    wire.made(MAPS, &json!({"metadata": {"name": "b"}}));
    let told = wire.patch(
        &format!("{MAPS}/b?fieldValidation=Strict"),
        "merge-patch+json",
        &json!({"dato": 1}),
    );
    assert_eq!(told.reason(), (422, "Invalid".to_owned()), "{}", told.text());
    assert!(told.text().contains("strict decoding error: unknown field"), "{}", told.text());
}

fn preconditions(terminal: &Terminal) {
    let wire = &terminal.wire;
    let map = wire.made(MAPS, &json!({"metadata": {"name": "a"}, "data": {"a": "1"}}));
    let path = format!("{MAPS}/a");
    assert_eq!(wire.put(&path, &map).code, 200);
    let mut changed = map.clone();
    changed["data"]["a"] = "2".into();
    assert_eq!(wire.put(&path, &changed).code, 200);
    assert_eq!(wire.put(&path, &changed).reason(), (409, "Conflict".to_owned()));
    changed["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(wire.put(&path, &changed).code, 200);
    changed["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    assert_eq!(wire.put(&path, &changed).reason(), (409, "Conflict".to_owned()));
    for wrong in [json!({"uid": "x"}), json!({"resourceVersion": "1"})] {
        let told = wire.delete(&path, &json!({"preconditions": wrong}));
        assert_eq!(told.reason(), (409, "Conflict".to_owned()), "{wrong}");
    }
    let told = wire.delete(&path, &json!({"preconditions": {"uid": map["metadata"]["uid"]}}));
    assert_eq!(told.code, 200, "{}", told.text());
    terminal.write("map.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}");
    terminal.refuses("kubectl replace -f map.yaml", &["Error from server (NotFound)"]);
}

fn generate_name(terminal: &Terminal) {
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: web-}}";
    let first = terminal.ok_with("kubectl create -f - -o name", map);
    let second = terminal.ok_with("kubectl create -f - -o name", map);
    assert!(first.starts_with("configmap/web-") && first.trim().len() == 19, "{first}");
    assert_ne!(first, second);
    let (code, told) = terminal.run("kubectl apply -f -", map);
    assert!(code != 0 && told.contains("cannot use generate name with apply"), "{told}");
}

fn propagation(terminal: &Terminal) {
    let children = |name: &str| {
        let line = format!("kubectl get replicasets,pods -l app={name} -o name");
        terminal.ok(&line).lines().count()
    };
    for (name, how) in [("back", "background"), ("fore", "foreground"), ("orphan", "orphan")] {
        terminal.ok(&format!("kubectl create deployment {name} --image=nginx"));
        terminal.ok(&format!("kubectl rollout status deployment/{name} --timeout=60s"));
        let spoken =
            terminal.spoken(&format!("delete deployment {name} --cascade={how} --timeout=60s"));
        let policy = format!("{}{}", how[..1].to_uppercase(), &how[1..]);
        spoken.has(&policy);
        terminal.refuses(&format!("kubectl get deployment {name}"), &["NotFound"]);
    }
    assert_eq!(children("fore"), 0, "a deployment goes after what it owns");
    terminal.ok("kubectl wait --for=delete rs,pod -l app=back --timeout=60s");
    assert_eq!(children("orphan"), 2);
    let set = terminal
        .ok("kubectl get rs -l app=orphan -o jsonpath='{.items[0].metadata.ownerReferences}'");
    assert_eq!(set, "");
    terminal.ok("kubectl delete rs -l app=orphan");
    terminal.ok("kubectl run slow --image=nginx");
    terminal.ok("kubectl run quick --image=nginx");
    terminal.ok("kubectl wait --for=condition=Ready pod/slow pod/quick --timeout=60s");
    let path = "/api/v1/namespaces/{ns}/pods/slow?gracePeriodSeconds=40";
    let told = terminal.wire.delete(path, &json!({})).json();
    assert_eq!(told["metadata"]["deletionGracePeriodSeconds"], 40);
    terminal.shows("kubectl delete pod quick --grace-period=0 --force", &["force deleted"]);
}

fn delete_collection(terminal: &Terminal) {
    let wire = &terminal.wire;
    for (name, keep) in [("a", "no"), ("b", "no"), ("c", "yes")] {
        wire.made(MAPS, &json!({"metadata": {"name": name, "labels": {"keep": keep}}}));
    }
    let told = wire.delete(&format!("{MAPS}?labelSelector=keep%3Dno&dryRun=All"), &json!({}));
    assert_eq!(told.code, 200);
    let told = wire.delete(&format!("{MAPS}?labelSelector=keep%3Dno"), &json!({}));
    assert_eq!(told.json()["kind"], "ConfigMapList", "{}", told.text());
    assert_eq!(terminal.ok("kubectl get configmaps -l keep -o name"), "configmap/c\n");
    // kubectl does it one by one.
    let spoken = terminal.spoken("delete configmaps -l keep=yes");
    spoken.sent("DELETE", "/configmaps/c");
}

fn generation(terminal: &Terminal) {
    terminal.ok("kubectl create deployment web --image=nginx");
    let of = |what: &str| terminal.object(what)["metadata"]["generation"].clone();
    terminal.ok("kubectl rollout status deployment/web --timeout=60s");
    // What controllers note of it is no wish of anybody.
    assert_eq!(of("deployment web"), 1);
    terminal.ok("kubectl annotate deployment web a=b");
    terminal.ok("kubectl patch deployment web --subresource=status --type=merge -p '{\"status\":{\"collisionCount\":1}}'");
    terminal.ok("kubectl scale deployment web --replicas=2");
    let now = of("deployment web");
    assert!(now.as_i64().is_some_and(|now| now >= 2), "{now}");
    terminal.ok(&format!(
        "kubectl wait --for=jsonpath='{{.status.observedGeneration}}'={now} deployment/web --timeout=60s"
    ));
    terminal.ok("kubectl rollout status deployment/web --timeout=60s");
    let web = terminal.object("deployment web");
    assert_eq!(web["metadata"]["generation"], web["status"]["observedGeneration"]);
}
