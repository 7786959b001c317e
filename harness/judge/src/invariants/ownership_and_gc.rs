//! `ownership-and-gc`: what lost its last owner goes soon, what has one stays, and namespaces end.
//!
//! ```yaml
//! invariants: [ownership-and-gc]
//! ```
//!
//! An object all of whose owners were seen to go is deleted, or being deleted, within thirty calm
//! seconds. The controllers never delete a ReplicaSet that wants pods, or an object of a kind that no
//! controller deletes, while an owner of it lives and its namespace stays. A namespace that is being
//! deleted is gone within sixty calm seconds, unless something in it is held by a finalizer.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{CONTROLLER_MANAGER, Instant, PODS, REPLICA_SETS, Scene, Seen, seconds, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "ownership-and-gc",
    promise: "what lost its last owner goes soon, what has one stays, and namespaces end",
    judge,
};

/// Orphans are gone within this time.
const ORPHAN_US: i64 = 30_000_000;
/// Namespaces are gone within this time.
const NAMESPACE_US: i64 = 60_000_000;
const NAMESPACES: &str = "namespaces";

/// From its first to its last change.
struct Life<'s, 'a> {
    kind: &'a str,
    last: &'s Seen<'a>,
    /// When it was gone.
    gone: Option<Instant>,
    /// When it was first seen to be deleted or gone.
    doomed: Option<Instant>,
}

fn judge(scene: &Scene<'_>) -> Finding {
    let lives = lives(scene);
    let mut violations = Vec::new();
    let mut judged = 0;
    for life in lives.values() {
        let owners = owners(life.last.object);
        if !owners.is_empty() {
            judged += 1;
            violations.extend(outlives(scene, &lives, life, &owners));
            violations.extend(deleted_although_owned(scene, &lives, life, &owners));
        }
        if life.kind == NAMESPACES
            && let Some(doomed) = life.doomed
        {
            judged += 1;
            violations.extend(never_ends(scene, &lives, life, doomed));
        }
    }
    if judged == 0 {
        return Finding::nothing("nothing with an owner was seen, and no namespace ended");
    }
    let is_blind = !scene.gaps.is_empty();
    let seen = format!("{judged} owned objects and ending namespaces");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

fn lives<'s, 'a>(scene: &'s Scene<'a>) -> BTreeMap<&'s str, Life<'s, 'a>> {
    let mut lives: BTreeMap<&str, Life<'s, 'a>> = BTreeMap::new();
    for (kind, all) in &scene.objects {
        for seen in all {
            let uid = text(seen.object, "/metadata/uid");
            if uid.is_empty() {
                continue;
            }
            let new = Life { kind, last: seen, gone: None, doomed: None };
            let life = lives.entry(uid).or_insert(new);
            life.last = seen;
            let going = seen.object["metadata"]["deletionTimestamp"].is_string();
            if life.doomed.is_none() && (going || seen.change == Change::Deleted) {
                life.doomed = Some(seen.when);
            }
            if seen.change == Change::Deleted {
                life.gone = Some(seen.when);
            }
        }
    }
    lives
}

fn owners(object: &Value) -> Vec<&str> {
    let all = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(|owner| owner["uid"].as_str()).collect()
}

/// An object that is there long after its last owner was seen to go.
fn outlives(
    scene: &Scene<'_>,
    lives: &BTreeMap<&str, Life<'_, '_>>,
    life: &Life<'_, '_>,
    owners: &[&str],
) -> Option<String> {
    // An owner that was never seen may be of a kind that nobody watches.
    let gone: Option<Vec<Instant>> = owners.iter().map(|uid| lives.get(uid)?.gone).collect();
    let last = gone?.into_iter().max_by_key(|when| when.at_us)?;
    // What is given an owner after that one went counts from then.
    let since = last.at_us.max(life.last.when.at_us.min(scene.end_us()));
    let since = if life.doomed.is_some() { last.at_us } else { since };
    let until = life.doomed.map_or(scene.end_us(), Instant::earliest);
    if until - since <= ORPHAN_US || !scene.is_calm(since, until) {
        return None;
    }
    Some(format!(
        "{} {} outlived its last owner by {} (events {}, {})",
        life.kind,
        life.last.key,
        seconds(until - since),
        last.seq,
        life.last.when.seq
    ))
}

/// What the controllers deleted although an owner lives.
fn deleted_although_owned(
    scene: &Scene<'_>,
    lives: &BTreeMap<&str, Life<'_, '_>>,
    life: &Life<'_, '_>,
    owners: &[&str],
) -> Option<String> {
    let doomed = life.doomed?;
    // Pods go for many reasons, and other invariants judge them; a set that wants none is history.
    let wants = life.last.object["spec"]["replicas"].as_i64().unwrap_or(1);
    if life.kind == PODS || (life.kind == REPLICA_SETS && wants == 0) {
        return None;
    }
    let line = scene.audit_of(life.kind, &life.last.key).find(|line| {
        line.verb == "delete"
            && (200..300).contains(&line.code)
            && line.key == life.last.key
            && line.when.at_us >= doomed.earliest() - ORPHAN_US
            && line.when.earliest() <= doomed.at_us
    })?;
    let namespace = text(life.last.object, "/metadata/namespace");
    let stays = scene
        .object_at(NAMESPACES, namespace, doomed.seq)
        .is_some_and(|seen| !seen.object["metadata"]["deletionTimestamp"].is_string());
    let owner = owners.iter().find_map(|uid| {
        let owner = lives.get(uid)?;
        owner.doomed.is_none_or(|gone| gone.earliest() > doomed.at_us).then_some(owner)
    })?;
    (line.user == CONTROLLER_MANAGER && stays).then(|| {
        format!(
            "{} {} was deleted by a controller while its owner {} lives (event {})",
            life.kind, life.last.key, owner.last.key, line.when.seq
        )
    })
}

/// A namespace that is still there long after its deletion began, with nothing that holds it.
fn never_ends(
    scene: &Scene<'_>,
    lives: &BTreeMap<&str, Life<'_, '_>>,
    life: &Life<'_, '_>,
    doomed: Instant,
) -> Option<String> {
    let until = life.gone.map_or(scene.end_us(), Instant::earliest);
    let name = life.last.key.as_str();
    let is_held = lives.values().any(|other| {
        text(other.last.object, "/metadata/namespace") == name
            && other.gone.is_none_or(|gone| gone.at_us > doomed.at_us + NAMESPACE_US)
            && other.last.object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
    });
    // Pods end in their own time, and on dead nodes never by themselves.
    let pods = lives.values().any(|other| {
        other.kind == PODS
            && text(other.last.object, "/metadata/namespace") == name
            && other.gone.is_none_or(|gone| gone.at_us + ORPHAN_US > until)
    });
    (until - doomed.at_us > NAMESPACE_US
        && !is_held
        && !pods
        && scene.is_calm(doomed.earliest(), until))
    .then(|| {
        format!(
            "namespace {name} was being deleted for {} (event {})",
            seconds(until - doomed.at_us),
            doomed.seq
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/ownership-and-gc";

    /// A namespace, a Deployment, and its ReplicaSet.
    fn tape() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).thing("namespaces", json!({"metadata": {"name": "shop", "uid": "uid-shop"}}));
        let owner = json!({"metadata": {"namespace": "shop", "name": "web", "uid": "uid-web"}});
        tape.thing("deployments.apps", owner);
        tape.at(2.0).thing(
            "replicasets.apps",
            json!({"metadata": {"namespace": "shop", "name": "web-1", "uid": "uid-1",
                "ownerReferences": [{"uid": "uid-web", "kind": "Deployment"}]},
                "spec": {"replicas": 2}}),
        );
        tape
    }

    #[test]
    fn orphans_go_soon() {
        for (gone, verdict) in [(Some(12.0), "PASS"), (Some(50.0), "FAIL"), (None, "FAIL")] {
            let mut tape = tape();
            tape.at(10.0).gone("deployments.apps", "shop/web");
            if let Some(at) = gone {
                tape.at(at).gone("replicasets.apps", "shop/web-1");
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{gone:?}");
        }
    }

    #[test]
    fn what_is_owned_is_not_collected() {
        for (user, verdict) in [("system:kube-controller-manager", "FAIL"), ("admin", "PASS")] {
            let mut tape = tape();
            tape.at(10.0).gone("replicasets.apps", "shop/web-1");
            let revision = tape.revision();
            tape.audit(user, "delete", ("replicasets.apps", "shop/web-1"), revision, "");
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{user}");
        }
    }

    #[test]
    fn namespaces_end() {
        for (gone, verdict) in [(Some(20.0), "PASS"), (None, "FAIL")] {
            let mut tape = Tape::new(kill());
            tape.at(10.0).thing(
                "namespaces",
                json!({"metadata": {"name": "shop", "uid": "uid-shop",
                    "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            );
            if let Some(at) = gone {
                tape.at(at).gone("namespaces", "shop");
            }
            assert_eq!(tape.at(90.0).verdict(ID), verdict, "{gone:?}");
        }
    }

    #[test]
    fn a_blind_witness_is_no_pass() {
        let mut tape = tape();
        tape.at(10.0).gone("deployments.apps", "shop/web");
        tape.gap("pods");
        assert_eq!(tape.at(60.0).verdict(ID), "INVALID");
        assert_eq!(Tape::new(kill()).at(60.0).checks_with(ID), 0);
    }
}
