//! `no-premature-eviction`: controllers delete no pod of a healthy node, none before its tolerations
//! have run out, and none while every node is down.
//!
//! ```yaml
//! invariants: [no-premature-eviction]
//! ```
//!
//! Deletions with another explanation do not count: by a user, by a fault, by an owner that is gone
//! or has more pods than it wants, with the namespace, after the pod had ended.

use shakedown_core::target::Role;

use super::Invariant;
use super::eviction::{self, PodLife};
use super::silence::WORK_US;
use crate::finding::Finding;
use crate::scene::{Instant, NODES, Scene, condition, seconds};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "no-premature-eviction",
    promise: "no pod is evicted from a healthy node, too soon, or while every node is down",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let pods = eviction::pods(scene);
    let bound = pods.values().filter(|pod| pod.bound.is_some()).count();
    if bound == 0 || scene.of_kind(NODES).is_empty() {
        return Finding::nothing("no bound pod was seen");
    }
    let mut violations = Vec::new();
    for pod in pods.values() {
        if let Some(violation) = violated(scene, pod)
            && !eviction::is_explained(scene, pod, &pods)
        {
            violations.push(violation);
        }
    }
    let seen = format!("{bound} bound pods, none deleted without a reason");
    let is_blind = scene.gaps.iter().any(|(_, kind)| *kind == NODES);
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

fn violated(scene: &Scene<'_>, pod: &PodLife<'_>) -> Option<String> {
    let (doomed, _) = pod.doomed?;
    let (_, node) = pod.bound?;
    let told = format!("pod {} on {node} was deleted (event {})", pod.key, doomed.seq);
    let threats = eviction::threats(scene, pod);
    let Some(due) = eviction::evictable_since(&threats, doomed) else {
        let healthy =
            condition(scene.object_at(NODES, node, doomed.seq)?.object, "Ready") == "True";
        let word = if healthy { "healthy" } else { "not tainted NoExecute" };
        return Some(format!("{told} although its node was {word}"));
    };
    match due {
        None => Some(format!("{told} although it tolerates the taints for ever")),
        Some(due) if doomed.at_us < due => {
            Some(format!("{told} at least {} too soon", seconds(due - doomed.at_us)))
        }
        Some(_) if all_down(scene, doomed) => Some(format!("{told} while every node was down")),
        Some(_) => None,
    }
}

/// Whether every worker had been not Ready for longer than the monitor needs to notice.
fn all_down(scene: &Scene<'_>, at: Instant) -> bool {
    let workers = scene.names(Role::Worker);
    let noticed = 2 * scene.parameters().monitor.as_micros() as i64 + WORK_US;
    !workers.is_empty()
        && workers.iter().all(|node| {
            let before = scene.changes(NODES, node).filter(|seen| seen.when.seq <= at.seq);
            let mut down =
                before.rev().take_while(|seen| condition(seen.object, "Ready") != "True");
            // The oldest one of the stretch that reaches up to now.
            let first = down.by_ref().last();
            first.is_some_and(|seen| seen.when.at_us + noticed < at.earliest())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use shakedown_core::timeline::FaultPhase;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/no-premature-eviction";
    const TAINT: (&str, &str, &str) = ("node.kubernetes.io/unreachable", "", "NoExecute");

    fn cluster() -> Tape {
        let mut tape = Tape::new(kill());
        for node in ["worker-1", "worker-2", "worker-3"] {
            tape.at(1.0).node(node, "True", &[]);
        }
        tape.at(2.0).replica_set("web", 1);
        tape.at(2.0).pod_of("a", "uid-1", |pod| on_node(pod, 300));
        tape
    }

    fn on_node(pod: &mut serde_json::Value, seconds: i64) {
        pod["spec"]["nodeName"] = json!("worker-1");
        pod["spec"]["tolerations"] = json!([{"key": TAINT.0, "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": seconds}]);
        pod["metadata"]["ownerReferences"] =
            json!([{"kind": "ReplicaSet", "name": "web", "uid": "uid-web", "controller": true}]);
    }

    fn delete(tape: &mut Tape, user: &str) {
        tape.pod_of("a", "uid-1", |pod| {
            on_node(pod, 300);
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        let revision = tape.revision();
        tape.audit(user, "delete", ("pods", "shop/a"), revision, "");
    }

    const CONTROLLERS: &str = "system:kube-controller-manager";

    #[test]
    fn only_a_pod_that_bears_its_taints_no_longer_may_go() {
        for (deleted, verdict) in [(200.0, "FAIL"), (399.0, "FAIL"), (400.0, "PASS")] {
            let mut tape = cluster();
            tape.at(100.0).node("worker-1", "Unknown", &[TAINT]);
            delete(tape.at(deleted), CONTROLLERS);
            assert_eq!(tape.at(900.0).verdict(ID), verdict, "{deleted}");
        }
    }

    #[test]
    fn a_healthy_nodes_pod_may_go_only_for_another_reason() {
        let mut tape = cluster();
        delete(tape.at(50.0), CONTROLLERS);
        assert_eq!(tape.at(900.0).verdict(ID), "FAIL");
        let mut tape = cluster();
        delete(tape.at(50.0), "kubernetes-admin");
        assert_eq!(tape.at(900.0).verdict(ID), "PASS");
        let mut tape = cluster();
        tape.at(49.0).replica_set("web", 0);
        delete(tape.at(50.0), CONTROLLERS);
        assert_eq!(tape.at(900.0).verdict(ID), "PASS");
        let mut tape = cluster();
        tape.at(49.0).replica_set_again("web", 1);
        delete(tape.at(50.0), CONTROLLERS);
        assert_eq!(tape.at(900.0).verdict(ID), "PASS", "its owner is gone");
    }

    #[test]
    fn an_eviction_of_the_same_moment_does_not_make_a_scaling_one() {
        for (evicted, verdict) in [(49.9, "PASS"), (40.0, "FAIL")] {
            let mut tape = cluster();
            let disrupted = |pod: &mut serde_json::Value| {
                on_node(pod, 0);
                pod["spec"]["nodeName"] = json!("worker-2");
                pod["status"]["conditions"] =
                    json!([{"type": "DisruptionTarget", "status": "True"}]);
            };
            tape.at(30.0).pod_of("b", "uid-2", disrupted);
            tape.at(35.0).node("worker-2", "Unknown", &[TAINT]);
            tape.at(evicted).pod_of("b", "uid-2", |pod| {
                disrupted(pod);
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            });
            let revision = tape.revision();
            tape.audit(CONTROLLERS, "delete", ("pods", "shop/b"), revision, "");
            delete(tape.at(50.0), CONTROLLERS);
            assert_eq!(tape.at(900.0).verdict(ID), verdict, "{evicted}");
        }
    }

    #[test]
    fn what_a_view_of_the_past_deletes_is_no_eviction() {
        let controllers = "cp-1/kube-controller-manager";
        for (fault, controller, is_evicted, verdict) in [
            ("rewind", controllers, false, "PASS"),
            ("hold-events", controllers, false, "PASS"),
            ("slow", controllers, false, "FAIL"),
            ("rewind", controllers, true, "FAIL"),
            ("rewind", "cp-1/kube-scheduler", false, "FAIL"),
        ] {
            let mut tape = cluster();
            tape.at(40.0).fault("back", fault, FaultPhase::Applied, &[controller]);
            if is_evicted {
                tape.at(49.0).pod_of("a", "uid-1", |pod| {
                    on_node(pod, 300);
                    pod["status"]["conditions"] =
                        json!([{"type": "DisruptionTarget", "status": "True"}]);
                });
                tape.at(50.0).pod_of("a", "uid-1", |pod| {
                    on_node(pod, 300);
                    pod["status"]["conditions"] =
                        json!([{"type": "DisruptionTarget", "status": "True"}]);
                    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                });
                let revision = tape.revision();
                tape.audit(CONTROLLERS, "delete", ("pods", "shop/a"), revision, "");
            } else {
                delete(tape.at(50.0), CONTROLLERS);
            }
            tape.at(60.0).fault("back", fault, FaultPhase::HealProven, &[controller]);
            assert_eq!(tape.at(900.0).verdict(ID), verdict, "{fault} {controller} {is_evicted}");
        }
    }

    #[test]
    fn while_every_node_is_down_no_pod_may_go() {
        let mut tape = cluster();
        for node in ["worker-1", "worker-2", "worker-3"] {
            tape.at(100.0).node(node, "Unknown", &[TAINT]);
        }
        delete(tape.at(401.0), CONTROLLERS);
        assert_eq!(tape.at(900.0).verdict(ID), "FAIL");
    }
}
