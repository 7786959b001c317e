//! `at-most-one-live-pod`: no two pods of one name run at the same time, as the runtimes tell it.
//!
//! ```yaml
//! invariants: [at-most-one-live-pod]
//! ```
//!
//! What the API says does not count. Excused: the older pod was removed from the API by somebody
//! other than its kubelet (a forced deletion), or its Node object was deleted.

use std::collections::BTreeMap;

use shakedown_core::timeline::{Change, What};

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{Instant, NODES, PODS, Scene, seconds, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "at-most-one-live-pod",
    promise: "no two pods of one name run at the same time",
    judge,
};

/// The time in which one container certainly ran.
struct Life<'a> {
    uid: &'a str,
    node: &'a str,
    from_us: i64,
    until_us: i64,
    seq: u64,
}

fn judge(scene: &Scene<'_>) -> Finding {
    let lives = lives(scene);
    let many: usize = lives.values().map(Vec::len).sum();
    if many == 0 {
        return Finding::nothing("no container was seen");
    }
    let mut violations = Vec::new();
    for (pod, mut lives) in lives {
        lives.sort_by_key(|life| life.from_us);
        // Among those that began so far, the ones that last longest, of two different pods.
        let mut open: Vec<&Life<'_>> = Vec::new();
        for life in &lives {
            open.retain(|other| other.until_us > life.from_us);
            let rival = open.iter().find(|other| other.uid != life.uid);
            if let Some(older) = rival
                && !is_excused(scene, &pod, older)
            {
                violations.push(format!(
                    "{pod} ran on {} (uid {}) and on {} (uid {}) for at least {} (events {}, {})",
                    older.node,
                    older.uid,
                    life.node,
                    life.uid,
                    seconds(older.until_us.min(life.until_us) - life.from_us),
                    older.seq,
                    life.seq
                ));
            }
            open.push(life);
        }
    }
    Finding::of(
        INVARIANT.promise,
        &violations,
        format!("{many} containers, none beside its double"),
    )
}

fn lives<'a>(scene: &Scene<'a>) -> BTreeMap<String, Vec<Life<'a>>> {
    let mut lives: BTreeMap<String, Vec<Life<'a>>> = BTreeMap::new();
    let mut running: BTreeMap<(&str, &str), (Instant, String, &'a str)> = BTreeMap::new();
    let mut close = |node: &'a str, began: (Instant, String, &'a str), until_us| {
        let (from, pod, uid) = began;
        // From the latest time at which it began to the earliest at which it ended.
        if until_us > from.at_us {
            let life = Life { uid, node, from_us: from.at_us, until_us, seq: from.seq };
            lives.entry(pod).or_default().push(life);
        }
    };
    for event in scene.events {
        match &event.what {
            What::Container { node, running: true, container } => {
                let pod = format!("{}/{}", container.namespace, container.pod);
                running.entry((node, &container.id)).or_insert((
                    Instant::of(event),
                    pod,
                    &container.pod_uid,
                ));
            }
            What::Container { node, running: false, container } => {
                if let Some(began) = running.remove(&(node.as_str(), container.id.as_str())) {
                    close(node, began, Instant::of(event).earliest());
                }
            }
            // A node that loses power takes its containers with it, whether that is seen or not.
            What::Fault { fault, targets, name, .. }
                if ["disk-loss", "node-kill", "node-restart"].contains(&fault.as_str()) =>
            {
                let span = scene.faults.iter().find(|span| span.name == name);
                let Some((began, _)) = span.and_then(|span| span.began()) else { continue };
                let dead: Vec<_> = running
                    .keys()
                    .filter(|(node, _)| targets.iter().any(|target| target == node))
                    .copied()
                    .collect();
                for key in dead {
                    if running[&key].0.at_us > began {
                        continue;
                    }
                    if let Some(life) = running.remove(&key) {
                        close(key.0, life, began);
                    }
                }
            }
            _ => {}
        }
    }
    let end = scene.end_us();
    for ((node, _), began) in running {
        close(node, began, end);
    }
    lives
}

fn is_excused(scene: &Scene<'_>, pod: &str, older: &Life<'_>) -> bool {
    let node_gone = scene.changes(NODES, older.node).any(|seen| seen.change == Change::Deleted);
    let removal = scene.changes(PODS, pod).find(|seen| {
        seen.change == Change::Deleted && text(seen.object, "/metadata/uid") == older.uid
    });
    let Some(removal) = removal else { return node_gone };
    let kubelet = format!("system:node:{}", older.node);
    let by = scene
        .audit_of(PODS, pod)
        .find(|line| line.verb == "delete" && line.key == pod && line.revision == removal.revision);
    let forced = match by {
        Some(line) => line.user != kubelet,
        // Without an audit log only the object tells: no grace was given.
        None => removal.object["metadata"]["deletionGracePeriodSeconds"] == 0,
    };
    node_gone || forced
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::FaultPhase::{Applied, Planned};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/at-most-one-live-pod";

    fn moved(until: f64, from: f64, error: f64) -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).container("worker-1", "c1", ("web-0", "uid-1"), true);
        tape.at(until).error(error).container("worker-1", "c1", ("web-0", "uid-1"), false);
        tape.at(from).container("worker-2", "c2", ("web-0", "uid-2"), true);
        tape
    }

    #[test]
    fn one_after_the_other_passes_and_side_by_side_fails() {
        assert_eq!(moved(10.0, 11.0, 0.0).at(60.0).verdict(ID), "PASS");
        assert_eq!(moved(12.0, 11.0, 0.0).at(60.0).verdict(ID), "FAIL");
        assert_eq!(moved(12.0, 11.0, 1.5).at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn two_containers_of_one_pod_are_no_doubles() {
        let mut tape = Tape::new(kill());
        tape.at(1.0).container("worker-1", "c1", ("web-0", "uid-1"), true);
        tape.at(1.0).container("worker-1", "c2", ("web-0", "uid-1"), true);
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn a_killed_node_runs_nothing() {
        let mut tape = Tape::new(kill());
        tape.at(1.0).container("worker-1", "c1", ("web-0", "uid-1"), true);
        tape.at(5.0).fault("kill", "node-kill", Planned, &["worker-1"]);
        tape.at(5.0).fault("kill", "node-kill", Applied, &["worker-1"]);
        tape.at(6.0).container("worker-2", "c2", ("web-0", "uid-2"), true);
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn a_forced_deletion_is_an_excuse() {
        let mut tape = moved(20.0, 11.0, 0.0);
        tape.at(1.0).pod_of("web-0", "uid-1", |_| {});
        tape.at(10.0).gone("pods", "shop/web-0");
        assert_eq!(tape.clone().at(60.0).verdict(ID), "FAIL");
        let revision = tape.revision();
        tape.audit("kubernetes-admin", "delete", ("pods", "shop/web-0"), revision, "");
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }
}
