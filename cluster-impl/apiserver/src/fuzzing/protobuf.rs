//! Kubernetes' protobuf form, there and back.

use machinery::{Object, fields, versions};
use serde_json::{Value, json};

use super::arbitrary::Source;
use super::samples;
use crate::protobuf::{MAGIC, is_writable, object, read};

/// Any bytes as the message of a kind. What was read and written is read again as the same.
pub(super) fn bytes(data: &[u8]) {
    let _ = read(data);
    let mut source = Source::new(data);
    let kinds: Vec<_> = versions::served().collect();
    let kind = source.pick(&kinds);
    let (api_version, name) = match source.once_in(16) {
        true => ("v1".to_owned(), "DeleteOptions"),
        false => (kind.api_version(), kind.kind),
    };
    let rest = source.rest();
    let mut meta = Vec::new();
    put(&mut meta, 1, api_version.as_bytes());
    put(&mut meta, 2, name.as_bytes());
    let mut body = MAGIC.to_vec();
    put(&mut body, 1, &meta);
    put(&mut body, 2, rest);
    let Ok(once) = read(&body) else { return };
    // What is not of the right shape is refused before anything is written.
    let mut fit = Object(once.clone());
    if name == kind.kind && (fields::decode(kind, &mut fit).is_err() || !is_writable(kind)) {
        return;
    }
    let Ok(written) = object(&once) else { return };
    assert_eq!(read(&written), Ok(once), "what is written is read as it was");
}

/// An object of a kind as JSON, as protobuf, and as JSON again.
pub(super) fn values(data: &[u8]) {
    let mut source = Source::new(data);
    let kinds: Vec<_> = versions::served().filter(|kind| is_writable(kind)).collect();
    let kind = source.pick(&kinds);
    let mut value = Object(match source.once_in(4) {
        true => samples::object(kind, &mut source),
        false => source.object(kind, true),
    });
    if fields::decode(kind, &mut value).is_err() {
        return;
    }
    let written = object(&value.0).expect("what has the right shape can be written");
    let again = read(&written).expect("what was written can be read");
    let (wanted, found) = (plain(&value.0), plain(&again));
    assert_eq!(wanted, found, "{} loses something on its way through protobuf", kind.kind);
    let twice = object(&again).expect("what was read can be written");
    assert_eq!(read(&twice), Ok(again), "the second way loses nothing");
}

/// A value without what protobuf does not tell from absent: zeros, empty texts, lists and maps. Times and
/// numbers with a fraction are compared as what they mean.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().map(|(name, inner)| (name.clone(), plain(inner)));
            let kept: serde_json::Map<_, _> =
                kept.filter(|(_, inner)| !is_nothing(inner)).collect();
            Value::Object(kept)
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::String(text) => match text.parse::<env::Timestamp>() {
            Ok(at) => json!({"time": at.as_nanosecond().div_euclid(1000).to_string()}),
            Err(_) => value.clone(),
        },
        Value::Number(number) => json!({"number": number.as_f64()}),
        other => other.clone(),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => {
            members.is_empty()
                || *value == json!({"number": 0.0})
                || *value == json!({"number": -0.0})
        }
        _ => false,
    }
}

fn put(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}
