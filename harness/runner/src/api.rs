//! Requests to the API servers: each with a time limit, from one server to the next until one answers.

use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};
use shakedown_core::kinds::Kind;
use shakedown_core::lever::Undo;
use shakedown_core::target::Endpoint;
use tokio::time::timeout;

/// How long one request may take. An API server gives up on etcd after as long.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long all servers together may take: an election, and a server that starts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two rounds over all servers.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It was refused.
    #[error("{what}: {code} {reason}: {message}")]
    Refused {
        /// Verb and path.
        what: String,
        /// HTTP status.
        code: u16,
        /// The Status' reason.
        reason: String,
        /// The Status' message.
        message: String,
    },
    /// No server gave an answer.
    #[error("{what}: no API server answered: {why}")]
    Silent {
        /// Verb and path.
        what: String,
        /// The last failure.
        why: String,
    },
}

impl ApiError {
    /// HTTP status, if it was refused.
    pub fn code(&self) -> Option<u16> {
        match self {
            ApiError::Refused { code, .. } => Some(*code),
            ApiError::Silent { .. } => None,
        }
    }
}

/// A request, before it is sent anywhere.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None }
    }

    pub fn create(path: impl Into<String>, object: Value) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(object) }
    }

    pub fn update(path: impl Into<String>, object: Value) -> Self {
        Self { method: Method::PUT, path: path.into(), body: Some(object) }
    }

    /// A merge patch (RFC 7386).
    pub fn patch(path: impl Into<String>, fields: Value) -> Self {
        Self { method: Method::PATCH, path: path.into(), body: Some(fields) }
    }

    pub fn delete(path: impl Into<String>, options: Value) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: Some(options) }
    }

    fn request(&self) -> Request<Vec<u8>> {
        let content = match self.method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        Request::builder()
            .method(self.method.clone())
            .uri(self.path.as_str())
            .header(http::header::CONTENT_TYPE, content)
            .header(http::header::ACCEPT, "application/json")
            .body(self.body.as_ref().map(|body| body.to_string().into_bytes()).unwrap_or_default())
            .expect("paths are made of checked names")
    }

    /// For people: `PATCH /api/v1/nodes/worker-1`.
    pub fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// How one server answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Ok(Value),
    /// It was refused and did not happen.
    Refused {
        code: u16,
        reason: String,
        message: String,
    },
    /// Nobody knows whether it happened.
    Unknown(String),
}

/// Asks one server once.
pub(crate) async fn ask(endpoint: &Endpoint, call: &Call, limit: Duration) -> Answer {
    match timeout(limit, endpoint.client.request::<Value>(call.request())).await {
        Err(_) => Answer::Unknown(format!("no answer within {limit:?}")),
        Ok(Ok(value)) => Answer::Ok(value),
        Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => Answer::Refused {
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        Ok(Err(kube::Error::Api(status))) => {
            Answer::Unknown(format!("{} {}: {}", status.code, status.reason, status.message))
        }
        Ok(Err(error)) => Answer::Unknown(error.to_string()),
    }
}

/// Asks one server after the other until one gives a definite answer. A write may then have happened
/// before: callers take `AlreadyExists` and `NotFound` for what they are after.
pub(crate) async fn call(endpoints: &[Endpoint], call: &Call) -> Result<Value, ApiError> {
    let mut why = String::from("there is no API server");
    let rounds = async {
        loop {
            for endpoint in endpoints {
                match ask(endpoint, call, REQUEST_LIMIT).await {
                    Answer::Ok(value) => return Ok(value),
                    // Too many requests: the next round is later.
                    Answer::Refused { code: 429, message, .. } => why = message,
                    Answer::Refused { code, reason, message } => {
                        return Err(ApiError::Refused { what: call.what(), code, reason, message });
                    }
                    Answer::Unknown(reason) => why = format!("{}: {reason}", endpoint.node),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match timeout(PATIENCE, rounds).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::Silent { what: call.what(), why }),
    }
}

/// The servers that answer a linearizable read now, in their own order, then the others.
pub(crate) async fn best_first(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let limit = Duration::from_secs(1);
    let read = Call::get("/api/v1/namespaces/kube-system");
    let answers =
        futures::future::join_all(endpoints.iter().map(|endpoint| ask(endpoint, &read, limit)))
            .await;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (endpoint, answer) in endpoints.iter().zip(answers) {
        match answer {
            Answer::Unknown(_) => bad.push(endpoint.clone()),
            _ => good.push(endpoint.clone()),
        }
    }
    good.extend(bad);
    good
}

/// The resourceVersion of an object or a list; 0 if it has none.
pub(crate) fn revision_of(object: &Value) -> i64 {
    let text = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Takes a write through the API back. Doing it twice, or without the write, does no harm.
pub async fn api_undo(endpoints: &[Endpoint], undo: &Undo) -> Result<(), ApiError> {
    match undo {
        Undo::Uncordon { node } => {
            let path = node_path(node);
            let fields = json!({"spec": {"unschedulable": null}});
            gone_is_done(call(endpoints, &Call::patch(path, fields)).await)
        }
        Undo::RemoveTaint { node, key, value, effect } => {
            let wanted = |taint: &Value| {
                taint["key"] == key.as_str()
                    && taint["value"].as_str().unwrap_or_default() == value
                    && taint["effect"] == effect.as_str()
            };
            remove_taint(endpoints, node, wanted).await
        }
        _ => Ok(()),
    }
}

fn node_path(node: &str) -> String {
    Kind::of_word("node").expect("nodes are a kind").path("", node)
}

fn gone_is_done(answer: Result<Value, ApiError>) -> Result<(), ApiError> {
    match answer {
        Err(error) if error.code() == Some(404) => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// Removes exactly the wanted taint; whoever else changes the node meanwhile is not overwritten.
async fn remove_taint(
    endpoints: &[Endpoint],
    node: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<(), ApiError> {
    let path = node_path(node);
    let mut last = None;
    // A node is written a few times a minute: a tenth conflict in a row is not bad luck.
    for _ in 0..10 {
        let mut object = match call(endpoints, &Call::get(&path)).await {
            Err(error) if error.code() == Some(404) => return Ok(()),
            answer => answer?,
        };
        let Some(taints) = object.pointer_mut("/spec/taints").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        let before = taints.len();
        taints.retain(|taint| !wanted(taint));
        if taints.len() == before {
            return Ok(());
        }
        match call(endpoints, &Call::update(&path, object)).await {
            Err(error) if error.code() == Some(409) => last = Some(error),
            answer => return gone_is_done(answer),
        }
    }
    Err(last.expect("every round ended in a conflict"))
}
