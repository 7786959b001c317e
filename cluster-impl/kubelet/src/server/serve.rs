//! The server behind TLS sockets: who asks is read from a certificate or a bearer token.
//!
//! HTTP/1.1 only: streams leave it, and API servers ask for nothing else. Limits: [`CONNECTIONS_MAX`]
//! connections, [`HEADERS_MAX`] headers, [`BODY_BYTES_MAX`] for a body.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Body, KubeletServer, Refusal, Relay, User, review, text};

/// More headers than this are refused.
const HEADERS_MAX: usize = 100;
/// A client must have sent its headers, and shaken hands, within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A client must have sent its body within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// So many connections are open at once.
const CONNECTIONS_MAX: usize = 1024;
/// How long a failing listener is left alone, such as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is not usable.
    #[error("cannot use the listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// Serves until it is dropped.
pub async fn serve(
    server: Arc<KubeletServer>,
    mut tls: ServerConfig,
    listener: TcpListener,
) -> Result<(), ServeError> {
    listener.local_addr()?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut tasks: Vec<env::Task<()>> = Vec::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            server.env.sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        tasks.retain(|task| !task.is_finished());
        let (inner, acceptor) = (server.clone(), acceptor.clone());
        tasks.push(server.env.spawn(async move {
            if let Err(error) = connection(inner, acceptor, socket).await {
                tracing::debug!(error, "connection ended");
            }
            drop(slot);
        }));
    }
}

async fn connection(
    server: Arc<KubeletServer>,
    acceptor: TlsAcceptor,
    socket: TcpStream,
) -> Result<(), String> {
    socket.set_nodelay(true).map_err(|error| format!("cannot prepare the socket: {error}"))?;
    let stream = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(socket))
        .await
        .map_err(|_| "TLS handshake took too long".to_owned())?
        .map_err(|error| format!("TLS handshake failed: {error}"))?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certified = certificates.first().and_then(user);
    let relay = Arc::new(Mutex::new(None));
    let noted = relay.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, certified, noted) = (server.clone(), certified.clone(), noted.clone());
        async move {
            let mut response = answer(server, certified, request).await;
            if let Some(relay) = response.extensions_mut().remove::<Relay>() {
                *noted.lock().expect("nobody panics while noting it") = Some(relay);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    connection.with_upgrades().await.map_err(|error| error.to_string())?;
    let relay = relay.lock().expect("nobody panics while noting it").take();
    if let Some(relay) = relay {
        relay.run().await;
    }
    Ok(())
}

async fn answer(
    server: Arc<KubeletServer>,
    certified: Option<User>,
    request: Request<Incoming>,
) -> Response<Body> {
    let user = match certified {
        Some(user) => Ok(user),
        None => authenticate(&server, &request).await,
    };
    let user = match user {
        Ok(user) => user,
        Err(Refusal(code, why)) => return text(code, why),
    };
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Err(_) => return text(408, "the body did not come in time"),
        Ok(Err(error)) => return text(400, format!("cannot read the body: {error}")),
        Ok(Ok(body)) => body.to_bytes(),
    };
    server.handle(user, Request::from_parts(head, body)).await
}

/// Who a request without certificate comes from.
async fn authenticate<B>(server: &KubeletServer, request: &Request<B>) -> Result<User, Refusal> {
    let unauthorized = || Refusal(401, "Unauthorized".to_owned());
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return match server.config.allows_anonymous {
            true => Ok(User::anonymous()),
            false => Err(unauthorized()),
        };
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    let token = token.filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    let (_, token) = token.ok_or_else(unauthorized)?;
    review::user_of(server, token.trim()).await?.ok_or_else(unauthorized)
}

/// The user that a certificate names: CN is the name, every O a group.
fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let groups = subject.iter_organization();
    let groups = groups.filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    Some(User::certified(name, groups))
}
