//! `stale-reads-bounded`: a read that allows an older state is answered with a state that was, and not
//! with an older one than it allows.
//!
//! ```yaml
//! invariants: [stale-reads-bounded]
//! ```
//!
//! `NotOlderThan` v: the answer's revision is at least v (of a single object: what the log had of it at
//! v or later). `Exact` v: the answer is the state at v, or 410. `Any`: the answer is some state that
//! was. Lists that one client gets from one server never go back in time.

use std::collections::BTreeMap;

use shakedown_core::timeline::Reads;

use super::Invariant;
use crate::finding::Finding;
use crate::history::{History, Op, namespace_of};
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "stale-reads-bounded",
    promise: "a stale read shows a state that was, not older than was asked for, and never goes back",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let history = scene.history();
    let mut violations = Vec::new();
    let mut judged = 0;
    // The newest list of each client and server, when it was answered, and by which event.
    let mut newest: BTreeMap<(u32, &str), (i64, i64, u64)> = BTreeMap::new();
    let stale = history.ops.iter().filter(|op| !op.is_current());
    for op in stale {
        let Some((revision, value)) = op.acked() else { continue };
        judged += 1;
        if op.verb == "list" {
            violations.extend(list_wrong(history, op, revision));
            let last = newest.entry((op.client, op.server)).or_insert((0, i64::MIN, 0));
            if op.call_us >= last.1 && revision < last.0 && !matches!(op.reads, Reads::Exact(_)) {
                violations.push(format!(
                    "{} was shown {revision} by {} after {} (event {})",
                    op.tell(),
                    op.server,
                    last.0,
                    last.2
                ));
            }
            if revision > last.0 && !matches!(op.reads, Reads::Exact(_)) {
                *last = (revision, op.answered.at_us, op.answered.seq);
            }
        } else {
            violations.extend(get_wrong(history, op, revision, value));
        }
    }
    if judged == 0 {
        return Finding::nothing("no workload client asked for an older state");
    }
    let seen = format!("{judged} stale reads, each a state that was");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, history.is_blind)
}

fn list_wrong(history: &History<'_>, op: &Op<'_>, revision: i64) -> Option<String> {
    match op.reads {
        Reads::NotOlderThan(least) if revision < least => {
            return Some(format!("{} wanted {least} and was shown {revision}", op.tell()));
        }
        Reads::Exact(exact) if revision != exact => {
            return Some(format!("{} wanted exactly {exact} and was shown {revision}", op.tell()));
        }
        _ => {}
    }
    let differs = history.list_differs(namespace_of(op.key), revision, op.listed?)?;
    Some(format!("{} listed {differs}", op.tell()))
}

fn get_wrong(
    history: &History<'_>,
    op: &Op<'_>,
    revision: i64,
    value: Option<&str>,
) -> Option<String> {
    let bound = match op.reads {
        Reads::NotOlderThan(least) => least,
        Reads::Exact(exact) => exact,
        Reads::Any | Reads::Latest => 0,
    };
    let Some(value) = value else {
        // That there is nothing must have been so at a revision that is allowed.
        let absences = history.absences(op.key)?;
        let was = absences.iter().any(|(from, until)| match op.reads {
            Reads::Exact(exact) => *from <= exact && exact <= *until,
            _ => *until >= bound,
        });
        return (!was)
            .then(|| format!("{} found nothing, which never was so since {bound}", op.tell()));
    };
    if revision > history.newest {
        return None;
    }
    let Some(step) = history.step_at(op.key, revision) else {
        let known = history.steps(op.key).first().is_some_and(|first| first.is_listed);
        return (!known || history.step_until(op.key, revision).is_some())
            .then(|| format!("{} read a version {revision} that never was", op.tell()));
    };
    if step.value != Some(value) {
        return Some(format!(
            "{} read {value:?} at {revision}; the log has {:?} (event {})",
            op.tell(),
            step.value,
            step.when.seq
        ));
    }
    let replaced = history.next_after(op.key, revision);
    let is_too_old = replaced <= bound;
    let is_too_new = matches!(op.reads, Reads::Exact(exact) if revision > exact);
    (is_too_old || is_too_new).then(|| {
        format!("{} wanted {:?} and was shown the version of {revision}", op.tell(), op.reads)
    })
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::Reads::{self, Any, Exact, NotOlderThan};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/stale-reads-bounded";

    /// The log has a at 10, 12 and 14, b from 11 until it is deleted at 13.
    fn log() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).config_map("a", 10, Some("one"));
        tape.at(1.1).config_map("b", 11, Some("bee"));
        tape.at(1.2).config_map("a", 12, Some("two"));
        tape.at(1.3).config_map("b", 13, None);
        tape.at(1.4).config_map("a", 14, Some("three"));
        tape
    }

    fn get(reads: Reads, name: &str, value: Option<&str>, revision: i64) -> String {
        let mut tape = log();
        tape.at(3.0).read_as(name, reads, value, (2.0, revision));
        tape.at(60.0).verdict(ID)
    }

    #[test]
    fn a_get_shows_a_state_that_is_new_enough() {
        for (reads, name, value, revision, verdict) in [
            (Any, "a", Some("one"), 10, "PASS"),
            (Any, "a", Some("six"), 10, "FAIL"),
            (Any, "a", Some("one"), 11, "FAIL"),
            (Any, "b", None, 0, "PASS"),
            (NotOlderThan(11), "a", Some("one"), 10, "PASS"),
            (NotOlderThan(12), "a", Some("one"), 10, "FAIL"),
            (NotOlderThan(12), "a", Some("three"), 14, "PASS"),
            (Exact(13), "a", Some("two"), 12, "PASS"),
            (Exact(13), "a", Some("three"), 14, "FAIL"),
            (Exact(12), "b", None, 0, "FAIL"),
            (Exact(13), "b", None, 0, "PASS"),
        ] {
            assert_eq!(get(reads, name, value, revision), verdict, "{reads:?} {name} {value:?}");
        }
    }

    #[test]
    fn a_list_shows_the_state_of_one_revision() {
        for (reads, revision, listed, verdict) in [
            (Any, 12, &[("a", 12), ("b", 11)][..], "PASS"),
            (Any, 13, &[("a", 12), ("b", 11)][..], "FAIL"),
            (NotOlderThan(13), 12, &[("a", 12), ("b", 11)][..], "FAIL"),
            (NotOlderThan(12), 13, &[("a", 12)][..], "PASS"),
            (Exact(12), 13, &[("a", 12)][..], "FAIL"),
            (Exact(13), 13, &[("a", 12)][..], "PASS"),
        ] {
            let mut tape = log();
            tape.at(3.0).list(reads, (2.0, revision), listed);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{reads:?} {listed:?}");
        }
    }

    #[test]
    fn lists_of_one_server_never_go_back() {
        for (server, call, verdict) in
            [("cp-1", 3.5, "FAIL"), ("cp-2", 3.5, "PASS"), ("cp-1", 2.5, "PASS")]
        {
            let mut tape = log();
            tape.at(3.0).list(Any, (2.0, 14), &[("a", 14)]);
            tape.at(4.0).list(Any, (call, 12), &[("a", 12), ("b", 11)]);
            tape.change_op(|op| op.server = server.to_owned());
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{server} {call}");
        }
    }

    #[test]
    fn without_stale_reads_or_with_a_blind_witness_there_is_no_pass() {
        assert_eq!(log().at(60.0).checks_with(ID), 0);
        let mut tape = log();
        tape.gap("configmaps");
        tape.at(3.0).read_as("a", Any, Some("six"), (2.0, 10));
        assert_eq!(tape.at(60.0).verdict(ID), "INVALID");
    }
}
