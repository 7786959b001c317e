//! PodDisruptionBudget.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, age, column, keep_status};
use crate::defaulting::absent;
use crate::validation::{
    Causes, is_new_spec, metadata, names, selector, share, status_change,
};
use crate::{Cause, Object};

const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

/// PodDisruptionBudget.
pub static POD_DISRUPTION_BUDGET: Kind = Kind {
    id: "poddisruptionbudgets.policy",
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    short_names: &["pdb"],
    categories: &[],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: true,
    selectable: &[],
    default: |object| absent(&mut object.0, "status", no_status()),
    prepare_create: |object| object.set("/status", no_status()),
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Min Available", "string", 0),
        column("Max Unavailable", "string", 0),
        column("Allowed Disruptions", "integer", 0),
        AGE,
    ],
    cells,
    custom: None,
};

fn no_status() -> Value {
    json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::path_segment);
    if is_new_spec(object, old) {
        validate_spec(&mut causes, &object.0["spec"]);
    }
    if let Some((status, _)) = status_change(object, old) {
        causes.counts(
            status,
            &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"],
        );
    }
    causes.into_list()
}

fn validate_spec(causes: &mut Causes, spec: &Value) {
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        causes.invalid("spec", spec.clone(), why);
    }
    for part in ["minAvailable", "maxUnavailable"] {
        let field = format!("spec.{part}");
        share::number_or_percent(causes, &spec[part], &field);
        share::at_most_100_percent(causes, &spec[part], &field);
    }
    selector::validate(causes, &spec["selector"], "spec.selector");
    let policy = spec["unhealthyPodEvictionPolicy"].as_str();
    if let Some(policy) = policy.filter(|policy| !POLICIES.contains(policy)) {
        causes.not_supported("spec.unhealthyPodEvictionPolicy", policy, POLICIES);
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let share = |pointer: &str| match object.get(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "N/A".to_owned(),
    };
    vec![
        object.name().into(),
        share("/spec/minAvailable").into(),
        share("/spec/maxUnavailable").into(),
        object.integer("/status/disruptionsAllowed").unwrap_or_default().into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn budget(spec: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": spec,
        }));
        (POD_DISRUPTION_BUDGET.prepare_create)(&mut object);
        object
    }

    #[test]
    fn budgets_are_checked_and_printed() {
        for (spec, start) in [
            (json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}), ""),
            (json!({"maxUnavailable": "50%", "unhealthyPodEvictionPolicy": "AlwaysAllow"}), ""),
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                "Invalid spec: Invalid value: ",
            ),
            (json!({"minAvailable": "101%"}), "Invalid spec.minAvailable"),
            (json!({"maxUnavailable": -1}), "Invalid spec.maxUnavailable"),
            (
                json!({"unhealthyPodEvictionPolicy": "Never"}),
                "NotSupported spec.unhealthyPodEvictionPolicy",
            ),
        ] {
            let found = found(&POD_DISRUPTION_BUDGET, &budget(spec), None);
            assert_eq!(found.len(), usize::from(!start.is_empty()), "{start}: {found:?}");
            assert!(found.iter().all(|line| line.starts_with(start)), "{start}: {found:?}");
        }
        assert_eq!(
            row(&POD_DISRUPTION_BUDGET, &budget(json!({"minAvailable": "50%"})), 5),
            "web|50%|N/A|0|5s"
        );
        let old = budget(json!({"maxUnavailable": 1}));
        let mut new = old.clone();
        new.set("/status/disruptionsAllowed", -1);
        assert_eq!(found(&POD_DISRUPTION_BUDGET, &new, Some(&old)).len(), 1);
    }
}
