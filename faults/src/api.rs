//! Reads and writes through the API servers that a fault may speak to, in their order.
//!
//! An API server that does not answer within [`PATIENCE`] is passed over; an answer of any kind,
//! a refusal too, is final.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::fault::FaultError;
use shakedown_core::target::Endpoint;

/// How long one API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a write is tried again after somebody else changed the object in between.
const CONFLICTS_MAX: u32 = 5;

/// How a write came out.
pub(crate) enum Written {
    /// It was done; this is the object.
    Done(Value),
    /// There is no such object.
    Absent,
    /// Somebody else changed the object in between.
    Conflict(String),
}

/// The object at this path, or `None` if there is none; with the node whose API server answered.
pub(crate) async fn get(
    endpoints: &[Endpoint],
    path: &str,
) -> Result<(String, Option<Value>), FaultError> {
    read(endpoints.iter(), path).await
}

/// As [`get`], but asks the last API server first: not the one that [`patch`] and [`delete`] prefer.
pub(crate) async fn get_elsewhere(
    endpoints: &[Endpoint],
    path: &str,
) -> Result<(String, Option<Value>), FaultError> {
    read(endpoints.iter().rev(), path).await
}

async fn read<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    path: &str,
) -> Result<(String, Option<Value>), FaultError> {
    let doing = format!("failed to get {path}");
    match send(endpoints, &doing, &Call { method: "GET", path, media: "", body: &Value::Null })
        .await?
    {
        (node, Ok(object)) => Ok((node, Some(object))),
        (node, Err(status)) if status.code == 404 => Ok((node, None)),
        (node, Err(status)) => Err(refused(doing, &node, &status)),
    }
}

/// The items of a list.
pub(crate) async fn list(endpoints: &[Endpoint], path: &str) -> Result<Vec<Value>, FaultError> {
    let (_, found) = get(endpoints, path).await?;
    Ok(match found.map(|mut list| list["items"].take()) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    })
}

/// The HTTP status with which one of these API servers answers a request for this path.
pub(crate) async fn code(endpoints: &[Endpoint], path: &str) -> Result<(String, u16), FaultError> {
    let doing = format!("failed to get {path}");
    let call = Call { method: "GET", path, media: "", body: &Value::Null };
    let (node, answer) = send(endpoints.iter(), &doing, &call).await?;
    Ok((node, answer.map_or_else(|status| status.code, |_| 200)))
}

/// What an API server would store for this object, without storing it.
pub(crate) async fn would_create(
    endpoint: &Endpoint,
    path: &str,
    object: &Value,
) -> Result<Value, FaultError> {
    let path = format!("{path}?dryRun=All");
    let doing = format!("failed to try a creation at {path}");
    let call = Call { method: "POST", path: &path, media: "application/json", body: object };
    match send(std::iter::once(endpoint), &doing, &call).await? {
        (_, Ok(object)) => Ok(object),
        (node, Err(status)) => Err(refused(doing, &node, &status)),
    }
}

/// A merge patch (RFC 7386).
pub(crate) async fn patch(
    endpoints: &[Endpoint],
    path: &str,
    body: &Value,
) -> Result<Written, FaultError> {
    let call = Call { method: "PATCH", path, media: "application/merge-patch+json", body };
    write(endpoints, format!("failed to patch {path}"), &call).await
}

/// A deletion with these DeleteOptions.
pub(crate) async fn delete(
    endpoints: &[Endpoint],
    path: &str,
    options: &Value,
) -> Result<Written, FaultError> {
    let call = Call { method: "DELETE", path, media: "application/json", body: options };
    write(endpoints, format!("failed to delete {path}"), &call).await
}

/// Reads the object, lets `change` make a merge patch of it, and writes that if nobody changed the
/// object in between; else begins anew. `change` answers `None` if there is nothing to do. Answers
/// the object as it is then, or `None` if there is none.
pub(crate) async fn change(
    endpoints: &[Endpoint],
    path: &str,
    change: impl Fn(&Value) -> Option<Value>,
) -> Result<Option<Value>, FaultError> {
    let mut why = String::new();
    for _ in 0..CONFLICTS_MAX {
        let Some(object) = get(endpoints, path).await?.1 else { return Ok(None) };
        let Some(mut body) = change(&object) else { return Ok(Some(object)) };
        // With the resourceVersion in it, the patch is refused if the object was changed meanwhile.
        body["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
        match patch(endpoints, path, &body).await? {
            Written::Done(object) => return Ok(Some(object)),
            Written::Absent => return Ok(None),
            Written::Conflict(message) => why = message,
        }
    }
    Err(FaultError::Api {
        doing: format!("failed to patch {path}"),
        why: format!("{CONFLICTS_MAX} times somebody else changed it in between: {why}"),
    })
}

/// The path of a Node.
pub(crate) fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

/// The path of a Pod, given as `namespace/name`.
pub(crate) fn pod_path(key: &str) -> String {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

struct Call<'a> {
    method: &'a str,
    path: &'a str,
    media: &'a str,
    body: &'a Value,
}

async fn write(
    endpoints: &[Endpoint],
    doing: String,
    call: &Call<'_>,
) -> Result<Written, FaultError> {
    match send(endpoints.iter(), &doing, call).await? {
        (_, Ok(object)) => Ok(Written::Done(object)),
        (_, Err(status)) if status.code == 404 => Ok(Written::Absent),
        (_, Err(status)) if status.code == 409 => Ok(Written::Conflict(status.message)),
        (node, Err(status)) => Err(refused(doing, &node, &status)),
    }
}

fn refused(doing: String, node: &str, status: &kube::core::Status) -> FaultError {
    FaultError::Api {
        doing,
        why: format!("{} {} ({node}): {}", status.code, status.reason, status.message),
    }
}

async fn send<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    doing: &str,
    call: &Call<'_>,
) -> Result<(String, Result<Value, Box<kube::core::Status>>), FaultError> {
    let mut whys = Vec::new();
    for endpoint in endpoints {
        let answer =
            tokio::time::timeout(PATIENCE, endpoint.client.request::<Value>(request(doing, call)?))
                .await;
        match answer {
            Ok(Ok(object)) => return Ok((endpoint.node.clone(), Ok(object))),
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                return Ok((endpoint.node.clone(), Err(status)));
            }
            Ok(Err(error)) => whys.push(format!("{}: {error}", endpoint.node)),
            Err(_) => whys.push(format!("{}: no answer within {PATIENCE:?}", endpoint.node)),
        }
    }
    let why = if whys.is_empty() { "no API server to ask".to_owned() } else { whys.join("; ") };
    Err(FaultError::Api { doing: doing.to_owned(), why })
}

fn request(doing: &str, call: &Call<'_>) -> Result<http::Request<Vec<u8>>, FaultError> {
    let body = if call.body.is_null() { Vec::new() } else { call.body.to_string().into_bytes() };
    let mut request = http::Request::builder().method(call.method).uri(call.path);
    if !call.media.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, call.media);
    }
    request
        .body(body)
        .map_err(|error| FaultError::Api { doing: doing.to_owned(), why: error.to_string() })
}
