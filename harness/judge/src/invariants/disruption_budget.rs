//! `disruption-budget`: no eviction succeeds that its PodDisruptionBudget does not allow.
//!
//! ```yaml
//! invariants: [disruption-budget]
//! ```
//!
//! For each eviction that the audit log shows to have succeeded: at the revision before it, the pods that
//! a budget selects had more healthy ones (Ready, not terminating) than it wants, computed from the
//! objects and not from its status. A pod that was not healthy itself may always be evicted. Where no
//! budget was seen there is nothing to judge.

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::Invariant;
use crate::finding::Finding;
use crate::scene::{AuditLine, PODS, Scene, Seen, condition, text};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "disruption-budget",
    promise: "no eviction succeeds that its PodDisruptionBudget does not allow",
    judge,
};

const BUDGETS: &str = "poddisruptionbudgets.policy";

fn judge(scene: &Scene<'_>) -> Finding {
    if scene.of_kind(BUDGETS).is_empty() {
        return Finding::nothing("no PodDisruptionBudget was seen");
    }
    let mut violations = Vec::new();
    let mut judged = 0;
    for line in &scene.audit {
        let Some(pod) = line.key.strip_suffix("/eviction") else { continue };
        if !(200..300).contains(&line.code) {
            continue;
        }
        let Some(evicted) = before(scene, PODS, pod, line) else { continue };
        if !is_healthy(evicted.object) {
            continue;
        }
        let namespace = text(evicted.object, "/metadata/namespace");
        for budget in scene.keys(BUDGETS).filter(|key| key.split('/').next() == Some(namespace)) {
            let Some(budget) = before(scene, BUDGETS, budget, line) else { continue };
            if !selects(&budget.object["spec"]["selector"], evicted.object) {
                continue;
            }
            judged += 1;
            let selected: Vec<_> = scene
                .keys(PODS)
                .filter(|key| key.split('/').next() == Some(namespace))
                .filter_map(|key| before(scene, PODS, key, line))
                .filter(|pod| selects(&budget.object["spec"]["selector"], pod.object))
                .collect();
            let healthy = selected.iter().filter(|pod| is_healthy(pod.object)).count() as i64;
            let wanted = wanted(budget.object, selected.len() as i64);
            if healthy - 1 < wanted {
                violations.push(format!(
                    "{pod} was evicted while {} wants {wanted} and {healthy} were healthy (event {})",
                    budget.key, line.when.seq
                ));
            }
        }
    }
    if judged == 0 {
        return Finding::nothing("no pod with a budget was evicted");
    }
    let is_blind = scene.gaps.iter().any(|(_, kind)| [PODS, BUDGETS].contains(kind));
    let seen = format!("{judged} evictions that their budgets allow");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, is_blind)
}

/// The object as it was just before a write; by time if the write's revision is not told.
fn before<'s, 'a>(
    scene: &'s Scene<'a>,
    kind: &'static str,
    key: &str,
    line: &AuditLine<'_>,
) -> Option<&'s Seen<'a>> {
    let is_before = |seen: &&Seen<'_>| match line.revision {
        0 => seen.when.at_us < line.when.earliest(),
        revision => seen.revision < revision,
    };
    let last = scene.changes(kind, key).rfind(is_before)?;
    (last.change != Change::Deleted).then_some(last)
}

fn is_healthy(pod: &Value) -> bool {
    condition(pod, "Ready") == "True" && !pod["metadata"]["deletionTimestamp"].is_string()
}

/// How many healthy pods a budget wants of so many.
fn wanted(budget: &Value, expected: i64) -> i64 {
    // Shares are rounded up, as Kubernetes does for both.
    let number = |value: &Value| match value {
        Value::String(text) => {
            let percent: Option<i64> = text.trim_end_matches('%').parse().ok();
            percent.map(|percent| (expected * percent + 99) / 100)
        }
        other => other.as_i64(),
    };
    let spec = &budget["spec"];
    match (number(&spec["minAvailable"]), number(&spec["maxUnavailable"])) {
        (Some(least), _) => least,
        (None, Some(most)) => (expected - most).max(0),
        (None, None) => 0,
    }
}

/// Whether a label selector selects an object; an empty one selects all.
pub(super) fn selects(selector: &Value, object: &Value) -> bool {
    let label = |name: &str| object["metadata"]["labels"][name].as_str();
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let rules = selector["matchExpressions"].as_array().into_iter().flatten();
    let fits = |rule: &Value| {
        let seen = label(text(rule, "/key"));
        let values = rule["values"].as_array();
        let is_among = values.into_iter().flatten().any(|value| seen == value.as_str());
        match text(rule, "/operator") {
            "In" => is_among,
            "NotIn" => !is_among,
            "Exists" => seen.is_some(),
            "DoesNotExist" => seen.is_none(),
            _ => false,
        }
    };
    selector.is_object()
        && equal.into_iter().all(|(name, value)| label(name) == value.as_str())
        && rules.into_iter().all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/disruption-budget";

    /// Three pods, of which so many are Ready; the first is evicted.
    fn evicted(spec: Value, ready: usize) -> Tape {
        let mut tape = Tape::new(kill());
        let metadata = json!({"namespace": "shop", "name": "web"});
        tape.at(1.0)
            .thing("poddisruptionbudgets.policy", json!({"metadata": metadata, "spec": spec}));
        for (at, name) in ["a", "b", "c"].iter().enumerate() {
            tape.pod(name, |pod| {
                let status = if at < ready { "True" } else { "False" };
                pod["metadata"]["labels"] = json!({"app": "web"});
                pod["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
            });
        }
        let revision = tape.revision() + 1;
        tape.at(2.0).audit("admin", "create", ("pods", "shop/a/eviction"), revision, "");
        tape
    }

    #[test]
    fn only_what_the_budget_allows_passes() {
        let selector = json!({"matchLabels": {"app": "web"}});
        for (spec, ready, verdict) in [
            (json!({"selector": selector, "minAvailable": 2}), 3, "PASS"),
            (json!({"selector": selector, "minAvailable": 2}), 2, "FAIL"),
            (json!({"selector": selector, "maxUnavailable": 1}), 3, "PASS"),
            (json!({"selector": selector, "maxUnavailable": 1}), 2, "FAIL"),
            (json!({"selector": selector, "minAvailable": "50%"}), 3, "PASS"),
            (json!({"selector": selector, "minAvailable": "50%"}), 2, "FAIL"),
        ] {
            assert_eq!(
                evicted(spec.clone(), ready).at(60.0).verdict(ID),
                verdict,
                "{spec} {ready}"
            );
        }
    }

    #[test]
    fn others_pods_and_blindness() {
        let other = json!({"selector": {"matchLabels": {"app": "db"}}, "minAvailable": 3});
        assert_eq!(evicted(other, 3).at(60.0).checks_with(ID), 0);
        let all = json!({"selector": {}, "minAvailable": 3});
        assert_eq!(evicted(all.clone(), 0).at(60.0).checks_with(ID), 0, "it was not healthy");
        let mut blind = evicted(all, 3);
        blind.gap("pods");
        assert_eq!(blind.at(60.0).verdict(ID), "INVALID");
    }
}
