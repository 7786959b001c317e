//! Deletes the pods that do not tolerate a NoExecute taint of their node, when their time is over.
//!
//! ```yaml
//! # With this toleration a pod stays 30 s after the taint hw=gpu:NoExecute came, then it is deleted.
//! tolerations:
//! - {key: hw, value: gpu, effect: NoExecute, tolerationSeconds: 30}
//! ```
//!
//! The time runs from the taint's arrival (or the pod's, if that is later): as seen here, or, for what
//! was there already when this controller started, as `timeAdded` and the pod's conditions say. Of
//! several tolerations that match a taint, and of several taints, the shortest time counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiclient::{Informed, PatchKind};
use env::{Sabotage, Timestamp};
use machinery::kinds::{NODE, POD};
use machinery::{Kind, Object, ObjectKey, Taint, Toleration, View};
use serde_json::json;

use crate::conditions;
use crate::{Config, Controller, DecideCx, Decision, Key, Note, Write, taints};

/// When something arrived, on the driver's clock; negative if before it began.
type Arrival = i128;

/// A taint of a node: node, key, value.
type TaintKey = (String, String, String);

/// The controller. It remembers when each NoExecute taint and each pod on a node arrived, and which
/// pods it will delete.
pub struct TaintEviction {
    taints: BTreeMap<TaintKey, Arrival>,
    pods: BTreeMap<ObjectKey, (String, Arrival)>,
    /// Identity of each pod whose deletion was put off.
    put_off: BTreeMap<ObjectKey, String>,
}

impl TaintEviction {
    /// A controller that has seen nothing.
    pub fn new(_: &Config) -> Self {
        Self { taints: BTreeMap::new(), pods: BTreeMap::new(), put_off: BTreeMap::new() }
    }

    fn node_changed(&mut self, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        let name = &change.key.name;
        let current = change.new.as_ref().map(|node| taints::no_execute(node)).unwrap_or_default();
        let known: Vec<_> = self
            .taints
            .range((name.clone(), String::new(), String::new())..)
            .take_while(|((node, _, _), _)| node == name)
            .map(|(key, _)| key.clone())
            .collect();
        let mut is_changed = change.new.is_none();
        for key in known {
            if !current.iter().any(|taint| taint.key == key.1 && taint.value == key.2) {
                self.taints.remove(&key);
                is_changed = true;
            }
        }
        for taint in &current {
            let key = (name.clone(), taint.key.clone(), taint.value.clone());
            if !self.taints.contains_key(&key) {
                self.taints.insert(key, arrival(taint.time_added, cx));
                is_changed = true;
            }
        }
        if !is_changed {
            return Vec::new();
        }
        cx.index.pods_on(name).map(|pod| Key::of(&POD, pod.clone())).collect()
    }

    fn pod_changed(&mut self, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        let Some(pod) = change.new.as_ref().filter(|pod| !pod.text("/spec/nodeName").is_empty())
        else {
            self.pods.remove(&change.key);
            self.put_off.remove(&change.key);
            return Vec::new();
        };
        let is_known = self.pods.get(&change.key).is_some_and(|(uid, _)| uid == pod.uid());
        if !is_known {
            let scheduled = pod
                .condition("PodScheduled")
                .and_then(|condition| conditions::text(condition, "lastTransitionTime").parse().ok());
            let arrived = arrival(scheduled, cx);
            self.pods.insert(change.key.clone(), (pod.uid().to_owned(), arrived));
        } else if change.old.as_ref().is_some_and(|old| {
            old.get("/spec/tolerations") == pod.get("/spec/tolerations")
                && old.is_terminating() == pod.is_terminating()
        }) {
            return Vec::new();
        }
        vec![Key::of(&POD, change.key.clone())]
    }

    /// When the pod is to be deleted: `None` for never.
    fn due(&self, pod: &Object, node: &Object, cx: &DecideCx<'_>) -> Option<Arrival> {
        let tolerations = pod.tolerations();
        let on_node = self.pods.get(&pod.key()).map_or(0, |(_, arrived)| *arrived);
        taints::no_execute(node)
            .iter()
            .filter_map(|taint| {
                let key = (node.name().to_owned(), taint.key.clone(), taint.value.clone());
                let since = self.taints.get(&key).map_or(on_node, |taint| *taint.max(&on_node));
                match tolerated(&tolerations, taint) {
                    Tolerated::ForEver => None,
                    Tolerated::Not => Some(since),
                    Tolerated::For(_) if cx.sabotaged(Sabotage::TolerationSecondsIgnored) => {
                        Some(since)
                    }
                    Tolerated::For(seconds) => Some(since + i128::from(seconds) * 1_000_000_000),
                }
            })
            .min()
    }

    fn put_back(&mut self, pod: &Arc<Object>) -> Decision {
        let mut decision = Decision::settled();
        if self.put_off.remove(&pod.key()).is_some_and(|uid| uid == pod.uid()) {
            let message = format!("Cancelling deletion of Pod {}", pod.key());
            decision.writes.push(Write::Event(Note::normal(pod, "TaintManagerEviction", message)));
        }
        decision
    }
}

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&NODE, &POD]
    }

    fn changed(&mut self, _: &View, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == NODE.id {
            self.node_changed(change, cx)
        } else if change.kind.id == POD.id {
            self.pod_changed(change, cx)
        } else {
            Vec::new()
        }
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(pod) = view.get(&POD, &key.object) else { return Decision::settled() };
        if pod.is_terminating() {
            self.put_off.remove(&key.object);
            return Decision::settled();
        }
        let node = view.get(&NODE, &ObjectKey::new("", pod.text("/spec/nodeName")));
        let Some(due) = node.and_then(|node| self.due(pod, node, cx)) else {
            return self.put_back(pod);
        };
        let now = nanoseconds(cx.elapsed);
        if due > now {
            self.put_off.insert(key.object.clone(), pod.uid().to_owned());
            let mut decision = Decision::settled();
            let wait = u64::try_from(due - now).unwrap_or(u64::MAX);
            decision.again(Duration::from_nanos(wait));
            return decision;
        }
        self.put_off.remove(&key.object);
        evict(pod, cx)
    }
}

fn evict(pod: &Arc<Object>, cx: &DecideCx<'_>) -> Decision {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": cx.now_text(),
    });
    let message = format!("Marking for deletion Pod {}", pod.key());
    let writes = vec![
        Write::Patch {
            kind: &POD,
            key: pod.key(),
            subresource: "status",
            how: PatchKind::Strategic,
            patch: json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}),
        },
        Write::Delete {
            kind: &POD,
            object: pod.clone(),
            grace_s: None,
            propagation: "",
            note: Some(Note::normal(pod, "TaintManagerEviction", message)),
        },
    ];
    Decision { writes, ..Decision::default() }
}

/// How long a taint is tolerated.
#[derive(Debug, PartialEq)]
enum Tolerated {
    Not,
    For(i64),
    ForEver,
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> Tolerated {
    let mut matching = tolerations.iter().filter(|toleration| toleration.tolerates(taint)).peekable();
    if matching.peek().is_none() {
        return Tolerated::Not;
    }
    let shortest = matching.filter_map(|toleration| toleration.toleration_seconds).min();
    shortest.map_or(Tolerated::ForEver, |seconds| Tolerated::For(seconds.max(0)))
}

/// When something arrived that is seen now: now, unless it was there from the start and says since
/// when. A time in the future is another machine's mistake.
fn arrival(since: Option<Timestamp>, cx: &DecideCx<'_>) -> Arrival {
    let now = nanoseconds(cx.elapsed);
    match since {
        Some(since) if cx.first_sight && since <= cx.now => {
            now - cx.now.duration_since(since).as_nanos()
        }
        _ => now,
    }
}

fn nanoseconds(elapsed: Duration) -> Arrival {
    i128::try_from(elapsed.as_nanos()).expect("no process runs for longer than 2^127 ns")
}
