//! What the docker target and its agent inside a node say to each other: one JSON value a line.
//!
//! The target writes [`Request`]s to the agent's standard input and reads [`Say`]s from its standard
//! output. The agent ends when its input ends, and all that it holds in the kernel ends with it.
//! Times are microseconds on the agent's own monotonic clock; the target measures the offset.

use serde::{Deserialize, Serialize};

use crate::lever::{Component, Reading, Traffic};
use crate::timeline::What;

/// One thing asked of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back with the reply.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What the agent can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// What time is it? Also shows that the target is alive.
    Now,
    /// What is the component's process doing? Answered with a reading.
    Process {
        /// The component.
        component: Component,
    },
    /// SIGKILL to the component.
    Kill {
        /// The component.
        component: Component,
        /// Whether the supervisor must leave it down.
        hold: bool,
    },
    /// SIGSTOP to the component.
    Stop {
        /// The component.
        component: Component,
    },
    /// SIGCONT to the component.
    Continue {
        /// The component.
        component: Component,
    },
    /// Lets the supervisor start the component again.
    Release {
        /// The component.
        component: Component,
    },
    /// SIGKILL to the main process of a container.
    KillContainer {
        /// The pod's uid.
        pod_uid: String,
        /// The container's name in the pod.
        container: String,
    },
    /// The containers that run. Answered with a reading.
    Containers {
        /// Of this pod; empty for all.
        pod_uid: String,
    },
    /// Opens a TCP connection. A refusal is an answer too: packets went both ways.
    Reach {
        /// The address.
        address: String,
        /// The port.
        port: u16,
        /// Give up after so long.
        within_ms: u64,
    },
    /// Is the component well, as far as can be told from inside the node?
    Health {
        /// The component.
        component: Component,
        /// Give up after so long.
        within_ms: u64,
    },
    /// Drops packets where they enter the node.
    Cut {
        /// Names the cut.
        id: String,
        /// This node's address: its interface drops.
        address: String,
        /// Addresses and prefixes of the senders.
        sources: Vec<String>,
        /// Which packets.
        traffic: Traffic,
    },
    /// Removes a cut. No harm if there is none.
    Mend {
        /// The cut.
        id: String,
    },
    /// How many packets has the cut dropped? Answered with a reading.
    Dropped {
        /// The cut.
        id: String,
    },
    /// Tell from now on what is seen, beginning with what there is.
    Observe {
        /// The audit log to follow; empty for none.
        audit_log: String,
    },
    /// What a run may leave behind on the node.
    Fingerprint,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// It was done.
    Done,
    /// To a question that a probe asked.
    Reading {
        /// The reading.
        reading: Reading,
    },
    /// What was found, by name.
    Things {
        /// Name and state.
        things: std::collections::BTreeMap<String, String>,
    },
    /// It did not work.
    Failed {
        /// Why.
        why: String,
    },
}

/// One line of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "say")]
pub enum Say {
    /// The answer to a request.
    Reply {
        /// The request's.
        id: u64,
        /// The agent's clock when it answered.
        at_us: u64,
        /// The answer.
        answer: Answer,
    },
    /// Something was seen.
    Seen {
        /// The agent's clock when it was seen.
        at_us: u64,
        /// It may have happened so much earlier.
        error_us: u64,
        /// What.
        what: Box<What>,
    },
}
