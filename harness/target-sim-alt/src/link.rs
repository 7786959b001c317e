//! The way from somebody to an API server: a tower service under `kube::Client`.
//!
//! A cut stalls requests, answers and watches; a dead process refuses and resets; a dead node says
//! nothing at all; a frozen process answers when it thaws. What a server began it goes on doing even
//! if nobody waits for the answer any more.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use apiserver::User;
use bytes::Bytes;
use env::Gate;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use shakedown_core::lever::Traffic;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::machine::Machine;
use crate::network::Network;

/// More requests than this at one instant of virtual time are a loop that no clock will end.
const REQUESTS_AT_ONCE_MAX: u64 = 200_000;

/// Counts the requests of a world, so that a loop that stands still in time is noticed.
#[derive(Default)]
pub(crate) struct Meter {
    total: AtomicU64,
    instant: std::sync::Mutex<Option<(Instant, u64)>>,
}

impl Meter {
    fn count(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut instant = self.instant.lock().expect("no code panics while it holds the meter");
        let count = match *instant {
            Some((at, count)) if at == now => count + 1,
            _ => 1,
        };
        *instant = Some((now, count));
        drop(instant);
        assert!(
            count <= REQUESTS_AT_ONCE_MAX,
            "limit reached: {count} requests at one instant of virtual time; something loops without waiting"
        );
    }

    /// Requests so far.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// Somebody's way to the API server of one node.
#[derive(Clone)]
pub(crate) struct Link {
    /// Empty for the observer, whom no cut stops.
    pub(crate) from: String,
    pub(crate) to: Arc<Machine>,
    pub(crate) user: User,
    pub(crate) network: Network,
    pub(crate) meter: Arc<Meter>,
}

impl Link {
    /// A client that goes this way.
    pub(crate) fn client(self) -> kube::Client {
        kube::Client::new(self, "default")
    }

    async fn there(&self) {
        self.network.carry(&self.from, &self.to.name, Traffic::Api).await;
    }

    async fn back(&self) {
        self.network.carry(&self.to.name, &self.from, Traffic::Api).await;
    }

    async fn send(self, request: Request<kube::client::Body>) -> Result<Answer, io::Error> {
        self.meter.count();
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        self.there().await;
        // Packets to a node without power vanish; the next ones arrive when it is back.
        self.to.powered().await;
        let Some((server, gate)) = self.to.apiserver() else {
            self.back().await;
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        };
        let (answer, answered) = oneshot::channel();
        let user = self.user.clone();
        let work = gate.guard(async move {
            let response = server.handle(user, Request::from_parts(parts, body)).await;
            // Nobody may be waiting any more.
            let _ = answer.send(response);
        });
        #[expect(clippy::disallowed_methods, reason = "the work lives and dies with the server's gate")]
        drop(tokio::spawn(work));
        let Ok(response) = answered.await else { return Err(self.broken().await) };
        self.back().await;
        Ok(response.map(|body| self.body(gate, body)))
    }

    /// The server is gone. Its node says so, unless it is gone too: then nothing comes until it is back.
    async fn broken(&self) -> io::Error {
        self.to.powered().await;
        self.back().await;
        io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
    }

    fn body(self, gate: Gate, body: apiserver::Body) -> StreamBody<Frames> {
        let frames = futures::stream::unfold(Some((self, gate, body)), |state| async move {
            let (link, gate, mut body) = state?;
            match gate.guard(body.frame()).await {
                None => {
                    let error = link.broken().await;
                    Some((Err(error), None))
                }
                Some(None) => None,
                Some(Some(frame)) => {
                    link.back().await;
                    let frame = frame.map_err(|never: Infallible| match never {});
                    Some((frame, Some((link, gate, body))))
                }
            }
        });
        StreamBody::new(frames.boxed())
    }
}

type Frames = BoxStream<'static, Result<Frame<Bytes>, io::Error>>;
type Answer = Response<StreamBody<Frames>>;

impl tower::Service<Request<kube::client::Body>> for Link {
    type Response = Answer;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Answer, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let sending: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(self.clone().send(request));
        sending
    }
}
