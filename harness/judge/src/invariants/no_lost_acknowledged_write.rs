//! `no-lost-acknowledged-write`: what was acknowledged is kept until something newer replaces it.
//!
//! ```yaml
//! invariants: [no-lost-acknowledged-write]
//! ```
//!
//! For each acknowledged write: the witness saw it at its revision, and the last state that the
//! witness knows of the object is the newest acknowledged one or a newer one. Any later read with
//! no change in between returns it.

use std::collections::BTreeMap;

use super::Invariant;
use crate::finding::Finding;
use crate::history::Op;
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "no-lost-acknowledged-write",
    promise: "what was acknowledged is kept until something newer replaces it",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let history = scene.history();
    let mut violations = Vec::new();
    let mut acked = 0;
    // The newest acknowledged write of each key among those answered so far.
    let mut newest: BTreeMap<&str, (i64, &Op<'_>)> = BTreeMap::new();
    let mut reads = Vec::new();
    // When the first deletion of each key was asked for.
    let mut first_deletion: BTreeMap<&str, i64> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.verb == "delete") {
        let first = first_deletion.entry(op.key).or_insert(op.call_us);
        *first = (*first).min(op.call_us);
    }
    for op in history.ops.iter().filter(|op| op.is_current()) {
        let Some((revision, value)) = op.acked() else { continue };
        let key = op.key;
        if op.verb == "list" {
            continue;
        }
        if !op.is_write() {
            reads.push((op, revision, value));
            continue;
        }
        acked += 1;
        if op.verb == "delete" {
            let done = !history.deletions(key, revision).is_empty();
            if !done && !history.may_be_late(op, i64::MAX) {
                violations.push(format!("{} was acknowledged and not done", op.tell()));
            }
            continue;
        }
        let kept = history.step_at(key, revision).is_some_and(|step| step.value == op.value);
        if !kept && !history.may_be_late(op, revision) {
            violations.push(format!("{} was acknowledged at {revision} and lost", op.tell()));
        }
        if newest.get(key).is_none_or(|(known, _)| *known < revision) {
            newest.insert(key, (revision, op));
        }
    }
    if acked == 0 {
        return Finding::nothing("no write of a workload client was acknowledged");
    }
    for (read, revision, value) in reads {
        let Some((written, op)) = newest.get(read.key) else { continue };
        let follows = read.call_us > op.answered.at_us;
        let replaced = history.next_after(read.key, *written) != i64::MAX;
        let expected = op.value;
        // A deletion may be so late that the witness has not seen it.
        let deleted = value.is_none()
            && first_deletion.get(read.key).is_some_and(|call_us| *call_us < read.answered.at_us);
        if follows && !replaced && !deleted && value != expected && revision <= history.newest {
            violations.push(format!(
                "{} read {value:?} at {revision} after {} had been acknowledged at {written}",
                read.tell(),
                op.tell()
            ));
        }
    }
    let seen = format!("{acked} acknowledged writes, each kept");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, history.is_blind)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/no-lost-acknowledged-write";

    fn history() -> Tape {
        let mut tape = Tape::new(kill());
        for (at, value) in [(1, "one"), (2, "two"), (3, "three")] {
            let time = f64::from(at);
            tape.at(time).config_map("a", i64::from(10 + at), Some(value));
            let verb = if at == 1 { "create" } else { "update" };
            tape.at(time).op(verb, "a", Some(value), (time - 0.1, i64::from(10 + at)));
        }
        tape.at(4.0).read("a", Some("three"), (3.5, 13));
        tape
    }

    #[test]
    fn what_is_kept_passes() {
        assert_eq!(history().at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn a_write_that_the_witness_never_saw_is_lost() {
        let mut tape = history();
        tape.at(5.0).op("update", "a", Some("four"), (4.5, 14));
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn a_read_that_goes_back_is_a_loss() {
        let mut tape = history();
        tape.at(5.0).read("a", Some("two"), (4.5, 12));
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
    }
}
