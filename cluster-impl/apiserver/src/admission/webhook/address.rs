//! Where a webhook is: a URL, or a Service whose ready endpoints are tried one after the other.
//!
//! A server need not have a service proxy on its own host, so it finds the pods itself and takes the
//! Service's address last.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::kinds::{ENDPOINT_SLICE, SERVICE};
use machinery::{Object, ObjectKey};
use serde_json::Value;

use crate::outbound::{Peer, Trust};
use crate::picture::Picture;
use crate::server::ApiServer;

/// How many endpoints of a Service are tried.
const PEERS_MAX: usize = 5;

/// The URL that is posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    host: String,
    port: u16,
    path: String,
    is_default_port: bool,
    timeout_s: u64,
}

impl Url {
    pub(super) fn authority(&self) -> String {
        match self.is_default_port {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(super) fn path_and_query(&self) -> String {
        format!("{}?timeout={}s", self.path, self.timeout_s)
    }

    /// What went wrong with a call of it.
    pub(super) fn failed(&self, why: &str) -> String {
        format!("Post \"https://{}{}\": {why}", self.authority(), self.path_and_query())
    }
}

/// The URL of a client configuration.
pub(super) fn url(config: &Value, timeout_s: u64) -> Result<Url, String> {
    if let Some(service) = config["service"].as_object() {
        let text = |part: &str| service.get(part).and_then(Value::as_str).unwrap_or_default();
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let path = text("path");
        return Ok(Url {
            host: format!("{}.{}.svc", text("name"), text("namespace")),
            port: u16::try_from(port).map_err(|_| format!("port {port} is none"))?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            is_default_port: false,
            timeout_s,
        });
    }
    let text = config["url"].as_str().unwrap_or_default();
    let uri: http::Uri = text.parse().map_err(|error| format!("parse {text:?}: {error}"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("the URL has no host")?;
    Ok(Url {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(443),
        path: uri.path().to_owned(),
        is_default_port: uri.port_u16().is_none(),
        timeout_s,
    })
}

/// Whom to call, in the order in which they are tried.
pub(super) async fn peers(
    server: &ApiServer,
    config: &Value,
    url: &Url,
) -> Result<Vec<Peer>, String> {
    let bundle = config["caBundle"].as_str().unwrap_or_default();
    let bundle = STANDARD.decode(bundle).map_err(|error| format!("caBundle: {error}"))?;
    let peer = |(host, port): (String, u16)| Peer {
        host,
        port,
        server_name: url.host.trim_matches(['[', ']']).to_owned(),
        trust: Trust::Authorities(bundle.clone()),
        is_identified: false,
    };
    let addresses = match config["service"].as_object() {
        None => vec![(url.host.trim_matches(['[', ']']).to_owned(), url.port)],
        Some(service) => {
            let text = |part: &str| service.get(part).and_then(Value::as_str).unwrap_or_default();
            let key = ObjectKey::new(text("namespace"), text("name"));
            endpoints(server, &key, url.port).await?
        }
    };
    Ok(addresses.into_iter().map(peer).collect())
}

/// The ready endpoints of a Service, and its own address.
async fn endpoints(
    server: &ApiServer,
    key: &ObjectKey,
    port: u16,
) -> Result<Vec<(String, u16)>, String> {
    let name = &key.name;
    let service = Picture::get(server, &SERVICE, key).await.map_err(|error| error.message)?;
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
    if service.text("/spec/type") == "ExternalName" {
        return Ok(vec![(service.text("/spec/externalName").to_owned(), port)]);
    }
    let meant = service.list("/spec/ports").iter().find(|one| one["port"] == port);
    let meant =
        meant.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = meant["name"].as_str().unwrap_or_default();
    let slices = Picture::all(server, &ENDPOINT_SLICE, &key.namespace).await;
    let slices = slices.map_err(|error| error.message)?;
    let of_service = |slice: &&std::sync::Arc<Object>| {
        slice.label("kubernetes.io/service-name") == Some(name.as_str())
    };
    let mut found = BTreeSet::new();
    for slice in slices.iter().filter(of_service) {
        let target = slice
            .list("/ports")
            .iter()
            .find(|one| one["name"].as_str().unwrap_or_default() == port_name);
        let target = target.and_then(|one| one["port"].as_u64());
        let Some(target) = target.and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in slice.list("/endpoints") {
            if endpoint["conditions"]["ready"].as_bool() == Some(false) {
                continue;
            }
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            found.extend(
                addresses.filter_map(Value::as_str).map(|address| (address.to_owned(), target)),
            );
        }
    }
    if found.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    let mut all: Vec<_> = found.into_iter().take(PEERS_MAX).collect();
    let own = service.text("/spec/clusterIP");
    if !["", "None"].contains(&own) {
        all.push((own.to_owned(), port));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn urls_are_those_of_services_and_those_given() {
        let service = |path: Value| json!({"service": {"name": "hook", "namespace": "shop", "path": path, "port": 8443}});
        for (config, authority, path) in [
            (service(json!("/check")), "hook.shop.svc:8443", "/check?timeout=7s"),
            (service(Value::Null), "hook.shop.svc:8443", "/?timeout=7s"),
            (
                json!({"url": "https://hooks.example.com/a/b"}),
                "hooks.example.com",
                "/a/b?timeout=7s",
            ),
            (json!({"url": "https://[::1]:9443/x"}), "[::1]:9443", "/x?timeout=7s"),
        ] {
            let url = url(&config, 7).unwrap();
            assert_eq!(
                (url.authority().as_str(), url.path_and_query().as_str()),
                (authority, path)
            );
        }
        assert!(url(&json!({"url": "https:///x"}), 1).is_err());
        assert!(url(&json!({}), 1).is_err());
    }
}
