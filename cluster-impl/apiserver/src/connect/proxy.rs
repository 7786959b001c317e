//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP to what serves there, by any method.
//!
//! A name may be `scheme:name:port`. Pods and services are reached without asking who they are; a
//! node's kubelet is reached as the API server reaches it for everything else.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use machinery::kinds::{ENDPOINTS, NODE, POD, SERVICE};
use machinery::{Object, ObjectKey, Status};
use rand::Rng;
use serde_json::Value;

use super::upgrade::{self, Upgrade};
use super::{Call, kubelet, rewrite};
use crate::audit::Source;
use crate::body::Body;
use crate::outbound::{Peer, Trust, Upgraded};
use crate::server::ApiServer;

pub(super) async fn answer(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let name = Name::read(&call.resource.key.name)?;
    let namespace = &call.resource.key.namespace;
    let peer = match call.resource.kind.id {
        "pods" => pod(server, namespace, &name).await?,
        "services" => service(server, namespace, &name).await?,
        _ => node(server, &name).await?,
    };
    let uri = call.request.uri();
    let path = sub_path(uri.path(), call.resource.kind.namespaced);
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return match *call.request.method() {
            // Relative places in the answer would otherwise be off by one.
            Method::GET | Method::HEAD => redirect(&format!("{}/{query}", uri.path())),
            _ => pass(server, call, &peer, &format!("/{query}")).await,
        };
    };
    pass(server, call, &peer, &format!("{path}{query}")).await
}

/// What a path says after `/proxy`; `None` if it is no path of a proxy.
pub(super) fn sub_path(path: &str, is_namespaced: bool) -> Option<&str> {
    // `/api/v1/nodes/{name}/proxy`, `/api/v1/namespaces/{namespace}/{plural}/{name}/proxy`
    let (nth, mut seen, mut begin) = (if is_namespaced { 7 } else { 5 }, 0, 0);
    for part in path.split('/') {
        let end = begin + part.len();
        seen += usize::from(!part.is_empty());
        if !part.is_empty() && seen == nth {
            return (part == "proxy").then_some(&path[end..]);
        }
        begin = end + 1;
    }
    None
}

fn redirect(to: &str) -> Result<Response<Body>, Status> {
    let mut response = Response::new(Body::whole(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(to).map_err(|error| Status::bad_request(error.to_string()))?;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

/// `[scheme:]name[:port]`
#[derive(Debug, PartialEq, Eq)]
struct Name {
    is_https: bool,
    name: String,
    port: String,
}

impl Name {
    fn read(text: &str) -> Result<Self, Status> {
        let invalid = || Status::bad_request(format!("invalid proxy request {text:?}"));
        let (scheme, name, port) = match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
            _ => return Err(invalid()),
        };
        if name.is_empty() {
            return Err(invalid());
        }
        Ok(Self { is_https: scheme == "https", name: name.to_owned(), port: port.to_owned() })
    }

    fn peer(&self, host: &str, port: u16) -> Peer {
        let trust = if self.is_https { Trust::Anybody } else { Trust::Plain };
        let [host, server_name] = [host.to_owned(), String::new()];
        Peer { host, port, server_name, trust, is_identified: false }
    }

    fn port(&self) -> Result<Option<u16>, Status> {
        match self.port.as_str() {
            "" => Ok(None),
            port => port.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("invalid proxy request: {port:?} is no port"))
            }),
        }
    }
}

async fn pod(server: &ApiServer, namespace: &str, name: &Name) -> Result<Peer, Status> {
    let pod = super::read(server, &POD, &ObjectKey::new(namespace, &name.name)).await?;
    let port = match name.port()? {
        Some(port) => Some(port),
        None => {
            let containers = pod.list("/spec/containers").iter();
            let mut ports = containers.filter_map(|container| container["ports"].as_array());
            let first = ports.find_map(|ports| ports.first()?["containerPort"].as_u64());
            first.and_then(|port| u16::try_from(port).ok())
        }
    };
    let ip = pod.text("/status/podIP");
    check_address(ip)?;
    Ok(name.peer(ip, port.unwrap_or(if name.is_https { 443 } else { 80 })))
}

/// Refuses an address that is this machine's own, or nobody's.
fn check_address(ip: &str) -> Result<(), Status> {
    let ip: std::net::IpAddr =
        ip.parse().map_err(|_| Status::bad_request("address not allowed"))?;
    let is_local = match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_local {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(())
}

async fn service(server: &ApiServer, namespace: &str, name: &Name) -> Result<Peer, Status> {
    let key = ObjectKey::new(namespace, &name.name);
    let service = super::read(server, &SERVICE, &key).await?;
    let port_name = port_name(&service, &name.port)?;
    let endpoints = super::read(server, &ENDPOINTS, &key).await?;
    let random = server.env.entropy("service-proxy").random_range(0..usize::MAX);
    let unavailable = || {
        let why = format!("no endpoints available for service {:?}", name.name);
        Status::new(503, "ServiceUnavailable", why)
    };
    let (ip, port) = endpoint(&endpoints, &port_name, random).ok_or_else(unavailable)?;
    check_address(&ip)?;
    Ok(name.peer(&ip, port))
}

/// The name of the port that is meant, by number or name; without one, any.
fn port_name(service: &Object, port: &str) -> Result<String, Status> {
    let Ok(number) = port.parse::<u16>() else { return Ok(port.to_owned()) };
    let ports = service.list("/spec/ports");
    let found = ports.iter().find(|one| one["port"].as_u64() == Some(number.into()));
    let found = found.ok_or_else(|| {
        let why = format!("no service port {number} found for service {:?}", service.name());
        Status::new(503, "ServiceUnavailable", why)
    })?;
    Ok(found["name"].as_str().unwrap_or_default().to_owned())
}

/// One of the ready addresses that have this port; any port if the name is empty.
fn endpoint(endpoints: &Object, port: &str, random: usize) -> Option<(String, u16)> {
    let subsets = endpoints.list("/subsets");
    let matching: Vec<(&Value, u16)> = subsets
        .iter()
        .flat_map(|subset| {
            let ports = subset["ports"].as_array().into_iter().flatten();
            let port = ports
                .filter(|one| port.is_empty() || one["name"].as_str().unwrap_or_default() == port)
                .find_map(|one| u16::try_from(one["port"].as_u64()?).ok());
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            port.into_iter().flat_map(move |port| addresses.clone().map(move |one| (one, port)))
        })
        .collect();
    let (address, port) = *matching.get(random.checked_rem(matching.len())?)?;
    Some((address["ip"].as_str()?.to_owned(), port))
}

async fn node(server: &ApiServer, name: &Name) -> Result<Peer, Status> {
    let node = super::read(server, &NODE, &ObjectKey::new("", &name.name)).await?;
    let kubelet = kubelet::peer(server, &node)?;
    match name.port()? {
        None => Ok(kubelet),
        Some(port) if port == kubelet.port => Ok(kubelet),
        Some(port) => {
            check_address(&kubelet.host)?;
            Ok(name.peer(&kubelet.host, port))
        }
    }
}

/// Passes a request and its answer on.
async fn pass(
    server: &Arc<ApiServer>,
    call: &Call,
    peer: &Peer,
    path: &str,
) -> Result<Response<Body>, Status> {
    let incoming = &call.request;
    if upgrade::wanted(incoming.headers()).is_some() {
        let client = upgrade::required(incoming.headers(), incoming.extensions())?;
        let method = incoming.method().clone();
        return pass_upgrade(server, call, client, peer, (method, path)).await;
    }
    let mut request = Request::new(incoming.body().clone());
    *request.method_mut() = incoming.method().clone();
    *request.uri_mut() =
        path.parse().map_err(|_| Status::bad_request(format!("{path:?} is no path")))?;
    let mut headers = kubelet::passed_on(incoming.headers());
    rewrite::forget_connection(&mut headers);
    forwarded(&mut headers, call);
    *request.headers_mut() = headers;
    let answer = server.config.outbound.call(peer, request).await;
    let mut answer = answer.map_err(|error| {
        let why = format!("error trying to reach service: {error}");
        Status::new(503, "ServiceUnavailable", why)
    })?;
    let headers = answer.headers_mut();
    rewrite::forget_connection(headers);
    rewrite::location(headers, &format!("{}:{}", peer.host, peer.port), prefix(call));
    Ok(answer)
}

/// The path up to and with `proxy`.
fn prefix(call: &Call) -> &str {
    let path = call.request.uri().path();
    let below = sub_path(path, call.resource.kind.namespaced).map_or(0, str::len);
    &path[..path.len() - below]
}

/// Says where a request came from.
fn forwarded(headers: &mut HeaderMap, call: &Call) {
    if let Ok(path) = HeaderValue::from_str(call.request.uri().path()) {
        headers.insert("x-forwarded-uri", path);
    }
    let Some(Source(from)) = call.request.extensions().get::<Source>() else { return };
    let before = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let all = match before {
        Some(before) => format!("{before}, {from}"),
        None => from.to_string(),
    };
    if let Ok(all) = HeaderValue::from_str(&all) {
        headers.insert("x-forwarded-for", all);
    }
}

/// Passes an upgrade on, and then all bytes.
pub(super) async fn pass_upgrade(
    server: &Arc<ApiServer>,
    call: &Call,
    client: Upgrade,
    peer: &Peer,
    (method, path): (Method, &str),
) -> Result<Response<Body>, Status> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() =
        path.parse().map_err(|_| Status::bad_request(format!("{path:?} is no path")))?;
    let mut headers = kubelet::passed_on(call.request.headers());
    forwarded(&mut headers, call);
    *request.headers_mut() = headers;
    let outbound = &server.config.outbound;
    match outbound.upgrade(peer, request).await {
        Err(error) => Err(kubelet::unreachable("error dialing backend", &error)),
        Ok(Upgraded::Answer(mut answer)) => {
            rewrite::forget_connection(answer.headers_mut());
            Ok(answer)
        }
        Ok(Upgraded::Stream(head, backend)) => {
            let headers = head.into_parts().0.headers;
            Ok(upgrade::switch(client, headers, move |wire| upgrade::copy(wire, backend)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let told = |text: &str| {
            let name = Name::read(text).map_err(|status| status.message)?;
            Ok::<_, String>(format!("{} {} {}", name.is_https, name.name, name.port))
        };
        assert_eq!(told("web"), Ok("false web ".to_owned()));
        assert_eq!(told("web:80"), Ok("false web 80".to_owned()));
        assert_eq!(told("https:web:metrics"), Ok("true web metrics".to_owned()));
        assert_eq!(told("http:web:"), Ok("false web ".to_owned()));
        assert_eq!(told(":web:80"), Ok("false web 80".to_owned()));
        for bad in ["", ":80", "ftp:web:80", "a:b:c:d"] {
            assert!(told(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sub_path_is_kept_as_it_was_written() {
        for (path, is_namespaced, expected) in [
            ("/api/v1/nodes/a/proxy", false, Some("")),
            ("/api/v1/nodes/a/proxy/", false, Some("/")),
            ("/api/v1/nodes/proxy/proxy/proxy/x", false, Some("/proxy/x")),
            ("/api/v1/namespaces/a/pods/b:80/proxy/x//y/%2e%2e/z/", true, Some("/x//y/%2e%2e/z/")),
            ("//api/v1/nodes//a/proxy//x", false, Some("//x")),
            ("/api/v1/nodes/a/status", false, None),
        ] {
            assert_eq!(sub_path(path, is_namespaced), expected, "{path}");
        }
    }

    #[test]
    fn a_service_s_endpoint_has_the_port_that_is_meant() {
        let mut endpoints = Object::new("v1", "Endpoints", "a", "web");
        endpoints.set(
            "/subsets",
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
                "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9}]},
                {"notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "http", "port": 1}]}]),
        );
        let found = |port: &str, random| endpoint(&endpoints, port, random);
        assert_eq!(found("http", 0), Some(("10.0.0.1".to_owned(), 8080)));
        assert_eq!(found("http", 3), Some(("10.0.0.2".to_owned(), 8080)));
        assert_eq!(found("admin", 4), Some(("10.0.0.1".to_owned(), 9)));
        assert_eq!(found("", 0), Some(("10.0.0.1".to_owned(), 8080)));
        assert_eq!(found("nope", 0), None);
        let mut service = Object::new("v1", "Service", "a", "web");
        service.set("/spec/ports", json!([{"name": "http", "port": 80}]));
        assert_eq!(port_name(&service, "80"), Ok("http".to_owned()));
        assert_eq!(port_name(&service, "http"), Ok("http".to_owned()));
        assert_eq!(port_name(&service, "81").unwrap_err().code, 503);
    }

    #[test]
    fn addresses_of_the_machine_itself_are_not_proxied_to() {
        for bad in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "", "web"] {
            assert_eq!(check_address(bad).unwrap_err().code, 400, "{bad}");
        }
        assert_eq!(check_address("10.244.1.2"), Ok(()));
    }
}
