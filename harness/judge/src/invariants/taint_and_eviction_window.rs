//! `taint-and-eviction-window`: a node that is not Ready is tainted NoExecute in time, and a pod that
//! does not bear the taints of its node any longer is deleted in time.
//!
//! ```yaml
//! invariants: [taint-and-eviction-window]
//! ```
//!
//! The taint comes within `monitor + q / 0.1 per second` after the node is not Ready, where q other
//! nodes of its zone wait before it, and one more if any was tried less than ten seconds before; where
//! most of a large zone is lost, at a tenth of that rate. A pod is deleted within a second after its shortest
//! fitting `tolerationSeconds` has passed, without a toleration at once, whatever became of its zone.
//! That nothing comes too early is `no-premature-eviction`. Not judged while the control plane is
//! disturbed, a taint also not while most of a small zone or every node is lost, for none is due then.

use shakedown_core::target::Role;
use shakedown_core::verdict::Verdict;

use super::Invariant;
use super::eviction::{self, no_execute};
use super::silence::{self, Silence, WORK_US};
use super::zones::{EVICTION_PERIOD_US, Zones};
use crate::finding::{Finding, Judged, Timing, broken};
use crate::scene::{Instant, NODES, PODS, Scene, Seen, condition};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "taint-and-eviction-window",
    promise: "a node not Ready is tainted, and its pods are deleted, when they should be",
    judge,
};

#[derive(Default)]
struct Tally {
    timings: Vec<(Timing, String)>,
    violations: Vec<String>,
}

fn judge(scene: &Scene<'_>) -> Finding {
    let mut tally = Tally::default();
    let zones = Zones::of(scene);
    for silence in silence::of(scene) {
        taint(scene, &zones, &silence, &mut tally);
    }
    evictions(scene, &zones, &mut tally);
    let Tally { timings, violations } = tally;
    if timings.is_empty() && violations.is_empty() {
        return Finding::nothing("no taint and no eviction was due");
    }
    let worst = timings.iter().max_by_key(|(timing, _)| timing.miss_us());
    let verdict = if violations.is_empty() { Verdict::Pass } else { Verdict::Fail };
    let message = match worst {
        Some((timing, what)) if violations.is_empty() => {
            format!("{} in time; nearest to its bounds {what}: {}", timings.len(), timing.tell())
        }
        _ => broken(INVARIANT.promise, &violations),
    };
    let judged = Judged::new(verdict, message);
    Finding::Judged(match worst {
        Some((timing, _)) => judged.observed(timing),
        None => judged,
    })
}

/// The taint of a silent node.
fn taint(scene: &Scene<'_>, zones: &Zones<'_>, silence: &Silence<'_>, tally: &mut Tally) {
    let Some(marked) = silence::not_ready_after(scene, &silence.node, silence.from_us.0) else {
        return;
    };
    let Some(high) = longest_wait(scene, zones, &silence.node, marked) else { return };
    let deadline = marked.at_us + high;
    let lifted = silence.until_us.is_some_and(|until| until <= deadline);
    if lifted
        || silence::is_disturbed(scene, silence, marked.at_us - high, deadline)
        || scene.blind(&[NODES], marked.at_us, deadline)
    {
        return;
    }
    let tainted = scene
        .changes(NODES, &silence.node)
        .filter(|seen| seen.when.seq >= marked.seq)
        .find(|seen| no_execute(seen.object).iter().any(is_by_condition));
    match tainted {
        Some(seen) => {
            let moment = (marked.earliest(), marked.at_us);
            let timing = Timing::between(moment, seen.when, (0, high));
            let what = format!("taint of {}", silence.node);
            if timing.is_late() {
                tally.violations.push(format!(
                    "{what}: {} (event {})",
                    timing.tell(),
                    seen.when.seq
                ));
            }
            tally.timings.push((timing, what));
        }
        None if scene.end_us() > deadline => tally.violations.push(format!(
            "{} was not Ready (event {}) and never tainted NoExecute",
            silence.node, marked.seq
        )),
        None => {}
    }
}

/// How long a node that is not Ready may wait for its taint at most; `None` if none is due.
fn longest_wait(scene: &Scene<'_>, zones: &Zones<'_>, node: &str, marked: Instant) -> Option<i64> {
    let monitor = scene.parameters().monitor.as_micros() as i64;
    let queue = i64::try_from(waiting(scene, zones, node, marked)).ok()?;
    // What was so at the monitor's last pass is in force until its next one.
    let from = marked.earliest() - monitor - WORK_US;
    let mut period = EVICTION_PERIOD_US;
    loop {
        let before = queue + i64::from(is_rationed(scene, zones, (node, marked), period));
        let high = monitor + before * period + WORK_US;
        let longest = zones.period_us(node, from, marked.at_us + high)?;
        if longest <= period {
            return Some(high);
        }
        period = longest;
    }
}

/// How many other nodes of its zone may be tainted before a node that was marked just now.
fn waiting(scene: &Scene<'_>, zones: &Zones<'_>, node: &str, marked: Instant) -> usize {
    let workers = scene.names(Role::Worker);
    let queued = marked.at_us + scene.parameters().monitor.as_micros() as i64 + WORK_US;
    let others = workers.iter().filter(|other| *other != node && zones.are_together(node, other));
    let others = others.filter(|other| {
        let later = scene
            .changes(NODES, other)
            .rev()
            .take_while(|seen| seen.when.seq > marked.seq)
            .filter(|seen| seen.when.earliest() <= queued);
        scene.object_at(NODES, other, marked.seq).into_iter().chain(later).any(awaits_taint)
    });
    others.count()
}

/// Whether the ration for the next node may have been used up shortly before: by another that was not
/// Ready and not tainted yet, or by all that were lost, as they are while a cluster boots. To try costs
/// as much as to succeed: a taint that a conflict or an etcd without a majority refused was none, and
/// the next one waits for its turn all the same, as upstream's queue has it.
fn is_rationed(
    scene: &Scene<'_>,
    zones: &Zones<'_>,
    (node, marked): (&str, Instant),
    period: i64,
) -> bool {
    let recent = marked.at_us - period - WORK_US;
    let booted = scene.events.first().map_or(0, |event| Instant::of(event).at_us);
    let was_tried = |name: &&String| {
        let mut before =
            scene.changes(NODES, name).rev().skip_while(|seen| seen.when.seq >= marked.seq);
        let mut in_force = true;
        std::iter::from_fn(|| {
            let seen = before.next().filter(|_| in_force)?;
            // The one before it ended when this one came.
            in_force = seen.when.at_us >= recent;
            Some(seen)
        })
        .any(awaits_taint)
    };
    let workers = scene.names(Role::Worker);
    booted >= recent
        || zones.were_all_lost(recent, marked.at_us)
        || workers
            .iter()
            .filter(|other| zones.are_together(node, other))
            .any(|name| was_tried(&name))
}

/// Whether a node is not Ready and does not have the taint that says so.
fn awaits_taint(seen: &Seen<'_>) -> bool {
    condition(seen.object, "Ready") != "True"
        && !no_execute(seen.object).iter().any(is_by_condition)
}

fn is_by_condition(taint: &&shakedown_core::json::Value) -> bool {
    ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"]
        .iter()
        .any(|key| taint["key"] == *key)
}

/// The deletions of pods that do not bear their node's taints any longer.
fn evictions(scene: &Scene<'_>, zones: &Zones<'_>, tally: &mut Tally) {
    for pod in eviction::pods(scene).values() {
        for threat in eviction::threats(scene, pod) {
            let Some(bears) = threat.bears_us else { continue };
            let (due, latest) = (threat.since.earliest() + bears, threat.since.at_us + bears);
            let deadline = latest + WORK_US;
            let lifted = threat.until.is_some_and(|until| until.earliest() <= deadline);
            // A pod that was going before has nothing to fear.
            let going = pod.doomed.is_some_and(|(doomed, _)| doomed.seq < threat.since.seq);
            if lifted
                || going
                // Once every node is lost their taints are taken away.
                || zones.were_all_lost(threat.since.earliest(), deadline)
                || scene.is_disturbed(threat.since.at_us, deadline, "")
                || scene.blind(&[PODS, NODES], threat.since.at_us, deadline)
            {
                continue;
            }
            match pod.doomed {
                Some((doomed, _)) if doomed.at_us >= due => {
                    let timing = Timing::between((due, latest), doomed, (0, WORK_US));
                    let what = format!("deletion of pod {}", pod.key);
                    if timing.is_late() {
                        let told = timing.tell();
                        tally.violations.push(format!("{what}: {told} (event {})", doomed.seq));
                    }
                    tally.timings.push((timing, what));
                }
                Some(_) => {}
                None if scene.end_us() > deadline => tally.violations.push(format!(
                    "pod {} was never deleted, though its node was tainted at event {}",
                    pod.key, threat.since.seq
                )),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shakedown_core::timeline::FaultPhase::{Applied, Planned, Proven, UndoLogged};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/taint-and-eviction-window";
    const TAINT: (&str, &str, &str) = ("node.kubernetes.io/unreachable", "", "NoExecute");

    fn killed(tainted: Option<f64>, deleted: Option<f64>, seconds: i64) -> Tape {
        let mut tape = Tape::new(kill());
        for node in ["worker-1", "worker-2", "worker-3"] {
            tape.at(1.0).node(node, "True", &[]);
        }
        let on_node = move |pod: &mut serde_json::Value| {
            pod["spec"]["nodeName"] = json!("worker-1");
            pod["spec"]["tolerations"] = json!([{"key": TAINT.0, "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": seconds}]);
        };
        tape.at(2.0).pod_of("a", "uid-1", on_node);
        for phase in [Planned, UndoLogged, Applied, Proven] {
            tape.at(100.0).fault("kill", "node-kill", phase, &["worker-1"]);
        }
        tape.at(140.0).node("worker-1", "Unknown", &[]);
        if let Some(tainted) = tainted {
            tape.at(tainted).node("worker-1", "Unknown", &[TAINT]);
        }
        if let Some(deleted) = deleted {
            tape.at(deleted).pod_of("a", "uid-1", |pod| {
                on_node(pod);
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            });
        }
        tape
    }

    #[test]
    fn in_time_passes_and_late_or_never_fails() {
        for (tainted, deleted, verdict) in [
            (Some(145.0), Some(445.5), "PASS"),
            (Some(145.0), Some(446.5), "FAIL"),
            (Some(145.0), None, "FAIL"),
            (Some(148.0), Some(448.5), "FAIL"),
            (None, None, "FAIL"),
        ] {
            let judged = killed(tainted, deleted, 300).at(900.0).verdict(ID);
            assert_eq!(judged, verdict, "{tainted:?} {deleted:?}");
        }
    }

    #[test]
    fn what_is_not_due_yet_is_not_judged() {
        assert_eq!(killed(Some(145.0), None, 300).at(400.0).verdict(ID), "PASS");
    }

    /// Four workers of zone a and three of zone b; these are killed, marked at 140 s, and tainted then.
    fn zoned(killed: &[(&str, Option<f64>)]) -> String {
        let names = ["a1", "a2", "a3", "a4", "b1", "b2", "b3"].map(str::to_owned);
        let node = |name: &str, ready: &str, is_tainted: bool| {
            let taint = json!({"key": TAINT.0, "effect": TAINT.2});
            let taints = if is_tainted { vec![taint] } else { vec![] };
            json!({
                "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": name[..1]}},
                "spec": {"taints": taints},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let mut tape = Tape::new(kill());
        tape.workers(&names);
        for name in &names {
            tape.at(1.0).put_node(node(name, "True", false));
        }
        let targets: Vec<_> = killed.iter().map(|(name, _)| *name).collect();
        for phase in [Planned, UndoLogged, Applied, Proven] {
            tape.at(100.0).fault("kill", "node-kill", phase, &targets);
        }
        for (name, _) in killed {
            tape.at(140.0).put_node(node(name, "Unknown", false));
        }
        for (name, at) in killed {
            if let Some(at) = at {
                tape.at(*at).put_node(node(name, "Unknown", true));
            }
        }
        tape.at(900.0).verdict(ID)
    }

    #[test]
    fn each_zone_is_judged_by_what_was_lost_of_it() {
        let most = [("a1", None), ("a2", None), ("a3", None)];
        let and_b1 = |at| [most.as_slice(), &[("b1", at)]].concat();
        assert_eq!(zoned(&and_b1(Some(145.0))), "PASS", "most of a: none of it is due");
        assert_eq!(zoned(&and_b1(Some(147.0))), "FAIL", "b goes on at its own pace");
        assert_eq!(zoned(&and_b1(None)), "FAIL");
        assert_eq!(zoned(&[("a1", Some(145.0)), ("a2", None)]), "FAIL", "two are few");
        assert_eq!(zoned(&[("a1", Some(145.0)), ("a2", Some(155.0))]), "PASS");
        let whole: Vec<_> = [("b1", 145.0), ("b2", 155.0), ("b3", 165.0)].into();
        let late =
            |by: f64| -> Vec<_> { whole.iter().map(|(name, at)| (*name, Some(at + by))).collect() };
        assert_eq!(zoned(&late(0.0)), "PASS", "a zone that is lost as a whole");
        assert_eq!(zoned(&late(12.0)), "FAIL");
    }

    #[test]
    fn pods_of_a_tainted_node_go_whatever_becomes_of_its_zone() {
        let lost = |deleted| {
            let mut tape = killed(Some(145.0), None, 300);
            tape.workers(&["1", "2", "3", "4"].map(|number| format!("worker-{number}")));
            tape.at(146.0).node("worker-4", "True", &[]);
            for node in ["worker-2", "worker-3"] {
                tape.at(150.0).node(node, "Unknown", &[]);
            }
            if deleted {
                tape.at(445.5).gone("pods", "shop/a");
            }
            tape.at(900.0).verdict(ID)
        };
        assert_eq!((lost(true), lost(false)), ("PASS".to_owned(), "FAIL".to_owned()));
    }

    #[test]
    fn a_taint_that_failed_costs_the_ration_too_but_only_once() {
        // Worker 2 was given up and came back; no taint of it was ever seen.
        let judged = |gone: f64, back: f64, tainted: Option<f64>| {
            let mut tape = Tape::new(kill());
            for node in ["worker-1", "worker-2", "worker-3"] {
                tape.at(1.0).node(node, "True", &[]);
            }
            for phase in [Planned, UndoLogged, Applied, Proven] {
                tape.at(100.0).fault("kill", "node-kill", phase, &["worker-1"]);
            }
            tape.at(gone).node("worker-2", "Unknown", &[]);
            tape.at(back).node("worker-2", "True", &[]);
            tape.at(140.0).node("worker-1", "Unknown", &[]);
            if let Some(tainted) = tainted {
                tape.at(tainted).node("worker-1", "Unknown", &[TAINT]);
            }
            tape.at(900.0).verdict(ID)
        };
        assert_eq!(judged(120.0, 135.0, Some(150.0)), "PASS");
        assert_eq!(judged(120.0, 135.0, Some(157.0)), "FAIL", "not twice");
        assert_eq!(judged(120.0, 135.0, None), "FAIL");
        assert_eq!(judged(110.0, 128.0, Some(150.0)), "FAIL", "long ago");
    }

    #[test]
    fn when_all_nodes_are_down_nothing_is_due() {
        let mut tape = killed(None, None, 300);
        for node in ["worker-2", "worker-3"] {
            tape.at(140.5).node(node, "Unknown", &[]);
        }
        assert_eq!(tape.at(900.0).checks_with(ID), 0);
    }
}
