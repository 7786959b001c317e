//! Parsing of JSON that notices keys that are there twice; the last one wins, as upstream has it.
//!
//! Limits: nesting as deep as serde_json allows (128), at most [`FOUND_MAX`] duplicates are reported.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::Status;

/// More duplicates than this are not listed.
pub const FOUND_MAX: usize = 100;

/// Parses a body. Beside the value: its duplicate fields, as `duplicate field "spec.replicas"`.
pub fn parse(body: &[u8]) -> Result<(Value, Vec<String>), Status> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Node { path: String::new(), found: &mut found }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| {
            Status::bad_request(format!("the object provided is unrecognized: {error}"))
        })?;
    Ok((value, found))
}

struct Node<'f> {
    path: String,
    found: &'f mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
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
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            match items.next_element_seed(Node { path, found: &mut *self.found })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = super::inside(&self.path, &key);
            if map.contains_key(&key) && self.found.len() < FOUND_MAX {
                self.found.push(format!("duplicate field {path:?}"));
            }
            let value = entries.next_value_seed(Node { path, found: &mut *self.found })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_key_wins_and_is_reported() {
        let body = br#"{"a": 1, "b": {"c": [{"d": null, "d": "x"}]}, "a": -1.5, "e": true}"#;
        let (value, found) = parse(body).unwrap();
        assert_eq!(value, json!({"a": -1.5, "b": {"c": [{"d": "x"}]}, "e": true}));
        assert_eq!(found, ["duplicate field \"b.c[0].d\"", "duplicate field \"a\""]);
    }

    #[test]
    fn what_is_no_json_is_a_bad_request() {
        for body in ["", "{", "{} x", "{a: 1}"] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().code, 400, "{body}");
        }
        let deep = "[".repeat(1000);
        assert_eq!(parse(deep.as_bytes()).unwrap_err().code, 400);
    }
}
