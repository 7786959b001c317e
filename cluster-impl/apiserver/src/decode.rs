//! Request bodies: JSON, YAML or protobuf, within bounds, of the kind that the path names.

use machinery::fields::{self, FieldValidation};
use machinery::{Object, Status, versions};
use serde_json::Value;

use crate::accept::media_type;
use crate::config::Config;
use crate::request::Request;
use crate::{protobuf, status};

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads the body as an object of the request's kind; fills in `apiVersion` and `kind` if absent.
pub(crate) fn object(config: &Config, request: &Request) -> Result<Object, Status> {
    if request.kind.custom.is_some() && media_type(&request.content_type) == protobuf::MEDIA_TYPE {
        return Err(status::unsupported_media_type("application/json, application/yaml"));
    }
    let asked = request.query.text("fieldValidation");
    let (value, duplicates) = match media_type(&request.content_type) {
        // Only who asks is told of duplicates: noticing them is slow.
        "" | "application/json" if !asked.is_empty() && asked != "Ignore" => {
            fields::parse(&request.body)?
        }
        _ => (value(config, &request.content_type, &request.body)?, Vec::new()),
    };
    check_nesting(config, &value)?;
    let object = name_kind(value, &request.kind.api_version(), request.kind.kind)?;
    fit(request, object, &duplicates)
}

/// Makes an object fit its kind's schema, as strictly as the client asks, and brings it into the stored form;
/// warns of what it drops.
pub(crate) fn fit(
    request: &Request,
    mut object: Object,
    duplicates: &[String],
) -> Result<Object, Status> {
    let validation = FieldValidation::from_query(request.query.text("fieldValidation"))?;
    let warnings = fields::check(request.kind, &object.0, duplicates, validation)?;
    request.warn(warnings);
    fields::decode(request.kind, &mut object)?;
    versions::to_stored(request.kind, &mut object).map_err(Status::bad_request)?;
    Ok(object)
}

/// Reads the body as an object of this version and kind, such as a Binding.
pub(crate) fn object_of(
    config: &Config,
    request: &Request,
    api_version: &str,
    kind: &str,
) -> Result<Object, Status> {
    name_kind(value(config, &request.content_type, &request.body)?, api_version, kind)
}

/// A value as an object of this version and kind, which are filled in if absent.
pub(crate) fn name_kind(value: Value, api_version: &str, kind: &str) -> Result<Object, Status> {
    let mut object = Object(value);
    if !object.0.is_object() {
        let found = if object.0.is_null() { "nothing" } else { "no object" };
        return Err(Status::bad_request(format!("the body must be a {kind}, but holds {found}")));
    }
    if object.kind().is_empty() {
        object.set("/kind", kind);
    }
    if object.api_version().is_empty() {
        object.set("/apiVersion", api_version);
    }
    if object.kind() != kind {
        return Err(Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {kind}: unknown conversion",
            object.kind(),
            object.api_version(),
        )));
    }
    if object.api_version() != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version \
             ({api_version})",
            object.api_version(),
        )));
    }
    Ok(object)
}

/// Reads a body as JSON or YAML; an empty one is null.
pub(crate) fn value(config: &Config, content_type: &str, body: &[u8]) -> Result<Value, Status> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let value: Value = match media_type(content_type) {
        "" | "application/json" => serde_json::from_slice(body).map_err(unreadable)?,
        // As YAML is a superset of JSON, upstream's readers of YAML try JSON first.
        "application/yaml" => match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) => serde_yaml::from_slice(body).map_err(unreadable)?,
        },
        protobuf::MEDIA_TYPE => protobuf::read(body)?,
        _ => return Err(status::unsupported_media_type(ACCEPTED)),
    };
    check_nesting(config, &value)?;
    Ok(value)
}

/// Refuses a value that nests deeper than the server allows.
pub(crate) fn check_nesting(config: &Config, value: &Value) -> Result<(), Status> {
    if is_deeper(value, config.nesting_max) {
        return Err(Status::bad_request(format!(
            "the body nests deeper than {} levels",
            config.nesting_max
        )));
    }
    Ok(())
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(members) => {
            levels == 0 || members.values().any(|member| is_deeper(member, levels - 1))
        }
        _ => false,
    }
}

fn unreadable(error: impl std::fmt::Display) -> Status {
    Status::bad_request(format!("the object provided is unrecognized: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(content_type: &str, body: &str) -> Result<Value, u16> {
        value(&Config::default(), content_type, body.as_bytes()).map_err(|error| error.code)
    }

    #[test]
    fn bodies_are_read_or_refused() {
        let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
        let deeper = format!("{}{}", "[".repeat(4000), "]".repeat(4000));
        for (content_type, body, expected) in [
            ("", r#"{"a":1}"#, Ok(serde_json::json!({"a": 1}))),
            ("application/json; charset=utf-8", "[]", Ok(serde_json::json!([]))),
            ("application/yaml", "a: 1", Ok(serde_json::json!({"a": 1}))),
            ("application/yaml", r#"{"a":1}"#, Ok(serde_json::json!({"a": 1}))),
            ("application/json", " ", Ok(Value::Null)),
            ("application/json", "a: 1", Err(400)),
            ("text/plain", "a", Err(415)),
            ("application/json", deep.as_str(), Err(400)),
            ("application/json", deeper.as_str(), Err(400)),
            ("application/yaml", deeper.as_str(), Err(400)),
        ] {
            assert_eq!(code(content_type, body), expected, "{content_type}");
        }
    }
}
