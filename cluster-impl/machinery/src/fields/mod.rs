//! Fields against the schema: duplicate and unknown ones, values of the wrong shape.
//!
//! The steps of a write: [`parse`] the body, tell its [`problems`] and [`unknown`] fields under the client's
//! `fieldValidation` ([`check`]), then [`decode`] it, which refuses wrong shapes and leaves the object as upstream's structs would hold it:
//! without nulls, without unknown fields, with canonical quantities.

mod decode;
mod strict;

pub use decode::{decode, fit};
pub use strict::{Reading, parse, problems};

use std::fmt;

use serde_json::Value;

use crate::schema::{Shape, TypeFact, type_named, type_of};
use crate::{Kind, Status};

/// How strictly a client wants its fields looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Unknown and duplicate fields are dropped silently.
    Ignore,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// The value of the query parameter `fieldValidation`; "" is the default.
    pub fn from_query(text: &str) -> Result<Self, Status> {
        match text {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            other => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \
                 \"Warn\", \"Strict\""
            ))),
        }
    }
}

/// What comes of the problems that were found in an object: the warnings to send, or the refusal.
pub fn check(
    kind: &Kind,
    problems: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !problems.is_empty() => {
            Err(cannot_handle(kind, &strict_error(&problems)))
        }
        FieldValidation::Warn | FieldValidation::Strict => Ok(problems),
    }
}

/// Upstream's words for problems that are an error.
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

/// The unknown fields of an object, as `unknown field "spec.foo"`.
pub fn unknown(kind: &Kind, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match kind.custom {
        None => walk_type(value, type_of(kind), Place::Top, &mut found),
        Some(custom) => {
            let place = Place::Field(&Place::Top, "metadata");
            walk_type(&value["metadata"], metadata(), place, &mut found);
            found.extend(custom.unknown(value));
            found.sort();
        }
    }
    found.into_iter().map(|path| format!("unknown field {path:?}")).collect()
}

/// The type of every object's metadata.
fn metadata() -> &'static TypeFact {
    const NAME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    type_named(NAME).expect("every kind has metadata")
}

/// Where a value stands. It is written out only when something is to be said of it.
#[derive(Clone, Copy)]
enum Place<'p> {
    Top,
    Field(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Top => Ok(()),
            Place::Field(Place::Top, name) => f.write_str(name),
            Place::Field(outside, name) => write!(f, "{outside}.{name}"),
            Place::Item(list, index) => write!(f, "{list}[{index}]"),
        }
    }
}

fn walk_type(value: &Value, fact: &TypeFact, place: Place<'_>, found: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let place = Place::Field(&place, name);
        match fact.field(name) {
            None => found.push(place.to_string()),
            Some(field) => walk_shape(value, &field.shape, place, found),
        }
    }
}

fn walk_shape(value: &Value, shape: &Shape, place: Place<'_>, found: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Ref(_) | Shape::Own(_), Value::Object(_)) => {
            if let Some(fact) = shape.item_type() {
                walk_type(value, fact, place, found);
            }
        }
        (Shape::List(item), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                walk_shape(value, item, Place::Item(&place, index), found);
            }
        }
        (Shape::Map(item), Value::Object(values)) => {
            for (key, value) in values {
                walk_shape(value, item, Place::Field(&place, key), found);
            }
        }
        _ => {}
    }
}

/// 400 in upstream's words.
fn cannot_handle(kind: &Kind, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind, kind.version, kind.kind
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DEPLOYMENT, POD};

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {
            "any": "key"}, "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "a", "imagee": "x", "resources": {"limits": {"x": 1}}}],
                "volumes": [{"name": "v", "configMap": {"naem": "x"}}]}, "sepc": {}});
        assert_eq!(
            unknown(&POD, &pod),
            [
                "unknown field \"sepc\"",
                "unknown field \"spec.containers[0].imagee\"",
                "unknown field \"spec.volumes[0].configMap.naem\"",
            ]
        );
    }

    #[test]
    fn strictness_decides() {
        let problems =
            vec!["duplicate field \"x\"".into(), "unknown field \"spec.replica\"".into()];
        let check = |validation| check(&DEPLOYMENT, problems.clone(), validation);
        assert_eq!(check(FieldValidation::Ignore).unwrap(), Vec::<String>::new());
        assert_eq!(check(FieldValidation::Warn).unwrap(), problems);
        let refused = check(FieldValidation::Strict).unwrap_err();
        assert_eq!(refused.code, 400);
        assert_eq!(
            refused.message,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
             duplicate field \"x\", unknown field \"spec.replica\""
        );
        assert_eq!(FieldValidation::from_query("Loud").unwrap_err().code, 400);
    }
}
