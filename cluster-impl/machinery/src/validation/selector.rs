//! Validation of label selectors inside objects.

use serde_json::Value;

use super::{Causes, items, metadata, names, text};

/// Checks `{matchLabels, matchExpressions}` at a field's path.
pub fn validate(causes: &mut Causes, selector: &Value, field: &str) {
    metadata::labels(causes, &selector["matchLabels"], &format!("{field}.matchLabels"));
    for (index, expression) in items(&selector["matchExpressions"]) {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = format!("{field}.values");
        match text(&expression["operator"]) {
            "In" | "NotIn" if items(&expression["values"]).next().is_none() => {
                causes.required(&values, "must be specified when `operator` is 'In' or 'NotIn'")
            }
            "Exists" | "DoesNotExist" if items(&expression["values"]).next().is_some() => causes
                .forbidden(
                    &values,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                causes.invalid(
                    &format!("{field}.operator"),
                    other,
                    "not a valid selector operator",
                );
            }
        }
        causes.name(&format!("{field}.key"), text(&expression["key"]), names::qualified_name);
        for (index, value) in items(&expression["values"]) {
            causes.name(&format!("{values}[{index}]"), text(value), names::label_value);
        }
    }
}

/// Whether a selector is absent or selects everything.
pub fn is_empty(selector: &Value) -> bool {
    selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
        && items(&selector["matchExpressions"]).next().is_none()
}
