//! The way from an API server to the kubelets: in process, over the simulated network.
//!
//! A kubelet's answer is made and read in its own process: it stands still with it, and breaks off when
//! it dies. Nothing else has an address here, pods least of all; and nothing leaves HTTP, as staged
//! containers have no streams.

use std::sync::Weak;

use apiserver::{Body, Outbound, OutboundError, Peer, Upgraded};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use kubelet::server::User;
use shakedown_core::lever::{Component, Traffic};
use tokio::sync::{mpsc, oneshot};

use crate::world::World;

/// As whom API servers ask.
const USER: &str = "kube-apiserver-kubelet-client";
/// So many pieces of an answer wait at the kubelet.
const PIECES_MAX: usize = 4;

/// From the API server of one node.
pub(crate) struct Kubelets {
    pub(crate) world: Weak<World>,
    pub(crate) from: String,
}

fn unreachable(peer: &Peer, why: &str) -> OutboundError {
    OutboundError::Unreachable(format!("{}:{}", peer.host, peer.port), why.to_owned())
}

#[async_trait]
impl Outbound for Kubelets {
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        let no_route = || unreachable(peer, "connect: no route to host");
        let world = self.world.upgrade().ok_or_else(no_route)?;
        let mut nodes = world.nodes.values();
        let node = nodes.find(|node| node.fact.address == peer.host).ok_or_else(no_route)?.clone();
        let to = node.name().to_owned();
        world.net.knock(&self.from, &to, Traffic::All).await;
        node.powered().await;
        world.net.travel(&self.from, &to, Traffic::All).await;
        let (send, receive) = oneshot::channel();
        let asked = {
            let mut inner = node.lock();
            let process = inner.processes.get_mut(&Component::Kubelet);
            let life = process.and_then(|process| process.life.as_mut());
            life.filter(|_| peer.port == kubelet::server::PORT).and_then(|life| {
                let server = life.kubelet.clone()?;
                let user = User::certified(USER, vec!["system:masters".to_owned()]);
                life.spawn(async move {
                    let (head, body) = server.handle(user, request).await.into_parts();
                    let (pieces, queue) = mpsc::channel(PIECES_MAX);
                    // Whoever asked may have stopped waiting.
                    let _ = send.send((head, queue));
                    let mut body = body.pieces();
                    while let Some(piece) = body.next().await {
                        if pieces.send(piece).await.is_err() {
                            return;
                        }
                    }
                });
                Some(())
            })
        };
        if asked.is_none() {
            world.net.travel(&to, &self.from, Traffic::All).await;
            return Err(unreachable(peer, "connect: connection refused"));
        }
        let broken = |_| OutboundError::Broken("read: connection reset by peer".to_owned());
        let (head, queue) = receive.await.map_err(broken)?;
        world.net.travel(&to, &self.from, Traffic::All).await;
        let way = (self.world.clone(), to, self.from.clone());
        let pieces = stream::unfold((queue, way), |(mut queue, way)| async move {
            let piece = queue.recv().await?;
            if let Some(world) = way.0.upgrade() {
                world.net.travel(&way.1, &way.2, Traffic::All).await;
            }
            Some((piece, (queue, way)))
        });
        Ok(Response::from_parts(head, Body::stream(pieces.boxed())))
    }

    async fn upgrade(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Upgraded, OutboundError> {
        self.call(peer, request).await.map(Upgraded::Answer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use apiserver::User;
    use serde_json::json;
    use shakedown_core::lever::{Lever, Traffic};
    use shakedown_core::target::{ClusterSpec, Target};

    use crate::SimTarget;

    async fn text(client: &kube::Client, path: &str) -> Result<String, String> {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        client.request_text(request).await.map_err(|error| error.to_string())
    }

    #[test]
    fn logs_come_from_a_simulated_node_as_long_as_it_can_be_reached() {
        crate::run(1, async {
            let mut target = SimTarget::new(1);
            let spec = ClusterSpec { control_planes: 1, workers: 1, ..ClusterSpec::default() };
            target.boot(&spec, &|_| {}).await.unwrap();
            let world = target.world().unwrap();
            let user = User::new("admin", &["system:masters"]);
            let client = world.kube_client("cp-1", "cp-1", &user);
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                "spec": {"nodeName": "worker-1",
                    "containers": [{"name": "app", "image": "kubetm/app:v1"}]}});
            let pods = "/api/v1/namespaces/default/pods";
            let request = http::Request::post(pods).header("content-type", "application/json");
            let request = request.body(pod.to_string().into_bytes()).unwrap();
            client.request::<serde_json::Value>(request).await.unwrap();
            let log = format!("{pods}/web/log");
            let mut found = Err(String::new());
            for _ in 0..60 {
                found = text(&client, &log).await;
                if found.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(found.as_deref(), Ok("web v1 serves on 0.0.0.0:8080\n"));
            let stats = text(&client, "/api/v1/nodes/worker-1/proxy/stats/summary").await.unwrap();
            assert!(stats.contains("\"nodeName\":\"worker-1\""), "{stats}");
            let ends = |node: &str| vec![node.to_owned()];
            let (id, traffic) = ("x".to_owned(), Traffic::All);
            let cut = Lever::Cut { id, from: ends("cp-1"), to: ends("worker-1"), traffic };
            target.pull(&cut).await.unwrap();
            let asked = tokio::time::timeout(Duration::from_secs(5), text(&client, &log));
            assert!(asked.await.is_err(), "the log came through a cut");
            target.undo(&cut.undo()).await.unwrap();
            assert!(text(&client, &log).await.is_ok());
        });
    }
}
