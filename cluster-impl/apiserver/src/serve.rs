//! The server behind TLS sockets: who asks is read from the client's certificate.
//!
//! Limits: [`HEADERS_MAX`] headers, [`HEADER_TIMEOUT`] to send them, the configured size for a body.
//! A certificate is optional at this level, so that probes of the server's health need none; every
//! other path answers 401 without one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::answer::refuse;
use crate::body::Body;
use crate::config::User;
use crate::server::ApiServer;
use crate::status;

/// More headers than this are refused.
const HEADERS_MAX: usize = 100;
/// A client must have sent its headers, and shaken hands, within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A client must have sent its body within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long open requests may go on once the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a failing listener is left alone, such as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An idle connection is probed after so many seconds, and as often again.
const KEEPALIVE_S: u32 = 15;
/// A peer that leaves so many probes unanswered is gone.
const KEEPALIVE_PROBES: u32 = 4;
/// How many connections are open at once.
const CONNECTIONS_MAX: usize = 4096;

/// Why the server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is not usable.
    #[error("cannot use the listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// Serves until [`ApiServer::shut_down`]; then lets open requests end.
pub async fn serve(
    server: Arc<ApiServer>,
    tls: ServerConfig,
    listener: TcpListener,
) -> Result<(), ServeError> {
    listener.local_addr()?;
    let acceptor = TlsAcceptor::from(Arc::new(with_protocols(tls)));
    let mut closing = server.closing.subscribe();
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = Vec::new();
    while !*closing.borrow_and_update() {
        let accepted = tokio::select! {
            biased;
            _ = closing.changed() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            server.env.sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        tasks.retain(|task: &env::Task<()>| !task.is_finished());
        let (inner, acceptor, watcher) = (server.clone(), acceptor.clone(), graceful.watcher());
        tasks.push(server.env.spawn(async move {
            if let Err(error) = connection(inner, acceptor, socket, watcher).await {
                tracing::debug!(error, "connection ended");
            }
            drop(slot);
        }));
    }
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

fn with_protocols(mut tls: ServerConfig) -> ServerConfig {
    if tls.alpn_protocols.is_empty() {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    tls
}

async fn connection(
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    socket: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    prepare(&socket).map_err(|error| format!("cannot prepare the socket: {error}"))?;
    let stream = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(socket))
        .await
        .map_err(|_| "TLS handshake took too long".to_owned())?
        .map_err(|error| format!("TLS handshake failed: {error}"))?;
    let user = user_of(&stream);
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, Infallible>(answer(&server, user, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15))
        .max_concurrent_streams(250);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watcher.watch(connection.into_owned()).await.map_err(|error| error.to_string())
}

/// Small answers leave at once, and a peer that is gone without a word is noticed.
fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(())
}

async fn answer(server: &Arc<ApiServer>, user: User, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let bytes_max = server.config.body_bytes_max;
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await;
    let body = match body {
        Err(_) => return refuse(&status::timed_out()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return refuse(&status::body_too_large(bytes_max));
        }
        Ok(Err(error)) => {
            return refuse(&machinery::Status::bad_request(format!(
                "cannot read the body: {error}"
            )));
        }
        Ok(Ok(body)) => body.to_bytes(),
    };
    server.handle(user, Request::from_parts(head, body)).await
}

fn user_of(stream: &TlsStream<TcpStream>) -> User {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates.first().and_then(user).unwrap_or_else(User::anonymous)
}

/// The user that a certificate names: CN is the name, every O a group.
pub(crate) fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned))
        .collect();
    Some(User::with_groups(name, groups))
}
