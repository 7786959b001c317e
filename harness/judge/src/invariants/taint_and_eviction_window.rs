//! `taint-and-eviction-window`: a node that is not Ready is tainted NoExecute in time, and a pod that
//! does not bear the taints of its node any longer is deleted in time.
//!
//! ```yaml
//! invariants: [taint-and-eviction-window]
//! ```
//!
//! The taint comes within `monitor + q / 0.1 per second` after the node is not Ready, where q other
//! nodes wait before it, or had their taints less than ten seconds before. A pod is deleted within a second after its shortest fitting
//! `tolerationSeconds` has passed; without a toleration at once. That nothing comes too early is
//! `no-premature-eviction`. Not judged while the control plane is disturbed, nor while so many
//! nodes are down that evictions are slowed or stopped.

use shakedown_core::target::Role;
use shakedown_core::verdict::Verdict;

use super::Invariant;
use super::eviction::{self, no_execute};
use super::silence::{self, Silence, WORK_US};
use crate::finding::{Finding, Judged, Timing, broken};
use crate::scene::{Instant, NODES, PODS, Scene, condition};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "taint-and-eviction-window",
    promise: "a node not Ready is tainted, and its pods are deleted, when they should be",
    judge,
};

/// `--node-eviction-rate` is 0.1 a second: one node every ten seconds.
const EVICTION_PERIOD_US: i64 = 10_000_000;
/// `--unhealthy-zone-threshold`
const UNHEALTHY: f64 = 0.55;

#[derive(Default)]
struct Tally {
    timings: Vec<(Timing, String)>,
    violations: Vec<String>,
}

fn judge(scene: &Scene<'_>) -> Finding {
    let mut tally = Tally::default();
    for silence in silence::of(scene) {
        taint(scene, &silence, &mut tally);
    }
    evictions(scene, &mut tally);
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
fn taint(scene: &Scene<'_>, silence: &Silence<'_>, tally: &mut Tally) {
    let Some(marked) = silence::not_ready_after(scene, &silence.node, silence.from_us.0) else {
        return;
    };
    let others = not_ready(scene, marked.seq).saturating_sub(1) as i64;
    let waiting = others + i64::from(is_rationed(scene, marked));
    let monitor = scene.parameters().monitor.as_micros() as i64;
    let high = monitor + waiting * EVICTION_PERIOD_US + WORK_US;
    let deadline = marked.at_us + high;
    let lifted = silence.until_us.is_some_and(|until| until <= deadline);
    if lifted
        || is_slowed(scene, deadline)
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

/// Whether the ration for the next node may have been used up shortly before: by the taint of
/// another, or by nodes that were all lost, as they are while a cluster boots.
fn is_rationed(scene: &Scene<'_>, marked: Instant) -> bool {
    let recent = marked.at_us - EVICTION_PERIOD_US;
    let booted = scene.events.first().map_or(0, |event| Instant::of(event).at_us);
    let workers = scene.names(Role::Worker).len();
    let used = |seen: &&crate::scene::Seen<'_>| {
        no_execute(seen.object).iter().any(is_by_condition)
            || not_ready(scene, seen.when.seq) >= workers
    };
    let shortly =
        |seen: &&crate::scene::Seen<'_>| seen.when.at_us >= recent && seen.when.seq < marked.seq;
    booted >= recent || scene.of_kind(NODES).iter().filter(shortly).any(|seen| used(&seen))
}

fn is_by_condition(taint: &&serde_json::Value) -> bool {
    ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"]
        .iter()
        .any(|key| taint["key"] == *key)
}

/// The deletions of pods that do not bear their node's taints any longer.
fn evictions(scene: &Scene<'_>, tally: &mut Tally) {
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
                || is_slowed(scene, deadline)
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

/// How many workers were not Ready at this place of the timeline.
fn not_ready(scene: &Scene<'_>, seq: u64) -> usize {
    let workers = scene.names(Role::Worker);
    let down = workers.iter().filter(|node| {
        scene
            .object_at(NODES, node, seq)
            .is_some_and(|seen| condition(seen.object, "Ready") != "True")
    });
    down.count()
}

/// Whether so many nodes were down that evictions are slowed or stopped: all, or more than two and
/// at least the threshold.
pub(super) fn is_slowed(scene: &Scene<'_>, at_us: i64) -> bool {
    let workers = scene.names(Role::Worker).len();
    let mut worst = 0;
    let mut places: Vec<Instant> = scene
        .of_kind(NODES)
        .iter()
        .map(|seen| seen.when)
        .filter(|when| when.earliest() <= at_us)
        .collect();
    // Only the last state before that time counts, and one that may have been before it.
    places.sort_by_key(|when| when.seq);
    for when in places.iter().rev().take(1).chain(places.iter().filter(|when| when.at_us > at_us)) {
        worst = worst.max(not_ready(scene, when.seq));
    }
    worst > 0 && (worst == workers || (worst > 2 && worst as f64 >= UNHEALTHY * workers as f64))
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

    #[test]
    fn when_all_nodes_are_down_nothing_is_due() {
        let mut tape = killed(None, None, 300);
        for node in ["worker-2", "worker-3"] {
            tape.at(140.5).node(node, "Unknown", &[]);
        }
        assert_eq!(tape.at(900.0).checks_with(ID), 0);
    }
}
