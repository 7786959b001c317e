//! Validation of what a ResourceQuota limits, and for which pods.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, go, items, resources, text};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
];
const COMPUTE: &[&str] =
    &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const OPPOSITES: [[&str; 2]; 2] =
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// Checks a map of amounts by resource.
pub fn amounts(causes: &mut Causes, amounts: &Value, field: &str) {
    for (name, amount) in amounts.as_object().into_iter().flatten() {
        let field = format!("{field}[{name}]");
        resources::resource_name(causes, name, &field);
        if !name.contains('/') && !resources::is_standard_quota(name) {
            causes.invalid(&field, name.as_str(), "must be a standard resource for quota");
        }
        resources::amount(causes, name, amount, &field);
    }
}

/// Checks `scopes` and `scopeSelector` of a quota's spec.
pub fn scopes(causes: &mut Causes, spec: &Value) {
    let limited: Vec<&str> =
        spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let misfits = |scope: &str| {
        limited
            .iter()
            .filter(|name| resources::is_standard_quota(name) && !fits(scope, name))
            .count()
    };
    let shown = go::texts("core.ResourceQuotaScope", &spec["scopes"]);
    let mut seen = BTreeSet::new();
    for (_, scope) in items(&spec["scopes"]) {
        let scope = text(scope);
        if !SCOPES.contains(&scope) {
            causes.invalid_as("spec.scopes", &shown, "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            causes.invalid_as("spec.scopes", &shown, "unsupported scope applied to resource");
        }
        seen.insert(scope);
    }
    for _ in OPPOSITES.iter().filter(|pair| pair.iter().all(|scope| seen.contains(scope))) {
        causes.invalid_as("spec.scopes", &shown, "conflicting scopes");
    }
    const FIELD: &str = "spec.scopeSelector.matchExpressions";
    let mut seen = BTreeSet::new();
    for (_, expression) in items(&spec["scopeSelector"]["matchExpressions"]) {
        let scope = text(&expression["scopeName"]);
        if !SCOPES.contains(&scope) {
            causes.invalid(&format!("{FIELD}.scopeName"), scope, "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            let value = spec["scopeSelector"].clone();
            causes.invalid(FIELD, value, "unsupported scope applied to resource");
        }
        operator(causes, expression, FIELD);
        seen.insert(scope);
    }
    for _ in OPPOSITES.iter().filter(|pair| pair.iter().all(|scope| seen.contains(scope))) {
        causes.invalid_as(FIELD, &shown, "conflicting scopes");
    }
}

fn operator(causes: &mut Causes, expression: &Value, field: &str) {
    let operator = text(&expression["operator"]);
    let scope = text(&expression["scopeName"]);
    if SCOPES.contains(&scope) && scope != "PriorityClass" && operator != "Exists" {
        causes.invalid(
            &format!("{field}.operator"),
            operator,
            "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
             ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
             ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        );
    }
    let has_values = items(&expression["values"]).next().is_some();
    match operator {
        "In" | "NotIn" if !has_values => causes.required(
            &format!("{field}.values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if has_values => causes.invalid_as(
            &format!("{field}.values"),
            &go::texts("string", &expression["values"]),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            causes.invalid(&format!("{field}.operator"), other, "not a valid selector operator");
        }
    }
}

/// Whether a scope can narrow what is counted of a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        scope if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn scopes_are_checked() {
        let expression = |scope: &str, operator: &str, values: &[&str]| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": scope, "operator": operator, "values": values}]}})
        };
        for (spec, start) in [
            (json!({"scopes": ["Terminating", "BestEffort"], "hard": {"pods": "1"}}), None),
            (
                json!({"scopes": ["Sometimes"]}),
                Some(
                    "Invalid spec.scopes: Invalid value: []core.ResourceQuotaScope{\"Sometimes\"}: \
                     unsupported scope",
                ),
            ),
            (
                json!({"scopes": ["BestEffort"], "hard": {"cpu": "1"}}),
                Some("Invalid spec.scopes: Invalid value: []core.ResourceQuotaScope"),
            ),
            (
                json!({"scopes": ["Terminating", "NotTerminating"]}),
                Some("Invalid spec.scopes: Invalid value: []core.ResourceQuotaScope"),
            ),
            (expression("PriorityClass", "In", &["high"]), None),
            (expression("BestEffort", "Exists", &[]), None),
            (
                expression("PriorityClass", "In", &[]),
                Some(
                    "Required spec.scopeSelector.matchExpressions.values: Required value: must be",
                ),
            ),
            (
                expression("PriorityClass", "Exists", &["high"]),
                Some("Invalid spec.scopeSelector.matchExpressions.values: Invalid value: []string"),
            ),
            (
                expression("BestEffort", "DoesNotExist", &[]),
                Some("Invalid spec.scopeSelector.matchExpressions.operator"),
            ),
            (
                expression("PriorityClass", "Like", &["high"]),
                Some("Invalid spec.scopeSelector.matchExpressions.operator"),
            ),
        ] {
            let mut causes = Causes::new();
            scopes(&mut causes, &spec);
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), usize::from(start.is_some()), "{spec}: {found:?}");
            assert!(
                found.iter().zip(start).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn amounts_are_checked() {
        let mut causes = Causes::new();
        amounts(
            &mut causes,
            &json!({"pods": "10", "requests.cpu": "4", "count/jobs.batch": "2", "storage": "1",
                "limits.memory": "-1", "secrets": "1500m", "requests.example.com/gpu": "1"}),
            "h",
        );
        let mut found = lines(&causes.into_list());
        found.sort();
        assert_eq!(
            found,
            [
                "Invalid h[limits.memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                "Invalid h[secrets]: Invalid value: \"1500m\": must be an integer",
                "Invalid h[storage]: Invalid value: \"storage\": must be a standard resource for quota",
            ]
        );
    }
}
