//! `idempotent-recovery`: a run with faults ends as the same run without them does.
//!
//! Two timelines of one plan are compared: a reference, and a run with faults more, in which controllers were
//! restarted or cut off at any of their writes, or saw late, never, or what was before. The objects that are
//! there at the end must be equal but for what differs between any two runs ([`VOLATILE`]). The controllers
//! may have created no more than in the reference, and written to each kind at most as often, plus an
//! allowance: what was decided may be decided again, and what has been created must be found again.
//!
//! Limit: a view that goes back in time may show what was before a creation. Upstream's controllers, too,
//! create again then (a restarted one lists from any API server, kubernetes#59848), and delete what is too
//! much. So after a rewind as much again may have been created; the end must be the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use shakedown_core::plan::Plan;
use shakedown_core::timeline::{Change, Event, What};
use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::finding::{Judged, broken};
use crate::scene::{FaultSpan, Scene, text};

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
    ("/spec/nodeName", "the scheduler's choice, which a dead node changes"),
    ("/spec/hostname", "may be the generated name"),
    ("/spec/clusterIP", "the next free address"),
    ("/spec/clusterIPs", "the next free address"),
    ("/spec/volumes/*/name", "has a generated suffix for the token"),
    ("/spec/containers/*/volumeMounts/*/name", "as the volume's"),
    ("/spec/initContainers/*/volumeMounts/*/name", "as the volume's"),
    ("/spec/taints/*/timeAdded", "a time"),
    ("/spec/podCIDR", "the next free range of the cluster"),
    ("/spec/podCIDRs", "the next free range of the cluster"),
    ("/status/images", "what has run on the node"),
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
    let began = |span: &&FaultSpan<'_>| span.began().is_some();
    let names = |scene: &Scene<'_>| -> BTreeSet<String> {
        scene.faults.iter().filter(began).map(|span| span.name.to_owned()).collect()
    };
    if !names(&wanted).is_subset(&names(&seen)) {
        return invalid("the reference has faults that the run has not");
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
    let more = names(&seen).len() - names(&wanted).len();
    let faults = seen.faults.iter().filter(began).map(|span| span.fault);
    let spare = Spare { faults: more, creations: spare_creations(faults) };
    let counted = counts_differ(&wanted, &seen, (&before, spare), &mut violations);
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

/// The scenario's own namespace.
fn namespace<'a>(scene: &Scene<'a>) -> &'a str {
    let bound = scene.own().iter().find_map(|event| match &event.what {
        What::Bound { name, to } if name == "namespace" => to.first(),
        _ => None,
    });
    bound.map_or("", String::as_str)
}

/// The last event before the clean-up: it begins when every member has been asked what it holds, where
/// members can be asked, and deletes the namespace.
fn last(scene: &Scene<'_>) -> u64 {
    let asked = scene.own().iter().find(|event| matches!(event.what, What::StoreHash { .. }));
    if let Some(asked) = asked {
        return asked.seq;
    }
    let namespace = namespace(scene);
    let deleted = scene.of_kind("namespaces").iter().find(|seen| {
        let going = seen.object["metadata"]["deletionTimestamp"].is_string();
        seen.key == namespace && (going || seen.change == Change::Deleted)
    });
    deleted.map_or(u64::MAX, |seen| seen.when.seq.saturating_sub(1))
}

fn end_state(scene: &Scene<'_>) -> State {
    let (own, last) = (namespace(scene), last(scene));
    let mut state = State::new();
    let kinds: Vec<&str> = scene.objects.keys().copied().filter(|kind| is_compared(kind)).collect();
    for kind in kinds {
        for key in scene.keys(kind).filter(|key| !is_systems(key)) {
            let Some(last) = scene.object_at(kind, key, last) else { continue };
            let (mut object, mut name) = (last.object.plain(), plain_name(last.object));
            strip(&mut object);
            match text(last.object, "/metadata/namespace") {
                "" if name == own => continue,
                "" => {}
                place if place == own => object["metadata"]["namespace"] = Value::Null,
                place => name = format!("{place}/{name}"),
            }
            state.entry((kind.to_owned(), name)).or_default().push(object);
        }
    }
    // Objects with generated names have no order of their own.
    for all in state.values_mut() {
        all.sort_by_key(Value::to_string);
    }
    state
}

/// Whether an object is of the cluster itself and of no scenario.
fn is_systems(key: &str) -> bool {
    key.split('/').next().is_some_and(|namespace| namespace.starts_with("kube-"))
}

/// Leases live by time; events tell what happened and not what is.
fn is_compared(kind: &str) -> bool {
    !["leases.coordination.k8s.io", "events"].contains(&kind)
}

/// The name, or what a generated one begins with.
fn plain_name(object: &shakedown_core::json::Value) -> String {
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

/// What a run may do more than its reference.
#[derive(Clone, Copy)]
struct Spare {
    /// How many faults it has more.
    faults: usize,
    /// How often it may create what the reference creates; `None` if as often as it may write.
    creations: Option<u64>,
}

/// A controller that dies, or sees late or nothing, creates nothing twice. One whose view goes back may
/// create once more what it does not see. What other faults end must be created anew.
fn spare_creations<'f>(faults: impl Iterator<Item = &'f str>) -> Option<u64> {
    let mut most = 1;
    for fault in faults {
        match fault {
            "crash-at-write" | "freeze-view" | "hold-events" => {}
            "rewind" => most = 2,
            _ => return None,
        }
    }
    Some(most)
}

/// Writes of controllers to a kind: all, and creations.
type Written = BTreeMap<String, (u64, u64)>;

fn written(scene: &Scene<'_>) -> Written {
    let last = last(scene);
    let mut counts = Written::new();
    let acked = scene.audit.iter().filter(|line| {
        line.user.starts_with(CONTROLLERS)
            && (200..300).contains(&line.code)
            && is_compared(line.kind)
            && line.when.seq <= last
    });
    for line in acked {
        let (all, created) = counts.entry(line.kind.to_owned()).or_default();
        *all += 1;
        // The creation of a binding is a change of the pod.
        *created += u64::from(line.verb == "create" && line.key.split('/').count() <= 2);
    }
    counts
}

/// Compares how often controllers wrote to each kind; answers how many kinds there are.
fn counts_differ(
    wanted: &Scene<'_>,
    seen: &Scene<'_>,
    (state, spare): (&State, Spare),
    violations: &mut Vec<String>,
) -> usize {
    let (before, after) = (written(wanted), written(seen));
    for (kind, (writes, created)) in &after {
        let objects =
            state.iter().filter(|((of, _), _)| of == kind).map(|(_, all)| all.len()).sum();
        let (known, known_created) = before.get(kind).copied().unwrap_or_default();
        let most = known + allowance(objects, spare.faults);
        if *writes > most {
            violations.push(format!(
                "controllers wrote {writes} times to {kind}, {known} times in the reference, {most} are allowed"
            ));
        }
        if let Some(most) = spare.creations.map(|times| known_created * times)
            && *created > most
        {
            violations.push(format!(
                "controllers created {created} {kind}, {known_created} in the reference, {most} are allowed"
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

    fn create(tape: &mut Tape, times: usize) {
        for at in 0..times {
            let key = format!("shop/web-{at}");
            tape.audit("system:kube-controller-manager", "create", ("pods", &key), 1, "");
        }
    }

    #[test]
    fn nothing_is_created_twice_unless_a_view_went_back() {
        let judged = |fault: &str, times: usize, ends: bool| {
            let mut tape = Tape::new(kill());
            pod(tape.at(1.0), "a", "worker-1", "web:1");
            create(&mut tape, 2);
            let (plan, wanted) = tape.at(60.0).finish();
            let mut tape = Tape::new(kill());
            pod(tape.at(1.0), "a", "worker-1", "web:1");
            for phase in [Applied, Proven, HealProven] {
                tape.at(5.0).fault("f", fault, phase, &["cp-1"]);
            }
            create(&mut tape, times);
            if ends {
                // The clean-up ends what was made.
                tape.at(40.0).hash("cp-1", 1, 1);
                tape.pod("stray", |_| {});
                create(&mut tape, 100);
            }
            let (_, run) = tape.at(60.0).finish();
            differential(&wanted, &run, &plan).verdict
        };
        for (fault, times, verdict) in [
            ("crash-at-write", 2, Verdict::Pass),
            ("crash-at-write", 3, Verdict::Fail),
            ("freeze-view", 3, Verdict::Fail),
            ("hold-events", 3, Verdict::Fail),
            ("rewind", 4, Verdict::Pass),
            ("rewind", 5, Verdict::Fail),
            // What dies with a node is made anew.
            ("node-kill", 9, Verdict::Pass),
        ] {
            assert_eq!(judged(fault, times, false), verdict, "{fault} {times}");
        }
        assert_eq!(
            judged("crash-at-write", 2, true),
            Verdict::Pass,
            "the clean-up is no end state"
        );
    }

    #[test]
    fn a_fault_of_both_is_none_of_the_difference() {
        let tape = |more: &[&str]| {
            let mut tape = Tape::new(kill());
            pod(tape.at(1.0), "a", "worker-1", "web:1");
            for name in more {
                for phase in [Applied, Proven, HealProven] {
                    tape.at(5.0).fault(name, "taint", phase, &["worker-1"]);
                }
            }
            tape.at(60.0).finish()
        };
        let verdict = |one: &[&str], other: &[&str]| {
            let (plan, wanted) = tape(one);
            differential(&wanted, &tape(other).1, &plan).verdict
        };
        assert_eq!(verdict(&["taint"], &["taint", "kill"]), Verdict::Pass);
        assert_eq!(verdict(&["taint"], &["kill"]), Verdict::Invalid);
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
