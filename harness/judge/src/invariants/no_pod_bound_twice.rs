//! `no-pod-bound-twice`: a pod's node is decided once and never changes, and the pod runs only there.
//!
//! ```yaml
//! invariants: [no-pod-bound-twice]
//! ```
//!
//! Seen by the witness (`spec.nodeName`), by the audit log (at most one successful binding for each
//! pod), and by the runtimes (containers on other nodes).

use std::collections::BTreeMap;

use shakedown_core::timeline::{Change, What};

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{PODS, Scene, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "no-pod-bound-twice",
    promise: "a pod is bound to one node, once, and runs only there",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    // The node of each pod, by uid, and the event that says so.
    let mut bound: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
    let mut violations = Vec::new();
    for seen in scene.of_kind(PODS) {
        let (uid, node) = (text(seen.object, "/metadata/uid"), text(seen.object, "/spec/nodeName"));
        match bound.get(uid) {
            None if node.is_empty() => {}
            None => {
                bound.insert(uid, (node, seen.when.seq));
            }
            Some((before, _)) if *before == node => {}
            Some((before, first)) => violations.push(format!(
                "pod {} was bound to {before} and then to `{node}` (events {first}, {})",
                seen.key, seen.when.seq
            )),
        }
    }
    if bound.is_empty() {
        return Finding::nothing("no bound pod was seen");
    }
    bindings(scene, &mut violations);
    for event in scene.own() {
        let What::Container { node, running: true, container } = &event.what else { continue };
        if let Some((on, first)) = bound.get(container.pod_uid.as_str())
            && on != node
        {
            violations.push(format!(
                "pod {}/{} runs on {node} although it is bound to {on} (events {first}, {})",
                container.namespace, container.pod, event.seq
            ));
        }
    }
    Finding::of(INVARIANT.promise, &violations, format!("{} bound pods", bound.len()))
}

/// At most one successful binding between two removals of a pod of that name.
fn bindings(scene: &Scene<'_>, violations: &mut Vec<String>) {
    let mut last: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
    for line in &scene.audit {
        let Some(pod) = line.key.strip_suffix("/binding") else { continue };
        if !(200..300).contains(&line.code) || !line.kind.starts_with(PODS) {
            continue;
        }
        if let Some((revision, seq)) = last.insert(pod, (line.revision, line.when.seq)) {
            let (from, to) = (revision.min(line.revision), revision.max(line.revision));
            let replaced = scene
                .changes(PODS, pod)
                .any(|seen| seen.change == Change::Deleted && (from..=to).contains(&seen.revision));
            if !replaced {
                violations.push(format!(
                    "two bindings of pod {pod} succeeded, at {revision} and {} (events {seq}, {})",
                    line.revision, line.when.seq
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/no-pod-bound-twice";

    fn bound() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).pod_of("a", "uid-1", |_| {});
        tape.at(2.0).pod_of("a", "uid-1", |pod| pod["spec"]["nodeName"] = json!("worker-1"));
        let revision = tape.revision();
        tape.audit("system:kube-scheduler", "create", ("pods", "shop/a/binding"), revision, "");
        tape.at(3.0).container("worker-1", "c1", ("a", "uid-1"), true);
        tape
    }

    #[test]
    fn bound_once_passes() {
        assert_eq!(bound().at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn a_pod_of_the_same_name_may_be_bound_again() {
        let mut tape = bound();
        tape.at(4.0).gone("pods", "shop/a");
        tape.at(5.0).pod_of("a", "uid-2", |pod| pod["spec"]["nodeName"] = json!("worker-2"));
        let revision = tape.revision();
        tape.audit("system:kube-scheduler", "create", ("pods", "shop/a/binding"), revision, "");
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn another_node_another_binding_and_a_stray_container_are_rejected() {
        let mut moved = bound();
        moved.at(4.0).pod_of("a", "uid-1", |pod| pod["spec"]["nodeName"] = json!("worker-2"));
        assert_eq!(moved.at(60.0).verdict(ID), "FAIL");

        let mut twice = bound();
        let revision = twice.revision() + 1;
        twice.audit("system:kube-scheduler", "create", ("pods", "shop/a/binding"), revision, "");
        assert_eq!(twice.at(60.0).verdict(ID), "FAIL");

        let mut stray = bound();
        stray.at(4.0).container("worker-2", "c2", ("a", "uid-1"), true);
        assert_eq!(stray.at(60.0).verdict(ID), "FAIL");
    }
}
