//! The schema of a custom resource, read once from its definition.
//!
//! What is wrong with a schema is said by [`super::structural`]; reading takes whatever is there and is as
//! lenient as can be, so that a definition that was stored once is served for ever.
//! Limit: what nests deeper than [`DEPTH_MAX`] is not read, and takes every value.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::rules::Rule;
use super::{check, prune};
use crate::Cause;
use crate::validation::{items, text};

/// How deep schemas may nest.
pub const DEPTH_MAX: usize = 64;
/// How much a compiled pattern may hold.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Type {
    /// Nothing in particular.
    #[default]
    Any,
    /// A map or a struct.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
}

/// How server-side apply takes a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// As one value.
    #[default]
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map, by these fields of its items.
    Map(Vec<String>),
}

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// What the value must be.
    pub kind: Type,
    /// What kind of text or number.
    pub format: String,
    /// Whether null is a value.
    pub nullable: bool,
    /// What a missing value becomes.
    pub default: Option<Value>,
    /// Fields by name.
    pub properties: BTreeMap<String, Schema>,
    /// What the entries of a map are.
    pub additional: Option<Box<Schema>>,
    /// Whether a map may have any entries.
    pub additional_any: bool,
    /// What the items of a list are.
    pub items: Option<Box<Schema>>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// The values that there are; none if it may be any.
    pub values: Vec<Value>,
    /// What text must look like.
    pub pattern: Option<Regex>,
    /// Bounds by the words of the schema, such as `maxLength`.
    pub bounds: BTreeMap<&'static str, f64>,
    /// Whether `minimum` itself is too little.
    pub exclusive_minimum: bool,
    /// Whether `maximum` itself is too much.
    pub exclusive_maximum: bool,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// At least one of these holds.
    pub any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// This does not hold.
    pub not: Option<Box<Schema>>,
    /// Whether fields that it does not name are kept.
    pub preserves_unknown: bool,
    /// Whether it is a number or a text.
    pub is_int_or_string: bool,
    /// Whether it is a whole object with a kind of its own.
    pub is_embedded: bool,
    /// How a list is merged.
    pub list: ListType,
    /// Whether a map is one value.
    pub is_atomic_map: bool,
    /// Expressions that must hold.
    pub rules: Vec<Rule>,
}

/// The bounds that a schema may have.
pub(super) const BOUNDS: [&str; 9] = [
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
];

/// Compiles a pattern as upstream's engine would: without look-around or back references, within bounds.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .nest_limit(100)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
            // The first line repeats the pattern and marks the place.
            other => {
                let told = other.to_string();
                let last = told.lines().last().unwrap_or_default().trim();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            }
        })
}

impl Schema {
    /// Reads `openAPIV3Schema`.
    pub fn read(value: &Value) -> Self {
        Self::node(value, 0)
    }

    fn node(value: &Value, depth: usize) -> Self {
        if depth > DEPTH_MAX {
            return Self { preserves_unknown: true, ..Self::default() };
        }
        let below = |name: &str| {
            value
                .get(name)
                .filter(|inner| inner.is_object())
                .map(|inner| Box::new(Self::node(inner, depth + 1)))
        };
        let list = |name: &str| -> Vec<Self> {
            items(&value[name]).map(|(_, one)| Self::node(one, depth + 1)).collect()
        };
        let flag = |name: &str| value[name] == true;
        let texts = |name: &str| -> Vec<String> {
            items(&value[name]).map(|(_, one)| text(one).to_owned()).collect()
        };
        let kind = match text(&value["type"]) {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => Type::Any,
        };
        let properties = value["properties"].as_object().into_iter().flatten();
        Self {
            kind,
            format: text(&value["format"]).to_owned(),
            nullable: flag("nullable"),
            default: value.get("default").filter(|default| !default.is_null()).cloned(),
            properties: properties
                .map(|(name, inner)| (name.clone(), Self::node(inner, depth + 1)))
                .collect(),
            additional: below("additionalProperties"),
            additional_any: flag("additionalProperties"),
            items: below("items"),
            required: texts("required"),
            values: items(&value["enum"]).map(|(_, one)| one.clone()).collect(),
            pattern: value["pattern"].as_str().and_then(|text| pattern(text).ok()),
            bounds: BOUNDS
                .into_iter()
                .filter_map(|name| Some((name, value[name].as_f64()?)))
                .collect(),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            all_of: list("allOf"),
            any_of: list("anyOf"),
            one_of: list("oneOf"),
            not: below("not"),
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            is_int_or_string: flag("x-kubernetes-int-or-string"),
            is_embedded: flag("x-kubernetes-embedded-resource"),
            list: match text(&value["x-kubernetes-list-type"]) {
                "set" => ListType::Set,
                "map" => ListType::Map(texts("x-kubernetes-list-map-keys")),
                _ => ListType::Atomic,
            },
            is_atomic_map: value["x-kubernetes-map-type"] == "atomic",
            rules: items(&value["x-kubernetes-validations"])
                .filter_map(|(_, one)| Rule::read(one).ok())
                .collect(),
        }
    }

    /// Takes away what it does not know; tells the paths. `is_object`: what every object has is known.
    pub fn prune(&self, value: &mut Value, is_object: bool) -> Vec<String> {
        prune::prune(value, self, is_object)
    }

    /// The paths of what it does not know.
    pub fn unknown(&self, value: &Value, is_object: bool) -> Vec<String> {
        prune::unknown(value, self, is_object)
    }

    /// Sets the defaults of a whole object.
    pub fn fill_in(&self, object: &mut Value) {
        prune::default_object(object, self);
    }

    /// What is wrong with a value, its rules included; with the old one for an update.
    pub fn problems(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let causes = check::values(value, self, old, "");
        // As upstream: expressions may rely on the types.
        if causes.is_empty() { check::rules(value, self, old) } else { causes }
    }

    /// A bound, if there is one.
    pub fn bound(&self, name: &str) -> Option<f64> {
        self.bounds.get(name).copied()
    }

    /// The schema of a field or of a map's entry.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// What a missing key field of a list's item counts as.
    pub(super) fn key<'v>(&'v self, item: &'v Value, key: &str) -> Option<&'v Value> {
        item.get(key).or_else(|| self.properties.get(key)?.default.as_ref())
    }

    /// The item of an old list that is the same as one of a new list, by its keys.
    pub(super) fn correlated<'v>(&self, old: &'v [Value], item: &Value) -> Option<&'v Value> {
        let (ListType::Map(keys), Some(schema)) = (&self.list, &self.items) else { return None };
        let is_same =
            |other: &&Value| keys.iter().all(|key| schema.key(item, key) == schema.key(other, key));
        old.iter().find(is_same)
    }
}
