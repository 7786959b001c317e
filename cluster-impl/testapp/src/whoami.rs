//! Asks the API server for the pod that this process runs in, as any program in a pod does: with the
//! token, the authority and the namespace from its volume, at the address from its environment.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::applets::hostname;

const FILES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the API server says of the pod: its namespace, name, uid and node.
pub async fn ask() -> anyhow::Result<String> {
    let file = |name: &str| {
        let path = format!("{FILES}/{name}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let (token, authority, namespace) = (file("token")?, file("ca.crt")?, file("namespace")?);
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port: u16 = variable("KUBERNETES_SERVICE_PORT")?.parse().context("the port is none")?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}", hostname());
    let request = Request::get(path)
        .header("host", &host)
        .header("authorization", format!("Bearer {token}"))
        .body(Empty::<Bytes>::new())
        .context("the token is no header")?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .with_context(|| format!("cannot connect to {host}:{port}"))?;
    let name = ServerName::try_from(host).context("the host is no name")?;
    let stream = trusting(&authority)?.connect(name, stream).await.context("TLS failed")?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.context("no HTTP")?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let code = answer.status();
        Ok::<_, hyper::Error>((code, answer.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(answer);
    let (code, body) = tokio::select! {
        biased;
        answer = &mut answer => answer.context("no answer")?,
        ended = connection => {
            ended.context("the connection broke")?;
            answer.await.context("no answer")?
        }
    };
    let told: Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
    let text = |pointer: &str| told.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
    if !code.is_success() {
        bail!("{}: {}", code.as_u16(), text("/message"));
    }
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    Ok(format!("{namespace}/{name} {} on {}", text("/metadata/uid"), text("/spec/nodeName")))
}

/// Connects to whom this authority vouches for.
fn trusting(authority: &str) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.context("the authority is no PEM")?).context("a bad authority")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("no TLS version is left")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
