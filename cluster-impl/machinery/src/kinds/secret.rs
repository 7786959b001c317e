//! Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::config_map::{DATA_BYTES_MAX, count, immutable};
use super::{AGE, Kind, NAME, age, column, create_as_is, update_as_is};
use crate::defaulting::{part, zero};
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object};

/// Secret.
pub static SECRET: Kind = Kind {
    id: "secrets",
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[("type", "/type")],
    default,
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, column("Type", "string", 0), column("Data", "string", 0), AGE],
    cells,
    custom: None,
};

/// The keys that a type of secret needs: all of them, or at least one.
const KEYS: &[(&str, bool, &[&str])] = &[
    ("kubernetes.io/tls", true, &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockerconfigjson", true, &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", true, &[".dockercfg"]),
    ("kubernetes.io/ssh-auth", true, &["ssh-privatekey"]),
    ("kubernetes.io/basic-auth", false, &["username", "password"]),
];

/// `stringData` is written only: it goes into `data`, and its keys win.
fn default(object: &mut Object) {
    zero(&mut object.0, "type", "Opaque");
    let Some(Value::Object(texts)) = object.remove("/stringData") else { return };
    if texts.is_empty() {
        return;
    }
    let Some(data) = part(&mut object.0, "data").and_then(Value::as_object_mut) else { return };
    for (key, value) in texts {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let mut bytes = 0;
    for (key, value) in object.map("/data").into_iter().flatten() {
        causes.name(&format!("data[{key}]"), key, names::config_key);
        match STANDARD.decode(value.as_str().unwrap_or_default()) {
            Ok(data) => bytes += data.len(),
            Err(_) => causes.invalid(&format!("data[{key}]"), "", "illegal base64 data"),
        }
    }
    if bytes > DATA_BYTES_MAX {
        causes.too_long("data", DATA_BYTES_MAX);
    }
    let has = |key: &str| object.get("/data").is_some_and(|data| data.get(key).is_some());
    for (_, all, keys) in KEYS.iter().filter(|(name, ..)| *name == object.text("/type")) {
        let missing: Vec<_> = keys.iter().filter(|key| !has(key)).collect();
        if (*all && !missing.is_empty()) || missing.len() == keys.len() {
            for key in missing {
                causes.required(&format!("data[{key}]"), "");
            }
        }
    }
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    if object.text("/type") == "kubernetes.io/service-account-token"
        && object.annotation(ACCOUNT).is_none_or(str::is_empty)
    {
        causes.required(&format!("metadata.annotations[{ACCOUNT}]"), "");
    }
    if let Some(old) = old {
        causes.immutable("type", &object.0["type"], &old.0["type"]);
        immutable(&mut causes, object, old, &["data"]);
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        object.text("/type").into(),
        count(object, &["/data"]).into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::found;
    use super::*;

    fn secret(rest: Value) -> Object {
        let mut object = Object::new("v1", "Secret", "default", "s");
        object.0.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        (SECRET.default)(&mut object);
        object
    }

    #[test]
    fn texts_become_data() {
        let object = secret(json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"b": "z"}}));
        assert_eq!(object.0["data"], json!({"a": "eA==", "b": "eg=="}));
        assert_eq!(object.get("/stringData"), None);
        assert_eq!(object.text("/type"), "Opaque");
        assert_eq!(found(&SECRET, &object, None), [""; 0]);
    }

    #[test]
    fn types_need_their_keys() {
        for (rest, expected) in [
            (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
                vec!["Required data[tls.key]: Required value"]),
            (json!({"type": "kubernetes.io/basic-auth", "data": {"username": ""}}), vec![]),
            (json!({"type": "kubernetes.io/service-account-token"}),
                vec!["Required metadata.annotations[kubernetes.io/service-account.name]: \
                    Required value"]),
            (json!({"data": {"a": "%"}}), vec!["Invalid data[a]: Invalid value: \"\": illegal base64 data"]),
            (json!({"type": "example.com/any"}), vec![]),
        ] {
            assert_eq!(found(&SECRET, &secret(rest), None), expected);
        }
    }

    #[test]
    fn the_type_stays() {
        let (old, new) = (secret(json!({})), secret(json!({"type": "x"})));
        assert_eq!(
            found(&SECRET, &new, Some(&old)),
            ["Invalid type: Invalid value: \"x\": field is immutable"]
        );
    }
}
