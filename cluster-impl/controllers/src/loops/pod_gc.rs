//! Removes pods that nobody else will: of nodes that no longer exist, and too many terminated ones.
//!
//! ```yaml
//! # Force-deleted once Node worker-9 has been missing for 40 s:
//! kind: Pod
//! spec: {nodeName: worker-9}
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiclient::Informed;
use machinery::kinds::{NODE, POD};
use machinery::{Kind, Object, ObjectKey, View};

use crate::taints::OUT_OF_SERVICE;
use crate::{Config, Controller, DecideCx, Decision, Guard, Key, Write, conditions};

/// The periodic pass.
const PASS: &str = "pass";
/// How often the pass is done.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must have been missing.
const QUARANTINE: Duration = Duration::from_secs(40);

/// The controller. It remembers since when it misses each node.
pub struct PodGc {
    missing: BTreeMap<String, Duration>,
}

impl PodGc {
    /// A controller that misses no node.
    pub fn new(_: &Config) -> Self {
        Self { missing: BTreeMap::new() }
    }

    /// Deletes the pods of nodes that have been missing for long enough.
    fn orphans(&mut self, view: &View, cx: &DecideCx<'_>, writes: &mut Vec<Write>) {
        let missing: Vec<_> = cx
            .index
            .nodes_with_pods()
            .filter(|node| view.get(&NODE, &ObjectKey::new("", *node)).is_none())
            .collect();
        self.missing.retain(|node, _| missing.contains(&node.as_str()));
        for node in missing {
            let since = *self.missing.entry(node.to_owned()).or_insert(cx.elapsed);
            if cx.elapsed - since < QUARANTINE {
                continue;
            }
            let key = ObjectKey::new("", node);
            let guard = Guard { kind: &NODE, key, uid: String::new(), present: false };
            let message = "PodGC: node no longer exists";
            for pod in cx.index.pods_on(node).filter_map(|key| view.get(&POD, key)) {
                let steps = fail(pod, message, cx).into_iter().chain([force_delete(pod)]);
                writes.extend(steps.map(|write| {
                    Write::If { guards: vec![guard.clone()], write: Box::new(write) }
                }));
            }
        }
    }

    /// Deletes terminating pods that no kubelet will confirm.
    fn abandoned(view: &View, writes: &mut Vec<Write>) {
        let out_of_service = |node: &str| {
            view.get(&NODE, &ObjectKey::new("", node)).is_some_and(|node| {
                node.condition_status("Ready") != "True"
                    && node.taints().iter().any(|taint| taint.key == OUT_OF_SERVICE)
            })
        };
        for pod in view.all(&POD).filter(|pod| pod.is_terminating()) {
            let node = pod.text("/spec/nodeName");
            if node.is_empty() || out_of_service(node) {
                writes.push(force_delete(pod));
            }
        }
    }

    /// Deletes the oldest terminated pods beyond the threshold.
    fn surplus(view: &View, cx: &DecideCx<'_>, writes: &mut Vec<Write>) {
        let threshold = cx.config.terminated_pod_gc_threshold;
        let is_over = |pod: &&Arc<Object>| {
            matches!(pod.text("/status/phase"), "Succeeded" | "Failed") && !pod.is_terminating()
        };
        if threshold == 0 || view.all(&POD).filter(is_over).count() <= threshold {
            return;
        }
        let mut over: Vec<_> = view.all(&POD).filter(is_over).collect();
        over.sort_by_key(|pod| (pod.created(), pod.key()));
        let surplus = over.len() - threshold;
        writes.extend(over.into_iter().take(surplus).map(force_delete));
    }
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&NODE, &POD]
    }

    fn start(&mut self) -> Vec<Key> {
        vec![Key::named(PASS, "")]
    }

    fn changed(&mut self, _: &View, _: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        Vec::new()
    }

    fn decide(&mut self, view: &View, _: &Key, cx: &DecideCx<'_>) -> Decision {
        let mut decision = Decision::default();
        self.orphans(view, cx, &mut decision.writes);
        Self::abandoned(view, &mut decision.writes);
        Self::surplus(view, cx, &mut decision.writes);
        decision.again(PERIOD);
        decision
    }
}

/// Marks a pod that still counts as running as failed, so that no one waits for it.
fn fail(pod: &Arc<Object>, message: &str, cx: &DecideCx<'_>) -> Option<Write> {
    if matches!(pod.text("/status/phase"), "Succeeded" | "Failed") {
        return None;
    }
    let mut object = Object::clone(pod);
    object.set("/status/phase", "Failed");
    let why = ("DeletionByPodGC", message);
    conditions::set(&mut object, "DisruptionTarget", "True", why, &cx.now_text());
    Some(Write::UpdateStatus { kind: &POD, object })
}

fn force_delete(pod: &Arc<Object>) -> Write {
    Write::Delete { kind: &POD, object: pod.clone(), grace_s: Some(0), propagation: "", note: None }
}
