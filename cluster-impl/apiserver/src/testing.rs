//! How this crate's tests talk to a server: one world with a store in memory, under virtual time.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use env::{Env, Sabotage, SimMachine, Timestamp};
use http::Method;
use http_body_util::BodyExt;
use machinery::{Kind, ObjectKey};
use serde_json::{Value, json};
use storage::memory::MemoryCluster;

use crate::accept::Accept;
use crate::query::Query;
use crate::request::{Request, Verb};
use crate::{ApiServer, AuditLine, Body, Config, User};

/// A server over an empty store of its own, which nobody runs.
pub(crate) fn server(config: Config) -> Arc<ApiServer> {
    let env = sim_env(&[]);
    let cluster = MemoryCluster::new(env.clone(), 1);
    ApiServer::new(env, cluster.member(0), config)
}

fn sim_env(sabotages: &[Sabotage]) -> Env {
    let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Env::new(Arc::new(SimMachine::new(1, "cp-1", epoch)), None).with_sabotages(sabotages)
}

/// A request of somebody to update something; the body is empty.
pub(crate) fn request(user: &User, kind: &'static Kind, key: ObjectKey, part: &str) -> Request {
    Request {
        user: user.clone(),
        verb: Verb::Update,
        kind,
        key,
        subresource: part.to_owned(),
        query: Query::parse(""),
        accept: Accept::JSON,
        content_type: "application/json".to_owned(),
        body: Bytes::new(),
        fence: None,
        manager: "test".to_owned(),
        dry_run: AtomicBool::new(false),
        trace: Mutex::default(),
        taken: OnceLock::new(),
    }
}

/// A server over a store of its own, with the namespaces `default` and `kube-system`, each with the
/// account that a controller would make.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) cluster: MemoryCluster,
    pub(crate) server: Arc<ApiServer>,
    audit: Arc<Mutex<Vec<AuditLine>>>,
    tasks: Mutex<Vec<env::Task<()>>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(&[], Config::default()).await
    }

    pub(crate) async fn with(sabotages: &[Sabotage], config: Config) -> Self {
        Self::build(sabotages, config, 1).await
    }

    /// A world whose store has several members, so that every request takes its time.
    pub(crate) async fn replicated() -> Self {
        Self::replicated_with(&[], Config::default()).await
    }

    /// ... with planted defects and settings.
    pub(crate) async fn replicated_with(sabotages: &[Sabotage], config: Config) -> Self {
        Self::build(sabotages, config, 3).await
    }

    async fn build(sabotages: &[Sabotage], config: Config, members: usize) -> Self {
        let env = sim_env(sabotages);
        let cluster = MemoryCluster::new(env.clone(), members);
        let audit = Arc::new(Mutex::new(Vec::new()));
        let sink = audit.clone();
        let config =
            Config { audit: Some(Arc::new(move |line| sink.lock().unwrap().push(line))), ..config };
        let server = ApiServer::new(env.clone(), cluster.member(0), config);
        let tasks = Mutex::default();
        let world = Self { env: env.clone(), cluster, server, audit, tasks };
        // Several members must first agree on a leader.
        env.sleep(std::time::Duration::from_secs(10)).await;
        for name in ["default", "kube-system"] {
            world.create("/api/v1/namespaces", named("v1", "Namespace", name)).await;
            let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
            world.create(&accounts, named("v1", "ServiceAccount", "default")).await;
        }
        world.audit();
        world
    }

    /// The lines of the audit since the last call.
    pub(crate) fn audit(&self) -> Vec<AuditLine> {
        std::mem::take(&mut self.audit.lock().unwrap())
    }

    /// Lets a task go on for as long as the world is there.
    pub(crate) fn keep(&self, task: env::Task<()>) {
        self.tasks.lock().unwrap().push(task);
    }

    /// Another server over the same store.
    pub(crate) async fn another(&self) -> Arc<ApiServer> {
        ApiServer::new(self.env.clone(), self.cluster.member(0), Config::default())
    }

    /// Sends a request as an administrator.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Body> {
        let user = User::new("kubernetes-admin", &["system:masters"]);
        self.send_as(&user, (method, path), headers, body).await
    }

    async fn send_as(
        &self,
        user: &User,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Body> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.server.handle(user.clone(), request.body(body).unwrap()).await
    }

    /// Sends JSON; answers the code and the body.
    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let content_type = content_type(&method);
        self.call_with(method, path, &[("content-type", content_type)], body).await
    }

    /// Sends JSON as somebody; answers the code and the body.
    pub(crate) async fn call_as(
        &self,
        user: &User,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let content_type = content_type(&method);
        let headers = [("content-type", content_type)];
        self.call_as_with(user, (method, path), &headers, body).await
    }

    /// Sends JSON with these headers; answers the code and the body.
    pub(crate) async fn call_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Value) {
        let user = User::new("kubernetes-admin", &["system:masters"]);
        self.call_as_with(&user, (method, path), headers, body).await
    }

    /// Sends JSON as somebody with these headers; answers the code and the body.
    pub(crate) async fn call_as_with(
        &self,
        user: &User,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let response = self.send_as(user, (method, path), headers, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (code, body) = self.call(Method::GET, path, &Value::Null).await;
        assert_eq!(code, 200, "GET {path}: {body}");
        body
    }

    pub(crate) async fn create(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(Method::POST, path, &body).await;
        assert_eq!(code, 201, "POST {path}: {answer}");
        answer
    }

    pub(crate) async fn update(&self, path: &str, body: &Value) -> Value {
        let (code, answer) = self.call(Method::PUT, path, body).await;
        assert!(code < 300, "PUT {path}: {code} {answer}");
        answer
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(Method::PATCH, path, &body).await;
        assert_eq!(code, 200, "PATCH {path}: {answer}");
        answer
    }

    pub(crate) async fn delete(&self, path: &str) -> Value {
        let (code, answer) = self.call(Method::DELETE, path, &Value::Null).await;
        assert_eq!(code, 200, "DELETE {path}: {answer}");
        answer
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        self.watch_with(path, &[]).await
    }

    pub(crate) async fn watch_with(&self, path: &str, headers: &[(&str, &str)]) -> Watch {
        let response = self.send(Method::GET, path, headers, Bytes::new()).await;
        assert_eq!(response.status(), 200, "GET {path}");
        Watch { body: response.into_body(), read: Vec::new() }
    }
}

fn content_type(method: &Method) -> &'static str {
    match *method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    }
}

/// An open watch.
pub(crate) struct Watch {
    body: Body,
    read: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.read.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// The next event as `TYPE name revision`.
    pub(crate) async fn told(&mut self) -> String {
        let Some(event) = self.next().await else { return "END".to_owned() };
        let metadata = &event["object"]["metadata"];
        let name = metadata["name"].as_str().unwrap_or("-");
        format!("{} {name} {}", text(&event["type"]), text(&metadata["resourceVersion"]))
    }

    /// Whether nothing comes for this long.
    pub(crate) async fn is_silent_for(&mut self, duration: std::time::Duration) -> bool {
        tokio::time::timeout(duration, self.next()).await.is_err()
    }
}

/// A text, or "" for anything else.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// An object with nothing but a name.
pub(crate) fn named(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}

/// A ConfigMap with one entry.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    let mut object = named("v1", "ConfigMap", name);
    object["data"] = json!({"key": value});
    object
}

/// A pod with one container.
pub(crate) fn pod(name: &str) -> Value {
    let mut object = named("v1", "Pod", name);
    object["metadata"]["labels"] = json!({"app": "web"});
    object["spec"] = json!({"containers": [{"name": "main", "image": "web:1"}]});
    object
}

/// A Deployment of two replicas.
pub(crate) fn deployment(name: &str) -> Value {
    let mut object = named("apps/v1", "Deployment", name);
    object["spec"] = json!({
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "web:1"}]},
        },
    });
    object
}

/// Paths of collections in `default`.
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A request for `CN=jane`, signed by its own key.
pub(crate) const CERTIFICATE_REQUEST: &str = "\
    LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISk1IRUNBUUF3RHpFTk1Bc0dBMVVFQXd3\
    RWFtRnVaVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSApBMElBQkV3MFl1ajYxbDJIRWZsRDd1UzNE\
    aTkwVW9nSEEyc0MwY05pVGF4NUVJdFpBaGgveUYwZ3RkOVFWY0FUCmdJSWRzTXp6VnRETzRpQVQ3Z1R5RHdY\
    Z3czV2dBREFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUFCVnVxK0lQNWoKNG5NQkVTYmEzYkp1aWo3T3pkNTBo\
    S0Q4Nng1MHAxeWV6UUloQUs2OERyVHk3MmZFL2VyWHBUU09kSXdnaWtQMwpUbm9MbGlqRmJwS0pUemphCi0t\
    LS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";
