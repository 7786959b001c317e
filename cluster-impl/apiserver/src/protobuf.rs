//! Bodies in Kubernetes' protobuf form, as `kubectl create deployment` and its kin send them.
//!
//! The form has field numbers only; names and shapes come from the schema, numbers from
//! `protobuf/tags.txt` (made by `protobuf/generate.py`). Go writes fields that are not set as empty
//! texts, zeros and false: they are dropped again, as `omitempty` does in JSON, but for those that Go
//! holds by pointer or always writes.
//! Limits: nesting as deep as [`DEPTH_MAX`].

mod write;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::schema::{FieldFact, Shape, TypeFact, type_named, type_of_gvk};
use machinery::{Status, conditions};
use serde_json::{Map, Value, json};
pub(crate) use write::{event, is_writable, list, object};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// How every body begins.
pub(crate) const MAGIC: &[u8] = b"k8s\0";
/// Deeper nesting is refused.
const DEPTH_MAX: usize = 64;

/// Where the types are that all groups share.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Fields whose times are written with six digits below the second.
const MICRO: &[&str] = &["acquireTime", "eventTime", "lastObservedTime", "renewTime"];

/// What a field number stands for.
enum Tag {
    Field(&'static str),
    /// The fields of this message, in the same JSON object.
    Embedded(&'static str),
}

static TAGS: LazyLock<BTreeMap<&'static str, BTreeMap<u64, Tag>>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next()?;
        let tag = |word: &'static str| {
            let (field, number) = word.split_once('=')?;
            let tag = field.strip_prefix('*').map_or(Tag::Field(field), Tag::Embedded);
            Some((number.parse().ok()?, tag))
        };
        Some((name, words.filter_map(tag).collect()))
    };
    include_str!("../protobuf/tags.txt").lines().filter_map(line).collect()
});

/// Reads a body: `k8s\0`, then a `runtime.Unknown` that says what it holds.
pub(crate) fn read(body: &[u8]) -> Result<Value, Status> {
    let unreadable =
        |why: String| Status::bad_request(format!("the object provided is unrecognized: {why}"));
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| unreadable("it does not begin as protobuf does".to_owned()))?;
    decode(envelope).map_err(unreadable)
}

fn decode(envelope: &[u8]) -> Result<Value, String> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let fact = type_of_gvk(group, version, &kind)
        .or_else(|| common(&kind))
        .ok_or_else(|| format!("no kind \"{kind}\" is known in version \"{api_version}\""))?;
    let mut object = Map::new();
    message(raw, &fact.name, fact, (&mut object, DEPTH_MAX))?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// Kinds that are the same in every group.
fn common(kind: &str) -> Option<&'static TypeFact> {
    matches!(kind, "DeleteOptions" | "Status")
        .then(|| type_named(&format!("{META}.{kind}")))
        .flatten()
}

/// Reads the message `name` into an object whose fields `fact` tells.
fn message(
    bytes: &[u8],
    name: &str,
    fact: &TypeFact,
    (object, depth): (&mut Map<String, Value>, usize),
) -> Result<(), String> {
    let tags = TAGS.get(name).ok_or_else(|| format!("no protobuf form of {name} is known"))?;
    let depth = depth.checked_sub(1).ok_or("it nests too deep")?;
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let field = match tags.get(&number) {
            // A newer client's field.
            None => continue,
            Some(Tag::Embedded(inner)) => {
                message(wire.bytes()?, inner, fact, (object, depth))?;
                continue;
            }
            Some(Tag::Field(field)) => *field,
        };
        let Some(known) = fact.field(field) else { continue };
        match &known.shape {
            Shape::List(item) => {
                let list = object.entry(field).or_insert_with(|| json!([]));
                let Value::Array(list) = list else { continue };
                read_item(list, wire, item, depth)?;
            }
            Shape::Map(item) => {
                let (key, value) = entry(wire.bytes()?, item, depth)?;
                let map = object.entry(field).or_insert_with(|| json!({}));
                map[key] = value;
            }
            Shape::Time if MICRO.contains(&field) => {
                if let Some(at) = instant(wire.bytes()?)? {
                    object.insert(field.to_owned(), conditions::micros(at).into());
                }
            }
            shape => {
                let value = value(wire, shape, depth)?;
                if is_told(known, fact.always.iter().any(|name| name == field), &value) {
                    object.insert(field.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// Whether JSON has the field: Go leaves zeros out unless the field is always written or held by pointer.
fn is_told(fact: &FieldFact, is_always: bool, value: &Value) -> bool {
    let is_kept = fact.is_pointer || is_always;
    match value {
        Value::Null => false,
        Value::String(text) => is_kept || !text.is_empty(),
        Value::Bool(false) => is_kept,
        Value::Number(number) => is_kept || number.as_f64() != Some(0.0),
        _ => true,
    }
}

fn read_item(
    list: &mut Vec<Value>,
    wire: Wire<'_>,
    item: &Shape,
    depth: usize,
) -> Result<(), String> {
    // Numbers may be packed into one field.
    if let (Wire::Bytes(mut packed), Shape::Int32 | Shape::Int64) = (wire, item) {
        while !packed.is_empty() {
            let number = varint(&mut packed)?;
            list.push(value(Wire::Varint(number), item, depth)?);
        }
        return Ok(());
    }
    list.push(value(wire, item, depth)?);
    Ok(())
}

fn entry(bytes: &[u8], item: &Shape, depth: usize) -> Result<(String, Value), String> {
    let (mut key, mut found) = (String::new(), None);
    for field in Fields(bytes) {
        match field? {
            (1, wire) => key = text(wire.bytes()?)?,
            (2, wire) => found = Some(value(wire, item, depth)?),
            _ => {}
        }
    }
    let found = match found {
        Some(found) => found,
        // An empty value may be left out.
        None => value(Wire::Bytes(&[]), item, depth)?,
    };
    Ok((key, found))
}

fn value(wire: Wire<'_>, shape: &Shape, depth: usize) -> Result<Value, String> {
    Ok(match shape {
        Shape::String => text(wire.bytes()?)?.into(),
        Shape::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Shape::Int32 | Shape::Int64 => wire.integer()?.into(),
        Shape::Bool => (wire.integer()? != 0).into(),
        Shape::Double => match wire {
            Wire::Fixed64(bits) => json!(f64::from_bits(bits)),
            _ => return Err("a number has the wrong form".to_owned()),
        },
        Shape::Quantity => part(wire.bytes()?, 1)?
            .map_or(Ok(Value::Null), |found| text(found.bytes()?).map(Value::from))?,
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Time => {
            instant(wire.bytes()?)?.map_or(Value::Null, |at| conditions::seconds(at).into())
        }
        // FieldsV1 and RawExtension hold JSON as it is.
        Shape::Any => match part(wire.bytes()?, 1)? {
            Some(raw) => serde_json::from_slice(raw.bytes()?).map_err(|error| error.to_string())?,
            None => Value::Null,
        },
        // Custom resources have no protobuf form.
        Shape::Own(_) => return Err("no type is known".to_owned()),
        Shape::Ref(name) => {
            let fact = type_named(name).ok_or_else(|| format!("no type {name} is known"))?;
            let mut object = Map::new();
            message(wire.bytes()?, name, fact, (&mut object, depth))?;
            Value::Object(object)
        }
        // A list inside of a list or map is a message of its own.
        Shape::List(item) => {
            let mut list = Vec::new();
            for field in Fields(wire.bytes()?) {
                if let (1, wire) = field? {
                    read_item(&mut list, wire, item, depth)?;
                }
            }
            Value::Array(list)
        }
        Shape::Map(_) => return Err("a list holds a map".to_owned()),
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let integer = |number| -> Result<i64, String> {
        part(bytes, number)?.map_or(Ok(0), |wire| wire.integer())
    };
    if integer(1)? == 0 {
        return Ok(integer(2)?.into());
    }
    part(bytes, 3)?.map_or(Ok("".into()), |wire| text(wire.bytes()?).map(Value::from))
}

/// An instant: no fields at all for the zero time, which JSON leaves out.
fn instant(bytes: &[u8]) -> Result<Option<jiff::Timestamp>, String> {
    let integer = |number| -> Result<Option<i64>, String> {
        part(bytes, number)?.map(|wire| wire.integer()).transpose()
    };
    let Some(seconds) = integer(1)? else { return Ok(None) };
    let nanos =
        i32::try_from(integer(2)?.unwrap_or_default()).map_err(|error| error.to_string())?;
    jiff::Timestamp::new(seconds, nanos).map(Some).map_err(|error| error.to_string())
}

/// The last field of this number.
fn part(bytes: &[u8], number: u64) -> Result<Option<Wire<'_>>, String> {
    let mut found = None;
    for field in Fields(bytes) {
        let (at, wire) = field?;
        if at == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

/// A field's value as it travels.
#[derive(Debug, Clone, Copy)]
enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'b [u8]),
}

impl<'b> Wire<'b> {
    fn bytes(self) -> Result<&'b [u8], String> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err("a field has the wrong wire type".to_owned()),
        }
    }

    fn integer(self) -> Result<i64, String> {
        match self {
            Wire::Varint(number) => Ok(number.cast_signed()),
            _ => Err("a number has the wrong wire type".to_owned()),
        }
    }
}

/// The fields of a message, in order.
struct Fields<'b>(&'b [u8]);

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Wire<'b>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn field<'b>(bytes: &mut &'b [u8]) -> Result<(u64, Wire<'b>), String> {
    let key = varint(bytes)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => {
            let fixed = take(bytes, 8)?.try_into().map_err(|_| "it ends too early")?;
            Wire::Fixed64(u64::from_le_bytes(fixed))
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|error| error.to_string())?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => {
            take(bytes, 4)?;
            Wire::Fixed32
        }
        other => return Err(format!("wire type {other} is not known")),
    };
    Ok((key >> 3, wire))
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8], String> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or("it ends too early")?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it ends too early")?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use machinery::kinds;
    use machinery::schema::type_of;

    use super::*;

    fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inner.len();
        while length > 0x7f {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inner);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC, &bytes(1, &meta), &bytes(2, raw), &bytes(3, b""), &bytes(4, b"")].concat()
    }

    #[test]
    fn a_config_map_is_read_and_what_go_leaves_unset_is_dropped() {
        let metadata = [
            bytes(1, b"web"),
            bytes(2, b""),
            bytes(3, b"default"),
            vec![7 << 3, 0],
            bytes(8, b""),
            bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat()),
        ]
        .concat();
        let entry = [bytes(1, b"a"), bytes(2, b"b")].concat();
        let raw = [bytes(1, &metadata), bytes(2, &entry), vec![4 << 3, 1]].concat();
        assert_eq!(
            read(&body("v1", "ConfigMap", &raw)),
            Ok(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "immutable": true, "data": {"a": "b"},
                "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            }))
        );
    }

    #[test]
    fn a_deployments_depths_are_read() {
        let quantity = [bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat();
        let probe =
            bytes(1, &bytes(2, &bytes(2, &[vec![1 << 3, 0, 2 << 3, 80], bytes(3, b"")].concat())));
        let container = [
            bytes(1, b"main"),
            bytes(2, b"web:1"),
            bytes(8, &bytes(2, &quantity)),
            bytes(10, &probe),
        ]
        .concat();
        let volume = [bytes(1, b"tmp"), bytes(2, &bytes(2, b""))].concat();
        let spec = [bytes(1, &volume), bytes(2, &container), vec![4 << 3, 0, 11 << 3, 0]].concat();
        let template = [bytes(1, b""), bytes(2, &spec)].concat();
        let raw = bytes(2, &[vec![1 << 3, 0], bytes(3, &template)].concat());
        let object = read(&body("apps/v1", "Deployment", &raw)).unwrap();
        assert_eq!(
            object["spec"],
            json!({"replicas": 0, "template": {"metadata": {}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [{
                    "name": "main", "image": "web:1", "resources": {"requests": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                }],
            }}})
        );
    }

    #[test]
    fn delete_options_keep_a_grace_of_zero() {
        let raw = [vec![1 << 3, 0], bytes(4, b"Background")].concat();
        let object = read(&body("v1", "DeleteOptions", &raw)).unwrap();
        assert_eq!(object["gracePeriodSeconds"], 0);
        assert_eq!(object["propagationPolicy"], "Background");
    }

    #[test]
    fn broken_bodies_are_refused() {
        let good = body("v1", "ConfigMap", &bytes(1, &bytes(1, b"web")));
        for cut in 0..good.len() - 4 {
            // Whatever is missing, it is a refusal or an object, never a panic.
            let _ = read(&good[..cut]);
        }
        let endless = [MAGIC, &[0xff; 12]].concat();
        for wrong in [&b"{}"[..], b"k8s", &endless, &body("v1", "Widget", b""), &good[..9]] {
            assert_eq!(read(wrong).unwrap_err().code, 400, "{wrong:?}");
        }
    }

    /// Every field of every type that a served kind reaches has exactly one number.
    #[test]
    fn the_table_knows_every_field_that_is_served() {
        fn names(message: &str, into: &mut Vec<String>) {
            for tag in TAGS.get(message).into_iter().flat_map(BTreeMap::values) {
                match tag {
                    Tag::Field(field) => into.push((*field).to_owned()),
                    Tag::Embedded(inner) => names(inner, into),
                }
            }
        }
        let mut waiting: Vec<_> = kinds::ALL.iter().map(|kind| type_of(kind)).collect();
        waiting.extend(common("DeleteOptions"));
        let mut seen = BTreeSet::new();
        while let Some(fact) = waiting.pop() {
            if !seen.insert(fact.name.clone()) {
                continue;
            }
            let mut known = Vec::new();
            names(&fact.name, &mut known);
            let unique: BTreeSet<_> = known.iter().collect();
            assert_eq!(unique.len(), known.len(), "{}: a field has two numbers", fact.name);
            for (field, facts) in &fact.fields {
                // Who sends an object says its kind in the envelope.
                let is_typed = fact.kind.is_some() || fact.name.ends_with(".DeleteOptions");
                let is_envelope = is_typed && matches!(field.as_str(), "apiVersion" | "kind");
                assert!(
                    is_envelope || known.contains(field),
                    "{}: no number of {field}",
                    fact.name
                );
                waiting.extend(facts.shape.item_type());
            }
        }
        assert!(seen.len() > 100, "{}", seen.len());
    }
}
