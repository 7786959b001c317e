//! What happens to etcd, to processes, and to the leases of leader elections.

use std::collections::{BTreeMap, BTreeSet};

use super::Counts;
use crate::json::Value;
use crate::lever::Component;
use crate::target::{ClusterFact, Role};

/// Without a leader for so many election times, a majority has lost touch: an election takes less.
const ELECTIONS: u64 = 3;

/// What is known of the store and of processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    planes: usize,
    election_us: u64,
    /// Whether each member, by node, knew a leader when it last spoke.
    knows: BTreeMap<String, bool>,
    /// The nodes on which no etcd runs.
    down: BTreeSet<String>,
    /// The newest term with a leader, and the leader.
    leader: Option<(u64, u64)>,
    had_quorum: bool,
    without_since: Option<u64>,
    is_lost: bool,
    /// Who last ran as which component on which node.
    processes: BTreeMap<(String, Component), String>,
    /// The last holder of each lease.
    holders: BTreeMap<String, String>,
}

impl Store {
    /// Of a new cluster nothing is known.
    pub(super) fn of(cluster: &ClusterFact) -> Self {
        Self {
            planes: cluster.names(Role::ControlPlane).len(),
            election_us: cluster.parameters.election.as_micros() as u64,
            ..Self::default()
        }
    }

    pub(super) fn has_quorum(&self) -> bool {
        !self.is_lost
    }

    pub(super) fn time(&mut self, now_us: u64, counts: &mut Counts) {
        let limit = ELECTIONS * self.election_us;
        if !self.is_lost && self.without_since.is_some_and(|since| now_us - since >= limit) {
            self.is_lost = true;
            counts.add("quorum-lost");
        }
    }

    pub(super) fn member(
        &mut self,
        now_us: u64,
        node: &str,
        (_, leader, term): (u64, u64, u64),
        counts: &mut Counts,
    ) {
        self.knows.insert(node.to_string(), leader != 0);
        if leader != 0 && self.leader.is_none_or(|(newest, _)| newest < term) {
            if self.leader.is_some_and(|(_, before)| before != leader) {
                counts.add("leader-changed");
            }
            self.leader = Some((term, leader));
        }
        self.quorum(now_us, counts);
    }

    fn quorum(&mut self, now_us: u64, counts: &mut Counts) {
        let knowing =
            self.knows.iter().filter(|(node, knows)| **knows && !self.down.contains(*node));
        if knowing.count() > self.planes / 2 {
            if self.is_lost {
                counts.add("quorum-regained");
            }
            (self.had_quorum, self.is_lost, self.without_since) = (true, false, None);
        } else if self.had_quorum && self.without_since.is_none() {
            self.without_since = Some(now_us);
        }
    }

    pub(super) fn process(
        &mut self,
        now_us: u64,
        node: &str,
        (component, is_running, identity): (Component, bool, &str),
        counts: &mut Counts,
    ) {
        if component == Component::Etcd {
            if is_running {
                self.down.remove(node);
            } else {
                self.down.insert(node.to_string());
            }
            self.quorum(now_us, counts);
        }
        if !is_running || identity.is_empty() {
            return;
        }
        let before = self.processes.insert((node.to_string(), component), identity.to_string());
        if before.is_none_or(|before| before == identity) {
            return;
        }
        match component {
            Component::Etcd => counts.add("member-restarted"),
            Component::KubeApiserver => counts.add("apiserver-restarted"),
            Component::KubeControllerManager => counts.add("controller-manager-restarted"),
            Component::KubeScheduler => counts.add("scheduler-restarted"),
            Component::Kubelet => counts.add("kubelet-restarted"),
            Component::Containerd | Component::Operator => {}
        }
    }

    pub(super) fn lease(&mut self, lease: &Value, counts: &mut Counts) {
        let text = |pointer| lease.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let holder = text("/spec/holderIdentity");
        // A lease that was given back has no holder until the next one comes.
        if text("/metadata/namespace") != "kube-system" || holder.is_empty() {
            return;
        }
        let before = self.holders.insert(text("/metadata/name").to_string(), holder.to_string());
        if before.is_some_and(|before| before != holder) {
            counts.add("lease-changed-hands");
        }
    }
}
