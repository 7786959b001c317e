//! OpenAPI v2 in protobuf: the messages of gnostic's `openapiv2/OpenAPIv2.proto`, as far as the document has
//! their fields. What is not in a table here is not written.

use serde_json::Value;

/// Makes the content of a message.
type Write = fn(&Value) -> Vec<u8>;

/// What is behind a field number.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Flag,
    Integer,
    Double,
    /// Texts, each in a field of its own.
    Texts,
    /// Any value, as YAML.
    Any,
    /// Any values, each in a field of its own.
    Anys,
    One(Write),
    Many(Write),
}

use Form::{Any, Anys, Double, Flag, Integer, Many, One, Text, Texts};

/// A field: its name in JSON, its number, what is behind it.
type Field = (&'static str, u32, Form);

const DOCUMENT: &[Field] = &[
    ("swagger", 1, Text),
    ("info", 2, One(|value| message(value, INFO))),
    ("paths", 8, One(|value| named(value, 2, |item| extended(item, PATH_ITEM, 10)))),
    ("definitions", 9, One(|value| named(value, 1, schema))),
    ("security", 12, Many(|value| named(value, 1, |scopes| texts(1, scopes)))),
    ("securityDefinitions", 13, One(|value| named(value, 1, security))),
];

const INFO: &[Field] = &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)];

const PATH_ITEM: &[Field] = &[
    ("get", 2, One(operation)),
    ("put", 3, One(operation)),
    ("post", 4, One(operation)),
    ("delete", 5, One(operation)),
    ("options", 6, One(operation)),
    ("head", 7, One(operation)),
    ("patch", 8, One(operation)),
    ("parameters", 9, Many(parameter)),
];

const OPERATION: &[Field] = &[
    ("tags", 1, Texts),
    ("summary", 2, Text),
    ("description", 3, Text),
    ("operationId", 5, Text),
    ("produces", 6, Texts),
    ("consumes", 7, Texts),
    ("parameters", 8, Many(parameter)),
    ("responses", 9, One(|value| named(value, 1, |one| wrapped(1, &message(one, RESPONSE))))),
    ("schemes", 10, Texts),
];

const RESPONSE: &[Field] =
    &[("description", 1, Text), ("schema", 2, One(|value| wrapped(1, &schema(value))))];

const BODY: &[Field] = &[
    ("description", 1, Text),
    ("name", 2, Text),
    ("in", 3, Text),
    ("required", 4, Flag),
    ("schema", 5, One(schema)),
];

const QUERY: &[Field] = &[
    ("required", 1, Flag),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("type", 6, Text),
    ("uniqueItems", 20, Flag),
];

/// Parameters in headers have the same numbers.
const PATH: &[Field] = &[
    ("required", 1, Flag),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("type", 5, Text),
    ("uniqueItems", 19, Flag),
];

const API_KEY: &[Field] =
    &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)];

const SCHEMA: &[Field] = &[
    ("$ref", 1, Text),
    ("format", 2, Text),
    ("title", 3, Text),
    ("description", 4, Text),
    ("default", 5, Any),
    ("multipleOf", 6, Double),
    ("maximum", 7, Double),
    ("exclusiveMaximum", 8, Flag),
    ("minimum", 9, Double),
    ("exclusiveMinimum", 10, Flag),
    ("maxLength", 11, Integer),
    ("minLength", 12, Integer),
    ("pattern", 13, Text),
    ("maxItems", 14, Integer),
    ("minItems", 15, Integer),
    ("uniqueItems", 16, Flag),
    ("maxProperties", 17, Integer),
    ("minProperties", 18, Integer),
    ("required", 19, Texts),
    ("enum", 20, Anys),
    ("additionalProperties", 21, One(additional)),
    ("type", 22, One(|value| texts(1, value))),
    ("items", 23, One(|value| wrapped(1, &schema(value)))),
    ("allOf", 24, Many(schema)),
    ("properties", 25, One(|value| named(value, 1, schema))),
    ("example", 30, Any),
];

/// The whole document.
pub(super) fn document(value: &Value) -> Vec<u8> {
    message(value, DOCUMENT)
}

fn operation(value: &Value) -> Vec<u8> {
    extended(value, OPERATION, 13)
}

fn schema(value: &Value) -> Vec<u8> {
    extended(value, SCHEMA, 31)
}

fn security(value: &Value) -> Vec<u8> {
    wrapped(2, &message(value, API_KEY))
}

fn additional(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::Bool(flag) => integer(&mut out, 2, i64::from(*flag)),
        other => bytes(&mut out, 1, &schema(other)),
    }
    out
}

/// A parameter stands in a message for its place, within one for all places, within one for references too.
fn parameter(value: &Value) -> Vec<u8> {
    let inner = match value["in"].as_str() {
        Some("body") => wrapped(1, &message(value, BODY)),
        Some("query") => wrapped(2, &wrapped(3, &message(value, QUERY))),
        Some("header") => wrapped(2, &wrapped(1, &message(value, PATH))),
        _ => wrapped(2, &wrapped(4, &message(value, PATH))),
    };
    wrapped(1, &inner)
}

fn message(value: &Value, fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, form) in fields {
        if let Some(value) = value.get(name) {
            field(&mut out, *number, *form, value);
        }
    }
    out
}

/// A message that also takes what begins with `x-`.
fn extended(value: &Value, fields: &[Field], number: u32) -> Vec<u8> {
    let mut out = message(value, fields);
    for (name, value) in value.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            let mut one = wrapped(1, name.as_bytes());
            bytes(&mut one, 2, &any(value));
            bytes(&mut out, number, &one);
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    match form {
        Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Flag => integer(out, number, i64::from(value.as_bool().unwrap_or_default())),
        Integer => integer(out, number, value.as_i64().unwrap_or_default()),
        Double => {
            varint(out, u64::from(number) << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Texts => out.extend(texts(number, value)),
        Any => bytes(out, number, &any(value)),
        Anys => {
            value.as_array().into_iter().flatten().for_each(|one| bytes(out, number, &any(one)))
        }
        One(write) => bytes(out, number, &write(value)),
        Many(write) => {
            value.as_array().into_iter().flatten().for_each(|one| bytes(out, number, &write(one)));
        }
    }
}

/// A map, as a list of pairs.
fn named(value: &Value, number: u32, write: Write) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let mut pair = wrapped(1, name.as_bytes());
        bytes(&mut pair, 2, &write(value));
        bytes(&mut out, number, &pair);
    }
    out
}

/// A text or a list of texts.
fn texts(number: u32, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    for text in list.iter().filter_map(Value::as_str) {
        bytes(&mut out, number, text.as_bytes());
    }
    out
}

/// JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    wrapped(2, value.to_string().as_bytes())
}

fn wrapped(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    bytes(&mut out, number, content);
    out
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    varint(out, u64::from(number) << 3);
    varint(out, value.cast_unsigned());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_where_the_messages_have_them() {
        let maximum = schema(&json!({"type": "integer", "maximum": 2.0}));
        assert_eq!(maximum, b"\x39\0\0\0\0\0\0\0\x40\xb2\x01\x09\x0a\x07integer");
        let reference = schema(&json!({"items": {"$ref": "#/a"}, "x-b": true}));
        assert_eq!(
            reference,
            b"\xba\x01\x07\x0a\x05\x0a\x03#/a\xfa\x01\x0d\x0a\x03x-b\x12\x06\x12\x04true"
        );
        assert_eq!(schema(&json!({"additionalProperties": true})), b"\xaa\x01\x02\x10\x01");
        let query =
            parameter(&json!({"in": "query", "name": "a", "type": "b", "uniqueItems": true}));
        assert_eq!(query, b"\x0a\x14\x12\x12\x1a\x10\x12\x05query\x22\x01a\x32\x01b\xa0\x01\x01");
        let all =
            document(&json!({"swagger": "2.0", "paths": {"/a": {"get": {"operationId": "g"}}}}));
        assert_eq!(all, b"\x0a\x032.0\x42\x0d\x12\x0b\x0a\x02/a\x12\x05\x12\x03\x2a\x01g");
    }
}
