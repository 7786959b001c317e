//! Validation of numbers that may also be percentages, such as `maxUnavailable`.

use serde_json::Value;

use super::{Causes, go};

/// Checks that a value is a number that is not negative, or a percentage.
pub fn number_or_percent(causes: &mut Causes, value: &Value, field: &str) {
    match value {
        Value::String(text) if percent(text).is_none() => causes.invalid_as(
            field,
            &go::int_or_string(value),
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. \
             '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ),
        Value::String(_) => {}
        other => causes.not_negative(field, other),
    }
}

/// Checks that a percentage is at most 100.
pub fn at_most_100_percent(causes: &mut Causes, value: &Value, field: &str) {
    if value.as_str().and_then(percent).is_some_and(|percent| percent > 100) {
        let shown = go::int_or_string(value);
        causes.invalid_as(field, &shown, "must not be greater than 100%");
    }
}

/// The number, or the number before the `%`; 0 for anything else.
pub fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => percent(text).unwrap_or_default(),
        other => other.as_i64().unwrap_or_default(),
    }
}

fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn numbers_and_percentages() {
        for (value, amount_of, wrong) in [
            (json!(3), 3, None),
            (json!("25%"), 25, None),
            (json!("0%"), 0, None),
            (json!(-1), -1, Some("Invalid f: Invalid value: -1: must be greater than or equal")),
            (
                json!("a lot"),
                0,
                Some(
                    "Invalid f: Invalid value: intstr.IntOrString{Type:1, IntVal:0, \
                     StrVal:\"a lot\"}: a valid percent string must be",
                ),
            ),
            (json!("+5%"), 0, Some("Invalid f: ")),
            (
                json!("101%"),
                101,
                Some(
                    "Invalid f: Invalid value: intstr.IntOrString{Type:1, IntVal:0, \
                     StrVal:\"101%\"}: must not be greater than 100%",
                ),
            ),
        ] {
            let mut causes = Causes::new();
            number_or_percent(&mut causes, &value, "f");
            at_most_100_percent(&mut causes, &value, "f");
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), usize::from(wrong.is_some()), "{found:?}");
            assert!(
                found.iter().zip(wrong).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
            assert_eq!(amount(&value), amount_of);
        }
    }
}
