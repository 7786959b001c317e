//! What is wrong with a definition's schema: upstream's rules for structural schemas, in its words.
//!
//! Besides, schemas are refused that would cost too much to serve: too deep, too large, with patterns or
//! expressions that take too long. A schema is refused at the first [`CAUSES_MAX`] causes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::schema::{DEPTH_MAX, Schema, pattern};
use super::{check, prune, structural_rules};
use crate::validation::{Causes, items, text};

/// How many causes are told.
const CAUSES_MAX: usize = 100;
/// How many nodes a schema may have.
const NODES_MAX: usize = 20_000;
/// How many values an enumeration may have.
const VALUES_MAX: usize = 10_000;
/// How many items a list is taken to have at most if its schema does not say.
pub(super) const ITEMS_UNBOUNDED: u64 = 10_000;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Where a node stands in its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
    /// Within `allOf` and its kin: says what values must be, not which fields there are.
    Junctor,
}

/// Where a node stands, how deep, and how often it may be there in one object.
#[derive(Debug, Clone, Copy)]
struct Spot {
    level: Level,
    depth: usize,
    times: u64,
}

impl Spot {
    fn below(self, level: Level, times: u64) -> Self {
        // An alternative's parts are parts of an alternative.
        let level = if self.level == Level::Junctor { Level::Junctor } else { level };
        Self { level, depth: self.depth + 1, times: self.times.saturating_mul(times) }
    }
}

struct Walk<'c> {
    causes: &'c mut Causes,
    nodes: usize,
    start: usize,
}

/// Checks `openAPIV3Schema`.
pub(crate) fn check(causes: &mut Causes, schema: &Value, field: &str) {
    let start = causes.count();
    if is_deeper(schema, DEPTH_MAX * 2) {
        let why = format!("must not nest deeper than {DEPTH_MAX} levels");
        return causes.invalid_whole(field, &why);
    }
    let mut walk = Walk { causes, nodes: 0, start };
    walk.node(schema, field, Spot { level: Level::Root, depth: 0, times: 1 });
    if walk.nodes > NODES_MAX {
        let why = format!("must not have more than {NODES_MAX} nodes");
        walk.causes.invalid_whole(field, &why);
    }
    if causes.count() == start {
        defaults(causes, schema, &Schema::read(schema), field, true);
    }
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(list) => levels == 0 || list.iter().any(|one| is_deeper(one, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|one| is_deeper(one, levels - 1)),
        _ => false,
    }
}

impl Walk<'_> {
    fn is_over(&self) -> bool {
        self.nodes > NODES_MAX || self.causes.count() > self.start + CAUSES_MAX
    }

    fn node(&mut self, at: &Value, field: &str, spot: Spot) {
        let Spot { level, depth, times } = spot;
        self.nodes += 1;
        if self.is_over() {
            return;
        }
        if depth > DEPTH_MAX {
            let why = format!("must not nest deeper than {DEPTH_MAX} levels");
            return self.causes.invalid_whole(field, &why);
        }
        if !at.is_object() {
            let why = "must be an object";
            return self.causes.invalid_whole(field, why);
        }
        self.unsupported(at, field);
        self.kind(at, field, level);
        if level == Level::Junctor {
            self.junctor(at, field);
        }
        self.values(at, field);
        self.extensions(at, field, level);
        structural_rules::check(self.causes, at, field, times);
        let properties = at["properties"].as_object();
        let others = &at["additionalProperties"];
        if properties.is_some_and(|all| !all.is_empty())
            && !others.is_null()
            && *others != false
            && at["x-kubernetes-preserve-unknown-fields"] != true
        {
            let why = "additionalProperties and properties are mutual exclusive";
            self.causes.forbidden(&format!("{field}.additionalProperties"), why);
        }
        if *others == false {
            let why = "additionalProperties cannot be set to false";
            self.causes.forbidden(&format!("{field}.additionalProperties"), why);
        }
        for (name, one) in properties.into_iter().flatten() {
            let field = format!("{field}.properties[{name}]");
            self.node(one, &field, spot.below(Level::Field, 1));
        }
        if others.is_object() {
            let entries = bound(at, "maxProperties").unwrap_or(ITEMS_UNBOUNDED);
            let field = format!("{field}.additionalProperties");
            self.node(others, &field, spot.below(Level::Field, entries));
        }
        let items_field = format!("{field}.items");
        let count = bound(at, "maxItems").unwrap_or(ITEMS_UNBOUNDED);
        match &at["items"] {
            Value::Null if at["type"] == "array" && level != Level::Junctor => {
                self.causes.required(&items_field, "must be specified");
            }
            Value::Array(_) => {
                let why = "items must be a schema object and not an array";
                self.causes.forbidden(&items_field, why);
            }
            Value::Null => {}
            one => self.node(one, &items_field, spot.below(Level::Item, count)),
        }
        for junction in ["allOf", "anyOf", "oneOf"] {
            for (index, one) in items(&at[junction]) {
                let field = format!("{field}.{junction}[{index}]");
                self.node(one, &field, spot.below(Level::Junctor, 1));
                self.named_outside(one, at, &field);
            }
        }
        if !at["not"].is_null() {
            let field = format!("{field}.not");
            self.node(&at["not"], &field, spot.below(Level::Junctor, 1));
        }
    }

    /// Fields of which an alternative speaks must be described outside of it too.
    fn named_outside(&mut self, junctor: &Value, outside: &Value, field: &str) {
        let known = outside["properties"].as_object();
        for (name, _) in junctor["properties"].as_object().into_iter().flatten() {
            let is_known = known.is_some_and(|known| known.contains_key(name))
                || !outside["additionalProperties"].is_null()
                || outside["x-kubernetes-embedded-resource"] == true;
            // Whoever stands within another alternative is looked at from outside of both.
            if !is_known && outside.get("type").is_some() {
                let base = field.rsplit_once('.').map_or(field, |(base, _)| base);
                let why = format!("because it is defined in {field}.properties[{name}]");
                self.causes.required(&format!("{base}.properties[{name}]"), &why);
            }
        }
    }

    fn unsupported(&mut self, at: &Value, field: &str) {
        for name in
            ["$ref", "definitions", "dependencies", "id", "patternProperties", "additionalItems"]
        {
            if !at[name].is_null() {
                self.causes
                    .forbidden(&format!("{field}.{name}"), &format!("{name} is not supported"));
            }
        }
        if at["uniqueItems"] == true {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.causes.forbidden(&format!("{field}.uniqueItems"), why);
        }
        if at["nullable"] == true && matches!(text(&at["type"]), "null") {
            let why = "type cannot be set to null, use nullable as an alternative";
            self.causes.forbidden(&format!("{field}.type"), why);
        }
    }

    fn kind(&mut self, at: &Value, field: &str, level: Level) {
        let kind = text(&at["type"]);
        let field = format!("{field}.type");
        if kind == "null" {
            let why = "type cannot be set to null, use nullable as an alternative";
            return self.causes.forbidden(&field, why);
        }
        if !kind.is_empty() && !TYPES.contains(&kind) {
            return self.causes.not_supported(&field, kind, &TYPES);
        }
        let is_free = at["x-kubernetes-preserve-unknown-fields"] == true;
        let is_either = at["x-kubernetes-int-or-string"] == true;
        match level {
            Level::Root if kind.is_empty() => {
                self.causes.required(&field, "must not be empty at the root");
            }
            Level::Root if kind != "object" => {
                self.causes.invalid(&field, kind, "must be object at the root");
            }
            Level::Field if kind.is_empty() && !is_free && !is_either => {
                self.causes.required(&field, "must not be empty for specified object fields");
            }
            Level::Item if kind.is_empty() && !is_free && !is_either => {
                self.causes.required(&field, "must not be empty for specified array items");
            }
            Level::Root | Level::Field | Level::Item if is_either && !kind.is_empty() => {
                let why = "must be empty if x-kubernetes-int-or-string is true";
                self.causes.invalid(&field, kind, why);
            }
            _ => {}
        }
    }

    /// What an alternative may not say.
    fn junctor(&mut self, at: &Value, field: &str) {
        let is_in_either = at["type"] == "integer" || at["type"] == "string";
        if !at["type"].is_null() && !text(&at["type"]).is_empty() {
            // The two alternatives of int-or-string are the exception.
            let is_bare = at.as_object().is_some_and(|all| all.len() == 1);
            if !(is_in_either && is_bare && (field.contains("anyOf["))) {
                self.causes.forbidden(&format!("{field}.type"), "must be empty to be structural");
            }
        }
        for name in ["title", "description"] {
            if !text(&at[name]).is_empty() {
                self.causes.forbidden(&format!("{field}.{name}"), "must be empty to be structural");
            }
        }
        for name in ["default", "additionalProperties"] {
            if !at[name].is_null() {
                let why = "must be undefined to be structural";
                self.causes.forbidden(&format!("{field}.{name}"), why);
            }
        }
        for name in [
            "nullable",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ] {
            if at[name] == true {
                self.causes.forbidden(&format!("{field}.{name}"), "must be false to be structural");
            }
        }
        for name in ["x-kubernetes-list-type", "x-kubernetes-map-type", "x-kubernetes-validations"]
        {
            if !at[name].is_null() {
                let why = "must be undefined to be structural";
                self.causes.forbidden(&format!("{field}.{name}"), why);
            }
        }
    }

    fn values(&mut self, at: &Value, field: &str) {
        if let Some(text) = at["pattern"].as_str()
            && let Err(why) = pattern(text)
        {
            let why = format!("must be a valid regular expression, but isn't: {why}");
            self.causes.invalid(&format!("{field}.pattern"), text, &why);
        }
        let count = at["enum"].as_array().map_or(0, Vec::len);
        if count > VALUES_MAX {
            self.causes.too_many(&format!("{field}.enum"), count, VALUES_MAX);
        }
        for name in
            ["maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"]
        {
            self.causes.not_negative(&format!("{field}.{name}"), &at[name]);
        }
    }

    fn extensions(&mut self, at: &Value, field: &str, level: Level) {
        const MAP: &str = "x-kubernetes-map-type";
        const EMBEDDED: &str = "x-kubernetes-embedded-resource";
        let kind = text(&at["type"]);
        if at["x-kubernetes-preserve-unknown-fields"] == false {
            let why = "must be true or undefined";
            self.causes.invalid(
                &format!("{field}.x-kubernetes-preserve-unknown-fields"),
                false,
                why,
            );
        }
        if at[EMBEDDED] == true {
            if level == Level::Root {
                let why = "must be false at the root";
                self.causes.forbidden(&format!("{field}.{EMBEDDED}"), why);
            }
            if kind != "object" && kind.is_empty() {
                let why = "must be object if x-kubernetes-embedded-resource is true";
                self.causes.required(&format!("{field}.type"), why);
            } else if kind != "object" {
                let why = "must be object if x-kubernetes-embedded-resource is true";
                self.causes.invalid(&format!("{field}.type"), kind, why);
            }
            let has_fields = at["properties"].as_object().is_some_and(|all| !all.is_empty());
            if !has_fields && at["x-kubernetes-preserve-unknown-fields"] != true {
                let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                           x-kubernetes-preserve-unknown-fields";
                self.causes.required(&format!("{field}.properties"), why);
            }
        }
        self.list(at, field);
        if let Some(map) = at[MAP].as_str() {
            if kind != "object" {
                let why = format!("must be object if {MAP} is specified");
                self.type_must(kind, &format!("{field}.type"), &why);
            }
            if !["atomic", "granular"].contains(&map) {
                let supported = ["atomic", "granular"];
                self.causes.not_supported(&format!("{field}.{MAP}"), map, &supported);
            }
        }
    }

    /// How a list is merged.
    fn list(&mut self, at: &Value, field: &str) {
        const LIST: &str = "x-kubernetes-list-type";
        const KEYS: &str = "x-kubernetes-list-map-keys";
        const MAP: &str = "x-kubernetes-map-type";
        let kind = text(&at["type"]);
        if let Some(list) = at[LIST].as_str() {
            if kind != "array" {
                let why = format!("must be array if {LIST} is specified");
                self.type_must(kind, &format!("{field}.type"), &why);
            }
            if !["atomic", "set", "map"].contains(&list) {
                self.causes.not_supported(
                    &format!("{field}.{LIST}"),
                    list,
                    &["atomic", "map", "set"],
                );
            }
        }
        let keys: Vec<&str> = items(&at[KEYS]).map(|(_, key)| text(key)).collect();
        if !keys.is_empty() && at[LIST] != "map" {
            let why = format!("must be map if {KEYS} is non-empty");
            match at[LIST].as_str() {
                Some(found) => self.causes.invalid(&format!("{field}.{LIST}"), found, &why),
                None => self.causes.required(&format!("{field}.{LIST}"), &why),
            }
        }
        if at[LIST] == "map" {
            self.keys(at, field, &keys);
        }
        if at[LIST] == "set" {
            let item = &at["items"];
            if item["nullable"] == true {
                let why = format!("cannot be nullable when {LIST} is set");
                self.causes.forbidden(&format!("{field}.items.nullable"), &why);
            }
            let is_whole = match text(&item["type"]) {
                "object" => item[MAP] == "atomic",
                "array" => item[LIST].is_null() || item[LIST] == "atomic",
                _ => true,
            };
            if !is_whole {
                let (inner, found) = match item["type"] == "object" {
                    true => (MAP, text(&item[MAP])),
                    false => (LIST, text(&item[LIST])),
                };
                let why = format!("must be atomic as item of a list with {LIST}=set");
                self.causes.invalid(&format!("{field}.items.{inner}"), found, &why);
            }
        }
    }

    fn type_must(&mut self, kind: &str, field: &str, why: &str) {
        match kind {
            "" => self.causes.required(field, why),
            kind => self.causes.invalid(field, kind, why),
        }
    }

    /// The keys by which a list is merged.
    fn keys(&mut self, at: &Value, field: &str, keys: &[&str]) {
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let item = &at["items"];
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.causes.required(&format!("{field}.{KEYS}"), why);
        }
        if item.is_null() {
            let why = "must have a schema if x-kubernetes-list-type is map";
            return self.causes.required(&format!("{field}.items"), why);
        }
        if item["type"] != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            self.type_must(text(&item["type"]), &format!("{field}.items.type"), why);
        }
        let mut seen = BTreeSet::new();
        for (index, key) in keys.iter().enumerate() {
            let own = &item["properties"][*key];
            let own_field = format!("{field}.{KEYS}[{index}]");
            if own.is_null() {
                let why = "entries must all be names of item properties";
                self.causes.invalid(&own_field, *key, why);
                continue;
            }
            if !["string", "integer", "number", "boolean"].contains(&text(&own["type"]))
                && own["x-kubernetes-int-or-string"] != true
            {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let field = format!("{field}.items.properties[{key}].type");
                self.causes.invalid(&field, text(&own["type"]), why);
            }
            if own["nullable"] == true {
                let why =
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                let field = format!("{field}.items.properties[{key}].nullable");
                self.causes.forbidden(&field, why);
            }
            let is_required = items(&item["required"]).any(|(_, one)| text(one) == *key);
            if !is_required && own["default"].is_null() {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or \
                           be a required property";
                self.causes.required(&format!("{field}.items.properties[{key}].default"), why);
            }
            if !seen.insert(*key) {
                self.causes.duplicate(&own_field, *key);
            }
        }
    }
}

/// A bound that a schema sets.
pub(super) fn bound(at: &Value, name: &str) -> Option<u64> {
    at[name].as_u64()
}

/// Defaults must be values of their schema, with nothing to take away.
fn defaults(causes: &mut Causes, at: &Value, schema: &Schema, field: &str, is_root: bool) {
    if causes.count() >= CAUSES_MAX {
        return;
    }
    if let Some(default) = &schema.default {
        let field = format!("{field}.default");
        if is_root {
            causes.forbidden(&field, "must not be set in top-level");
        } else {
            let gone = prune::unknown(default, schema, false);
            if !gone.is_empty() {
                causes.invalid(&field, default.clone(), "must not have unknown fields");
            }
            let mut whole = default.clone();
            prune::default(&mut whole, schema);
            for cause in check::values(&whole, schema, None, "") {
                let path = cause.field.trim_start_matches('.');
                let field = match path {
                    "" | "<nil>" => field.clone(),
                    path => format!("{field}.{path}"),
                };
                causes.extend([crate::Cause { field, ..cause }]);
            }
            if causes.count() == 0 {
                for cause in check::rules(&whole, schema, None) {
                    causes.extend([crate::Cause { field: field.clone(), ..cause }]);
                }
            }
        }
    }
    for (name, inner) in &schema.properties {
        // What a whole object's own fields are is not the schema's to say.
        if is_root && name == "metadata" {
            continue;
        }
        let own = &at["properties"][name];
        defaults(causes, own, inner, &format!("{field}.properties[{name}]"), false);
    }
    if let Some(inner) = &schema.items {
        defaults(causes, &at["items"], inner, &format!("{field}.items"), false);
    }
    if let Some(inner) = &schema.additional {
        let field = format!("{field}.additionalProperties");
        defaults(causes, &at["additionalProperties"], inner, &field, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::validation::tests::lines;

    fn found(field: Value) -> Vec<String> {
        let mut causes = Causes::new();
        let schema = json!({"type": "object", "properties": {"x": field}});
        check(&mut causes, &schema, "s");
        lines(&causes.into_list())
    }

    #[test]
    fn good_schemas_pass() {
        for schema in [
            json!({"type": "string", "pattern": "^[a-z]+$", "default": "a"}),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "object", "properties": {"a": {"type": "integer"}},
                "anyOf": [{"required": ["a"]}, {"properties": {"a": {"minimum": 1}}}]}),
            json!({"type": "array", "items": {"type": "object", "required": ["n"], "properties":
                {"n": {"type": "string"}}}, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["n"]}),
            json!({"type": "object", "properties": {"a": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.a > 1", "fieldPath": ".a"}]}),
            json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10},
                "x-kubernetes-validations": [{"rule": "self.all(x, x.startsWith('a'))"}]}),
        ] {
            assert_eq!(found(schema.clone()), [""; 0], "{schema}");
        }
    }

    #[test]
    fn wrong_schemas_are_named() {
        for (schema, start) in [
            (
                json!({}),
                "Required s.properties[x].type: Required value: must not be empty for specified",
            ),
            (
                json!({"type": "text"}),
                "NotSupported s.properties[x].type: Unsupported value: \"text\"",
            ),
            (
                json!({"type": "array"}),
                "Required s.properties[x].items: Required value: must be specified",
            ),
            (json!({"type": "array", "items": {}}), "Required s.properties[x].items.type"),
            (json!({"type": "object", "$ref": "#"}), "Forbidden s.properties[x].$ref"),
            (
                json!({"type": "string", "pattern": "a("}),
                "Invalid s.properties[x].pattern: Invalid value: \"a(\": must be a valid regular expression",
            ),
            (
                json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"}),
                "Invalid s.properties[x].pattern",
            ),
            (
                json!({"type": "integer", "default": "a"}),
                "TypeInvalid s.properties[x].default: Invalid value: \"string\"",
            ),
            (
                json!({"type": "object", "properties": {}, "default": {"a": 1}}),
                "Invalid s.properties[x].default",
            ),
            (
                json!({"type": "string", "allOf": [{"type": "string", "minLength": 1}]}),
                "Forbidden s.properties[x].allOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}),
                "Required s.properties[x].properties[b]: Required value: because it is defined in",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}),
                "Required s.properties[x].x-kubernetes-list-map-keys",
            ),
            (
                json!({"type": "array", "items": {"type": "object", "properties": {"n":
                    {"type": "string"}}}, "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["n"]}),
                "Required s.properties[x].items.properties[n].default",
            ),
            (
                json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self >"}]}),
                "Invalid s.properties[x].x-kubernetes-validations[0].rule: Invalid value: \
                 apiextensions.ValidationRule{Rule:\"self >\"",
            ),
            (
                json!({"type": "integer", "x-kubernetes-validations": [{"rule": "object.a > 1"}]}),
                "Invalid s.properties[x].x-kubernetes-validations[0].rule",
            ),
            (
                json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations":
                    [{"rule": "self.all(a, self.all(b, a == b))"}]}),
                "Forbidden s.properties[x].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost \
                 exceeds budget by factor of",
            ),
        ] {
            let found = found(schema.clone());
            assert!(found.iter().any(|line| line.starts_with(start)), "{schema}: {found:#?}");
        }
    }

    #[test]
    fn hostile_schemas_are_refused_clearly() {
        let mut deep = json!({"type": "string"});
        for _ in 0..200 {
            deep = json!({"type": "object", "properties": {"a": deep}});
        }
        assert!(found(deep)[0].ends_with("must not nest deeper than 64 levels"));
        let wide: Map<String, Value> =
            (0..30_000).map(|at| (format!("f{at}"), json!({"type": "string"}))).collect();
        let wide = found(json!({"type": "object", "properties": wide}));
        assert!(wide.last().unwrap().ends_with("must not have more than 20000 nodes"), "{wide:?}");
        let values: Vec<i32> = (0..20_000).collect();
        assert!(found(json!({"type": "integer", "enum": values}))[0].starts_with("TooMany"));
    }
}
