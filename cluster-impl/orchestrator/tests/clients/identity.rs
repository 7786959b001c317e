//! Who one is and what one may do; metrics, events, and what kubectl makes of answers by itself.

use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::wire::JSON;
use crate::{Entry, Needs};

pub const TRIALS: &[Entry] = &[
    ("describe_reads_what_belongs_to_it", Needs::Nothing, describe),
    ("events_are_one_thing_with_two_names", Needs::Nothing, events),
    ("keys_of_tokens_are_published", Needs::Nothing, keys),
    ("kubectl_prints_what_it_was_asked_to", Needs::Nothing, printing),
    ("plugins_are_programs", Needs::Nothing, plugins),
    ("reviews_of_access", Needs::Nothing, reviews),
    ("roles_and_bindings_are_reconciled", Needs::Nothing, reconcile),
    ("top_reads_metrics", Needs::Nothing, top),
    ("whoami", Needs::Nothing, whoami),
];

fn reviews(terminal: &Terminal) {
    terminal.ok("kubectl create serviceaccount robot");
    terminal.ok("kubectl create role reader --verb=get,list --resource=pods");
    terminal.ok("kubectl create rolebinding reader --role=reader --serviceaccount=$NS:robot");
    let robot = format!("--as=system:serviceaccount:{}:robot", terminal.ns);
    let spoken = terminal.spoken("auth can-i get pods");
    spoken.sent("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    assert_eq!(terminal.ok("kubectl auth can-i get pods"), "yes\n");
    assert_eq!(terminal.ok(&format!("kubectl auth can-i list pods {robot}")), "yes\n");
    assert_eq!(terminal.fails(&format!("kubectl auth can-i delete pods {robot}")), "no\n");
    assert_eq!(terminal.fails(&format!("kubectl auth can-i get pods -n default {robot}")), "no\n");
    assert_eq!(
        terminal.fails(&format!("kubectl auth can-i get pods --subresource=log {robot}")),
        "no\n"
    );
    assert_eq!(terminal.ok("kubectl auth can-i get /healthz"), "yes\n");
    let spoken = terminal.spoken(&format!("auth can-i --list {robot}"));
    spoken.sent("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews");
    let rules: Vec<String> = spoken
        .text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert!(rules.contains(&"pods [] [] [get list]".to_owned()), "{rules:?}");
    let user = format!("system:serviceaccount:{}:robot", terminal.ns);
    let ask = |namespace: &str, verb: &str| {
        json!({"metadata": {"namespace": null}, "spec": {"user": user,
        "resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "pods"}}})
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (namespace, verb, allowed) in [
        (terminal.ns.as_str(), "get", true),
        (&terminal.ns, "create", false),
        ("default", "get", false),
    ] {
        let told = terminal.wire.made(path, &ask(namespace, verb));
        assert_eq!(told["status"]["allowed"], allowed, "{namespace} {verb}: {told}");
    }
    let path = "/apis/authorization.k8s.io/v1/namespaces/{ns}/localsubjectaccessreviews";
    let mut local = ask(&terminal.ns, "get");
    local["metadata"]["namespace"] = terminal.ns.as_str().into();
    assert_eq!(terminal.wire.made(path, &local)["status"]["allowed"], true);
    local["spec"]["resourceAttributes"]["namespace"] = "default".into();
    let told = terminal.wire.post(path, &local);
    assert!([400, 422].contains(&told.code), "{}", told.text());
}

fn whoami(terminal: &Terminal) {
    let spoken = terminal.spoken("auth whoami");
    spoken.sent("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews");
    terminal.shows(
        "kubectl auth whoami --as=jane --as-group=devs --as-group=system:authenticated",
        &["jane", "[devs system:authenticated]"],
    );
    terminal
        .refuses("kubectl auth whoami --as-uid=1 --as=jane --as-user-extra=a=b", &["unknown flag"]);
    let told = terminal.wire.made(
        "/apis/authentication.k8s.io/v1/tokenreviews",
        &json!({"spec": {"token": "nonsense"}}),
    );
    assert_eq!(told["status"].get("authenticated"), None);
    assert!(told["status"]["error"].is_string(), "{told}");
}

fn reconcile(terminal: &Terminal) {
    let ns = &terminal.ns;
    let role = |verbs: &str| {
        format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: r, namespace: {ns}}}, rules: [{{apiGroups: [''], resources: [pods], verbs: [{verbs}]}}]}}"
        )
    };
    terminal.write("role.yaml", &role("get"));
    terminal.shows(
        "kubectl auth reconcile -f role.yaml",
        &["role.rbac.authorization.k8s.io/r reconciled"],
    );
    terminal.write("role.yaml", &role("list"));
    terminal.ok("kubectl auth reconcile -f role.yaml");
    let rules = terminal.object("role r")["rules"].to_string();
    assert!(rules.contains("get") && rules.contains("list"), "{rules}");
    // Nobody gives what he has not.
    terminal.ok("kubectl create role editor --verb=create,get --resource=roles");
    terminal.ok("kubectl create rolebinding jane --role=editor --user=jane");
    terminal.refuses(
        "kubectl create role more --verb=get --resource=secrets --as=jane",
        &["is attempting to grant RBAC permissions not currently held"],
    );
}

fn keys(terminal: &Terminal) {
    let text = terminal.ok("kubectl get --raw /.well-known/openid-configuration");
    let told: Value = serde_json::from_str(&text).expect("it is JSON");
    assert!(told["issuer"].as_str().is_some_and(|it| it.starts_with("https://")), "{told}");
    assert!(told["jwks_uri"].as_str().is_some_and(|it| it.ends_with("/openid/v1/jwks")), "{told}");
    let text = terminal.ok("kubectl get --raw /openid/v1/jwks");
    let told: Value = serde_json::from_str(&text).expect("it is JSON");
    for field in ["kty", "kid", "alg", "use"] {
        assert!(told["keys"][0][field].is_string(), "{field}: {told}");
    }
}

fn top(terminal: &Terminal) {
    let groups = terminal.wire.get("/apis", JSON).json();
    let has_metrics = groups["groups"]
        .as_array()
        .is_some_and(|groups| groups.iter().any(|group| group["name"] == "metrics.k8s.io"));
    if !has_metrics {
        // Nobody serves them here; kubectl sees that in the list and says so.
        terminal.refuses("kubectl top nodes", &["error: Metrics API not available"]);
        terminal.refuses("kubectl top pods", &["error: Metrics API not available"]);
        return;
    }
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    let spoken = terminal.spoken("top nodes");
    spoken.sent("GET", "/apis/metrics.k8s.io/v1beta1/nodes");
    spoken.has("CPU(cores)");
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/{ns}/pods";
    let told = terminal.wire.get(path, JSON).json();
    assert_eq!(told["kind"], "PodMetricsList", "{told}");
}

fn events(terminal: &Terminal) {
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    let spoken = terminal.spoken("events --for=pod/web");
    let asked = spoken.sent("GET", "/events?");
    assert!(asked.contains("/api/v1/namespaces/") && asked.contains("limit=500"), "{asked}");
    spoken.has("Scheduled");
    terminal.shows("kubectl events --types=Normal", &["LAST SEEN", "Started"]);
    terminal.shows("kubectl get events", &["LAST SEEN   TYPE     REASON", "pod/web"]);
    let core = terminal.wire.get("/api/v1/namespaces/{ns}/events", JSON).json();
    let new = terminal.wire.get("/apis/events.k8s.io/v1/namespaces/{ns}/events", JSON).json();
    let names = |list: &Value| -> Vec<Value> {
        let items = list["items"].as_array().expect("a list has items");
        items.iter().map(|one| one["metadata"]["uid"].clone()).collect()
    };
    assert!(!names(&core).is_empty());
    // More may have happened between the two.
    assert_eq!(names(&core)[..], names(&new)[..names(&core).len()]);
    let first = &new["items"][0];
    assert!(first["regarding"]["name"].is_string() && first["note"].is_string(), "{first}");
    assert!(core["items"][0]["involvedObject"]["name"].is_string());
}

fn describe(terminal: &Terminal) {
    terminal.ok("kubectl create deployment web --image=nginx --replicas=2 --port=80");
    terminal.ok("kubectl expose deployment web --port=80");
    terminal.ok("kubectl rollout status deployment/web --timeout=60s");
    let spoken = terminal.spoken("describe deployment web");
    for part in ["/replicasets?", "/events?fieldSelector="] {
        spoken.sent("GET", part);
    }
    spoken.has("NewReplicaSet:   web-");
    spoken.has("Scaled up replica set");
    let node = terminal.ok("kubectl get pods -l app=web -o jsonpath='{.items[0].spec.nodeName}'");
    let spoken = terminal.spoken(&format!("describe node {node}"));
    spoken.sent("GET", &format!("/leases/{node}"));
    let pods = spoken.sent("GET", "/api/v1/pods?fieldSelector=");
    assert!(pods.contains("status.phase%21%3DFailed"), "{pods}");
    spoken.has("Allocated resources:");
    spoken.has("KubeletReady");
    terminal.shows(
        "kubectl describe pods -l app=web",
        &["Controlled By:  ReplicaSet/web-", "Conditions:"],
    );
    terminal.shows(
        "kubectl describe service web",
        &["TargetPort:               80/TCP", "Selector:                 app=web"],
    );
    terminal
        .shows("kubectl describe namespace $NS", &["Status:       Active", "No resource quota."]);
    terminal.shows("kubectl describe rs -l app=web", &["Pods Status:    2 Running"]);
}

fn printing(terminal: &Terminal) {
    terminal.ok("kubectl create configmap a --from-literal=key=one --from-literal=other=two");
    assert_eq!(terminal.ok("kubectl get configmap a -o jsonpath='{.data.key}'"), "one");
    assert_eq!(terminal.ok("kubectl get configmap a -o go-template='{{.data.other}}'"), "two");
    let columns =
        "kubectl get configmap a --no-headers -o custom-columns=N:.metadata.name,K:.data.key";
    assert_eq!(terminal.ok(columns).split_whitespace().collect::<Vec<_>>(), ["a", "one"]);
    assert_eq!(terminal.ok("kubectl get configmap a -o name"), "configmap/a\n");
    terminal.shows("kubectl get configmap a -o yaml", &["apiVersion: v1", "kind: ConfigMap"]);
    terminal.write(
        "base/map.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: map}, data: {a: b}}",
    );
    terminal.write("base/kustomization.yaml", "resources: [map.yaml]\n");
    terminal.write("over/kustomization.yaml", "namePrefix: pre-\nlabels: [{pairs: {own: 'yes'}}]\nresources: [../base]\nconfigMapGenerator: [{name: made, literals: [x=y]}]\npatches: [{patch: '[{\"op\": \"replace\", \"path\": \"/data/a\", \"value\": \"c\"}]', target: {kind: ConfigMap, name: map}}]\n");
    terminal.shows("kubectl kustomize over", &["name: pre-map", "name: pre-made-"]);
    let told = terminal.ok("kubectl apply -k over");
    assert!(
        told.contains("configmap/pre-map created") && told.contains("configmap/pre-made-"),
        "{told}"
    );
    assert_eq!(
        terminal.ok("kubectl get configmap pre-map -o jsonpath='{.data.a}{.metadata.labels.own}'"),
        "cyes"
    );
    let told = terminal.ok("kubectl apply -k over");
    assert!(told.contains("configmap/pre-map unchanged"), "{told}");
    terminal.shows("kubectl delete -k over", &["configmap \"pre-map\" deleted"]);
}

fn plugins(terminal: &Terminal) {
    terminal.write("kubectl-hello", "#!/bin/sh\necho hello $1 from $KUBECONFIG\n");
    terminal.ok("chmod +x kubectl-hello");
    terminal.shows("PATH=$PWD:$PATH; kubectl hello you", &["hello you from "]);
}
