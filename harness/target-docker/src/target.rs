//! The docker target: a cluster of node containers, its levers and its probes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use shakedown_core::agent::Ask;
use shakedown_core::lever::{Lever, LeverKind, NodeState, Probe, Reading, Undo};
use shakedown_core::target::{
    ClusterFact, ClusterSpec, Endpoint, Observation, Progress, Role, Target, TargetError,
};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::binaries::Binaries;
use crate::docker::{self, failed};
use crate::etcd::Outside;
use crate::eyes::Eyes;
use crate::link::{Link, To};
use crate::node_files::AUDIT_LOG;
use crate::record::{ClusterDir, NodeRecord, Record};

/// The target's name.
pub(crate) const NAME: &str = "docker";
/// A node that was started answers its agent's start within this.
const AGENT_WITHIN: Duration = Duration::from_secs(15);
/// It is tried so often.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// What a docker target is made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory with all clusters of this user; see [`crate::record::default_state_dir`].
    pub state: PathBuf,
    /// The cluster's name: of its containers, its network and its directory.
    pub cluster: String,
    /// The run that it belongs to; unique.
    pub run: String,
    /// Whether the cluster stays when this process ends (`shakedown up`).
    pub keep: bool,
    /// What the nodes run.
    pub binaries: Binaries,
}

/// A cluster of node containers.
pub struct DockerTarget {
    pub(crate) docker: Docker,
    pub(crate) dir: ClusterDir,
    pub(crate) record: Record,
    /// Nothing for a target that was attached: it cannot boot.
    pub(crate) options: Option<Options>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) outside: Option<Arc<Outside>>,
    pub(crate) links: BTreeMap<String, Arc<Link>>,
    pub(crate) eyes: Arc<Eyes>,
    polls: JoinSet<()>,
}

impl DockerTarget {
    /// A target without a cluster yet: [`Target::boot`] makes it.
    pub async fn new(options: Options) -> Result<Self, TargetError> {
        let docker = docker::connect().await?;
        let dir = ClusterDir::new(&options.state, &options.cluster);
        let network = format!("shakedown-{}", options.cluster);
        let record = Record::new(&options.run, &options.cluster, &network, Default::default());
        Ok(Self::with(docker, dir, record, Some(options)))
    }

    /// A target with the cluster that `shakedown up` made. It must be running.
    pub async fn attach(state: &std::path::Path, cluster: &str) -> Result<Self, TargetError> {
        let dir = ClusterDir::new(state, cluster);
        let record = dir.read()?;
        let mut target = Self::with(docker::connect().await?, dir, record, None);
        for node in target.record.nodes.clone() {
            let (state, _) = target.node_state(&node).await?;
            if state != NodeState::Running {
                return Err(failed(
                    format!("attaching to cluster `{cluster}`"),
                    format!("{} is {state:?}", node.fact.name),
                    "let it go on: `shakedown heal`; or make it anew: `shakedown down`, `shakedown up`",
                ));
            }
            target.connect_agent(&node.fact.name).await?;
        }
        target.connect_from_outside().await?;
        Ok(target)
    }

    fn with(docker: Docker, dir: ClusterDir, record: Record, options: Option<Options>) -> Self {
        Self {
            docker,
            dir,
            record,
            options,
            endpoints: Vec::new(),
            outside: None,
            links: BTreeMap::new(),
            eyes: Arc::default(),
            polls: JoinSet::new(),
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.kubeconfig()
    }

    /// The cluster.
    pub fn fact(&self) -> ClusterFact {
        self.record.fact()
    }

    /// The run that the cluster belongs to.
    pub fn run(&self) -> &str {
        &self.record.run
    }

    pub(crate) fn node(&self, name: &str) -> Result<NodeRecord, TargetError> {
        let found = self.record.nodes.iter().find(|node| node.fact.name == name);
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> =
                self.record.nodes.iter().map(|node| node.fact.name.as_str()).collect();
            let name = name.to_owned();
            TargetError::Unknown { what: "node", name, known: known.join(", ") }
        })
    }

    /// What Docker says the node is doing, and when it started.
    pub(crate) async fn node_state(
        &self,
        node: &NodeRecord,
    ) -> Result<(NodeState, String), TargetError> {
        let inspected = self.docker.inspect_container(&node.container, None).await;
        let inspected = match inspected {
            Err(error) if docker::is_missing(&error) => {
                return Ok((NodeState::Dead, String::new()));
            }
            other => other
                .map_err(|error| failed(format!("inspecting {}", node.fact.name), error, ""))?,
        };
        let state = inspected.state.unwrap_or_default();
        let started = state.started_at.unwrap_or_default();
        let is = |flag: Option<bool>| flag.unwrap_or(false);
        let node_state = match (is(state.running), is(state.paused)) {
            (true, true) => NodeState::Paused,
            (true, false) => NodeState::Running,
            (false, _) => NodeState::Dead,
        };
        Ok((node_state, started))
    }

    /// The link to the agent of a running node; opened anew if the last one ended.
    pub(crate) async fn link(&mut self, node: &str) -> Result<Arc<Link>, TargetError> {
        match self.links.get(node) {
            Some(link) if link.is_open() => Ok(Arc::clone(link)),
            _ => self.connect_agent(node).await,
        }
    }

    /// Starts the agent, as soon as the node lets it, and has it observe if anybody wants to know.
    pub(crate) async fn connect_agent(&mut self, name: &str) -> Result<Arc<Link>, TargetError> {
        self.links.remove(name);
        let node = self.node(name)?;
        let deadline = tokio::time::Instant::now() + AGENT_WITHIN;
        let link = loop {
            let to = To { node: name.to_owned(), container: node.container.clone() };
            match Link::open(&self.docker, to, Arc::clone(&self.eyes)).await {
                Ok(link) => break link,
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(TRY_EVERY).await,
            }
        };
        self.links.insert(name.to_owned(), Arc::clone(&link));
        if self.eyes.is_open() {
            self.observe_node(&node, &link).await?;
        }
        Ok(link)
    }

    async fn observe_node(&self, node: &NodeRecord, link: &Link) -> Result<(), TargetError> {
        let name = &node.fact.name;
        let asked = tokio::time::Instant::now();
        let all = Ask::Containers { pod_uid: String::new() };
        if let Reading::Containers { running } = link.reading(all).await? {
            self.eyes.running(name, &running, asked, link.clock_error());
        }
        link.order(Self::observe_ask(node)).await
    }

    fn observe_ask(node: &NodeRecord) -> Ask {
        let audit_log = match node.fact.role {
            Role::ControlPlane => AUDIT_LOG.to_owned(),
            Role::Worker => String::new(),
        };
        Ask::Observe { audit_log }
    }

    /// The client outside of the nodes.
    pub(crate) fn outside(&self) -> Result<Arc<Outside>, TargetError> {
        let why = "the cluster is not up yet";
        self.outside.clone().ok_or_else(|| failed("asking etcd and the API servers", why, ""))
    }

    /// Polls that go on until the target is dropped or somebody else observes.
    fn poll_etcd(&mut self) {
        let Ok(outside) = self.outside() else { return };
        let nodes = self.record.fact().names(Role::ControlPlane);
        for node in nodes {
            let address = match self.node(&node) {
                Ok(record) => record.fact.address,
                Err(_) => continue,
            };
            let (outside, eyes) = (Arc::clone(&outside), Arc::clone(&self.eyes));
            self.polls.spawn(async move { outside.poll_member(&node, &address, &eyes).await });
        }
    }
}

#[async_trait::async_trait]
impl Target for DockerTarget {
    fn name(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> BTreeSet<LeverKind> {
        [
            LeverKind::KillNode,
            LeverKind::PauseNode,
            LeverKind::KillProcess,
            LeverKind::StopProcess,
            LeverKind::Cut,
            LeverKind::KillContainer,
            LeverKind::EtcdAdmin,
            LeverKind::Api,
        ]
        .into()
    }

    async fn boot(
        &mut self,
        spec: &ClusterSpec,
        progress: Progress<'_>,
    ) -> Result<ClusterFact, TargetError> {
        if let Err(error) = self.launch(spec, progress).await {
            return Err(self.with_logs(error).await);
        }
        match self.wait_until_ready(progress).await {
            Ok(()) => Ok(self.record.fact()),
            Err(error) => Err(self.with_logs(error).await),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    async fn pull(&mut self, lever: &Lever) -> Result<(), TargetError> {
        self.pull_lever(lever).await
    }

    async fn undo(&mut self, undo: &Undo) -> Result<(), TargetError> {
        self.take_back(undo).await
    }

    async fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        self.answer(probe).await
    }

    fn observe(&mut self) -> BoxStream<'static, Observation> {
        let from = self.eyes.open();
        self.polls = JoinSet::new();
        for (name, link) in self.links.clone() {
            let Ok(node) = self.node(&name) else { continue };
            let ask = Self::observe_ask(&node);
            self.polls.spawn(async move {
                // A node that is down has nothing to tell; its next agent is told when it starts.
                if let Err(error) = link.order(ask).await {
                    tracing::warn!("{error}");
                }
            });
        }
        self.poll_etcd();
        ReceiverStream::new(from).boxed()
    }

    async fn fingerprint(&mut self) -> Result<BTreeMap<String, String>, TargetError> {
        let mut things = BTreeMap::new();
        for node in self.record.nodes.clone() {
            let name = &node.fact.name;
            let (state, _) = self.node_state(&node).await?;
            things.insert(format!("{name}: state"), format!("{state:?}"));
            if state == NodeState::Running {
                let link = self.link(name).await?;
                let of_node = link.things().await?.into_iter();
                things.extend(of_node.map(|(thing, how)| (format!("{name}: {thing}"), how)));
            }
        }
        let leftovers = crate::sweep::list(&self.docker).await?;
        let own = leftovers.iter().filter(|left| left.run == self.record.run);
        let names: Vec<String> = own.map(|left| format!("{} {}", left.kind, left.name)).collect();
        things.insert("in Docker".to_owned(), names.join(", "));
        Ok(things)
    }

    async fn down(&mut self) -> BoxFuture<'static, Result<(), TargetError>> {
        self.links.clear();
        self.polls = JoinSet::new();
        self.endpoints.clear();
        let (docker, dir, run) = (self.docker.clone(), self.dir.clone(), self.record.run.clone());
        async move {
            crate::sweep::remove_run(&docker, &run).await?;
            dir.remove(&run)
        }
        .boxed()
    }
}
