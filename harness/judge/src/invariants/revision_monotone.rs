//! `revision-monotone`: the store's revision never goes back, whatever happens to its members.
//!
//! ```yaml
//! invariants: [revision-monotone]
//! ```
//!
//! Per etcd member: its applied revision never decreases from one sample to the next. A member that was
//! replaced comes back with another id and counts as another one. Over all answers: a write that began
//! after a revision had been answered happens at a greater one, and a list of the newest state that
//! began after it is at no smaller one.

use std::collections::BTreeMap;

use shakedown_core::timeline::What;

use super::Invariant;
use crate::finding::Finding;
use crate::history::Op;
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant =
    Invariant { name: "revision-monotone", promise: "the store's revision never goes back", judge };

fn judge(scene: &Scene<'_>) -> Finding {
    let mut violations = Vec::new();
    let mut samples = 0;
    let mut reached: BTreeMap<u64, (i64, u64)> = BTreeMap::new();
    for event in scene.own() {
        let What::EtcdMember { node, member, revision, .. } = &event.what else { continue };
        // A member that has not applied anything yet has no revision to go back from.
        if *revision == 0 {
            continue;
        }
        samples += 1;
        let last = reached.entry(*member).or_insert((*revision, event.seq));
        if *revision < last.0 {
            violations.push(format!(
                "the member {member:x} on {node} went from {} back to {revision} (events {}, {})",
                last.0, last.1, event.seq
            ));
        }
        if *revision >= last.0 {
            *last = (*revision, event.seq);
        }
    }
    let answers = answered(scene, &mut violations);
    if samples + answers == 0 {
        return Finding::nothing("no revision was seen");
    }
    let seen = format!("{samples} samples of members and {answers} answers, none went back");
    Finding::of(INVARIANT.promise, &violations, seen)
}

/// Revisions that clients were told, in the order of time.
fn answered(scene: &Scene<'_>, violations: &mut Vec<String>) -> usize {
    let ops = &scene.history().ops;
    // A get tells the object's revision and a delete need not tell its own: they say when at least.
    let tells = |op: &&Op<'_>| op.is_current() && (op.is_write() || op.verb == "list");
    let mut moments: Vec<(i64, bool, usize)> = Vec::new();
    for (at, op) in ops.iter().enumerate().filter(|(_, op)| op.is_current() && op.acked().is_some())
    {
        moments.push((op.answered.at_us, true, at));
        if tells(&op) && op.verb != "delete" {
            moments.push((op.call_us, false, at));
        }
    }
    moments.sort_unstable();
    let mut least = vec![(0, None); ops.len()];
    let mut newest: (i64, Option<u64>) = (0, None);
    let mut judged = 0;
    for (_, is_answer, at) in moments {
        let op = &ops[at];
        let Some((revision, _)) = op.acked() else { continue };
        if !is_answer {
            least[at] = newest;
            continue;
        }
        if revision > newest.0 {
            newest = (revision, Some(op.answered.seq));
        }
        if !tells(&op) || op.verb == "delete" {
            continue;
        }
        judged += 1;
        let (before, seq) = least[at];
        let is_back = if op.is_write() { revision <= before } else { revision < before };
        // A write that changes nothing is answered with the revision that the object had.
        let is_idle = op.is_write()
            && scene
                .history()
                .step_at(op.key, revision)
                .is_none_or(|step| step.value != op.value || step.when.at_us < op.call_us);
        if is_back && !is_idle {
            violations.push(format!(
                "{} was answered {revision} after {before} had been answered (event {})",
                op.tell(),
                seq.unwrap_or_default()
            ));
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::Reads;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/revision-monotone";

    #[test]
    fn a_member_never_goes_back_and_a_new_one_begins_anew() {
        for (samples, verdict) in [
            (&[("cp-1", 1, 10), ("cp-2", 2, 8), ("cp-1", 1, 10), ("cp-2", 2, 11)][..], "PASS"),
            (&[("cp-1", 1, 10), ("cp-1", 1, 9)][..], "FAIL"),
            (&[("cp-1", 1, 10), ("cp-1", 4, 2), ("cp-1", 4, 10)][..], "PASS"),
            (&[("cp-1", 1, 10), ("cp-1", 1, 0), ("cp-1", 1, 9)][..], "FAIL"),
        ] {
            let mut tape = Tape::new(kill());
            for (node, member, revision) in samples {
                tape.at(1.0).etcd_at(node, *member, *revision);
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{samples:?}");
        }
    }

    fn history() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).config_map("a", 20, Some("one"));
        tape.at(1.0).op("create", "a", Some("one"), (0.5, 20));
        tape
    }

    #[test]
    fn answers_never_go_back() {
        for (call, revision, verdict) in
            [(1.5, 21, "PASS"), (1.5, 19, "FAIL"), (0.9, 19, "PASS"), (1.5, 20, "FAIL")]
        {
            let mut tape = history();
            tape.at(2.0).config_map("b", revision, Some("two"));
            tape.at(2.0).op("create", "b", Some("two"), (call, revision));
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "write {call} {revision}");
        }
        for (call, revision, verdict) in [(1.5, 20, "PASS"), (1.5, 19, "FAIL"), (0.9, 19, "PASS")] {
            let mut tape = history();
            tape.at(2.0).list(Reads::Latest, (call, revision), &[]);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "list {call} {revision}");
        }
    }
}
