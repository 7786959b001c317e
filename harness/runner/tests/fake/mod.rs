//! A target in memory: nodes that can be paused, API servers that can fall silent, a journal of what was done.

pub mod api;
pub mod fault;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use shakedown_core::lever::{Lever, LeverKind, NodeState, Probe, Reading, Undo};
use shakedown_core::target::{
    ClusterFact, ClusterSpec, Endpoint, NodeFact, Observation, Parameters, Progress, Role, Target,
    TargetError,
};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use api::Api;

/// How the target misbehaves.
#[derive(Default, Clone)]
pub struct Script {
    /// Pauses have no effect.
    pub pauses_nothing: bool,
    /// The node goes on by itself after so many seconds.
    pub goes_on_after: Option<u64>,
    /// Unpausing has no effect.
    pub never_goes_on: bool,
    /// While the other worker stands still, nobody sees that this one does not.
    pub hidden_by_the_other: Option<&'static str>,
    /// How long after the pause its Node object says Unknown; never if absent.
    pub noticed_after: Option<u64>,
    /// The first API server falls silent after so many seconds, and stays so.
    pub first_server_dies_after: Option<u64>,
    /// The first API server stands still between these seconds; then it does what it was asked meanwhile.
    pub first_server_still: Option<(u64, u64)>,
    /// Where the undo log is, to look at before anything is done.
    pub undo_log: Option<PathBuf>,
}

type Shared<T> = Arc<Mutex<T>>;

/// The target.
pub struct FakeTarget {
    pub api: Api,
    pub journal: Shared<Vec<String>>,
    script: Script,
    paused: Shared<BTreeSet<String>>,
    tasks: JoinSet<()>,
    endpoints: Vec<Endpoint>,
}

fn node(name: &str, ready: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

/// A client whose requests take a millisecond each way, and for ever once it is silent. While its
/// server stands still they wait there, also if nobody waits for their answers any more.
fn client(
    api: Api,
    silent: watch::Receiver<bool>,
    still: Option<(Instant, Instant)>,
) -> kube::Client {
    let tasks: Shared<JoinSet<()>> = Arc::default();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (api, mut silent, tasks) = (api.clone(), silent.clone(), tasks.clone());
        async move {
            let is_silent = silent.clone();
            let answer = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let goes_on = still.filter(|(from, _)| Instant::now() >= *from).map(|(_, to)| to);
                let (told, reply) = oneshot::channel();
                tasks.lock().unwrap().spawn(async move {
                    tokio::time::sleep_until(goes_on.unwrap_or_else(Instant::now)).await;
                    // Whoever asked may be gone.
                    drop(told.send(api.handle(request, is_silent).await));
                });
                let reply = reply.await.expect("a request is answered");
                tokio::time::sleep(Duration::from_millis(1)).await;
                reply
            };
            // A sender that is gone can no longer say so.
            let fell_silent = async {
                if silent.wait_for(|silent| *silent).await.is_err() {
                    futures::future::pending::<()>().await;
                }
            };
            let reply = tokio::select! {
                biased;
                () = fell_silent => None,
                reply = answer => Some(reply),
            };
            match reply {
                Some(reply) => Ok::<_, Infallible>(reply),
                None => futures::future::pending().await,
            }
        }
    });
    kube::Client::new(service, "default")
}

impl FakeTarget {
    pub fn new(script: Script) -> Self {
        let api = Api::new();
        api.put("/api/v1/namespaces/kube-system", json!({"metadata": {"name": "kube-system"}}));
        for name in ["worker-1", "worker-2"] {
            api.put(&path(name), node(name, "True"));
        }
        let mut tasks = JoinSet::new();
        let silent = watch::Sender::new(false);
        let endpoint = |node: &str, silent, still| Endpoint {
            node: node.into(),
            client: client(api.clone(), silent, still),
        };
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let still = script.first_server_still.map(|(from, to)| (at(from), at(to)));
        let endpoints = vec![
            endpoint("cp-1", silent.subscribe(), still),
            endpoint("cp-2", watch::Sender::new(false).subscribe(), None),
        ];
        if let Some(seconds) = script.first_server_dies_after {
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                silent.send_replace(true);
                futures::future::pending().await
            });
        }
        let (journal, paused) = (Arc::default(), Arc::default());
        Self { api, journal, script, paused, tasks, endpoints }
    }

    pub fn cluster() -> ClusterFact {
        let fact = |name: &str, role| NodeFact { name: name.into(), role, address: String::new() };
        ClusterFact {
            nodes: vec![
                fact("cp-1", Role::ControlPlane),
                fact("cp-2", Role::ControlPlane),
                fact("worker-1", Role::Worker),
                fact("worker-2", Role::Worker),
            ],
            parameters: Parameters::default(),
        }
    }

    fn note(&self, text: impl Into<String>) {
        self.journal.lock().unwrap().push(text.into());
    }

    /// Whether the undo of this node is on disk.
    fn is_logged(&self, node: &str) -> bool {
        let Some(path) = &self.script.undo_log else { return true };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.contains("unpause-node") && text.contains(node)
    }
}

#[async_trait]
impl Target for FakeTarget {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn abilities(&self) -> BTreeSet<LeverKind> {
        [LeverKind::PauseNode].into()
    }

    async fn boot(&mut self, _: &ClusterSpec, _: Progress<'_>) -> Result<ClusterFact, TargetError> {
        Ok(Self::cluster())
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    async fn pull(&mut self, lever: &Lever) -> Result<(), TargetError> {
        let Lever::PauseNode { node } = lever else { panic!("{lever:?}") };
        self.note(format!("pull {node}, undo on disk: {}", self.is_logged(node)));
        tokio::time::sleep(Duration::from_millis(30)).await;
        if self.script.pauses_nothing {
            return Ok(());
        }
        self.paused.lock().unwrap().insert(node.clone());
        if let Some(seconds) = self.script.noticed_after {
            let (api, name) = (self.api.clone(), node.clone());
            self.tasks.spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                let condition =
                    json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
                api.change(&path(&name), &condition);
            });
        }
        if let Some(seconds) = self.script.goes_on_after {
            let (paused, name) = (self.paused.clone(), node.clone());
            self.tasks.spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                paused.lock().unwrap().remove(&name);
            });
        }
        Ok(())
    }

    async fn undo(&mut self, undo: &Undo) -> Result<(), TargetError> {
        let Undo::UnpauseNode { node } = undo else { panic!("{undo:?}") };
        self.note(format!("undo {node}"));
        if !self.script.never_goes_on {
            self.paused.lock().unwrap().remove(node);
            let condition =
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            self.api.change(&path(node), &condition);
        }
        Ok(())
    }

    async fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        match probe {
            Probe::Node { node } => {
                let paused = self.paused.lock().unwrap();
                let is_hidden = self.script.hidden_by_the_other == Some(node.as_str());
                let is_paused = paused.contains(node) || (is_hidden && !paused.is_empty());
                let state = if is_paused { NodeState::Paused } else { NodeState::Running };
                Ok(Reading::Node { state, started: "1".into() })
            }
            Probe::EtcdMember { node } => {
                let member = if node == "cp-1" { 1 } else { 2 };
                Ok(Reading::EtcdMember { member, leader: 2, term: 3, revision: 4 })
            }
            // The second member is behind the first; at the same revision they hold the same.
            Probe::StoreHash { node, revision } => {
                let newest = if node == "cp-1" { 9 } else { 7 };
                let revision = if *revision == 0 { newest } else { *revision };
                Ok(Reading::StoreHash { hash: revision as u64 * 11, revision, compacted: 2 })
            }
            other => panic!("{other:?}"),
        }
    }

    fn observe(&mut self) -> BoxStream<'static, Observation> {
        futures::stream::pending().boxed()
    }

    async fn fingerprint(&mut self) -> Result<BTreeMap<String, String>, TargetError> {
        Ok([("tables".to_string(), String::new())].into())
    }

    async fn down(&mut self) -> BoxFuture<'static, Result<(), TargetError>> {
        async { Ok(()) }.boxed()
    }
}
