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
use env::Sabotage;
use machinery::kinds::{NODE, POD};
use machinery::pod::is_finished;
use machinery::{Condition, Kind, Object, ObjectKey, View, conditions};

use crate::taints::OUT_OF_SERVICE;
use crate::{Config, Controller, DecideCx, Decision, Guard, Key, Write};

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
            for pod in cx.index.pods_on(node).filter_map(|key| view.get(&POD, key)) {
                let steps = fail(pod, cx).into_iter().chain([force_delete(pod)]);
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
        let is_over = |pod: &&Arc<Object>| is_finished(pod) && !pod.is_terminating();
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
        if !cx.sabotaged(Sabotage::OrphanedPodsKept) {
            self.orphans(view, cx, &mut decision.writes);
        }
        Self::abandoned(view, &mut decision.writes);
        Self::surplus(view, cx, &mut decision.writes);
        decision.again(PERIOD);
        decision
    }
}

/// Marks a pod that still counts as running as failed, so that no one waits for it.
fn fail(pod: &Arc<Object>, cx: &DecideCx<'_>) -> Option<Write> {
    if is_finished(pod) {
        return None;
    }
    let mut object = Object::clone(pod);
    object.set("/status/phase", "Failed");
    let condition = Condition {
        name: "DisruptionTarget",
        status: "True",
        reason: "DeletionByPodGC",
        message: "PodGC: node no longer exists",
    };
    conditions::set(&mut object, condition, cx.now);
    Some(Write::UpdateStatus { kind: &POD, object })
}

fn force_delete(pod: &Arc<Object>) -> Write {
    Write::Delete { kind: &POD, object: pod.clone(), grace_s: Some(0), propagation: "", note: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world(text: &str) -> World {
        World::new(|config| Box::new(PodGc::new(config)), text)
    }

    #[test]
    fn pods_of_missing_nodes_go_after_the_quarantine() {
        let mut world = world("node/a; pod/p node=a phase=Running; pod/q node=gone phase=Running; pod/done node=gone phase=Succeeded");
        insta::assert_snapshot!(world.run_to(50).replace(" \n", "\n"), @r"
        40 delete pods/done force
        40 status pods/q Ready= Failed
        40 delete pods/q force
        ");
        world.see("-node/a");
        assert_eq!(world.run_to(60), "");
        world.see("node/a");
        assert_eq!(world.run_to(200), "", "it came back in time");
    }

    #[test]
    fn nobody_else_will_confirm_these() {
        let taint = "taint=node.kubernetes.io/out-of-service:NoExecute";
        let mut world = world(&format!(
            "node/a {taint} ready=Unknown; node/b ready=Unknown; node/c {taint} ready=True; \
             pod/p node=a deleted; pod/q node=b deleted; pod/r node=c deleted; pod/s node=a; pod/t deleted"
        ));
        let log = world.run_to(0);
        let gone: Vec<_> = log.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(gone, ["pods/p", "pods/t"]);
    }

    #[test]
    fn only_so_many_terminated_pods_are_kept() {
        let pods: String =
            (1..=5).map(|at| format!("pod/p{at} node=a phase=Succeeded created=@-{at}s;")).collect();
        let mut world = world(&format!("node/a; {pods}"));
        world.config.terminated_pod_gc_threshold = 3;
        let log = world.run_to(0);
        assert_eq!(log.matches("delete").count(), 2);
        assert!(log.contains("pods/p5") && log.contains("pods/p4"), "the oldest go: {log}");
    }
}
