//! `replacement-time`: when a pod of a ReplicaSet goes, another one is Ready soon.
//!
//! ```yaml
//! invariants: [replacement-time]
//! ```
//!
//! Within ten seconds after the deletion became visible: five to be created and scheduled, five to
//! start (the image is present), and what its readiness probes ask to wait. Not judged while the
//! control plane is disturbed, the ReplicaSet wants fewer pods, or no node has room. The median and
//! the 95th percentile are told.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::verdict::Verdict;

use super::Invariant;
use super::eviction::{self, PodLife, Pods};
use crate::finding::{Finding, Judged, Timing, broken};
use crate::scene::{Instant, PODS, REPLICA_SETS, Scene, condition, seconds};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "replacement-time",
    promise: "a pod of a ReplicaSet that goes is replaced by a Ready one within ten seconds",
    judge,
};

const REPLACED_US: i64 = 10_000_000;

fn judge(scene: &Scene<'_>) -> Finding {
    let pods = eviction::pods(scene);
    let mut owned: BTreeMap<&str, Vec<&PodLife<'_>>> = BTreeMap::new();
    for pod in pods.values() {
        if let Some(("ReplicaSet", _, uid)) = pod.owner() {
            owned.entry(uid).or_default().push(pod);
        }
    }
    let mut timings = Vec::new();
    let mut violations = Vec::new();
    for pods_of_one in owned.values() {
        let is_surplus = |pod: &PodLife<'_>| eviction::is_surplus(scene, pod, &pods);
        for (gone, replacement) in pairs(pods_of_one, is_surplus) {
            let high = REPLACED_US + replacement.map_or(0, |pod| probe_us(pod.object));
            if is_excused(scene, &pods, (gone, replacement), high) {
                continue;
            }
            let Some((doomed, _)) = gone.doomed else { continue };
            match replacement.and_then(|pod| pod.ready) {
                Some(ready) => {
                    let timing =
                        Timing::between((doomed.earliest(), doomed.at_us), ready, (0, high));
                    if timing.is_late() {
                        let told = timing.tell();
                        violations.push(format!("{}: {told} (event {})", gone.key, ready.seq));
                    }
                    timings.push(timing);
                }
                None => violations.push(format!(
                    "{} went (event {}) and nothing Ready took its place for {}",
                    gone.key,
                    doomed.seq,
                    seconds(high)
                )),
            }
        }
    }
    if timings.is_empty() && violations.is_empty() {
        return Finding::nothing("no pod of a ReplicaSet had to be replaced");
    }
    tell(timings, &violations)
}

fn tell(mut timings: Vec<Timing>, violations: &[String]) -> Finding {
    timings.sort_by_key(|timing| timing.observed_us);
    let (verdict, message) = match timings.is_empty() || !violations.is_empty() {
        true => (Verdict::Fail, broken(INVARIANT.promise, violations)),
        false => {
            let times: Vec<i64> = timings.iter().map(|timing| timing.observed_us).collect();
            let told = [50, 95, 99].map(|percent| {
                let (low, high) = interval(&times, percent);
                let at = seconds(percentile(&times, percent));
                format!("p{percent} {at} [{}, {}]", seconds(low), seconds(high))
            });
            let longest = seconds(times[times.len() - 1]);
            let told = told.join(", ");
            let message =
                format!("n = {}: {told} (95 % bootstrap), longest {longest}", times.len());
            (Verdict::Pass, message)
        }
    };
    let judged = Judged::new(verdict, message);
    Finding::Judged(match timings.last() {
        Some(longest) => judged.observed(longest),
        None => judged.window(0, REPLACED_US, 0),
    })
}

/// The observation that this share of them does not exceed; they are in order.
fn percentile(times: &[i64], percent: usize) -> i64 {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times[rank - 1]
}

/// How often the observations are drawn anew.
const DRAWS: usize = 1000;

/// The interval that holds 95 of 100 percentiles of samples drawn from the observations. The draws are
/// the same every time: a verdict is a function of the timeline.
fn interval(times: &[i64], percent: usize) -> (i64, i64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let place = state % u64::try_from(times.len()).unwrap_or(1);
        times[usize::try_from(place).unwrap_or(0)]
    };
    let mut found: Vec<i64> = (0..DRAWS)
        .map(|_| {
            let mut sample: Vec<i64> = (0..times.len()).map(|_| draw()).collect();
            sample.sort_unstable();
            percentile(&sample, percent)
        })
        .collect();
    found.sort_unstable();
    (found[DRAWS / 40], found[DRAWS - 1 - DRAWS / 40])
}

/// Each pod that went, unless it was one too many, with the first one that was created after it and
/// replaces no other.
fn pairs<'p, 'a>(
    pods: &[&'p PodLife<'a>],
    is_surplus: impl Fn(&PodLife<'a>) -> bool,
) -> Vec<(&'p PodLife<'a>, Option<&'p PodLife<'a>>)> {
    let went = pods.iter().filter(|pod| pod.doomed.is_some() && !is_surplus(pod));
    let mut gone: Vec<_> = went.filter_map(|pod| Some((pod.doomed?.0.seq, *pod))).collect();
    gone.sort_by_key(|(seq, _)| *seq);
    let mut created: Vec<_> = pods.to_vec();
    created.sort_by_key(|pod| pod.created.seq);
    let mut next = created.into_iter().peekable();
    gone.into_iter()
        .map(|(seq, pod)| {
            while next.peek().is_some_and(|candidate| candidate.created.seq < seq) {
                next.next();
            }
            (pod, next.next())
        })
        .collect()
}

fn is_excused(
    scene: &Scene<'_>,
    pods: &Pods<'_>,
    (gone, replacement): (&PodLife<'_>, Option<&PodLife<'_>>),
    high: i64,
) -> bool {
    let (Some((doomed, _)), Some((_, name, uid))) = (gone.doomed, gone.owner()) else {
        return true;
    };
    let deadline = doomed.at_us + high;
    let owner = format!("{}/{name}", gone.namespace());
    let wanted = |at: Instant| {
        let set = scene.object_at(REPLICA_SETS, &owner, at.seq)?;
        let going = set.object["metadata"]["deletionTimestamp"].is_string();
        // Another one of the same name is not the owner.
        let is_owner = set.object["metadata"]["uid"] == uid;
        (is_owner && !going).then(|| set.object["spec"]["replicas"].as_u64().unwrap_or(1))
    };
    let Some(replicas) = wanted(doomed) else { return true };
    // With enough others left, nothing is to be replaced.
    let enough = eviction::owned_at(pods, uid, doomed.seq) >= replicas;
    let fewer_soon = scene
        .changes(REPLICA_SETS, &owner)
        .filter(|set| set.when.seq > doomed.seq && set.when.earliest() <= deadline)
        .any(|set| wanted(set.when).is_none_or(|now| now < replicas));
    let ready = replacement.and_then(|pod| pod.ready);
    let unfinished = ready.is_none() && scene.end_us() <= deadline;
    let hindered = replacement.is_some_and(|pod| {
        condition(pod.object, "PodScheduled") == "False"
            || pod
                .doomed
                .is_some_and(|(doomed, _)| ready.is_none() && doomed.earliest() <= deadline)
            || restarts(pod.object) > 0
    });
    enough
        || fewer_soon
        || unfinished
        || hindered
        || scene.is_disturbed(doomed.at_us, deadline, "")
        || scene.blind(&[PODS, REPLICA_SETS], doomed.at_us, deadline)
        || nodes_fall(scene, doomed.at_us, deadline)
}

/// Whether a node fault took effect meanwhile: the replacement may have been put there.
fn nodes_fall(scene: &Scene<'_>, from_us: i64, to_us: i64) -> bool {
    scene.faults.iter().filter(|span| span.fault != "pod-delete").any(|span| {
        span.began().is_some_and(|(began, _)| {
            began <= to_us && began >= from_us - to_us.abs_diff(from_us) as i64 * 6
        }) && span.over().is_none_or(|over| over >= from_us)
    })
}

fn restarts(pod: &Value) -> u64 {
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    statuses.into_iter().flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// How long the readiness probes ask to wait.
fn probe_us(pod: &Value) -> i64 {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let of = |container: &Value| {
        let probe = &container["readinessProbe"];
        if probe.is_null() {
            return 0;
        }
        let field = |name: &str, default: i64| probe[name].as_i64().unwrap_or(default);
        field("initialDelaySeconds", 0) + field("periodSeconds", 10) * field("successThreshold", 1)
    };
    containers.into_iter().flatten().map(of).max().unwrap_or(0) * 1_000_000
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/replacement-time";

    fn owned(pod: &mut Value, ready: bool) {
        pod["metadata"]["ownerReferences"] =
            json!([{"kind": "ReplicaSet", "name": "web", "uid": "uid-web", "controller": true}]);
        let status = if ready { "True" } else { "False" };
        pod["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
    }

    fn replaced(ready: Option<f64>) -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).replica_set("web", 1);
        tape.at(2.0).pod_of("a", "uid-1", |pod| owned(pod, true));
        tape.at(10.0).pod_of("a", "uid-1", |pod| {
            owned(pod, true);
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        tape.at(10.1).pod_of("b", "uid-2", |pod| owned(pod, false));
        if let Some(ready) = ready {
            tape.at(ready).pod_of("b", "uid-2", |pod| owned(pod, true));
        }
        tape
    }

    #[test]
    fn soon_passes_late_or_never_fails() {
        for (ready, verdict) in [(Some(11.0), "PASS"), (Some(20.5), "FAIL"), (None, "FAIL")] {
            assert_eq!(replaced(ready).at(100.0).verdict(ID), verdict, "{ready:?}");
        }
    }

    #[test]
    fn percentiles_are_told_with_their_intervals() {
        let message = replaced(Some(11.0)).at(100.0).judged(ID).message;
        assert!(message.starts_with("n = 1: p50 1.00 s [1.00 s, 1.00 s], p95"), "{message}");
        let times: Vec<i64> = (1..=100).collect();
        assert_eq!([50, 95, 99].map(|percent| super::percentile(&times, percent)), [50, 95, 99]);
        let (low, high) = super::interval(&times, 50);
        assert!((35..=45).contains(&low) && (55..=65).contains(&high), "{low} {high}");
        assert_eq!(super::interval(&times, 50), (low, high));
    }

    #[test]
    fn another_set_of_the_same_name_replaces_none() {
        let mut tape = replaced(None);
        tape.at(12.0).replica_set_again("web", 1);
        assert_eq!(tape.at(100.0).checks_with(ID), 0);
    }

    #[test]
    fn a_set_that_wants_fewer_pods_replaces_none() {
        let mut tape = replaced(None);
        tape.at(12.0).replica_set("web", 0);
        assert_eq!(tape.at(100.0).checks_with(ID), 0);
    }
}
