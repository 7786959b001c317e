//! What servers publish about the fields of their kinds, and what kubectl makes of it.

use http::Method;
use serde_json::json;

use crate::terminal::Terminal;
use crate::wire::JSON;
use crate::{Entry, Needs};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";

pub const TRIALS: &[Entry] = &[
    ("each_group_has_a_document_with_a_hash", Needs::Nothing, documents),
    ("explain_reads_the_third_version", Needs::Nothing, explain),
    ("explain_reads_the_second_version_if_asked_to", Needs::Nothing, explain_by_v2),
    ("patches_have_the_parameter_field_validation", Needs::Nothing, field_validation),
    ("the_second_version_in_json_and_protobuf", Needs::Nothing, second),
];

fn documents(terminal: &Terminal) {
    let index = terminal.wire.get("/openapi/v3", JSON).json();
    for group in ["api/v1", "apis/apps/v1", "apis/batch/v1", "apis/rbac.authorization.k8s.io/v1"] {
        let url = index["paths"][group]["serverRelativeURL"].as_str().expect("it is listed");
        assert!(url.starts_with(&format!("/openapi/v3/{group}?hash=")), "{url}");
        let document = terminal.wire.get(url, JSON);
        assert!(document.header("content-type").starts_with(JSON), "{group}");
        assert!(document.json()["openapi"].as_str().is_some_and(|it| it.starts_with("3.")));
        let known = [("accept", JSON), ("if-none-match", document.header("etag"))];
        assert_eq!(terminal.wire.ask(Method::GET, url, &known, b"").code, 304);
        // The hash makes the address good for ever.
        assert!(document.header("cache-control").contains("immutable"), "{group}");
        // Offered to those who ask for it alone; a server may say that it has none.
        let code = terminal.wire.get(url, V3_PROTOBUF).code;
        assert!(code == 200 || code == 406, "{group}: {code}");
    }
}

fn explain(terminal: &Terminal) {
    let spoken = terminal.spoken("explain deployment.spec.strategy");
    spoken.sent("GET", "/openapi/v3?");
    let asked = spoken.sent("GET", "/openapi/v3/apis/apps/v1?hash=");
    assert!(asked.contains("Accept: application/json"), "{asked}");
    spoken.has("rollingUpdate");
    terminal.shows("kubectl explain pods.spec.containers", &["imagePullPolicy", "-required-"]);
    terminal.shows("kubectl explain service.spec.ports", &["FIELD: ports", "targetPort"]);
    terminal.shows("kubectl explain --recursive lease.spec", &["renewTime", "holderIdentity"]);
    terminal.shows("kubectl explain hpa --api-version=autoscaling/v1", &["VERSION:    v1"]);
    terminal.refuses("kubectl explain pod.nothing", &["field \"nothing\" does not exist"]);
}

fn explain_by_v2(terminal: &Terminal) {
    let line = "explain pods.spec.containers.image --output=plaintext-openapiv2";
    let spoken = terminal.spoken(line);
    let asked = spoken.sent("GET", "/openapi/v2");
    assert!(asked.contains(V2_PROTOBUF), "{asked}");
    spoken.has("FIELD:");
    spoken.has("image");
}

fn field_validation(terminal: &Terminal) {
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}";
    terminal.write("map.yaml", map);
    for (verb, method) in [("create", "POST"), ("apply", "PATCH"), ("replace", "PUT")] {
        terminal.write("map.yaml", &map.replace("}}", &format!("}}, data: {{by: {verb}}}}}")));
        let spoken = terminal.spoken(&format!("{verb} -f map.yaml"));
        spoken.sent("GET", "/openapi/v3/api/v1?hash=");
        let asked = spoken.sent(method, "/configmaps");
        assert!(asked.contains("fieldValidation=Strict"), "{asked}");
    }
    let index = terminal.wire.get("/openapi/v3", JSON).json();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().expect("it is listed");
    let document = terminal.wire.get(url, JSON).json();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let parameters = patch["parameters"].as_array().expect("a patch has some");
    for name in ["fieldValidation", "fieldManager", "force", "dryRun"] {
        let has_it = parameters.iter().any(|one| one["name"] == name && one["in"] == "query");
        assert!(has_it, "{name}: {parameters:?}");
    }
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "kind": "Pod", "version": "v1"})
    );
}

fn second(terminal: &Terminal) {
    let told = terminal.wire.get("/openapi/v2", JSON);
    assert_eq!(told.json()["swagger"], "2.0");
    assert!(told.json()["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let known = [("accept", JSON), ("if-none-match", told.header("etag"))];
    assert_eq!(terminal.wire.ask(Method::GET, "/openapi/v2", &known, b"").code, 304);
    let told = terminal.wire.get("/openapi/v2", V2_PROTOBUF);
    assert_eq!(told.code, 200, "{}", told.text());
    assert_eq!(told.header("content-type"), V2_PROTOBUF.replace('@', "."));
    // Its first field is the text `2.0`.
    assert_eq!(&told.body[..5], b"\x0a\x032.0");
}
