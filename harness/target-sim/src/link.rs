//! The way from a client to an API server: a tower service that behaves as a TCP connection does.
//!
//! Cut links stall bytes and lose none; a server that stands still lets its clients wait; a process
//! that dies resets its connections; a node without power says nothing at all. What a server has
//! begun it finishes even when the client has stopped waiting. Timeouts are the client's.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apiserver::User;
use bytes::Bytes;
use env::Gate;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use shakedown_core::lever::{Component, Traffic};
use tokio::sync::oneshot;

use crate::world::World;

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("connect to {0}: connection refused")]
    Refused(String),
    #[error("connection to {0} reset by peer")]
    Reset(String),
    #[error("the request's body could not be read: {0}")]
    Body(String),
    #[error("the run is over: a limit was reached")]
    Over,
}

/// A client's way to the API server of one node.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) world: Arc<World>,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) user: User,
}

impl tower::Service<Request<kube::client::Body>> for Link {
    type Response = Response<LinkBody>;
    type Error = LinkError;
    type Future = BoxFuture<'static, Result<Response<LinkBody>, LinkError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}

/// A whole answer, or one that goes on.
enum Answer {
    Whole(Response<Bytes>),
    Stream(Response<apiserver::Body>),
}

impl Link {
    async fn exchange(
        self,
        request: Request<kube::client::Body>,
    ) -> Result<Response<LinkBody>, LinkError> {
        let named = || format!("{} {}", request.method(), request.uri());
        if !self.world.meter.count(&self.from, named) {
            return Err(LinkError::Over);
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| LinkError::Body(error.to_string()))?;
        let request = Request::from_parts(parts, body.to_bytes());
        self.world.net.travel(&self.from, &self.to, Traffic::Api).await;
        self.node().powered().await;
        let Some((gate, answer)) = self.serve(request) else {
            self.back().await;
            return Err(LinkError::Refused(self.to));
        };
        let Ok(answer) = answer.await else {
            // Without power nobody is left to reset the connection.
            self.node().powered().await;
            self.back().await;
            return Err(LinkError::Reset(self.to));
        };
        self.back().await;
        Ok(match answer {
            Answer::Whole(response) => response.map(|bytes| LinkBody::Whole(Some(bytes))),
            Answer::Stream(response) => {
                let (parts, body) = response.into_parts();
                Response::from_parts(parts, LinkBody::Stream(self.follow(gate, body)))
            }
        })
    }

    fn node(&self) -> &crate::node::Node {
        self.world.node(&self.to).expect("links lead to nodes of the world")
    }

    /// Hands the request to the server's process; `None` if there is none.
    fn serve(&self, request: Request<Bytes>) -> Option<(Gate, oneshot::Receiver<Answer>)> {
        let mut inner = self.node().lock();
        let process = inner.processes.get_mut(&Component::KubeApiserver)?;
        let life = process.life.as_mut()?;
        let server = life.server.clone()?;
        let (send, receive) = oneshot::channel();
        let user = self.user.clone();
        life.spawn(async move {
            let answer = whole(server.handle(user, request).await).await;
            // The client may have stopped waiting.
            let _ = send.send(answer);
        });
        Some((life.gate.clone(), receive))
    }

    /// Takes something back to the client.
    async fn back(&self) {
        self.world.net.travel(&self.to, &self.from, Traffic::Api).await;
    }

    /// The pieces of a watch, as they arrive at the client.
    fn follow(self, gate: Gate, body: apiserver::Body) -> BoxStream<'static, Result<Bytes, LinkError>> {
        let state = Some((self, gate, body));
        let pieces = futures::stream::unfold(state, |state| async move {
            let (link, gate, mut body) = state?;
            let frame = gate.guard(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))).await;
            match frame {
                Some(Some(Ok(frame))) => {
                    // What is never acknowledged soon stops flowing: both directions must be open.
                    link.world.net.through(&link.from, &link.to, Traffic::Api).await;
                    link.back().await;
                    let bytes = frame.into_data().unwrap_or_default();
                    Some((Ok(bytes), Some((link, gate, body))))
                }
                Some(None) => {
                    link.back().await;
                    None
                }
                Some(Some(Err(never))) => match never {},
                None => {
                    link.node().powered().await;
                    link.back().await;
                    Some((Err(LinkError::Reset(link.to)), None))
                }
            }
        });
        pieces.boxed()
    }
}

/// Takes a body of known length in at once.
async fn whole(response: Response<apiserver::Body>) -> Answer {
    if response.body().size_hint().exact().is_none() {
        return Answer::Stream(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(bytes) => bytes.to_bytes(),
        Err(never) => match never {},
    };
    Answer::Whole(Response::from_parts(parts, bytes))
}

/// The body of an answer, at the client.
pub(crate) enum LinkBody {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, LinkError>>),
}

impl http_body::Body for LinkBody {
    type Data = Bytes;
    type Error = LinkError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        match &mut *self {
            LinkBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            LinkBody::Stream(pieces) => {
                pieces.poll_next_unpin(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, LinkBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            LinkBody::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            LinkBody::Stream(_) => SizeHint::default(),
        }
    }
}
