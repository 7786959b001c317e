//! `scheduling-feasible`: a pod is bound only to a node that it fits at that revision.
//!
//! ```yaml
//! invariants: [scheduling-feasible]
//! ```
//!
//! For each pod that the scheduler binds: the node was there, not cordoned, and had no NoSchedule or
//! NoExecute taint that the pod does not tolerate; its labels match `nodeSelector` and the required node
//! affinity; the requests of its pods and their number stay within allocatable. A scheduler may go by
//! what it saw a second before, so the node counts as it was at any time in that second, and pods that
//! others put there in that second do not count. Affinity between pods is not judged.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use super::silence::WORK_US;
use crate::finding::Finding;
use crate::scene::{NODES, PODS, Scene, Seen, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "scheduling-feasible",
    promise: "a pod is bound only to a node that it fits",
    judge,
};

/// A pod that takes room on its node.
struct Placed<'a> {
    object: &'a Value,
    at_us: i64,
    is_bound: bool,
}

/// The pods that take room on each node, by uid.
type OnNode<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Placed<'a>>>;

fn judge(scene: &Scene<'_>) -> Finding {
    let mut violations = Vec::new();
    let mut judged = 0;
    // By uid: the pods that are on a node, and those that wait for one.
    let mut placed: BTreeMap<&str, &str> = BTreeMap::new();
    let mut on_node: OnNode<'_> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, ()> = BTreeMap::new();
    for seen in scene.of_kind(PODS) {
        let uid = text(seen.object, "/metadata/uid");
        let node = text(seen.object, "/spec/nodeName");
        let is_over = ["Failed", "Succeeded"].contains(&text(seen.object, "/status/phase"));
        if seen.change == Change::Deleted || is_over {
            if let Some(node) = placed.remove(uid)
                && let Some(pods) = on_node.get_mut(node)
            {
                pods.remove(uid);
            }
            waiting.remove(uid);
            continue;
        }
        if node.is_empty() {
            waiting.insert(uid, ());
            continue;
        }
        if placed.contains_key(uid) {
            continue;
        }
        let is_bound = waiting.remove(uid).is_some();
        if is_bound {
            judged += 1;
            let told = unfit(scene, seen, node, on_node.get(node));
            violations.extend(told.map(|why| {
                format!("{} was bound to {node}: {why} (event {})", seen.key, seen.when.seq)
            }));
        }
        let at_us = seen.when.at_us;
        placed.insert(uid, node);
        let pods = on_node.entry(node).or_default();
        pods.insert(uid, Placed { object: seen.object, at_us, is_bound });
    }
    if judged == 0 {
        return Finding::nothing("no pod was seen to be bound");
    }
    let is_blind = scene.gaps.iter().any(|(_, kind)| [PODS, NODES].contains(kind));
    let seen = format!("{judged} bindings, each to a node that fits");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// Why the pod does not fit; `None` if it did at some time in the last second.
fn unfit(
    scene: &Scene<'_>,
    pod: &Seen<'_>,
    node: &str,
    placed: Option<&BTreeMap<&str, Placed<'_>>>,
) -> Option<String> {
    let since = pod.when.earliest() - WORK_US;
    let versions: Vec<_> =
        scene.changes(NODES, node).filter(|seen| seen.revision < pod.revision).collect();
    let mut in_force = versions.iter().enumerate().filter(|(at, seen)| {
        let is_recent = versions.get(at + 1).is_none_or(|next| next.when.at_us >= since);
        is_recent && seen.change != Change::Deleted
    });
    let others: Vec<_> = placed
        .into_iter()
        .flat_map(BTreeMap::values)
        .filter(|other| other.is_bound || other.at_us < since)
        .map(|other| other.object)
        .collect();
    let mut why = Some("there was no such node".to_owned());
    if in_force.clone().next().is_none() && versions.is_empty() {
        // Before its first change nothing is known of a node.
        return scene.changes(NODES, node).next().is_none().then(|| why.unwrap_or_default());
    }
    let fits = in_force.any(|(_, seen)| {
        why = no_room(seen.object, pod.object, &others);
        why.is_none()
    });
    if fits { None } else { why }
}

fn no_room(node: &Value, pod: &Value, others: &[&Value]) -> Option<String> {
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap_or_default();
    let bears = |taint: &Value| tolerations.iter().any(|toleration| tolerates(toleration, taint));
    if node["spec"]["unschedulable"] == true {
        let cordon = serde_json::json!({
            "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule",
        });
        if !bears(&cordon.into()) {
            return Some("it was cordoned".to_owned());
        }
    }
    let taints = node["spec"]["taints"].as_array().unwrap_or_default();
    let hard = |taint: &&Value| taint["effect"] == "NoSchedule" || taint["effect"] == "NoExecute";
    if let Some(taint) = taints.iter().filter(hard).find(|taint| !bears(taint)) {
        return Some(format!("it had the taint {}:{}", taint["key"], taint["effect"]));
    }
    if !selected(node, pod) {
        return Some("its labels do not match".to_owned());
    }
    let offers = node.pointer("/status/allocatable").and_then(Value::as_object)?;
    let pods = offers.get("pods").and_then(amount).unwrap_or(i128::MAX);
    if 1000 * (others.len() as i128 + 1) > pods {
        return Some(format!("it has room for {} pods", pods / 1000));
    }
    for (resource, wanted) in requests(pod).into_iter().filter(|(_, wanted)| *wanted > 0) {
        let taken: i128 =
            others.iter().map(|other| requests(other).get(&resource).copied().unwrap_or(0)).sum();
        let offered = offers.get(&resource).and_then(amount).unwrap_or(0);
        if taken + wanted > offered {
            return Some(format!(
                "{resource}: {taken} taken and {wanted} asked for, {offered} there (thousandths)"
            ));
        }
    }
    None
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let field = |name: &str| toleration[name].as_str().unwrap_or_default();
    let effect = field("effect").is_empty() || toleration["effect"] == taint["effect"];
    let key = field("key").is_empty() || toleration["key"] == taint["key"];
    let value = match field("operator") {
        "Exists" => true,
        _ => {
            !field("key").is_empty()
                && field("value") == taint["value"].as_str().unwrap_or_default()
        }
    };
    effect && key && value
}

/// Whether a node has the labels that a pod asks for.
fn selected(node: &Value, pod: &Value) -> bool {
    let label = |name: &str| node["metadata"]["labels"][name].as_str();
    let wanted = pod["spec"]["nodeSelector"].as_object();
    let mut wanted = wanted.into_iter().flatten();
    let all = wanted.all(|(name, value)| label(name) == value.as_str());
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                    /nodeSelectorTerms";
    let Some(terms) = pod.pointer(required).and_then(Value::as_array) else { return all };
    let term_fits = |term: &Value| {
        let rules = term["matchExpressions"].as_array();
        let fields = term["matchFields"].as_array();
        let name = node["metadata"]["name"].as_str();
        rules.into_iter().flatten().all(|rule| rule_fits(rule, label(text(rule, "/key"))))
            && fields.into_iter().flatten().all(|rule| rule_fits(rule, name))
    };
    all && terms.iter().any(term_fits)
}

fn rule_fits(rule: &Value, seen: Option<&str>) -> bool {
    let values = rule["values"].as_array().unwrap_or_default();
    let is_among = seen.is_some_and(|seen| values.iter().any(|value| value == seen));
    let compare = |is_right: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(Value::as_str).and_then(|text| text.parse().ok());
        let seen = seen.and_then(|text| text.parse().ok());
        seen.zip(bound).is_some_and(|(seen, bound)| is_right(seen, bound))
    };
    match text(rule, "/operator") {
        "In" => is_among,
        "NotIn" => !is_among,
        "Exists" => seen.is_some(),
        "DoesNotExist" => seen.is_none(),
        "Gt" => compare(|seen, bound| seen > bound),
        "Lt" => compare(|seen, bound| seen < bound),
        _ => false,
    }
}

/// What a pod asks for, in thousandths: its containers together, or its greatest init container.
fn requests(pod: &Value) -> BTreeMap<String, i128> {
    let mut sum: BTreeMap<String, i128> = BTreeMap::new();
    let of = |list: &str| pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
    let asked = |container: &Value| -> Vec<(String, i128)> {
        let all = container.pointer("/resources/requests").and_then(Value::as_object);
        let all = all.into_iter().flatten();
        all.filter_map(|(name, text)| Some((name.to_owned(), amount(text)?))).collect()
    };
    for (name, wanted) in of("/spec/containers").flat_map(asked) {
        *sum.entry(name).or_default() += wanted;
    }
    for (name, wanted) in of("/spec/initContainers").flat_map(asked) {
        let known = sum.entry(name).or_default();
        *known = (*known).max(wanted);
    }
    sum
}

/// A quantity in thousandths; `None` if it cannot be read.
fn amount(quantity: &Value) -> Option<i128> {
    const SUFFIXES: &[(&str, i128)] = &[
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let text = match quantity {
        Value::Number(number) => return Some(i128::from(number.as_i64()?) * 1000),
        Value::String(text) => &**text,
        _ => return None,
    };
    if let Some(thousandths) = text.strip_suffix('m') {
        return thousandths.parse().ok();
    }
    let suffix = SUFFIXES
        .iter()
        .find_map(|(suffix, times)| text.strip_suffix(suffix).map(|number| (number, *times)));
    let (number, times) = suffix.unwrap_or((text, 1));
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part: String = format!("{part}000").chars().take(3).collect();
    Some((whole.parse::<i128>().ok()? * 1000 + part.parse::<i128>().ok()?) * times)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::amount;
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/scheduling-feasible";

    type Corruption = fn(&mut Value);

    /// A node with one CPU and room for two pods; `b` is bound there after `a`.
    fn bound(node: Corruption, pod: Corruption) -> Tape {
        let mut tape = Tape::new(kill());
        let mut object = json!({
            "metadata": {"name": "worker-1", "labels": {"zone": "a", "size": "3"}}, "spec": {},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "2"}},
        });
        node(&mut object);
        tape.at(1.0).thing("nodes", object);
        for (name, at) in [("a", 3.0), ("b", 4.0)] {
            let spec = json!({
                "nodeSelector": {"zone": "a"},
                "containers": [{"resources": {"requests": {"cpu": "500m", "memory": "0.5Gi"}}}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchExpressions":
                        [{"key": "size", "operator": "Gt", "values": ["2"]}]}]}}},
            });
            tape.at(at).pod(name, |pod| pod["spec"] = spec.clone());
            tape.at(at + 0.1).pod(name, |value| {
                value["spec"] = spec;
                value["spec"]["nodeName"] = json!("worker-1");
                if name == "b" {
                    pod(value);
                }
            });
        }
        tape
    }

    #[test]
    fn what_fits_passes() {
        assert_eq!(bound(|_| {}, |_| {}).at(60.0).verdict(ID), "PASS");
        let tolerated: Tape = bound(
            |node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]),
            |pod| pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]),
        );
        // The other pod tolerates nothing.
        let message = tolerated.clone().at(60.0).judged(ID).message;
        assert!(message.contains("shop/a") && !message.contains("shop/b"), "{message}");
    }

    #[test]
    fn each_clause_rejects() {
        let nothing: Corruption = |_| {};
        let cases: &[(&str, Corruption, Corruption)] = &[
            ("no such node", nothing, |pod| pod["spec"]["nodeName"] = json!("worker-9")),
            ("cordoned", |node| node["spec"]["unschedulable"] = json!(true), nothing),
            (
                "tainted",
                |node| {
                    node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]);
                },
                nothing,
            ),
            ("selector", nothing, |pod| pod["spec"]["nodeSelector"] = json!({"zone": "b"})),
            ("affinity", |node| node["metadata"]["labels"]["size"] = json!("2"), nothing),
            ("cpu", nothing, |pod| {
                pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("501m");
            }),
            ("memory", |node| node["status"]["allocatable"]["memory"] = json!("1000Mi"), nothing),
            ("pods", |node| node["status"]["allocatable"]["pods"] = json!("1"), nothing),
        ];
        for (name, node, pod) in cases {
            assert_eq!(bound(*node, *pod).at(60.0).verdict(ID), "FAIL", "{name}");
        }
    }

    #[test]
    fn what_changed_just_before_is_excused_and_blindness_is_no_pass() {
        for (at, verdict) in [(3.9, "PASS"), (3.0, "FAIL")] {
            let mut tape = Tape::new(kill());
            tape.at(1.0).thing("nodes", json!({"metadata": {"name": "worker-1"}, "spec": {}}));
            tape.at(2.0).pod("a", |_| {});
            let cordoned =
                json!({"metadata": {"name": "worker-1"}, "spec": {"unschedulable": true}});
            tape.at(at).thing("nodes", cordoned);
            tape.at(4.5).pod("a", |pod| pod["spec"]["nodeName"] = json!("worker-1"));
            assert_eq!(tape.at(60.0).verdict(ID), verdict, "{at}");
        }
        let mut blind = bound(|node| node["spec"]["unschedulable"] = json!(true), |_| {});
        blind.gap("nodes");
        assert_eq!(blind.at(60.0).verdict(ID), "INVALID");
    }

    #[test]
    fn quantities_are_read() {
        for (text, thousandths) in
            [("500m", 500), ("1", 1000), ("0.5", 500), ("1Ki", 1_024_000), ("2k", 2_000_000)]
        {
            assert_eq!(amount(&json!(text).into()), Some(thousandths), "{text}");
        }
    }
}
