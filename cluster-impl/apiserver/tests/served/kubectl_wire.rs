//! What kubectl needs of a server, as bytes on a socket. kubectl itself is in `kubectl.rs`.

use crate::loopback::Loopback;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                     application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                         application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                         application/json";

/// A server with a client that sends what it is told.
struct Wire {
    loopback: Loopback,
    client: Client,
}

/// An answer, all of it.
struct Told {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    fn reason(&self) -> (u16, String) {
        (self.code, self.json()["reason"].as_str().unwrap_or_default().to_owned())
    }
}

impl Wire {
    async fn new() -> Self {
        let loopback = Loopback::start().await;
        let text = loopback.kubeconfig("kubernetes-admin", &["system:masters"]);
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        config.default_retry = false;
        let wire = Self { loopback, client: Client::try_from(config).unwrap() };
        // A watch of the last namespace that every cluster has ends when it is there.
        let path = "/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Dkube-node-lease";
        let mut lines = wire.lines(path, JSON).await;
        assert_eq!(lines.next().await["type"], "ADDED");
        wire
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Told {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.client.send(request.body(body.to_vec().into()).unwrap()).await.unwrap();
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Told { code, headers, body }
    }

    async fn get(&self, path: &str, accept: &str) -> Told {
        self.ask(Method::GET, path, &[("accept", accept)], b"").await
    }

    async fn post(&self, path: &str, body: Value) -> Told {
        let headers = [("content-type", JSON), ("user-agent", "wire/1.0")];
        self.ask(Method::POST, path, &headers, body.to_string().as_bytes()).await
    }

    async fn patch(&self, path: &str, form: &str, body: Value) -> Told {
        let form = format!("application/{form}");
        let headers = [("content-type", form.as_str()), ("user-agent", "wire/1.0")];
        self.ask(Method::PATCH, path, &headers, body.to_string().as_bytes()).await
    }

    async fn map(&self, name: &str) -> Value {
        let told = self.post(MAPS, json!({"metadata": {"name": name}, "data": {"key": "1"}})).await;
        assert_eq!(told.code, 201, "{}", told.json());
        told.json()
    }

    async fn lines(&self, path: &str, accept: &str) -> Lines {
        let request = Request::builder().uri(path).header("accept", accept);
        let response = self.client.send(request.body(Vec::new().into()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        Lines { media_type, body: response.into_body(), read: Vec::new() }
    }
}

/// An open watch.
struct Lines {
    media_type: String,
    body: kube::client::Body,
    read: Vec<u8>,
}

impl Lines {
    async fn more(&mut self) {
        let frame = self.body.frame().await.expect("the watch goes on").unwrap();
        self.read.extend_from_slice(&frame.into_data().unwrap());
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            self.more().await;
        }
    }

    /// The next frame of a protobuf stream.
    async fn frame(&mut self) -> Vec<u8> {
        loop {
            if let Some(length) = self.read.first_chunk::<4>() {
                let end = 4 + u32::from_be_bytes(*length) as usize;
                if self.read.len() >= end {
                    return self.read.drain(..end).skip(4).collect();
                }
            }
            self.more().await;
        }
    }
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn discovery_is_aggregated_tagged_and_old() {
    let wire = Wire::new().await;
    for path in ["/api", "/apis"] {
        let told = wire.get(path, DISCOVERY).await;
        assert_eq!(
            told.header("content-type"),
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
        let again = [("accept", DISCOVERY), ("if-none-match", told.header("etag"))];
        let again = wire.ask(Method::GET, path, &again, b"").await;
        assert_eq!((again.code, again.body.len()), (304, 0));
    }
    assert_eq!(wire.get("/api", JSON).await.json()["kind"], "APIVersions");
    assert_eq!(wire.get("/apis", JSON).await.json()["kind"], "APIGroupList");
    let list = wire.get("/api/v1", JSON).await.json();
    let find = |name: &str| {
        let all = list["resources"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    let eviction = find("pods/eviction");
    assert_eq!((&eviction["group"], &eviction["version"]), (&json!("policy"), &json!("v1")));
    let pods = find("pods");
    assert_eq!(
        (&pods["singularName"], &pods["shortNames"], &pods["categories"]),
        (&json!("pod"), &json!(["po"]), &json!(["all"]))
    );
    assert!(
        wire.get("/version", JSON).await.json()["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.33")
    );
    for probe in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(wire.get(probe, "*/*").await.body, "ok");
        let told = wire.get(&format!("{probe}?verbose"), "*/*").await;
        assert!(contains(&told.body, "[+]ping ok"));
    }
}

#[tokio::test]
async fn openapi_tells_that_patches_validate_fields() {
    let wire = Wire::new().await;
    let index = wire.get("/openapi/v3", JSON).await;
    let url = index.json()["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = wire.get(&url, JSON).await;
    let patch = &document.json()["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert!(
        names.contains(&json!("fieldValidation")) && names.contains(&json!("force")),
        "{names:?}"
    );
    let again = [("accept", JSON), ("if-none-match", document.header("etag"))];
    assert_eq!(wire.ask(Method::GET, &url, &again, b"").await.code, 304);
    let swagger = wire.get("/openapi/v2", JSON).await;
    assert_eq!(swagger.json()["swagger"], "2.0");
    let again = [("accept", JSON), ("if-none-match", swagger.header("etag"))];
    assert_eq!(wire.ask(Method::GET, "/openapi/v2", &again, b"").await.code, 304);
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let told = wire.get("/openapi/v2", protobuf).await;
    assert_eq!(told.header("content-type"), protobuf.replace('@', "."));
    // Its first field is the text `2.0`.
    assert_eq!((told.code, &told.body[..5]), (200, &b"\x0a\x032.0"[..]));
    let again = [("accept", protobuf), ("if-none-match", told.header("etag"))];
    assert_eq!(wire.ask(Method::GET, "/openapi/v2", &again, b"").await.code, 304);
}

#[tokio::test]
async fn bodies_come_in_three_languages_and_answers_in_all() {
    let wire = Wire::new().await;
    let yaml = b"metadata: {name: a}\ndata: {key: '1'}\n";
    let told = wire.ask(Method::POST, MAPS, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!(told.code, 201);
    let told = wire.get(&format!("{MAPS}/a"), &format!("{PROTOBUF},{JSON}")).await;
    assert_eq!((told.code, told.header("content-type")), (200, PROTOBUF));
    assert_eq!(&told.body[..4], b"k8s\0");
    let list = wire.get(MAPS, &format!("{PROTOBUF},{JSON}")).await;
    assert!(contains(&list.body, "ConfigMapList"));
    let missing = wire.get(&format!("{MAPS}/none"), PROTOBUF).await;
    assert_eq!((missing.code, missing.header("content-type")), (404, PROTOBUF));
    assert!(contains(&missing.body, "configmaps \"none\" not found"));
    let table = wire.get(MAPS, &format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{TABLE}")).await;
    assert_eq!(table.json()["kind"], "Table");
    let yaml = wire.get(&format!("{MAPS}/a"), "application/yaml").await;
    assert!(contains(&yaml.body, "kind: ConfigMap"));
    assert_eq!(wire.get(MAPS, "text/html").await.reason(), (406, "NotAcceptable".to_owned()));
    let told = wire.ask(Method::POST, MAPS, &[("content-type", "text/html")], b"x").await;
    assert_eq!(told.reason(), (415, "UnsupportedMediaType".to_owned()));
}

#[tokio::test]
async fn warnings_and_strictness_reach_the_client() {
    let wire = Wire::new().await;
    let body = json!({"metadata": {"name": "a"}, "dato": {}});
    let warned = wire.post(MAPS, body.clone()).await;
    assert_eq!(
        (warned.code, warned.header("warning")),
        (201, "299 - \"unknown field \\\"dato\\\"\"")
    );
    let strict = wire.post(&format!("{MAPS}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!(strict.reason(), (400, "BadRequest".to_owned()));
    let ignored = wire
        .post(
            &format!("{MAPS}?fieldValidation=Ignore&dryRun=All"),
            json!({"metadata": {"name": "b"}, "dato": {}}),
        )
        .await;
    assert_eq!((ignored.code, ignored.header("warning")), (201, ""));
    let text = br#"{"metadata":{"name":"c"},"data":{"a":"1","a":"2"}}"#;
    let path = format!("{MAPS}?fieldValidation=Strict");
    let twice = wire.ask(Method::POST, &path, &[("content-type", JSON)], text).await;
    assert!(twice.json()["message"].as_str().unwrap().contains("duplicate field \"data.a\""));
}

#[tokio::test]
async fn tables_and_metadata_are_forms_of_a_list() {
    let wire = Wire::new().await;
    wire.map("a").await;
    for (include, kind) in [
        ("None", Value::Null),
        ("Metadata", "PartialObjectMetadata".into()),
        ("Object", "ConfigMap".into()),
    ] {
        let table =
            wire.get(&format!("{MAPS}?limit=500&includeObject={include}"), TABLE).await.json();
        assert_eq!(table["kind"], "Table");
        assert_eq!(
            table["rows"].as_array().unwrap().last().unwrap()["object"]["kind"],
            kind,
            "{include}"
        );
        assert!(table["columnDefinitions"].as_array().unwrap().len() > 1);
    }
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = wire.get(MAPS, metadata).await.json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0].get("data"), None);
    let mut lines = wire.lines(&format!("{MAPS}?watch=true&resourceVersion=0"), TABLE).await;
    // `kube-root-ca.crt` does not exist here, so the first one is ours.
    let first = lines.next().await;
    assert!(first["object"]["columnDefinitions"].is_array(), "{first}");
    wire.map("b").await;
    let second = lines.next().await;
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    let columns = second["object"]["columnDefinitions"].as_array();
    assert!(columns.is_none_or(Vec::is_empty), "{second}");
}

#[tokio::test]
async fn lists_are_paged_selected_and_pinned() {
    let wire = Wire::new().await;
    for name in ["a", "b", "c", "d"] {
        wire.map(name).await;
    }
    let page = wire.get(&format!("{MAPS}?limit=3"), JSON).await.json();
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = wire.get(&format!("{MAPS}?limit=3&continue={token}"), JSON).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest["metadata"].get("continue"), None);
    let revision = page["metadata"]["resourceVersion"].as_str().unwrap();
    for (query, code) in [
        (format!("resourceVersion={revision}&resourceVersionMatch=Exact"), 200),
        (format!("resourceVersion={revision}&resourceVersionMatch=NotOlderThan"), 200),
        ("resourceVersion=0".to_owned(), 200),
        ("resourceVersionMatch=Exact".to_owned(), 422),
        ("resourceVersion=999999".to_owned(), 504),
        ("fieldSelector=metadata.name%3Da".to_owned(), 200),
        ("fieldSelector=data.key%3D1".to_owned(), 400),
        ("labelSelector=a+in+(b),!c".to_owned(), 200),
    ] {
        assert_eq!(wire.get(&format!("{MAPS}?{query}"), JSON).await.code, code, "{query}");
    }
}

#[tokio::test]
async fn watches_speak_json_and_protobuf() {
    let wire = Wire::new().await;
    wire.map("a").await;
    let query = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
                 &resourceVersionMatch=NotOlderThan&timeoutSeconds=300";
    let mut lines = wire.lines(&format!("{MAPS}?{query}"), JSON).await;
    assert_eq!(lines.media_type, JSON);
    assert_eq!(lines.next().await["type"], "ADDED");
    let bookmark = lines.next().await;
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let accept = format!("{PROTOBUF};stream=watch,{JSON}");
    let mut frames = wire.lines(&format!("{MAPS}?{query}"), &accept).await;
    assert_eq!(frames.media_type, "application/vnd.kubernetes.protobuf;stream=watch");
    let added = frames.frame().await;
    assert!(
        contains(&added, "ADDED") && contains(&added, "k8s\0") && contains(&added, "ConfigMap")
    );
    let bookmark = frames.frame().await;
    assert!(contains(&bookmark, "BOOKMARK") && contains(&bookmark, "k8s.io/initial-events-end"));
    wire.patch(&format!("{MAPS}/a"), "merge-patch+json", json!({"data": {"key": "2"}})).await;
    assert_eq!(lines.next().await["type"], "MODIFIED");
    assert!(contains(&frames.frame().await, "MODIFIED"));
    wire.ask(Method::DELETE, &format!("{MAPS}/a"), &[], b"").await;
    assert_eq!(lines.next().await["type"], "DELETED");
    assert!(contains(&frames.frame().await, "DELETED"));
}

#[tokio::test]
async fn patches_come_in_every_form() {
    let wire = Wire::new().await;
    wire.map("a").await;
    let path = format!("{MAPS}/a");
    for (form, body) in [
        ("strategic-merge-patch+json", json!({"data": {"a": "1"}})),
        ("merge-patch+json", json!({"data": {"b": "1"}})),
        ("json-patch+json", json!([{"op": "add", "path": "/data/c", "value": "1"}])),
    ] {
        assert_eq!(wire.patch(&path, form, body).await.code, 200, "{form}");
    }
    let told = wire.patch(&path, "apply-patch+yaml", json!({})).await;
    assert_eq!(
        told.json()["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let told = wire.patch(&format!("{path}?force=true"), "merge-patch+json", json!({})).await;
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
    let told = wire.patch(&path, "mad-patch+json", json!({})).await;
    assert_eq!(told.reason(), (415, "UnsupportedMediaType".to_owned()));
}

#[tokio::test]
async fn an_apply_creates_conflicts_and_forces() {
    let wire = Wire::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let config = |replicas: i64| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "web:1"}]}}}})
    };
    let apply = |query: &str| format!("{path}?{query}");
    let dry =
        wire.patch(&apply("fieldManager=one&dryRun=All"), "apply-patch+yaml", config(1)).await;
    assert_eq!(dry.code, 201, "{}", dry.json());
    assert_eq!(wire.get(&path, JSON).await.code, 404);
    let created = wire.patch(&apply("fieldManager=one"), "apply-patch+yaml", config(1)).await;
    assert_eq!(created.code, 201, "{}", created.json());
    let owner = &created.json()["metadata"]["managedFields"][0];
    assert_eq!(
        (&owner["manager"], &owner["operation"], &owner["apiVersion"], &owner["fieldsType"]),
        (&json!("one"), &json!("Apply"), &json!("apps/v1"), &json!("FieldsV1"))
    );
    assert_eq!(
        owner["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"],
        json!({"k:{\"name\":\"main\"}": {".": {}, "f:image": {}, "f:name": {}}})
    );
    let again = wire.patch(&apply("fieldManager=one"), "apply-patch+yaml", config(1)).await;
    assert_eq!((again.code, &again.body), (200, &created.body));
    wire.patch(&format!("{path}/scale"), "merge-patch+json", json!({"spec": {"replicas": 3}}))
        .await;
    let refused = wire.patch(&apply("fieldManager=one"), "apply-patch+yaml", config(2)).await;
    assert_eq!(refused.reason(), (409, "Conflict".to_owned()));
    assert_eq!(
        refused.json()["message"],
        "Apply failed with 1 conflict: conflict with \"wire\" with subresource \"scale\" using apps/v1: \
         .spec.replicas"
    );
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced =
        wire.patch(&apply("fieldManager=one&force=true"), "apply-patch+yaml", config(2)).await;
    assert_eq!((forced.code, &forced.json()["spec"]["replicas"]), (200, &json!(2)));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 9}, "status": {"replicas": 4}});
    let path = format!("{path}/status?fieldManager=two");
    let told = wire.patch(&path, "apply-patch+yaml", status).await.json();
    assert_eq!((&told["spec"]["replicas"], &told["status"]["replicas"]), (&json!(2), &json!(4)));
    let owners = told["metadata"]["managedFields"].as_array().unwrap();
    let two = owners.iter().find(|one| one["manager"] == "two").unwrap();
    assert_eq!(two["subresource"], "status");
    assert_eq!(two["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
    let mut stale = config(2);
    stale["metadata"]["resourceVersion"] = "1".into();
    let told = wire.patch(&apply("fieldManager=one"), "apply-patch+yaml", stale).await;
    assert_eq!(told.reason(), (409, "Conflict".to_owned()));
    let mut foreign = config(2);
    foreign["metadata"]["uid"] = "other".into();
    let told = wire.patch(&apply("fieldManager=one"), "apply-patch+yaml", foreign).await;
    assert_eq!(told.reason(), (409, "Conflict".to_owned()));
    let mut unknown = config(2);
    unknown["spec"]["replica"] = 1.into();
    let told = wire.patch(&apply("fieldManager=one"), "apply-patch+yaml", unknown).await;
    assert_eq!(
        (told.code, told.json()["message"].as_str().unwrap()),
        (
            500,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.replica: field not \
               declared in schema"
        )
    );
}

#[tokio::test]
async fn every_write_is_noted_with_its_manager() {
    let wire = Wire::new().await;
    let pod = json!({"metadata": {"name": "a", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "web:1"}]}});
    let created = wire.post(&format!("{PODS}?fieldManager=maker"), pod).await.json();
    let owners = created["metadata"]["managedFields"].as_array().unwrap().clone();
    assert_eq!(owners.len(), 1);
    assert_eq!(
        owners[0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"main\"}": {".": {}, "f:image": {}, "f:imagePullPolicy": {},
                "f:name": {}, "f:resources": {}, "f:terminationMessagePath": {},
                "f:terminationMessagePolicy": {}}},
            "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
            "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}}})
    );
    // A binding and a deletion are nobody's.
    let target = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(wire.post(&format!("{PODS}/a/binding"), target).await.code, 201);
    let path = format!("{PODS}/a/status");
    let status =
        wire.patch(&path, "merge-patch+json", json!({"status": {"phase": "Running"}})).await.json();
    let owners = status["metadata"]["managedFields"].as_array().unwrap().clone();
    assert_eq!(owners.len(), 2, "{owners:?}");
    assert_eq!(
        (&owners[1]["manager"], &owners[1]["subresource"], &owners[1]["fieldsV1"]),
        (&json!("wire"), &json!("status"), &json!({"f:status": {"f:phase": {}}}))
    );
    let long = wire.post(&format!("{PODS}?fieldManager={}", "x".repeat(129)), json!({})).await;
    assert_eq!(long.reason(), (422, "Invalid".to_owned()));
}

#[tokio::test]
async fn preconditions_names_and_propagation_hold() {
    let wire = Wire::new().await;
    let map = wire.map("a").await;
    let path = format!("{MAPS}/a");
    let put = |body: &Value| {
        let body = body.to_string();
        let path = path.clone();
        let wire = &wire;
        async move { wire.ask(Method::PUT, &path, &[("content-type", JSON)], body.as_bytes()).await }
    };
    let mut stale = map.clone();
    stale["data"]["key"] = "2".into();
    assert_eq!(put(&stale).await.code, 200);
    assert_eq!(put(&stale).await.reason(), (409, "Conflict".to_owned()));
    let generated = wire.post(MAPS, json!({"metadata": {"generateName": "web-"}})).await.json();
    assert_eq!(generated["metadata"]["name"].as_str().unwrap().len(), 9);
    let delete = |body: Value| {
        let path = path.clone();
        let wire = &wire;
        async move {
            let body = body.to_string();
            wire.ask(Method::DELETE, &path, &[("content-type", JSON)], body.as_bytes()).await
        }
    };
    assert_eq!(
        delete(json!({"preconditions": {"uid": "x"}})).await.reason(),
        (409, "Conflict".to_owned())
    );
    assert_eq!(delete(json!({"dryRun": ["All"]})).await.code, 200);
    assert_eq!(wire.get(&path, JSON).await.code, 200);
    let held = delete(json!({"propagationPolicy": "Foreground"})).await.json();
    assert_eq!(held["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    wire.patch(&path, "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(wire.get(&path, JSON).await.code, 404);
    wire.map("a").await;
    let held = delete(json!({"propagationPolicy": "Orphan"})).await.json();
    assert_eq!(held["metadata"]["finalizers"], json!(["orphan"]));
    let all = wire.ask(Method::DELETE, &format!("{MAPS}?dryRun=All"), &[], b"").await;
    assert_eq!((all.code, &all.json()["kind"]), (200, &json!("ConfigMapList")));
    let all = wire.ask(Method::DELETE, MAPS, &[], b"").await;
    assert_eq!(all.code, 200);
    let left = wire.get(MAPS, JSON).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "what a finalizer holds");
    wire.loopback.server.shut_down();
    wire.loopback.serving.join().await;
}

#[tokio::test]
async fn an_older_version_is_answered_in_protobuf_too() {
    let wire = Wire::new().await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let body = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3,
        "targetCPUUtilizationPercentage": 80,
        "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}}});
    let headers = [("content-type", JSON), ("accept", PROTOBUF)];
    let made = wire.ask(Method::POST, path, &headers, body.to_string().as_bytes()).await;
    let list = wire.get(path, PROTOBUF).await;
    let watch = format!("{path}?watch=true");
    let frame = wire.lines(&watch, &format!("{PROTOBUF};stream=watch")).await.frame().await;
    for bytes in [&made.body[..], &list.body, &frame] {
        assert!(contains(bytes, "autoscaling/v1"), "{}", String::from_utf8_lossy(bytes));
        // Only the second version has metrics by their type.
        assert!(!contains(bytes, "Utilization\u{20}"), "{}", String::from_utf8_lossy(bytes));
        assert!(!contains(bytes, "Resource\""), "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn what_has_no_columns_is_no_table() {
    let wire = Wire::new().await;
    let review =
        json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let headers = [("content-type", JSON), ("accept", accept)];
    let told = wire.ask(Method::POST, path, &headers, review.as_bytes()).await;
    assert_eq!(told.reason(), (406, "NotAcceptable".to_owned()));
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "web:1"}]}}}});
    assert_eq!(wire.post(DEPLOYMENTS, web).await.code, 201);
    let scale = wire.get(&format!("{DEPLOYMENTS}/web/scale"), TABLE).await.json();
    let cells = &scale["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[1], &cells[2]), (&json!("web"), &json!(3), &json!(0)));
    assert_eq!(scale["columnDefinitions"][2]["name"], "Available");
}

#[tokio::test]
async fn options_are_checked_before_anything_else() {
    let wire = Wire::new().await;
    for (query, message) in [
        (
            "dryRun=Some",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\"",
        ),
        (
            "fieldValidation=Sometimes",
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Sometimes\": \
             supported values: \"Ignore\", \"Warn\", \"Strict\"",
        ),
    ] {
        let told = wire.post(&format!("{MAPS}?{query}"), json!({"metadata": {"name": "a"}})).await;
        assert_eq!(told.reason(), (422, "Invalid".to_owned()), "{query}");
        assert_eq!(told.json()["message"], message);
    }
}

#[tokio::test]
async fn endpoints_are_said_to_be_deprecated() {
    let wire = Wire::new().await;
    let told = wire.get("/api/v1/namespaces/default/endpoints", JSON).await;
    let expected =
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!((told.code, told.header("warning")), (200, expected));
}
