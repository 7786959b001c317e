//! `linearizable`: workload operations happen one at a time, in an order that real time allows.
//!
//! ```yaml
//! invariants: [linearizable]
//! ```
//!
//! Judged by the witness's log, without a search: every acknowledged write is in the log at its
//! revision; every read agrees with the log; an operation that began after another one was answered
//! is placed at no smaller revision (a greater one if it writes); a write without an answer appears
//! at most once, after everything that was answered before it began. A list agrees with the log of its
//! whole namespace. Reads that ask for older states are `stale-reads-bounded`'s. O(n log n).

use super::Invariant;
use crate::finding::Finding;
use crate::history::{Done, History, Op, namespace_of, until};
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "linearizable",
    promise: "operations happen one at a time, in an order that real time allows",
    judge,
};

/// Where an operation may stand in the order of revisions.
enum Places<'h> {
    /// As long as the log says what it says.
    Between(i64, i64),
    /// At one of several deletions.
    OneOf(&'h [i64]),
    /// While there was no object.
    Within(&'h [(i64, i64)]),
}

impl Places<'_> {
    /// The first place that is not before this one.
    fn first_from(&self, least: i64) -> Option<i64> {
        match self {
            Places::Between(from, until) => (*until >= least).then(|| least.max(*from)),
            Places::OneOf(all) => all.get(all.partition_point(|place| *place < least)).copied(),
            Places::Within(all) => all
                .get(all.partition_point(|(_, until)| *until < least))
                .map(|(from, _)| least.max(*from)),
        }
    }

    fn last(&self) -> i64 {
        match self {
            Places::Between(_, until) => *until,
            Places::OneOf(all) => all.last().copied().unwrap_or(0),
            Places::Within(all) => all.last().map_or(0, |(_, until)| *until),
        }
    }
}

fn judge(scene: &Scene<'_>) -> Finding {
    let history = scene.history();
    if history.ops.is_empty() {
        return Finding::nothing("no workload client did anything");
    }
    let (placed, violations) = violations(history);
    let seen = format!("{placed} of {} operations placed", history.ops.len());
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, history.is_blind)
}

/// How many operations have a place in the order, and what contradicts it.
pub fn violations(history: &History<'_>) -> (usize, Vec<String>) {
    let mut violations = Vec::new();
    unique(history, &mut violations);
    let mut placed = Vec::with_capacity(history.ops.len());
    for op in history.ops.iter().filter(|op| op.is_current()) {
        match places(history, op) {
            Ok(Some(places)) => placed.push((op, places)),
            Ok(None) => {}
            Err(violation) => violations.push(violation),
        }
    }
    in_order(&placed, &mut violations);
    unanswered(history, &mut violations);
    (placed.len(), violations)
}

/// No two acknowledged writes share a revision, unless the second one changed nothing.
fn unique(history: &History<'_>, violations: &mut Vec<String>) {
    let mut taken: Vec<(i64, u64, &Op<'_>)> = history
        .ops
        .iter()
        .filter(|op| op.is_write() && op.verb != "delete")
        .filter_map(|op| Some((op.acked()?.0, op.answered.seq, op)))
        .collect();
    taken.sort_unstable_by_key(|(revision, seq, _)| (*revision, *seq));
    for pair in taken.windows(2) {
        let [(revision, _, one), (next, _, other)] = pair else { continue };
        if revision == next && (one.key != other.key || one.value != other.value) {
            violations.push(format!(
                "{} and {} share revision {revision}",
                one.tell(),
                other.tell()
            ));
        }
    }
}

fn places<'h>(history: &'h History<'_>, op: &Op<'_>) -> Result<Option<Places<'h>>, String> {
    let Some((revision, value)) = op.acked() else { return Ok(None) };
    let lost =
        || Err(format!("{} was acknowledged at {revision} and is not in the log", op.tell()));
    match op.verb {
        "get" => read_places(history, op, revision, value),
        "list" => list_places(history, op, revision),
        "delete" => match history.deletions(op.key, revision) {
            [] if history.may_be_late(op, i64::MAX) => Ok(None),
            [] => lost(),
            all => Ok(Some(Places::OneOf(all))),
        },
        _ => match history.step_at(op.key, revision) {
            Some(step) if step.value == op.value => Ok(Some(Places::Between(revision, revision))),
            Some(step) => Err(format!(
                "{} wrote {:?} at {revision}; the log has {:?} (event {})",
                op.tell(),
                op.value,
                step.value,
                step.when.seq
            )),
            None if history.may_be_late(op, revision) => Ok(None),
            None => lost(),
        },
    }
}

/// Of a key that nobody ever saw.
const NEVER_THERE: &[(i64, i64)] = &[(0, i64::MAX)];

fn read_places<'h>(
    history: &'h History<'_>,
    op: &Op<'_>,
    revision: i64,
    value: Option<&str>,
) -> Result<Option<Places<'h>>, String> {
    let Some(value) = value else {
        return Ok(Some(Places::Within(history.absences(op.key).unwrap_or(NEVER_THERE))));
    };
    let steps = history.steps(op.key);
    match until(steps, revision) {
        Some(step) if step.value == Some(value) => {
            let end = history.next_after(op.key, step.revision) - 1;
            Ok(Some(Places::Between(step.revision, end)))
        }
        _ if history.may_be_late(op, revision) => Ok(None),
        step => Err(format!(
            "{} read {value:?} at {revision}; the log has {:?}",
            op.tell(),
            step.and_then(|step| step.value)
        )),
    }
}

/// A list is what the log says of its whole namespace at one revision.
fn list_places<'h>(
    history: &'h History<'_>,
    op: &Op<'_>,
    revision: i64,
) -> Result<Option<Places<'h>>, String> {
    let Some(listed) = op.listed else { return Ok(None) };
    if revision > history.newest {
        return Ok(None);
    }
    let namespace = namespace_of(op.key);
    match history.list_differs(namespace, revision, listed) {
        Some(why) => Err(format!("{} listed {why}", op.tell())),
        None => {
            let end = history.next_in(namespace, revision) - 1;
            Ok(Some(Places::Between(revision, end)))
        }
    }
}

/// Places every operation as early as it may be; fails where none is late enough.
fn in_order(placed: &[(&Op<'_>, Places<'_>)], violations: &mut Vec<String>) {
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
        match places.first_from(reached + i64::from(op.is_write())) {
            Some(place) => earliest[at] = place,
            None => violations.push(format!(
                "{} stands at {}, but began after {} was answered at {reached}",
                op.tell(),
                places.last(),
                by.map_or_else(String::new, Op::tell)
            )),
        }
    }
}

/// A write without an answer happens at most once, and not before what was answered before it
/// began; a refused one never happens. Only of values that nobody else wrote can that be told.
fn unanswered(history: &History<'_>, violations: &mut Vec<String>) {
    let valued = |op: &Op<'_>| op.value.filter(|_| op.is_write()).is_some();
    let mut open: Vec<(&str, &str, &Op<'_>)> = history
        .ops
        .iter()
        .filter(|op| op.acked().is_none() && valued(op))
        .filter_map(|op| Some((op.key, op.value?, op)))
        .collect();
    open.sort_by_key(|(key, value, _)| (*key, *value));
    let place = |key: &str, value: &str| {
        let first = open.partition_point(|(known, of, _)| (*known, *of) < (key, value));
        open.get(first).filter(|(known, of, _)| (*known, *of) == (key, value)).map(|_| first)
    };
    // How often each of these values was to be written, and where it appears in the log.
    let mut times = vec![0_u32; open.len()];
    for op in history.ops.iter().filter(|op| valued(op)) {
        if let Some(at) = op.value.and_then(|value| place(op.key, value)) {
            times[at] += 1;
        }
    }
    let mut written: Vec<Vec<(i64, u64)>> = vec![Vec::new(); open.len()];
    for (key, steps) in history.keys() {
        let mut before = None;
        for step in steps {
            // Changes of other fields keep the value: only where it appears was it written.
            let value = step.value.filter(|_| !step.is_listed && step.value != before);
            if let Some(at) = value.and_then(|value| place(key, value)) {
                written[at].push((step.revision, step.when.seq));
            }
            before = step.value;
        }
    }
    let mut answers: Vec<(i64, i64)> = history
        .ops
        .iter()
        .filter(|op| op.is_current())
        .filter_map(|op| Some((op.answered.at_us, op.acked()?.0)))
        .collect();
    answers.sort_unstable();
    // The greatest revision among the first n answers.
    let mut greatest = Vec::with_capacity(answers.len() + 1);
    greatest.push(0);
    for (_, revision) in &answers {
        greatest.push((*revision).max(*greatest.last().expect("it begins with one")));
    }
    for (at, (_, _, op)) in open.iter().enumerate().filter(|(at, _)| times[*at] == 1) {
        if let (Done::Refused(code), Some((revision, seq))) = (op.done, written[at].first()) {
            violations.push(format!(
                "{} was refused with {code} and happened at {revision} (event {seq})",
                op.tell()
            ));
        }
        let before = greatest[answers.partition_point(|(at, _)| *at < op.call_us)];
        match written[at].as_slice() {
            [_, (_, second), ..] => {
                violations.push(format!("{} happened twice (event {second})", op.tell()));
            }
            [(revision, _)] if *revision <= before => violations.push(format!(
                "{} happened at {revision}, but {before} had been answered before it began",
                op.tell()
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::Reads;

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
        tape.at(3.5).list(Reads::Latest, (3.2, 12), &[("a", 12)]);
        // Who asks for any state may be shown an old one.
        tape.at(3.6).read_as("a", Reads::Any, Some("one"), (3.3, 10));
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
        let list_without_the_update = |tape: &mut Tape| {
            tape.at(3.0).list(Reads::Latest, (2.5, 12), &[("a", 10)]);
        };
        let list_from_before = |tape: &mut Tape| {
            tape.at(3.0).config_map("a", 14, Some("three"));
            tape.at(3.0).op("update", "a", Some("three"), (2.5, 14));
            tape.at(4.0).list(Reads::Latest, (3.5, 12), &[("a", 12)]);
        };
        let cases: &[(&str, Corruption)] = &[
            ("list without the update", list_without_the_update),
            ("list from before", list_from_before),
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
    fn a_list_tells_what_the_log_has_at_its_revision() {
        for (listed, revision, verdict) in [
            (&[("a", 12)][..], 12, "PASS"),
            (&[("a", 12)], 20, "PASS"),
            (&[("a", 10)], 12, "FAIL"),
            (&[("a", 10)], 11, "FAIL"),
            (&[], 12, "FAIL"),
            (&[("a", 12), ("b", 11)], 12, "FAIL"),
        ] {
            let mut tape = history();
            tape.at(2.8).config_map("c", 30, None);
            tape.at(3.0).list(Reads::Latest, (2.5, revision), listed);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{listed:?} at {revision}");
        }
    }

    #[test]
    fn reads_that_allow_an_older_state_are_not_judged_here() {
        let mut tape = history();
        tape.at(3.0).list(Reads::Exact(11), (2.5, 11), &[("a", 10)]);
        tape.at(3.0).list(Reads::Any, (2.5, 11), &[("a", 10)]);
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn a_write_after_a_list_stands_behind_it() {
        let mut tape = history();
        tape.at(3.0).list(Reads::Latest, (2.5, 20), &[("a", 12)]);
        tape.at(3.5).config_map("b", 19, Some("x"));
        tape.at(3.6).op("create", "b", Some("x"), (3.1, 19));
        tape.at(3.7).config_map("c", 30, None);
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
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
