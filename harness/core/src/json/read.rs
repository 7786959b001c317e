//! Reads JSON that has much in common with what is known already: what is equal is shared as soon as it
//! is read, and nothing is made of it.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::{Fields, NULL, Value};

/// Reads a value that shares with a model whatever is equal in both.
#[derive(Debug, Clone, Copy)]
pub struct Like<'m> {
    model: &'m Value,
    without: &'m [&'m str],
}

impl<'m> Like<'m> {
    /// Reads a value like this one.
    pub fn new(model: &'m Value) -> Self {
        Self { model, without: &[] }
    }

    /// The same, which leaves out the field at the end of a path.
    #[must_use]
    pub fn without(self, path: &'m [&'m str]) -> Self {
        Self { without: path, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Like<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Like<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(match self.model {
            Value::String(known) if **known == *value => self.model.clone(),
            _ => Value::String(value.into()),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let known = self.model.as_array().unwrap_or_default();
        let mut all = Vec::with_capacity(known.len());
        let mut is_same = self.model.is_array();
        while let Some(item) =
            items.next_element_seed(Like::new(known.get(all.len()).unwrap_or(&NULL)))?
        {
            is_same = is_same && known.get(all.len()).is_some_and(|known| item.is_shared(known));
            all.push(item);
        }
        is_same = is_same && all.len() == known.len();
        Ok(if is_same { self.model.clone() } else { Value::Array(all.into()) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let known = self.model.as_object().map_or(&[][..], |known| &known.0);
        let mut fields: Vec<(Arc<str>, Value)> = Vec::with_capacity(known.len());
        // Fields come in the model's order, mostly.
        let mut next = 0;
        let mut is_same = self.model.is_object();
        while let Some((name, at)) = entries.next_key_seed(Name { known, next })? {
            let below = match self.without {
                [last] if **last == *name => {
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
                [first, below @ ..] if **first == *name => below,
                _ => &[],
            };
            let model = at.map_or(&NULL, |at| &known[at].1);
            let field = entries.next_value_seed(Like::new(model).without(below))?;
            is_same = is_same && at == Some(fields.len()) && field.is_shared(model);
            next = at.map_or(next, |at| at + 1);
            fields.push((name, field));
        }
        if is_same && fields.len() == known.len() {
            return Ok(self.model.clone());
        }
        let is_ordered = fields.is_sorted_by(|(one, _), (other, _)| one < other);
        if !is_ordered {
            // Of fields with one name the last one counts.
            fields.reverse();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            fields.dedup_by(|later, first| later.0 == first.0);
            let pairs = || fields.iter().zip(known);
            let is_same = self.model.is_object() && fields.len() == known.len();
            if is_same && pairs().all(|(a, b)| a.0 == b.0 && a.1.is_shared(&b.1)) {
                return Ok(self.model.clone());
            }
        }
        Ok(Value::Object(Fields(fields.into())))
    }
}

/// Reads the name of a field; tells where the model has it.
struct Name<'m> {
    known: &'m [(Arc<str>, Value)],
    /// Where it is expected.
    next: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = (Arc<str>, Option<usize>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = (Arc<str>, Option<usize>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let is_next = self.known.get(self.next).is_some_and(|(known, _)| **known == *name);
        let at = match is_next {
            true => Some(self.next),
            false => self.known.binary_search_by(|(known, _)| (**known).cmp(name)).ok(),
        };
        Ok((at.map_or_else(|| name.into(), |at| self.known[at].0.clone()), at))
    }
}

impl Value {
    /// Shares with a model whatever is equal in both. As [`Like`], for what was read already.
    pub fn share(&mut self, model: &Value) {
        let is_same = match (&mut *self, model) {
            (Value::String(text), Value::String(known)) => text == known,
            (Value::Array(items), Value::Array(known)) => {
                match Arc::get_mut(items) {
                    Some(own) => {
                        let pairs = own.iter_mut().zip(known.iter());
                        pairs.for_each(|(item, known)| item.share(known));
                        let mut pairs = own.iter().zip(known.iter());
                        own.len() == known.len() && pairs.all(|(a, b)| a.is_shared(b))
                    }
                    // What others have as well stays as it is, unless all of it is equal.
                    None => items == known,
                }
            }
            (Value::Object(fields), Value::Object(known)) => match Arc::get_mut(&mut fields.0) {
                Some(own) => {
                    for (name, field) in own.iter_mut() {
                        if let Some((known, value)) = known.entry(name) {
                            name.clone_from(known);
                            field.share(value);
                        }
                    }
                    let mut pairs = own.iter().zip(known.0.iter());
                    own.len() == known.0.len()
                        && pairs.all(|(a, b)| a.0 == b.0 && a.1.is_shared(&b.1))
                }
                None => fields.0 == known.0,
            },
            _ => return,
        };
        if is_same {
            self.clone_from(model);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Plain, json};

    use super::*;

    fn read(text: &str, model: &Value) -> Value {
        let mut reader = serde_json::Deserializer::from_str(text);
        Like::new(model).without(&["metadata", "managedFields"]).deserialize(&mut reader).unwrap()
    }

    fn samples() -> Vec<Plain> {
        vec![
            json!(null),
            json!([true, false, 0, -1, 1.5, u64::MAX, i64::MIN, "a\n\"ü"]),
            json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"n": [1, {"b": 2}]}}),
            json!({"metadata": {"name": "b", "labels": {"x": "y"}}, "spec": {"n": [1, {"b": 2}], "o": {}}}),
            json!({"metadata": [1], "spec": {"managedFields": [{}], "x": {}}}),
            json!({"metadata": {}, "spec": {"n": []}}),
        ]
    }

    #[test]
    fn whatever_the_model_the_same_is_read() {
        for plain in samples() {
            for model in samples() {
                let model = Value::from(model);
                let found = read(&plain.to_string(), &model);
                assert_eq!(found.plain(), plain, "like {model}");
                assert_eq!(found.is_shared(&model), model.plain() == plain, "{plain} like {model}");
                let mut later = Value::from(plain.clone());
                later.share(&model);
                assert_eq!(later.plain(), plain, "sharing with {model}");
                assert_eq!(later.is_shared(&model), model.plain() == plain);
            }
        }
    }

    #[test]
    fn what_has_not_changed_is_shared_and_owners_are_left_out() {
        let text = r#"{"spec":{"n":[1,{"b":2}]},"metadata":{"name":"a","managedFields":[{"x":[1]}],"uid":"1"}}"#;
        let first = read(text, &Value::Null);
        assert_eq!(first["metadata"].plain(), json!({"name": "a", "uid": "1"}));
        assert!(read(text, &first).is_shared(&first), "in whatever order its fields come");
        let second = read(&text.replace("\"1\"", "\"2\""), &first);
        assert!(second["spec"].is_shared(&first["spec"]) && !second.is_shared(&first));
        assert!(second["metadata"]["name"].is_shared(&first["metadata"]["name"]));
        let mut other = read(&text.replace("\"1\"", "\"2\""), &Value::Null);
        assert!(!other["spec"].is_shared(&second["spec"]));
        other.share(&second);
        assert!(other.is_shared(&second));
        let held = read(text, &Value::Null);
        let mut again = held.clone();
        again.share(&second);
        assert!(again.is_shared(&held), "what somebody else has is left to them");
        again.share(&first);
        assert!(again.is_shared(&first), "unless it is equal");
    }

    #[test]
    fn of_fields_with_one_name_the_last_counts() {
        for text in
            [r#"{"b":1,"a":2,"b":3}"#, r#"{"a":1,"a":2}"#, r#"{"b":{"x":1},"a":0,"b":null}"#]
        {
            let plain: Plain = serde_json::from_str(text).unwrap();
            for model in [Value::Null, plain.clone().into(), json!({"b": 1, "a": 2}).into()] {
                assert_eq!(read(text, &model).plain(), plain, "{text} like {model}");
            }
        }
    }
}
