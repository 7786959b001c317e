//! How many of what there are: `cluster.tally` in expressions.
//!
//! It is kept up with every change, so that a condition over thousands of nodes costs what one over
//! three does. Invariant: it is what counting all objects of the world anew would give.

use std::collections::BTreeMap;

use serde_json::json;

use crate::json::Value;
use crate::timeline::Change;
use crate::world::Key;

/// What is counted of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Marks {
    /// A node that is Ready, a Deployment that has all that it asks for.
    is_well: bool,
    /// A node with any taint.
    is_tainted: bool,
    /// A node with a NoExecute taint.
    is_cleared: bool,
}

/// The counts of one kind.
#[derive(Debug, Clone, Default)]
struct Kind {
    objects: BTreeMap<Key, Marks>,
    well: usize,
    tainted: usize,
    cleared: usize,
}

impl Kind {
    /// Takes in how an object is now; tells whether a count has changed.
    fn see(&mut self, key: &Key, now: Option<Marks>) -> bool {
        let before = match now {
            Some(now) => self.objects.insert(key.clone(), now),
            None => self.objects.remove(key),
        };
        if before == now {
            return false;
        }
        let (was, is) = (before.unwrap_or_default(), now.unwrap_or_default());
        let step = |count: &mut usize, was: bool, is: bool| {
            *count = *count + usize::from(is) - usize::from(was);
        };
        step(&mut self.well, was.is_well, is.is_well);
        step(&mut self.tainted, was.is_tainted, is.is_tainted);
        step(&mut self.cleared, was.is_cleared, is.is_cleared);
        true
    }
}

/// Counts of nodes and Deployments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    nodes: Kind,
    deployments: Kind,
    version: u64,
}

impl Tally {
    /// Takes a change in.
    pub(crate) fn see(&mut self, change: Change, kind: &str, key: &Key, object: &Value) {
        let is_there = change != Change::Deleted;
        let has_changed = match kind {
            "nodes" => self.nodes.see(key, is_there.then(|| node(object))),
            "deployments.apps" => self.deployments.see(key, is_there.then(|| deployment(object))),
            _ => false,
        };
        self.version += u64::from(has_changed);
    }

    /// Another number whenever a count is another.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The counts, as expressions see them.
    pub(crate) fn counts(&self) -> serde_json::Value {
        json!({
            "nodes": self.nodes.objects.len(),
            "nodesReady": self.nodes.well,
            "nodesTainted": self.nodes.tainted,
            "nodesNoExecute": self.nodes.cleared,
            "deployments": self.deployments.objects.len(),
            "deploymentsSettled": self.deployments.well,
        })
    }
}

fn node(node: &Value) -> Marks {
    let items = |pointer| node.pointer(pointer).and_then(Value::as_array).unwrap_or_default();
    let taints = items("/spec/taints");
    Marks {
        is_well: items("/status/conditions")
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        is_tainted: !taints.is_empty(),
        is_cleared: taints.iter().any(|taint| taint["effect"] == "NoExecute"),
    }
}

/// Whether a Deployment was observed as it is, and every replica is of its template and Ready.
fn deployment(object: &Value) -> Marks {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let counts = ["/status/replicas", "/status/updatedReplicas", "/status/readyReplicas"];
    let is_well = number("/status/observedGeneration") >= number("/metadata/generation")
        && counts.iter().all(|count| number(count) == wanted);
    Marks { is_well, ..Marks::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tally: &mut Tally, change: Change, kind: &str, name: &str, object: serde_json::Value) {
        tally.see(change, kind, &("x".into(), name.into()), &object.into());
    }

    #[test]
    fn counts_follow_every_change() {
        let node = |ready: &str, effects: &[&str]| {
            let taints: Vec<_> = effects.iter().map(|effect| json!({"effect": effect})).collect();
            let conditions = json!([{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": ready}]);
            json!({"spec": {"taints": taints}, "status": {"conditions": conditions}})
        };
        let mut tally = Tally::default();
        let told = |tally: &Tally| {
            let counts = tally.counts();
            ["nodes", "nodesReady", "nodesTainted", "nodesNoExecute"]
                .map(|name| counts[name].as_u64().unwrap())
        };
        for (change, name, object, expected) in [
            (Change::Added, "a", node("True", &[]), [1, 1, 0, 0]),
            (Change::Added, "b", node("False", &["NoSchedule"]), [2, 1, 1, 0]),
            (Change::Modified, "a", node("Unknown", &["NoSchedule", "NoExecute"]), [2, 0, 2, 1]),
            (Change::Modified, "b", node("True", &[]), [2, 1, 1, 1]),
            (Change::Deleted, "a", node("True", &[]), [1, 1, 0, 0]),
            (Change::Deleted, "a", node("True", &[]), [1, 1, 0, 0]),
        ] {
            seen(&mut tally, change, "nodes", name, object);
            assert_eq!(told(&tally), expected, "{change:?} {name}");
        }
        assert_eq!(tally.version(), 5, "what changes no count is no news");
    }

    #[test]
    fn a_deployment_is_settled_when_all_is_as_it_asks() {
        let set = |generation: i64, observed: i64, counts: [i64; 3]| {
            json!({
                "metadata": {"generation": generation}, "spec": {"replicas": 2},
                "status": {"observedGeneration": observed, "replicas": counts[0],
                    "updatedReplicas": counts[1], "readyReplicas": counts[2]},
            })
        };
        for (object, settled) in [
            (set(2, 2, [2, 2, 2]), 1),
            (set(2, 1, [2, 2, 2]), 0),
            (set(2, 2, [3, 2, 2]), 0),
            (set(2, 2, [2, 1, 2]), 0),
            (set(2, 2, [2, 2, 1]), 0),
            (json!({"metadata": {"generation": 1}, "spec": {"replicas": 2}}), 0),
        ] {
            let mut tally = Tally::default();
            seen(&mut tally, Change::Added, "deployments.apps", "web", object.clone());
            assert_eq!(tally.counts()["deploymentsSettled"], settled, "{object}");
        }
    }
}
