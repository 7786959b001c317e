//! Label selectors of `spec.selector` (LabelSelector of meta/v1).

use machinery::Object;
use serde_json::Value;

/// Whether the labels at `labels` (a JSON pointer) of `object` match the selector at `/spec/selector`
/// of `owner`. An absent or empty selector matches nothing: a controller without one owns nothing.
pub fn selects(owner: &Object, object: &Object, labels: &str) -> bool {
    let Some(selector) = owner.get("/spec/selector") else { return false };
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    if equal.is_none_or(|map| map.is_empty()) && expressions.is_none_or(Vec::is_empty) {
        return false;
    }
    let label = |key: &str| object.map(labels).and_then(|map| map.get(key)?.as_str());
    equal.into_iter().flatten().all(|(key, value)| label(key) == value.as_str())
        && expressions.into_iter().flatten().all(|expression| holds(expression, label))
}

fn holds<'o>(expression: &Value, label: impl Fn(&str) -> Option<&'o str>) -> bool {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let value = label(text("key"));
    let listed = value.is_some_and(|value| {
        let values = expression.get("values").and_then(Value::as_array);
        values.into_iter().flatten().any(|known| known == value)
    });
    match text("operator") {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_documented() {
        let pod = Object(serde_json::json!({"metadata": {"labels": {"app": "web", "tier": "front"}}}));
        let check = |selector: &str, expected: bool| {
            let selector: Value = serde_json::from_str(selector).unwrap();
            let owner = Object(serde_json::json!({"spec": {"selector": selector}}));
            assert_eq!(selects(&owner, &pod, "/metadata/labels"), expected, "{selector}");
        };
        check(r#"{"matchLabels":{"app":"web"}}"#, true);
        check(r#"{"matchLabels":{"app":"web","tier":"back"}}"#, false);
        check(r#"{"matchLabels":{}}"#, false);
        check(r#"{}"#, false);
        check(r#"{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}"#, true);
        check(r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#, false);
        check(r#"{"matchExpressions":[{"key":"x","operator":"NotIn","values":["web"]}]}"#, true);
        check(r#"{"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#, true);
        check(r#"{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}"#, false);
    }
}
