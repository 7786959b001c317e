//! Levers: what a target can do to a cluster. A small closed enum; every lever has an undo, which is data.

use serde::{Deserialize, Serialize};

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
            Lever::KillProcess { hold: false, .. } | Lever::KillContainer { .. } => Undo::Nothing,
            Lever::StopProcess { node, component } => Undo::ContinueProcess { node, component },
            Lever::Cut { id, to, .. } => Undo::Mend { id, nodes: to },
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
    /// There is nothing to take back.
    Nothing,
}

impl Undo {
    /// Whether the API does it, rather than the target.
    pub fn is_api(&self) -> bool {
        matches!(self, Undo::RemoveTaint { .. } | Undo::Uncordon { .. })
    }
}

/// A question to the target, asked by proofs. Whoever answers is not who injected, where that can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "probe")]
pub enum Probe {
    /// Is the node running, paused or gone?
    Node {
        /// The node.
        node: String,
    },
    /// What is the component's process doing?
    Process {
        /// The node.
        node: String,
        /// The component.
        component: Component,
    },
    /// Does the component answer its health check (`/healthz`, etcd's `/health`)?
    Health {
        /// The node.
        node: String,
        /// The component.
        component: Component,
    },
    /// Can `from` reach a port of `to`? A packet goes and an answer comes back.
    Reach {
        /// Who asks.
        from: String,
        /// Who should answer.
        to: String,
        /// Which traffic's port.
        traffic: Traffic,
    },
    /// How many packets has this cut dropped at this node so far?
    Dropped {
        /// The cut.
        id: String,
        /// The node that drops.
        node: String,
    },
    /// The containers of a pod that really run on a node.
    Containers {
        /// The node.
        node: String,
        /// The pod's uid; empty for all.
        pod_uid: String,
    },
    /// What an etcd member says of itself.
    EtcdMember {
        /// The node.
        node: String,
    },
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It is gone.
    Dead,
}

/// What a process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It has been stopped by a signal: every thread stands still.
    Stopped,
    /// There is none.
    Absent,
}

/// One container, as the runtime of its node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFact {
    /// The runtime's id.
    pub id: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name in the pod.
    pub container: String,
}

/// The answer to a [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reading")]
pub enum Reading {
    /// To [`Probe::Node`].
    Node {
        /// What it is doing.
        state: NodeState,
        /// Changes whenever the node starts.
        started: String,
    },
    /// To [`Probe::Process`].
    Process {
        /// What it is doing.
        state: ProcessState,
        /// Process id and start time: changes whenever the component starts. Empty if absent.
        identity: String,
        /// CPU ticks used so far.
        ticks: u64,
    },
    /// To [`Probe::Health`] and [`Probe::Reach`].
    Answer {
        /// Whether an answer came in time.
        ok: bool,
        /// What came, or why not.
        detail: String,
    },
    /// To [`Probe::Dropped`].
    Dropped {
        /// Whether the cut is in place.
        in_place: bool,
        /// Packets dropped since the cut was made.
        packets: u64,
    },
    /// To [`Probe::Containers`].
    Containers {
        /// Those that run.
        running: Vec<ContainerFact>,
    },
    /// To [`Probe::EtcdMember`].
    EtcdMember {
        /// The member's id.
        member: u64,
        /// Whom it takes for the leader; 0 for nobody.
        leader: u64,
        /// Its raft term.
        term: u64,
        /// Its applied revision.
        revision: i64,
    },
}
