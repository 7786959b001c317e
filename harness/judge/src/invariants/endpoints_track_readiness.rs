//! `endpoints-track-readiness`: a Service's ready endpoints are its Ready pods, soon after any change.
//!
//! ```yaml
//! invariants: [endpoints-track-readiness]
//! ```
//!
//! While nothing is broken: an address that an EndpointSlice calls ready belongs to a pod that was Ready
//! at some time in the last five seconds; a pod that a Service selects and that has been Ready for more
//! than five seconds is a ready endpoint of it. Judged at each change of a slice and at the end; where no
//! EndpointSlice was seen there is nothing to judge. Connections are not in the timeline.

use std::collections::BTreeSet;

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{PODS, Scene, Seen, condition, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "endpoints-track-readiness",
    promise: "ready endpoints are the Ready pods, within five seconds of any change",
    judge,
};

const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICES: &str = "services";
/// So long a controller may take.
const LAG_US: i64 = 5_000_000;

fn judge(scene: &Scene<'_>) -> Finding {
    if scene.of_kind(SLICES).is_empty() {
        return Finding::nothing("no EndpointSlice was seen");
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    for slice in scene.of_kind(SLICES) {
        if slice.change == Change::Deleted || slice.is_listed {
            continue;
        }
        let until = slice.when.at_us;
        if scene.is_calm(until - LAG_US, until) {
            judged += 1;
            let wrong = ready_pods(slice.object)
                .into_iter()
                .find(|pod| !was_ready(scene, pod, (until - LAG_US, until)));
            violations.extend(wrong.map(|pod| {
                format!("{} has {pod}, which is not Ready (event {})", slice.key, slice.when.seq)
            }));
        }
    }
    let end = scene.end_us();
    if scene.is_calm(end - LAG_US, end) {
        judged += 1;
        at_the_end(scene, end, &mut violations);
    }
    if judged == 0 {
        return Finding::nothing("something was broken whenever a slice changed");
    }
    let is_blind = scene.gaps.iter().any(|(_, kind)| [PODS, SLICES, SERVICES].contains(kind));
    let seen = format!("{judged} times at which endpoints and pods agree");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// The keys of the pods that a slice calls ready.
fn ready_pods(slice: &Value) -> BTreeSet<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    // Absent means unknown, which counts as ready.
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let namespace = text(slice, "/metadata/namespace");
    let pods = ready.filter(|endpoint| endpoint["targetRef"]["kind"] == "Pod");
    pods.map(|endpoint| format!("{namespace}/{}", text(endpoint, "/targetRef/name"))).collect()
}

fn is_ready(seen: &Seen<'_>) -> bool {
    seen.change != Change::Deleted
        && condition(seen.object, "Ready") == "True"
        && !seen.object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether a pod was Ready at some time in this interval.
fn was_ready(scene: &Scene<'_>, pod: &str, (from, to): (i64, i64)) -> bool {
    let versions: Vec<_> = scene.changes(PODS, pod).collect();
    versions.iter().enumerate().any(|(at, seen)| {
        let ended = versions.get(at + 1).map_or(i64::MAX, |next| next.when.at_us);
        is_ready(seen) && seen.when.earliest() <= to && ended >= from
    })
}

fn at_the_end(scene: &Scene<'_>, end: i64, violations: &mut Vec<String>) {
    let last = |kind: &'static str, key: &str| {
        scene.changes(kind, key).last().filter(|seen| seen.change != Change::Deleted)
    };
    let slices: Vec<_> = scene.keys(SLICES).filter_map(|key| last(SLICES, key)).collect();
    for slice in &slices {
        let wrong = ready_pods(slice.object)
            .into_iter()
            .find(|pod| !was_ready(scene, pod, (end - LAG_US, end)));
        violations.extend(wrong.map(|pod| {
            format!(
                "{} has {pod} at the end, which is not Ready (event {})",
                slice.key, slice.when.seq
            )
        }));
    }
    for service in scene.keys(SERVICES).filter_map(|key| last(SERVICES, key)) {
        let namespace = text(service.object, "/metadata/namespace");
        let name = text(service.object, "/metadata/name");
        let Some(selector) = service.object["spec"]["selector"].as_object() else { continue };
        let own = slices.iter().filter(|slice| {
            text(slice.object, "/metadata/namespace") == namespace
                && slice.object["metadata"]["labels"]["kubernetes.io/service-name"] == name
        });
        let ready: BTreeSet<_> = own.flat_map(|slice| ready_pods(slice.object)).collect();
        for pod in scene.keys(PODS).filter_map(|key| last(PODS, key)) {
            let labels = &pod.object["metadata"]["labels"];
            let is_selected = text(pod.object, "/metadata/namespace") == namespace
                && !selector.is_empty()
                && selector.iter().all(|(key, value)| labels[key] == *value);
            let long = service.when.at_us.max(pod.when.at_us) < end - LAG_US;
            if is_selected && long && is_ready(pod) && !ready.contains(&pod.key) {
                violations.push(format!(
                    "{} is Ready and no endpoint of {} (event {})",
                    pod.key, service.key, pod.when.seq
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/endpoints-track-readiness";

    fn pod(tape: &mut Tape, ready: &str) {
        tape.pod("a", |pod| {
            pod["metadata"]["labels"] = json!({"app": "web"});
            pod["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
        });
    }

    fn slice(tape: &mut Tape, ready: bool) {
        tape.thing(
            "endpointslices.discovery.k8s.io",
            json!({
                "metadata": {"namespace": "shop", "name": "web-1",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "endpoints": [{"conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": "a"}}],
            }),
        );
    }

    fn tape() -> Tape {
        let mut tape = Tape::new(kill());
        let metadata = json!({"namespace": "shop", "name": "web"});
        let spec = json!({"selector": {"app": "web"}});
        tape.at(1.0).thing("services", json!({"metadata": metadata, "spec": spec}));
        tape
    }

    #[test]
    fn endpoints_follow_their_pods() {
        for (pod_is, endpoint_is, verdict) in [
            ("True", true, "PASS"),
            ("False", false, "PASS"),
            ("False", true, "FAIL"),
            ("True", false, "FAIL"),
        ] {
            let mut tape = tape();
            pod(tape.at(10.0), pod_is);
            slice(tape.at(11.0), endpoint_is);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{pod_is} {endpoint_is}");
        }
    }

    #[test]
    fn five_seconds_are_allowed_and_no_more() {
        for (at, verdict) in [(14.0, "PASS"), (16.0, "FAIL")] {
            let mut tape = tape();
            pod(tape.at(5.0), "True");
            pod(tape.at(10.0), "False");
            slice(tape.at(at), true);
            slice(tape.at(17.0), false);
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{at}");
        }
    }

    #[test]
    fn without_slices_there_is_nothing_to_judge() {
        assert_eq!(tape().at(60.0).checks_with(ID), 0);
    }
}
