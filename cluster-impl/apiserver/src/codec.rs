//! Objects as they lie in the store, and as they leave it.
//!
//! A stored object is JSON without `metadata.resourceVersion`: that is the key's last revision. What
//! this server writes begins with `metadata`, so that the revision can be put in without parsing.

use bytes::Bytes;
use machinery::{Object, Status};
use serde_json::Value;
use storage::KeyValue;

use crate::encryption;

/// How every value begins that this server wrote.
const HEAD: &[u8] = br#"{"metadata":{"#;

/// An object as stored, with the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Bytes,
    pub(crate) revision: i64,
}

impl From<&KeyValue> for Stored {
    fn from(kv: &KeyValue) -> Self {
        Self { value: kv.value.clone(), revision: kv.mod_revision }
    }
}

impl Stored {
    /// Writes the object with its revision.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        match self.value.strip_prefix(HEAD) {
            Some(rest) => {
                out.reserve(self.value.len() + 40);
                out.extend_from_slice(HEAD);
                out.extend_from_slice(b"\"resourceVersion\":\"");
                out.extend_from_slice(self.revision.to_string().as_bytes());
                out.extend_from_slice(b"\",");
                out.extend_from_slice(rest);
            }
            None => write_json(out, &self.object()?.0),
        }
        Ok(())
    }

    /// Reads the object; its revision is set.
    pub(crate) fn object(&self) -> Result<Object, Status> {
        if self.value.starts_with(encryption::HEAD) {
            return Err(unreadable(&self.value));
        }
        let mut object: Object = serde_json::from_slice(&self.value)
            .map_err(|error| Status::internal(format!("stored object is not JSON: {error}")))?;
        object.set("/metadata/resourceVersion", self.revision.to_string());
        Ok(object)
    }
}

/// No key that the server has reads a value.
fn unreadable(value: &[u8]) -> Status {
    let head: Vec<&[u8]> = value.splitn(6, |byte| *byte == b':').take(5).collect();
    let head = String::from_utf8_lossy(&head.join(&b':')).into_owned();
    Status::internal(format!(
        "unable to transform the stored object: no key of --encryption-provider-config reads {head}:"
    ))
}

/// An object as it goes into the store: `metadata` first, without the revision.
pub(crate) fn encode(object: &Object) -> Bytes {
    let empty = serde_json::Map::new();
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(HEAD);
    let metadata = object.map("/metadata").unwrap_or(&empty);
    write_members(&mut out, metadata.iter().filter(|(name, _)| *name != "resourceVersion"), true);
    out.push(b'}');
    let top = object.0.as_object().unwrap_or(&empty);
    write_members(&mut out, top.iter().filter(|(name, _)| *name != "metadata"), false);
    out.push(b'}');
    out.into()
}

fn write_members<'v>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = (&'v String, &'v Value)>,
    mut is_first: bool,
) {
    for (name, value) in members {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        serde_json::to_writer(&mut *out, name).expect("writing text into memory cannot fail");
        out.push(b':');
        write_json(out, value);
    }
}

/// Writes a value as JSON.
pub(crate) fn write_json(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value has only text keys");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_is_put_in_without_parsing() {
        let object = Object(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "resourceVersion": "3"},
            "data": {"metadata": "{\"metadata\":{}}"},
        }));
        let stored = Stored { value: encode(&object), revision: 7 };
        assert!(!std::str::from_utf8(&stored.value).unwrap().contains("resourceVersion"));
        let mut out = Vec::new();
        stored.write(&mut out).unwrap();
        let mut expected = object;
        expected.set("/metadata/resourceVersion", "7");
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected.0);
        assert_eq!(stored.object(), Ok(expected));
    }

    #[test]
    fn what_somebody_else_wrote_is_read_too() {
        let value = Bytes::from_static(br#"{"kind":"Pod","metadata":{"name":"a"}}"#);
        let stored = Stored { value, revision: 9 };
        let mut out = Vec::new();
        stored.write(&mut out).unwrap();
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read["metadata"]["resourceVersion"], "9");
        let broken = Stored { value: Bytes::from_static(b"k8s\0"), revision: 1 };
        assert_eq!(broken.object().unwrap_err().code, 500);
    }
}
