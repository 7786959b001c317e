//! Request bodies: JSON, YAML or protobuf, within bounds, of the kind that the path names.

use machinery::fields::{self, FieldValidation, Reading};
use machinery::patch::PatchType;
use machinery::validation::go;
use machinery::{Cause, Object, Status, versions};
use serde_json::Value;

use crate::accept::media_type;
use crate::config::Config;
use crate::request::Request;
use crate::verbs::patch::{Form, Patch};
use crate::{protobuf, status, yaml_keys};

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads the body as an object of the request's kind; fills in `apiVersion` and `kind` if absent. What a
/// strict reader finds wrong with it is warned of or refused, as the client asks.
pub(crate) fn object(config: &Config, request: &Request) -> Result<Object, Status> {
    let kind = request.kind;
    if kind.custom.is_some() && media_type(&request.content_type) == protobuf::MEDIA_TYPE {
        return Err(status::unsupported_media_type("application/json, application/yaml"));
    }
    let validation = field_validation(request)?;
    let (value, is_doubled) = noted(config, &request.content_type, &request.body)?;
    let mut object = name_kind(value, &kind.api_version(), kind.kind)?;
    if validation != FieldValidation::Ignore {
        let problems = problems(request, &object, is_doubled, validation);
        request.warn(fields::check(kind, problems, validation)?);
    }
    fields::decode(kind, &mut object)?;
    versions::to_stored(kind, &mut object).map_err(Status::bad_request)?;
    Ok(object)
}

/// How strictly the client wants its fields looked at.
pub(crate) fn field_validation(request: &Request) -> Result<FieldValidation, Status> {
    FieldValidation::from_query(request.query.text("fieldValidation"))
}

fn problems(
    request: &Request,
    object: &Object,
    is_doubled: bool,
    validation: FieldValidation,
) -> Vec<String> {
    let unknown = fields::unknown(request.kind, &object.0);
    let mut problems = match media_type(&request.content_type) {
        "application/yaml" => yaml_keys::problems(&request.body, validation),
        _ if !is_doubled && unknown.is_empty() => return unknown,
        // Unknown fields stand among the duplicates, where the body has them.
        "" | "application/json" if request.kind.custom.is_none() => {
            return fields::problems(&request.body, Reading::Object(request.kind));
        }
        "" | "application/json" => fields::problems(&request.body, Reading::Anything),
        _ => Vec::new(),
    };
    problems.extend(unknown);
    problems
}

/// Makes what comes of a patch fit its kind's schema and brings it into the stored form. As upstream has it,
/// what is wrong with it is wrong with the patch.
pub(crate) fn patched(
    request: &Request,
    patch: &Patch,
    mut object: Object,
) -> Result<Object, Status> {
    let refused = |object: &Object, why: &str| {
        let shown = match patch.form {
            Form::Changes(PatchType::Strategic) => go::plain(&patch.body),
            _ => object.0.to_string(),
        };
        let cause = Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {shown:?}: {why}"),
            field: "patch".into(),
        };
        Status::invalid("", "", "", &[cause])
    };
    let validation = field_validation(request)?;
    if validation != FieldValidation::Ignore {
        let mut problems = patch.problems.clone();
        problems.extend(fields::unknown(request.kind, &object.0));
        if validation == FieldValidation::Strict && !problems.is_empty() {
            return Err(refused(&object, &fields::strict_error(&problems)));
        }
        request.warn(problems);
    }
    if let Err(why) = fields::fit(request.kind, &mut object) {
        return Err(refused(&object, &why));
    }
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
    noted(config, content_type, body).map(|(value, _)| value)
}

/// Reads a body as [`value`] does. Beside it: whether it is JSON with a key that is there twice.
pub(crate) fn noted(
    config: &Config,
    content_type: &str,
    body: &[u8],
) -> Result<(Value, bool), Status> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok((Value::Null, false));
    }
    let (value, is_doubled) = match media_type(content_type) {
        "" | "application/json" => fields::parse(body)?,
        // As YAML is a superset of JSON, upstream's readers of YAML try JSON first.
        "application/yaml" => match serde_json::from_slice(body) {
            Ok(value) => (value, false),
            Err(_) => (serde_yaml::from_slice(body).map_err(unreadable)?, false),
        },
        protobuf::MEDIA_TYPE => (protobuf::read(body)?, false),
        _ => return Err(status::unsupported_media_type(ACCEPTED)),
    };
    check_nesting(config, &value)?;
    Ok((value, is_doubled))
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
