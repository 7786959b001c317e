//! What happens to nodes, pods and what owns them, as the witness sees it.

use std::collections::{BTreeMap, BTreeSet};

use super::Counts;
use crate::json::Value;
use crate::target::{ClusterFact, Role};
use crate::timeline::Change;

/// Namespace and name.
type Key = (String, String);

/// A taint: key, value, effect.
type Taint = (String, String, String);

/// What is known of objects.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    workers: BTreeSet<String>,
    /// How many of the workers are known, and how many are Ready.
    known: usize,
    ready: usize,
    are_all_lost: bool,
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<Key, Pod>,
    on_node: BTreeMap<String, BTreeSet<Key>>,
    scaled: BTreeMap<(String, Key), Scaled>,
    /// How many pods of each owner, by uid, went and were not replaced yet.
    gone: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    ready: String,
    taints: BTreeSet<Taint>,
}

#[derive(Debug, Clone, Default)]
struct Pod {
    uid: String,
    owner: Option<String>,
    node: String,
    tolerations: Vec<Toleration>,
    restarts: BTreeMap<String, i64>,
    is_going: bool,
    is_timed: bool,
}

#[derive(Debug, Clone)]
struct Toleration {
    key: String,
    value: String,
    is_any_value: bool,
    is_limited: bool,
}

#[derive(Debug, Clone)]
struct Scaled {
    replicas: i64,
    template: Value,
    is_rolling: bool,
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(object: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The uid of the controller that an object belongs to.
fn owner(object: &Value) -> Option<String> {
    let mut owners = items(object, "/metadata/ownerReferences");
    let controller = owners.find(|owner| owner["controller"] == true)?;
    Some(controller["uid"].as_str()?.to_string())
}

impl Objects {
    /// Of a new cluster nothing is known.
    pub(super) fn of(cluster: &ClusterFact) -> Self {
        Self { workers: cluster.names(Role::Worker).into_iter().collect(), ..Self::default() }
    }

    /// Every scenario's witness lists anew.
    pub(super) fn begin(&mut self) {
        *self = Self { workers: std::mem::take(&mut self.workers), ..Self::default() };
    }

    pub(super) fn see(&mut self, change: Change, kind: &str, object: &Value, counts: &mut Counts) {
        const KINDS: &[&str] =
            &["deployments.apps", "nodes", "pods", "replicasets.apps", "statefulsets.apps"];
        if !KINDS.contains(&kind) {
            return;
        }
        let place =
            ["/metadata/namespace", "/metadata/name"].map(|at| text(object, at).to_string());
        let key: Key = place.into();
        match (kind, change) {
            ("nodes", Change::Deleted) => {
                let before = self.nodes.remove(&key.1);
                self.workers_lost(&key.1, before.as_ref(), None, counts);
            }
            ("nodes", _) => self.node(&key.1, object, counts),
            ("pods", Change::Deleted) => self.pod_deleted(&key, object, counts),
            ("pods", _) => self.pod(key, object, counts),
            (_, Change::Deleted) => {
                self.scaled.remove(&(kind.to_string(), key));
            }
            _ => self.replicas(kind, key, object, counts),
        }
    }

    fn node(&mut self, name: &str, object: &Value, counts: &mut Counts) {
        let ready = items(object, "/status/conditions")
            .find(|condition| condition["type"] == "Ready")
            .map_or("", |condition| condition["status"].as_str().unwrap_or_default());
        let taints: BTreeSet<Taint> = items(object, "/spec/taints")
            .map(|taint| {
                let field = |name: &str| taint[name].as_str().unwrap_or_default().to_string();
                (field("key"), field("value"), field("effect"))
            })
            .collect();
        let now = Node { ready: ready.to_string(), taints };
        let before = self.nodes.insert(name.to_string(), now.clone());
        if let Some(before) = &before {
            if before.ready != now.ready && now.ready == "Unknown" {
                counts.add("node-went-unknown");
            }
            if !matches!(before.ready.as_str(), "" | "True") && now.ready == "True" {
                counts.add("node-came-back");
            }
            now.taints.difference(&before.taints).for_each(|_| counts.add("taint-added"));
        }
        self.workers_lost(name, before.as_ref(), Some(&now), counts);
        if before.is_none_or(|before| before.taints != now.taints) {
            for key in self.on_node.get(name).cloned().unwrap_or_default() {
                self.time_pod(&key, counts);
            }
        }
    }

    fn workers_lost(
        &mut self,
        name: &str,
        before: Option<&Node>,
        now: Option<&Node>,
        counts: &mut Counts,
    ) {
        if self.workers.contains(name) {
            let is_ready = |node: Option<&Node>| node.is_some_and(|node| node.ready == "True");
            self.known = self.known + usize::from(now.is_some()) - usize::from(before.is_some());
            self.ready = self.ready + usize::from(is_ready(now)) - usize::from(is_ready(before));
        }
        let is_seen = self.known == self.workers.len();
        let are_all_lost = !self.workers.is_empty() && self.ready == 0;
        // Until each was seen for the first time, nothing can be lost.
        if are_all_lost && !self.are_all_lost && is_seen {
            counts.add("all-workers-lost");
        }
        if is_seen || !are_all_lost {
            self.are_all_lost = are_all_lost;
        }
    }

    /// Whether a taint limits a pod's time on its node has perhaps changed.
    fn time_pod(&mut self, key: &Key, counts: &mut Counts) {
        let Some(pod) = self.pods.get_mut(key) else { return };
        let limits = |(key, value, effect): &Taint| {
            let mut matching = pod.tolerations.iter().filter(|toleration| {
                (toleration.key.is_empty() || toleration.key == *key)
                    && (toleration.is_any_value || toleration.value == *value)
            });
            let first = matching.next();
            effect == "NoExecute"
                && first.is_none_or(|first| first.is_limited || matching.any(|it| it.is_limited))
        };
        let is_timed = self.nodes.get(&pod.node).is_some_and(|node| node.taints.iter().any(limits));
        if is_timed && !pod.is_timed && !pod.is_going {
            counts.add("eviction-started");
        }
        if !is_timed && pod.is_timed && !pod.is_going {
            counts.add("eviction-cancelled");
        }
        pod.is_timed = is_timed;
    }

    fn pod(&mut self, key: Key, object: &Value, counts: &mut Counts) {
        let uid = text(object, "/metadata/uid");
        let node = text(object, "/spec/nodeName");
        let is_new = self.pods.get(&key).is_none_or(|pod| pod.uid != uid);
        if is_new {
            let owner = owner(object);
            if let Some(gone) = owner.as_ref().and_then(|owner| self.gone.get_mut(owner))
                && *gone > 0
            {
                *gone -= 1;
                counts.add("pod-replaced");
            }
            let pod = Pod { uid: uid.to_string(), owner, ..Pod::default() };
            if let Some(before) = self.pods.insert(key.clone(), pod) {
                self.leave(&before.node, &key);
            }
        }
        let Some(pod) = self.pods.get_mut(&key) else { return };
        for status in items(object, "/status/containerStatuses") {
            let name = status["name"].as_str().unwrap_or_default();
            let restarts = status["restartCount"].as_i64().unwrap_or(0);
            let before = pod.restarts.insert(name.to_string(), restarts);
            if before.is_some_and(|before| before < restarts) {
                counts.add("container-restarted");
            }
        }
        let is_going = object.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string);
        if is_going && !pod.is_going {
            pod.is_going = true;
            if let Some(owner) = &pod.owner {
                *self.gone.entry(owner.clone()).or_default() += 1;
            }
            if pod.is_timed {
                counts.add("pod-evicted");
            }
        }
        if pod.node != node {
            let before = std::mem::replace(&mut pod.node, node.to_string());
            pod.tolerations = tolerations(object);
            self.leave(&before, &key);
            self.on_node.entry(node.to_string()).or_default().insert(key.clone());
            self.time_pod(&key, counts);
        }
    }

    fn leave(&mut self, node: &str, key: &Key) {
        if let Some(keys) = self.on_node.get_mut(node) {
            keys.remove(key);
        }
    }

    fn pod_deleted(&mut self, key: &Key, object: &Value, counts: &mut Counts) {
        let Some(pod) = self.pods.remove(key) else { return };
        self.leave(&pod.node, key);
        if pod.uid == text(object, "/metadata/uid") && !pod.is_going {
            if let Some(owner) = pod.owner {
                *self.gone.entry(owner).or_default() += 1;
            }
            if pod.is_timed {
                counts.add("pod-evicted");
            }
        }
    }

    fn replicas(&mut self, kind: &str, key: Key, object: &Value, counts: &mut Counts) {
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
        let replicas = number("/spec/replicas").unwrap_or(1);
        let null = Value::Null;
        let template = object.pointer("/spec/template").unwrap_or(&null);
        let known = self.scaled.entry((kind.to_string(), key)).or_insert_with(|| Scaled {
            replicas,
            template: template.clone(),
            is_rolling: false,
        });
        if known.replicas != replicas {
            // What went because fewer are wanted is not replaced.
            self.gone.remove(text(object, "/metadata/uid"));
            // ReplicaSets of a Deployment are scaled by every rollout.
            if owner(object).is_none() {
                let is_more = replicas > known.replicas;
                counts.add(if is_more { "scaled-up" } else { "scaled-down" });
            }
            known.replicas = replicas;
        }
        if kind == "replicasets.apps" {
            return;
        }
        if known.template != *template {
            (known.template, known.is_rolling) = (template.clone(), true);
        }
        let status = |field: &str| number(field).unwrap_or(0);
        let is_observed = status("/status/observedGeneration") >= status("/metadata/generation");
        let is_done = ["/status/updatedReplicas", "/status/replicas", "/status/availableReplicas"]
            .iter()
            .all(|field| status(field) == replicas);
        if known.is_rolling && is_observed && is_done {
            known.is_rolling = false;
            counts.add("rollout-completed");
        }
    }
}

/// The tolerations that may concern NoExecute.
fn tolerations(pod: &Value) -> Vec<Toleration> {
    items(pod, "/spec/tolerations")
        .filter(|it| matches!(it["effect"].as_str(), None | Some("" | "NoExecute")))
        .map(|it| Toleration {
            key: it["key"].as_str().unwrap_or_default().to_string(),
            value: it["value"].as_str().unwrap_or_default().to_string(),
            is_any_value: it["operator"] == "Exists",
            is_limited: it["tolerationSeconds"].is_number(),
        })
        .collect()
}
