//! `members-equal`: at the end every etcd member holds the same.
//!
//! ```yaml
//! invariants: [members-equal]
//! ```
//!
//! The hashes that the runner takes of every member when nothing is broken any more are equal wherever
//! revision and compacted revision are. Members of which no two can be compared are INVALID.

use std::collections::BTreeMap;

use shakedown_core::timeline::What;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "members-equal",
    promise: "at one revision every etcd member holds the same",
    judge,
};

/// Each node's hash, and the event that tells it.
type Hashes<'a> = BTreeMap<&'a str, (u64, u64)>;

fn judge(scene: &Scene<'_>) -> Finding {
    // By revision and compacted revision.
    let mut seen: BTreeMap<(i64, i64), Hashes<'_>> = BTreeMap::new();
    let mut violations = Vec::new();
    for event in scene.own() {
        let What::StoreHash { node, hash, revision, compacted } = &event.what else { continue };
        let at = seen.entry((*revision, *compacted)).or_default();
        if let Some((other, (known, seq))) = at.iter().find(|(_, (known, _))| known != hash) {
            violations.push(format!(
                "at {revision} {other} has the hash {known:x} and {node} {hash:x} (events {seq}, {})",
                event.seq
            ));
        }
        at.insert(node, (*hash, event.seq));
    }
    if seen.is_empty() {
        return Finding::nothing("no store was hashed");
    }
    let compared = seen.values().map(BTreeMap::len).max().unwrap_or(0);
    if compared < 2 && scene.plan.cluster.control_planes > 1 {
        return Finding::unseen("no two members were hashed at the same revision");
    }
    Finding::of(INVARIANT.promise, &violations, format!("{compared} members with one hash"))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/members-equal";

    #[test]
    fn equal_hashes_pass_and_others_fail() {
        for (hashes, verdict) in [
            (&[("cp-1", 5, 9), ("cp-2", 5, 9), ("cp-3", 5, 9)][..], "PASS"),
            (&[("cp-1", 5, 9), ("cp-2", 6, 9), ("cp-3", 5, 9)][..], "FAIL"),
            (&[("cp-1", 5, 9), ("cp-2", 6, 8), ("cp-2", 5, 9)][..], "PASS"),
            (&[("cp-1", 5, 9), ("cp-2", 6, 8)][..], "INVALID"),
        ] {
            let mut tape = Tape::new(kill());
            for (node, hash, revision) in hashes {
                tape.at(50.0).hash(node, *hash, *revision);
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{hashes:?}");
        }
        assert_eq!(Tape::new(kill()).at(60.0).checks_with(ID), 0);
    }
}
