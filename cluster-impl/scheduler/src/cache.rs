//! What the scheduler knows of nodes and bound pods, pods included that it has only just chosen for.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::{Object, ObjectKey};

use crate::{PodInfo, Snapshot};

/// Nodes with their pods. A pod stands on one node at most.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Snapshot,
    /// The node of each known pod.
    places: BTreeMap<ObjectKey, String>,
    /// Pods that were chosen for but are not seen as bound yet: their identity.
    assumed: BTreeMap<ObjectKey, String>,
}

impl Cache {
    /// The nodes, to choose from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.nodes
    }

    /// Takes in a node as it is now; `None` if it is gone.
    pub fn set_node(&mut self, name: &str, node: Option<Arc<Object>>) {
        let info = self.nodes.entry(name.to_owned()).or_default();
        info.set_node(node);
        self.drop_if_empty(name);
    }

    /// Takes in a pod as it is seen: bound or not, ended or not, or gone (`None`).
    pub fn set_pod(&mut self, key: &ObjectKey, pod: Option<&Arc<Object>>) {
        let bound = pod.filter(|pod| !pod.text("/spec/nodeName").is_empty());
        if bound.is_none()
            && let Some(uid) = self.assumed.get(key)
            && pod.is_some_and(|pod| pod.uid() == uid)
        {
            // The view lags behind the choice.
            return;
        }
        self.forget(key);
        let Some(pod) = bound else { return };
        let info = PodInfo::new(pod.clone());
        if info.takes_room() {
            self.place(key, pod.text("/spec/nodeName"), info);
        }
    }

    /// Counts a pod on the node that was chosen for it.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        let key = pod.pod.key();
        self.assumed.insert(key.clone(), pod.pod.uid().to_owned());
        self.place(&key, node, pod.clone());
    }

    /// Whether a pod was chosen for, or is bound.
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.places.contains_key(key)
    }

    /// Takes back a choice that came to nothing; a pod that is seen as bound stays.
    pub fn give_up(&mut self, key: &ObjectKey) {
        if self.assumed.contains_key(key) {
            self.forget(key);
        }
    }

    fn place(&mut self, key: &ObjectKey, node: &str, pod: PodInfo) {
        self.nodes.entry(node.to_owned()).or_default().add(pod);
        self.places.insert(key.clone(), node.to_owned());
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
        let Some(node) = self.places.remove(key) else { return };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(key);
        }
        self.drop_if_empty(&node);
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::NodeInfo;

    fn pod(uid: &str, node: &str, phase: &str) -> Arc<Object> {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/metadata/uid", uid);
        pod.set("/spec/containers", json!([{"resources": {"requests": {"cpu": "1"}}}]));
        if !node.is_empty() {
            pod.set("/spec/nodeName", node);
        }
        pod.set("/status/phase", phase);
        Arc::new(pod)
    }

    fn shown(cache: &Cache) -> String {
        let taken = |(name, info): (&String, &NodeInfo)| format!("{name}={}", info.asked("cpu"));
        cache.snapshot().iter().map(taken).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_seen_bound_or_given_up() {
        let mut cache = Cache::default();
        let key = ObjectKey::new("default", "web");
        for name in ["a", "b"] {
            cache.set_node(name, Some(Arc::new(Object::new("v1", "Node", "", name))));
        }
        cache.assume(&PodInfo::new(pod("u1", "", "Pending")), "a");
        assert_eq!(shown(&cache), "a=1 b=0");
        cache.set_pod(&key, Some(&pod("u1", "", "Pending")));
        assert_eq!(shown(&cache), "a=1 b=0", "an old state of the pod changes nothing");
        cache.set_pod(&key, Some(&pod("u1", "a", "Running")));
        cache.give_up(&key);
        assert_eq!(shown(&cache), "a=1 b=0", "a bound pod cannot be given up");
        cache.set_pod(&key, Some(&pod("u1", "a", "Succeeded")));
        assert_eq!(shown(&cache), "a=0 b=0");
        cache.assume(&PodInfo::new(pod("u2", "", "Pending")), "b");
        cache.give_up(&key);
        assert_eq!(shown(&cache), "a=0 b=0");
        cache.assume(&PodInfo::new(pod("u2", "", "Pending")), "b");
        cache.set_pod(&key, Some(&pod("u3", "", "Pending")));
        assert_eq!(shown(&cache), "a=0 b=0", "another pod has the name");
        cache.set_pod(&key, Some(&pod("u3", "b", "Running")));
        cache.set_node("b", None);
        assert!(cache.snapshot()["b"].node.is_none());
        cache.set_pod(&key, None);
        assert_eq!(shown(&cache), "a=0", "nothing is left of a node that is gone");
    }
}
