//! A small API server in memory: lists, watches that resume, writes with preconditions.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What all API servers share.
#[derive(Default)]
struct Content {
    revision: i64,
    /// By collection path and name.
    objects: BTreeMap<(String, String), Value>,
    /// Every change: collection path, type, object.
    log: Vec<(String, &'static str, Value)>,
}

/// The store behind the API servers.
#[derive(Clone)]
pub struct Api {
    content: Arc<Mutex<Content>>,
    changed: watch::Sender<i64>,
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn reply(code: StatusCode, value: &Value) -> Reply {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn refuse(code: u16, reason: &str) -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": reason});
    reply(StatusCode::from_u16(code).unwrap(), &status)
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(key);
                } else {
                    merge(&mut into[key], value);
                }
            }
        }
        other => *into = other.clone(),
    }
}

/// Splits the path of an object: collection over all namespaces, namespace, name.
fn place(path: &str) -> (String, String, String) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let root = if parts[0] == "api" { 2 } else { 3 };
    let (prefix, rest) = (parts[..root].join("/"), &parts[root..]);
    match rest {
        ["namespaces", ns, plural, name @ ..] => {
            (format!("{prefix}/{plural}"), ns.to_string(), name.join("/"))
        }
        [plural, name @ ..] => (format!("{prefix}/{plural}"), String::new(), name.join("/")),
        [] => panic!("no path: {path}"),
    }
}

impl Api {
    pub fn new() -> Self {
        Self { content: Arc::default(), changed: watch::Sender::new(0) }
    }

    /// Puts an object as it is.
    pub fn put(&self, path: &str, mut object: Value) {
        let (collection, namespace, name) = place(path);
        let mut content = self.content.lock().unwrap();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        content.write(&collection, &format!("{namespace}/{name}"), object);
        self.changed.send_replace(content.revision);
    }

    /// Merges fields into an object.
    pub fn change(&self, path: &str, fields: &Value) {
        let (collection, namespace, name) = place(path);
        let mut content = self.content.lock().unwrap();
        let key = format!("{namespace}/{name}");
        let mut object = content.objects[&(collection.clone(), key.clone())].clone();
        merge(&mut object, fields);
        content.write(&collection, &key, object);
        self.changed.send_replace(content.revision);
    }

    /// What is in a collection.
    pub fn names(&self, collection: &str) -> Vec<String> {
        let content = self.content.lock().unwrap();
        let there = content.objects.keys().filter(|(of, _)| of == collection);
        there.map(|(_, key)| key.clone()).collect()
    }

    /// Answers one request.
    pub async fn handle(self, request: Request<Body>, silent: watch::Receiver<bool>) -> Reply {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let query = head.uri.query().unwrap_or_default();
        let (collection, namespace, name) = place(head.uri.path());
        if query.contains("watch=true") {
            let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
            let from = from.unwrap().parse().unwrap();
            return self.watch(collection, namespace, from, silent);
        }
        let mut content = self.content.lock().unwrap();
        let reply = content.answer(&head.method, &collection, (&namespace, &name), body);
        self.changed.send_replace(content.revision);
        reply
    }

    fn watch(
        self,
        collection: String,
        namespace: String,
        from: i64,
        silent: watch::Receiver<bool>,
    ) -> Reply {
        let changed = self.changed.subscribe();
        let state = (self, changed, from);
        let frames = futures::stream::unfold(state, move |(api, mut changed, from)| {
            let (collection, namespace) = (collection.clone(), namespace.clone());
            let silent = silent.clone();
            async move {
                loop {
                    if *silent.borrow() {
                        futures::future::pending::<()>().await;
                    }
                    let (text, revision) = api.events(&collection, &namespace, from);
                    if !text.is_empty() {
                        return Some((
                            Ok(http_body::Frame::data(Bytes::from(text))),
                            (api, changed, revision),
                        ));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }

    fn events(&self, collection: &str, namespace: &str, from: i64) -> (String, i64) {
        let content = self.content.lock().unwrap();
        let mut text = String::new();
        // The log has one entry for each revision.
        for (of, change, object) in content.log.iter().skip(from as usize) {
            if of == collection
                && (namespace.is_empty() || object["metadata"]["namespace"] == namespace)
            {
                text.push_str(&format!("{}\n", json!({"type": change, "object": object})));
            }
        }
        (text, content.revision)
    }
}

impl Content {
    fn write(&mut self, collection: &str, key: &str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let before = self.objects.insert((collection.into(), key.into()), object.clone());
        let change = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((collection.into(), change, object.clone()));
        object
    }

    fn delete(&mut self, collection: &str, key: &str) -> Value {
        let mut object = self.objects.remove(&(collection.into(), key.into())).unwrap();
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.log.push((collection.into(), "DELETED", object.clone()));
        object
    }

    fn answer(
        &mut self,
        method: &Method,
        collection: &str,
        place: (&str, &str),
        body: Value,
    ) -> Reply {
        let (namespace, name) = place;
        let key = format!("{namespace}/{name}");
        let found = self.objects.get(&(collection.into(), key.clone())).cloned();
        match (method, found) {
            (&Method::GET, _) if name.is_empty() => {
                let is_in = |((of, _), object): &(&(String, String), &Value)| {
                    of == collection
                        && (namespace.is_empty() || object["metadata"]["namespace"] == namespace)
                };
                let items: Vec<&Value> =
                    self.objects.iter().filter(is_in).map(|(_, object)| object).collect();
                reply(
                    StatusCode::OK,
                    &json!({"metadata": {"resourceVersion": self.revision.to_string()}, "items": items}),
                )
            }
            (&Method::POST, _) => self.create(collection, namespace, body),
            (_, None) => refuse(404, "NotFound"),
            (&Method::GET, Some(object)) => reply(StatusCode::OK, &object),
            (&Method::PUT, Some(object)) => {
                let wanted = &body["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                    return refuse(409, "Conflict");
                }
                reply(StatusCode::OK, &self.write(collection, &key, body))
            }
            (&Method::PATCH, Some(mut object)) => {
                let wanted = &body["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                    return refuse(409, "Conflict");
                }
                merge(&mut object, &body);
                reply(StatusCode::OK, &self.write(collection, &key, object))
            }
            (&Method::DELETE, Some(object)) => {
                for field in ["resourceVersion", "uid"] {
                    let wanted = &body["preconditions"][field];
                    if !wanted.is_null() && *wanted != object["metadata"][field] {
                        return refuse(409, "Conflict");
                    }
                }
                if collection == "api/v1/namespaces" {
                    let inside: Vec<(String, String)> = self
                        .objects
                        .keys()
                        .filter(|(_, key)| key.starts_with(&format!("{name}/")))
                        .cloned()
                        .collect();
                    for (collection, key) in inside {
                        self.delete(&collection, &key);
                    }
                }
                reply(StatusCode::OK, &self.delete(collection, &key))
            }
            (method, _) => panic!("{method} is not answered"),
        }
    }

    fn create(&mut self, collection: &str, namespace: &str, mut object: Value) -> Reply {
        let name = object["metadata"]["name"].as_str().unwrap().to_string();
        let key = format!("{namespace}/{name}");
        if self.objects.contains_key(&(collection.into(), key.clone())) {
            return refuse(409, "AlreadyExists");
        }
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        if collection == "api/v1/pods" {
            object["status"] =
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        }
        reply(StatusCode::CREATED, &self.write(collection, &key, object))
    }
}
