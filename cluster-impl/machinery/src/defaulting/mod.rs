//! Defaults that upstream sets when it decodes an object.

mod pod_spec;

pub use pod_spec::{pod_only, pod_spec, template, volume_source};

use serde_json::{Map, Value};

/// Sets a field of a map if it is absent or null. Does nothing if `at` is no map.
pub(crate) fn absent(at: &mut Value, field: &str, default: impl Into<Value>) {
    if let Value::Object(map) = at
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), default.into());
    }
}

/// Like [`absent`], and an empty text or zero also counts as absent, as in a Go field without a pointer.
pub(crate) fn zero(at: &mut Value, field: &str, default: impl Into<Value>) {
    let empty = match &at[field] {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        other => other.is_null(),
    };
    if let Value::Object(map) = at
        && empty
    {
        map.insert(field.to_owned(), default.into());
    }
}

/// The items of a list in a field; none if it is no list.
pub(crate) fn each<'v>(at: &'v mut Value, field: &str) -> impl Iterator<Item = &'v mut Value> {
    at.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The map in a field, if there is one.
pub(crate) fn inside<'v>(at: &'v mut Value, field: &str) -> Option<&'v mut Value> {
    at.get_mut(field).filter(|value| value.is_object())
}

/// The map in a field, made if it is absent or null; `None` if something else is there.
pub(crate) fn part<'v>(at: &'v mut Value, field: &str) -> Option<&'v mut Value> {
    absent(at, field, empty());
    inside(at, field)
}

/// An empty map.
pub(crate) fn empty() -> Value {
    Value::Object(Map::new())
}
