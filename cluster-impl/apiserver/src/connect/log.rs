//! `pods/log`: what a container wrote, from its kubelet, for as long as the client reads.
//!
//! Over WebSocket the text comes in messages (`binary.k8s.io`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyStream;
use machinery::kinds::POD;
use machinery::{Cause, Object, Status};
use serde_json::json;

use super::{Call, container, encoded, kubelet, upgrade, websocket};
use crate::body::Body;
use crate::outbound::Trust;
use crate::query::Query;
use crate::server::ApiServer;
use crate::status;

/// A kubelet begins to answer within this time.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn answer(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let pod = super::read(server, &POD, &call.resource.key).await?;
    check(&pod, &call.query)?;
    let container = container(&pod, call.query.text("container"))?;
    let node = pod.text("/spec/nodeName");
    if node.is_empty() {
        // Nothing runs that could have written: upstream has no answer either.
        let mut nothing = Response::new(Body::whole(""));
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let mut peer = kubelet::of_node(server, node).await?;
    if call.query.flag("insecureSkipTLSVerifyBackend") {
        peer.trust = Trust::Anybody;
    }
    let path = kubelet::path("containerLogs", &pod, &container, &query(&call.query)?);
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = path.parse().map_err(Status::internal)?;
    let asked = server.config.outbound.call(&peer, request);
    let answer = tokio::time::timeout(HEAD_WITHIN, asked).await.map_err(|_| status::timed_out())?;
    let what = || format!("Get \"https://{}:{}{path}\"", peer.host, peer.port);
    let answer = answer.map_err(|error| kubelet::unreachable(&what(), &error))?;
    if !(200..=206).contains(&answer.status().as_u16()) {
        return Err(refusal(answer, pod.name()).await);
    }
    write(call, answer)
}

/// Passes the text on, in the form that the client wants.
fn write(call: &Call, answer: Response<Body>) -> Result<Response<Body>, Status> {
    let headers = call.request.headers();
    if let Some(offered) = websocket::offered(headers) {
        let coding = websocket::coding(&offered);
        let (protocol, coding) = coding.ok_or_else(|| {
            Status::bad_request("the server offers binary.k8s.io and base64.binary.k8s.io")
        })?;
        let upgrade = upgrade::required(headers, call.request.extensions())?;
        let accepted = websocket::accept(headers, protocol)?;
        let pieces = BodyStream::new(answer.into_body())
            .filter_map(|piece| async { piece.ok().and_then(|frame| frame.into_data().ok()) });
        return Ok(upgrade::switch(upgrade, accepted, move |wire| {
            websocket::send(wire, pieces.boxed(), coding)
        }));
    }
    let mut response = Response::new(answer.into_body());
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// What a kubelet refused, as a status.
async fn refusal(answer: Response<Body>, pod: &str) -> Status {
    let code = answer.status().as_u16();
    let why = kubelet::text(answer.into_body()).await;
    match code {
        400 => Status::bad_request(why),
        500 => Status::internal(why),
        code => {
            let (reason, what) = match code {
                401 => {
                    ("Unauthorized", "the server has asked for the client to provide credentials")
                }
                403 => ("Forbidden", why.as_str()),
                404 => ("NotFound", "the server could not find the requested resource"),
                _ => (
                    "InternalError",
                    "an error on the server prevented the request from succeeding",
                ),
            };
            let why_not = why.trim_end();
            let message = match code {
                403 => format!("{what} ( pods/log {pod})"),
                _ => format!("{what} (\"{why_not}\") ( pods/log {pod})"),
            };
            let mut status = Status::new(code, reason, message);
            status.details = json!({"name": pod, "kind": "pods/log", "causes": [
                {"reason": "UnexpectedServerResponse", "message": why_not}]});
            status
        }
    }
}

/// The options that a client must not give.
fn check(pod: &Object, query: &Query) -> Result<(), Status> {
    let mut causes = Vec::new();
    let mut wrong = |field: &str, reason: &str, message: String| {
        let [reason, field] = [reason, field].map(str::to_owned);
        causes.push(Cause { reason, message, field });
    };
    for (name, least) in [("tailLines", 0), ("limitBytes", 1)] {
        if let Some(number) = query.integer(name)?.filter(|number| *number < least) {
            let bound = if least == 0 { "greater than or equal to 0" } else { "greater than 0" };
            let message = format!("Invalid value: {number}: must be {bound}");
            wrong(name, "FieldValueInvalid", message);
        }
    }
    let seconds = query.integer("sinceSeconds")?;
    if seconds.is_some() && !query.text("sinceTime").is_empty() {
        let message = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        wrong("", "FieldValueForbidden", message.to_owned());
    } else if let Some(number) = seconds.filter(|number| *number < 1) {
        let message = format!("Invalid value: {number}: must be greater than 0");
        wrong("sinceSeconds", "FieldValueInvalid", message);
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("", "PodLogOptions", pod.name(), &causes))
}

/// The options as the kubelet reads them.
fn query(asked: &Query) -> Result<String, Status> {
    let mut parts = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if asked.flag(name) {
            parts.push(format!("{name}=true"));
        }
    }
    for name in ["sinceSeconds", "tailLines", "limitBytes"] {
        if let Some(number) = asked.integer(name)? {
            parts.push(format!("{name}={number}"));
        }
    }
    match asked.text("sinceTime") {
        "" => {}
        time if time.parse::<env::Timestamp>().is_ok() => {
            parts.push(format!("sinceTime={}", encoded(time)));
        }
        time => {
            return Err(Status::bad_request(format!("parsing time {time:?} as RFC 3339 failed")));
        }
    }
    Ok(parts.join("&"))
}
