//! Events that ought to happen at times: a pure fold over the timeline that counts them.
//!
//! A storm in which nobody lost the leadership and no watch was resumed proves little. [`ALL`] names
//! what can be counted; scenarios demand it by `reaches:`, expressions see it as `cluster.seen`.
//! The counts begin anew with each scenario. What was there when something was first seen counts for
//! nothing: only changes do. Each event is taken in once, in at most logarithmic time.

mod clients;
mod objects;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use crate::lever::{ProcessState, Reading, Undo};
use crate::timeline::{Change, Event, FaultPhase, What};

/// An event that ought to happen at times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sometime {
    /// The name in scenario files.
    pub name: &'static str,
    /// What it is, in a line.
    pub what: &'static str,
}

const fn some(name: &'static str, what: &'static str) -> Sometime {
    Sometime { name, what }
}

/// Everything that is counted, in order of name.
pub const ALL: &[Sometime] = &[
    some("all-workers-lost", "no worker was Ready any more"),
    some("apiserver-restarted", "kube-apiserver was started again"),
    some("compaction-hit", "a client asked for a revision that was compacted: 410"),
    some("connection-reset", "a connection was reset while somebody used it"),
    some("container-restarted", "a container was started again by its kubelet"),
    some("controller-manager-restarted", "kube-controller-manager was started again"),
    some("crash-at-write-met", "a component died at the write that a rule had chosen"),
    some("eviction-cancelled", "a NoExecute taint went before a pod's time was up"),
    some("eviction-started", "a pod stood on a node with a NoExecute taint that limits its time"),
    some("fault-overlapped", "a fault was applied while another one was in effect"),
    some("kubelet-restarted", "the kubelet was started again"),
    some("leader-changed", "another member leads etcd than before"),
    some("lease-changed-hands", "the lease of a leader election got another holder"),
    some("member-restarted", "an etcd member was started again"),
    some("node-came-back", "a node became Ready again"),
    some("node-went-unknown", "a node's Ready condition became Unknown"),
    some("pod-evicted", "a pod was deleted while a NoExecute taint limited its time"),
    some("pod-replaced", "a controller made a pod in place of one that went"),
    some("quorum-lost", "no majority of etcd's members knew a leader for three election times"),
    some("quorum-regained", "a majority of etcd's members knew a leader again"),
    some("rollout-completed", "every replica of a changed template was available"),
    some("scaled-down", "fewer replicas were asked for"),
    some("scaled-up", "more replicas were asked for"),
    some("scheduler-restarted", "kube-scheduler was started again"),
    some("stale-read", "a read that allows it gave a state older than one acknowledged before"),
    some("taint-added", "a node got a taint"),
    some("unknown-write-happened", "a write whose outcome nobody knew turned out to have happened"),
    some("watch-broken", "a client's watch ended without its doing"),
    some("watch-expired", "a watch had to list anew, as its revision was gone: 410"),
    some("watch-resumed", "a client's watch went on where an earlier one ended"),
    some("write-conflicted", "a write was refused because the object had changed"),
    some("write-outcome-unknown", "a write got no definite answer"),
    some("write-refused-without-quorum", "a write came to nothing while etcd had no quorum"),
];

/// The names of everything that is counted, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|sometime| sometime.name)
}

/// How often each happened. Every name is there, with zero if it never did.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    by_name: BTreeMap<&'static str, u64>,
    total: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { by_name: names().map(|name| (name, 0)).collect(), total: 0 }
    }
}

impl Counts {
    fn add(&mut self, name: &'static str) {
        debug_assert!(self.by_name.contains_key(name), "{name} is not in the list");
        *self.by_name.entry(name).or_default() += 1;
        self.total += 1;
    }
}

/// Counts while events come in.
#[derive(Debug, Clone, Default)]
pub struct Sometimes {
    counts: Counts,
    store: store::Store,
    objects: objects::Objects,
    clients: clients::Clients,
    faults: Faults,
}

impl Sometimes {
    /// Counts everything of a timeline.
    pub fn count(events: &[Event]) -> BTreeMap<&'static str, u64> {
        let mut sometimes = Self::default();
        events.iter().for_each(|event| sometimes.see(event));
        sometimes.counts.by_name
    }

    /// How often each happened so far in this scenario. Every name is there.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts.by_name
    }

    /// How many things were counted so far: it is another number whenever a count changes.
    pub fn total(&self) -> u64 {
        self.counts.total
    }

    /// Takes in what was seen.
    pub fn see(&mut self, event: &Event) {
        let counts = &mut self.counts;
        self.store.time(event.at_us, counts);
        match &event.what {
            What::Cluster { cluster } => {
                self.store = store::Store::of(cluster);
                self.objects = objects::Objects::of(cluster);
            }
            What::ScenarioBegan { .. } => {
                *counts = Counts::default();
                self.objects.begin();
                self.clients = clients::Clients::default();
                self.faults = Faults::default();
            }
            What::EtcdMember { node, member, leader, term, .. } => {
                self.store.member(event.at_us, node, (*member, *leader, *term), counts);
            }
            What::Process { node, component, state, identity } => {
                let process = (*component, *state == ProcessState::Running, identity.as_str());
                self.store.process(event.at_us, node, process, counts);
            }
            What::Object { change, kind, object, .. } => {
                if kind == "leases.coordination.k8s.io" && *change != Change::Deleted {
                    self.store.lease(object, counts);
                }
                if kind == "configmaps" && *change != Change::Deleted {
                    self.clients.object(object, counts);
                }
                self.objects.see(*change, kind, object, counts);
            }
            What::WitnessGap { .. } => counts.add("watch-expired"),
            What::WatchStream { state, listed, .. } => {
                self.clients.stream(state, listed.is_some(), counts);
            }
            What::Operation(operation) => {
                let has_quorum = self.store.has_quorum();
                self.clients.operation(event.at_us, operation, has_quorum, counts);
            }
            What::Fault { name, fault, phase, undo, evidence, .. } => {
                let readings = evidence.iter().filter_map(|evidence| evidence.reading.as_ref());
                self.faults.see((name, fault, *phase), undo, readings, counts);
            }
            _ => {}
        }
    }
}

/// The faults so far.
#[derive(Debug, Clone, Default)]
struct Faults {
    /// Those with something to take back.
    lasting: BTreeSet<String>,
    /// Those in effect.
    active: BTreeSet<String>,
    /// Those whose own event was counted.
    met: BTreeSet<String>,
}

impl Faults {
    fn see<'r>(
        &mut self,
        (name, fault, phase): (&str, &str, FaultPhase),
        undo: &[Undo],
        mut readings: impl Iterator<Item = &'r Reading>,
        counts: &mut Counts,
    ) {
        if undo.iter().any(|undo| *undo != Undo::Nothing) {
            self.lasting.insert(name.to_string());
        }
        match phase {
            FaultPhase::Applied => {
                if self.active.iter().any(|other| other != name) {
                    counts.add("fault-overlapped");
                }
                if self.lasting.contains(name) {
                    self.active.insert(name.to_string());
                }
            }
            FaultPhase::Removed => {
                self.active.remove(name);
            }
            _ => {}
        }
        let shows = readings.find_map(|reading| match reading {
            Reading::Meddled { hits: 1.., .. } if fault == "crash-at-write" => {
                Some("crash-at-write-met")
            }
            Reading::Resets { connections: 1.. } => Some("connection-reset"),
            _ => None,
        });
        let is_in_effect = matches!(
            phase,
            FaultPhase::Proven | FaultPhase::Sustained | FaultPhase::HealProven | FaultPhase::Lost
        );
        if let Some(shown) = shows.filter(|_| is_in_effect)
            && self.met.insert(name.to_string())
        {
            counts.add(shown);
        }
    }
}

#[cfg(test)]
mod tests;
