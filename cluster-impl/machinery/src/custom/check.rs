//! Whether a custom resource is what its schema says, in upstream's words.
//!
//! What was there before and is as it was is not looked at again (ratcheting), so that a schema can become
//! stricter without breaking what is stored.
//! Limit: so many causes are told at most: [`CAUSES_MAX`].

use std::collections::BTreeSet;

use serde_json::Value;

use super::formats;
use super::rules::{BUDGET, Outcome};
use super::schema::{ListType, Schema, Type};
use crate::Cause;
use crate::validation::{Causes, go};

/// How many causes are told of one object.
pub(super) const CAUSES_MAX: usize = 100;

/// What is wrong with a value by its types and bounds.
pub(super) fn values(
    value: &Value,
    schema: &Schema,
    old: Option<&Value>,
    path: &str,
) -> Vec<Cause> {
    let mut causes = Causes::new();
    node(&mut causes, value, schema, old, &mut path.to_owned());
    causes.into_list()
}

/// A number as Go's `%v` writes it.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e21 {
        format!("{value:.0}")
    } else {
        value.to_string()
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(value: &Value, schema: &Schema) -> bool {
    match value {
        Value::Null => schema.nullable,
        _ if schema.is_int_or_string => value.is_string() || value.is_i64() || value.is_u64(),
        Value::Bool(_) => matches!(schema.kind, Type::Any | Type::Boolean),
        Value::String(_) => matches!(schema.kind, Type::Any | Type::String),
        Value::Array(_) => matches!(schema.kind, Type::Any | Type::Array),
        Value::Object(_) => matches!(schema.kind, Type::Any | Type::Object),
        Value::Number(number) => match schema.kind {
            Type::Any | Type::Number => true,
            // As upstream: a number without a fraction is whole, however it is written.
            Type::Integer => {
                !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            _ => false,
        },
    }
}

fn wanted(schema: &Schema) -> &'static str {
    match schema.kind {
        _ if schema.is_int_or_string => "integer,string",
        Type::Any => "any",
        Type::Object => "object",
        Type::Array => "array",
        Type::String => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
    }
}

/// Does something one step further down a path.
fn below(path: &mut String, step: &str, act: impl FnOnce(&mut String)) {
    let before = path.len();
    if !path.is_empty() && !step.starts_with('[') {
        path.push('.');
    }
    path.push_str(step);
    act(path);
    path.truncate(before);
}

fn node(
    causes: &mut Causes,
    value: &Value,
    schema: &Schema,
    old: Option<&Value>,
    path: &mut String,
) {
    if causes.count() >= CAUSES_MAX || old == Some(value) {
        return;
    }
    if schema.nullable && value.is_null() {
        return;
    }
    let is_typed = schema.kind != Type::Any || schema.is_int_or_string;
    if is_typed && !has_type(value, schema) {
        let found = type_of(value);
        let why = format!("{path} in body must be of type {}: {found:?}", wanted(schema));
        causes.type_invalid(path, found, &why);
        return;
    }
    match value {
        Value::Number(_) => numbers(causes, value, schema, path),
        Value::String(text) => texts(causes, text, schema, path),
        Value::Array(list) => lists(causes, list, schema, old, path),
        Value::Object(map) => {
            let count = map.len();
            if let Some(most) = schema.bound("maxProperties").filter(|most| count as f64 > *most) {
                causes.too_many(path, count, most as usize);
            }
            if let Some(least) =
                schema.bound("minProperties").filter(|least| (count as f64) < *least)
            {
                let least = number(least);
                let why = format!("{path} in body should have at least {least} properties");
                causes.invalid(path, count, &why);
            }
            for name in &schema.required {
                if !map.contains_key(name) {
                    below(path, name, |path| causes.required(path, ""));
                }
            }
            for (name, inner) in map {
                if let Some(known) = schema.field(name) {
                    let old = old.and_then(|old| old.get(name));
                    // As upstream: entries of maps are named like fields.
                    below(path, name, |path| node(causes, inner, known, old, path));
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    if !schema.values.is_empty() && !schema.values.contains(value) {
        let known: Vec<String> = schema
            .values
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        causes.not_supported_value(path, value, &known);
    }
    junctions(causes, value, schema, old, path);
}

fn numbers(causes: &mut Causes, value: &Value, schema: &Schema, path: &str) {
    let Some(found) = value.as_f64() else { return };
    let mut wrong =
        |why: String| causes.invalid(path, value.clone(), &format!("{path} in body {why}"));
    if let Some(most) = schema.bound("maximum") {
        if schema.exclusive_maximum && found >= most {
            wrong(format!("should be less than {}", number(most)));
        } else if found > most {
            wrong(format!("should be less than or equal to {}", number(most)));
        }
    }
    if let Some(least) = schema.bound("minimum") {
        if schema.exclusive_minimum && found <= least {
            wrong(format!("should be greater than {}", number(least)));
        } else if found < least {
            wrong(format!("should be greater than or equal to {}", number(least)));
        }
    }
    if let Some(step) = schema.bound("multipleOf").filter(|step| *step > 0.0) {
        let times = found / step;
        if (times - times.round()).abs() > 1e-9 {
            wrong(format!("should be a multiple of {}", number(step)));
        }
    }
    if schema.format == "int32" && (found < f64::from(i32::MIN) || found > f64::from(i32::MAX)) {
        let shown = go::value(value);
        causes.type_invalid(
            path,
            value.clone(),
            &format!("{path} in body must be of type int32: {shown:?}"),
        );
    }
}

fn texts(causes: &mut Causes, text: &str, schema: &Schema, path: &str) {
    let count = text.chars().count() as f64;
    if let Some(most) = schema.bound("maxLength").filter(|most| count > *most) {
        causes.too_long(path, most as usize);
    }
    if let Some(least) = schema.bound("minLength").filter(|least| count < *least) {
        let why = format!("{path} in body should be at least {} chars long", number(least));
        causes.invalid(path, text, &why);
    }
    if let Some(pattern) = &schema.pattern
        && !pattern.is_match(text)
    {
        let why = format!("{path} in body should match '{}'", pattern.as_str());
        causes.invalid(path, text, &why);
    }
    if !schema.is_int_or_string && !formats::is_of(&schema.format, text) {
        let why = format!("{path} in body must be of type {}: {text:?}", schema.format);
        causes.type_invalid(path, text, &why);
    }
}

fn lists(
    causes: &mut Causes,
    list: &[Value],
    schema: &Schema,
    old: Option<&Value>,
    path: &mut String,
) {
    let count = list.len();
    if let Some(most) = schema.bound("maxItems").filter(|most| count as f64 > *most) {
        causes.too_many(path, count, most as usize);
    }
    if let Some(least) = schema.bound("minItems").filter(|least| (count as f64) < *least) {
        let why = format!("{path} in body should have at least {} items", number(least));
        causes.invalid(path, count, &why);
    }
    let before = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(item) = &schema.items {
        for (index, inner) in list.iter().enumerate() {
            let old = schema.correlated(before, inner);
            below(path, &format!("[{index}]"), |path| node(causes, inner, item, old, path));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, inner) in list.iter().enumerate() {
        let field = format!("{path}[{index}]");
        match (&schema.list, &schema.items) {
            (ListType::Set, _) if !seen.insert(inner.to_string()) => {
                causes.duplicate(&field, inner.clone());
            }
            (ListType::Map(keys), Some(item)) if inner.is_object() => {
                let named: serde_json::Map<String, Value> = keys
                    .iter()
                    .filter_map(|key| Some((key.clone(), item.key(inner, key)?.clone())))
                    .collect();
                let named = Value::Object(named);
                if !seen.insert(named.to_string()) {
                    causes.duplicate_as(&field, &named.to_string());
                }
            }
            _ => {}
        }
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn junctions(
    causes: &mut Causes,
    value: &Value,
    schema: &Schema,
    old: Option<&Value>,
    path: &mut String,
) {
    for part in &schema.all_of {
        node(causes, value, part, old, path);
    }
    let tried = |parts: &[Schema], path: &str| -> (usize, Vec<Cause>) {
        let mut right = 0;
        let mut best: Option<Vec<Cause>> = None;
        for part in parts {
            // What was there before does not make an alternative right.
            let found = values(value, part, None, path);
            if found.is_empty() {
                right += 1;
            } else if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                best = Some(found);
            }
        }
        (right, best.unwrap_or_default())
    };
    let whole =
        |causes: &mut Causes, why: &str| causes.invalid("<nil>", "", &format!("{path:?} {why}"));
    if !schema.any_of.is_empty() {
        let (right, best) = tried(&schema.any_of, path);
        if right == 0 {
            causes.extend(best);
            whole(causes, "must validate at least one schema (anyOf)");
        }
    }
    if !schema.one_of.is_empty() {
        let (right, best) = tried(&schema.one_of, path);
        if right == 0 {
            causes.extend(best);
            whole(causes, "must validate one and only one schema (oneOf). Found none valid");
        } else if right > 1 {
            let found = format!("Found {right} valid alternatives");
            whole(causes, &format!("must validate one and only one schema (oneOf). {found}"));
        }
    }
    if let Some(not) = &schema.not
        && values(value, not, None, path).is_empty()
    {
        whole(causes, "must not validate the schema (not)");
    }
}

/// What the rules of a schema say of a value.
pub(super) fn rules(value: &Value, schema: &Schema, old: Option<&Value>) -> Vec<Cause> {
    let mut walk = Walk { causes: Causes::new(), budget: BUDGET };
    walk.node(value, schema, old, &mut String::new());
    walk.causes.into_list()
}

struct Walk {
    causes: Causes,
    budget: u64,
}

impl Walk {
    fn node(&mut self, value: &Value, schema: &Schema, old: Option<&Value>, path: &mut String) {
        if self.budget == 0 || self.causes.count() >= CAUSES_MAX || value.is_null() {
            return;
        }
        for rule in &schema.rules {
            // As upstream: what is as it was need only keep to what is said of changes.
            if old == Some(value) && !rule.is_transition() {
                continue;
            }
            let field = if path.is_empty() && rule.field.is_empty() {
                "<nil>".to_owned()
            } else {
                format!("{path}{}", rule.field).trim_start_matches('.').to_owned()
            };
            let shown = type_of(value);
            match rule.run(schema, value, old, &mut self.budget) {
                Outcome::Holds => {}
                Outcome::Fails(why) => match rule.reason {
                    "FieldValueRequired" => self.causes.required(&field, &why),
                    "FieldValueForbidden" => self.causes.forbidden(&field, &why),
                    "FieldValueDuplicate" => self.causes.duplicate(&field, shown_value(value)),
                    _ => self.causes.invalid_as(&field, &shown_text(value, shown), &why),
                },
                Outcome::Broken(why) => {
                    self.causes.invalid_as(&field, &shown_text(value, shown), &why);
                }
            }
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    if let Some(known) = schema.field(name) {
                        let old = old.and_then(|old| old.get(name));
                        let is_field = schema.properties.contains_key(name);
                        let step = if is_field { name.clone() } else { format!("[{name}]") };
                        below(path, &step, |path| self.node(inner, known, old, path));
                    }
                }
            }
            Value::Array(list) => {
                let Some(item) = &schema.items else { return };
                let before = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for (index, inner) in list.iter().enumerate() {
                    let old = schema.correlated(before, inner);
                    below(path, &format!("[{index}]"), |path| self.node(inner, item, old, path));
                }
            }
            _ => {}
        }
    }
}

/// As upstream: of maps and lists only their type is shown.
fn shown_value(value: &Value) -> Value {
    match value {
        Value::Object(_) | Value::Array(_) => type_of(value).into(),
        scalar => scalar.clone(),
    }
}

fn shown_text(value: &Value, shown: &str) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("{shown:?}"),
        scalar => go::value(scalar),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::tests::lines;

    fn found(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let schema = Schema::read(&json!({"type": "object", "properties": {"x": schema}}));
        let old = old.map(|old| json!({ "x": old }));
        let value = json!({ "x": value });
        let mut all = values(&value, &schema, old.as_ref(), "");
        if all.is_empty() {
            all = rules(&value, &schema, old.as_ref());
        }
        lines(&all)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of all bounds")]
    fn every_bound_is_told_in_upstreams_words() {
        for (schema, value, expected) in [
            (
                json!({"type": "integer"}),
                json!("a"),
                "TypeInvalid x: Invalid value: \"string\": x in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "TypeInvalid x: Invalid value: \"null\": x in body must be of type string: \"null\"",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "TypeInvalid x: Invalid value: \"boolean\": x in body must be of type integer,string: \
                 \"boolean\"",
            ),
            (
                json!({"type": "integer", "maximum": 10}),
                json!(11),
                "Invalid x: Invalid value: 11: x in body should be less than or equal to 10",
            ),
            (
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
                json!(1),
                "Invalid x: Invalid value: 1: x in body should be greater than 1",
            ),
            (
                json!({"type": "number", "multipleOf": 0.5}),
                json!(0.7),
                "Invalid x: Invalid value: 0.7: x in body should be a multiple of 0.5",
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                "Invalid x: Invalid value: \"b\": x in body should match '^a+$'",
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("b"),
                "Invalid x: Invalid value: \"b\": x in body should be at least 2 chars long",
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "TooLong x: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("now"),
                "TypeInvalid x: Invalid value: \"now\": x in body must be of type date-time: \"now\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "NotSupported x: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
                json!(["a", "b"]),
                "TooMany x: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
                json!(["a", "a"]),
                "Duplicate x[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["n"],
                    "items": {"type": "object", "properties": {"n": {"type": "string"}}}}),
                json!([{"n": "a"}, {"n": "a"}]),
                "Duplicate x[1]: Duplicate value: {\"n\":\"a\"}",
            ),
            (
                json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
                json!({}),
                "Required x.a: Required value",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "array", "items":
                    {"type": "object", "properties": {"n": {"type": "integer"}}}}}),
                json!({"k": [{"n": 1}, {"n": "x"}]}),
                "TypeInvalid x.k[1].n: Invalid value: \"string\": x.k[1].n in body must be of type integer: \
                 \"string\"",
            ),
            (
                json!({"type": "integer", "not": {"enum": [5]}}),
                json!(5),
                "Invalid <nil>: Invalid value: \"\": \"x\" must not validate the schema (not)",
            ),
            (
                json!({"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]}),
                json!(5),
                "Invalid <nil>: Invalid value: \"\": \"x\" must validate one and only one schema (oneOf). \
                 Found 2 valid alternatives",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.a > 1", "fieldPath": ".a",
                        "message": "more"}]}),
                json!({"a": 1}),
                "Invalid x.a: Invalid value: \"object\": more",
            ),
            (
                json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != 'a'",
                    "reason": "FieldValueForbidden", "message": "no a"}]}),
                json!("a"),
                "Forbidden x: Forbidden: no a",
            ),
        ] {
            assert_eq!(found(schema.clone(), value, None), [expected], "{schema}");
        }
    }

    #[test]
    fn the_best_alternative_is_told_too() {
        let schema = json!({"type": "integer", "anyOf": [{"minimum": 7}, {"maximum": 1}]});
        assert_eq!(
            found(schema, json!(5), None),
            [
                "Invalid x: Invalid value: 5: x in body should be greater than or equal to 7",
                "Invalid <nil>: Invalid value: \"\": \"x\" must validate at least one schema (anyOf)",
            ]
        );
    }

    #[test]
    fn what_is_as_it_was_is_let_be() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1},
            "list": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object", "properties": {
                    "n": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
            "r": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 3"}]},
        }});
        let old = json!({"a": "long", "r": 5, "list": [{"n": "one", "v": 9}]});
        let mut new = old.clone();
        new["b"] = json!(1);
        new["list"] = json!([{"n": "two", "v": 1}, {"n": "one", "v": 9}]);
        assert_eq!(found(schema.clone(), new.clone(), Some(old.clone())), [""; 0]);
        new["a"] = json!("other");
        new["list"][1]["v"] = json!(8);
        assert_eq!(
            found(schema.clone(), new, Some(old.clone())),
            [
                "TooLong x.a: Too long: may not be more than 1 bytes",
                "Invalid x.list[1].v: Invalid value: 8: x.list[1].v in body should be less than or equal to 1",
            ]
        );
        let mut new = old.clone();
        new["r"] = json!(4);
        assert_eq!(
            found(schema, new, Some(old)),
            ["Invalid x.r: Invalid value: 4: failed rule: self < 3"]
        );
    }
}
