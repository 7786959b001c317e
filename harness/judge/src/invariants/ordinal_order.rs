//! `ordinal-order`: pods of a StatefulSet come in order, go in reverse, and keep their claims.
//!
//! ```yaml
//! invariants: [ordinal-order]
//! ```
//!
//! With `OrderedReady` (the default): when the pod of an ordinal is created, all lower ones are there and
//! Ready, at that revision; a pod that goes because there are to be fewer is the highest one. The
//! PersistentVolumeClaim of an ordinal keeps its uid while the set is there. A set that was not seen
//! itself is not judged.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{PODS, Scene, Seen, condition, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "ordinal-order",
    promise: "pods of a StatefulSet come in order, go in reverse, and keep their claims",
    judge,
};

const STATEFUL_SETS: &str = "statefulsets.apps";
const CLAIMS: &str = "persistentvolumeclaims";

fn judge(scene: &Scene<'_>) -> Finding {
    let sets: Vec<&str> = scene.keys(STATEFUL_SETS).collect();
    if sets.is_empty() {
        return Finding::nothing("no StatefulSet was seen");
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    // The pods of each set that are there, by ordinal.
    let mut there: BTreeMap<(String, i64), &Seen<'_>> = BTreeMap::new();
    for seen in scene.of_kind(PODS) {
        let Some((set, ordinal)) = place(seen) else { continue };
        let Some(owner) = scene.object_at_revision(STATEFUL_SETS, &set, seen.revision) else {
            continue;
        };
        let at = (set.clone(), ordinal);
        let before = there.get(&at).copied();
        let is_ordered = owner.object["spec"]["podManagementPolicy"] != "Parallel";
        let is_new = before.is_none() && seen.change != Change::Deleted && !seen.is_listed;
        if is_new {
            judged += 1;
        }
        if is_new && is_ordered {
            let start = owner.object.pointer("/spec/ordinals/start").and_then(Value::as_i64);
            let missing = (start.unwrap_or(0)..ordinal).find(|lower| {
                let lower = there.get(&(set.clone(), *lower));
                lower.is_none_or(|pod| condition(pod.object, "Ready") != "True" || is_going(pod))
            });
            violations.extend(missing.map(|lower| {
                format!(
                    "{} was created while {lower} was not Ready (event {})",
                    seen.key, seen.when.seq
                )
            }));
        }
        let goes_now = is_going(seen) && before.is_some_and(|before| !is_going(before));
        let wanted = owner.object["spec"]["replicas"].as_i64().unwrap_or(1);
        if goes_now && is_ordered && ordinal >= wanted && !is_going(owner) {
            judged += 1;
            let higher = there
                .range((set.clone(), ordinal + 1)..)
                .take_while(|((of, _), _)| *of == set)
                .find(|(_, pod)| !is_going(pod));
            violations.extend(higher.map(|(_, pod)| {
                format!("{} went before {} (event {})", seen.key, pod.key, seen.when.seq)
            }));
        }
        match seen.change {
            Change::Deleted => there.remove(&at),
            _ => there.insert(at, seen),
        };
    }
    claims(scene, &sets, &mut violations, &mut judged);
    if judged == 0 {
        return Finding::nothing("no StatefulSet created or deleted a pod");
    }
    let is_blind = scene.gaps.iter().any(|(_, kind)| [PODS, STATEFUL_SETS, CLAIMS].contains(kind));
    let seen = format!("{judged} comings and goings in order");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// Key of the StatefulSet that owns a pod, and its ordinal.
fn place(pod: &Seen<'_>) -> Option<(String, i64)> {
    let owners = pod.object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["kind"] == "StatefulSet")?;
    let ordinal = pod.key.rsplit_once('-')?.1.parse().ok()?;
    let namespace = text(pod.object, "/metadata/namespace");
    Some((format!("{namespace}/{}", owner["name"].as_str()?), ordinal))
}

fn is_going(seen: &Seen<'_>) -> bool {
    seen.change == Change::Deleted || seen.object["metadata"]["deletionTimestamp"].is_string()
}

/// `<template>-<set>-<ordinal>` stays the same claim, unless the set says that claims go.
fn claims(scene: &Scene<'_>, sets: &[&str], violations: &mut Vec<String>, judged: &mut usize) {
    for set in sets {
        let Some((namespace, name)) = set.split_once('/') else { continue };
        let goes = scene.changes(STATEFUL_SETS, set).any(|seen| {
            is_going(seen)
                || seen.object.pointer("/spec/persistentVolumeClaimRetentionPolicy").is_some_and(
                    |policy| policy["whenScaled"] == "Delete" || policy["whenDeleted"] == "Delete",
                )
        });
        if goes {
            continue;
        }
        let infix = format!("-{name}-");
        let own = scene.keys(CLAIMS).filter(|key| {
            key.strip_prefix(namespace).is_some_and(|rest| {
                rest.split_once(&infix).is_some_and(|(_, ordinal)| ordinal.parse::<u32>().is_ok())
            })
        });
        for claim in own {
            *judged += 1;
            let mut uids =
                scene.changes(CLAIMS, claim).map(|seen| text(seen.object, "/metadata/uid"));
            let first = uids.next().unwrap_or_default();
            if uids.any(|uid| uid != first) {
                violations.push(format!("the claim {claim} was replaced by another one"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/ordinal-order";

    fn set(policy: &str, replicas: i64) -> Tape {
        let mut tape = Tape::new(kill());
        scaled(tape.at(1.0), policy, replicas);
        tape
    }

    fn scaled(tape: &mut Tape, policy: &str, replicas: i64) {
        tape.thing(
            "statefulsets.apps",
            json!({"metadata": {"namespace": "shop", "name": "db"},
                "spec": {"replicas": replicas, "podManagementPolicy": policy}}),
        );
    }

    fn pod(tape: &mut Tape, name: &str, ready: &str, going: bool) {
        tape.pod(name, |pod| {
            pod["metadata"]["ownerReferences"] = json!([{"kind": "StatefulSet", "name": "db"}]);
            pod["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
            if going {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
        });
    }

    #[test]
    fn a_pod_comes_when_the_lower_ones_are_ready() {
        for (policy, ready, verdict) in [
            ("OrderedReady", "True", "PASS"),
            ("OrderedReady", "False", "FAIL"),
            ("Parallel", "False", "PASS"),
        ] {
            let mut tape = set(policy, 2);
            pod(tape.at(2.0), "db-0", ready, false);
            pod(tape.at(3.0), "db-1", "False", false);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{policy} {ready}");
        }
    }

    #[test]
    fn the_highest_goes_first() {
        for (first, verdict) in [("db-2", "PASS"), ("db-1", "FAIL")] {
            let mut tape = set("OrderedReady", 3);
            for name in ["db-0", "db-1", "db-2"] {
                pod(tape.at(2.0), name, "True", false);
            }
            scaled(tape.at(3.0), "OrderedReady", 1);
            pod(tape.at(4.0), first, "True", true);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{first}");
        }
    }

    #[test]
    fn a_claim_stays_the_same() {
        for (uid, verdict) in [("one", "PASS"), ("two", "FAIL")] {
            let mut tape = set("OrderedReady", 1);
            for uid in ["one", uid] {
                let metadata = json!({"namespace": "shop", "name": "data-db-0", "uid": uid});
                tape.at(2.0).thing("persistentvolumeclaims", json!({"metadata": metadata}));
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{uid}");
        }
        assert_eq!(Tape::new(kill()).at(60.0).checks_with(ID), 0);
    }
}
