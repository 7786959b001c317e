//! In which languages clients and server speak, and how refusals and warnings look.

use http::Method;
use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::wire::{JSON, PROTOBUF, TABLE};
use crate::{Entry, Needs};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

pub const TRIALS: &[Entry] = &[
    ("answers_in_protobuf_are_read", Needs::Nothing, answers_in_protobuf),
    ("bodies_in_json_yaml_and_protobuf", Needs::Nothing, bodies),
    ("kubectl_sends_protobuf", Needs::Nothing, kubectl_sends_protobuf),
    ("refusals_are_statuses", Needs::Nothing, refusals),
    ("refused_for_now_says_when_to_come_back", Needs::Nothing, too_many),
    ("unknown_forms_are_refused", Needs::Nothing, unknown_forms),
    ("warnings_are_printed", Needs::Nothing, warnings),
];

fn bodies(terminal: &Terminal) {
    let wire = &terminal.wire;
    let told = wire.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"key": "1"}}));
    assert_eq!(told.code, 201);
    let yaml = b"metadata: {name: b}\ndata: {key: '1'}\n";
    let told = wire.ask(Method::POST, MAPS, &[("content-type", "application/yaml")], yaml);
    assert_eq!((told.code, &told.json()["data"]), (201, &json!({"key": "1"})));
    // What is read in protobuf can be written back in protobuf.
    let read = wire.get(&format!("{MAPS}/b"), PROTOBUF);
    assert_eq!((read.header("content-type"), &read.body[..4]), (PROTOBUF, &b"k8s\0"[..]));
    let headers = [("content-type", PROTOBUF), ("accept", JSON)];
    let told = wire.ask(Method::PUT, &format!("{MAPS}/b"), &headers, &read.body);
    assert_eq!((told.code, &told.json()["data"]), (200, &json!({"key": "1"})));
    let yaml = wire.get(&format!("{MAPS}/b"), "application/yaml");
    assert!(yaml.text().contains("kind: ConfigMap"), "{}", yaml.text());
}

fn kubectl_sends_protobuf(terminal: &Terminal) {
    let says = |line: &str, path: &str| {
        let spoken = terminal.spoken(line);
        let asked = spoken.sent("POST", path);
        assert!(asked.contains(&format!("Content-Type: {PROTOBUF}")), "{asked}");
        // `k8s` and a zero byte begin each body.
        spoken.has("00000000  6b 38 73 00");
        spoken
    };
    says("create deployment web --image=nginx --replicas=2", "/deployments?");
    says("create configmap a --from-literal=key=1", "/configmaps?");
    says("autoscale deployment web --max=3", "/horizontalpodautoscalers?")
        .has("horizontalpodautoscaler.autoscaling/web autoscaled");
    let token = says("create token default", "/serviceaccounts/default/token");
    token.has("eyJ");
    says("auth can-i create pods", "/selfsubjectaccessreviews").has("yes");
    says("auth can-i --list", "/selfsubjectrulesreviews").has("[*]");
    says("auth whoami", "/selfsubjectreviews").has("Username");
    let spoken = terminal.spoken("delete configmap a --grace-period=5");
    let asked = spoken.sent("DELETE", "/configmaps/a");
    assert!(asked.contains("Content-Type: "), "{asked}");
    spoken.has("configmap \"a\" deleted");
    // Files go as JSON.
    terminal.write("map.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}");
    let spoken = terminal.spoken("create -f map.yaml");
    let asked = spoken.sent("POST", "/configmaps?");
    assert!(asked.contains("Content-Type: application/json"), "{asked}");
    let made = terminal.object("deployment web");
    assert_eq!(made["spec"]["replicas"], 2);
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["image"], "nginx");
}

fn answers_in_protobuf(terminal: &Terminal) {
    terminal.ok("kubectl create deployment web --image=nginx --replicas=2 --port=80");
    terminal.ok("kubectl rollout status deployment web --timeout=60s");
    let spoken = terminal.spoken("describe deployment web");
    let accept = format!("Accept: {PROTOBUF}");
    let mut asked = spoken.requests().filter(|line| line.contains("/deployments/web'"));
    assert!(asked.any(|line| line.contains(&accept)), "{}", spoken.text);
    spoken.has("Selector:               app=web");
    spoken.has("Replicas:               2 desired");
    let spoken = terminal.spoken("events");
    assert!(spoken.sent("GET", "/events?").contains(&format!("Accept: {PROTOBUF}")));
    spoken.has("ScalingReplicaSet");
    // One may read the same in JSON.
    let list = terminal.wire.get(&format!("{MAPS}?limit=1"), &format!("{PROTOBUF},{JSON}"));
    assert_eq!((list.code, list.header("content-type")), (200, PROTOBUF));
    let missing = terminal.wire.get(&format!("{MAPS}/none"), PROTOBUF);
    assert_eq!((missing.code, missing.header("content-type")), (404, PROTOBUF));
    let first = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{TABLE}");
    let table = terminal.wire.get(MAPS, &first);
    assert!(table.code == 200);
}

fn unknown_forms(terminal: &Terminal) {
    let wire = &terminal.wire;
    assert_eq!(wire.get(MAPS, "text/html").reason(), (406, "NotAcceptable".to_owned()));
    let told = wire.ask(Method::POST, MAPS, &[("content-type", "text/html")], b"x");
    assert_eq!(told.reason(), (415, "UnsupportedMediaType".to_owned()));
    let told = wire.patch(&format!("{MAPS}/kube-root-ca.crt"), "mad-patch+json", &json!({}));
    assert_eq!(told.reason(), (415, "UnsupportedMediaType".to_owned()));
    let told = wire.ask(Method::POST, MAPS, &[("content-type", PROTOBUF)], b"k8s");
    assert_eq!(told.code, 400, "{}", told.text());
}

fn refusals(terminal: &Terminal) {
    let map = json!({"metadata": {"name": "a"}});
    let wire = &terminal.wire;
    wire.made(MAPS, &map);
    let told = wire.post(MAPS, &map);
    assert_eq!(told.reason(), (409, "AlreadyExists".to_owned()));
    assert_eq!(told.json()["details"], json!({"kind": "configmaps", "name": "a"}));
    let stale = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
    assert_eq!(wire.put(&format!("{MAPS}/a"), &stale).reason(), (409, "Conflict".to_owned()));
    let missing = wire.get(&format!("{MAPS}/none"), JSON);
    assert_eq!(missing.reason(), (404, "NotFound".to_owned()));
    assert_eq!(missing.json()["apiVersion"], "v1");
    let told = wire.post(MAPS, &json!({"metadata": {"name": "A_b"}}));
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
    let cause = &told.json()["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("FieldValueInvalid"), &json!("metadata.name"))
    );
    let line = "kubectl get secrets --as=nobody";
    terminal.refuses(
        line,
        &["Error from server (Forbidden)", "User \"nobody\" cannot list resource \"secrets\""],
    );
    terminal.refuses(
        "kubectl create configmap a",
        &["error: failed to create configmap: configmaps \"a\" already exists"],
    );
    terminal.refuses(
        "kubectl get pod none",
        &["Error from server (NotFound): pods \"none\" not found"],
    );
    terminal.write("pod.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: A, image: x}, {name: b}]}}");
    // kubectl shows each cause on a line of its own.
    terminal.refuses(
        "kubectl create -f pod.yaml",
        &[
            "The Pod \"a\" is invalid:",
            "* spec.containers[0].name: Invalid value: \"A\"",
            "* spec.containers[1].image: Required value",
        ],
    );
    let watch = wire.get(&format!("{MAPS}?watch=true&resourceVersion=x"), JSON);
    assert!([400, 422].contains(&watch.code), "{}", watch.text());
}

const BUDGET: &str = "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web},
  spec: {minAvailable: 1, selector: {matchLabels: {run: web}}}}";

fn too_many(terminal: &Terminal) {
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok_with("kubectl apply -f -", BUDGET);
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    // What a controller counts, where there is one.
    let counted = json!({"status": {"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 1,
        "expectedPods": 1, "disruptionsAllowed": 0}});
    let path = "/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets/web/status";
    assert_eq!(terminal.wire.patch(path, "merge-patch+json", &counted).code, 200);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "web", "namespace": terminal.ns}});
    let told = terminal.wire.post("/api/v1/namespaces/{ns}/pods/web/eviction", &eviction);
    assert_eq!(told.reason(), (429, "TooManyRequests".to_owned()));
    let status = told.json();
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
    let node = terminal.ok("kubectl get pod web -o jsonpath='{.spec.nodeName}'");
    let line = format!(
        "kubectl drain {node} --pod-selector=run=web --force --ignore-daemonsets --dry-run=server --timeout=2s"
    );
    // Nothing is changed, and kubectl tries again until its time is up.
    terminal.refuses(&line, &["Cannot evict pod as it would violate the pod's disruption budget"]);
    terminal.ok("kubectl get pod web");
}

fn warnings(terminal: &Terminal) {
    let odd = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dato: {}}";
    terminal.write("odd.yaml", odd);
    let spoken = terminal.spoken("create -f odd.yaml --validate=warn");
    assert!(spoken.sent("POST", "/configmaps?").contains("fieldValidation=Warn"));
    spoken.has("Warning: 299 - \"unknown field \\\"dato\\\"\"");
    terminal.shows(
        "kubectl apply -f odd.yaml --validate=warn",
        &["Warning: unknown field \"dato\"", "configmap/a configured"],
    );
    let told = terminal.ok("kubectl apply -f odd.yaml --validate=ignore");
    assert!(!told.contains("dato"), "{told}");
    terminal
        .refuses("kubectl apply -f odd.yaml", &["strict decoding error: unknown field \"dato\""]);
    let told = terminal.wire.get("/api/v1/namespaces/{ns}/endpoints", JSON);
    let version: Value = terminal.wire.get("/version", JSON).json();
    let minor = version["minor"].as_str().unwrap_or_default().trim_end_matches('+');
    // Endpoints are deprecated from this version on.
    if minor.parse::<u32>().is_ok_and(|minor| minor >= 33) {
        let expected =
            "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
        assert_eq!(told.header("warning"), expected);
        terminal.shows("kubectl get endpoints", &["Warning: v1 Endpoints is deprecated in v1.33+"]);
    }
}
