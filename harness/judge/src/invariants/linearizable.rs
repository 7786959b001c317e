//! `linearizable`: workload operations happen one at a time, in an order that real time allows.
//!
//! ```yaml
//! invariants: [linearizable]
//! ```
//!
//! Judged by the witness's log, without a search: every acknowledged write is in the log at its
//! revision; every read agrees with the log; an operation that began after another one was answered
//! is placed at no smaller revision (a greater one if it writes); a write without an answer appears
//! at most once, after everything that was answered before it began. O(n log n).

use std::collections::BTreeMap;

use shakedown_core::timeline::Outcome;

use super::Invariant;
use super::writes::{Op, Writes};
use crate::finding::Finding;
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "linearizable",
    promise: "operations happen one at a time, in an order that real time allows",
    judge,
};

/// Where an operation may stand in the order of revisions, in ascending order: a write at one
/// revision, a read as long as the log says what it says.
type Places = Vec<(i64, i64)>;

fn judge(scene: &Scene<'_>) -> Finding {
    let writes = Writes::of(scene);
    if writes.ops.is_empty() {
        return Finding::nothing("no workload client did anything");
    }
    let mut violations = Vec::new();
    unique(&writes, &mut violations);
    let mut placed = Vec::new();
    for op in &writes.ops {
        match places(&writes, op) {
            Ok(Some(places)) => placed.push((op, places)),
            Ok(None) => {}
            Err(violation) => violations.push(violation),
        }
    }
    in_order(&placed, &mut violations);
    unanswered(&writes, &mut violations);
    let seen = format!("{} of {} operations placed", placed.len(), writes.ops.len());
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, writes.is_blind)
}

/// No two acknowledged writes share a revision, unless the second one changed nothing.
fn unique(writes: &Writes<'_>, violations: &mut Vec<String>) {
    let mut taken: BTreeMap<i64, &Op<'_>> = BTreeMap::new();
    for op in writes.ops.iter().filter(|op| op.is_write() && op.op.verb != "delete") {
        let Some((revision, _)) = op.acked() else { continue };
        match taken.get(&revision) {
            Some(other) if other.op.key != op.op.key || other.op.value != op.op.value => violations
                .push(format!("{} and {} share revision {revision}", other.tell(), op.tell())),
            _ => {
                taken.insert(revision, op);
            }
        }
    }
}

fn places(writes: &Writes<'_>, op: &Op<'_>) -> Result<Option<Places>, String> {
    let Some((revision, value)) = op.acked() else { return Ok(None) };
    let key = op.op.key.as_str();
    match op.op.verb.as_str() {
        "get" => read_places(writes, op, revision, value),
        "delete" => {
            let places: Places = writes
                .deletions(key, revision)
                .map(|step| (step.revision, step.revision))
                .collect();
            match places.is_empty() {
                false => Ok(Some(places)),
                true if writes.may_be_late(op, i64::MAX) => Ok(None),
                true => Err(format!(
                    "{} was acknowledged at {revision} and is not in the log",
                    op.tell()
                )),
            }
        }
        _ => match writes.step_at(key, revision) {
            Some(step) if step.value == op.op.value.as_deref() => {
                Ok(Some(vec![(revision, revision)]))
            }
            Some(step) => Err(format!(
                "{} wrote {:?} at {revision}; the log has {:?} (event {})",
                op.tell(),
                op.op.value,
                step.value,
                step.seq
            )),
            None if writes.may_be_late(op, revision) => Ok(None),
            None => {
                Err(format!("{} was acknowledged at {revision} and is not in the log", op.tell()))
            }
        },
    }
}

fn read_places(
    writes: &Writes<'_>,
    op: &Op<'_>,
    revision: i64,
    value: Option<&str>,
) -> Result<Option<Places>, String> {
    let key = op.op.key.as_str();
    let Some(value) = value else {
        return Ok(Some(absences(writes, key)));
    };
    match writes.step_until(key, revision) {
        Some(step) if step.value == Some(value) => {
            Ok(Some(vec![(step.revision, writes.next_after(key, step.revision) - 1)]))
        }
        _ if writes.may_be_late(op, revision) => Ok(None),
        step => Err(format!(
            "{} read {value:?} at {revision}; the log has {:?}",
            op.tell(),
            step.and_then(|step| step.value)
        )),
    }
}

/// The stretches of revisions at which a key had no object.
fn absences(writes: &Writes<'_>, key: &str) -> Places {
    let mut places = Vec::new();
    let mut since = Some(0);
    for step in writes.steps(key) {
        match (step.value, since) {
            (Some(_), Some(from)) => {
                // What was listed may have been there from the beginning.
                let until = if step.is_listed { step.revision } else { step.revision - 1 };
                places.push((from, until));
                since = None;
            }
            (None, None) => since = Some(step.revision),
            _ => {}
        }
    }
    places.extend(since.map(|from| (from, i64::MAX)));
    places
}

/// Places every operation as early as it may be; fails where none is late enough.
fn in_order(placed: &[(&Op<'_>, Places)], violations: &mut Vec<String>) {
    // Requests and answers in order of time; at the same time requests first, so that operations
    // which touch in time count as overlapping.
    let mut moments: Vec<(i64, bool, usize)> = Vec::with_capacity(2 * placed.len());
    for (at, (op, _)) in placed.iter().enumerate() {
        moments.push((op.call_us, false, at));
        moments.push((op.answered.at_us, true, at));
    }
    moments.sort_unstable();
    let mut earliest = vec![0; placed.len()];
    // The greatest place that something answered so far must have, and whose it is.
    let (mut reached, mut by): (i64, Option<&Op<'_>>) = (0, None);
    for (_, is_answer, at) in moments {
        let (op, places) = &placed[at];
        if is_answer {
            if earliest[at] > reached {
                (reached, by) = (earliest[at], Some(*op));
            }
            continue;
        }
        let least = reached + i64::from(op.is_write());
        match places.iter().find(|(_, until)| *until >= least) {
            Some((from, _)) => earliest[at] = (*from).max(least),
            None => violations.push(format!(
                "{} stands at {}, but began after {} was answered at {reached}",
                op.tell(),
                places.last().map_or(0, |(_, until)| *until),
                by.map_or_else(String::new, Op::tell)
            )),
        }
    }
}

/// A write without an answer happens at most once, and not before what was answered before it
/// began; a refused one never happens.
fn unanswered(writes: &Writes<'_>, violations: &mut Vec<String>) {
    let mut values: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for op in &writes.ops {
        if let Some(value) = op.op.value.as_deref().filter(|_| op.is_write()) {
            *values.entry((op.op.key.as_str(), value)).or_default() += 1;
        }
    }
    let mut answers: Vec<(i64, i64)> =
        writes.ops.iter().filter_map(|op| Some((op.answered.at_us, op.acked()?.0))).collect();
    answers.sort_unstable();
    // The greatest revision among the first n answers.
    let mut greatest = vec![0];
    for (_, revision) in &answers {
        greatest.push((*revision).max(*greatest.last().expect("it begins with one")));
    }
    for op in writes.ops.iter().filter(|op| op.is_write()) {
        let Some(value) = op.op.value.as_deref() else { continue };
        let is_own = values.get(&(op.op.key.as_str(), value)) == Some(&1);
        if !is_own || op.acked().is_some() {
            continue;
        }
        let happened: Vec<_> = writes
            .steps(&op.op.key)
            .iter()
            .filter(|step| step.value == Some(value) && !step.is_listed)
            .collect();
        // Changes of other fields keep the value: only where it appears was it written.
        let written = happened.iter().filter(|step| {
            writes.step_until(&op.op.key, step.revision - 1).and_then(|step| step.value)
                != Some(value)
        });
        let written: Vec<_> = written.collect();
        if let (Outcome::Refused { code, .. }, Some(step)) = (&op.op.outcome, written.first()) {
            violations.push(format!(
                "{} was refused with {code} and happened at {} (event {})",
                op.tell(),
                step.revision,
                step.seq
            ));
        }
        let before = greatest[answers.partition_point(|(at, _)| *at < op.call_us)];
        match written.as_slice() {
            [_, second, ..] => {
                violations.push(format!("{} happened twice (event {})", op.tell(), second.seq))
            }
            [step] if step.revision <= before => violations.push(format!(
                "{} happened at {}, but {before} had been answered before it began",
                op.tell(),
                step.revision
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/linearizable";

    type Corruption = fn(&mut Tape);

    /// A create, an update, and a read of the update.
    fn history() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).config_map("a", 10, Some("one"));
        tape.at(1.0).op("create", "a", Some("one"), (0.9, 10));
        tape.at(2.0).config_map("a", 12, Some("two"));
        tape.at(2.0).op("update", "a", Some("two"), (1.9, 12));
        tape
    }

    #[test]
    fn an_order_that_real_time_allows_passes() {
        let mut tape = history();
        tape.at(3.0).read("a", Some("two"), (2.5, 12));
        // This one overlaps with the update: it may still see what was before.
        tape.at(3.1).read("a", Some("one"), (1.5, 10));
        tape.at(4.0).config_map("a", 15, None);
        tape.at(4.0).op("delete", "a", None, (3.9, 0));
        tape.at(5.0).read("a", None, (4.5, 0));
        tape.at(6.0).unknown("create", "a", "three", 5.5);
        tape.at(6.5).config_map("a", 17, Some("three"));
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn corrupted_histories_are_rejected() {
        let stale_read = |tape: &mut Tape| {
            tape.at(3.0).read("a", Some("one"), (2.5, 10));
        };
        let value_that_never_was = |tape: &mut Tape| {
            tape.at(3.0).read("a", Some("six"), (2.5, 12));
        };
        let write_out_of_thin_air = |tape: &mut Tape| {
            tape.at(3.0).op("update", "a", Some("three"), (2.5, 13));
        };
        let shared_revision = |tape: &mut Tape| {
            tape.at(3.0).op("update", "b", Some("three"), (2.5, 12));
        };
        let absent_although_there = |tape: &mut Tape| {
            tape.at(3.0).read("a", None, (2.5, 0));
        };
        let write_before_what_was_answered = |tape: &mut Tape| {
            tape.at(3.0).config_map("b", 11, Some("x"));
            tape.at(3.0).op("create", "b", Some("x"), (2.5, 11));
        };
        let refused_and_done = |tape: &mut Tape| {
            tape.at(3.0).refused("update", "a", "three", (2.5, 409));
            tape.at(3.1).config_map("a", 14, Some("three"));
        };
        let happened_twice = |tape: &mut Tape| {
            tape.at(3.0).unknown("update", "a", "three", 2.5);
            tape.at(3.1).config_map("a", 14, Some("three"));
            tape.at(3.2).config_map("a", 15, Some("four"));
            tape.at(3.3).config_map("a", 16, Some("three"));
        };
        let happened_before_it_began = |tape: &mut Tape| {
            tape.at(3.0).config_map("b", 9, Some("other"));
            tape.at(3.1).config_map("b", 11, Some("y"));
            tape.at(3.2).unknown("update", "b", "y", 2.9);
        };
        let cases: &[(&str, Corruption)] = &[
            ("stale read", stale_read),
            ("value that never was", value_that_never_was),
            ("write out of thin air", write_out_of_thin_air),
            ("shared revision", shared_revision),
            ("absent although there", absent_although_there),
            ("write before what was answered", write_before_what_was_answered),
            ("refused and done", refused_and_done),
            ("happened twice", happened_twice),
            ("happened before it began", happened_before_it_began),
        ];
        for (name, corrupt) in cases {
            let mut tape = history();
            corrupt(&mut tape);
            assert_eq!(tape.at(60.0).verdict(ID), "FAIL", "{name}");
        }
    }

    #[test]
    fn a_witness_that_missed_something_makes_it_invalid() {
        let mut tape = history();
        tape.at(2.5).gap("configmaps");
        tape.at(3.0).op("update", "a", Some("three"), (2.5, 13));
        assert_eq!(tape.at(60.0).verdict(ID), "INVALID");
    }

    #[test]
    fn the_last_write_may_not_have_been_seen_yet() {
        let mut tape = history();
        tape.at(3.0).op("update", "a", Some("three"), (2.5, 13));
        assert_eq!(tape.clone().at(4.0).verdict(ID), "PASS");
        assert_eq!(tape.at(9.0).verdict(ID), "FAIL");
    }
}
