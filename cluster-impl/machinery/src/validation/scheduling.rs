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
        node_selector(causes, &node[REQUIRED], &format!("{field}.nodeAffinity.{REQUIRED}"));
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

/// Checks a selector of nodes at a field's path.
pub fn node_selector(causes: &mut Causes, selector: &Value, field: &str) {
    let field = format!("{field}.nodeSelectorTerms");
    let terms = &selector["nodeSelectorTerms"];
    if items(terms).next().is_none() {
        causes.required(&field, "must have at least one node selector term");
    }
    for (index, term) in items(terms) {
        node_term(causes, term, &format!("{field}[{index}]"));
    }
}

fn weight(causes: &mut Causes, weight: &Value, field: &str) {
    let weight = weight.as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        causes.invalid(&format!("{field}.weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(causes: &mut Causes, term: &Value, field: &str) {
    for (index, expression) in items(&term["matchExpressions"]) {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = format!("{field}.values");
        let count = items(&expression["values"]).count();
        match text(&expression["operator"]) {
            "In" | "NotIn" if count == 0 => {
                causes.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => causes.forbidden(
                &values,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "Gt" | "Lt" if count != 1 => causes.required(
                &values,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => not_an_operator(causes, other, &field),
        }
        causes.name(&format!("{field}.key"), text(&expression["key"]), names::qualified_name);
    }
    for (index, expression) in items(&term["matchFields"]) {
        let field = format!("{field}.matchFields[{index}]");
        match text(&expression["operator"]) {
            "In" | "NotIn" if items(&expression["values"]).count() != 1 => causes.required(
                &format!("{field}.values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                 selector",
            ),
            "In" | "NotIn" => {}
            other => not_an_operator(causes, other, &field),
        }
        let key = text(&expression["key"]);
        if key != "metadata.name" {
            causes.invalid(&format!("{field}.key"), key, "not a valid field selector key");
            continue;
        }
        for (index, value) in items(&expression["values"]) {
            causes.name(&format!("{field}.values[{index}]"), text(value), names::dns_subdomain);
        }
    }
}

fn not_an_operator(causes: &mut Causes, operator: &str, field: &str) {
    causes.invalid(&format!("{field}.operator"), operator, "not a valid selector operator");
}

fn pod_term(causes: &mut Causes, term: &Value, field: &str) {
    for which in ["labelSelector", "namespaceSelector"] {
        selector::validate(causes, &term[which], &format!("{field}.{which}"));
    }
    for (_, namespace) in items(&term["namespaces"]) {
        causes.name(&format!("{field}.namespace"), text(namespace), names::dns_label);
    }
    let lists = ["matchLabelKeys", "mismatchLabelKeys"];
    for list in lists {
        let field = format!("{field}.{list}");
        if items(&term[list]).next().is_some() && term["labelSelector"].is_null() {
            causes.forbidden(&field, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in items(&term[list]) {
            causes.name(&format!("{field}[{index}]"), text(key), names::qualified_name);
        }
    }
    for (index, key) in items(&term["matchLabelKeys"]) {
        if items(&term["mismatchLabelKeys"]).any(|(_, other)| other == key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            causes.invalid(&format!("{field}.matchLabelKeys[{index}]"), text(key), why);
        }
    }
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        causes.required(&format!("{field}.topologyKey"), "can not be empty");
    }
    causes.name(&format!("{field}.topologyKey"), key, names::qualified_name);
}

/// Checks `topologySpreadConstraints` at a field's path.
pub fn spread(causes: &mut Causes, list: &Value, field: &str) {
    const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
    for (index, constraint) in items(list) {
        let field = format!("{field}[{index}]");
        let at = |part: &str| format!("{field}.{part}");
        let skew = constraint["maxSkew"].as_i64().unwrap_or_default();
        if skew <= 0 {
            causes.invalid(&at("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) =
            (text(&constraint["topologyKey"]), text(&constraint["whenUnsatisfiable"]));
        if key.is_empty() {
            causes.required(&at("topologyKey"), "can not be empty");
        }
        if !ACTIONS.contains(&action) {
            causes.not_supported(&at("whenUnsatisfiable"), action, ACTIONS);
        }
        let same = |(_, other): &(usize, &Value)| {
            text(&other["topologyKey"]) == key && text(&other["whenUnsatisfiable"]) == action
        };
        if items(list).skip(index + 1).any(|other| same(&other)) {
            let field = at("{topologyKey, whenUnsatisfiable}");
            causes.duplicate(&field, format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = constraint["minDomains"].as_i64() {
            if domains <= 0 {
                causes.invalid(&at("minDomains"), domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let why = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                causes.invalid(&at("minDomains"), domains, &why);
            }
        }
        for part in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint[part].as_str();
            if let Some(policy) = policy.filter(|policy| !["Honor", "Ignore"].contains(policy)) {
                causes.not_supported(&at(part), policy, &["Honor", "Ignore"]);
            }
        }
        match_label_keys(causes, constraint, &at("matchLabelKeys"));
        selector::validate(causes, &constraint["labelSelector"], &at("labelSelector"));
    }
}

fn match_label_keys(causes: &mut Causes, constraint: &Value, field: &str) {
    let selector = &constraint["labelSelector"];
    if items(&constraint["matchLabelKeys"]).next().is_some() && selector.is_null() {
        causes.forbidden(field, "must not be specified when labelSelector is not set");
    }
    for (index, key) in items(&constraint["matchLabelKeys"]) {
        let (field, key) = (format!("{field}[{index}]"), text(key));
        causes.name(&field, key, names::qualified_name);
        if !selector["matchLabels"][key].is_null()
            || items(&selector["matchExpressions"]).any(|(_, one)| one["key"] == key)
        {
            causes.invalid(&field, key, "exists in both matchLabelKeys and labelSelector");
        }
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
            (
                json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}]}}}),
                Some("Required x.nodeAffinity"),
            ),
            (
                json!({"podAffinity": {REQUIRED: [{"topologyKey": "a", "matchLabelKeys": ["b"]}]}}),
                Some("Forbidden x.podAffinity"),
            ),
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
    #[test]
    fn a_term_needs_a_topology() {
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        let found = found(affinity, &json!({"podAntiAffinity": {REQUIRED: [{}]}}));
        assert!(found[0].ends_with("topologyKey: Required value: can not be empty"), "{found:?}");
        assert_eq!(found.len(), 3, "upstream also checks the empty key as a name: {found:?}");
    }

    #[test]
    fn spread_is_checked() {
        let constraint = |more: Value| {
            let mut one = json!({"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}});
            one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            one
        };
        for (list, start) in [
            (json!([constraint(json!({"minDomains": 2, "matchLabelKeys": ["c"]}))]), None),
            (json!([constraint(json!({"maxSkew": 0}))]), Some("Invalid x[0].maxSkew")),
            (
                json!([constraint(json!({})), constraint(json!({"maxSkew": 2}))]),
                Some(
                    "Duplicate x[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \
                     \"{zone, DoNotSchedule}\"",
                ),
            ),
            (
                json!([constraint(
                    json!({"whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2})
                )]),
                Some("Invalid x[0].minDomains: Invalid value: 2: can only use minDomains if"),
            ),
            (
                json!([constraint(json!({"nodeTaintsPolicy": "Ask"}))]),
                Some("NotSupported x[0].nodeTaintsPolicy"),
            ),
            (
                json!([constraint(json!({"matchLabelKeys": ["a"]}))]),
                Some("Invalid x[0].matchLabelKeys[0]"),
            ),
            (
                json!([constraint(json!({"labelSelector": null, "matchLabelKeys": ["a"]}))]),
                Some("Forbidden x[0].matchLabelKeys"),
            ),
        ] {
            let found = found(spread, &list);
            assert_eq!(found.len(), usize::from(start.is_some()), "{list}: {found:?}");
            assert!(
                found.iter().zip(start).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }
}
