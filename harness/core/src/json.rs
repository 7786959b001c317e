//! JSON as it was seen: never changed again, and shared wherever it is equal.
//!
//! A timeline keeps every version of every object. Of a hundred thousand pods most parts are equal: a
//! version shares with the one before it whatever has not changed ([`Value::like`]), and world,
//! witness and timeline hold the same one. It reads as `serde_json`'s does and is written as the same
//! bytes: the fields of an object stand in order of name.

mod read;

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use serde::de::DeserializeSeed as _;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

pub use read::Like;

/// What has no value.
static NULL: Value = Value::Null;

/// Any JSON. A clone is a count, not a copy.
#[derive(Clone, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    String(Arc<str>),
    /// A list.
    Array(Arc<[Value]>),
    /// An object.
    Object(Fields),
}

/// The fields of an object, in order of name.
#[derive(Clone)]
pub struct Fields(Arc<[(Arc<str>, Value)]>);

impl Fields {
    /// The field of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entry(name).map(|(_, value)| value)
    }

    fn entry(&self, name: &str) -> Option<&(Arc<str>, Value)> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.0[at])
    }

    /// Every field with its name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// The names.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// The values.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.iter().map(|(_, value)| value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'f> IntoIterator for &'f Fields {
    type Item = (&'f str, &'f Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter().collect::<Vec<_>>().into_iter()
    }
}

impl Value {
    /// The same JSON, which shares with a model whatever is equal in both.
    pub fn like(value: serde_json::Value, model: &Value) -> Self {
        use serde_json::Value as Plain;
        match (value, model) {
            (Plain::Null, _) => Value::Null,
            (Plain::Bool(value), _) => Value::Bool(value),
            (Plain::Number(value), _) => Value::Number(value),
            (Plain::String(text), Value::String(known)) if *text == **known => model.clone(),
            (Plain::String(text), _) => Value::String(text.into()),
            (Plain::Array(items), _) => {
                let known = model.as_array().unwrap_or_default();
                let is_as_long = items.len() == known.len();
                let items: Vec<_> = items
                    .into_iter()
                    .enumerate()
                    .map(|(at, item)| Self::like(item, known.get(at).unwrap_or(&NULL)))
                    .collect();
                let is_same = is_as_long && items.iter().zip(known).all(|(a, b)| a.is_shared(b));
                if is_same && model.is_array() { model.clone() } else { Value::Array(items.into()) }
            }
            (Plain::Object(fields), _) => {
                let known = model.as_object();
                // Ordered by name, whatever order the reader keeps them in.
                let mut fields: Vec<_> = fields
                    .into_iter()
                    .map(|(name, field)| match known.and_then(|known| known.entry(&name)) {
                        Some((name, known)) => (name.clone(), Self::like(field, known)),
                        None => (name.into(), Self::like(field, &NULL)),
                    })
                    .collect();
                fields.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                let is_same = known.is_some_and(|known| {
                    let pairs = || fields.iter().zip(known.0.iter());
                    fields.len() == known.0.len()
                        && pairs().all(|(a, b)| a.0 == b.0 && a.1.is_shared(&b.1))
                });
                if is_same { model.clone() } else { Value::Object(Fields(fields.into())) }
            }
        }
    }

    /// Whether both are one, as far as one can tell at a glance.
    fn is_shared(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(one), Value::Bool(other)) => one == other,
            (Value::Number(one), Value::Number(other)) => one == other,
            (Value::String(one), Value::String(other)) => Arc::ptr_eq(one, other),
            (Value::Array(one), Value::Array(other)) => Arc::ptr_eq(one, other),
            (Value::Object(one), Value::Object(other)) => Arc::ptr_eq(&one.0, &other.0),
            _ => false,
        }
    }

    /// As `serde_json` has it: a copy that can be changed.
    pub fn plain(&self) -> serde_json::Value {
        use serde_json::Value as Plain;
        match self {
            Value::Null => Plain::Null,
            Value::Bool(value) => Plain::Bool(*value),
            Value::Number(number) => Plain::Number(number.clone()),
            Value::String(text) => Plain::String(text.to_string()),
            Value::Array(items) => items.iter().map(Value::plain).collect(),
            Value::Object(fields) => Plain::Object(
                fields.iter().map(|(name, field)| (name.to_owned(), field.plain())).collect(),
            ),
        }
    }

    /// What stands at a JSON pointer.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        if pointer.is_empty() {
            return Some(self);
        }
        let parts = pointer.strip_prefix('/')?.split('/');
        parts.into_iter().try_fold(self, |value, part| match value {
            Value::Object(fields) if part.contains('~') => {
                fields.get(&part.replace("~1", "/").replace("~0", "~"))
            }
            Value::Object(fields) => fields.get(part),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The field of this name, of an object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_object()?.get(name)
    }

    /// The text that it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number that it is.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    /// The whole number, not less than zero, that it is.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    /// The truth value that it is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The list that it is.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The object that it is.
    pub fn as_object(&self) -> Option<&Fields> {
        match self {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// Whether it is a text.
    pub fn is_string(&self) -> bool {
        matches!(self, Value::String(_))
    }

    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        matches!(self, Value::Number(_))
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        matches!(self, Value::Object(_))
    }

    /// Whether it is a list.
    pub fn is_array(&self) -> bool {
        matches!(self, Value::Array(_))
    }

    /// Whether there is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        Self::like(value, &NULL)
    }
}

impl Index<&str> for Value {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&NULL)
    }
}

impl Index<usize> for Value {
    type Output = Value;

    fn index(&self, at: usize) -> &Value {
        self.as_array().and_then(|items| items.get(at)).unwrap_or(&NULL)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        if self.is_shared(other) {
            return true;
        }
        match (self, other) {
            (Value::String(one), Value::String(other)) => one == other,
            (Value::Array(one), Value::Array(other)) => one == other,
            (Value::Object(one), Value::Object(other)) => one.0 == other.0,
            _ => false,
        }
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

impl PartialEq<String> for Value {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<bool> for Value {
    fn eq(&self, other: &bool) -> bool {
        self.as_bool() == Some(*other)
    }
}

impl PartialEq<i64> for Value {
    fn eq(&self, other: &i64) -> bool {
        self.as_i64() == Some(*other)
    }
}

impl PartialEq<i32> for Value {
    fn eq(&self, other: &i32) -> bool {
        self.as_i64() == Some(i64::from(*other))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => number.serialize(serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items.iter() {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.0.len()))?;
                for (name, field) in fields.iter() {
                    map.serialize_entry(name, field)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Like::new(&NULL).deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> serde_json::Value {
        json!({
            "metadata": {"name": "web-1", "labels": {"app": "web", "a/b": "c~d"}, "resourceVersion": "1"},
            "spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80}]}], "x": 1.5},
            "status": {"ready": true, "none": null, "count": -3},
        })
    }

    #[test]
    fn it_reads_and_is_written_as_the_plain_one() {
        let (plain, shared) = (pod(), Value::from(pod()));
        assert_eq!(serde_json::to_string(&shared).unwrap(), plain.to_string());
        assert_eq!(shared.to_string(), plain.to_string());
        assert_eq!(shared.plain(), plain);
        assert_eq!(serde_json::from_str::<Value>(&plain.to_string()).unwrap(), shared);
        for pointer in [
            "",
            "/metadata/name",
            "/metadata/labels/a~1b",
            "/spec/containers/0/ports/0/containerPort",
            "/spec/containers/1",
            "/spec/x/y",
            "metadata",
            "/status/none",
        ] {
            let told = shared.pointer(pointer).map(Value::plain);
            assert_eq!(told.as_ref(), plain.pointer(pointer), "{pointer}");
        }
        assert_eq!(shared["spec"]["containers"][0]["name"], "web");
        assert_eq!(shared["status"]["ready"], true);
        assert_eq!(shared["status"]["count"], -3);
        assert!(shared["nothing"]["there"].is_null() && shared["spec"][7].is_null());
    }

    #[test]
    fn a_version_shares_what_has_not_changed() {
        let first = Value::from(pod());
        let again = Value::like(pod(), &first);
        assert!(again.is_shared(&first), "the same is one");
        let mut changed = pod();
        changed["metadata"]["resourceVersion"] = json!("2");
        changed["status"]["ready"] = json!(false);
        let second = Value::like(changed.clone(), &first);
        assert_eq!(second.plain(), changed);
        assert_ne!(second, first);
        assert!(second["spec"].is_shared(&first["spec"]));
        assert!(second["metadata"]["labels"].is_shared(&first["metadata"]["labels"]));
        assert!(!second["metadata"].is_shared(&first["metadata"]));
        // A model of another shape does no harm.
        for model in [json!(null), json!([1, [2]]), json!({"metadata": [1], "spec": {"x": {}}})] {
            assert_eq!(Value::like(pod(), &model.into()), first);
        }
        assert_eq!(Value::like(json!([]), &Value::from(json!({}))).to_string(), "[]");
        assert_eq!(Value::like(json!([]), &Value::Null).to_string(), "[]");
    }
}
