//! `rollout-bounds`: a rolling update never has more pods than `maxSurge` allows, and never takes away
//! more than `maxUnavailable` allows.
//!
//! ```yaml
//! invariants: [rollout-bounds]
//! ```
//!
//! At each growth of one of a Deployment's ReplicaSets: together they want at most `replicas` +
//! `maxSurge`. At each shrinking of one while it is rolled out (and `replicas` stayed): what was Ready
//! within the last seconds is, without what goes, at least `replicas` - `maxUnavailable`, unless a fault
//! took pods away. Terminating pods count for neither, as Kubernetes documents.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use super::eviction::{self, Pods};
use crate::finding::Finding;
use crate::scene::{DEPLOYMENTS, PODS, REPLICA_SETS, Scene, Seen, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "rollout-bounds",
    promise: "a rollout stays between replicas - maxUnavailable and replicas + maxSurge",
    judge,
};

/// So long a controller may go by what it saw before.
const SLACK_US: i64 = 5_000_000;

fn judge(scene: &Scene<'_>) -> Finding {
    // The wanted replicas of each ReplicaSet of each Deployment, by uid, as they change.
    let mut wanted: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
    let pods = eviction::pods(scene);
    let mut violations = Vec::new();
    let mut judged = 0;
    for seen in scene.of_kind(REPLICA_SETS) {
        let Some((name, owner)) = owner(seen.object) else { continue };
        let uid = text(seen.object, "/metadata/uid");
        let sets = wanted.entry(owner).or_default();
        let now = match seen.change {
            Change::Deleted => 0,
            _ => seen.object["spec"]["replicas"].as_i64().unwrap_or(1),
        };
        let before = sets.insert(uid, now).unwrap_or(0);
        // What was listed first may have been scaled long before.
        if seen.is_listed || now == before || seen.change == Change::Deleted {
            continue;
        }
        let namespace = text(seen.object, "/metadata/namespace");
        let bounds = bounds(scene, &format!("{namespace}/{name}"), seen);
        let Some(bounds) = bounds else { continue };
        judged += 1;
        let total: i64 = sets.values().sum();
        if now > before && total > bounds.most {
            violations.push(format!(
                "the ReplicaSets of {namespace}/{name} want {total}, at most {} are allowed (event {})",
                bounds.most, seen.when.seq
            ));
        }
        let Some(least) = bounds.least.filter(|_| now < before) else { continue };
        if !scene.is_calm(seen.when.earliest() - SLACK_US, seen.when.at_us) {
            continue;
        }
        let ready = ready(&pods, sets, seen);
        if ready < least {
            violations.push(format!(
                "{} was shrunk from {before} to {now}, which leaves {ready} Ready, at least {least} are \
                 promised (event {})",
                seen.key, seen.when.seq
            ));
        }
    }
    if judged == 0 {
        return Finding::nothing("no ReplicaSet of a Deployment was scaled");
    }
    let is_blind =
        scene.gaps.iter().any(|(_, kind)| [REPLICA_SETS, DEPLOYMENTS, PODS].contains(kind));
    let seen = format!("{judged} scalings within bounds");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// How many of the pods of these sets stay Ready at most, when each keeps no more than it wants. What
/// is not Ready goes first.
fn ready(pods: &Pods<'_>, sets: &BTreeMap<&str, i64>, at: &Seen<'_>) -> i64 {
    let since = at.when.earliest() - SLACK_US;
    let mut ready: BTreeMap<&str, i64> = BTreeMap::new();
    for (uid, pod) in sets.keys().flat_map(|uid| pods.owned(uid).map(move |pod| (*uid, pod))) {
        // Revisions put pods and sets in one order.
        let is_going = pod
            .doomed
            .is_some_and(|(doomed, revision)| revision < at.revision && doomed.at_us < since);
        let became = pod.ready.is_some_and(|when| when.earliest() <= at.when.at_us);
        if became && !is_going {
            *ready.entry(uid).or_default() += 1;
        }
    }
    sets.iter().map(|(uid, wanted)| ready.get(uid).copied().unwrap_or(0).min(*wanted)).sum()
}

/// Name and uid of the Deployment that owns a ReplicaSet.
fn owner(set: &Value) -> Option<(&str, &str)> {
    let owners = set.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner =
        owners.iter().find(|owner| owner["controller"] == true && owner["kind"] == "Deployment")?;
    Some((owner["name"].as_str()?, owner["uid"].as_str()?))
}

struct Bounds {
    most: i64,
    /// Absent while the number of replicas is being changed.
    least: Option<i64>,
}

/// The widest bounds that the Deployment's versions of the last seconds allow; `None` if it was not
/// seen, or replaces its pods at once.
fn bounds(scene: &Scene<'_>, key: &str, at: &Seen<'_>) -> Option<Bounds> {
    let versions: Vec<_> =
        scene.changes(DEPLOYMENTS, key).filter(|seen| seen.revision <= at.revision).collect();
    let last = versions.last().filter(|last| last.change != Change::Deleted)?;
    let recent = |position: &usize| {
        versions
            .get(position + 1)
            .is_none_or(|next| next.when.at_us >= at.when.earliest() - SLACK_US)
    };
    let in_force: Vec<_> =
        (0..versions.len()).filter(recent).map(|at| versions[at].object).collect();
    if last.object["spec"]["strategy"]["type"] == "Recreate" {
        return None;
    }
    let most =
        in_force.iter().map(|object| replicas(object) + limit(object, "maxSurge", true)).max()?;
    let is_same = versions.iter().all(|seen| replicas(seen.object) == replicas(last.object));
    let least = in_force
        .iter()
        .map(|object| replicas(object) - limit(object, "maxUnavailable", false))
        .min()
        .filter(|_| is_same);
    // Both limits 0 would never get anywhere: then one pod may be missing.
    let stuck =
        limit(last.object, "maxSurge", true) + limit(last.object, "maxUnavailable", false) == 0;
    Some(Bounds { most, least: least.map(|least| least - i64::from(stuck)) })
}

fn replicas(deployment: &Value) -> i64 {
    deployment["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// A number, or a share of the replicas; without either a quarter.
fn limit(deployment: &Value, name: &str, round_up: bool) -> i64 {
    let share =
        |percent: i64| (replicas(deployment) * percent + if round_up { 99 } else { 0 }) / 100;
    match deployment.pointer(&format!("/spec/strategy/rollingUpdate/{name}")) {
        Some(Value::String(text)) => share(text.trim_end_matches('%').parse().unwrap_or(25)),
        Some(Value::Number(number)) => number.as_i64().unwrap_or(0),
        _ => share(25),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/rollout-bounds";

    fn set(tape: &mut Tape, name: &str, replicas: i64) {
        tape.thing(
            "replicasets.apps",
            json!({
                "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"),
                    "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "uid-web",
                        "controller": true}]},
                "spec": {"replicas": replicas},
            }),
        );
    }

    fn pod(tape: &mut Tape, name: &str, set: &str, ready: bool) {
        let owner = json!([{"kind": "ReplicaSet", "name": set, "uid": format!("uid-{set}"),
            "controller": true}]);
        let status = if ready { "True" } else { "False" };
        tape.pod(name, |pod| {
            pod["metadata"]["ownerReferences"] = owner;
            pod["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
        });
    }

    /// Four replicas, one more and one fewer allowed; the old set has four Ready pods.
    fn tape() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).thing(
            "deployments.apps",
            json!({
                "metadata": {"namespace": "shop", "name": "web", "uid": "uid-web"},
                "spec": {"replicas": 4, "strategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}},
            }),
        );
        set(&mut tape, "old", 4);
        for name in ["a", "b", "c", "d"] {
            pod(tape.at(2.0), name, "old", true);
        }
        tape
    }

    #[test]
    fn within_the_bounds_passes() {
        let mut tape = tape();
        set(tape.at(20.0), "new", 1);
        set(tape.at(20.0), "old", 3);
        set(tape.at(20.1), "new", 2);
        pod(tape.at(20.2), "e", "new", true);
        pod(tape.at(20.3), "f", "new", true);
        set(tape.at(21.0), "old", 1);
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn too_many_and_too_few_are_rejected() {
        let mut many = tape();
        set(many.at(20.0), "new", 2);
        assert_eq!(many.at(60.0).verdict(ID), "FAIL");

        let mut few = tape();
        set(few.at(20.0), "new", 1);
        pod(few.at(20.1), "e", "new", false);
        set(few.at(20.2), "old", 2);
        assert_eq!(few.at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn what_was_not_seen_is_no_pass() {
        let mut few = tape();
        set(few.at(20.0), "old", 2);
        few.gap("pods");
        assert_eq!(few.at(60.0).verdict(ID), "INVALID");
        assert_eq!(Tape::new(kill()).at(60.0).checks_with(ID), 0);
    }
}
