//! The server behind TLS sockets: what a client shows by its certificate is settled with the connection.
//!
//! Limits: [`HEADERS_MAX`] headers, the configured time to send them, and the
//! configured size and time for a body.
//! A certificate is optional at this level, so that probes of the server's health need none, and a
//! token will do.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use env::Timestamp;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::answer::refuse;
use crate::audit::Source;
use crate::authentication::{Shown, Tls};
use crate::body::Body;
use crate::connect::upgrade::{Relay, Upgrade};
use crate::outbound::Duplex;
use crate::server::ApiServer;
use crate::status;

/// More headers than this are refused.
const HEADERS_MAX: usize = 100;
/// How long open requests may go on once the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a failing listener is left alone, such as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An idle connection is probed after so many seconds, and as often again.
const KEEPALIVE_S: u32 = 15;
/// A peer that leaves so many probes unanswered is gone.
const KEEPALIVE_PROBES: u32 = 4;
/// How many connections are open at once. Who speaks HTTP/1.1 has one for each watch: 5,000 watchers must fit.
const CONNECTIONS_MAX: usize = 16_384;

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
    tls: Tls,
    listener: TcpListener,
) -> Result<(), ServeError> {
    listener.local_addr()?;
    let acceptor = TlsAcceptor::from(Arc::new(tls.config.clone()));
    let tls = Arc::new(tls);
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
        let Ok((socket, address)) = accepted else {
            server.env.sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        tasks.retain(|task: &env::Task<()>| !task.is_finished());
        let (inner, watcher) = (server.clone(), graceful.watcher());
        let door = (tls.clone(), acceptor.clone(), Source(address.ip()));
        tasks.push(server.env.spawn(async move {
            if let Err(error) = connection(inner, door, socket, watcher).await {
                tracing::debug!(error, "connection ended");
            }
            drop(slot);
        }));
    }
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

async fn connection(
    server: Arc<ApiServer>,
    (tls, acceptor, source): (Arc<Tls>, TlsAcceptor, Source),
    socket: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    prepare(&socket).map_err(|error| format!("cannot prepare the socket: {error}"))?;
    let stream = tokio::time::timeout(server.config.header_timeout, acceptor.accept(socket))
        .await
        .map_err(|_| "TLS handshake took too long".to_owned())?
        .map_err(|error| format!("TLS handshake failed: {error}"))?;
    let (shown, until) = shown(&tls, &stream, server.env.now());
    let header_timeout = server.config.header_timeout;
    let relay = Arc::new(Mutex::new(None));
    let noted = relay.clone();
    let mut closing = server.closing.subscribe();
    let service = service_fn(move |mut request: Request<Incoming>| {
        // A connection may outlive its certificate.
        let is_over = server.env.now() > until;
        let shown = if is_over { Shown::BadCertificate } else { shown.clone() };
        let (server, noted) = (server.clone(), noted.clone());
        request.extensions_mut().insert(source);
        if request.extensions().get::<OnUpgrade>().is_some() {
            let upgrade = hyper::upgrade::on(&mut request);
            request.extensions_mut().insert(Upgrade::new(async {
                let upgraded = upgrade.await.map_err(|error| error.to_string())?;
                Ok(Box::pin(TokioIo::new(upgraded)) as Pin<Box<dyn Duplex>>)
            }));
        }
        async move {
            let mut response = answer(&server, shown, request).await;
            if let Some(relay) = response.extensions_mut().remove::<Relay>() {
                *noted.lock().expect("nobody panics while noting it") = Some(relay);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15))
        .max_concurrent_streams(250);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watcher.watch(connection.into_owned()).await.map_err(|error| error.to_string())?;
    let relay = relay.lock().expect("nobody panics while noting it").take();
    // What the connection has become is no request that could be waited for.
    if let Some(relay) = relay {
        let shut_down =
            async { while !*closing.borrow_and_update() && closing.changed().await.is_ok() {} };
        tokio::select! {
            biased;
            () = shut_down => {}
            () = relay.run() => {}
        }
    }
    Ok(())
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

async fn answer(
    server: &Arc<ApiServer>,
    shown: Shown,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let bytes_max = server.config.body_bytes_max;
    let body =
        tokio::time::timeout(server.config.body_timeout, Limited::new(body, bytes_max).collect())
            .await;
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
    server.handle_shown(shown, Request::from_parts(head, body)).await
}

/// What the client's certificates show, and until when.
fn shown(tls: &Tls, stream: &TlsStream<TcpStream>, now: Timestamp) -> (Shown, Timestamp) {
    tls.shown(stream.get_ref().1.peer_certificates().unwrap_or_default(), now)
}
