//! Probes: questions to a target, asked by proofs, and the readings that answer them.

use serde::{Deserialize, Serialize};

use crate::lever::{Component, Traffic};

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
    /// What this bad weather has done to packets at this node so far?
    Weather {
        /// The weather.
        id: String,
        /// The node at which it is.
        node: String,
    },
    /// How long do a packet to `to` and the answer take?
    RoundTrip {
        /// Who asks.
        from: String,
        /// Who answers.
        to: String,
        /// Which traffic's port.
        traffic: Traffic,
    },
    /// How many connections were reset between two nodes since the cluster began?
    Resets {
        /// One end.
        from: String,
        /// The other.
        to: String,
        /// Which connections.
        traffic: Traffic,
    },
    /// How far is the node's wall clock ahead of the observer's?
    Clock {
        /// The node.
        node: String,
    },
    /// Which disk has the node?
    Disk {
        /// The node.
        node: String,
    },
    /// Which revision did the etcd member of a node compact last?
    Compacted {
        /// The node.
        node: String,
    },
    /// How often has a rule done what it says?
    Meddled {
        /// The rule.
        id: String,
    },
    /// What the store of a node's etcd member holds, as one number (`HashKV`).
    StoreHash {
        /// The node.
        node: String,
        /// Up to which revision; 0 for the member's newest.
        revision: i64,
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
    /// To [`Probe::Weather`].
    Weather {
        /// Whether it is in place.
        in_place: bool,
        /// Packets that came into it.
        packets: u64,
        /// Of those, how many were lost.
        lost: u64,
        /// How many overtook others.
        reordered: u64,
    },
    /// To [`Probe::RoundTrip`].
    RoundTrip {
        /// How long it took; absent if no answer came in time.
        micros: Option<u64>,
    },
    /// To [`Probe::Resets`].
    Resets {
        /// How many.
        connections: u64,
    },
    /// To [`Probe::Clock`].
    Clock {
        /// How far ahead of the observer's; negative is behind. Microseconds.
        offset_us: i64,
        /// By how much the measurement may be wrong.
        error_us: u64,
    },
    /// To [`Probe::Disk`].
    Disk {
        /// Another one whenever the disk is another, or has been emptied.
        identity: String,
    },
    /// To [`Probe::Compacted`].
    Compacted {
        /// The revision; 0 if none was compacted.
        revision: i64,
    },
    /// To [`Probe::Meddled`].
    Meddled {
        /// Whether the rule is in force.
        in_place: bool,
        /// How often it has done what it says.
        hits: u64,
    },
    /// To [`Probe::StoreHash`].
    StoreHash {
        /// The hash.
        hash: u64,
        /// The revision up to which it was computed.
        revision: i64,
        /// The revision that was compacted last.
        compacted: i64,
    },
}
