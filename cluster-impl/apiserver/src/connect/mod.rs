//! Connections to pods, services and nodes: logs, exec, attach, port-forward, proxies. One file each.
//!
//! The server stands between a client and a kubelet (or whatever serves behind a proxy): it decides
//! whether the client may, finds out where to go, and passes bytes on. Nothing here holds back the rest
//! of the server: these requests have no time limit, and end with their connection.
//! What clients speak: WebSocket (`v5.channel.k8s.io` is translated to SPDY, as kubelets and containerd
//! know no later version than v4; SPDY in WebSocket is unwrapped) and SPDY/3.1 or older WebSocket
//! protocols, which pass through untouched.

mod exec;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod kubelet;
mod log;
mod port_forward;
mod proxy;
mod rewrite;
mod translate;
pub(crate) mod upgrade;
mod websocket;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{Method, Response};
use machinery::kinds::POD;
use machinery::{Kind, Object, ObjectKey, Status};
use serde_json::{Value, json};
use storage::{KeyRange, RangeRequest};

use crate::accept::Accept;
use crate::admission::{self, Operation, Review};
use crate::answer::refuse;
use crate::authorization::{self, Attributes};
use crate::body::Body;
use crate::codec::Stored;
use crate::config::User;
use crate::query::Query;
use crate::request::{Request, Verb};
use crate::route::Resource;
use crate::server::ApiServer;
use crate::{status, storage_key};

/// One request to be connected.
struct Call {
    user: User,
    resource: Resource,
    query: Query,
    request: http::Request<Bytes>,
}

/// Whether a path names a connection.
pub(crate) fn is_meant(resource: &Resource) -> bool {
    let Resource { kind, key, subresource } = resource;
    !key.name.is_empty()
        && match subresource.as_str() {
            "attach" | "exec" | "log" | "portforward" => kind.id == POD.id,
            "proxy" => ["nodes", "pods", "services"].contains(&kind.id),
            _ => false,
        }
}

/// Answers a request for a connection.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    user: User,
    resource: Resource,
    query: Query,
    request: http::Request<Bytes>,
) -> Response<Body> {
    let call = Call { user, resource, query, request };
    let described = describe(&call);
    match connect(server, &call, &described).await {
        Ok(response) => response,
        Err(status) => refuse(&status),
    }
}

async fn connect(
    server: &Arc<ApiServer>,
    call: &Call,
    described: &Request,
) -> Result<Response<Body>, Status> {
    let method = call.request.method();
    let subresource = call.resource.subresource.as_str();
    let is_allowed = match subresource {
        "log" => *method == Method::GET,
        "proxy" => true,
        _ => [Method::GET, Method::POST].contains(method),
    };
    if !is_allowed {
        return Err(status::method_not_allowed());
    }
    let Resource { kind, key, .. } = &call.resource;
    let asked = Attributes {
        subresource,
        namespace: &key.namespace,
        name: &key.name,
        ..Attributes::resource(verb(method), kind.group, kind.plural)
    };
    authorization::authorize(server, &call.user, &asked).await?;
    if subresource == "log" {
        return log::answer(server, call).await;
    }
    admit(server, call, described).await?;
    match subresource {
        "exec" | "attach" => exec::answer(server, call).await,
        "portforward" => port_forward::answer(server, call).await,
        _ => proxy::answer(server, call).await,
    }
}

/// What a method is called in authorization.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Lets admission see the options of a connection, as an object.
async fn admit(server: &Arc<ApiServer>, call: &Call, described: &Request) -> Result<(), Status> {
    let mut options = Object(options(call));
    let mut review =
        Review { object: Some(&mut options), ..Review::new(server, described, Operation::Connect) };
    admission::mutate(&mut review).await?;
    admission::validate(review).await?;
    Ok(())
}

fn options(call: &Call) -> Value {
    let flag = |name: &str| call.query.flag(name);
    let Resource { kind, subresource, .. } = &call.resource;
    let (name, fields) = match (kind.id, subresource.as_str()) {
        (_, "exec" | "attach") => {
            let mut fields = json!({
                "stdin": flag("stdin"), "stdout": flag("stdout"), "stderr": flag("stderr"),
                "tty": flag("tty"), "container": call.query.text("container"),
            });
            let is_exec = subresource == "exec";
            if is_exec {
                fields["command"] = call.query.all("command").collect();
            }
            (if is_exec { "PodExecOptions" } else { "PodAttachOptions" }, fields)
        }
        (_, "portforward") => {
            let ports = call.query.all("ports").flat_map(|ports| ports.split(','));
            let ports: Vec<i32> = ports.filter_map(|port| port.parse().ok()).collect();
            ("PodPortForwardOptions", json!({"ports": ports}))
        }
        (id, _) => {
            let name = match id {
                "pods" => "PodProxyOptions",
                "services" => "ServiceProxyOptions",
                _ => "NodeProxyOptions",
            };
            let path = proxy::sub_path(call.request.uri().path(), kind.namespaced);
            (name, json!({"path": path.unwrap_or_default()}))
        }
    };
    let mut options = json!({"kind": name, "apiVersion": "v1"});
    if let (Value::Object(options), Value::Object(fields)) = (&mut options, fields) {
        options.extend(fields);
    }
    options
}

/// The request as metrics and admission know requests.
fn describe(call: &Call) -> Request {
    let verb = match *call.request.method() {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ => Verb::Get,
    };
    Request {
        user: call.user.clone(),
        verb,
        kind: call.resource.kind,
        key: call.resource.key.clone(),
        subresource: call.resource.subresource.clone(),
        query: call.query.clone(),
        accept: Accept::JSON,
        content_type: String::new(),
        body: Bytes::new(),
        fence: None,
        manager: String::new(),
        dry_run: AtomicBool::new(false),
        trace: Mutex::default(),
        taken: OnceLock::new(),
    }
}

/// Reads one object.
async fn read(server: &ApiServer, kind: &'static Kind, key: &ObjectKey) -> Result<Object, Status> {
    let range = KeyRange::key(storage_key::key(kind, key));
    let found = server.store.range(RangeRequest::latest(range)).await;
    let found = found.map_err(status::from_store)?;
    let kv = found.kvs.first().ok_or_else(|| status::not_found(kind, key))?;
    Stored::from(kv).object()
}

/// The container that is meant: the one that is named, or the only one.
fn container(pod: &Object, named: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod.list(&format!("/spec/{list}")).iter();
        containers.filter_map(|container| container["name"].as_str()).collect()
    };
    let (own, initial) = (names("containers"), names("initContainers"));
    let name = pod.name();
    if !named.is_empty() {
        let all = [&own[..], &initial, &names("ephemeralContainers")].concat();
        return match all.contains(&named) {
            true => Ok(named.to_owned()),
            false => {
                Err(Status::bad_request(format!("container {named} is not valid for pod {name}")))
            }
        };
    }
    if let [only] = own.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut why = format!("a container name must be specified for pod {name}");
    if !own.is_empty() {
        why.push_str(&format!(", choose one of: [{}]", own.join(" ")));
    }
    if !initial.is_empty() {
        why.push_str(&format!(" or one of the init containers: [{}]", initial.join(" ")));
    }
    Err(Status::bad_request(why))
}

/// The node of a pod; refuses a pod that has none.
fn node_of(pod: &Object) -> Result<&str, Status> {
    match pod.text("/spec/nodeName") {
        "" => Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name()))),
        node => Ok(node),
    }
}

/// Percent-encodes a value of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
#[path = "tests/clients.rs"]
mod clients;
#[cfg(test)]
mod tests;
