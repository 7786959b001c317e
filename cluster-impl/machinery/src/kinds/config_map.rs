//! ConfigMap.
//!
//! Limits: keys and values together hold at most one MiB.

use serde_json::Value;

use super::{AGE, Kind, NAME, age, column, create_as_is, update_as_is};
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object};

/// All data of a ConfigMap or of a Secret may not be larger.
pub(super) const DATA_BYTES_MAX: usize = 1 << 20;

/// ConfigMap.
pub static CONFIG_MAP: Kind = Kind {
    id: "configmaps",
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |_| {},
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, column("Data", "string", 0), AGE],
    cells,
    custom: None,
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let mut bytes = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in object.map(&format!("/{part}")).into_iter().flatten() {
            let field = format!("{part}[{key}]");
            causes.name(&field, key, names::config_key);
            if part == "binaryData" && object.get("/data").is_some_and(|data| data.get(key).is_some()) {
                causes.invalid(&field, key.as_str(), &format!("duplicate of key present in data: {key}"));
            }
            bytes += key.len() + value.as_str().map_or(0, str::len);
        }
    }
    if bytes > DATA_BYTES_MAX {
        causes.too_long("", DATA_BYTES_MAX);
    }
    if let Some(old) = old {
        immutable(&mut causes, object, old, &["data", "binaryData"]);
    }
    causes.into_list()
}

/// Once `immutable` is true, it stays true and the data stay.
pub(super) fn immutable(causes: &mut Causes, new: &Object, old: &Object, parts: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !old.flag("/immutable") {
        return;
    }
    if !new.flag("/immutable") {
        causes.forbidden("immutable", WHY);
    }
    let empty = Value::Object(serde_json::Map::new());
    for part in parts {
        let value = |object: &Object| {
            object.0.get(*part).filter(|value| !value.is_null()).cloned().unwrap_or(empty.clone())
        };
        if value(new) != value(old) {
            causes.forbidden(part, WHY);
        }
    }
}

/// How many keys there are in these maps.
pub(super) fn count(object: &Object, parts: &[&str]) -> usize {
    parts.iter().filter_map(|part| object.map(part)).map(serde_json::Map::len).sum()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    vec![object.name().into(), count(object, &["/data", "/binaryData"]).into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::found;
    use super::*;

    fn map(rest: Value) -> Object {
        let mut object = Object::new("v1", "ConfigMap", "default", "c");
        object.0.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    }

    #[test]
    fn keys_and_sizes() {
        assert_eq!(found(&CONFIG_MAP, &map(json!({"data": {"a.b": "x"}})), None), [""; 0]);
        for (rest, start) in [
            (json!({"data": {"a b": "x"}}), "Invalid data[a b]"),
            (json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}), "Invalid binaryData[a]"),
            (json!({"data": {"a": "x".repeat(DATA_BYTES_MAX)}}), "TooLong"),
        ] {
            assert!(found(&CONFIG_MAP, &map(rest), None)[0].starts_with(start), "{start}");
        }
    }

    #[test]
    fn immutable_data_stays() {
        let old = map(json!({"immutable": true, "data": {"a": "1"}}));
        assert_eq!(found(&CONFIG_MAP, &old, Some(&old)), [""; 0]);
        let new = map(json!({"data": {"a": "2"}}));
        assert_eq!(
            found(&CONFIG_MAP, &new, Some(&old)),
            [
                "Forbidden immutable: Forbidden: field is immutable when `immutable` is set",
                "Forbidden data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert_eq!(found(&CONFIG_MAP, &old, Some(&new)), [""; 0], "it may become immutable");
    }
}
