//! TLS over TCP: a connection for each call. Whoever takes too long to connect or to shake hands cannot be
//! reached.

use std::fmt::Display;
use std::future::ready;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use env::{Env, Task};
use futures::StreamExt;
use http::{Request, Response, header};
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Duplex, Outbound, OutboundError, Peer, Trust, Upgraded};
use crate::body::Body;

/// As the transports of Go's clients: a peer must have taken a connection within this time ...
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// ... and then have shaken hands within this one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's own client certificate and its key.
pub struct Identity {
    /// The certificate, then those that vouch for it.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The key of the first.
    pub key: PrivateKeyDer<'static>,
}

/// Reaches others over the network.
pub struct Sockets {
    env: Env,
    provider: Arc<CryptoProvider>,
    identity: Option<Identity>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
}

type Connection = SendRequest<Full<Bytes>>;

impl Sockets {
    /// Calls others; `identity` is shown to those who are to know who asks.
    pub fn new(env: Env, identity: Option<Identity>) -> Self {
        let provider = Arc::new(ring::default_provider());
        Self {
            env,
            provider,
            identity,
            connect_timeout: CONNECT_TIMEOUT,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    async fn connect(&self, peer: &Peer) -> Result<(Connection, Task<()>), OutboundError> {
        let address = format!("{}:{}", peer.host, peer.port);
        let unreachable =
            |error: std::io::Error| OutboundError::Unreachable(address.clone(), words(&error));
        let socket = tokio::time::timeout(self.connect_timeout, TcpStream::connect(&address))
            .await
            .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        if peer.trust == Trust::Plain {
            return self.handshake(socket).await;
        }
        let name = match peer.server_name.as_str() {
            "" => peer.host.clone(),
            name => name.to_owned(),
        };
        let name = ServerName::try_from(name).map_err(tls)?;
        let connector = TlsConnector::from(Arc::new(self.tls(peer)?));
        let stream = tokio::time::timeout(self.handshake_timeout, connector.connect(name, socket))
            .await
            .map_err(|_| broken("net/http: TLS handshake timeout"))?
            .map_err(|error| not_trusted(&error))?;
        self.handshake(stream).await
    }

    async fn handshake(
        &self,
        stream: impl Duplex + Unpin + 'static,
    ) -> Result<(Connection, Task<()>), OutboundError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let task = self.env.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an outbound connection ended");
            }
        });
        Ok((sender, task))
    }

    fn tls(&self, peer: &Peer) -> Result<ClientConfig, OutboundError> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(tls)?;
        let verifier: Arc<dyn ServerCertVerifier> = match &peer.trust {
            Trust::Authorities(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in CertificateDer::pem_slice_iter(pem) {
                    roots.add(authority.map_err(tls)?).map_err(tls)?;
                }
                let roots = Arc::new(roots);
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone());
                verifier.build().map_err(tls)?
            }
            Trust::Anybody | Trust::Plain => Arc::new(Credulous(self.provider.clone())),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        match self.identity.as_ref().filter(|_| peer.is_identified) {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => builder
                .with_client_auth_cert(identity.certificates.clone(), identity.key.clone_key())
                .map_err(tls),
        }
    }

    async fn send(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<(Response<Incoming>, Connection, Task<()>), OutboundError> {
        let (mut sender, task) = self.connect(peer).await?;
        let mut request = request.map(Full::new);
        if !request.headers().contains_key(header::HOST) {
            let host = format!("{}:{}", peer.host, peer.port).parse().map_err(broken)?;
            request.headers_mut().insert(header::HOST, host);
        }
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, sender, task))
    }
}

#[async_trait]
impl Outbound for Sockets {
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        let (response, sender, task) = self.send(peer, request).await?;
        Ok(response.map(|body| streamed(body, (sender, task))))
    }

    async fn upgrade(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Upgraded, OutboundError> {
        let (mut response, sender, task) = self.send(peer, request).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Upgraded::Answer(response.map(|body| streamed(body, (sender, task)))));
        }
        let stream = hyper::upgrade::on(&mut response).await.map_err(broken)?;
        Ok(Upgraded::Stream(response.map(drop), Box::pin(TokioIo::new(stream))))
    }
}

/// A body as it comes in; the connection lives as long. One that breaks off just ends.
fn streamed(body: Incoming, connection: (Connection, Task<()>)) -> Body {
    let pieces = BodyStream::new(body.map_err(|error| tracing::debug!(%error, "broke off")));
    let pieces = pieces.take_while(|frame| ready(frame.is_ok()));
    let pieces = pieces.filter_map(|frame| ready(frame.ok().and_then(|all| all.into_data().ok())));
    let held = pieces.map(move |piece| {
        let _ = &connection;
        piece
    });
    Body::stream(held.boxed())
}

/// Why there is no connection, in the words of Go's `net`, which people look for.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::ConnectionReset => "connect: connection reset by peer".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// Why a peer is not believed, in the words of Go's `crypto/x509`.
fn not_trusted(error: &std::io::Error) -> OutboundError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(why)) = inner else {
        return match error.kind() {
            ErrorKind::UnexpectedEof => broken("EOF"),
            ErrorKind::ConnectionReset => broken("read: connection reset by peer"),
            _ => tls(error),
        };
    };
    let why = match why {
        // Another authority of the same name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate is not valid for this name".to_owned()
        }
        other => other.to_string(),
    };
    tls(format!("failed to verify certificate: x509: {why}"))
}

fn tls(error: impl Display) -> OutboundError {
    OutboundError::Tls(error.to_string())
}

fn broken(error: impl Display) -> OutboundError {
    OutboundError::Broken(error.to_string())
}

/// Believes every certificate, and looks only whether the peer has its key.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
