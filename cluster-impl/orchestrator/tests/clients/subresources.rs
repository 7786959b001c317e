//! Parts of objects with an address of their own. Those that are streams are in `streams.rs`.

use serde_json::json;

use crate::terminal::Terminal;
use crate::{Entry, Needs};

pub const TRIALS: &[Entry] = &[
    ("a_request_for_a_certificate_is_approved", Needs::Nothing, approval),
    ("bindings_place_pods", Needs::Nothing, binding),
    ("debug_adds_ephemeral_containers", Needs::Nothing, ephemeral_containers),
    ("evictions_delete", Needs::Nothing, eviction),
    ("resize_changes_resources_in_place", Needs::Nothing, resize),
    ("scale_is_an_object", Needs::Nothing, scale),
    ("status_is_written_apart", Needs::Nothing, status),
    ("tokens_are_issued", Needs::Nothing, token),
];

const PODS: &str = "/api/v1/namespaces/{ns}/pods";

fn status(terminal: &Terminal) {
    terminal.ok("kubectl create quota q --hard=pods=3");
    let path = "/api/v1/namespaces/{ns}/resourcequotas/q";
    let body = json!({"spec": {"hard": {"pods": "9"}}, "status": {"used": {"pods": "2"}},
        "metadata": {"annotations": {"a": "b"}}});
    let told = terminal.wire.patch(&format!("{path}/status"), "merge-patch+json", &body).json();
    // Somebody counts, and may have said so in the meantime; the wish is not touched from here.
    assert_eq!(told["spec"]["hard"]["pods"], "3", "{told}");
    assert_eq!(told["status"]["used"]["pods"], "2", "{told}");
    let told = terminal
        .wire
        .patch(path, "merge-patch+json", &json!({"status": {"used": {"pods": "7"}}}))
        .json();
    assert_ne!(told["status"]["used"]["pods"], "7", "{told}");
    terminal.shows("kubectl get quota q --subresource=status", &["NAME", "q"]);
}

fn scale(terminal: &Terminal) {
    terminal.ok("kubectl create deployment web --image=nginx --replicas=2");
    let raw = terminal.ok("kubectl get --raw /apis/apps/v1/namespaces/$NS/deployments/web/scale");
    let scale: serde_json::Value = serde_json::from_str(&raw).expect("it is JSON");
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(2), &json!("app=web"))
    );
    terminal
        .shows("kubectl get deployment web --subresource=scale", &["DESIRED   AVAILABLE", "web"]);
    let mut changed = scale;
    changed["spec"]["replicas"] = 3.into();
    changed["metadata"]["resourceVersion"] = json!(null);
    let path = "/apis/apps/v1/namespaces/{ns}/deployments/web/scale";
    assert_eq!(terminal.wire.put(path, &changed).json()["spec"]["replicas"], 3);
    terminal.shows("kubectl scale deployment web --current-replicas=3 --replicas=1", &["scaled"]);
    terminal.ok("kubectl scale rs --all --replicas=0");
}

fn eviction(terminal: &Terminal) {
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "web", "namespace": terminal.ns}, "deleteOptions": {"gracePeriodSeconds": 1}});
    let told = terminal.wire.post(&format!("{PODS}/web/eviction"), &body);
    assert_eq!((told.code, &told.json()["status"]), (201, &json!("Success")));
    terminal.ok("kubectl wait --for=delete pod/web --timeout=60s");
    let told = terminal.wire.post(&format!("{PODS}/web/eviction"), &body);
    assert_eq!(told.reason(), (404, "NotFound".to_owned()));
}

fn binding(terminal: &Terminal) {
    terminal.ok(
        "kubectl run web --image=nginx --overrides='{\"spec\":{\"schedulerName\":\"nobody\"}}'",
    );
    let node = terminal.ok("kubectl get nodes -o jsonpath='{.items[0].metadata.name}'");
    let body = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": node}});
    let path = format!("{PODS}/web/binding");
    assert_eq!(terminal.wire.post(&path, &body).code, 201);
    assert_eq!(terminal.object("pod web")["spec"]["nodeName"], *node);
    assert_eq!(terminal.wire.post(&path, &body).reason(), (409, "Conflict".to_owned()));
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
}

fn token(terminal: &Terminal) {
    terminal.ok("kubectl create serviceaccount robot");
    let token = terminal.ok("kubectl create token robot --duration=1h --audience=me");
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let review = json!({"spec": {"token": token.trim(), "audiences": ["me"]}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let told = terminal.wire.made(path, &review);
    let user = format!("system:serviceaccount:{}:robot", terminal.ns);
    assert_eq!(
        (&told["status"]["authenticated"], &told["status"]["user"]["username"]),
        (&json!(true), &json!(user))
    );
    let told = terminal.wire.made(path, &json!({"spec": {"token": token.trim()}}));
    assert_eq!(told["status"].get("authenticated"), None, "it is for somebody else: {told}");
    // kubectl uses one that is for the API.
    let line = "kubectl config view --raw -o json | sed 's/\"client-[a-z-]*data\": *\"[^\"]*\",*//' > bare; \
        kubectl --kubeconfig=bare --token=$(kubectl create token robot) auth whoami";
    terminal.shows(line, &[&user, "system:serviceaccounts"]);
}

fn ephemeral_containers(terminal: &Terminal) {
    terminal.ok("kubectl run web --image=nginx");
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    let spoken =
        terminal.spoken("debug web --image=nginx --container=look --attach=false -- sleep 1h");
    let asked = spoken.sent("PATCH", "/pods/web/ephemeralcontainers");
    assert!(asked.contains("application/strategic-merge-patch+json"), "{asked}");
    let pod = terminal.object("pod web");
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["name"], "look");
    let pod = terminal.wire.until(&format!("{PODS}/web"), |told| {
        told.json()["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object()
    });
    // It is no part of what the pod was made for.
    let status = &pod.json()["status"];
    assert_eq!(status["ephemeralContainerStatuses"][0]["ready"], false);
    assert_eq!(status["containerStatuses"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&status["phase"], &status["containerStatuses"][0]["ready"]),
        (&json!("Running"), &json!(true))
    );
    // They are not written with the pod itself.
    let told = terminal.wire.patch(
        &format!("{PODS}/web"),
        "strategic-merge-patch+json",
        &json!({"spec": {"ephemeralContainers": [{"name": "other", "image": "x"}]}}),
    );
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
}

fn resize(terminal: &Terminal) {
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main",
        "image": "nginx", "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "50m"}}}]}});
    terminal.wire.made(PODS, &pod);
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=60s");
    let patch =
        r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"20m"}}}]}}"#;
    terminal.refuses(
        &format!("kubectl patch pod web -p '{patch}'"),
        &["pod updates may not change fields other than"],
    );
    let line = format!("kubectl patch pod web --subresource=resize -p '{patch}'");
    // A node that can do it says what its containers have; no other pod may be resized.
    let statuses = &terminal.object("pod web")["status"]["containerStatuses"];
    if !statuses[0]["resources"].is_object() {
        terminal.refuses(&line, &["Pod running on node without support for resize"]);
        return;
    }
    terminal.shows(&line, &["pod/web patched"]);
    let pod = terminal.object("pod web");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "20m");
}

fn approval(terminal: &Terminal) {
    let key = rcgen::KeyPair::generate().expect("keys can be made");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names are fine");
    params.distinguished_name.push(rcgen::DnType::CommonName, terminal.ns.as_str());
    let request = params.serialize_request(&key).and_then(|request| request.pem());
    let request = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        request.expect("it can be signed"),
    );
    let name = &terminal.ns;
    let csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name}, "spec": {"request": request, "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600}});
    terminal.ok_with("kubectl create -f -", &csr.to_string());
    terminal.shows("kubectl get csr $NS", &["Pending"]);
    let spoken = terminal.spoken(&format!("certificate approve {name}"));
    spoken.sent("PUT", &format!("/certificatesigningrequests/{name}/approval"));
    terminal.ok("kubectl wait --for=condition=Approved csr/$NS --timeout=60s");
    terminal.ok("kubectl wait --for=jsonpath='{.status.certificate}' csr/$NS --timeout=60s");
    terminal.shows("kubectl get csr $NS", &["Approved,Issued"]);
    // The certificate is good for the API.
    terminal.write("key.pem", &key.serialize_pem());
    terminal.shows(
        "kubectl get csr $NS -o jsonpath='{.status.certificate}' | base64 -d > cert.pem; \
         kubectl config set-credentials new --client-certificate=cert.pem --client-key=key.pem; \
         kubectl --user=new auth whoami -o jsonpath='{.status.userInfo.username}'",
        &[name],
    );
    terminal.ok("kubectl delete csr $NS");
}
