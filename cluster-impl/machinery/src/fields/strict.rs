//! Strict reading of JSON: keys that are there twice, of which the last one wins, and unknown fields, in
//! the order of the text and in upstream's words.
//!
//! Limits: nesting as deep as serde_json allows (128), at most [`FOUND_MAX`] problems are told.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Place;
use crate::schema::{Shape, TypeFact, type_of};
use crate::{Kind, Status};

/// More problems than this are not told.
pub const FOUND_MAX: usize = 100;

/// Parses a body. Beside the value: whether a key is there twice, of which [`problems`] tells.
pub fn parse(body: &[u8]) -> Result<(Value, bool), Status> {
    let mut is_doubled = false;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Node { is_doubled: &mut is_doubled }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| {
            Status::bad_request(format!("the object provided is unrecognized: {error}"))
        })?;
    Ok((value, is_doubled))
}

/// What a body is read as.
#[derive(Clone, Copy)]
pub enum Reading<'k> {
    /// Any JSON: only keys that are there twice are wrong. So custom resources are read, and patches that merge.
    Anything,
    /// An object of this built-in kind. What an unknown field holds is not looked at.
    Object(&'k Kind),
    /// The operations of a JSON patch.
    JsonPatch,
}

/// What a strict reader finds wrong with a body that can be parsed, such as `unknown field "spec.foo"` and
/// `duplicate field "spec.replicas"`; each is told once.
pub fn problems(body: &[u8], reading: Reading<'_>) -> Vec<String> {
    let wanted = match reading {
        Reading::Anything => Wanted::Anything,
        Reading::Object(kind) if kind.custom.is_some() => Wanted::Anything,
        Reading::Object(kind) => Wanted::Type(type_of(kind)),
        Reading::JsonPatch => Wanted::Operations,
    };
    let mut found = Vec::new();
    let walk = Walk { place: Place::Top, wanted, found: &mut found };
    // Who cannot parse the body has said so: what was found until then is told.
    let _ = walk.deserialize(&mut serde_json::Deserializer::from_slice(body));
    if let Reading::JsonPatch = reading {
        return found.into_iter().map(|problem| format!("json patch {problem}")).collect();
    }
    found
}

struct Node<'f> {
    is_doubled: &'f mut bool,
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
        while let Some(item) =
            items.next_element_seed(Node { is_doubled: &mut *self.is_doubled })?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Node { is_doubled: &mut *self.is_doubled })?;
            *self.is_doubled |= map.insert(key, value).is_some();
        }
        Ok(Value::Object(map))
    }
}

/// What the schema says of a value.
#[derive(Clone, Copy)]
enum Wanted {
    Anything,
    Type(&'static TypeFact),
    Shape(&'static Shape),
    Operations,
    Operation,
}

impl Wanted {
    fn shape(shape: &'static Shape) -> Self {
        match shape.item_type() {
            Some(fact) if matches!(shape, Shape::Ref(_) | Shape::Own(_)) => Self::Type(fact),
            _ => Self::Shape(shape),
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Shape(Shape::List(item)) => Self::shape(item),
            Self::Operations => Self::Operation,
            _ => Self::Anything,
        }
    }

    /// What the value of a key is read as; `None` if there is no such field.
    fn member(self, key: &str) -> Option<Self> {
        match self {
            Self::Type(fact) => fact.field(key).map(|field| Self::shape(&field.shape)),
            Self::Shape(Shape::Map(item)) => Some(Self::shape(item)),
            Self::Operation if !["op", "path", "from", "value"].contains(&key) => None,
            _ => Some(Self::Anything),
        }
    }
}

/// Reads a value only to find what is wrong with it.
struct Walk<'p, 'f> {
    place: Place<'p>,
    wanted: Wanted,
    found: &'f mut Vec<String>,
}

impl Walk<'_, '_> {
    fn tell(&mut self, what: &str, place: Place<'_>) {
        let problem = format!("{what} field {:?}", place.to_string());
        if self.found.len() < FOUND_MAX && !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let place = Place::Item(&self.place, index);
            let walk = Walk { place, wanted: self.wanted.item(), found: &mut *self.found };
            if items.next_element_seed(walk)?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let outside = self.place;
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = Place::Field(&outside, &key);
            let Some(wanted) = self.wanted.member(&key) else {
                self.tell("unknown", place);
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&key) {
                self.tell("duplicate", place);
            }
            entries.next_value_seed(Walk { place, wanted, found: &mut *self.found })?;
            seen.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::DEPLOYMENT;

    #[test]
    fn the_last_key_wins_and_is_noticed() {
        let body = br#"{"a": 1, "b": {"c": [{"d": null, "d": "x"}]}, "a": -1.5, "e": true}"#;
        let (value, is_doubled) = parse(body).unwrap();
        assert_eq!(value, json!({"a": -1.5, "b": {"c": [{"d": "x"}]}, "e": true}));
        assert!(is_doubled);
        let told = problems(body, Reading::Anything);
        assert_eq!(told, ["duplicate field \"b.c[0].d\"", "duplicate field \"a\""]);
        assert!(!parse(b"{\"a\": {\"a\": [{\"a\": 1}, {\"a\": 1}]}}").unwrap().1);
    }

    #[test]
    fn an_object_is_read_in_the_order_of_its_text() {
        let body =
            br#"{"kind": "Deployment", "spec": {"unknown1": "a", "unknownDupe": {"a": 1, "a": 2},
            "unknownDupe": 1, "paused": true, "paused": false, "template": {"metadata": {"labels":
            {"x": "1", "x": "2"}}, "spec": {"containers": [{"name": "n", "unknownNested": 1,
            "imagePullPolicy": "Always", "imagePullPolicy": "Never"}]}}, "paused": true}}"#;
        assert_eq!(
            problems(body, Reading::Object(&DEPLOYMENT)),
            [
                "unknown field \"spec.unknown1\"",
                "unknown field \"spec.unknownDupe\"",
                "duplicate field \"spec.paused\"",
                "duplicate field \"spec.template.metadata.labels.x\"",
                "unknown field \"spec.template.spec.containers[0].unknownNested\"",
                "duplicate field \"spec.template.spec.containers[0].imagePullPolicy\"",
            ]
        );
    }

    #[test]
    fn operations_have_four_fields() {
        let body = br#"[{"op": "add", "path": "/a", "value": {"x": 1, "x": 2}, "foo": "bar"},
            {"op": "add", "path": "/b", "path": "/c", "value": 1}]"#;
        assert_eq!(
            problems(body, Reading::JsonPatch),
            [
                "json patch duplicate field \"[0].value.x\"",
                "json patch unknown field \"[0].foo\"",
                "json patch duplicate field \"[1].path\"",
            ]
        );
    }

    #[test]
    fn no_more_than_a_hundred_are_told() {
        let body = format!(
            "{{{}}}",
            (0..500).map(|n| format!("\"a{n}\":1,\"a{n}\":2")).collect::<Vec<_>>().join(",")
        );
        assert_eq!(problems(body.as_bytes(), Reading::Anything).len(), FOUND_MAX);
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
