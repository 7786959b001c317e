//! What is wrong with the expressions in a schema, and whether they may cost too much.

use serde_json::{Map, Value};

use super::rules::{ESTIMATE_MAX, Rule};
use super::schema::DEPTH_MAX;
use super::structural::{ITEMS_UNBOUNDED, bound};
use crate::validation::{Causes, items, text};

/// How large texts may be of which no schema says it; upstream derives it from the size of requests.
const UNBOUNDED: u64 = 3 * 1024 * 1024;

/// `x-kubernetes-validations`.
pub(super) fn check(causes: &mut Causes, at: &Value, field: &str, times: u64) {
    const FIELD: &str = "x-kubernetes-validations";
    let size = largest(at, 0);
    for (index, entry) in items(&at[FIELD]) {
        let field = format!("{field}.{FIELD}[{index}]");
        let shown = entry_text(entry);
        let (rule, message) = (text(&entry["rule"]).trim(), text(&entry["message"]));
        if rule.is_empty() {
            causes.required(&format!("{field}.rule"), "rule is not specified");
            continue;
        }
        if message.trim().is_empty() && entry["message"].is_string() && !message.is_empty() {
            let why = "message must be non-empty if specified";
            causes.invalid(&format!("{field}.message"), message, why);
        } else if message.trim().contains('\n') {
            let why = "message must not contain line breaks";
            causes.invalid(&format!("{field}.message"), message, why);
        } else if rule.contains('\n') && message.trim().is_empty() {
            let why = "message must be specified if rule contains line breaks";
            causes.required(&format!("{field}.message"), why);
        }
        const REASONS: [&str; 4] = [
            "FieldValueRequired",
            "FieldValueInvalid",
            "FieldValueForbidden",
            "FieldValueDuplicate",
        ];
        if let Some(reason) = entry["reason"].as_str()
            && !REASONS.contains(&reason)
        {
            causes.not_supported(&format!("{field}.reason"), reason, &REASONS);
        }
        if let Some(path) = entry["fieldPath"].as_str()
            && !is_path_of(path, at)
        {
            let why = "fieldPath must be a valid path";
            causes.invalid(&format!("{field}.fieldPath"), path, why);
        }
        match Rule::read(entry) {
            Err(why) => {
                let why = format!("compilation failed: {why}");
                causes.invalid_as(&format!("{field}.rule"), &shown, &why);
            }
            Ok(read) => self::rule(causes, &read, (&shown, &field), (size, times)),
        }
    }
}

fn rule(causes: &mut Causes, rule: &Rule, (shown, field): (&str, &str), (size, times): (u64, u64)) {
    let field = format!("{field}.rule");
    for name in rule.strangers() {
        let why = format!(
            "compilation failed: ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')"
        );
        causes.invalid_as(&field, shown, &why);
    }
    let cost = rule.cost(size).saturating_mul(times);
    if cost > ESTIMATE_MAX {
        let factor = cost as f64 / ESTIMATE_MAX as f64;
        let by = if factor > 100.0 { "more than 100x".to_owned() } else { format!("{factor:.1}x") };
        let why = format!(
            "estimated rule cost exceeds budget by factor of {by} (try simplifying the rule, or \
             adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are \
             declared)"
        );
        causes.forbidden(&field, &why);
    }
}

/// How large the largest part of a value may become that a rule may walk over.
fn largest(at: &Value, depth: usize) -> u64 {
    if depth > DEPTH_MAX {
        return 1;
    }
    let below = |inner: &Value| largest(inner, depth + 1);
    match text(&at["type"]) {
        "array" => bound(at, "maxItems").unwrap_or(ITEMS_UNBOUNDED).max(below(&at["items"])),
        "string" => bound(at, "maxLength").unwrap_or(UNBOUNDED / 1000) / 10,
        _ => {
            let own = match at["additionalProperties"].is_object() {
                true => bound(at, "maxProperties").unwrap_or(ITEMS_UNBOUNDED),
                false => 1,
            };
            let fields = at["properties"].as_object().into_iter().flat_map(Map::values);
            fields.map(below).max().unwrap_or(1).max(own).max(below_map(at, depth))
        }
    }
}

fn below_map(at: &Value, depth: usize) -> u64 {
    match &at["additionalProperties"] {
        inner @ Value::Object(_) => largest(inner, depth + 1),
        _ => 1,
    }
}

/// A rule as upstream's messages show it.
fn entry_text(entry: &Value) -> String {
    let of = |name: &str| text(&entry[name]).to_owned();
    format!(
        "apiextensions.ValidationRule{{Rule:{:?}, Message:{:?}, MessageExpression:{:?}, \
         Reason:(*apiextensions.FieldValueErrorReason)(nil), FieldPath:{:?}, \
         OptionalOldSelf:(*bool)(nil)}}",
        of("rule"),
        of("message"),
        of("messageExpression"),
        of("fieldPath"),
    )
}

/// Whether a path leads to a field that the schema names.
fn is_path_of(path: &str, at: &Value) -> bool {
    let Ok(path_read) = super::json_path::JsonPath::read(path) else { return false };
    let Some(names) = path_read.names() else { return false };
    let mut at = at;
    for name in &names {
        at = match (&at["properties"][*name], &at["additionalProperties"]) {
            (Value::Null, inner @ Value::Object(_)) => inner,
            (Value::Null, _) => return false,
            (known, _) => known,
        };
    }
    !names.is_empty()
}
