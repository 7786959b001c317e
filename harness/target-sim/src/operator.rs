//! The component `operator`: the controller under test of a user of the library: a process of the first worker, behind a gate.
//!
//! It is supervised as the components are, so that every fault and every rule works on it. It does
//! not move to another worker as a pod would. Its client speaks to one API server at a time, and to
//! the next one after a connection has come to nothing: as behind a Service, and no cleverer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use apiserver::User;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, Service};

use crate::link::{Link, LinkBody};

/// Whom the operator asks as.
const USER: &str = "system:serviceaccount:default:operator";
/// How long an answer's beginning may take: kube-rs' own default for reading.
const READ_LIMIT: Duration = Duration::from_secs(295);

/// The main function of a controller under test. It is called again for every start of the process;
/// whatever it keeps across calls has survived a crash that no process survives.
#[derive(Clone)]
pub struct Operator(Arc<dyn Fn(kube::Client) -> BoxFuture<'static, ()> + Send + Sync>);

impl Operator {
    /// A controller by its main function. When that returns, the process is over and is started
    /// again, after a second or a little more.
    pub fn new<F, Main>(main: F) -> Self
    where
        F: Fn(kube::Client) -> Main + Send + Sync + 'static,
        Main: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |client| Box::pin(main(client))))
    }

    pub(crate) fn main(&self, client: kube::Client) -> BoxFuture<'static, ()> {
        (self.0)(client)
    }
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operator")
    }
}

/// The operator may do everything: what it may not do is no question here.
pub(crate) fn user() -> User {
    User::new(USER, &["system:masters"])
}

/// A client over the ways to all API servers.
pub(crate) fn client(links: Vec<Link>) -> kube::Client {
    kube::Client::new(InTurn { links, turn: Arc::default() }, "default")
}

/// One API server after the other.
#[derive(Clone)]
struct InTurn {
    links: Vec<Link>,
    turn: Arc<AtomicUsize>,
}

impl Service<Request<Body>> for InTurn {
    type Response = Response<LinkBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let turn = self.turn.load(Ordering::Relaxed);
        let mut link = self.links[turn % self.links.len()].clone();
        let turns = self.turn.clone();
        Box::pin(async move {
            let answer = tokio::time::timeout(READ_LIMIT, link.call(request)).await;
            if !matches!(answer, Ok(Ok(_))) {
                // Several requests may have failed on the same server: it is left once.
                let _ =
                    turns.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            match answer {
                Ok(answer) => answer.map_err(BoxError::from),
                Err(elapsed) => Err(BoxError::from(elapsed)),
            }
        })
    }
}
