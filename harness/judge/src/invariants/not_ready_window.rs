//! `not-ready-window`: a node that falls silent is marked not Ready after the grace period, no
//! sooner than its last heartbeat allows and no later than the next look of the monitor.
//!
//! ```yaml
//! invariants: [not-ready-window]
//! ```
//!
//! With grace G, heartbeat H and monitor period M: within `[G - H, G + M]` after the fault, widened
//! by the errors of observation and one second of work. Judged while no other fault touches the
//! node or the control plane, nobody deletes the Node object, and as long as the fault lasts.

use shakedown_core::verdict::Verdict;

use super::Invariant;
use super::silence::{self, Silence, WORK_US};
use crate::finding::{Finding, Judged, Timing, broken};
use crate::scene::{Instant, NODES, Scene, condition, seconds};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "not-ready-window",
    promise: "a silent node is not Ready within [grace - heartbeat, grace + monitor]",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let parameters = scene.parameters();
    let micros = |duration: std::time::Duration| duration.as_micros() as i64;
    let low = micros(parameters.grace.saturating_sub(parameters.heartbeat));
    let high = micros(parameters.grace + parameters.monitor) + WORK_US;
    let mut timings: Vec<(Timing, String)> = Vec::new();
    let mut violations = Vec::new();
    for silence in silence::of(scene) {
        match one(scene, &silence, (low, high)) {
            Seen::Skipped => {}
            Seen::Missed(violation) => violations.push(violation),
            Seen::At(timing, seq) => {
                if timing.is_early() || timing.is_late() {
                    violations.push(format!("{}: {} (event {seq})", silence.node, timing.tell()));
                }
                timings.push((timing, silence.node));
            }
        }
    }
    if timings.is_empty() && violations.is_empty() {
        return Finding::nothing("no node fell silent undisturbed and long enough");
    }
    let verdict = if violations.is_empty() { Verdict::Pass } else { Verdict::Fail };
    let worst = timings.iter().max_by_key(|(timing, _)| timing.miss_us());
    let message = match (violations.is_empty(), worst) {
        (true, Some((timing, node))) => {
            format!(
                "{} silent nodes; nearest to the bounds {node}: {}",
                timings.len(),
                timing.tell()
            )
        }
        _ => broken(INVARIANT.promise, &violations),
    };
    let judged = Judged::new(verdict, message);
    Finding::Judged(match worst {
        Some((timing, _)) => judged.observed(timing),
        None => judged.window(low, high, 0),
    })
}

enum Seen {
    Skipped,
    Missed(String),
    At(Timing, u64),
}

fn one(scene: &Scene<'_>, silence: &Silence<'_>, window: (i64, i64)) -> Seen {
    let (from, latest) = silence.from_us;
    let (low, high) = window;
    let deadline = latest + high;
    let disturbed = silence::is_disturbed(scene, silence, from - high, deadline);
    if disturbed
        || !silence::was_ready(scene, &silence.node, from)
        || scene.blind(&[NODES], from, deadline)
    {
        return Seen::Skipped;
    }
    let marked = silence::not_ready_after(scene, &silence.node, from);
    let lifted = silence.until_us.is_some_and(|until| until <= deadline);
    // A node that is back and says itself that it is not Ready was heard: nobody gave it up.
    let says_itself = |when: Instant| {
        let object = scene.object_at(NODES, &silence.node, when.seq);
        silence.until_us.is_some_and(|until| until <= when.at_us)
            && object.is_some_and(|seen| condition(seen.object, "Ready") == "False")
    };
    match marked {
        Some(when) if says_itself(when) => Seen::Skipped,
        Some(when) => {
            let timing = Timing::between(silence.from_us, when, (low, high));
            // Once the fault is lifted the node may be late, but never early.
            if lifted && !timing.is_early() { Seen::Skipped } else { Seen::At(timing, when.seq) }
        }
        None if lifted || scene.end_us() <= deadline => Seen::Skipped,
        None => Seen::Missed(format!(
            "{} was still Ready {} after it fell silent",
            silence.node,
            seconds(high)
        )),
    }
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::FaultPhase::{
        Applied, HealProven, Planned, Proven, Removed, UndoLogged,
    };

    use shakedown_core::timeline::{Change, What};

    use super::{Finding, Scene};
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/not-ready-window";

    fn killed(marked: Option<f64>, removed: f64, error: f64) -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).node("worker-1", "True", &[]);
        for phase in [Planned, UndoLogged, Applied, Proven] {
            tape.at(100.0).fault("kill", "node-kill", phase, &["worker-1"]);
        }
        if let Some(marked) = marked.filter(|marked| *marked < removed) {
            tape.at(marked).error(error).node("worker-1", "Unknown", &[]);
        }
        tape.at(removed).fault("kill", "node-kill", Proven, &["worker-1"]);
        for phase in [Removed, HealProven] {
            tape.at(removed).fault("kill", "node-kill", phase, &["worker-1"]);
        }
        tape
    }

    #[test]
    fn inside_the_window_passes_outside_fails() {
        for (marked, verdict) in
            [(129.0, "FAIL"), (130.0, "PASS"), (145.0, "PASS"), (146.5, "FAIL"), (120.0, "FAIL")]
        {
            assert_eq!(killed(Some(marked), 200.0, 0.0).at(300.0).verdict(ID), verdict, "{marked}");
        }
        assert_eq!(killed(None, 200.0, 0.0).at(300.0).verdict(ID), "FAIL");
        assert_eq!(killed(Some(146.5), 200.0, 1.0).at(300.0).verdict(ID), "PASS");
    }

    #[test]
    fn a_node_whose_object_is_deleted_need_not_be_marked() {
        let mut tape = killed(None, 200.0, 0.0);
        let (plan, mut events) = tape.at(300.0).finish();
        let before = events.iter().position(|event| event.at_us > 110_000_000).unwrap();
        let mut gone = events
            .iter()
            .find(|event| matches!(&event.what, What::Object { kind, .. } if kind == "nodes"))
            .unwrap()
            .clone();
        let What::Object { change, .. } = &mut gone.what else {
            unreachable!("it was found as one")
        };
        *change = Change::Deleted;
        gone.at_us = 110_000_000;
        events.insert(before, gone);
        for (at, event) in events.iter_mut().enumerate() {
            event.seq = at as u64;
        }
        let scene = Scene::of(&plan, &events).unwrap();
        assert!(matches!(super::judge(&scene), Finding::NothingToJudge(_)));
    }

    #[test]
    fn a_fault_that_ends_too_soon_promises_nothing_but_not_to_be_early() {
        assert_eq!(killed(None, 120.0, 0.0).at(300.0).checks_with(ID), 0);
        assert_eq!(killed(Some(110.0), 120.0, 0.0).at(300.0).verdict(ID), "FAIL");
    }

    #[test]
    fn a_cut_from_every_control_plane_silences_a_worker() {
        let cut = |target: &str| {
            let mut tape = Tape::new(kill());
            tape.at(1.0).node("worker-1", "True", &[]);
            for phase in [Planned, UndoLogged, Applied, Proven] {
                tape.at(100.0).fault("cut", "partition", phase, &[target]);
            }
            tape.at(110.0).node("worker-1", "Unknown", &[]);
            tape.at(300.0).checks_with(ID)
        };
        assert_eq!(cut("worker-1 -> cp-1, cp-2, cp-3 (all)"), 1);
        assert_eq!(cut("cp-1, cp-2, cp-3 -> worker-1 (api)"), 1);
        assert_eq!(cut("worker-1 -> cp-1, cp-2 (all)"), 0);
        assert_eq!(cut("worker-1 -> cp-1, cp-2, cp-3 (etcd-peer)"), 0);
    }

    #[test]
    fn a_heartbeat_that_is_not_answered_counts_all_the_same() {
        let cut = |target: &str, marked: f64| {
            let mut tape = Tape::new(kill());
            tape.at(1.0).node("worker-1", "True", &[]);
            for phase in [Planned, UndoLogged, Applied, Proven] {
                tape.at(100.0).fault("cut", "partition", phase, &[target]);
            }
            tape.at(marked).node("worker-1", "Unknown", &[]);
            tape.at(300.0).verdict(ID)
        };
        assert_eq!(cut("cp-1, cp-2, cp-3 -> worker-1 (api)", 155.0), "PASS");
        assert_eq!(cut("cp-1, cp-2, cp-3 -> worker-1 (api)", 157.0), "FAIL");
        assert_eq!(cut("worker-1 -> cp-1, cp-2, cp-3 (api)", 155.0), "FAIL");
    }
}
