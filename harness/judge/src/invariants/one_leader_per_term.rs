//! `one-leader-per-term`: in each raft term all etcd members that know a leader know the same one.
//!
//! ```yaml
//! invariants: [one-leader-per-term]
//! ```
//!
//! A member's own term never goes back.

use std::collections::BTreeMap;

use shakedown_core::timeline::What;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "one-leader-per-term",
    promise: "in each raft term there is at most one leader",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let mut leaders: BTreeMap<u64, (u64, &str, u64)> = BTreeMap::new();
    let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
    let mut violations = Vec::new();
    let mut samples = 0;
    for event in scene.own() {
        let What::EtcdMember { node, member, leader, term, .. } = &event.what else { continue };
        samples += 1;
        let newest = terms.entry(*member).or_default();
        if term < newest {
            violations.push(format!(
                "the member on {node} went from term {newest} back to {term} (event {})",
                event.seq
            ));
        }
        *newest = (*newest).max(*term);
        if *leader == 0 {
            continue;
        }
        let (known, by, seq) = *leaders.entry(*term).or_insert((*leader, node, event.seq));
        if known != *leader {
            violations.push(format!(
                "in term {term} {by} follows {known:x} and {node} follows {leader:x} (events {seq}, {})",
                event.seq
            ));
        }
    }
    if samples == 0 {
        return Finding::nothing("no etcd member was asked");
    }
    let seen = format!("{} terms with a leader, from {samples} answers of members", leaders.len());
    Finding::of(INVARIANT.promise, &violations, seen)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/one-leader-per-term";

    fn members(samples: &[(u64, u64, u64)]) -> String {
        let mut tape = Tape::new(kill());
        for (member, leader, term) in samples {
            tape.etcd(*member, *leader, *term);
        }
        tape.at(60.0).verdict(ID)
    }

    #[test]
    fn two_leaders_in_one_term_and_terms_that_go_back_are_rejected() {
        assert_eq!(members(&[(1, 1, 2), (2, 1, 2), (3, 0, 3), (2, 2, 3), (3, 2, 3)]), "PASS");
        assert_eq!(members(&[(1, 1, 2), (2, 2, 2)]), "FAIL");
        assert_eq!(members(&[(1, 1, 3), (1, 1, 2)]), "FAIL");
    }
}
