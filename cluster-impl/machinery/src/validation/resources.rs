//! Validation of a container's resources.

use serde_json::Value;

use super::{Causes, names};
use crate::Quantity;

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Checks `requests` and `limits` at a field's path.
pub fn validate(causes: &mut Causes, resources: &Value, field: &str) {
    for which in ["limits", "requests"] {
        for (name, amount) in resources[which].as_object().into_iter().flatten() {
            let field = format!("{field}.{which}");
            resource_name(causes, &field, name);
            amounts(causes, &format!("{field}[{name}]"), name, amount);
        }
    }
    let limits = &resources["limits"];
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let field = format!("{field}.requests");
        let (Some(request), limit) =
            (Quantity::from_value(request), Quantity::from_value(&limits[name]))
        else {
            continue;
        };
        match limit {
            Some(limit) if !may_overcommit(name) && request != limit => causes.invalid(
                &field,
                request.to_string(),
                &format!("must be equal to {name} limit of {limit}"),
            ),
            Some(limit) if request > limit => causes.invalid(
                &field,
                request.to_string(),
                &format!("must be less than or equal to {name} limit of {limit}"),
            ),
            None if !may_overcommit(name) => {
                causes.required(
                    &field.replace(".requests", ".limits"),
                    "Limit must be set for non overcommitable resources",
                );
            }
            _ => {}
        }
    }
}

fn may_overcommit(name: &str) -> bool {
    STANDARD.contains(&name)
}

fn resource_name(causes: &mut Causes, field: &str, name: &str) {
    let known = STANDARD.contains(&name) || name.starts_with("hugepages-") || name.contains('/');
    if !known {
        causes.invalid(
            &format!("{field}[{name}]"),
            name,
            "must be a standard resource for containers",
        );
    }
    causes.name(&format!("{field}[{name}]"), name, names::qualified_name);
}

fn amounts(causes: &mut Causes, field: &str, name: &str, amount: &Value) {
    match Quantity::from_value(amount) {
        None => causes.invalid(
            field,
            amount.clone(),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        Some(amount) if amount.is_negative() => {
            causes.invalid(field, amount.to_string(), "must be greater than or equal to 0");
        }
        Some(amount) if name.contains('/') && !amount.is_whole() => {
            causes.invalid(field, amount.to_string(), "must be an integer");
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn requests_and_limits() {
        for (resources, expected) in [
            (json!({}), None),
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1000m", "memory": "1Gi"}}), None),
            (
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                Some(
                    "Invalid r.requests: Invalid value: \"2\": must be less than or equal to cpu \
                    limit of 1",
                ),
            ),
            (
                json!({"requests": {"cpu": "-1"}}),
                Some(
                    "Invalid r.requests[cpu]: Invalid value: \"-1\": must be greater than or \
                    equal to 0",
                ),
            ),
            (
                json!({"limits": {"cpus": "1"}}),
                Some(
                    "Invalid r.limits[cpus]: Invalid value: \"cpus\": must be a standard resource \
                    for containers",
                ),
            ),
            (
                json!({"limits": {"example.com/gpu": "1"}, "requests": {"example.com/gpu": "1"}}),
                None,
            ),
            (
                json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
                Some(
                    "Invalid r.requests: Invalid value: \"1\": must be equal to example.com/gpu \
                    limit of 2",
                ),
            ),
            (
                json!({"requests": {"example.com/gpu": "1"}}),
                Some(
                    "Required r.limits: Required value: Limit must be set for non overcommitable \
                    resources",
                ),
            ),
        ] {
            let mut causes = Causes::new();
            validate(&mut causes, &resources, "r");
            let found = lines(&causes.into_list());
            assert_eq!(found.first().map(String::as_str), expected, "{resources}");
        }
    }
}
