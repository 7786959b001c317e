//! `lease-sanity`: the locks of leaders change hands as Kubernetes' leader election does it.
//!
//! ```yaml
//! invariants: [lease-sanity]
//! ```
//!
//! For the Leases in kube-system: while one holder has it, `renewTime` never goes back and
//! `leaseTransitions` stays; with another holder it grows by one; nobody takes it from a holder before
//! its duration has passed since the last renewal was sent, unless the holder gave it up. What
//! the elected components did not write themselves (somebody steals or deletes a Lease), and Leases
//! under a fault of clocks, are not judged.

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{LEASES, Scene, Seen, seconds, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "lease-sanity",
    promise: "a lease is renewed forwards, changes hands once at a time, and is not taken too early",
    judge,
};

/// Whose writes count.
const COMPONENTS: &str = "system:kube-";

fn judge(scene: &Scene<'_>) -> Finding {
    if ["clock", "skew"].iter().any(|word| scene.had_fault(word)) {
        return Finding::nothing("clocks were changed");
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    // Revisions of Leases that somebody else than a component wrote.
    let mut foreign: Vec<i64> = scene
        .audit
        .iter()
        .filter(|line| line.kind == LEASES && !line.user.starts_with(COMPONENTS))
        .map(|line| line.revision)
        .collect();
    foreign.sort_unstable();
    let is_foreign = |seen: &Seen<'_>| foreign.binary_search(&seen.revision).is_ok();
    let locks: Vec<_> = scene.keys(LEASES).filter(|key| key.starts_with("kube-system/")).collect();
    for lock in locks {
        let states: Vec<_> = scene.changes(LEASES, lock).collect();
        for pair in states.windows(2) {
            let [before, after] = pair else { continue };
            if before.change == shakedown_core::timeline::Change::Deleted
                || after.change == shakedown_core::timeline::Change::Deleted
                || is_foreign(before)
                || is_foreign(after)
                || scene.blind(&[LEASES], before.when.earliest(), after.when.at_us)
            {
                continue;
            }
            judged += 1;
            let told = wrong(before, after);
            violations.extend(told.map(|why| {
                format!("{lock}: {why} (events {}, {})", before.when.seq, after.when.seq)
            }));
        }
    }
    if judged == 0 {
        return Finding::nothing("no lease of a leader was renewed");
    }
    Finding::of(INVARIANT.promise, &violations, format!("{judged} renewals and changes of hands"))
}

fn wrong(before: &Seen<'_>, after: &Seen<'_>) -> Option<String> {
    let holder = |seen: &Seen<'_>| text(seen.object, "/spec/holderIdentity").to_owned();
    let number =
        |seen: &Seen<'_>, name: &str| seen.object["spec"][name].as_i64().unwrap_or_default();
    let (from, to) = (holder(before), holder(after));
    let (had, has) = (number(before, "leaseTransitions"), number(after, "leaseTransitions"));
    if from == to {
        if had != has {
            return Some(format!("{to} kept it and its transitions went from {had} to {has}"));
        }
        let (last, now) =
            (text(before.object, "/spec/renewTime"), text(after.object, "/spec/renewTime"));
        // Times of one form compare as texts.
        let is_back = last.len() == now.len() && now < last;
        return is_back.then(|| format!("{to} renewed it at {now} after {last}"));
    }
    if to.is_empty() {
        return (had != has).then(|| format!("{from} gave it up and counted {had} to {has}"));
    }
    if has != had + 1 {
        return Some(format!("from {from} to {to} its transitions went from {had} to {has}"));
    }
    let lasts = number(before, "leaseDurationSeconds").saturating_mul(1_000_000);
    // The longest time that may have passed: a renewal can be known from when it was sent on, and be
    // seen here long after, where a slow member of etcd is asked.
    let seen = after.when.at_us - before.when.earliest();
    let passed = stamped(before, after).map_or(seen, |stamped| seen.max(stamped));
    (!from.is_empty() && passed < lasts)
        .then(|| format!("{to} took it from {from} {} after its renewal", seconds(passed)))
}

/// Microseconds from one renewal to the other, as those who made them say.
fn stamped(before: &Seen<'_>, after: &Seen<'_>) -> Option<i64> {
    let stamp =
        |seen: &Seen<'_>| text(seen.object, "/spec/renewTime").parse::<jiff::Timestamp>().ok();
    Some(stamp(after)?.as_microsecond() - stamp(before)?.as_microsecond())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/lease-sanity";

    /// Holder, transitions, renewed at a second of the minute, seen at.
    type State = (&'static str, i64, u32, f64);

    fn tape(states: &[State]) -> Tape {
        let mut tape = Tape::new(kill());
        for (holder, transitions, renewed, at) in states {
            tape.at(*at).thing(
                "leases.coordination.k8s.io",
                json!({
                    "metadata": {"namespace": "kube-system", "name": "kube-scheduler"},
                    "spec": {"holderIdentity": holder, "leaseTransitions": transitions,
                        "leaseDurationSeconds": 15,
                        "renewTime": format!("2026-01-01T00:00:{renewed:02}.000000Z")},
                }),
            );
        }
        tape
    }

    #[test]
    fn renewals_and_a_change_of_hands_after_expiry_pass() {
        let states = [
            ("a", 0, 1, 1.0),
            ("a", 0, 3, 3.0),
            ("b", 1, 19, 19.0),
            ("", 1, 20, 20.0),
            ("c", 2, 21, 21.0),
            // Seen late, by a slow member of etcd: whoever took it over had seen it in time.
            ("c", 2, 25, 27.0),
            ("d", 3, 41, 41.0),
        ];
        assert_eq!(tape(&states).at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn each_clause_rejects() {
        for (name, second) in [
            ("renewed backwards", ("a", 0, 0, 3.0)),
            ("counted without a change", ("a", 1, 3, 3.0)),
            ("changed without a count", ("b", 0, 19, 19.0)),
            ("counted twice", ("b", 2, 19, 19.0)),
            ("taken too early", ("b", 1, 9, 9.0)),
            ("taken too early, and seen late", ("b", 1, 15, 15.9)),
            ("given up and counted", ("", 1, 3, 3.0)),
        ] {
            assert_eq!(tape(&[("a", 0, 1, 1.0), second]).at(60.0).verdict(ID), "FAIL", "{name}");
        }
    }

    #[test]
    fn what_others_write_and_what_was_not_seen_is_not_judged() {
        let mut tape = tape(&[("a", 0, 1, 1.0), ("nobody", 1000, 1, 3.0)]);
        let key = ("leases.coordination.k8s.io", "kube-system/kube-scheduler");
        let revision = tape.revision();
        tape.audit("shakedown", "patch", key, revision, "");
        assert_eq!(tape.at(60.0).checks_with(ID), 0);
        let mut blind = super::tests::tape(&[("a", 0, 1, 1.0)]);
        blind.at(2.0).gap("leases.coordination.k8s.io");
        assert_eq!(blind.at(60.0).checks_with(ID), 0);
    }
}
