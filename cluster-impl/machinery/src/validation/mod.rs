//! Validation: what is wrong with an object, as causes with upstream's reasons, words and field paths.

pub mod claim;
mod containers;
mod env;
pub mod go;
mod handlers;
pub mod job;
pub mod metadata;
pub mod names;
pub mod network;
pub mod pod_spec;
mod pod_update;
pub mod quota;
pub mod resources;
pub mod scheduling;
mod security;
pub mod selector;
pub mod share;
mod volume_sources;
pub mod volumes;
pub mod workload;

pub(crate) use volume_sources::{
    PERSISTENT as PERSISTENT_SOURCES, persistent as persistent_volume_source,
};

pub use pod_update::{difference, ephemeral_containers_update, pod_resize, pod_update};

use serde_json::Value;

use crate::{Cause, Object};

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Causes(Vec<Cause>);

impl Causes {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was found, in order.
    pub fn into_list(self) -> Vec<Cause> {
        self.0
    }

    /// How much was found so far.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, reason: &str, field: &str, message: String) {
        self.0.push(Cause { reason: reason.to_owned(), message, field: field.to_owned() });
    }

    /// A field must be there; `detail` may be empty.
    pub fn required(&mut self, field: &str, detail: &str) {
        self.add("FieldValueRequired", field, join("Required value", detail));
    }

    /// A field's value is wrong. Text is quoted, other values are written as upstream writes them.
    pub fn invalid(&mut self, field: &str, value: impl Into<Value>, detail: &str) {
        let value = go::value(&value.into());
        self.add("FieldValueInvalid", field, join(&format!("Invalid value: {value}"), detail));
    }

    /// Like [`Causes::invalid`] with the value as it is to be written.
    pub fn invalid_as(&mut self, field: &str, value: &str, detail: &str) {
        self.add("FieldValueInvalid", field, join(&format!("Invalid value: {value}"), detail));
    }

    /// A field's value is none of a fixed few.
    pub fn not_supported(&mut self, field: &str, value: &str, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|one| format!("{one:?}")).collect();
        let message =
            format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
        self.add("FieldValueNotSupported", field, message);
    }

    /// A field's value is of another type; `value` is what upstream shows of it.
    pub fn type_invalid(&mut self, field: &str, value: impl Into<Value>, detail: &str) {
        let value = go::value(&value.into());
        self.add("FieldValueTypeInvalid", field, join(&format!("Invalid value: {value}"), detail));
    }

    /// Like [`Causes::not_supported`] for a value that need not be text.
    pub fn not_supported_value(&mut self, field: &str, value: &Value, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|one| format!("{one:?}")).collect();
        let (value, supported) = (go::value(value), supported.join(", "));
        let message = format!("Unsupported value: {value}: supported values: {supported}");
        self.add("FieldValueNotSupported", field, message);
    }

    /// Like [`Causes::duplicate`] with the value as it is to be written.
    pub fn duplicate_as(&mut self, field: &str, value: &str) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    /// What somebody else found.
    pub fn extend(&mut self, causes: impl IntoIterator<Item = Cause>) {
        self.0.extend(causes);
    }

    /// A field may not be set, or not be changed, here.
    pub fn forbidden(&mut self, field: &str, detail: &str) {
        self.add("FieldValueForbidden", field, join("Forbidden", detail));
    }

    /// Something is wrong with a field as a whole; its value is not written.
    pub fn invalid_whole(&mut self, field: &str, detail: &str) {
        self.add("FieldValueInvalid", field, join("Invalid value", detail));
    }

    /// A list has more items than it may.
    pub fn too_many(&mut self, field: &str, count: usize, count_max: usize) {
        let message = format!("Too many: {count}: must have at most {count_max} items");
        self.add("FieldValueTooMany", field, message);
    }

    /// A value that must be unique is there twice.
    pub fn duplicate(&mut self, field: &str, value: impl Into<Value>) {
        let value = go::value(&value.into());
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    /// A value refers to something that is not there.
    pub fn not_found(&mut self, field: &str, value: &str) {
        self.add("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    /// A value is longer than it may be.
    pub fn too_long(&mut self, field: &str, bytes_max: usize) {
        let message = format!("Too long: may not be more than {bytes_max} bytes");
        self.add("FieldValueTooLong", field, message);
    }

    /// A text must keep a rule of [`names`].
    pub fn name(&mut self, field: &str, value: &str, rule: fn(&str) -> Vec<String>) {
        for why in rule(value) {
            self.invalid(field, value, &why);
        }
    }

    /// A required text must keep a rule of [`names`].
    pub fn required_name(&mut self, field: &str, value: &str, rule: fn(&str) -> Vec<String>) {
        if value.is_empty() {
            self.required(field, "");
        } else {
            self.name(field, value, rule);
        }
    }

    /// An integer, if it is there, must not be negative.
    pub fn not_negative(&mut self, field: &str, value: &Value) {
        if let Some(number) = value.as_i64().filter(|number| *number < 0) {
            self.invalid(field, number, "must be greater than or equal to 0");
        }
    }

    /// A text must be one of a few; empty counts as missing.
    pub fn one_of(&mut self, field: &str, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(field, "");
        } else if !supported.contains(&value) {
            self.not_supported(field, value, supported);
        }
    }

    /// Several integers of a status must not be negative.
    pub fn counts(&mut self, status: &Value, fields: &[&str]) {
        for field in fields {
            self.not_negative(&format!("status.{field}"), &status[*field]);
        }
    }

    /// An integer of a status must not be more than another.
    pub fn not_more(&mut self, status: &Value, field: &str, most: &str, detail: &str) {
        let count = |field: &str| status[field].as_i64().unwrap_or_default();
        if count(field) > count(most) {
            self.invalid(&format!("status.{field}"), count(field), detail);
        }
    }

    /// `status.collisionCount` must not go down.
    pub fn collisions(&mut self, new: &Value, old: &Value) {
        let count = |status: &Value| status["collisionCount"].as_i64();
        if count(old).is_some_and(|old| count(new).is_none_or(|new| new < old)) {
            self.invalid(
                "status.collisionCount",
                count(new).unwrap_or_default(),
                "cannot be decremented",
            );
        }
    }

    /// A field must be an IP address.
    pub fn ip(&mut self, field: &str, address: &str) {
        if address.parse::<std::net::IpAddr>().is_err() {
            self.invalid(
                field,
                address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
    }

    /// A port's number must be between 1 and 65535.
    pub fn port(&mut self, field: &str, number: i64) {
        if !(1..=65535).contains(&number) {
            self.invalid(field, number, "must be between 1 and 65535, inclusive");
        }
    }

    /// A field must be what it was.
    pub fn immutable(&mut self, field: &str, new: &Value, old: &Value) {
        if present(new) != present(old) {
            self.invalid(field, new.clone(), "field is immutable");
        }
    }
}

/// The value, or `None` for null.
fn present(value: &Value) -> Option<&Value> {
    Some(value).filter(|value| !value.is_null())
}

/// The new and the old status, if an update changes it. Upstream looks at a status only then.
pub(crate) fn status_change<'v>(
    new: &'v Object,
    old: Option<&'v Object>,
) -> Option<(&'v Value, &'v Value)> {
    let (new, old) = (&new.0["status"], &old?.0["status"]);
    (new != old).then_some((new, old))
}

/// Whether a spec is to be checked: what is stored already was. Most updates are of a status.
pub(crate) fn is_new_spec(object: &Object, old: Option<&Object>) -> bool {
    old.is_none_or(|old| old.0["spec"] != object.0["spec"])
}

/// The items of a list with their places; none if it is no list.
pub(crate) fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

/// The text, or "".
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A list of texts as upstream's messages write it.
pub(crate) fn go_strings(list: &Value) -> String {
    let texts: Vec<_> = items(list).map(|(_, one)| format!("{:?}", text(one))).collect();
    format!("[]string{{{}}}", texts.join(", "))
}

fn join(first: &str, detail: &str) -> String {
    if detail.is_empty() { first.to_owned() } else { format!("{first}: {detail}") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The causes as lines `reason field: message`.
    pub(crate) fn lines(causes: &[Cause]) -> Vec<String> {
        let line = |cause: &Cause| {
            let reason = cause.reason.trim_start_matches("FieldValue");
            format!("{reason} {}: {}", cause.field, cause.message)
        };
        causes.iter().map(line).collect()
    }

    #[test]
    fn messages_are_upstreams() {
        let mut causes = Causes::new();
        causes.required("a", "");
        causes.required("a", "name or generateName is required");
        causes.invalid("b", "x", "bad");
        causes.invalid("b", 5, "");
        causes.not_supported("c", "x", &["A", "B"]);
        causes.forbidden("d", "no");
        causes.duplicate("e", "x");
        causes.not_found("f", "x");
        causes.too_long("g", 3);
        causes.invalid_whole("h", "no");
        causes.too_many("i", 4, 3);
        assert_eq!(
            lines(&causes.into_list()),
            [
                "Required a: Required value",
                "Required a: Required value: name or generateName is required",
                "Invalid b: Invalid value: \"x\": bad",
                "Invalid b: Invalid value: 5",
                "NotSupported c: Unsupported value: \"x\": supported values: \"A\", \"B\"",
                "Forbidden d: Forbidden: no",
                "Duplicate e: Duplicate value: \"x\"",
                "NotFound f: Not found: \"x\"",
                "TooLong g: Too long: may not be more than 3 bytes",
                "Invalid h: Invalid value: no",
                "TooMany i: Too many: 4: must have at most 3 items",
            ]
        );
    }
}
