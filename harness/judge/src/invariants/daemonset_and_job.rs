//! `daemonset-and-job`: a DaemonSet has one pod on each node it wants, a Job as many as it says.
//!
//! ```yaml
//! invariants: [daemonset-and-job]
//! ```
//!
//! At no time does a DaemonSet have two live pods on a node; at the end of a calm scenario it has as many
//! as its status says it wants. A Job never has more live pods than `parallelism` allowed in the last
//! seconds; its count of successes never goes down, and is `completions` when it is Complete; of an
//! Indexed Job each index succeeds once. Two Jobs of a CronJob that forbids it never run at once.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{PODS, Scene, Seen, condition, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "daemonset-and-job",
    promise: "a DaemonSet has one pod on each node it wants, a Job as many as it says",
    judge,
};

const DAEMON_SETS: &str = "daemonsets.apps";
const JOBS: &str = "jobs.batch";
const CRON_JOBS: &str = "cronjobs.batch";
/// For so long a DaemonSet is left alone before its end is judged.
const QUIET_US: i64 = 10_000_000;

fn judge(scene: &Scene<'_>) -> Finding {
    let kinds = [DAEMON_SETS, JOBS];
    if kinds.iter().all(|kind| scene.of_kind(kind).is_empty()) {
        return Finding::nothing("no DaemonSet and no Job was seen");
    }
    let mut violations = Vec::new();
    let live = pods(scene, &mut violations);
    daemon_sets_at_the_end(scene, &live, &mut violations);
    jobs(scene, &mut violations);
    cron_jobs(scene, &mut violations);
    let is_blind =
        scene.gaps.iter().any(|(_, kind)| kinds.contains(kind) || [PODS, CRON_JOBS].contains(kind));
    let many: usize = kinds.iter().map(|kind| scene.keys(kind).count()).sum();
    let seen = format!("{many} DaemonSets and Jobs");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// Kind, name and uid of the controller of an object.
fn owner(object: &Value) -> Option<(&str, &str, &str)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["name"].as_str()?, owner["uid"].as_str()?))
}

fn is_going(seen: &Seen<'_>) -> bool {
    seen.change == Change::Deleted || seen.object["metadata"]["deletionTimestamp"].is_string()
}

/// Follows the live pods of each owner; answers those that are there at the end, with their nodes.
fn pods<'a>(
    scene: &'a Scene<'_>,
    violations: &mut Vec<String>,
) -> BTreeMap<&'a str, BTreeMap<&'a str, &'a str>> {
    let mut live: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut succeeded: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for seen in scene.of_kind(PODS) {
        let Some((kind, name, uid)) = owner(seen.object) else { continue };
        let (pod, phase) = (text(seen.object, "/metadata/uid"), text(seen.object, "/status/phase"));
        let index =
            seen.object["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
                .as_str();
        if let (Some(index), "Succeeded", "Job") = (index, phase, kind) {
            let first = *succeeded.entry((uid, index)).or_insert(pod);
            if first != pod {
                violations.push(format!(
                    "the index {index} of Job {name} succeeded twice (event {})",
                    seen.when.seq
                ));
            }
        }
        let all = live.entry(uid).or_default();
        if is_going(seen) || ["Failed", "Succeeded"].contains(&phase) {
            all.remove(pod);
            continue;
        }
        let node = text(seen.object, "/spec/nodeName");
        let is_new = all.insert(pod, node) != Some(node);
        if !is_new {
            continue;
        }
        let twice = !node.is_empty() && all.values().filter(|known| **known == node).count() > 1;
        if kind == "DaemonSet" && twice {
            violations.push(format!(
                "DaemonSet {name} has two live pods on {node} (event {})",
                seen.when.seq
            ));
        }
        let key = format!("{}/{name}", text(seen.object, "/metadata/namespace"));
        if kind == "Job"
            && let Some(most) = parallelism(scene, &key, seen)
            && all.len() as i64 > most
        {
            violations.push(format!(
                "Job {key} has {} live pods, {most} are allowed (event {})",
                all.len(),
                seen.when.seq
            ));
        }
    }
    live
}

/// The greatest that was in force in the last seconds.
fn parallelism(scene: &Scene<'_>, key: &str, at: &Seen<'_>) -> Option<i64> {
    let versions: Vec<_> =
        scene.changes(JOBS, key).filter(|seen| seen.revision <= at.revision).collect();
    let since = at.when.earliest() - QUIET_US;
    let in_force = (0..versions.len())
        .filter(|at| versions.get(at + 1).is_none_or(|next| next.when.at_us >= since));
    in_force.map(|at| versions[at].object["spec"]["parallelism"].as_i64().unwrap_or(1)).max()
}

fn daemon_sets_at_the_end(
    scene: &Scene<'_>,
    live: &BTreeMap<&str, BTreeMap<&str, &str>>,
    violations: &mut Vec<String>,
) {
    let since = scene.end_us() - QUIET_US;
    if !scene.is_calm(since, scene.end_us()) || scene.blind(&[DAEMON_SETS, PODS], since, i64::MAX) {
        return;
    }
    let recent = scene.of_kind(PODS).iter().any(|seen| seen.when.at_us >= since);
    for key in scene.keys(DAEMON_SETS) {
        let Some(last) = scene.changes(DAEMON_SETS, key).last() else { continue };
        if recent || is_going(last) || last.when.at_us >= since {
            continue;
        }
        let wanted = last.object["status"]["desiredNumberScheduled"].as_i64().unwrap_or(0);
        let uid = text(last.object, "/metadata/uid");
        let nodes: BTreeSet<_> =
            live.get(uid).into_iter().flatten().map(|(_, node)| *node).collect();
        if nodes.len() as i64 != wanted {
            violations.push(format!(
                "DaemonSet {key} wants {wanted} nodes and has pods on {} (event {})",
                nodes.len(),
                last.when.seq
            ));
        }
    }
}

fn jobs(scene: &Scene<'_>, violations: &mut Vec<String>) {
    for key in scene.keys(JOBS) {
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        for seen in scene.changes(JOBS, key) {
            let done = seen.object["status"]["succeeded"].as_i64().unwrap_or(0);
            let before = most.entry(text(seen.object, "/metadata/uid")).or_insert(done);
            if done < *before {
                violations.push(format!(
                    "Job {key} had {before} successes and then {done} (event {})",
                    seen.when.seq
                ));
            }
            *before = done.max(*before);
            let wanted = seen.object["spec"]["completions"].as_i64();
            if condition(seen.object, "Complete") == "True"
                && let Some(wanted) = wanted.filter(|wanted| done != *wanted)
                && seen.object.pointer("/spec/successPolicy").is_none()
            {
                violations.push(format!(
                    "Job {key} is Complete with {done} successes of {wanted} (event {})",
                    seen.when.seq
                ));
            }
        }
    }
}

fn cron_jobs(scene: &Scene<'_>, violations: &mut Vec<String>) {
    let mut running: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for seen in scene.of_kind(JOBS) {
        let Some(("CronJob", name, uid)) = owner(seen.object) else { continue };
        let key = format!("{}/{name}", text(seen.object, "/metadata/namespace"));
        let forbids = scene
            .object_at_revision(CRON_JOBS, &key, seen.revision)
            .is_some_and(|cron| cron.object["spec"]["concurrencyPolicy"] == "Forbid");
        let is_over =
            ["Complete", "Failed"].iter().any(|kind| condition(seen.object, kind) == "True");
        let all = running.entry(uid).or_default();
        let job = text(seen.object, "/metadata/uid");
        if is_over || is_going(seen) {
            all.remove(job);
        } else if all.insert(job) && all.len() > 1 && forbids {
            violations.push(format!("two Jobs of {key} run at once (event {})", seen.when.seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/daemonset-and-job";

    fn pod(tape: &mut Tape, name: &str, kind: &str, change: impl FnOnce(&mut Value)) {
        tape.pod(name, |pod| {
            pod["metadata"]["ownerReferences"] =
                json!([{"kind": kind, "name": "x", "uid": "uid-x", "controller": true}]);
            change(pod);
        });
    }

    fn daemon_set(nodes: &[&str]) -> String {
        let mut tape = Tape::new(kill());
        tape.at(1.0).thing(
            "daemonsets.apps",
            json!({"metadata": {"namespace": "shop", "name": "x", "uid": "uid-x"},
                "status": {"desiredNumberScheduled": 2}}),
        );
        for (at, node) in nodes.iter().enumerate() {
            let set = |pod: &mut Value| pod["spec"]["nodeName"] = json!(node);
            pod(tape.at(2.0), &format!("x-{at}"), "DaemonSet", set);
        }
        tape.at(60.0).verdict(ID)
    }

    #[test]
    fn one_pod_on_each_node() {
        assert_eq!(daemon_set(&["worker-1", "worker-2"]), "PASS");
        assert_eq!(daemon_set(&["worker-1", "worker-1"]), "FAIL");
        assert_eq!(daemon_set(&["worker-1"]), "FAIL");
    }

    fn job(tape: &mut Tape, name: &str, succeeded: i64, complete: &str) {
        tape.thing(
            "jobs.batch",
            json!({
                "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"),
                    "ownerReferences": [{"kind": "CronJob", "name": "c", "uid": "uid-c",
                        "controller": true}]},
                "spec": {"parallelism": 1, "completions": 2},
                "status": {"succeeded": succeeded,
                    "conditions": [{"type": "Complete", "status": complete}]},
            }),
        );
    }

    #[test]
    fn a_job_counts_up_to_its_completions() {
        for (counts, verdict) in [
            (&[(0, "False"), (1, "False"), (2, "True")][..], "PASS"),
            (&[(1, "False"), (0, "False")][..], "FAIL"),
            (&[(1, "False"), (1, "True")][..], "FAIL"),
        ] {
            let mut tape = Tape::new(kill());
            for (succeeded, complete) in counts {
                job(tape.at(1.0), "x", *succeeded, complete);
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{counts:?}");
        }
    }

    #[test]
    fn pods_of_a_job_and_its_indexes() {
        for (second, index, verdict) in
            [("Running", "1", "FAIL"), ("Succeeded", "1", "PASS"), ("Succeeded", "0", "FAIL")]
        {
            let mut tape = Tape::new(kill());
            job(tape.at(1.0), "x", 0, "False");
            let first = if second == "Running" { "Running" } else { "Succeeded" };
            for (name, phase, index) in [("p", first, "0"), ("q", second, index)] {
                pod(tape.at(2.0), name, "Job", |pod| {
                    pod["metadata"]["annotations"] =
                        json!({"batch.kubernetes.io/job-completion-index": index});
                    pod["status"]["phase"] = json!(phase);
                });
            }
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{second} {index}");
        }
    }

    #[test]
    fn jobs_that_must_not_overlap() {
        for (policy, verdict) in [("Allow", "PASS"), ("Forbid", "FAIL")] {
            let mut tape = Tape::new(kill());
            let metadata = json!({"namespace": "shop", "name": "c", "uid": "uid-c"});
            let spec = json!({"concurrencyPolicy": policy});
            tape.at(1.0).thing("cronjobs.batch", json!({"metadata": metadata, "spec": spec}));
            job(tape.at(2.0), "one", 0, "False");
            job(tape.at(3.0), "two", 0, "False");
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{policy}");
        }
        assert_eq!(Tape::new(kill()).at(60.0).checks_with(ID), 0);
    }
}
