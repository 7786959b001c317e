//! Answers in Kubernetes' protobuf form.
//!
//! Fields that an object does not have are left out, also where Go would write zeros: a reader takes both for the
//! same. Limits: Tables have no such form, nor have custom resources and their definitions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::schema::{Shape, TypeFact, type_named, type_of, type_of_gvk};
use machinery::{Kind, Object};
use serde_json::{Map, Value};

use super::{MAGIC, META, TAGS, Tag};

/// Whether objects of a kind can be written.
pub(crate) fn is_writable(kind: &Kind) -> bool {
    kind.group != "apiextensions.k8s.io" && TAGS.contains_key(type_of(kind).name.as_str())
}

/// An object, or anything else that has an `apiVersion` and a `kind`; why it cannot be written.
pub(crate) fn object(value: &Value) -> Result<Vec<u8>, String> {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut raw = Vec::with_capacity(1024);
    if kind == "PartialObjectMetadata" {
        metadata(&mut raw, "ObjectMeta", &value["metadata"])?;
    } else {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let fact = type_of_gvk(group, version, kind)
            .or_else(|| super::common(kind))
            .ok_or_else(|| format!("no protobuf form of {kind} in {api_version} is known"))?;
        message(&mut raw, fact, fields_of(value)?)?;
    }
    Ok(envelope(api_version, kind, &raw))
}

/// A list of objects that are written as they are.
pub(crate) fn list(
    (api_version, kind): (&str, &str),
    list_metadata: &Value,
    items: &[Object],
) -> Result<Vec<u8>, String> {
    let mut raw = Vec::with_capacity(1024 * (items.len() + 1));
    metadata(&mut raw, "ListMeta", list_metadata)?;
    for item in items {
        let mut one = Vec::with_capacity(1024);
        if kind == "PartialObjectMetadataList" {
            metadata(&mut one, "ObjectMeta", &item.0["metadata"])?;
        } else {
            let (api_version, kind) = (item.api_version(), item.kind());
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let fact = type_of_gvk(group, version, kind)
                .ok_or_else(|| format!("no protobuf form of {kind} is known"))?;
            message(&mut one, fact, fields_of(&item.0)?)?;
        }
        bytes(&mut raw, 2, &one);
    }
    Ok(envelope(api_version, kind, &raw))
}

/// One event of a watch, in its frame: four bytes of length, then the event around an object.
pub(crate) fn event(out: &mut Vec<u8>, name: &str, object: &[u8]) {
    let (mut extension, mut event) = (Vec::new(), Vec::new());
    bytes(&mut extension, 1, object);
    bytes(&mut event, 1, name.as_bytes());
    bytes(&mut event, 2, &extension);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&event);
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    bytes(&mut meta, 1, api_version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    bytes(&mut out, 1, &meta);
    bytes(&mut out, 2, raw);
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    out
}

fn metadata(out: &mut Vec<u8>, name: &str, value: &Value) -> Result<(), String> {
    let fact =
        type_named(&format!("{META}.{name}")).ok_or_else(|| format!("no type {name} is known"))?;
    let mut inner = Vec::new();
    if !value.is_null() {
        message(&mut inner, fact, fields_of(value)?)?;
    }
    bytes(out, 1, &inner);
    Ok(())
}

fn fields_of(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "an object was expected".to_owned())
}

fn message(out: &mut Vec<u8>, fact: &TypeFact, object: &Map<String, Value>) -> Result<(), String> {
    part(out, &fact.name, fact, object)
}

/// The fields of the message `name`, which are fields of the object that `fact` tells.
fn part(
    out: &mut Vec<u8>,
    name: &str,
    fact: &TypeFact,
    object: &Map<String, Value>,
) -> Result<(), String> {
    let tags = TAGS.get(name).ok_or_else(|| format!("no protobuf form of {name} is known"))?;
    for (number, tag) in tags {
        match tag {
            Tag::Embedded(inner) => {
                let mut below = Vec::new();
                part(&mut below, inner, fact, object)?;
                if !below.is_empty() {
                    bytes(out, *number, &below);
                }
            }
            Tag::Field(field) => {
                let (Some(value), Some(known)) = (object.get(*field), fact.field(field)) else {
                    continue;
                };
                values(out, *number, &known.shape, value)
                    .map_err(|why| format!("{field}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// A field that may be there several times.
fn values(out: &mut Vec<u8>, number: u64, shape: &Shape, value: &Value) -> Result<(), String> {
    match (shape, value) {
        (_, Value::Null) => Ok(()),
        (Shape::List(item), Value::Array(list)) => {
            list.iter().try_for_each(|value| one(out, number, item, value))
        }
        (Shape::Map(item), Value::Object(map)) => map.iter().try_for_each(|(key, value)| {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, key.as_bytes());
            one(&mut entry, 2, item, value)?;
            bytes(out, number, &entry);
            Ok(())
        }),
        (shape, value) => one(out, number, shape, value),
    }
}

fn one(out: &mut Vec<u8>, number: u64, shape: &Shape, value: &Value) -> Result<(), String> {
    let wrong = || format!("{value} is not of the kind that was expected");
    match shape {
        Shape::String => bytes(out, number, value.as_str().ok_or_else(wrong)?.as_bytes()),
        Shape::Bytes => {
            let text = value.as_str().ok_or_else(wrong)?;
            bytes(out, number, &STANDARD.decode(text).map_err(|error| error.to_string())?);
        }
        Shape::Int32 | Shape::Int64 => integer(out, number, value.as_i64().ok_or_else(wrong)?),
        Shape::Own(_) => return Err(wrong()),
        Shape::Bool => integer(out, number, i64::from(value.as_bool().ok_or_else(wrong)?)),
        Shape::Double => {
            varint(out, number << 3 | 1);
            out.extend_from_slice(&value.as_f64().ok_or_else(wrong)?.to_bits().to_le_bytes());
        }
        Shape::Quantity => {
            let mut inner = Vec::new();
            bytes(&mut inner, 1, value.as_str().ok_or_else(wrong)?.as_bytes());
            bytes(out, number, &inner);
        }
        Shape::IntOrString => {
            let mut inner = Vec::new();
            match value {
                Value::String(text) => {
                    integer(&mut inner, 1, 1);
                    integer(&mut inner, 2, 0);
                    bytes(&mut inner, 3, text.as_bytes());
                }
                value => {
                    integer(&mut inner, 1, 0);
                    integer(&mut inner, 2, value.as_i64().ok_or_else(wrong)?);
                    bytes(&mut inner, 3, b"");
                }
            }
            bytes(out, number, &inner);
        }
        Shape::Time => {
            let at: jiff::Timestamp =
                value.as_str().and_then(|at| at.parse().ok()).ok_or_else(wrong)?;
            // The part below a second counts upwards, also before 1970.
            let nanos = at.as_nanosecond().rem_euclid(1_000_000_000);
            let seconds = at.as_nanosecond().div_euclid(1_000_000_000);
            let mut inner = Vec::new();
            integer(&mut inner, 1, i64::try_from(seconds).map_err(|error| error.to_string())?);
            integer(&mut inner, 2, i64::try_from(nanos).map_err(|error| error.to_string())?);
            bytes(out, number, &inner);
        }
        Shape::Any => {
            let mut inner = Vec::new();
            bytes(&mut inner, 1, value.to_string().as_bytes());
            bytes(out, number, &inner);
        }
        Shape::Ref(name) => {
            let fact = type_named(name).ok_or_else(|| format!("no type {name} is known"))?;
            let mut inner = Vec::new();
            message(&mut inner, fact, value.as_object().ok_or_else(wrong)?)?;
            bytes(out, number, &inner);
        }
        // A list inside of a list or map is a message of its own.
        Shape::List(_) => {
            let mut inner = Vec::new();
            values(&mut inner, 1, shape, value)?;
            bytes(out, number, &inner);
        }
        Shape::Map(_) => return Err("a map inside of a list has no protobuf form".to_owned()),
    }
    Ok(())
}

fn bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn integer(out: &mut Vec<u8>, number: u64, value: i64) {
    varint(out, number << 3);
    varint(out, value.cast_unsigned());
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use machinery::schema::types;
    use serde_json::json;

    use super::super::read;
    use super::*;

    /// A value of a shape with every field set, as deep as `depth` allows; `None` for what is too deep.
    fn sample(shape: &Shape, (name, depth): (&str, usize)) -> Option<Value> {
        Some(match shape {
            Shape::String => format!("{name}-value").into(),
            Shape::Bytes => STANDARD.encode(name).into(),
            Shape::Int32 => (i64::try_from(name.len()).unwrap() - 40).into(),
            Shape::Int64 => (i64::from(i32::MAX) * 5).into(),
            Shape::Own(_) => return None,
            Shape::Bool => true.into(),
            Shape::Double => json!(0.25),
            Shape::Quantity => "1500m".into(),
            Shape::IntOrString if name.len().is_multiple_of(2) => "http".into(),
            Shape::IntOrString => 8080.into(),
            Shape::Time if super::super::MICRO.contains(&name) => {
                "2026-01-02T03:04:05.000006Z".into()
            }
            Shape::Time => "2026-01-02T03:04:05Z".into(),
            Shape::Any => json!({"a": [1, {"b": null}], "c": "d"}),
            Shape::List(item) => {
                json!([sample(item, (name, depth))?, sample(item, (name, depth))?])
            }
            Shape::Map(item) => {
                json!({"key": sample(item, (name, depth))?, "other/key": sample(item, (name, depth))?})
            }
            Shape::Ref(name) => {
                Value::Object(full(type_named(name).unwrap(), depth.checked_sub(1)?))
            }
        })
    }

    fn full(fact: &TypeFact, depth: usize) -> Map<String, Value> {
        // What only JSON says: the kind of an object, and a field that is written no more.
        let is_json = |name: &str| {
            let knows = |tag: &Tag| matches!(tag, Tag::Field(field) if *field == name);
            matches!(name, "apiVersion" | "kind") && !TAGS[fact.name.as_str()].values().any(knows)
        };
        let fields =
            fact.fields.iter().filter(|(name, _)| *name != "selfLink" && !is_json(name.as_str()));
        fields
            .filter_map(|(name, field)| Some((name.clone(), sample(&field.shape, (name, depth))?)))
            .collect()
    }

    #[test]
    fn every_kind_comes_back_as_it_went() {
        let mut seen = 0;
        for fact in types() {
            let Some((group, version, kind)) = &fact.kind else { continue };
            let is_stable = !version.contains("alpha") && !version.contains("beta");
            if !is_stable
                || group == "apiextensions.k8s.io"
                || !TAGS.contains_key(fact.name.as_str())
            {
                continue;
            }
            let mut value = Value::Object(full(fact, 7));
            value["apiVersion"] =
                if group.is_empty() { version.clone() } else { format!("{group}/{version}") }
                    .into();
            value["kind"] = kind.as_str().into();
            let written = object(&value).unwrap_or_else(|why| panic!("{kind}: {why}"));
            let again = read(&written).unwrap_or_else(|why| panic!("{kind}: {why}"));
            if again != value {
                let mut told = Vec::new();
                differ(&value, &again, kind, &mut told);
                panic!("{told:#?}");
            }
            seen += 1;
        }
        assert!(seen > 100, "{seen} kinds");
    }

    fn differ(one: &Value, two: &Value, path: &str, told: &mut Vec<String>) {
        match (one, two) {
            (Value::Object(one), Value::Object(two)) => {
                for (name, value) in one {
                    differ(
                        value,
                        two.get(name).unwrap_or(&Value::Null),
                        &format!("{path}.{name}"),
                        told,
                    );
                }
            }
            (one, two) if one == two => {}
            (one, two) => told.push(format!("{path}: {one} became {two}")),
        }
    }

    #[test]
    fn every_registered_kind_can_be_written() {
        for kind in machinery::kinds::ALL.iter().filter(|kind| kind.group != "apiextensions.k8s.io")
        {
            assert!(is_writable(kind), "{}", kind.id);
        }
    }

    #[test]
    fn zeros_that_mean_something_come_back() {
        for value in [
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"replicas": 0,
                "strategy": {}, "template": {"metadata": {}, "spec": {"containers": [
                    {"name": "", "resources": {}, "securityContext": {"runAsUser": 0, "privileged": false}}]}}}}),
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {}, "status": {"replicas": 0}}),
        ] {
            assert_eq!(read(&object(&value).unwrap()), Ok(value));
        }
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"hostNetwork": false,
            "nodeName": "", "containers": []}});
        let plain = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}});
        assert_eq!(read(&object(&value).unwrap()), Ok(plain), "Go leaves these out");
    }

    #[test]
    fn lists_events_and_failures_have_their_messages() {
        let pod = |name: &str| Object::new("v1", "Pod", "default", name);
        let written =
            list(("v1", "PodList"), &json!({"resourceVersion": "7"}), &[pod("a"), pod("b")]);
        assert_eq!(
            read(&written.unwrap()),
            Ok(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"},
                "items": [{"metadata": {"name": "a", "namespace": "default"}},
                    {"metadata": {"name": "b", "namespace": "default"}}]}))
        );
        let status = machinery::Status::not_found("", "pods", "a").to_value();
        assert_eq!(read(&object(&status).unwrap()), Ok(status));
        let mut frame = Vec::new();
        event(&mut frame, "ADDED", b"xy");
        assert_eq!(frame, b"\0\0\0\x0d\x0a\x05ADDED\x12\x04\x0a\x02xy");
        assert!(object(&json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"})).is_err());
    }
}
