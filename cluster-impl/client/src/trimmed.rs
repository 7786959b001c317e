//! JSON without `metadata.managedFields`, which no component asks for and every object carries.
//!
//! Upstream's components drop it from what their informers keep; here it is not even read. A server keeps
//! the owners of an object that comes back without them.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Number, Value};

/// A value without owners.
#[derive(Debug)]
pub(crate) struct Trimmed(pub(crate) Value);

impl<'de> Deserialize<'de> for Trimmed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node { is_metadata: false }.deserialize(deserializer).map(Self)
    }
}

/// A value on the way; `is_metadata` where owners may stand.
struct Node {
    is_metadata: bool,
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::with_capacity(items.size_hint().unwrap_or_default());
        while let Some(item) = items.next_element_seed(Node { is_metadata: false })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        // A map that is made of all its fields at once need not be searched for the place of each: they
        // come in order, mostly.
        let mut fields = Vec::with_capacity(8);
        while let Some(key) = entries.next_key::<String>()? {
            if self.is_metadata && key == "managedFields" {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = entries.next_value_seed(Node { is_metadata: key == "metadata" })?;
            fields.push((key, value));
        }
        Ok(Value::Object(fields.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_owners_are_left_out() {
        let event = json!({"type": "ADDED", "object": {
            "metadata": {"name": "a", "managedFields": [{"manager": "x", "fieldsV1": {"f:a": {}}}]},
            "spec": {"managedFields": [1, -2, 0.5, null, true, "x"], "big": u64::MAX},
        }});
        let Trimmed(read) = serde_json::from_str(&event.to_string()).unwrap();
        let mut wanted = event;
        wanted["object"]["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(read, wanted);
        let text = r#"{"b": 1, "a": {}, "b": 2, "c": [{}, {"z": 1, "y": 2}]}"#;
        let Trimmed(read) = serde_json::from_str(text).unwrap();
        assert_eq!(read, serde_json::from_str::<Value>(text).unwrap(), "whatever the order");
    }
}
