//! The taints that the node controllers set.

use machinery::{Object, Taint};
use serde_json::{Value, json};

/// The node reports that it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node does not report.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The node was cordoned.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// A person says that the node is shut down and stays so.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// No new pods.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// No pods at all.
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether the node has a taint of this key and effect.
pub fn has(node: &Object, key: &str, effect: &str) -> bool {
    node.list("/spec/taints").iter().any(|taint| taint["key"] == key && taint["effect"] == effect)
}

/// The node's NoExecute taints.
pub fn no_execute(node: &Object) -> Vec<Taint> {
    let mut taints = node.taints();
    taints.retain(|taint| taint.effect == NO_EXECUTE);
    taints
}

/// The node with some taints of one effect added and others taken away; `None` if it is so already.
pub fn swap(
    node: &Object,
    effect: &str,
    add: &[&str],
    remove: &[&str],
    now: &str,
) -> Option<Object> {
    let mut taints = node.list("/spec/taints").to_vec();
    let before = taints.len();
    taints.retain(|taint| {
        taint["effect"] != effect || !remove.iter().any(|key| taint["key"] == **key)
    });
    let mut changed = taints.len() != before;
    for key in add {
        if !taints.iter().any(|taint| taint["key"] == **key && taint["effect"] == effect) {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": now}));
            changed = true;
        }
    }
    changed.then(|| {
        let mut node = node.clone();
        if taints.is_empty() {
            node.remove("/spec/taints");
        } else {
            node.set("/spec/taints", Value::Array(taints));
        }
        node
    })
}
