//! A request passed on to the server that serves its group and version.
//!
//! Who asks is authorized here, and named in headers that the other server believes because of this server's
//! certificate. Headers of that kind that a client sent are dropped.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, header};
use machinery::Status;

use super::{Remote, check};
use crate::authorization::{self, Attributes};
use crate::body::Body;
use crate::config::User;
use crate::query::Query;
use crate::server::ApiServer;
use crate::status;

/// Group and version of a path below `/apis`, and what comes behind.
pub(crate) fn split(path: &str) -> Option<(&str, &str, &str)> {
    let rest = path.strip_prefix("/apis/")?;
    let (group, rest) = rest.split_once('/')?;
    let (version, rest) = rest.split_once('/').unwrap_or((rest, ""));
    (!group.is_empty() && !version.is_empty()).then_some((group, version, rest))
}

/// 503, in the words that clients know.
fn unavailable() -> Status {
    let message = "the server is currently unable to handle the request";
    status::retry(Status::new(503, "ServiceUnavailable", message), 1)
}

/// Asks the other server.
pub(crate) async fn answer(
    server: &ApiServer,
    user: &User,
    remote: &Remote,
    request: http::Request<Bytes>,
) -> Result<Response<Body>, Status> {
    authorize(server, user, &request).await?;
    if remote.resources.is_none() {
        return Err(unavailable());
    }
    let peer = check::peer(server, &remote.object).await.map_err(|_| unavailable())?;
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    parts.uri = path.parse().map_err(|_| Status::bad_request("the path is no URI"))?;
    let is_ours = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-remote-")
            || name.starts_with("impersonate-")
            || [
                "authorization",
                "host",
                "connection",
                "content-length",
                "transfer-encoding",
                "upgrade",
            ]
            .contains(&name)
    };
    let dropped: Vec<HeaderName> =
        parts.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in dropped {
        parts.headers.remove(name);
    }
    for (name, value) in identity(user, &peer.server_name) {
        let value = HeaderValue::from_str(&value).map_err(|_| {
            Status::bad_request("the user's name or groups cannot be told in a header")
        })?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
            Status::bad_request("what is known of the user cannot be told in a header")
        })?;
        parts.headers.append(name, value);
    }
    let request = http::Request::from_parts(parts, body);
    let mut response = server.config.outbound.call(&peer, request).await.map_err(|error| {
        let message = format!("error trying to reach service: {error}");
        Status::new(503, "ServiceUnavailable", message)
    })?;
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

/// Who asks, in headers.
fn identity(user: &User, host: &str) -> Vec<(String, String)> {
    let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = vec![named("host", host), named("x-remote-user", &user.name)];
    if !user.uid.is_empty() {
        all.push(named("x-remote-uid", &user.uid));
    }
    all.extend(user.groups.iter().map(|group| named("x-remote-group", group)));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        all.extend(values.iter().map(|value| named(&name, value)));
    }
    all
}

/// A key as a header's name can hold it.
fn escaped(key: &str) -> String {
    let mut name = String::new();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(byte as char),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name.to_lowercase()
}

async fn authorize(
    server: &ApiServer,
    user: &User,
    request: &http::Request<Bytes>,
) -> Result<(), Status> {
    let path = request.uri().path();
    let Some((group, _, rest)) = split(path) else { return Err(status::no_such_path()) };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let (namespace, parts) = match parts.as_slice() {
        ["namespaces", namespace, inside @ ..] if !inside.is_empty() => (*namespace, inside),
        whole => ("", whole),
    };
    let Some(resource) = parts.first() else {
        let verb = request.method().as_str().to_lowercase();
        let asked = Attributes { verb: &verb, path, ..Attributes::default() };
        return authorization::authorize(server, user, &asked).await;
    };
    let name = parts.get(1).copied().unwrap_or_default();
    let is_watch = query.flag("watch");
    let verb = match *request.method() {
        Method::GET | Method::HEAD if is_watch => "watch",
        Method::GET | Method::HEAD if name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => return Err(status::method_not_allowed()),
    };
    let subresource = parts.get(2..).unwrap_or_default().join("/");
    let asked = Attributes {
        namespace,
        name,
        subresource: &subresource,
        ..Attributes::resource(verb, group, resource)
    };
    authorization::authorize(server, user, &asked).await
}
