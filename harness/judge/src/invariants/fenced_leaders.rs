//! `fenced-leaders`: a leader's write happens only while that leader holds its lease.
//!
//! ```yaml
//! invariants: [fenced-leaders]
//! ```
//!
//! For each acknowledged write that carried a fence, the lease as it was just before the write's
//! revision has the holder and the number of transitions that the fence names. None may be otherwise.

use std::collections::BTreeMap;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{LEASES, Scene, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "fenced-leaders",
    promise: "a leader's write happens only while that leader holds its lease",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    // Holder and transitions of each lock, in order of revision.
    let mut held: BTreeMap<&str, Vec<(i64, &str, i64)>> = BTreeMap::new();
    for seen in scene.of_kind(LEASES) {
        if let Some(lock) = seen.key.strip_prefix("kube-system/") {
            let holder = text(seen.object, "/spec/holderIdentity");
            let transitions = seen.object["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
            held.entry(lock).or_default().push((seen.revision, holder, transitions));
        }
    }
    for states in held.values_mut() {
        states.sort_by_key(|(revision, ..)| *revision);
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    let acked = |code: u16| (200..300).contains(&code);
    for line in &scene.audit {
        if !acked(line.code) || line.revision == 0 || line.fence.is_empty() {
            continue;
        }
        let Some((lock, holder, transitions)) = parse(line.fence) else {
            violations.push(format!(
                "the fence `{}` cannot be read (event {})",
                line.fence, line.when.seq
            ));
            continue;
        };
        let states = held.get(lock).map_or(&[][..], Vec::as_slice);
        let before = states.partition_point(|(revision, ..)| *revision < line.revision);
        // Before the first state of the lease nobody can tell who held it.
        let Some((since, by, times)) = before.checked_sub(1).map(|at| states[at]) else { continue };
        judged += 1;
        if (by, times) != (holder, transitions) {
            violations.push(format!(
                "{} of {} {} by {holder} (term {transitions}) at revision {}, while {} held {lock} \
                 (term {times}) since revision {since} (event {})",
                line.verb,
                line.kind,
                line.key,
                line.revision,
                if by.is_empty() { "nobody" } else { by },
                line.when.seq
            ));
        }
    }
    if judged == 0 && violations.is_empty() {
        return Finding::nothing("no fenced write was seen");
    }
    let is_blind = scene.gaps.iter().any(|(_, kind)| *kind == LEASES);
    let seen = format!("{judged} fenced writes");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// `<lock>/<holder>/<transitions>`; a holder may have slashes.
fn parse(fence: &str) -> Option<(&str, &str, i64)> {
    let (lock, rest) = fence.split_once('/')?;
    let (holder, transitions) = rest.rsplit_once('/')?;
    Some((lock, holder, transitions.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/fenced-leaders";

    fn write_at(revision: i64, fence: &str) -> String {
        let mut tape = Tape::new(kill());
        tape.at(1.0).lease("kube-scheduler", "cp-1_x", 0, 10);
        tape.at(2.0).lease("kube-scheduler", "cp-1_x", 0, 15);
        tape.at(3.0).lease("kube-scheduler", "cp-2_y", 1, 20);
        tape.audit("system:kube-scheduler", "create", ("pods", "shop/a/binding"), revision, fence);
        tape.at(60.0).verdict(ID)
    }

    #[test]
    fn only_the_holder_may_write() {
        for (revision, fence, verdict) in [
            (12, "kube-scheduler/cp-1_x/0", "PASS"),
            (19, "kube-scheduler/cp-1_x/0", "PASS"),
            (21, "kube-scheduler/cp-1_x/0", "FAIL"),
            (21, "kube-scheduler/cp-2_y/1", "PASS"),
            (19, "kube-scheduler/cp-2_y/1", "FAIL"),
            (21, "kube-scheduler/cp-2_y/2", "FAIL"),
            (21, "nonsense", "FAIL"),
        ] {
            assert_eq!(write_at(revision, fence), verdict, "{revision} {fence}");
        }
    }
}
