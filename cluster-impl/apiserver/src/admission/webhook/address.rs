//! Where a webhook is: a URL, or a Service whose ready endpoints are tried one after the other.
//!
//! A server need not have a service proxy on its own host, so it finds the pods itself and takes the
//! Service's address last.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::ObjectKey;
use serde_json::Value;

use crate::outbound::{Peer, Trust};
use crate::server::ApiServer;
use crate::service_address;

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
            service_address::all(server, &key, url.port).await?
        }
    };
    Ok(addresses.into_iter().map(peer).collect())
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
