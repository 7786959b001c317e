//! Values of expressions: JSON as CEL has it and back, and objects with methods of their own.

use std::fmt;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map, Opaque, OptionalValue};
use serde_json::Value as Json;

/// Something that expressions only call methods of.
pub(crate) trait Native: fmt::Debug + Send + Sync {
    /// The name of its type.
    fn type_name(&self) -> &'static str;

    /// The answer to a call of one of its methods.
    fn call(&self, method: &str, arguments: &[Value]) -> Result<Value, String>;
}

/// A [`Native`] as a value.
#[derive(Debug)]
pub(super) struct Held(pub(super) Arc<dyn Native>);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Held {}

impl Opaque for Held {
    fn runtime_type_name(&self) -> &str {
        self.0.type_name()
    }
}

/// The answer of `type()`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Type(pub(super) String);

impl Opaque for Type {
    fn runtime_type_name(&self) -> &str {
        "type"
    }
}

/// An object with methods.
pub(crate) fn native(object: impl Native + 'static) -> Value {
    Value::Opaque(Arc::new(Held(Arc::new(object))))
}

/// A text.
pub(crate) fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

/// A list.
pub(super) fn list(items: Vec<Value>) -> Value {
    Value::List(Arc::new(items))
}

/// A map whose keys are texts.
fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let map = entries.into_iter().map(|(key, value)| (Key::from(key), value)).collect();
    Value::Map(Map { map: Arc::new(map) })
}

/// A map without entries.
pub(crate) fn empty() -> Value {
    map([])
}

/// An optional value.
pub(super) fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// JSON as CEL has it: whole numbers are `int`, field names are as they are.
pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(large)) => Value::UInt(large),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(value) => text(value),
        Json::Array(items) => list(items.iter().map(from_json).collect()),
        Json::Object(fields) => {
            map(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// What an optional value holds, if this is one.
pub(super) fn optional_of(value: &Value) -> Option<Option<&Value>> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>().map(OptionalValue::value),
        _ => None,
    }
}

/// The name of a value's type.
pub(super) fn type_name(value: &Value) -> String {
    let name = match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Function(..) => "function",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Opaque(opaque) => opaque.runtime_type_name(),
        Value::Null => "null_type",
    };
    name.to_owned()
}

/// How much there is to look at in a value, in bytes and items, counted up to a limit.
pub(super) fn weight(value: &Value, limit: u64) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(items) => {
            items.iter().fold(1, |sum, item| add(sum, limit, |left| weight(item, left)))
        }
        Value::Map(map) => {
            map.map.values().fold(1, |sum, item| add(sum, limit, |left| weight(item, left)))
        }
        Value::Opaque(_) => optional_of(value).flatten().map_or(1, |inner| weight(inner, limit)),
        _ => 1,
    }
}

fn add(sum: u64, limit: u64, more: impl FnOnce(u64) -> u64) -> u64 {
    match sum >= limit {
        true => limit,
        false => sum.saturating_add(1).saturating_add(more(limit - sum)).min(limit),
    }
}
