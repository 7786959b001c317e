//! The API server's way to others: kubelets of its own process without sockets, everybody else by them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use apiserver::{Body, Outbound, OutboundError, Peer, Sockets, Upgraded};
use async_trait::async_trait;
use bytes::Bytes;
use env::Env;
use http::{Request, Response};
use kubelet::server::{KubeletServer, User};

/// As whom the API server asks kubelets.
const USER: &str = "kube-apiserver-kubelet-client";

/// Kubelets by their address, and the network.
pub struct Nearby {
    kubelets: Mutex<BTreeMap<String, Arc<KubeletServer>>>,
    sockets: Sockets,
}

impl Nearby {
    /// Knows no kubelet yet.
    pub fn new(env: Env) -> Self {
        Self { kubelets: Mutex::default(), sockets: Sockets::new(env, None) }
    }

    /// From now on this address is a kubelet of this process.
    pub fn add(&self, address: String, kubelet: Arc<KubeletServer>) {
        let mut kubelets =
            self.kubelets.lock().expect("no code panics while it holds the kubelets");
        kubelets.insert(address, kubelet);
    }

    fn kubelet(&self, peer: &Peer) -> Option<Arc<KubeletServer>> {
        let kubelets = self.kubelets.lock().expect("no code panics while it holds the kubelets");
        let kubelet = kubelets.get(&peer.host)?;
        (peer.port == kubelet::server::PORT).then(|| kubelet.clone())
    }
}

async fn ask(kubelet: Arc<KubeletServer>, request: Request<Bytes>) -> Response<Body> {
    let user = User::certified(USER, vec!["system:masters".to_owned()]);
    kubelet.handle(user, request).await.map(|body| Body::stream(body.pieces()))
}

#[async_trait]
impl Outbound for Nearby {
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        match self.kubelet(peer) {
            Some(kubelet) => Ok(ask(kubelet, request).await),
            None => self.sockets.call(peer, request).await,
        }
    }

    async fn upgrade(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Upgraded, OutboundError> {
        match self.kubelet(peer) {
            // Containers of a played node have no streams: the answer says so.
            Some(kubelet) => Ok(Upgraded::Answer(ask(kubelet, request).await)),
            None => self.sockets.upgrade(peer, request).await,
        }
    }
}
