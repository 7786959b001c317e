//! Webhooks over a whole server, answered in process.

mod answers;
mod questions;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Response};
use serde_json::{Value, json};

use crate::testing::{MAPS, PODS, World, config_map, named, pod, text};
use crate::{Body, Config, Outbound, OutboundError, Peer, Trust, Upgraded, User};

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

type Reply = Box<dyn Fn(&Value) -> Value + Send + Sync>;

/// Webhooks that answer in process: those with a reply by path, the others as their path says.
#[derive(Default)]
struct Hooks {
    replies: Mutex<BTreeMap<String, Reply>>,
    /// What was asked: path and `request`.
    seen: Mutex<Vec<(String, Value)>>,
    peers: Mutex<Vec<Peer>>,
}

impl Hooks {
    fn reply(&self, path: &str, reply: impl Fn(&Value) -> Value + Send + Sync + 'static) {
        self.replies.lock().unwrap().insert(path.to_owned(), Box::new(reply));
    }

    /// The paths that were asked since the last time, each with the operation and the object's name.
    fn asked(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let line = |(path, request): &(String, Value)| {
            format!("{path} {} {}", text(&request["operation"]), text(&request["name"]))
        };
        seen.iter().map(line).collect()
    }

    fn requests(&self) -> Vec<Value> {
        std::mem::take(&mut *self.seen.lock().unwrap()).into_iter().map(|(_, one)| one).collect()
    }
}

fn allowed(review: &Value) -> Value {
    let uid = &review["request"]["uid"];
    json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview",
        "response": {"uid": uid, "allowed": true}})
}

fn denied(review: &Value, status: Value) -> Value {
    let mut answer = allowed(review);
    answer["response"]["allowed"] = false.into();
    answer["response"]["status"] = status;
    answer
}

fn patched(review: &Value, patch: &Value) -> Value {
    let mut answer = allowed(review);
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    answer["response"]["patch"] = patch.into();
    answer["response"]["patchType"] = "JSONPatch".into();
    answer
}

#[async_trait]
impl Outbound for Hooks {
    async fn call(
        &self,
        peer: &Peer,
        request: http::Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        let path = request.uri().path().to_owned();
        let review: Value = serde_json::from_slice(request.body()).unwrap();
        self.seen.lock().unwrap().push((path.clone(), review["request"].clone()));
        self.peers.lock().unwrap().push(peer.clone());
        let with = |code: u16, body: String| {
            Ok(Response::builder().status(code).body(Body::whole(body)).unwrap())
        };
        if let Some(reply) = self.replies.lock().unwrap().get(&path) {
            return with(200, reply(&review).to_string());
        }
        let change = |part: &str, value: Value| {
            let mut answer = allowed(&review);
            answer[part] = value;
            with(200, answer.to_string())
        };
        let response = |part: &str, value: Value| {
            let mut answer = allowed(&review);
            answer["response"][part] = value;
            with(200, answer.to_string())
        };
        match path.as_str() {
            "/allow" => with(200, allowed(&review).to_string()),
            "/hang" => pending().await,
            "/stall" => {
                let pieces = futures::stream::once(async { Bytes::from_static(b"{") });
                let pieces = pieces.chain(futures::stream::pending());
                Ok(Response::new(Body::stream(pieces.boxed())))
            }
            "/endless" => {
                let piece = Bytes::from(vec![b' '; 100_000]);
                Ok(Response::new(Body::stream(futures::stream::repeat(piece).boxed())))
            }
            "/refused" => Err(OutboundError::Unreachable(
                "10.0.0.1:443".to_owned(),
                "connect: connection refused".to_owned(),
            )),
            "/tls" => Err(OutboundError::Tls(
                "failed to verify certificate: x509: certificate \
                signed by unknown authority"
                    .to_owned(),
            )),
            "/close" => Err(OutboundError::Broken("EOF".to_owned())),
            "/garbage" => with(200, "<html>".to_owned()),
            "/list" => with(200, "[]".to_owned()),
            "/empty" => with(200, String::new()),
            "/cut" => with(200, allowed(&review).to_string()[..40].to_owned()),
            "/404" => with(404, String::new()),
            "/500" => with(500, "it is on fire".to_owned()),
            "/503" => with(503, String::new()),
            "/302" => with(302, String::new()),
            "/uid" => response("uid", "other".into()),
            "/odd" => response("allowed", "yes".into()),
            "/absent" => change("response", Value::Null),
            "/version" => change("apiVersion", "admission.k8s.io/v2".into()),
            "/kind" => change("kind", "Pod".into()),
            "/base64" => with(200, {
                let mut answer = patched(&review, &json!([]));
                answer["response"]["patch"] = "%%%".into();
                answer.to_string()
            }),
            "/untyped" => response("patch", "W10=".into()),
            "/no-patch" => response("patchType", "JSONPatch".into()),
            "/merge" => with(200, {
                let mut answer = patched(&review, &json!([]));
                answer["response"]["patchType"] = "MergePatch".into();
                answer.to_string()
            }),
            other => panic!("no webhook at {other}"),
        }
    }

    async fn upgrade(
        &self,
        _peer: &Peer,
        _request: http::Request<Bytes>,
    ) -> Result<Upgraded, OutboundError> {
        Err(OutboundError::Broken("no streams here".to_owned()))
    }
}

async fn world() -> (World, Arc<Hooks>) {
    let hooks = Arc::new(Hooks::default());
    let config = Config { outbound: hooks.clone(), ..Config::default() };
    (World::with(&[], config).await, hooks)
}

/// A webhook for creates and updates of ConfigMaps at a URL whose path is its first name.
fn hook(name: &str, changes: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "clientConfig": {"url": format!("https://hooks.example.com/{name}")},
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["configmaps"]}],
    });
    hook.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    hook
}

/// Stores a configuration, and waits until the server has seen it.
async fn configure(world: &World, path: &str, name: &str, hooks: &[Value]) {
    let kind = if path == MUTATING {
        "MutatingWebhookConfiguration"
    } else {
        "ValidatingWebhookConfiguration"
    };
    let mut body = named("admissionregistration.k8s.io/v1", kind, name);
    body["webhooks"] = hooks.into();
    world.create(path, body).await;
    world.env.sleep(Duration::from_secs(1)).await;
}

async fn remove(world: &World, path: &str, name: &str) {
    world.delete(&format!("{path}/{name}")).await;
    world.env.sleep(Duration::from_secs(1)).await;
}
