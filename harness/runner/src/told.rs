//! One event of a watch, as the witness reads it: without owners, which nobody asks for and which would
//! fill timelines.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use shakedown_core::json::{Like, Value};

/// What no version of an object is kept with.
const OWNERS: [&str; 2] = ["metadata", "managedFields"];

/// One event.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    pub sort: String,
    pub object: Value,
}

impl Told {
    /// Reads an event whose object has most in common with a model.
    pub fn read(line: &str, model: &Value) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(line);
        let told = reader.deserialize_map(Reader { model })?;
        reader.end()?;
        Ok(told)
    }
}

struct Reader<'m> {
    model: &'m Value,
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Told;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event of a watch")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Told, A::Error> {
        let mut told = Told::default();
        while let Some(name) = entries.next_key::<String>()? {
            match name.as_str() {
                "type" => told.sort = entries.next_value()?,
                "object" => {
                    let like = Like::new(self.model).without(&OWNERS);
                    told.object = entries.next_value_seed(like)?;
                }
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_without_owners() {
        let line =
            r#"{"type":"ADDED","x":[1],"object":{"metadata":{"name":"a","managedFields":[{}]}}}"#;
        let told = Told::read(line, &Value::Null).unwrap();
        assert_eq!(
            (told.sort.as_str(), told.object.to_string().as_str()),
            ("ADDED", r#"{"metadata":{"name":"a"}}"#)
        );
        for broken in ["", "[]", "{\"type\":\"ADDED\"", "{\"type\":1}", "{} {}"] {
            assert!(Told::read(broken, &told.object).is_err(), "{broken}");
        }
    }
}
