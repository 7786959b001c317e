//! `idempotent-recovery`: a run with faults ends as the same run without them does.
//!
//! Two timelines of one plan are compared: a reference without faults, and a run in which controllers were
//! restarted or cut off at any of their writes. The objects of the scenario's namespace that are there at
//! the end must be equal but for what differs between any two runs ([`VOLATILE`]), and the controllers may
//! have written to each kind at most as often as in the reference, plus an allowance.

use std::collections::BTreeMap;

use serde_json::Value;
use shakedown_core::plan::Plan;
use shakedown_core::timeline::{Change, Event};
use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::finding::{Judged, broken};
use crate::scene::{Scene, text};

/// The id of the check.
pub const ID: &str = "invariant/idempotent-recovery";

const PROMISE: &str = "a run with faults ends as the one without them does";

/// What differs between two runs that are alike, and why. A `*` stands for each item of a list.
pub const VOLATILE: &[(&str, &str)] = &[
    ("/metadata/uid", "drawn anew for each object"),
    ("/metadata/resourceVersion", "counts all writes, also those of leases and events"),
    ("/metadata/creationTimestamp", "a time"),
    ("/metadata/deletionTimestamp", "a time"),
    ("/metadata/generation", "counts changes, and a repeated one is none"),
    ("/metadata/managedFields", "has times"),
    ("/metadata/ownerReferences/*/uid", "an uid of another object"),
    (
        "/metadata/annotations/deployment.kubernetes.io~1revision",
        "counts rollouts that were resumed",
    ),
    ("/spec/nodeName", "the scheduler's choice, which a dead node changes"),
    ("/spec/hostname", "may be the generated name"),
    ("/spec/clusterIP", "the next free address"),
    ("/spec/clusterIPs", "the next free address"),
    ("/spec/volumes/*/name", "has a generated suffix for the token"),
    ("/spec/containers/*/volumeMounts/*/name", "as the volume's"),
    ("/spec/initContainers/*/volumeMounts/*/name", "as the volume's"),
    ("/status/podIP", "the next free address of the node"),
    ("/status/podIPs", "the next free address of the node"),
    ("/status/hostIP", "the node's"),
    ("/status/hostIPs", "the node's"),
    ("/status/startTime", "a time"),
    ("/status/observedGeneration", "as the generation"),
    ("/status/conditions", "has times; what they say is in the counts and phases beside them"),
    ("/status/containerStatuses/*/containerID", "drawn anew"),
    ("/status/containerStatuses/*/state", "has times"),
    ("/status/containerStatuses/*/lastState", "has times"),
    ("/status/containerStatuses/*/restartCount", "a fault may have ended it"),
];

/// Users whose writes are those of controllers.
const CONTROLLERS: &str = "system:kube-";

/// How many more writes to a kind a run may need: every object once more, for each fault.
fn allowance(objects: usize, faults: usize) -> u64 {
    (10 + objects * (1 + faults) * 2) as u64
}

/// Compares a run with its reference.
pub fn differential(reference: &[Event], run: &[Event], plan: &Plan) -> CheckVerdict {
    judge(reference, run, plan).into_check(ID)
}

fn judge(reference: &[Event], run: &[Event], plan: &Plan) -> Judged {
    let invalid = |why: &str| Judged::new(Verdict::Invalid, why);
    let (Some(wanted), Some(seen)) = (Scene::of(plan, reference), Scene::of(plan, run)) else {
        return invalid("one of the timelines does not have the scenario");
    };
    if !wanted.has_ended || !seen.has_ended {
        return invalid("one of the timelines does not have the scenario's end");
    }
    if wanted.faults.iter().any(|span| span.began().is_some()) {
        return invalid("the reference has faults");
    }
    if [&wanted, &seen].iter().any(|scene| !scene.gaps.is_empty() || !scene.troubles.is_empty()) {
        return invalid("the witness was interrupted, or the harness was in trouble");
    }
    if let Some(span) =
        seen.faults.iter().find(|span| span.began().is_some() && span.over().is_none())
    {
        return invalid(&format!("the fault `{}` was never shown to be over", span.name));
    }
    let (before, after) = (end_state(&wanted), end_state(&seen));
    if before.is_empty() {
        return invalid("the reference ends with no object");
    }
    let mut violations = Vec::new();
    states_differ(&before, &after, &mut violations);
    let counted = counts_differ(&wanted, &seen, &before, &mut violations);
    let many: usize = before.values().map(Vec::len).sum();
    match violations.is_empty() {
        true => Judged::new(
            Verdict::Pass,
            format!("{many} objects end alike; {counted} kinds were written to as often"),
        ),
        false => Judged::new(Verdict::Fail, broken(PROMISE, &violations)),
    }
}

/// By kind and name without a generated suffix: the objects just before the scenario is cleaned up.
type State = BTreeMap<(String, String), Vec<Value>>;

fn end_state(scene: &Scene<'_>) -> State {
    let namespace = scene
        .own()
        .iter()
        .find_map(|event| match &event.what {
            shakedown_core::timeline::What::Bound { name, to } if name == "namespace" => to.first(),
            _ => None,
        })
        .map_or("", String::as_str);
    // The clean-up begins when the namespace is deleted.
    let cleaned = scene
        .of_kind("namespaces")
        .iter()
        .find(|seen| {
            let going = seen.object["metadata"]["deletionTimestamp"].is_string();
            seen.key == namespace && (going || seen.change == Change::Deleted)
        })
        .map_or(u64::MAX, |seen| seen.when.seq.saturating_sub(1));
    let mut state = State::new();
    let kinds: Vec<&str> = scene.objects.keys().copied().filter(|kind| is_compared(kind)).collect();
    for kind in kinds {
        for key in scene.keys(kind).filter(|key| key.split('/').next() == Some(namespace)) {
            let Some(last) = scene.object_at(kind, key, cleaned) else { continue };
            let mut object = last.object.clone();
            let name = plain_name(&object);
            strip(&mut object);
            state.entry((kind.to_owned(), name)).or_default().push(object);
        }
    }
    // Objects with generated names have no order of their own.
    for all in state.values_mut() {
        all.sort_by_key(Value::to_string);
    }
    state
}

/// Leases live by time; events tell what happened and not what is.
fn is_compared(kind: &str) -> bool {
    !["leases.coordination.k8s.io", "events", "namespaces", "nodes"].contains(&kind)
}

/// The name, or what a generated one begins with.
fn plain_name(object: &Value) -> String {
    match text(object, "/metadata/generateName") {
        "" => text(object, "/metadata/name").to_owned(),
        prefix => prefix.to_owned(),
    }
}

fn strip(object: &mut Value) {
    if object["metadata"]["generateName"].is_string()
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("name");
    }
    for (path, _) in VOLATILE {
        let words: Vec<&str> = path.split('/').skip(1).collect();
        remove(object, &words);
    }
}

fn remove(value: &mut Value, words: &[&str]) {
    match words {
        [] => {}
        ["*", rest @ ..] => {
            value.as_array_mut().into_iter().flatten().for_each(|item| remove(item, rest));
        }
        [last] => {
            if let Some(fields) = value.as_object_mut() {
                fields.remove(&last.replace("~1", "/"));
            }
        }
        [first, rest @ ..] => {
            if let Some(field) = value.get_mut(*first) {
                remove(field, rest);
            }
        }
    }
}

fn states_differ(wanted: &State, seen: &State, violations: &mut Vec<String>) {
    for ((kind, name), objects) in wanted {
        let Some(others) = seen.get(&(kind.clone(), name.clone())) else {
            violations.push(format!("{kind} {name} is missing at the end"));
            continue;
        };
        if objects.len() != others.len() {
            violations.push(format!(
                "there are {} {kind} {name} at the end, and {} in the reference",
                others.len(),
                objects.len()
            ));
            continue;
        }
        for (object, other) in objects.iter().zip(others) {
            if let Some((path, was, is)) = first_difference(object, other, String::new()) {
                violations.push(format!("{kind} {name}: {path} is {is}, in the reference {was}"));
                break;
            }
        }
    }
    for (kind, name) in seen.keys().filter(|key| !wanted.contains_key(*key)) {
        violations.push(format!("{kind} {name} is there at the end and not in the reference"));
    }
}

/// Where two values differ first, and what they are there.
fn first_difference(one: &Value, other: &Value, path: String) -> Option<(String, Value, Value)> {
    match (one, other) {
        (Value::Object(left), Value::Object(right)) => {
            let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
            names.into_iter().find_map(|name| {
                let nothing = Value::Null;
                let (left, right) =
                    (left.get(name).unwrap_or(&nothing), right.get(name).unwrap_or(&nothing));
                first_difference(left, right, format!("{path}/{name}"))
            })
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            left.iter().zip(right).enumerate().find_map(|(at, (left, right))| {
                first_difference(left, right, format!("{path}/{at}"))
            })
        }
        _ => (one != other).then(|| (path, one.clone(), other.clone())),
    }
}

/// Compares how often controllers wrote to each kind; answers how many kinds there are.
fn counts_differ(
    wanted: &Scene<'_>,
    seen: &Scene<'_>,
    state: &State,
    violations: &mut Vec<String>,
) -> usize {
    let count = |scene: &Scene<'_>| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let acked = scene.audit.iter().filter(|line| {
            line.user.starts_with(CONTROLLERS)
                && (200..300).contains(&line.code)
                && is_compared(line.kind)
        });
        for line in acked {
            *counts.entry(line.kind.to_owned()).or_default() += 1;
        }
        counts
    };
    let (before, after) = (count(wanted), count(seen));
    let faults = seen.faults.iter().filter(|span| span.began().is_some()).count();
    for (kind, writes) in &after {
        let objects =
            state.iter().filter(|((of, _), _)| of == kind).map(|(_, all)| all.len()).sum();
        let most = before.get(kind).copied().unwrap_or(0) + allowance(objects, faults);
        if *writes > most {
            violations.push(format!(
                "controllers wrote {writes} times to {kind}, {} times in the reference, {most} are allowed",
                before.get(kind).copied().unwrap_or(0)
            ));
        }
    }
    after.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shakedown_core::timeline::FaultPhase::{Applied, HealProven, Proven};

    use super::*;
    use crate::testing::{Tape, kill};

    fn pod(tape: &mut Tape, suffix: &str, node: &str, image: &str) {
        tape.pod(&format!("web-{suffix}"), |pod: &mut Value| {
            pod["metadata"]["generateName"] = json!("web-");
            pod["spec"] = json!({"nodeName": node, "containers": [{"image": image}]});
            pod["status"] = json!({"phase": "Running", "podIP": suffix});
        });
    }

    fn write(tape: &mut Tape, times: u32) {
        for _ in 0..times {
            let key = ("pods", "shop/web");
            tape.audit("system:kube-controller-manager", "update", key, 1, "");
        }
    }

    fn reference() -> (Plan, Vec<Event>) {
        let mut tape = Tape::new(kill());
        pod(tape.at(1.0), "a", "worker-1", "web:1");
        pod(tape.at(1.0), "b", "worker-2", "web:1");
        write(&mut tape, 4);
        tape.at(60.0).finish()
    }

    fn judged(change: impl FnOnce(&mut Tape)) -> Verdict {
        let (plan, wanted) = reference();
        let mut tape = Tape::new(kill());
        pod(tape.at(1.0), "c", "worker-3", "web:1");
        tape.at(5.0).fault("kill", "process-kill", Applied, &["cp-1"]);
        tape.fault("kill", "process-kill", Proven, &["cp-1"]);
        change(&mut tape);
        let (_, run) = tape.at(50.0).finish();
        differential(&wanted, &run, &plan).verdict
    }

    fn healed(tape: &mut Tape) -> &mut Tape {
        tape.fault("kill", "process-kill", HealProven, &["cp-1"]);
        tape
    }

    #[test]
    fn volatile_fields_do_not_count() {
        let verdict = judged(|tape| pod(healed(tape), "d", "worker-3", "web:1"));
        assert_eq!(verdict, Verdict::Pass);
    }

    #[test]
    fn each_difference_is_found() {
        let missing = judged(|tape| {
            healed(tape);
        });
        let other = judged(|tape| pod(healed(tape), "d", "worker-3", "web:2"));
        let more = judged(|tape| {
            pod(healed(tape), "d", "worker-3", "web:1");
            tape.pod("stray", |_| {});
        });
        let busy = judged(|tape| {
            pod(healed(tape), "d", "worker-3", "web:1");
            write(tape, 40);
        });
        for (name, verdict) in
            [("missing", missing), ("other", other), ("more", more), ("busy", busy)]
        {
            assert_eq!(verdict, Verdict::Fail, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_invalid() {
        let unhealed = judged(|tape| pod(tape, "d", "worker-3", "web:1"));
        let blind = judged(|tape| {
            pod(healed(tape), "d", "worker-3", "web:1");
            tape.gap("pods");
        });
        assert_eq!((unhealed, blind), (Verdict::Invalid, Verdict::Invalid));
        let (plan, wanted) = reference();
        assert_eq!(differential(&wanted, &[], &plan).verdict, Verdict::Invalid);
        assert_eq!(differential(&wanted, &wanted, &plan).verdict, Verdict::Pass);
    }
}
