//! Leaving HTTP: how the server gets at the bytes of a connection, and what runs on it afterwards.
//!
//! Behind sockets, the front puts an [`Upgrade`] into a request and, once the answer (101) is out, runs
//! the [`Relay`] that it finds in the answer. Both are part of the connection: it ends with them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use machinery::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::Body;
use crate::outbound::Duplex;

/// The bytes of a connection after it has left HTTP.
pub(crate) type Wire = Pin<Box<dyn Duplex>>;

/// The client has left HTTP too within this time.
const UPGRADE_WITHIN: Duration = Duration::from_secs(30);
/// What is copied at a time.
const COPY_BYTES: usize = 32 * 1024;

type Once<T> = Arc<Mutex<Option<BoxFuture<'static, T>>>>;

/// In a request: the way to the client's bytes, for whoever answers 101.
#[derive(Clone)]
pub struct Upgrade(Once<Result<Wire, String>>);

impl Upgrade {
    /// `wire` becomes ready once the answer is out.
    pub fn new(
        wire: impl Future<Output = Result<Pin<Box<dyn Duplex>>, String>> + Send + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(wire)))))
    }

    async fn wire(self) -> Result<Wire, String> {
        let wire = self.0.lock().expect("nobody panics while taking it").take();
        let wire = wire.ok_or("the connection was taken before")?;
        let late = |_| "the client does not leave HTTP".to_owned();
        tokio::time::timeout(UPGRADE_WITHIN, wire).await.map_err(late)?
    }
}

/// In an answer with code 101: what goes on with the connection. It must be run by who sends the answer.
#[derive(Clone)]
pub struct Relay(Once<()>);

impl Relay {
    /// Runs to the end of the connection.
    pub async fn run(self) {
        let relay = self.0.lock().expect("nobody panics while taking it").take();
        if let Some(relay) = relay {
            relay.await;
        }
    }
}

/// Answers 101 with these headers; `relay` then gets the client's bytes.
pub(crate) fn switch<F>(
    upgrade: Upgrade,
    headers: HeaderMap,
    relay: impl FnOnce(Wire) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(Body::whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    let relay = async move {
        match upgrade.wire().await {
            Ok(wire) => relay(wire).await,
            Err(error) => tracing::debug!(error, "no connection to go on with"),
        }
    };
    response.extensions_mut().insert(Relay(Arc::new(Mutex::new(Some(Box::pin(relay))))));
    response
}

/// The name of the protocol that a request wants to leave HTTP for, in lower case.
pub(crate) fn wanted(headers: &HeaderMap) -> Option<String> {
    let tokens = |name: HeaderName| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
    };
    let asks = tokens(header::CONNECTION).any(|token| token == "upgrade");
    tokens(header::UPGRADE).find(|_| asks).filter(|protocol| !protocol.is_empty())
}

/// The way to the client's bytes; refuses who has not asked to leave HTTP, or cannot.
pub(crate) fn required(
    headers: &HeaderMap,
    extensions: &http::Extensions,
) -> Result<Upgrade, Status> {
    let found = wanted(headers).and_then(|_| extensions.get::<Upgrade>().cloned());
    found.ok_or_else(|| Status::bad_request("Upgrade request required"))
}

/// Passes bytes on in both directions until one side ends, as upstream's proxy does.
pub(crate) async fn copy(one: Wire, other: Wire) {
    let (from_one, to_one) = tokio::io::split(one);
    let (from_other, to_other) = tokio::io::split(other);
    tokio::select! {
        biased;
        () = pass(from_one, to_other) => {}
        () = pass(from_other, to_one) => {}
    }
}

async fn pass<R, W>(mut from: R, mut to: W)
where
    R: AsyncReadExt + Unpin,
    W: AsyncWriteExt + Unpin,
{
    let mut buffer = vec![0; COPY_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The headers of an upgrade.
pub(crate) fn upgrade_headers(protocol: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_needs_both_headers() {
        for (connection, upgrade, expected) in [
            ("Upgrade", "SPDY/3.1", Some("spdy/3.1")),
            ("keep-alive, upgrade", "websocket", Some("websocket")),
            ("keep-alive", "websocket", None),
            ("Upgrade", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            assert_eq!(wanted(&headers).as_deref(), expected, "{connection} {upgrade}");
        }
    }
}
