//! Levers: what a target can do to a cluster. A small closed enum; every lever has an undo, which is data.

use serde::{Deserialize, Serialize};

pub use crate::probe::{ContainerFact, NodeState, Probe, ProcessState, Reading};

/// A part of the orchestrator, by Kubernetes' name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// An etcd member.
    Etcd,
    /// kube-apiserver.
    KubeApiserver,
    /// kube-controller-manager.
    KubeControllerManager,
    /// kube-scheduler.
    KubeScheduler,
    /// kubelet.
    Kubelet,
    /// The container runtime.
    Containerd,
    /// The controller under test of a user of the library; only where one was registered.
    Operator,
}

impl Component {
    /// Every component.
    pub const ALL: &[Component] = &[
        Component::Etcd,
        Component::KubeApiserver,
        Component::KubeControllerManager,
        Component::KubeScheduler,
        Component::Kubelet,
        Component::Containerd,
        Component::Operator,
    ];

    /// The name in scenario files, reports and on the nodes.
    pub fn name(self) -> &'static str {
        match self {
            Component::Etcd => "etcd",
            Component::KubeApiserver => "kube-apiserver",
            Component::KubeControllerManager => "kube-controller-manager",
            Component::KubeScheduler => "kube-scheduler",
            Component::Kubelet => "kubelet",
            Component::Containerd => "containerd",
            Component::Operator => "operator",
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which packets a cut drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Everything from the node, its pods included.
    All,
    /// Between etcd members (TCP 2380).
    EtcdPeer,
    /// To and from etcd's client port (TCP 2379).
    EtcdClient,
    /// To and from the API server (TCP 6443).
    Api,
}

/// What becomes of packets on a bad way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Weather {
    /// Each packet is this much later than before, in microseconds.
    pub latency_us: u64,
    /// And by up to this much more, drawn for each packet.
    pub jitter_us: u64,
    /// How many in ten thousand are lost. TCP sends them again after its retransmission timeout.
    pub loss: u32,
    /// How many in ten thousand overtake those before them.
    pub reorder: u32,
}

/// What is done to the conversation of one component with its API servers, at a place in it.
/// `kind` is plural and group; counting begins when the rule is put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "rule")]
pub enum Rule {
    /// SIGKILL to the component at its `nth` write of this kind (all kinds, if empty), from 1:
    /// before the API server gets it, or after it was done and before the answer is seen.
    CrashAtWrite {
        /// Of which kind.
        kind: String,
        /// Which write.
        nth: u32,
        /// Whether the write still happens.
        is_done: bool,
    },
    /// From the `nth` notification of a kind on, each comes this much later.
    HoldEvents {
        /// Of which kind.
        kind: String,
        /// From which notification.
        nth: u32,
        /// How much later, in microseconds.
        by_us: u64,
    },
    /// From the `nth` notification of a kind on, none comes, and lists show what was before it: a
    /// view that stands still, until the rule is lifted.
    FreezeView {
        /// Of which kind.
        kind: String,
        /// From which notification.
        nth: u32,
    },
    /// At the `nth` notification of a kind the connection breaks, and the next list and watch of the
    /// kind begin `back` notifications earlier: the view goes back in time, then catches up.
    Rewind {
        /// Of which kind.
        kind: String,
        /// At which notification.
        nth: u32,
        /// How many notifications earlier.
        back: u32,
    },
}

/// One thing done to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "lever")]
pub enum Lever {
    /// The node loses power: everything on it is gone at once; its disk stays.
    KillNode {
        /// The node.
        node: String,
    },
    /// Everything on the node stands still (freezer).
    PauseNode {
        /// The node.
        node: String,
    },
    /// SIGKILL to a component. The node's supervisor starts it again, unless it is held down.
    KillProcess {
        /// The node.
        node: String,
        /// The component.
        component: Component,
        /// Whether it stays down until undone.
        hold: bool,
    },
    /// SIGSTOP to a component.
    StopProcess {
        /// The node.
        node: String,
        /// The component.
        component: Component,
    },
    /// Packets that come from `from` are dropped where they enter any of `to`. One-way.
    Cut {
        /// Names the cut, so that it can be probed and mended.
        id: String,
        /// The senders.
        from: Vec<String>,
        /// The receivers, which drop.
        to: Vec<String>,
        /// Which packets.
        traffic: Traffic,
    },
    /// SIGKILL to the main process of one container of a pod.
    KillContainer {
        /// The node.
        node: String,
        /// The pod's uid.
        pod_uid: String,
        /// The container's name in the pod.
        container: String,
    },
    /// Packets that come from `from` meet bad weather where they enter any of `to`. One-way.
    Slow {
        /// Names it, so that it can be probed and mended, as a cut.
        id: String,
        /// The senders.
        from: Vec<String>,
        /// The receivers, at which the weather is.
        to: Vec<String>,
        /// Which packets.
        traffic: Traffic,
        /// The weather.
        weather: Weather,
    },
    /// Every open connection of this traffic between the two groups is reset (RST to both ends).
    Reset {
        /// One group.
        from: Vec<String>,
        /// The other.
        to: Vec<String>,
        /// Which connections.
        traffic: Traffic,
    },
    /// The wall clock of a node's components is put off at once, and from then on runs fast or slow.
    /// The monotonic clock is not touched.
    Skew {
        /// The node.
        node: String,
        /// How far ahead; negative is behind. Microseconds.
        offset_us: i64,
        /// How much faster it runs; negative is slower. Parts in a million.
        rate_ppm: i64,
    },
    /// The disk of a dead node is empty when it starts again: a worker has no containers and images,
    /// an etcd member has no data and is replaced by a new one.
    LoseDisk {
        /// The node.
        node: String,
    },
    /// etcd forgets all revisions before the one it is at now.
    Compact,
    /// The leadership of etcd is handed to the member of this node.
    MoveLeader {
        /// The node.
        node: String,
    },
    /// A rule for the conversation of a component with its API servers.
    Meddle {
        /// Names it, so that it can be probed and lifted.
        id: String,
        /// The node of the component.
        node: String,
        /// The component.
        component: Component,
        /// What is done.
        rule: Rule,
    },
}

impl Lever {
    /// The name of the kind of lever, by which a target declares what it can do.
    pub fn kind(&self) -> LeverKind {
        match self {
            Lever::KillNode { .. } => LeverKind::KillNode,
            Lever::PauseNode { .. } => LeverKind::PauseNode,
            Lever::KillProcess { .. } => LeverKind::KillProcess,
            Lever::StopProcess { .. } => LeverKind::StopProcess,
            Lever::Cut { .. } => LeverKind::Cut,
            Lever::KillContainer { .. } => LeverKind::KillContainer,
            Lever::Slow { .. } => LeverKind::Slow,
            Lever::Reset { .. } => LeverKind::Reset,
            Lever::Skew { .. } => LeverKind::Skew,
            Lever::LoseDisk { .. } => LeverKind::LoseDisk,
            Lever::Compact | Lever::MoveLeader { .. } => LeverKind::EtcdAdmin,
            Lever::Meddle { .. } => LeverKind::Meddle,
        }
    }

    /// What takes it back.
    pub fn undo(&self) -> Undo {
        match self.clone() {
            Lever::KillNode { node } => Undo::StartNode { node },
            Lever::PauseNode { node } => Undo::UnpauseNode { node },
            Lever::KillProcess { node, component, hold: true } => {
                Undo::ReleaseProcess { node, component }
            }
            Lever::KillProcess { hold: false, .. }
            | Lever::KillContainer { .. }
            | Lever::Reset { .. }
            | Lever::LoseDisk { .. }
            | Lever::Compact
            | Lever::MoveLeader { .. } => Undo::Nothing,
            Lever::StopProcess { node, component } => Undo::ContinueProcess { node, component },
            Lever::Cut { id, to, .. } | Lever::Slow { id, to, .. } => Undo::Mend { id, nodes: to },
            Lever::Skew { node, .. } => Undo::Unskew { node },
            Lever::Meddle { id, .. } => Undo::Unmeddle { id },
        }
    }
}

/// The kinds of lever, as a target declares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeverKind {
    /// [`Lever::KillNode`]
    KillNode,
    /// [`Lever::PauseNode`]
    PauseNode,
    /// [`Lever::KillProcess`]
    KillProcess,
    /// [`Lever::StopProcess`]
    StopProcess,
    /// [`Lever::Cut`]
    Cut,
    /// [`Lever::KillContainer`]
    KillContainer,
    /// [`Lever::Slow`]
    Slow,
    /// [`Lever::Reset`]
    Reset,
    /// [`Lever::Skew`]
    Skew,
    /// [`Lever::LoseDisk`]
    LoseDisk,
    /// [`Lever::Compact`] and [`Lever::MoveLeader`]
    EtcdAdmin,
    /// [`Lever::Meddle`]
    Meddle,
    /// Writes through the API.
    Api,
}

/// What takes a lever, or a write through the API, back. Written to the undo log before the pull;
/// doing it twice, or without the pull, does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// Starts the node, with the address it had.
    StartNode {
        /// The node.
        node: String,
    },
    /// Lets the node go on.
    UnpauseNode {
        /// The node.
        node: String,
    },
    /// Lets the supervisor start the component again.
    ReleaseProcess {
        /// The node.
        node: String,
        /// The component.
        component: Component,
    },
    /// SIGCONT.
    ContinueProcess {
        /// The node.
        node: String,
        /// The component.
        component: Component,
    },
    /// Removes a cut.
    Mend {
        /// The cut.
        id: String,
        /// The nodes that drop.
        nodes: Vec<String>,
    },
    /// Removes exactly this taint, through the API.
    RemoveTaint {
        /// The node.
        node: String,
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// Effect.
        effect: String,
    },
    /// Clears `spec.unschedulable`, through the API.
    Uncordon {
        /// The node.
        node: String,
    },
    /// Sets a node's wall clock right.
    Unskew {
        /// The node.
        node: String,
    },
    /// Lifts a rule.
    Unmeddle {
        /// The rule.
        id: String,
    },
    /// There is nothing to take back.
    Nothing,
}

impl Undo {
    /// Whether the API does it, rather than the target.
    pub fn is_api(&self) -> bool {
        matches!(self, Undo::RemoveTaint { .. } | Undo::Uncordon { .. })
    }
}
