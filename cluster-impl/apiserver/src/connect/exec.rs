//! `pods/exec` and `pods/attach`: the standard streams of a container's process.

use std::sync::Arc;

use http::{HeaderValue, Method, Response, header};
use machinery::Status;
use machinery::kinds::POD;

use super::{Call, container, encoded, kubelet, node_of, proxy, translate, upgrade, websocket};
use crate::body::Body;
use crate::server::ApiServer;

const V5: &str = "v5.channel.k8s.io";

/// Which streams of the process a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

pub(super) async fn answer(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let pod = super::read(server, &POD, &call.resource.key).await?;
    let query = &call.query;
    let flag = |name: &str| query.flag(name);
    let wanted = Wanted {
        stdin: flag("stdin"),
        stdout: flag("stdout"),
        stderr: flag("stderr"),
        tty: flag("tty"),
    };
    let node = node_of(&pod)?;
    let container = container(&pod, query.text("container"))?;
    let peer = kubelet::of_node(server, node).await?;
    let path = kubelet::path(
        &call.resource.subresource,
        &pod,
        &container,
        &kubelet_query(wanted, query.all("command")),
    );
    let headers = call.request.headers();
    let client = upgrade::required(headers, call.request.extensions())?;
    let is_v5 = websocket::offered(headers).is_some_and(|offered| offered.contains(&V5));
    if !is_v5 {
        let method = call.request.method().clone();
        return proxy::pass_upgrade(server, call, client, &peer, (method, &path)).await;
    }
    let accepted = websocket::accept(headers, V5)?;
    let server = server.clone();
    Ok(upgrade::switch(client, accepted, move |wire| async move {
        let mut asked = upgrade::upgrade_headers("SPDY/3.1");
        let version = HeaderValue::from_static("v4.channel.k8s.io");
        asked.insert("x-stream-protocol-version", version);
        asked.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let backend = kubelet::upgrade(&server, &peer, (Method::POST, &path), asked).await;
        translate::run(&server.env, wire, backend.map(|(_, wire)| wire), wanted).await;
    }))
}

/// The wanted streams and the command, in the kubelet's words.
fn kubelet_query<'q>(wanted: Wanted, command: impl Iterator<Item = &'q str>) -> String {
    let mut parts: Vec<String> = command.map(|word| format!("command={}", encoded(word))).collect();
    for (name, is_wanted) in [
        ("error", wanted.stderr),
        ("input", wanted.stdin),
        ("output", wanted.stdout),
        ("tty", wanted.tty),
    ] {
        if is_wanted {
            parts.push(format!("{name}=1"));
        }
    }
    parts.join("&")
}
