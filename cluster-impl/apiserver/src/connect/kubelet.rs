//! Where the kubelet of a node is, and what it answers.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use machinery::kinds::NODE;
use machinery::{Object, ObjectKey, Status};

use crate::body::Body;
use crate::outbound::{OutboundError, Peer, Trust, Upgraded};
use crate::server::ApiServer;

use super::upgrade::Wire;

/// The port of a kubelet that does not say.
const PORT: u16 = 10250;
/// So much of an error's text is passed on.
const ERROR_BYTES_MAX: usize = 4096;
/// Which address of a node is tried, in this order.
const ADDRESSES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];

/// Where a node's kubelet serves.
pub(crate) fn peer(server: &ApiServer, node: &Object) -> Result<Peer, Status> {
    let addresses = node.list("/status/addresses");
    let host = ADDRESSES.iter().find_map(|kind| {
        let found = addresses.iter().find(|address| address["type"] == *kind);
        found.and_then(|address| address["address"].as_str()).filter(|host| !host.is_empty())
    });
    let Some(host) = host else {
        let message = format!("no preferred addresses found; known addresses: {addresses:?}");
        return Err(Status::internal(message));
    };
    let port = node.integer("/status/daemonEndpoints/kubeletEndpoint/Port");
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let trust = match &server.config.kubelet_certificate_authority {
        Some(authority) => Trust::Authorities(authority.clone()),
        None => Trust::Anybody,
    };
    Ok(Peer {
        host: host.to_owned(),
        port: port.unwrap_or(PORT),
        server_name: String::new(),
        trust,
        is_identified: true,
    })
}

/// Where the kubelet of this node serves.
pub(super) async fn of_node(server: &ApiServer, node: &str) -> Result<Peer, Status> {
    let node = super::read(server, &NODE, &ObjectKey::new("", node)).await?;
    peer(server, &node)
}

/// The path of what a kubelet serves of a pod: the words are names that were checked when the pod was
/// stored, so none needs quoting.
pub(super) fn path(endpoint: &str, pod: &Object, container: &str, query: &str) -> String {
    let mut path = format!("/{endpoint}/{}/{}", pod.namespace(), pod.name());
    if !container.is_empty() {
        path.push('/');
        path.push_str(container);
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// Why a kubelet could not be asked. It is the cluster's failure, not the client's.
pub(super) fn unreachable(what: &str, error: &OutboundError) -> Status {
    Status::new(500, "", format!("{what}: {error}"))
}

/// Asks a kubelet to leave HTTP; the text says why it did not.
pub(super) async fn upgrade(
    server: &ApiServer,
    peer: &Peer,
    (method, path): (Method, &str),
    headers: HeaderMap,
) -> Result<(HeaderMap, Wire), String> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|error| format!("{path:?} is no path: {error}"))?;
    *request.headers_mut() = headers;
    let outbound = server.config.outbound.clone();
    match outbound.upgrade(peer, request).await {
        Err(error) => Err(format!("error dialing backend: {error}")),
        Ok(Upgraded::Stream(head, wire)) => Ok((head.into_parts().0.headers, wire)),
        Ok(Upgraded::Answer(answer)) => {
            let why = text(answer.into_body()).await;
            let why = match serde_json::from_str::<serde_json::Value>(&why) {
                Ok(status) => status["message"].as_str().unwrap_or(&why).to_owned(),
                Err(_) => why,
            };
            Err(format!("unable to upgrade connection: {why}"))
        }
    }
}

/// The beginning of a body, as text.
pub(super) async fn text(mut body: Body) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ERROR_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    bytes.truncate(ERROR_BYTES_MAX);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The client's headers without what is only for this server or this connection.
pub(super) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    passed.remove(header::AUTHORIZATION);
    passed.remove(header::HOST);
    let impersonation: Vec<_> =
        passed.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        passed.remove(name);
    }
    passed
}
