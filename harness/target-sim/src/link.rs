//! The way from a client to an API server: a tower service that behaves as a TCP connection does.
//!
//! Cut links stall bytes and lose none; a server that stands still lets its clients wait; a process
//! that dies resets its connections; a node without power says nothing at all. What a server has
//! begun it finishes even when the client has stopped waiting. Timeouts are the client's.

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

use crate::meddle::{Fate, Sent};
use crate::watching::follow;
use crate::wire::{Busy, Wire};
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
    /// Whose client it is, if a component's.
    pub(crate) component: Option<Component>,
    pub(crate) user: User,
    pub(crate) wire: Arc<Wire>,
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
        let mut request = Request::from_parts(parts, body.to_bytes());
        let mut sent = Sent::default();
        if let Some(component) = self.component {
            match self.world.meddling.request(&self.from, component, &mut request) {
                Fate::Sent(with) => sent = with,
                Fate::Crash => self.crash(component).await,
                Fate::Answered(response) => {
                    self.world.net.travel(&self.from, &self.to, Traffic::Api).await;
                    self.back().await;
                    return Ok(response.map(|bytes| LinkBody::Whole(Some(bytes))));
                }
            }
        }
        // A request on an open connection needs the way there only; a new connection needs both.
        if !self.wire.take() {
            self.world.net.knock(&self.from, &self.to, Traffic::Api).await;
            self.node().powered().await;
            self.world.net.knock(&self.to, &self.from, Traffic::Api).await;
        }
        let (resets, busy) = (self.wire.resets.count(), Busy::new(&self.wire));
        let answer = tokio::select! {
            biased;
            _ = self.wire.resets.after(resets) => Err(LinkError::Reset(self.to.clone())),
            answer = self.talk(request, &sent) => answer,
        };
        let (gate, answer) = answer?;
        Ok(match answer {
            Answer::Whole(response) => {
                // One whose client has stopped waiting was closed, and never comes here.
                self.wire.keep();
                response.map(|bytes| LinkBody::Whole(Some(bytes)))
            }
            Answer::Stream(response) => {
                let (parts, body) = response.into_parts();
                let pieces = follow(self, gate, body, sent.watches, (resets, busy));
                Response::from_parts(parts, LinkBody::Stream(pieces))
            }
        })
    }

    /// Sends a request over an open connection and waits for the answer.
    async fn talk(
        &self,
        request: Request<Bytes>,
        sent: &Sent,
    ) -> Result<(Gate, Answer), LinkError> {
        self.world.net.travel(&self.from, &self.to, Traffic::Api).await;
        self.node().powered().await;
        let Some((gate, answer)) = self.serve(request) else {
            self.wire.forget();
            self.back().await;
            return Err(LinkError::Refused(self.to.clone()));
        };
        let Ok(answer) = answer.await else {
            // Without power nobody is left to reset the connection.
            self.node().powered().await;
            self.wire.forget();
            self.back().await;
            return Err(LinkError::Reset(self.to.clone()));
        };
        if let (Some(component), Answer::Whole(response)) = (self.component, &answer)
            && self.world.meddling.crashes(sent, response.status().is_success())
        {
            self.crash(component).await;
        }
        self.back().await;
        Ok((gate, answer))
    }

    /// Kills the very process that this runs in: what comes after is never reached.
    async fn crash(&self, component: Component) {
        if let Some(node) = self.world.node(&self.from) {
            self.world.end(node, component);
        }
        std::future::pending().await
    }

    pub(crate) fn node(&self) -> &crate::node::Node {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{AsyncBufReadExt, TryStreamExt};
    use serde_json::{Value, json};
    use shakedown_core::lever::{Lever, Undo};
    use shakedown_core::target::{ClusterSpec, Parameters, Target};
    use tokio::time::{Instant, timeout};

    use crate::SimTarget;

    use super::*;

    const MAPS: &str = "/api/v1/namespaces/default/configmaps";

    /// A cluster of one control plane and one worker, and a client on the worker with an open
    /// connection.
    async fn booted() -> (SimTarget, kube::Client) {
        let mut target = SimTarget::new(1);
        let spec = ClusterSpec {
            control_planes: 1,
            workers: 1,
            zones: 1,
            parameters: Parameters::default(),
            sabotages: Vec::new(),
        };
        target.boot(&spec, &|_| {}).await.unwrap();
        let world = target.world().unwrap();
        let client = world.kube_client("worker-1", "cp-1", &User::new("test", &["system:masters"]));
        get(&client, MAPS).await.unwrap();
        (target, client)
    }

    async fn get(client: &kube::Client, path: &str) -> Result<Value, String> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        client.request(request).await.map_err(|error| error.to_string())
    }

    async fn create(client: &kube::Client, name: &str) -> Result<Value, String> {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let request = Request::post(MAPS)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .unwrap();
        client.request(request).await.map_err(|error| error.to_string())
    }

    fn cut(from: &str, to: &str) -> Lever {
        let (from, to) = (vec![from.to_owned()], vec![to.to_owned()]);
        Lever::Cut { id: "x".to_owned(), from, to, traffic: Traffic::Api }
    }

    fn api_server() -> (String, Component) {
        ("cp-1".to_owned(), Component::KubeApiserver)
    }

    fn sleep_s(s: u64) -> tokio::time::Sleep {
        tokio::time::sleep(Duration::from_secs(s))
    }

    #[test]
    fn a_cut_stalls_requests_and_answers_and_loses_neither() {
        crate::run(1, async {
            for (from, to) in [("worker-1", "cp-1"), ("cp-1", "worker-1")] {
                let (mut target, client) = booted().await;
                target.pull(&cut(from, to)).await.unwrap();
                let began = Instant::now();
                let mend = async {
                    sleep_s(30).await;
                    let made = get(&target.endpoints()[0].client, &format!("{MAPS}/a")).await;
                    target.undo(&cut(from, to).undo()).await.unwrap();
                    made.is_ok()
                };
                let (answer, was_made) = tokio::join!(create(&client, "a"), mend);
                assert!(answer.is_ok(), "{answer:?}");
                assert_eq!(began.elapsed().as_secs(), 30);
                assert_eq!(was_made, from == "cp-1", "a stalled answer means that it was made");
            }
        });
    }

    #[test]
    fn what_was_begun_is_finished_although_nobody_waits() {
        crate::run(1, async {
            let (mut target, client) = booted().await;
            target.pull(&cut("cp-1", "worker-1")).await.unwrap();
            let wait = timeout(Duration::from_secs(5), create(&client, "a")).await;
            assert!(wait.is_err());
            let made = get(&target.endpoints()[0].client, &format!("{MAPS}/a")).await;
            assert!(made.is_ok(), "{made:?}");
        });
    }

    #[test]
    fn a_new_connection_needs_both_ways_before_anything_is_sent() {
        crate::run(1, async {
            let (mut target, _) = booted().await;
            let user = User::new("test", &["system:masters"]);
            let client = target.world().unwrap().kube_client("worker-1", "cp-1", &user);
            target.pull(&cut("cp-1", "worker-1")).await.unwrap();
            let wait = timeout(Duration::from_secs(5), create(&client, "a")).await;
            assert!(wait.is_err());
            let made = get(&target.endpoints()[0].client, &format!("{MAPS}/a")).await;
            assert!(made.unwrap_err().contains("not found"), "nothing was sent");
        });
    }

    #[test]
    fn a_dead_server_refuses_a_frozen_one_waits_and_one_without_power_is_silent() {
        crate::run(1, async {
            let (mut target, client) = booted().await;
            let (node, component) = api_server();
            let kill = Lever::KillProcess { node: node.clone(), component, hold: true };
            target.pull(&kill).await.unwrap();
            let refused = get(&client, MAPS).await.unwrap_err();
            assert!(refused.contains("connection refused"), "{refused}");
            target.undo(&kill.undo()).await.unwrap();
            sleep_s(5).await;
            assert!(get(&client, MAPS).await.is_ok());

            target.pull(&Lever::StopProcess { node: node.clone(), component }).await.unwrap();
            let resume = async {
                sleep_s(20).await;
                target.undo(&Undo::ContinueProcess { node: node.clone(), component }).await
            };
            let began = Instant::now();
            let (answer, resumed) = tokio::join!(get(&client, MAPS), resume);
            assert!(answer.is_ok() && resumed.is_ok(), "{answer:?}");
            assert_eq!(began.elapsed().as_secs(), 20);

            target.pull(&Lever::KillNode { node: node.clone() }).await.unwrap();
            assert!(timeout(Duration::from_secs(60), get(&client, MAPS)).await.is_err());
            target.undo(&Undo::StartNode { node }).await.unwrap();
            sleep_s(10).await;
            assert!(get(&client, MAPS).await.is_ok(), "its disk is there");
        });
    }

    #[test]
    fn a_watch_stalls_at_a_cut_goes_on_after_it_and_breaks_with_its_server() {
        crate::run(1, async {
            let (mut target, client) = booted().await;
            let request = Request::get(format!("{MAPS}?watch=true")).body(Vec::new()).unwrap();
            let mut lines = client.request_stream(request).await.unwrap().lines();
            let admin = target.endpoints()[0].client.clone();
            create(&admin, "before").await.unwrap();
            while !lines.try_next().await.unwrap().unwrap().contains("before") {}
            target.pull(&cut("cp-1", "worker-1")).await.unwrap();
            create(&admin, "meanwhile").await.unwrap();
            let silent = timeout(Duration::from_secs(60), lines.try_next()).await;
            assert!(silent.is_err(), "{silent:?}");
            target.undo(&cut("cp-1", "worker-1").undo()).await.unwrap();
            while !lines.try_next().await.unwrap().unwrap().contains("meanwhile") {}
            let (node, component) = api_server();
            target.pull(&Lever::KillProcess { node, component, hold: false }).await.unwrap();
            let broken = loop {
                match lines.try_next().await {
                    Ok(Some(_)) => {}
                    end => break end,
                }
            };
            assert!(broken.unwrap_err().to_string().contains("reset by peer"));
        });
    }
}
