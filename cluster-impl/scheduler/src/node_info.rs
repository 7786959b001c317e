//! A node as the plugins see it: what it offers, and what its pods take.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::pod::{Resources, resources};
use machinery::{Object, ObjectKey, Quantity, Taint};

use crate::PodInfo;

/// A node and the pods on it, those that were just chosen for it included.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// The node; absent while only pods that name it are known.
    pub node: Option<Arc<Object>>,
    /// `status.allocatable`
    pub allocatable: Resources,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// The pods.
    pub pods: BTreeMap<ObjectKey, PodInfo>,
    /// What the pods ask for.
    pub requested: Resources,
    /// What the pods count in scores.
    pub weight: Resources,
}

impl NodeInfo {
    /// Takes in how the node is now.
    pub fn set_node(&mut self, node: Option<Arc<Object>>) {
        let known = node.as_ref();
        self.allocatable = known
            .and_then(|node| node.get("/status/allocatable"))
            .map(resources)
            .unwrap_or_default();
        self.taints = known.map(|node| node.taints()).unwrap_or_default();
        self.node = node;
    }

    /// Puts a pod on the node, in place of an older state of it.
    pub fn add(&mut self, pod: PodInfo) {
        let key = pod.pod.key();
        self.remove(&key);
        for (name, amount) in &pod.requests {
            *self.requested.entry(name.clone()).or_default() += *amount;
        }
        for (name, amount) in &pod.weight {
            *self.weight.entry(name.clone()).or_default() += *amount;
        }
        self.pods.insert(key, pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, key: &ObjectKey) {
        let Some(pod) = self.pods.remove(key) else { return };
        for (name, amount) in &pod.requests {
            *self.requested.entry(name.clone()).or_default() -= *amount;
        }
        for (name, amount) in &pod.weight {
            *self.weight.entry(name.clone()).or_default() -= *amount;
        }
    }

    /// How much of a resource the node offers.
    pub fn offers(&self, resource: &str) -> Quantity {
        self.allocatable.get(resource).copied().unwrap_or_default()
    }

    /// How much of a resource its pods ask for.
    pub fn asked(&self, resource: &str) -> Quantity {
        self.requested.get(resource).copied().unwrap_or_default()
    }
}
