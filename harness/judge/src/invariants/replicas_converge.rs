//! `replicas-converge`: once faults are healed and nobody changes what is wanted, a ReplicaSet or
//! Deployment has what it wants, says so, and its controllers leave it alone.
//!
//! ```yaml
//! invariants: [replicas-converge]
//! ```
//!
//! Judged just before the object is deleted, or at the end of the scenario, if for ten seconds nothing
//! about it or its pods changed and nothing was wrong: then nobody is still at work on it, and what
//! differs will stay so.
//! Pods that are not Ready for their own reasons do not count against it; a status that says
//! otherwise than the pods do. More than three writes of controllers to a settled object are a hot loop.

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use super::eviction::{self, PodLife, Pods};
use crate::finding::Finding;
use crate::scene::{
    CONTROLLER_MANAGER, DEPLOYMENTS, PODS, REPLICA_SETS, Scene, Seen, condition, seconds,
};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "replicas-converge",
    promise: "replicas become what is wanted, and then controllers leave them alone",
    judge,
};

/// For so long nothing may have changed.
const QUIET_US: i64 = 10_000_000;
/// So many writes to a settled object are still no loop.
const WRITES_MAX: usize = 3;

fn judge(scene: &Scene<'_>) -> Finding {
    let pods = eviction::pods(scene);
    // Nothing counts from before the last fault was over.
    let mut calm_since = scene.own().first().map_or(0, |event| event.at_us as i64);
    for span in &scene.faults {
        match (span.began(), span.over()) {
            (Some(_), Some(over)) => calm_since = calm_since.max(over),
            (Some(_), None) => return Finding::nothing("a fault lasted to the end"),
            (None, _) => {}
        }
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    for kind in [REPLICA_SETS, DEPLOYMENTS] {
        for key in scene.keys(kind) {
            let Some(rest) = at_rest(scene, &pods, (kind, key), calm_since) else { continue };
            judged += 1;
            let lasted = seconds(rest.until_us - rest.since_us);
            let seq = rest.last.when.seq;
            violations.extend(
                differs(scene, kind, &rest)
                    .map(|why| format!("{kind} {key} for {lasted}: {why} (event {seq})")),
            );
            violations.extend(loops(scene, kind, key, &rest));
        }
    }
    if judged == 0 {
        return Finding::nothing("nothing with replicas came to rest");
    }
    Finding::of(INVARIANT.promise, &violations, format!("{judged} objects with replicas at rest"))
}

/// An object that nobody works on.
struct Rest<'s, 'a> {
    last: &'s Seen<'a>,
    /// The pods that it owns and that nobody deletes.
    live: Vec<&'s PodLife<'a>>,
    since_us: i64,
    until_us: i64,
    /// The place of the timeline just before the rest ended.
    seq: u64,
}

/// The last stretch of an object's life, if it was quiet for long enough.
fn at_rest<'s, 'a>(
    scene: &'s Scene<'a>,
    pods: &'s Pods<'a>,
    (kind, key): (&'static str, &str),
    calm_since: i64,
) -> Option<Rest<'s, 'a>> {
    let goes = |seen: &&Seen<'_>| {
        seen.change == Change::Deleted || seen.object["metadata"]["deletionTimestamp"].is_string()
    };
    let (until_us, seq) = match scene.changes(kind, key).find(goes) {
        Some(seen) => (seen.when.earliest(), seen.when.seq - 1),
        None => (scene.end_us(), u64::MAX),
    };
    let last = scene.object_at(kind, key, seq)?;
    let uid = last.object["metadata"]["uid"].as_str().unwrap_or_default();
    let owned: Vec<_> = pods.owned(uid).filter(|pod| pod.created.seq <= seq).collect();
    let changes = owned.iter().flat_map(|pod| {
        [Some(pod.created), pod.ready, pod.doomed.map(|(doomed, _)| doomed)]
            .into_iter()
            .flatten()
            .filter(|when| when.seq <= seq)
            .map(|when| when.at_us)
    });
    let since_us = changes.chain([last.when.at_us, calm_since]).max()?;
    if until_us - since_us < QUIET_US || scene.blind(&[kind, PODS], since_us, until_us) {
        return None;
    }
    let live = owned
        .into_iter()
        .filter(|pod| pod.doomed.is_none_or(|(doomed, _)| doomed.seq > seq))
        .collect();
    Some(Rest { last, live, since_us, until_us, seq })
}

fn differs(scene: &Scene<'_>, kind: &str, rest: &Rest<'_, '_>) -> Option<String> {
    let object = rest.last.object;
    let number = |part: &str, name: &str| object[part][name].as_i64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let generation = number("metadata", "generation");
    if number("status", "observedGeneration") < generation {
        return Some(format!(
            "generation {generation} was not observed, only {}",
            number("status", "observedGeneration")
        ));
    }
    if kind != REPLICA_SETS {
        return (number("status", "replicas") != wanted && object["spec"]["paused"] != true)
            .then(|| format!("wants {wanted} and has {}", number("status", "replicas")));
    }
    let live: Vec<&Value> = rest
        .live
        .iter()
        .map(|pod| match scene.object_at(PODS, pod.key, rest.seq) {
            Some(seen) => seen.object,
            None => pod.object,
        })
        .filter(|pod| !["Failed", "Succeeded"].contains(&phase(pod)))
        .collect();
    let ready = live.iter().filter(|pod| condition(pod, "Ready") == "True").count() as i64;
    let live = live.len() as i64;
    if live != wanted {
        return Some(format!("wants {wanted} and {live} pods live"));
    }
    if number("status", "replicas") != live || number("status", "readyReplicas") != ready {
        return Some(format!(
            "{live} pods live and {ready} are Ready, but its status says {} and {}",
            number("status", "replicas"),
            number("status", "readyReplicas")
        ));
    }
    None
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// Writes of controllers to an object at rest.
fn loops(scene: &Scene<'_>, kind: &str, key: &str, rest: &Rest<'_, '_>) -> Option<String> {
    let writes: Vec<_> = scene
        .audit_of(kind, key)
        .filter(|line| line.user == CONTROLLER_MANAGER)
        .filter(|line| line.when.earliest() > rest.since_us && line.when.seq <= rest.seq)
        .collect();
    let last = writes.last()?;
    (writes.len() > WRITES_MAX).then(|| {
        format!("{} writes to {kind} {key} at rest (event {})", writes.len(), last.when.seq)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/replicas-converge";

    fn pod(tape: &mut Tape, name: &str) {
        tape.pod_of(name, &format!("uid-{name}"), |pod: &mut Value| {
            pod["metadata"]["ownerReferences"] =
                json!([{"kind": "ReplicaSet", "name": "web", "uid": "uid-web", "controller": true}]);
            pod["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        });
    }

    fn settled(pods: &[&str]) -> Tape {
        let mut tape = Tape::new(kill());
        for name in pods {
            pod(tape.at(1.0), name);
        }
        tape.at(2.0).replica_set("web", 2);
        tape
    }

    #[test]
    fn as_many_as_wanted_pass_and_others_fail() {
        assert_eq!(settled(&["a", "b"]).at(60.0).verdict(ID), "PASS");
        assert_eq!(settled(&["a", "b", "c"]).at(60.0).verdict(ID), "FAIL");
        assert_eq!(settled(&["a"]).at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn what_is_not_at_rest_is_not_judged() {
        assert_eq!(settled(&["a"]).at(8.0).checks_with(ID), 0);
        let mut tape = settled(&["a"]);
        pod(tape.at(55.0), "b");
        assert_eq!(tape.at(60.0).checks_with(ID), 0);
    }

    #[test]
    fn what_is_cleaned_up_is_judged_as_it_was_before() {
        for (pods, verdict) in [(&["a", "b"][..], "PASS"), (&["a", "b", "c"][..], "FAIL")] {
            let mut tape = settled(pods);
            tape.at(50.0).gone("replicasets.apps", "shop/web");
            for name in pods {
                tape.at(51.0).gone("pods", &format!("shop/{name}"));
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{pods:?}");
        }
    }

    #[test]
    fn a_hot_loop_is_rejected() {
        let mut tape = settled(&["a", "b"]);
        for at in 0..5 {
            tape.at(20.0 + f64::from(at));
            let key = ("replicasets.apps", "shop/web/status");
            tape.audit("system:kube-controller-manager", "update", key, 0, "");
        }
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
    }
}
