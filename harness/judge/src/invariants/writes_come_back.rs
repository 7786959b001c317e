//! `writes-come-back`: with a quorum writes succeed again soon; without one nothing is decided.
//!
//! ```yaml
//! invariants: [writes-come-back]
//! ```
//!
//! After the last fault is shown to be healed, a write of the workload is acknowledged within two
//! election timeouts, two answers' time of a client (3 s each) and its next turn. While most members of
//! etcd are killed, stopped or on dead nodes, no write and no read of the newest state is acknowledged
//! that was sent and answered in that time.

use std::collections::BTreeMap;

use shakedown_core::lever::Component;
use shakedown_core::target::Role;

use super::Invariant;
use crate::finding::Finding;
use crate::history::Op;
use crate::scene::{FaultSpan, Scene, seconds};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "writes-come-back",
    promise: "with a quorum writes succeed again soon, without one nothing is decided",
    judge,
};

/// Twice what a client waits for an answer, beside elections, and a second for the turns of a client.
const RETRY_US: i64 = 7_000_000;

fn judge(scene: &Scene<'_>) -> Finding {
    let ops = &scene.history().ops;
    if ops.is_empty() {
        return Finding::nothing("no workload client did anything");
    }
    let mut violations = Vec::new();
    let mut told = Vec::new();
    let without = without_quorum(scene);
    for (from, to) in &without {
        let mut refused = 0;
        for op in ops.iter().filter(|op| op.is_current()) {
            if op.call_us < *from || op.answered.at_us > *to {
                continue;
            }
            match op.acked() {
                Some((revision, _)) => violations.push(format!(
                    "{} was acknowledged at {revision} although most members were down for {}",
                    op.tell(),
                    seconds(to - from)
                )),
                None => refused += 1,
            }
        }
        told.push(format!("{refused} operations refused without a quorum"));
    }
    match back(scene, ops) {
        Back::NotJudged => {}
        Back::After(took) => {
            told.push(format!("a write succeeded {} after the heal", seconds(took)))
        }
        Back::Late(why) => violations.push(why),
    }
    if told.is_empty() && violations.is_empty() {
        return Finding::nothing("no fault was healed while the workload wrote");
    }
    Finding::of(INVARIANT.promise, &violations, told.join("; "))
}

enum Back {
    NotJudged,
    After(i64),
    Late(String),
}

/// How soon after the last heal a write succeeded that was sent after it.
fn back(scene: &Scene<'_>, ops: &[Op<'_>]) -> Back {
    let mut healed: Option<i64> = None;
    for span in scene.faults.iter().filter(|span| span.began().is_some()) {
        let Some(over) = span.over() else { return Back::NotJudged };
        healed = Some(healed.map_or(over, |known| known.max(over)));
    }
    let Some(healed) = healed else { return Back::NotJudged };
    let election = i64::try_from(scene.parameters().election.as_micros()).unwrap_or(i64::MAX / 8);
    let high = 2 * election + RETRY_US;
    let mut tries = ops.iter().filter(|op| op.is_write() && op.call_us >= healed);
    let Some(first) = tries.clone().next() else { return Back::NotJudged };
    // What was sent later than asked for cannot be answered in time.
    let deadline = healed.max(first.call_us) + high;
    let decided = |op: &&Op<'_>| {
        // A refusal for the object's sake shows that writes are decided.
        op.acked().is_some() || matches!(op.done, crate::history::Done::Refused(404 | 409 | 412))
    };
    match tries.find(decided) {
        Some(op) if op.answered.earliest() <= deadline => Back::After(op.answered.at_us - healed),
        Some(op) => Back::Late(format!(
            "the first write that was decided after the heal came {} after it, promised within {} ({})",
            seconds(op.answered.at_us - healed),
            seconds(deadline - healed),
            op.tell()
        )),
        None => {
            let last = ops.iter().map(|op| op.answered.at_us).max().unwrap_or(0);
            match last > deadline {
                true => Back::Late(format!(
                    "no write was decided for {} after the heal, promised within {}",
                    seconds(last - healed),
                    seconds(deadline - healed)
                )),
                false => Back::NotJudged,
            }
        }
    }
}

/// The times in which most members of etcd certainly did not run.
fn without_quorum(scene: &Scene<'_>) -> Vec<(i64, i64)> {
    let masters = scene.names(Role::ControlPlane);
    // At each time, which member goes down (true) or may be up again.
    let mut turns: Vec<(i64, bool, &str)> = Vec::new();
    for span in &scene.faults {
        let (Some((_, from)), to) = (span.began(), span.lifted().unwrap_or(scene.end_us())) else {
            continue;
        };
        for node in masters.iter().filter(|node| is_down(span, node)) {
            turns.push((from, true, node));
            turns.push((to, false, node));
        }
    }
    turns.sort_unstable();
    let most = masters.len() - masters.len() / 2;
    let mut down: BTreeMap<&str, u32> = BTreeMap::new();
    let mut since = None;
    let mut all = Vec::new();
    for (at, goes, node) in turns {
        let count = down.entry(node).or_default();
        *count = if goes { *count + 1 } else { count.saturating_sub(1) };
        let many = down.values().filter(|count| **count > 0).count();
        match (since, !masters.is_empty() && many >= most) {
            (None, true) => since = Some(at),
            (Some(from), false) => {
                all.push((from, at));
                since = None;
            }
            _ => {}
        }
    }
    all.into_iter().filter(|(from, to)| to > from).collect()
}

/// Whether a fault keeps the member of this node from running until it is taken back.
fn is_down(span: &FaultSpan<'_>, node: &str) -> bool {
    let etcd = format!("{node}/{}", Component::Etcd);
    match span.fault {
        "node-kill" | "node-pause" => span.targets.iter().any(|target| target == node),
        "process-stop" => span.targets.contains(&etcd),
        "process-kill" => !span.undo.is_empty() && span.targets.contains(&etcd),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::FaultPhase::{Applied, HealProven, Proven, Removed, Sustained};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/writes-come-back";

    /// Two of three members stop from 10 s to 30 s.
    fn tape(targets: &[&str]) -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(5.0).op("create", "a", Some("one"), (4.9, 10));
        tape.at(10.0).fault("stop", "process-stop", Applied, targets);
        tape.at(11.0).fault("stop", "process-stop", Proven, targets);
        tape
    }

    const MOST: &[&str] = &["cp-1/etcd", "cp-2/etcd"];

    fn healed<'t>(tape: &'t mut Tape, targets: &[&str]) -> &'t mut Tape {
        tape.at(29.0).fault("stop", "process-stop", Sustained, targets);
        tape.at(30.0).fault("stop", "process-stop", Removed, targets);
        tape.at(31.0).fault("stop", "process-stop", HealProven, targets);
        tape
    }

    #[test]
    fn writes_that_come_back_soon_pass_and_others_fail() {
        for (answered, verdict) in [(33.0, "PASS"), (50.0, "FAIL")] {
            let mut tape = tape(MOST);
            healed(&mut tape, MOST).at(34.0).unknown("update", "a", "two", 31.5);
            tape.at(answered).op("update", "a", Some("three"), (answered - 1.0, 12));
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{answered}");
        }
        let mut never = tape(MOST);
        healed(&mut never, MOST).at(34.0).unknown("update", "a", "two", 31.5);
        never.at(55.0).unknown("update", "a", "three", 52.0);
        assert_eq!(never.at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn nothing_is_decided_without_a_quorum() {
        for (targets, verdict) in [(MOST, "FAIL"), (&["cp-1/etcd"][..], "PASS")] {
            let mut tape = tape(targets);
            tape.at(20.0).op("update", "a", Some("two"), (19.0, 11));
            healed(&mut tape, targets).at(33.0).op("update", "a", Some("three"), (32.0, 12));
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{targets:?}");
        }
    }

    #[test]
    fn without_a_heal_there_is_nothing_to_judge() {
        let mut tape = tape(&["cp-1/etcd"]);
        assert_eq!(tape.at(60.0).checks_with(ID), 0);
    }
}
