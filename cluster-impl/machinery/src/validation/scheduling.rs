//! Validation of what a pod says about nodes: tolerations, affinity, spread.

use serde_json::Value;

use super::{Causes, items, names, selector, text};

/// Checks `tolerations` at a field's path.
pub fn tolerations(causes: &mut Causes, list: &Value, field: &str) {
    for (index, toleration) in items(list) {
        let field = format!("{field}[{index}]");
        let (key, effect) = (text(&toleration["key"]), text(&toleration["effect"]));
        let operator = text(&toleration["operator"]);
        if !key.is_empty() {
            causes.name(&format!("{field}.key"), key, names::qualified_name);
        }
        if key.is_empty() && operator != "Exists" {
            causes.invalid(
                &format!("{field}.operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and \
                 all keys\"",
            );
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            causes.invalid(
                &format!("{field}.effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "" | "Equal" => causes.name(
                &format!("{field}.operator"),
                text(&toleration["value"]),
                names::label_value,
            ),
            "Exists" if text(&toleration["value"]).is_empty() => {}
            "Exists" => causes.invalid(
                &format!("{field}.operator"),
                toleration["value"].clone(),
                "value must be empty when `operator` is 'Exists'",
            ),
            other => {
                causes.not_supported(&format!("{field}.operator"), other, &["Equal", "Exists"]);
            }
        }
        effect_of(causes, &format!("{field}.effect"), effect, true);
    }
}

/// Checks the effect of a taint or of a toleration, which may be empty.
pub fn effect_of(causes: &mut Causes, field: &str, effect: &str, may_be_empty: bool) {
    if effect.is_empty() && may_be_empty {
        return;
    }
    causes.one_of(field, effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

/// Checks `affinity` at a field's path.
pub fn affinity(causes: &mut Causes, affinity: &Value, field: &str) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    if !node[REQUIRED].is_null() {
        let field = format!("{field}.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        let terms = &node[REQUIRED]["nodeSelectorTerms"];
        if items(terms).next().is_none() {
            causes.required(&field, "must have at least one node selector term");
        }
        for (index, term) in items(terms) {
            node_term(causes, term, &format!("{field}[{index}]"));
        }
    }
    for (index, preferred) in items(&node[PREFERRED]) {
        let field = format!("{field}.nodeAffinity.{PREFERRED}[{index}]");
        weight(causes, &preferred["weight"], &field);
        node_term(causes, &preferred["preference"], &format!("{field}.preference"));
    }
    for which in ["podAffinity", "podAntiAffinity"] {
        for (index, term) in items(&affinity[which][REQUIRED]) {
            pod_term(causes, term, &format!("{field}.{which}.{REQUIRED}[{index}]"));
        }
        for (index, preferred) in items(&affinity[which][PREFERRED]) {
            let field = format!("{field}.{which}.{PREFERRED}[{index}]");
            weight(causes, &preferred["weight"], &field);
            pod_term(causes, &preferred["podAffinityTerm"], &format!("{field}.podAffinityTerm"));
        }
    }
}

fn weight(causes: &mut Causes, weight: &Value, field: &str) {
    let weight = weight.as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        causes.invalid(&format!("{field}.weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(causes: &mut Causes, term: &Value, field: &str) {
    for (part, fields) in [("matchExpressions", false), ("matchFields", true)] {
        for (index, expression) in items(&term[part]) {
            let field = format!("{field}.{part}[{index}]");
            let count = items(&expression["values"]).count();
            match text(&expression["operator"]) {
                "In" | "NotIn" if count == 0 => causes.required(
                    &format!("{field}.values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ),
                "Exists" | "DoesNotExist" if count > 0 => causes.forbidden(
                    &format!("{field}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if count != 1 => causes.required(
                    &format!("{field}.values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => causes.invalid(
                    &format!("{field}.operator"),
                    other,
                    "not a valid selector operator",
                ),
            }
            let key = text(&expression["key"]);
            if fields && key != "metadata.name" {
                causes.invalid(&format!("{field}.key"), key, "not a valid field selector key");
            } else {
                causes.name(&format!("{field}.key"), key, names::qualified_name);
            }
        }
    }
}

fn pod_term(causes: &mut Causes, term: &Value, field: &str) {
    selector::validate(causes, &term["labelSelector"], &format!("{field}.labelSelector"));
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        causes.required(&format!("{field}.topologyKey"), "can not be empty");
    } else {
        causes.name(&format!("{field}.topologyKey"), key, names::qualified_name);
    }
}

/// Checks `topologySpreadConstraints` at a field's path.
pub fn spread(causes: &mut Causes, list: &Value, field: &str) {
    for (index, constraint) in items(list) {
        let field = format!("{field}[{index}]");
        if constraint["maxSkew"].as_i64().unwrap_or_default() <= 0 {
            causes.invalid(
                &format!("{field}.maxSkew"),
                constraint["maxSkew"].as_i64().unwrap_or_default(),
                "must be greater than zero",
            );
        }
        let key = text(&constraint["topologyKey"]);
        if key.is_empty() {
            causes.required(&format!("{field}.topologyKey"), "can not be empty");
        }
        let action = text(&constraint["whenUnsatisfiable"]);
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            causes.not_supported(
                &format!("{field}.whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        selector::validate(causes, &constraint["labelSelector"], &format!("{field}.labelSelector"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    fn found(check: fn(&mut Causes, &Value, &str), value: &Value) -> Vec<String> {
        let mut causes = Causes::new();
        check(&mut causes, value, "x");
        lines(&causes.into_list())
    }

    #[test]
    fn tolerations_are_checked() {
        for (toleration, start) in [
            (json!({"operator": "Exists"}), None),
            (
                json!({"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}),
                None,
            ),
            (json!({"key": "a", "effect": "Never"}), Some("NotSupported x[0].effect")),
            (json!({"value": "b"}), Some("Invalid x[0].operator")),
            (
                json!({"key": "a", "operator": "Exists", "value": "b"}),
                Some("Invalid x[0].operator"),
            ),
            (json!({"key": "a", "tolerationSeconds": 5}), Some("Invalid x[0].effect")),
            (json!({"key": "a", "operator": "Like"}), Some("NotSupported x[0].operator")),
        ] {
            let found = found(tolerations, &json!([toleration]));
            assert_eq!(found.len(), usize::from(start.is_some()), "{found:?}");
            assert!(found.iter().zip(start).all(|(line, start)| line.starts_with(start)));
        }
    }

    #[test]
    fn affinity_is_checked() {
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        for (value, start) in [
            (
                json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "a", "operator": "In", "values": ["b"]}]}]}}}),
                None,
            ),
            (
                json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}),
                Some("Required x.nodeAffinity"),
            ),
            (
                json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "a", "operator": "Near"}]}]}}}),
                Some("Invalid x.nodeAffinity"),
            ),
            (json!({"podAffinity": {REQUIRED: [{"topologyKey": "kubernetes.io/hostname"}]}}), None),
            (json!({"podAntiAffinity": {REQUIRED: [{}]}}), Some("Required x.podAntiAffinity")),
            (
                json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 0, "podAffinityTerm": {"topologyKey": "a"}}]}}),
                Some(
                    "Invalid x.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
                ),
            ),
        ] {
            let found = found(affinity, &value);
            assert_eq!(found.len(), usize::from(start.is_some()), "{found:?}");
            assert!(found.iter().zip(start).all(|(line, start)| line.starts_with(start)));
        }
    }
}
