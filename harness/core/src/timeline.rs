//! The timeline: everything that was seen, in one order. The only evidence that a verdict may rest on.
//!
//! `timeline.ndjson` is one [`Event`] a line; the first is [`What::Run`] with the format's number.

use crate::json::Value;
use crate::lever::{Component, ContainerFact, ProcessState, Reading, Undo};
use crate::target::ClusterFact;
use serde::{Deserialize, Serialize};

/// The shape of the timeline; raised when it changes. Older ones stay readable, from [`OLDEST`] on.
///
/// Format 2: a scenario's end is sealed, and it is told where its steps end and clean-up begins.
/// Format 3: the seal is made of the data, no longer of its text.
pub const FORMAT: u32 = 3;
/// The oldest shape that is still read. What it does not tell is never taken for granted.
pub const OLDEST: u32 = 1;

/// Why a timeline of this format cannot be read; `None` if it can.
pub fn unreadable(format: u32) -> Option<String> {
    let by = match format {
        OLDEST..=FORMAT => return None,
        newer if newer > FORMAT => "a newer",
        _ => "an older",
    };
    Some(format!(
        "the timeline has format {format}, of {by} program; this one reads {OLDEST} to {FORMAT}"
    ))
}

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the timeline, from 0, without gaps.
    pub seq: u64,
    /// Microseconds since the run began, on a monotonic clock.
    pub at_us: u64,
    /// It may have happened so much earlier.
    pub error_us: u64,
    /// The scenario during which it was seen; empty outside of any.
    pub scenario: String,
    /// What was seen.
    pub what: What,
}

/// How an object changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Change {
    /// It is new to the watch.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// Where a fault stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultPhase {
    /// It will be done, to these targets.
    Planned,
    /// Its undo is on disk.
    UndoLogged,
    /// It was done.
    Applied,
    /// It is in effect: shown by evidence.
    Proven,
    /// It is still in effect, on the same targets.
    Sustained,
    /// It is no longer in effect although it should be.
    Lost,
    /// It could not be shown to be in effect.
    Unproven,
    /// It was taken back.
    Removed,
    /// Its effect is gone: shown by evidence.
    HealProven,
    /// Its effect could not be shown to be gone.
    HealUnproven,
}

/// How an operation of a workload client came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// It was acknowledged.
    Ok {
        /// The revision it happened at, or was read at.
        revision: i64,
        /// The value written or read: `data.value` of a ConfigMap. Absent if there is no object.
        value: Option<String>,
    },
    /// It was refused and did not happen.
    Refused {
        /// HTTP status.
        code: u16,
        /// `reason` of the Status.
        reason: String,
    },
    /// Nobody knows whether it happened.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Which state a read wants, in Kubernetes' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// The newest: no resourceVersion.
    #[default]
    Latest,
    /// Any: `resourceVersion=0`.
    Any,
    /// One at least as new: `resourceVersionMatch=NotOlderThan`.
    NotOlderThan(i64),
    /// Exactly this one: `resourceVersionMatch=Exact`.
    Exact(i64),
}

/// One operation of a workload client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Which client.
    pub client: u32,
    /// The node of the API server it spoke to.
    pub server: String,
    /// get, list, create, update, patch, delete.
    pub verb: String,
    /// Namespace and name; of a list the namespace and a `/`.
    pub key: String,
    /// The value written.
    pub value: Option<String>,
    /// The resourceVersion that the object had to have, if that was asked for.
    pub expected: Option<i64>,
    /// Which state a get or list wants.
    #[serde(default, skip_serializing_if = "is_latest")]
    pub reads: Reads,
    /// What a list answered: the revision of each object by its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<std::collections::BTreeMap<String, i64>>,
    /// When the request was sent, in microseconds since the run began; the event's time is the answer's.
    pub call_us: u64,
    /// How it came out.
    pub outcome: Outcome,
}

fn is_latest(reads: &Reads) -> bool {
    *reads == Reads::Latest
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum What {
    /// The run began.
    Run {
        /// The timeline's format.
        format: u32,
        /// The target's name.
        target: String,
        /// The seed.
        seed: u64,
    },
    /// A cluster is up.
    Cluster {
        /// What it consists of.
        cluster: ClusterFact,
    },
    /// A scenario began.
    ScenarioBegan {
        /// Its id.
        id: String,
    },
    /// A scenario ended: nothing of it is seen after this.
    ScenarioEnded {
        /// Its id.
        id: String,
    },
    /// A name was bound.
    Bound {
        /// The name.
        name: String,
        /// What it stands for: names of nodes or objects.
        to: Vec<String>,
    },
    /// A step's moment came.
    Moment {
        /// The step's name, or `step-<index>`.
        name: String,
    },
    /// The harness's own witness watch saw an object change.
    Object {
        /// How.
        change: Change,
        /// Plural and group, such as `pods` or `deployments.apps`.
        kind: String,
        /// The revision of the change.
        revision: i64,
        /// The object after it; the last known one if it was deleted.
        object: Value,
    },
    /// The witness watch was interrupted and listed anew: changes in between may be missing.
    WitnessGap {
        /// Which kind.
        kind: String,
        /// Why.
        why: String,
    },
    /// A fault moved on in its life.
    Fault {
        /// The step's name.
        name: String,
        /// The kind of fault, such as `node-kill`.
        fault: String,
        /// Where it stands.
        phase: FaultPhase,
        /// What it is done to.
        targets: Vec<String>,
        /// What was logged to take it back.
        undo: Vec<Undo>,
        /// What shows it.
        evidence: Vec<Evidence>,
    },
    /// A workload client's operation was answered.
    Operation(Operation),
    /// A workload client's watch delivered an event.
    Delivered {
        /// Which client.
        client: u32,
        /// Counts the client's watch requests.
        stream: u32,
        /// How the object changed.
        change: Change,
        /// Namespace and name.
        key: String,
        /// The object's revision.
        revision: i64,
        /// `data.value` of the object.
        value: Option<String>,
    },
    /// A workload client's watch began or ended.
    WatchStream {
        /// Which client.
        client: u32,
        /// Counts the client's watch requests.
        stream: u32,
        /// The node of the API server it spoke to.
        server: String,
        /// The revision it asked for or, at its end, had reached.
        revision: i64,
        /// `began`, or why it ended.
        state: String,
        /// What the list before it contained, key to revision; only when it began with a list.
        listed: Option<std::collections::BTreeMap<String, i64>>,
    },
    /// A container started or ended, as the runtime of its node tells it.
    Container {
        /// The node.
        node: String,
        /// Whether it runs now.
        running: bool,
        /// Which one.
        container: ContainerFact,
    },
    /// A component's process changed.
    Process {
        /// The node.
        node: String,
        /// The component.
        component: Component,
        /// What it is doing now.
        state: ProcessState,
        /// Process id and start time.
        identity: String,
    },
    /// What an etcd member says of itself.
    EtcdMember {
        /// The node.
        node: String,
        /// The member's id.
        member: u64,
        /// Whom it takes for the leader; 0 for nobody.
        leader: u64,
        /// Its raft term.
        term: u64,
        /// Its applied revision.
        revision: i64,
    },
    /// What an etcd member's store holds, as one number: taken of every member at the end of a
    /// scenario, when nothing is broken any more.
    StoreHash {
        /// The node.
        node: String,
        /// `HashKV` up to the revision.
        hash: u64,
        /// The revision.
        revision: i64,
        /// The revision that was compacted last.
        compacted: i64,
    },
    /// A line of an API server's audit log: a write that was answered.
    Audit {
        /// The API server's node.
        node: String,
        /// Who wrote: the user's name.
        user: String,
        /// create, update, patch, delete.
        verb: String,
        /// Plural and group.
        kind: String,
        /// Namespace and name, and the subresource after a `/`, if any.
        key: String,
        /// HTTP status.
        code: u16,
        /// The revision that the write happened at; 0 if it was refused.
        revision: i64,
        /// The leader's fence, `<lease>/<holder>/<transitions>`, or empty.
        fence: String,
    },
    /// What the machine looked like: before and after must be equal.
    Fingerprint {
        /// `before` or `after`.
        when: String,
        /// Everything that a run may leave behind.
        things: std::collections::BTreeMap<String, String>,
    },
    /// The scenario is not run: the target lacks an ability.
    NotRun {
        /// Which, and why.
        why: String,
    },
    /// How late the witness sees a change, measured before the first step.
    Baseline {
        /// How many canary writes were timed.
        samples: u32,
        /// The 99.9th percentile from the write's call to the witness' event, in microseconds.
        p999_us: u64,
    },
    /// The steps are over: from here on everything is healed and cleaned up, and nothing that is seen
    /// says anything of what the scenario expects.
    StepsOver {
        /// Why the scenario was given up; empty if every step was done and every window has closed.
        why: String,
    },
    /// What was handed to the recorder since the scenario began, by its sources' own book: comes last
    /// before the scenario's end. See [`crate::seal`].
    Sealed {
        /// How many events of each sort.
        counts: std::collections::BTreeMap<String, u64>,
        /// The end of the chain of all of them.
        digest: String,
    },
    /// Something for people.
    Note {
        /// The text.
        text: String,
    },
    /// The harness itself failed at something.
    Trouble {
        /// What it was doing.
        doing: String,
        /// Why it failed.
        why: String,
    },
}

/// One piece of evidence: a probe, who was asked, and whether the answer is as it must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `counter`, `behaviour` or `control` (an untouched peer behaves as before).
    pub kind: String,
    /// What was asked and answered, for people.
    pub text: String,
    /// Whether it shows what it must show.
    pub holds: bool,
    /// The raw answer, where there is one.
    pub reading: Option<Reading>,
}
