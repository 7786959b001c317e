//! A target: something that has a cluster and can do things to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::lever::{Lever, LeverKind, Probe, Reading, Undo};
use crate::timeline::What;

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// etcd member, API server, controller-manager and scheduler.
    ControlPlane,
    /// kubelet and pods.
    Worker,
}

/// One node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFact {
    /// Its name; for a worker also the name of its Node object.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its address.
    pub address: String,
}

/// The configured timings that windows are computed from. Scenario files name them by these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// `--node-monitor-period`
    pub monitor: Duration,
    /// `--node-monitor-grace-period`
    pub grace: Duration,
    /// How often a kubelet renews its Lease.
    pub heartbeat: Duration,
    /// `--leader-elect-lease-duration`
    pub lease: Duration,
    /// `--leader-elect-renew-deadline`
    pub renew: Duration,
    /// `--leader-elect-retry-period`
    pub retry: Duration,
    /// `--default-unreachable-toleration-seconds`; `T` in scenario files.
    pub toleration: Duration,
    /// etcd's `--election-timeout`
    pub election: Duration,
}

impl Default for Parameters {
    /// The documented defaults.
    fn default() -> Self {
        Self {
            monitor: Duration::from_secs(5),
            grace: Duration::from_secs(40),
            heartbeat: Duration::from_secs(10),
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            toleration: Duration::from_secs(300),
            election: Duration::from_secs(1),
        }
    }
}

impl Parameters {
    /// The parameter of this name in a scenario file.
    pub fn named(&self, name: &str) -> Option<Duration> {
        Some(match name {
            "monitor" => self.monitor,
            "grace" => self.grace,
            "heartbeat" => self.heartbeat,
            "lease" => self.lease,
            "renew" => self.renew,
            "retry" => self.retry,
            "T" => self.toleration,
            "election" => self.election,
            _ => return None,
        })
    }

    /// Every name that [`Parameters::named`] knows.
    pub const NAMES: &[&str] =
        &["monitor", "grace", "heartbeat", "lease", "renew", "retry", "T", "election"];
}

/// The cluster that a run wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// How many control-plane nodes.
    pub control_planes: u32,
    /// How many workers.
    pub workers: u32,
    /// Over how many zones the workers are spread, in turn; with one they have no zone label.
    #[serde(default = "one_zone")]
    pub zones: u32,
    /// The timings.
    pub parameters: Parameters,
    /// Planted defects to switch on, by name. Empty but in tests of the tester.
    pub sabotages: Vec<String>,
}

/// The label that says in which zone a node is.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

fn one_zone() -> u32 {
    1
}

impl Default for ClusterSpec {
    /// One control plane and one worker, with the documented timings.
    fn default() -> Self {
        Self {
            control_planes: 1,
            workers: 1,
            zones: one_zone(),
            parameters: Parameters::default(),
            sabotages: Vec::new(),
        }
    }
}

impl ClusterSpec {
    /// The zone of a worker, by its place among the workers from 0; `None` if there are no zones.
    pub fn zone_of(&self, worker: usize) -> Option<String> {
        let zones = self.zones as usize;
        (zones > 1).then(|| format!("zone-{}", worker % zones + 1))
    }
}

/// The cluster that a target has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFact {
    /// The nodes, control plane first, then workers, each in order of name.
    pub nodes: Vec<NodeFact>,
    /// The timings in force.
    pub parameters: Parameters,
}

impl ClusterFact {
    /// The names of the nodes of one role.
    pub fn names(&self, role: Role) -> Vec<String> {
        self.nodes.iter().filter(|node| node.role == role).map(|node| node.name.clone()).collect()
    }
}

/// A way to an API server, as administrator (`system:masters`). Never retries by itself.
#[derive(Clone)]
pub struct Endpoint {
    /// The node that the API server runs on.
    pub node: String,
    /// The client.
    pub client: kube::Client,
}

/// Why a target did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target has no such lever or probe.
    #[error("target `{target}` cannot {what}")]
    Unsupported {
        /// The target.
        target: &'static str,
        /// The lever or probe.
        what: String,
    },
    /// Nothing of this name is there.
    #[error("no {what} `{name}`; there is: {known}")]
    Unknown {
        /// node, process, cut ...
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It was tried and did not work.
    #[error("{what}: {why}")]
    Failed {
        /// The act.
        what: String,
        /// Why it failed.
        why: String,
        /// What the user can do about it; may be empty.
        hint: String,
    },
}

/// Tells people what is going on while they wait.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Something that has a cluster and can do things to it.
///
/// The caller logs `lever.undo()` before it calls [`Target::pull`].
#[async_trait::async_trait]
pub trait Target: Send {
    /// `sim`, `docker`, `kubeconfig`.
    fn name(&self) -> &'static str;
    /// What it can do.
    fn abilities(&self) -> BTreeSet<LeverKind>;
    /// Makes the cluster, and waits until every node is Ready.
    async fn boot(
        &mut self,
        spec: &ClusterSpec,
        progress: Progress<'_>,
    ) -> Result<ClusterFact, TargetError>;
    /// One for each API server.
    fn endpoints(&self) -> Vec<Endpoint>;
    /// Does something to the cluster.
    async fn pull(&mut self, lever: &Lever) -> Result<(), TargetError>;
    /// Takes it back. Doing it twice does no harm. API undos are not the target's.
    async fn undo(&mut self, undo: &Undo) -> Result<(), TargetError>;
    /// Answers a question. A node that is gone or paused is an answer, not an error.
    async fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError>;
    /// Answers several questions, in their order. A target that can asks them all at the same time.
    async fn probe_all(&mut self, probes: &[Probe]) -> Vec<Result<Reading, TargetError>> {
        let mut answers = Vec::with_capacity(probes.len());
        for probe in probes {
            answers.push(self.probe(probe).await);
        }
        answers
    }
    /// What the target itself sees, as it happens: containers that start and stop, processes,
    /// etcd members, audit lines. Each with microseconds since `clock`'s zero and an error bound.
    fn observe(&mut self) -> BoxStream<'static, Observation>;
    /// Everything that a run may leave behind, by name (tables, qdiscs, mounts, containers,
    /// taints aside): equal before and after, or something was left.
    async fn fingerprint(&mut self) -> Result<BTreeMap<String, String>, TargetError>;
    /// Ends the cluster and removes all that belongs to it.
    async fn down(&mut self) -> BoxFuture<'static, Result<(), TargetError>>;
}

/// Something that the target saw.
#[derive(Debug, Clone)]
pub struct Observation {
    /// When, on tokio's clock.
    pub at: tokio::time::Instant,
    /// How much earlier it may have happened.
    pub error: Duration,
    /// What.
    pub what: What,
}
