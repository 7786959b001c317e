//! The world as it was seen up to an event: built by the runner while it happens and by the judge
//! from the timeline, by the same code, so that both see the same.
//!
//! [`World::apply`] is the only way in. A scenario begins with an empty world.

use std::collections::BTreeMap;

use serde_json::json;

use crate::expression::Shown;
use crate::json::Value;
use crate::lever::{Component, ContainerFact};
use crate::sometimes::Sometimes;
use crate::tally::Tally;
use crate::target::{ClusterFact, Role};
use crate::timeline::{Change, Event, FaultPhase, Outcome, What};

/// The name that the scenario's namespace is bound to.
pub const NAMESPACE: &str = "namespace";
/// The leaders are read from these.
pub(crate) const LEASES: &str = "leases.coordination.k8s.io";
/// What CEL expressions see in `cluster`.
const FACTS: &[&str] = &[
    "workers",
    "controlPlanes",
    "writes",
    "seen",
    "etcd",
    "leaders",
    "containers",
    "endedContainers",
    "tally",
];
/// The verbs that write.
const WRITES: &[&str] = &["create", "update", "delete", "patch"];

/// Namespace (empty for a cluster-scoped object) and name.
pub type Key = (String, String);

/// A moment of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When it was noted, in microseconds since the run began.
    pub at_us: u64,
    /// How much earlier it may have been.
    pub error_us: u64,
}

/// What an etcd member last said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EtcdView {
    /// Its id.
    pub member: u64,
    /// Whom it takes for the leader; 0 for nobody.
    pub leader: u64,
    /// Its raft term.
    pub term: u64,
    /// Its applied revision.
    pub revision: i64,
}

/// How the workload's writes fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writes {
    /// Acknowledged so far.
    pub acknowledged: u64,
    /// Refused, or without an answer, so far.
    pub failed: u64,
    /// Whether the last write that was both sent after the last fault and answered was acknowledged.
    pub succeeding: bool,
}

/// Everything that is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct World {
    objects: BTreeMap<String, BTreeMap<Key, Shown>>,
    versions: BTreeMap<String, u64>,
    facts_version: u64,
    bindings_version: u64,
    cluster: Option<ClusterFact>,
    bound: BTreeMap<String, Vec<String>>,
    moments: BTreeMap<String, Moment>,
    etcd: BTreeMap<String, EtcdView>,
    containers: BTreeMap<(String, String), ContainerFact>,
    /// Containers that ended since the scenario began, with their nodes.
    ended: Vec<(String, ContainerFact)>,
    writes: Writes,
    sometimes: Sometimes,
    tally: Tally,
    fault_at_us: u64,
    now_us: u64,
}

/// What a world looks like to a condition: equal marks mean that nothing it can see has changed.
pub type Mark = Vec<u64>;

impl World {
    /// A world in which nothing has been seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was seen.
    pub fn apply(&mut self, event: &Event) {
        self.now_us = event.at_us;
        self.sometimes.see(event);
        match &event.what {
            What::Cluster { cluster } => {
                // What an earlier, larger cluster had says nothing of this one.
                let is_there = |name: &str| cluster.nodes.iter().any(|node| node.name == name);
                self.etcd.retain(|node, _| is_there(node));
                self.containers.retain(|(node, _), _| is_there(node));
                self.cluster = Some(cluster.clone());
                self.facts_version += 1;
            }
            What::ScenarioBegan { .. } => self.begin(),
            What::Bound { name, to } => {
                self.bound.insert(name.clone(), to.clone());
                self.bindings_version += 1;
            }
            What::Moment { name } => {
                let moment = Moment { at_us: event.at_us, error_us: event.error_us };
                self.moments.insert(name.clone(), moment);
            }
            What::Object { change, kind, object, .. } => self.object_changed(*change, kind, object),
            What::Fault { phase: FaultPhase::Applied, .. } => {
                self.fault_at_us = event.at_us;
                self.writes.succeeding = false;
                self.facts_version += 1;
            }
            What::Operation(operation) if WRITES.contains(&operation.verb.as_str()) => {
                self.written(operation.call_us, &operation.outcome);
            }
            What::EtcdMember { node, member, leader, term, revision } => {
                let view =
                    EtcdView { member: *member, leader: *leader, term: *term, revision: *revision };
                if self.etcd.insert(node.clone(), view) != Some(view) {
                    self.facts_version += 1;
                }
            }
            What::Container { node, running, container } => {
                let key = (node.clone(), container.id.clone());
                if *running {
                    self.containers.insert(key, container.clone());
                } else {
                    self.containers.remove(&key);
                    self.ended.push((node.clone(), container.clone()));
                }
                self.facts_version += 1;
            }
            _ => {}
        }
    }

    /// A scenario's world is its own; the cluster, its etcd members and what runs on it remain.
    fn begin(&mut self) {
        let facts_version = self.facts_version + 1;
        let versions = self.versions.iter().map(|(kind, version)| (kind.clone(), version + 1));
        *self = Self {
            versions: versions.collect(),
            facts_version,
            bindings_version: self.bindings_version + 1,
            cluster: self.cluster.take(),
            etcd: std::mem::take(&mut self.etcd),
            containers: std::mem::take(&mut self.containers),
            sometimes: std::mem::take(&mut self.sometimes),
            now_us: self.now_us,
            ..Self::default()
        };
    }

    fn object_changed(&mut self, change: Change, kind: &str, object: &Value) {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let key = (text("/metadata/namespace").to_string(), text("/metadata/name").to_string());
        self.tally.see(change, kind, &key, object);
        let objects = self.objects.entry(kind.to_string()).or_default();
        match change {
            Change::Added | Change::Modified => objects.insert(key, Shown::new(object.clone())),
            Change::Deleted => objects.remove(&key),
        };
        *self.versions.entry(kind.to_string()).or_default() += 1;
        // Leaders are read from Leases, so a change of one is a change of the cluster's facts.
        if kind == LEASES && text("/metadata/namespace") == "kube-system" {
            self.facts_version += 1;
        }
    }

    fn written(&mut self, call_us: u64, outcome: &Outcome) {
        let before = self.writes.succeeding;
        let acknowledged = match outcome {
            Outcome::Ok { .. } => true,
            // A refusal for the object's sake shows that writes are decided, so it says nothing here.
            Outcome::Refused { code: 404 | 409 | 412, .. } => return,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => false,
        };
        if acknowledged {
            self.writes.acknowledged += 1;
        } else {
            self.writes.failed += 1;
        }
        if call_us >= self.fault_at_us {
            self.writes.succeeding = acknowledged;
        }
        if before != self.writes.succeeding {
            self.facts_version += 1;
        }
    }

    /// The time of the last event, in microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The scenario's namespace; empty outside of any.
    pub fn namespace(&self) -> &str {
        self.bound.get(NAMESPACE).and_then(|to| to.first()).map_or("", String::as_str)
    }

    /// One object, by plural and group, namespace (empty for a cluster-scoped one) and name.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.shown(kind, namespace, name).map(Shown::object)
    }

    /// As [`World::object`], with what CEL sees of it.
    pub(crate) fn shown(&self, kind: &str, namespace: &str, name: &str) -> Option<&Shown> {
        self.objects.get(kind)?.get(&(namespace.to_string(), name.to_string()))
    }

    /// Every object of a kind, by plural and group, in order of namespace and name.
    pub fn objects(&self, kind: &str) -> impl Iterator<Item = (&Key, &Value)> {
        self.all_shown(kind).map(|(key, shown)| (key, shown.object()))
    }

    /// Whether a namespace has any object of a kind.
    pub fn has_any(&self, kind: &str, namespace: &str) -> bool {
        let first = (namespace.to_string(), String::new());
        let mut found =
            self.objects.get(kind).into_iter().flat_map(|all| all.range(first.clone()..));
        found.next().is_some_and(|((ns, _), _)| ns == namespace)
    }

    /// As [`World::objects`], with what CEL sees of each.
    pub(crate) fn all_shown(&self, kind: &str) -> impl Iterator<Item = (&Key, &Shown)> {
        self.objects.get(kind).into_iter().flatten()
    }

    /// The kinds of which something was seen.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }

    /// What a name is bound to.
    pub fn bound(&self, name: &str) -> Option<&[String]> {
        self.bound.get(name).map(Vec::as_slice)
    }

    /// Every bound name.
    pub fn bindings(&self) -> &BTreeMap<String, Vec<String>> {
        &self.bound
    }

    /// A moment that has come.
    pub fn moment(&self, name: &str) -> Option<Moment> {
        self.moments.get(name).copied()
    }

    /// The cluster, once it is known.
    pub fn cluster(&self) -> Option<&ClusterFact> {
        self.cluster.as_ref()
    }

    /// What each etcd member last said, by node.
    pub fn etcd(&self) -> &BTreeMap<String, EtcdView> {
        &self.etcd
    }

    /// The node of the member that the newest term's members take for their leader.
    pub fn etcd_leader(&self) -> Option<&str> {
        let newest =
            self.etcd.values().filter(|view| view.leader != 0).max_by_key(|view| view.term)?;
        let (node, _) = self.etcd.iter().find(|(_, view)| view.member == newest.leader)?;
        Some(node)
    }

    /// The node of a component's leader, as the holder of its Lease.
    pub fn leader(&self, component: Component) -> Option<String> {
        let lease = self.object(LEASES, "kube-system", component.name())?;
        let holder = lease.pointer("/spec/holderIdentity")?.as_str()?;
        // Identities are `<node>` or `<node>_<anything>`, as client-go makes them.
        let node = holder.split('_').next().unwrap_or(holder);
        let known = self.cluster()?.nodes.iter().any(|fact| fact.name == node);
        known.then(|| node.to_string())
    }

    /// How the workload's writes fare.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// How often each of [`crate::sometimes::ALL`] was seen in this scenario.
    pub fn seen(&self) -> &BTreeMap<&'static str, u64> {
        self.sometimes.counts()
    }

    /// The containers that run, by node and id.
    pub fn containers(&self) -> impl Iterator<Item = (&str, &ContainerFact)> {
        self.containers.iter().map(|((node, _), container)| (node.as_str(), container))
    }

    /// The facts that CEL expressions see as `cluster`, as far as they are wanted: a large cluster has
    /// too many containers to be told each time of.
    pub fn facts(&self, wants: impl Fn(&str) -> bool) -> serde_json::Value {
        let names =
            |role| self.cluster.as_ref().map(|cluster| cluster.names(role)).unwrap_or_default();
        let leader = |component| self.leader(component).unwrap_or_default();
        let fact = |name: &str| match name {
            "workers" => json!(names(Role::Worker)),
            "controlPlanes" => json!(names(Role::ControlPlane)),
            "writes" => json!({
                "succeeding": self.writes.succeeding,
                "acknowledged": self.writes.acknowledged,
                "failed": self.writes.failed,
            }),
            "seen" => json!(self.seen()),
            "etcd" => {
                let members: BTreeMap<&String, serde_json::Value> = self
                    .etcd
                    .iter()
                    .map(|(node, view)| {
                        (node, json!({"leads": view.member == view.leader, "term": view.term, "revision": view.revision}))
                    })
                    .collect();
                json!({"leader": self.etcd_leader().unwrap_or_default(), "members": members})
            }
            "leaders" => json!({
                "scheduler": leader(Component::KubeScheduler),
                "controllerManager": leader(Component::KubeControllerManager),
            }),
            "containers" => self.containers().map(|(node, fact)| shown(node, fact)).collect(),
            "tally" => self.tally.counts(),
            _ => self.ended.iter().map(|(node, fact)| shown(node, fact)).collect(),
        };
        let wanted = FACTS.iter().filter(|name| wants(name));
        wanted.map(|name| ((*name).to_owned(), fact(name))).collect()
    }

    /// A mark of what these kinds, and if asked for the cluster's facts and the counts of writes,
    /// of what was seen and of what is there, look like now.
    pub fn mark(&self, kinds: &[String], with_facts: bool, with_counts: bool) -> Mark {
        let version = |kind: &String| self.versions.get(kind).copied().unwrap_or(0);
        let mut mark: Mark = kinds.iter().map(version).collect();
        mark.push(self.bindings_version);
        if with_facts {
            mark.push(self.facts_version);
        }
        if with_counts {
            mark.push(self.writes.acknowledged + self.writes.failed + self.sometimes.total());
            mark.push(self.tally.version());
        }
        mark
    }
}

/// A container as conditions see it.
fn shown(node: &str, container: &ContainerFact) -> serde_json::Value {
    json!({
        "node": node, "namespace": container.namespace, "pod": container.pod,
        "podUid": container.pod_uid, "container": container.container,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Operation, Reads};

    fn see(world: &mut World, at_us: u64, what: What) {
        world.apply(&Event { seq: at_us, at_us, error_us: 0, scenario: "s".into(), what });
    }

    fn write(call_us: u64, outcome: Outcome) -> What {
        What::Operation(Operation {
            client: 0,
            server: "cp-1".into(),
            verb: "update".into(),
            key: "ns/a".into(),
            value: None,
            expected: None,
            reads: Reads::Latest,
            listed: None,
            call_us,
            outcome,
        })
    }

    #[test]
    fn writes_succeed_again_only_by_one_sent_after_the_fault() {
        let ok = || Outcome::Ok { revision: 1, value: None };
        let lost = || Outcome::Unknown { why: "timeout".into() };
        let mut world = World::new();
        see(&mut world, 10, write(5, ok()));
        assert!(world.writes().succeeding);
        let phase = FaultPhase::Applied;
        let (name, fault) = ("cut".to_string(), "partition".to_string());
        see(
            &mut world,
            20,
            What::Fault { name, fault, phase, targets: vec![], undo: vec![], evidence: vec![] },
        );
        assert!(!world.writes().succeeding);
        see(&mut world, 21, write(19, ok()));
        assert!(!world.writes().succeeding, "it was sent before the fault");
        see(&mut world, 40, write(22, lost()));
        see(&mut world, 41, write(30, Outcome::Refused { code: 409, reason: "Conflict".into() }));
        assert!(!world.writes().succeeding);
        see(&mut world, 50, write(45, ok()));
        assert_eq!(world.writes(), Writes { acknowledged: 3, failed: 1, succeeding: true });
    }

    #[test]
    fn the_nodes_of_an_earlier_cluster_are_forgotten() {
        let mut world = World::new();
        let node = |name: &str| crate::target::NodeFact {
            name: name.into(),
            role: Role::ControlPlane,
            address: String::new(),
        };
        for (at, node, member, term) in [(1, "cp-1", 1, 2), (2, "cp-4", 4, 9)] {
            let node = node.to_string();
            let leader = member;
            see(&mut world, at, What::EtcdMember { node, member, leader, term, revision: 1 });
        }
        assert_eq!(world.etcd_leader(), Some("cp-4"));
        let parameters = crate::target::Parameters::default();
        let cluster = ClusterFact { nodes: vec![node("cp-1")], parameters };
        see(&mut world, 3, What::Cluster { cluster });
        assert_eq!(world.etcd_leader(), Some("cp-1"));
    }

    #[test]
    fn a_scenario_begins_with_an_empty_world() {
        let mut world = World::new();
        let object = json!({"metadata": {"name": "n"}});
        let change = Change::Added;
        see(
            &mut world,
            1,
            What::Object { change, kind: "nodes".into(), revision: 1, object: object.into() },
        );
        see(&mut world, 2, What::Bound { name: "x".into(), to: vec!["n".into()] });
        see(&mut world, 3, What::Moment { name: "start".into() });
        let kinds = ["nodes".to_string()];
        let before = world.mark(&kinds, true, true);
        see(&mut world, 4, What::ScenarioBegan { id: "next".into() });
        assert!(world.object("nodes", "", "n").is_none());
        assert!(world.bound("x").is_none() && world.moment("start").is_none());
        assert_ne!(world.mark(&kinds, true, true), before);
    }
}
