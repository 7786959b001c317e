//! A minute API server for the kubelet's tests: objects by path, revisions, watches, merge patches.
//!
//! It can be cut off, and then answers nothing until it is mended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use apiclient::ApiClient;
use bytes::Bytes;
use env::Timestamp;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

type Body = StreamBody<BoxStream<'static, Result<http_body::Frame<Bytes>, Infallible>>>;

/// The server.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<(i64, String, Value)>,
    cut: watch::Sender<bool>,
    /// What its wall clock read, and when.
    clock: (Timestamp, Instant),
}

#[derive(Default)]
struct State {
    revision: i64,
    /// By path of the object.
    objects: BTreeMap<String, Value>,
    log: Vec<(i64, String, Value)>,
    requests: usize,
    tokens: usize,
}

impl FakeApi {
    /// A server whose clock begins in 1970, as that of the tests' machine does.
    pub fn new() -> Self {
        Self::at(Timestamp::UNIX_EPOCH)
    }

    pub fn at(now: Timestamp) -> Self {
        Self {
            state: Arc::default(),
            events: broadcast::channel(4096).0,
            cut: watch::Sender::new(false),
            clock: (now, Instant::now()),
        }
    }

    pub fn client(&self) -> ApiClient {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        ApiClient::new(vec![kube::Client::new(service, "default")])
    }

    /// Cuts the server off, or mends the link.
    pub fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub fn list(&self, prefix: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, o)| o.clone())
            .collect()
    }

    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    /// Stores an object as an administrator would.
    pub fn put(&self, path: &str, object: Value) {
        self.store(path, object);
    }

    /// Changes an object; `null` removes a field.
    pub fn merge(&self, path: &str, patch: &Value) {
        let mut object = self.get(path).expect("an object to change");
        merge(&mut object, patch);
        self.store(path, object);
    }

    pub fn remove(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        if let Some(mut object) = state.objects.remove(path) {
            object["metadata"]["resourceVersion"] = state.revision.to_string().into();
            self.tell(&mut state, path, json!({"type": "DELETED", "object": object}));
        }
    }

    fn store(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let mut parts = path.rsplit('/');
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = parts.next().into();
        }
        if let Some((_, rest)) = path.split_once("/namespaces/") {
            object["metadata"]["namespace"] = rest.split('/').next().into();
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", state.revision).into();
        }
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        self.tell(&mut state, path, json!({"type": kind, "object": object}));
        object
    }

    fn tell(&self, state: &mut State, path: &str, event: Value) {
        let told = (state.revision, path.to_owned(), event);
        state.log.push(told.clone());
        let _ = self.events.send(told);
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let mut cut = self.cut.subscribe();
        let _ = cut.wait_for(|cut| !cut).await;
        self.state.lock().unwrap().requests += 1;
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name));
        let name = parameter("fieldSelector=metadata.name%3D").map(|name| format!("/{name}"));
        let name = name.unwrap_or_default();
        if query.contains("watch=true") {
            let from = parameter("resourceVersion=");
            return self.watch((&path, &name), from.unwrap().parse().unwrap());
        }
        match parts.method {
            Method::GET if is_collection(&path) => self.read_all(&path, &name),
            Method::GET => self.get(&path).map_or_else(not_found, |object| ok(&object)),
            Method::POST if path.ends_with("/token") => self.token(body),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&path).is_some() {
                    return failure(409, "AlreadyExists");
                }
                ok(&self.store(&path, body))
            }
            Method::PUT => {
                let Some(old) = self.get(&path) else { return not_found() };
                let asked = &body["metadata"]["resourceVersion"];
                if *asked != old["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                ok(&self.store(&path, body))
            }
            Method::PATCH => {
                let path = path.trim_end_matches("/status").to_owned();
                let Some(mut object) = self.get(&path) else { return not_found() };
                merge(&mut object, &body);
                ok(&self.store(&path, object))
            }
            Method::DELETE => self.delete(&path, &body),
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    /// Answers a request for a token: `token-1`, `token-2` and so on.
    fn token(&self, mut request: Value) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        state.tokens += 1;
        let life = request["spec"]["expirationSeconds"].as_u64().unwrap();
        let now = self.clock.0 + self.clock.1.elapsed();
        let end = now + std::time::Duration::from_secs(life);
        let token = format!("token-{}", state.tokens);
        request["status"] = json!({"token": token, "expirationTimestamp": format!("{end:.0}")});
        ok(&request)
    }

    fn delete(&self, path: &str, body: &Value) -> Response<Body> {
        let Some(mut object) = self.get(path) else { return not_found() };
        let uid = &body["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return failure(409, "Conflict");
        }
        let grace = body["gracePeriodSeconds"].as_i64().unwrap_or(30);
        if grace == 0 {
            self.remove(path);
        } else {
            object["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            self.store(path, object);
        }
        ok(&json!({"kind": "Status", "status": "Success"}))
    }

    fn read_all(&self, path: &str, name: &str) -> Response<Body> {
        let state = self.state.lock().unwrap();
        let belongs = |at: &str| belongs(at, path) && at.ends_with(name);
        let items: Vec<_> =
            state.objects.iter().filter(|(at, _)| belongs(at)).map(|(_, o)| o.clone()).collect();
        let revision = state.revision.to_string();
        ok(&json!({"metadata": {"resourceVersion": revision}, "items": items}))
    }

    fn watch(&self, (path, name): (&str, &str), from: i64) -> Response<Body> {
        let live = self.events.subscribe();
        let past = self.state.lock().unwrap().log.clone();
        let last = past.last().map_or(0, |(revision, _, _)| *revision);
        let past = past.into_iter().filter(move |(revision, _, _)| *revision > from);
        let live = futures::stream::unfold(live, |mut live| async move {
            Some((live.recv().await.ok()?, live))
        })
        .filter(move |(revision, _, _)| futures::future::ready(*revision > last));
        let (path, name) = (path.to_owned(), name.to_owned());
        let cut = self.cut.clone();
        let lines = futures::stream::iter(past)
            .chain(live)
            .filter(move |(_, at, _)| {
                futures::future::ready(belongs(at, &path) && at.ends_with(&name))
            })
            .then(move |(_, _, event)| {
                let mut cut = cut.subscribe();
                async move {
                    let _ = cut.wait_for(|cut| !cut).await;
                    Ok(http_body::Frame::data(Bytes::from(format!("{event}\n"))))
                }
            });
        Response::new(StreamBody::new(lines.boxed()))
    }
}

fn is_collection(path: &str) -> bool {
    ["pods", "nodes", "leases", "events", "configmaps", "secrets", "services"]
        .iter()
        .any(|plural| path.ends_with(&format!("/{plural}")))
}

/// Whether an object lies in a collection: of one namespace, or of all.
fn belongs(object: &str, collection: &str) -> bool {
    let Some((base, plural)) = collection.rsplit_once('/') else { return false };
    let parent = object.rsplit_once('/').map_or("", |(parent, _)| parent);
    parent == collection || (object.starts_with(base) && parent.ends_with(&format!("/{plural}")))
}

fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut object[key], value);
        }
    }
}

fn ok(value: &Value) -> Response<Body> {
    respond(200, value)
}

fn not_found() -> Response<Body> {
    failure(404, "NotFound")
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    respond(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": reason, "message": reason, "code": code}),
    )
}

fn respond(code: u16, value: &Value) -> Response<Body> {
    let frame = Ok(http_body::Frame::data(Bytes::from(value.to_string())));
    let body = StreamBody::new(futures::stream::iter([frame]).boxed());
    Response::builder().status(code).body(body).unwrap()
}
