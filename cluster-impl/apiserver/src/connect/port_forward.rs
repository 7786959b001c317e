//! `pods/portforward`: connections to ports of a pod. The streams inside are the client's and the
//! runtime's business; SPDY that comes inside of WebSocket messages is unwrapped.

use std::sync::Arc;

use http::{HeaderValue, Method, Response, header};
use machinery::Status;
use machinery::kinds::POD;

use super::{Call, kubelet, node_of, proxy, upgrade, websocket};
use crate::body::Body;
use crate::server::ApiServer;

/// SPDY inside of WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOL: &str = "portforward.k8s.io";

pub(super) async fn answer(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let pod = super::read(server, &POD, &call.resource.key).await?;
    let peer = kubelet::of_node(server, node_of(&pod)?).await?;
    let headers = call.request.headers();
    let client = upgrade::required(headers, call.request.extensions())?;
    let is_tunnel = websocket::offered(headers).is_some_and(|offered| offered.contains(&TUNNEL));
    if !is_tunnel {
        let mut ports = Vec::new();
        for port in call.query.all("ports").flat_map(|ports| ports.split(',')) {
            let number: u16 = port
                .parse()
                .map_err(|_| Status::bad_request(format!("unable to parse {port:?} as a port")))?;
            ports.push(format!("port={number}"));
        }
        let path = kubelet::path("portForward", &pod, "", &ports.join("&"));
        let method = call.request.method().clone();
        return proxy::pass_upgrade(server, call, client, &peer, (method, &path)).await;
    }
    let accepted = websocket::accept(headers, TUNNEL)?;
    let path = kubelet::path("portForward", &pod, "", "");
    let mut asked = upgrade::upgrade_headers("SPDY/3.1");
    asked.insert("x-stream-protocol-version", HeaderValue::from_static(PROTOCOL));
    asked.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    // The client has no stream yet on which it could be told of a failure.
    let backend = kubelet::upgrade(server, &peer, (Method::POST, &path), asked).await;
    let (_, backend) = backend.map_err(Status::internal)?;
    Ok(upgrade::switch(client, accepted, move |wire| websocket::tunnel(wire, backend)))
}
