//! Every kind that is served, a custom one too, through every verb, on every store: in memory, on disk and
//! on a real etcd.
//!
//! What is served is taken from discovery and compared with the registry, so that a new kind without a
//! sample fails here. Needs the program `etcd`, as the tests of the stores do; a machine that cannot have
//! it sets `SHAKEDOWN_NO_ETCD=1`, and the test says by that name what was not tested.

mod etcd;
mod samples;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, Task};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use shakedown_apiserver::{ApiServer, Body, Config, User};
use storage::Store;
use storage::etcd::{EtcdConfig, EtcdStore};
use storage::local::LocalStore;
use storage::memory::MemoryCluster;

use self::samples::{CUSTOM_GROUP, NAMESPACE, custom_definition, sample};

/// Nothing that is waited for takes longer, on the slowest machine.
const LONGEST: Duration = Duration::from_secs(30);
const LABEL: &str = "round-trip";

/// What the server itself writes to after a client has: of these, more is told than the client did.
const FOLLOWED: [(&str, &str); 2] =
    [("APIService", "Available"), ("CustomResourceDefinition", "Established")];

#[tokio::test]
async fn every_kind_goes_round_in_memory() {
    let env = Env::os();
    let cluster = MemoryCluster::new(env.clone(), 1);
    every_kind_goes_round(env, cluster.member(0)).await;
}

#[tokio::test]
async fn every_kind_goes_round_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::os();
    let store = LocalStore::open(env.clone(), dir.path()).unwrap();
    every_kind_goes_round(env, store).await;
}

#[tokio::test]
async fn every_kind_goes_round_on_etcd() {
    let Some(member) = etcd::start() else { return };
    let config = EtcdConfig::new(vec![member.url.clone()], None);
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(&config).await.unwrap());
    etcd::ready(store.as_ref()).await;
    every_kind_goes_round(Env::os(), store).await;
}

async fn every_kind_goes_round(env: Env, store: Arc<dyn Store>) {
    let world = World::start(env, store).await;
    let served = world.served().await;
    let registered = machinery::versions::served().map(|kind| (kind.api_version(), kind.kind));
    let mut expected: BTreeSet<_> =
        registered.map(|(version, kind)| (version, kind.to_owned())).collect();
    expected.insert((format!("{CUSTOM_GROUP}/v1"), "Widget".to_owned()));
    let found: BTreeSet<_> =
        served.iter().map(|one| (one.api_version.clone(), one.kind.clone())).collect();
    assert_eq!(found, expected, "what is discovered is what is registered");
    for resource in &served {
        Round { world: &world, resource, told: Vec::new() }.go().await;
    }
}

/// A server over the store that is tried.
struct World {
    server: Arc<ApiServer>,
    env: Env,
    _running: Task<()>,
}

/// One kind, as discovery tells of it.
struct Resource {
    api_version: String,
    kind: String,
    collection: String,
    verbs: Vec<String>,
    has_status: bool,
}

impl World {
    async fn start(env: Env, store: Arc<dyn Store>) -> Self {
        let server = ApiServer::new(env.clone(), store, Config::default());
        let running = env.spawn(server.clone().run());
        let world = Self { server, env, _running: running };
        world.until("/readyz", |code, _| code == 200).await;
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        world.ok(Method::POST, "/api/v1/namespaces", &namespace).await;
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        world.ok(Method::POST, &accounts, &json!({"metadata": {"name": "default"}})).await;
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        world.ok(Method::POST, definitions, &custom_definition("widgets", CUSTOM_GROUP)).await;
        let widgets = format!("/apis/{CUSTOM_GROUP}/v1/widgets");
        world.until(&widgets, |code, _| code == 200).await;
        world
    }

    async fn send(&self, method: &Method, path: &str, (kind, body): (&str, Bytes)) -> (u16, Body) {
        let request =
            Request::builder().method(method).uri(path).header("content-type", kind).body(body);
        let user = User::new("kubernetes-admin", &["system:masters"]);
        let response = self.server.handle(user, request.unwrap()).await;
        (response.status().as_u16(), response.into_body())
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        self.call_with(&method, path, kind, body).await
    }

    async fn call_with(
        &self,
        method: &Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> (u16, Value) {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let (code, body) = self.send(method, path, (kind, bytes)).await;
        let bytes = body.collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn ok(&self, method: Method, path: &str, body: &Value) -> Value {
        let (code, answer) = self.call(method.clone(), path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer}\n{body}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.ok(Method::GET, path, &Value::Null).await
    }

    /// Waits until the answer to a GET is as wanted.
    async fn until(&self, path: &str, is_wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let limit = self.env.instant() + LONGEST;
        loop {
            let (code, answer) = self.call(Method::GET, path, &Value::Null).await;
            if is_wanted(code, &answer) {
                return answer;
            }
            assert!(self.env.instant() < limit, "GET {path}: {code} {answer}");
            self.env.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every kind that can be created and watched.
    async fn served(&self) -> Vec<Resource> {
        let mut versions = vec!["v1".to_owned()];
        for group in self.get("/apis").await["groups"].as_array().unwrap() {
            let all = group["versions"].as_array().unwrap();
            versions.extend(all.iter().map(|one| text(&one["groupVersion"]).to_owned()));
        }
        let mut all = Vec::new();
        for version in versions {
            let root = match version.as_str() {
                "v1" => "/api/v1".to_owned(),
                other => format!("/apis/{other}"),
            };
            let list = self.get(&root).await;
            let resources = list["resources"].as_array().unwrap();
            for one in resources {
                let name = text(&one["name"]);
                let verbs: Vec<_> = one["verbs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|verb| text(verb).to_owned())
                    .collect();
                let is_stored = verbs.iter().any(|verb| verb == "watch");
                if name.contains('/') || !is_stored {
                    continue;
                }
                let place = match one["namespaced"] == true {
                    true => format!("{root}/namespaces/{NAMESPACE}/{name}"),
                    false => format!("{root}/{name}"),
                };
                let status = format!("{name}/status");
                all.push(Resource {
                    api_version: version.clone(),
                    kind: text(&one["kind"]).to_owned(),
                    collection: place,
                    verbs,
                    has_status: resources.iter().any(|other| other["name"] == status.as_str()),
                });
            }
        }
        all
    }
}

/// One kind on its way through the verbs.
struct Round<'w> {
    world: &'w World,
    resource: &'w Resource,
    /// What the answers to the writes of the first object said, in order.
    told: Vec<(&'static str, Value)>,
}

impl Round<'_> {
    async fn go(mut self) {
        let Resource { collection, kind, .. } = self.resource;
        let before = self.world.get(collection).await;
        let revision = text(&before["metadata"]["resourceVersion"]);
        let watch = format!("{collection}?watch=true&resourceVersion={revision}");
        let (code, mut watch) = {
            let nothing = ("application/json", Bytes::new());
            let (code, body) = self.world.send(&Method::GET, &watch, nothing).await;
            (code, Watch { body, read: Vec::new() })
        };
        assert_eq!(code, 200, "a watch of {kind}");
        let path = self.create().await;
        self.update(&path).await;
        self.patch(&path).await;
        self.status(&path).await;
        self.delete(&path).await;
        let mut gone = vec![path.rsplit('/').next().unwrap().to_owned()];
        gone.extend(self.delete_collection().await);
        self.check(&mut watch, &gone).await;
    }

    fn sample(&self, number: u8) -> Value {
        let mut sample = sample(&self.resource.api_version, &self.resource.kind, number);
        sample["metadata"]["labels"][LABEL] = "made".into();
        sample
    }

    async fn create(&mut self) -> String {
        let Resource { collection, kind, .. } = self.resource;
        let wanted = self.sample(1);
        let dry = format!("{collection}?dryRun=All&fieldValidation=Strict");
        self.world.ok(Method::POST, &dry, &wanted).await;
        let path = format!("{collection}/{}", text(&wanted["metadata"]["name"]));
        let none = self.world.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(none.0, 404, "a dry run of {kind} stores nothing");
        let made = self.world.ok(Method::POST, collection, &wanted).await;
        holds(&made, &wanted, kind);
        let (code, status) = self.world.call(Method::POST, collection, &wanted).await;
        assert_eq!((code, text(&status["reason"])), (409, "AlreadyExists"), "{kind}");
        let followed = FOLLOWED.iter().find(|(one, _)| one == kind);
        match followed {
            None => assert_eq!(self.world.get(&path).await, made, "what is read is what was made"),
            Some((_, condition)) => {
                let has = |_, object: &Value| {
                    let all = object["status"]["conditions"].as_array();
                    all.is_some_and(|all| all.iter().any(|one| one["type"] == *condition))
                };
                self.world.until(&path, has).await;
            }
        }
        self.told.push(("ADDED", made));
        path
    }

    async fn update(&mut self, path: &str) {
        let mut object = self.world.get(path).await;
        object["metadata"]["labels"][LABEL] = "updated".into();
        let updated = self.world.ok(Method::PUT, path, &object).await;
        holds(&updated["metadata"]["labels"], &object["metadata"]["labels"], path);
        self.told.push(("MODIFIED", updated));
        // What was read before is not good for a second write.
        let (code, status) = self.world.call(Method::PUT, path, &object).await;
        let is_same = (code, &status["metadata"]["resourceVersion"])
            == (200, &object["metadata"]["resourceVersion"]);
        assert!(!is_same && (code, text(&status["reason"])) == (409, "Conflict"), "{path}: {code}");
    }

    async fn patch(&mut self, path: &str) {
        let Resource { api_version, kind, .. } = self.resource;
        let label = |value: &str| json!({"metadata": {"labels": {LABEL: value}}});
        let pointer = format!("/metadata/labels/{LABEL}");
        let mut applied = label("apply-patch");
        applied["apiVersion"] = api_version.as_str().into();
        applied["kind"] = kind.as_str().into();
        for (form, value, body) in [
            ("strategic-merge-patch+json", "strategic", label("strategic")),
            ("merge-patch+json", "merge", label("merge")),
            (
                "json-patch+json",
                "json",
                json!([{"op": "replace", "path": pointer, "value": "json"}]),
            ),
            ("apply-patch+yaml", "apply-patch", applied),
        ] {
            let content_type = format!("application/{form}");
            let target = match value {
                "apply-patch" => format!("{path}?fieldManager=applier&force=true"),
                _ => path.to_owned(),
            };
            let (code, answer) =
                self.world.call_with(&Method::PATCH, &target, &content_type, &body).await;
            let is_custom = api_version.starts_with(CUSTOM_GROUP);
            if is_custom && value == "strategic" {
                assert_eq!(code, 415, "custom resources have no strategy");
                continue;
            }
            assert_eq!(code, 200, "{form} of {path}: {answer}");
            assert_eq!(answer["metadata"]["labels"][LABEL], value, "{form} of {path}");
            assert_eq!(self.world.get(path).await, answer);
            self.told.push(("MODIFIED", answer));
        }
        let managers = &self.told.last().unwrap().1["metadata"]["managedFields"];
        let is_applied = |one: &Value| one["manager"] == "applier" && one["operation"] == "Apply";
        assert!(managers.as_array().unwrap().iter().any(is_applied), "{path}: {managers}");
    }

    async fn status(&mut self, path: &str) {
        if self.resource.has_status {
            let part = self.world.get(&format!("{path}/status")).await;
            assert_eq!(part, self.world.get(path).await);
            // Of a custom resource, nothing but the status changes this way.
            let noted = match self.resource.api_version.starts_with(CUSTOM_GROUP) {
                true => json!({"status": {"seen": 1}}),
                false => json!({"metadata": {"annotations": {"status-of": "round"}}}),
            };
            let answer = self.world.ok(Method::PATCH, &format!("{path}/status"), &noted).await;
            self.told.push(("MODIFIED", answer));
        }
    }

    async fn delete(&mut self, path: &str) {
        self.world.ok(Method::DELETE, path, &Value::Null).await;
        self.let_go(path).await;
        let (code, status) = self.world.call(Method::GET, path, &Value::Null).await;
        assert_eq!((code, text(&status["reason"])), (404, "NotFound"), "{path}");
    }

    /// Takes off what holds an object that was deleted, as a controller would.
    async fn let_go(&mut self, path: &str) {
        let (code, mut object) = self.world.call(Method::GET, path, &Value::Null).await;
        if code == 404 {
            return;
        }
        assert!(object["metadata"]["deletionTimestamp"].is_string(), "{path}: {object}");
        if self.resource.kind == "Namespace" {
            object["spec"]["finalizers"] = json!([]);
            self.world.ok(Method::PUT, &format!("{path}/finalize"), &object).await;
        } else if self.resource.kind == "CustomResourceDefinition" {
            // The server does so itself.
            self.world.until(path, |code, _| code == 404).await;
        } else {
            let freed = json!({"metadata": {"finalizers": null}});
            self.world.ok(Method::PATCH, path, &freed).await;
        }
    }

    /// Makes two and deletes them at once, where that can be done.
    async fn delete_collection(&mut self) -> Vec<String> {
        let Resource { collection, kind, verbs, .. } = self.resource;
        let selected = format!("{collection}?labelSelector={LABEL}%3Dmade");
        if !verbs.iter().any(|verb| verb == "deletecollection") {
            let (code, _) = self.world.call(Method::DELETE, &selected, &Value::Null).await;
            assert_eq!((kind.as_str(), code), ("Namespace", 405));
            return Vec::new();
        }
        let mut names = Vec::new();
        for number in [2, 3] {
            let made = self.world.ok(Method::POST, collection, &self.sample(number)).await;
            names.push(text(&made["metadata"]["name"]).to_owned());
        }
        let found = self.world.get(&selected).await;
        assert_eq!(found["items"].as_array().unwrap().len(), 2, "{kind}");
        self.world.ok(Method::DELETE, &selected, &Value::Null).await;
        for name in &names {
            self.let_go(&format!("{collection}/{name}")).await;
        }
        let found = self.world.get(&selected).await;
        assert_eq!(found["items"], json!([]), "{kind}");
        names
    }

    /// The watch told every write once, in order and as its answer said; then the ends.
    async fn check(&self, watch: &mut Watch, gone: &[String]) {
        let kind = &self.resource.kind;
        let is_followed = FOLLOWED.iter().any(|(one, _)| one == kind);
        let mut wanted = self.told.iter();
        let mut missing: BTreeSet<&String> = gone.iter().collect();
        let mut last = 0;
        while !missing.is_empty() {
            let next = tokio::time::timeout(LONGEST, watch.next()).await;
            let event = next.expect("a watch of what was done").expect("the watch goes on");
            let metadata = &event["object"]["metadata"];
            let revision: i64 = text(&metadata["resourceVersion"]).parse().unwrap();
            assert!(revision > last, "{kind}: {revision} after {last}");
            last = revision;
            if event["type"] == "DELETED" {
                missing.retain(|name| *name != text(&metadata["name"]));
                continue;
            }
            let is_first = metadata["name"] == gone[0].as_str();
            if !is_first || !metadata["deletionTimestamp"].is_null() {
                continue;
            }
            let Some((name, object)) = wanted.as_slice().first() else {
                assert!(is_followed, "{kind}: nobody wrote {event}");
                continue;
            };
            if &event["object"] == object {
                assert_eq!(event["type"], *name, "{kind}");
                wanted.next();
            } else {
                assert!(is_followed, "{kind}: told {event}\nwritten was {object}");
            }
        }
        assert_eq!(wanted.len(), 0, "{kind}: every write was told before its end");
    }
}

/// An open watch.
struct Watch {
    body: Body,
    read: Vec<u8>,
}

impl Watch {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.read.extend_from_slice(&frame.into_data().unwrap());
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Everything that is wanted is there.
fn holds(found: &Value, wanted: &Value, at: &str) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (name, value) in wanted {
                let at = format!("{at}.{name}");
                holds(found.get(name).unwrap_or(&Value::Null), value, &at);
            }
        }
        (Value::Array(found), Value::Array(wanted)) => {
            assert_eq!(found.len(), wanted.len(), "{at}");
            for (number, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                holds(found, wanted, &format!("{at}[{number}]"));
            }
        }
        (found, wanted) => assert_eq!(found, wanted, "{at}"),
    }
}
