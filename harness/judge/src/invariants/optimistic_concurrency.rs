//! `optimistic-concurrency`: a write that names the resourceVersion it builds on succeeds only if
//! that was the object's latest one; a create succeeds only if there was no object.
//!
//! ```yaml
//! invariants: [optimistic-concurrency]
//! ```
//!
//! A refused write (409) leaves the object as it was.

use std::collections::BTreeMap;

use super::Invariant;
use crate::finding::Finding;
use crate::history::{Done, History, Op};
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "optimistic-concurrency",
    promise: "a write that names a resourceVersion succeeds only on that version",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let history = scene.history();
    // How often each value was to be written.
    let mut times: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.is_write()) {
        if let Some(value) = op.value {
            *times.entry((op.key, value)).or_default() += 1;
        }
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    for op in history.ops.iter().filter(|op| op.is_write()) {
        if op.done == Done::Refused(409) {
            judged += 1;
            let own = op.value.filter(|value| times.get(&(op.key, value)) == Some(&1));
            violations.extend(own.and_then(|value| done_although_refused(history, op, value)));
        } else if let Some(violation) = violated(history, op, &mut judged) {
            violations.push(violation);
        }
    }
    if judged == 0 {
        return Finding::nothing("no workload client wrote on condition");
    }
    let seen = format!("{judged} conditional writes");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, history.is_blind)
}

/// What was refused must not be found, if nobody else wrote the same.
fn done_although_refused(history: &History<'_>, op: &Op<'_>, value: &str) -> Option<String> {
    let done = history.steps(op.key).iter().find(|step| step.value == Some(value))?;
    Some(format!("{} was refused, yet it was done (event {})", op.tell(), done.when.seq))
}

fn violated(history: &History<'_>, op: &Op<'_>, judged: &mut usize) -> Option<String> {
    let key = op.key;
    let (revision, _) = op.acked()?;
    if op.verb == "delete" {
        let expected = op.expected?;
        let latest: Vec<_> = history
            .deletions(key, revision)
            .iter()
            .filter_map(|deleted| Some(history.step_until(key, deleted - 1)?.revision))
            .collect();
        if latest.is_empty() {
            return None;
        }
        *judged += 1;
        return (!latest.contains(&expected))
            .then(|| format!("{} expected {expected} and succeeded on {latest:?}", op.tell()));
    }
    let step = history.step_at(key, revision)?;
    if step.is_listed {
        return None;
    }
    let before = history.step_until(key, revision - 1);
    match (op.verb, op.expected) {
        ("create", _) => {
            *judged += 1;
            let there = before.filter(|before| before.value.is_some())?;
            Some(format!("{} succeeded on an object of revision {}", op.tell(), there.revision))
        }
        (_, Some(expected)) => {
            *judged += 1;
            let latest = before.map_or(0, |before| before.revision);
            (latest != expected)
                .then(|| format!("{} expected {expected} and succeeded on {latest}", op.tell()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/optimistic-concurrency";

    fn history(expected: i64) -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(0.5).config_map("a", 9, None);
        tape.at(1.0).config_map("a", 10, Some("one"));
        tape.at(1.0).op("create", "a", Some("one"), (0.9, 10));
        tape.at(2.0).config_map("a", 12, Some("two"));
        tape.at(2.0).op_on("update", "a", Some("two"), (1.9, 12), expected);
        tape
    }

    #[test]
    fn a_write_on_the_latest_version_passes_and_on_an_older_one_fails() {
        assert_eq!(history(10).at(60.0).verdict(ID), "PASS");
        assert_eq!(history(9).at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn a_create_over_an_object_fails() {
        let mut tape = history(10);
        tape.at(3.0).config_map("a", 14, Some("three"));
        tape.at(3.0).op("create", "a", Some("three"), (2.9, 14));
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn a_deletion_counts_whether_or_not_its_revision_is_told() {
        for (told, expected, verdict) in
            [(0, 12, "PASS"), (12, 12, "PASS"), (14, 12, "PASS"), (0, 10, "FAIL"), (14, 10, "FAIL")]
        {
            let mut tape = history(10);
            tape.at(3.0).config_map("a", 14, None);
            tape.at(3.0).op_on("delete", "a", None, (2.9, told), expected);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{told} {expected}");
        }
    }

    #[test]
    fn a_refused_write_must_not_happen() {
        let mut tape = history(10);
        tape.at(3.0).refused("update", "a", "three", (2.9, 409));
        assert_eq!(tape.clone().at(60.0).verdict(ID), "PASS");
        tape.at(3.1).config_map("a", 14, Some("three"));
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
    }
}
