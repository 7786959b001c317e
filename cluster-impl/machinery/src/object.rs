//! An API object: JSON with the accessors that everybody needs.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An API object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Value);

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key; `namespace` is empty for a cluster-scoped object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name, in the same namespace or cluster-scoped.
    pub name: String,
    /// Identity.
    pub uid: String,
    /// Whether this owner manages the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether a foreground deletion of the owner waits for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// An entry of a node's `spec.taints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
    /// When a NoExecute taint was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Timestamp>,
}

/// An entry of a pod's `spec.tolerations`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Key; empty with operator Exists for every taint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Exists, or Equal (also when empty).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// Value, for Equal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Empty for every effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// How long a NoExecute taint is tolerated; `None` for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether this toleration matches the taint (`ToleratesTaint` of k8s.io/api/core/v1).
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "" | "Equal" => self.value == taint.value && !self.key.is_empty(),
                "Exists" => true,
                _ => false,
            }
    }
}

impl Object {
    /// An object of this kind with nothing but a name; `namespace` is empty for a cluster-scoped one.
    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let mut object = Self(serde_json::json!({
            "apiVersion": api_version, "kind": kind, "metadata": {"name": name},
        }));
        if !namespace.is_empty() {
            object.set("/metadata/namespace", namespace);
        }
        object
    }

    /// The value at a JSON pointer.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        // `Value::pointer` allocates for every part, and this is the hottest place of a simulation.
        if pointer.is_empty() {
            return Some(&self.0);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(&self.0, |at, part| match at {
            Value::Object(map) if part.contains('~') => map.get(&unescape(part)),
            Value::Object(map) => map.get(part),
            Value::Array(list) => list.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The string at a JSON pointer, or "".
    pub fn text(&self, pointer: &str) -> &str {
        self.get(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The integer at a JSON pointer.
    pub fn integer(&self, pointer: &str) -> Option<i64> {
        self.get(pointer).and_then(Value::as_i64)
    }

    /// The boolean at a JSON pointer, or false.
    pub fn flag(&self, pointer: &str) -> bool {
        self.get(pointer).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The list at a JSON pointer, or an empty one.
    pub fn list(&self, pointer: &str) -> &[Value] {
        self.get(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The map at a JSON pointer.
    pub fn map(&self, pointer: &str) -> Option<&Map<String, Value>> {
        self.get(pointer).and_then(Value::as_object)
    }

    /// The instant at a JSON pointer.
    pub fn time(&self, pointer: &str) -> Option<Timestamp> {
        self.text(pointer).parse().ok()
    }

    /// The typed value at a JSON pointer; `None` if absent or of another shape.
    pub fn parse<T: serde::de::DeserializeOwned>(&self, pointer: &str) -> Option<T> {
        self.get(pointer).and_then(|value| T::deserialize(value).ok())
    }

    /// Sets the value at a JSON pointer whose parents are maps; makes the maps that are missing.
    /// `~1` and `~0` stand for `/` and `~`, as in RFC 6901.
    pub fn set(&mut self, pointer: &str, value: impl Into<Value>) {
        let Some((parents, last)) = pointer.rsplit_once('/') else {
            self.0 = value.into();
            return;
        };
        let mut at = &mut self.0;
        for part in parents.split('/').skip(1) {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[unescape(part)];
        }
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at[unescape(last)] = value.into();
    }

    /// Takes the value at a JSON pointer out of its map.
    pub fn remove(&mut self, pointer: &str) -> Option<Value> {
        let (parents, last) = pointer.rsplit_once('/')?;
        self.0.pointer_mut(parents)?.as_object_mut()?.remove(&unescape(last))
    }

    /// Group and version.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// Kind.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Name.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Namespace, or "".
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }

    /// Identity.
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    /// The revision of the last change, as text; "" if not stored yet.
    pub fn resource_version(&self) -> &str {
        self.text("/metadata/resourceVersion")
    }

    /// The revision of the last change; 0 if not stored yet.
    pub fn revision(&self) -> i64 {
        self.resource_version().parse().unwrap_or_default()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.map("/metadata/labels")?.get(key)?.as_str()
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.map("/metadata/annotations")?.get(key)?.as_str()
    }

    /// When the object was created.
    pub fn created(&self) -> Option<Timestamp> {
        self.time("/metadata/creationTimestamp")
    }

    /// When the object will be or was asked to go; `None` while it is to stay.
    pub fn deletion_timestamp(&self) -> Option<Timestamp> {
        self.time("/metadata/deletionTimestamp")
    }

    /// Whether deletion was asked for.
    pub fn is_terminating(&self) -> bool {
        self.get("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
    }

    /// The owners.
    pub fn owners(&self) -> Vec<OwnerReference> {
        self.parse("/metadata/ownerReferences").unwrap_or_default()
    }

    /// The owner that manages this object.
    pub fn controller(&self) -> Option<OwnerReference> {
        self.owners().into_iter().find(|owner| owner.controller == Some(true))
    }

    /// A reference to this object as a managing owner.
    pub fn as_controller(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version().to_owned(),
            kind: self.kind().to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// An entry of `status.conditions` by type.
    pub fn condition(&self, name: &str) -> Option<&Value> {
        self.list("/status/conditions").iter().find(|condition| condition["type"] == name)
    }

    /// The status of a condition: True, False, Unknown, or "" if it is absent.
    pub fn condition_status(&self, name: &str) -> &str {
        self.condition(name).and_then(|condition| condition["status"].as_str()).unwrap_or_default()
    }

    /// A node's taints.
    pub fn taints(&self) -> Vec<Taint> {
        self.parse("/spec/taints").unwrap_or_default()
    }

    /// A pod's tolerations.
    pub fn tolerations(&self) -> Vec<Toleration> {
        self.parse("/spec/tolerations").unwrap_or_default()
    }
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_makes_the_maps_on_the_way() {
        let mut object = Object::new("v1", "Pod", "default", "web");
        object.set("/metadata/labels/app.kubernetes.io~1name", "web");
        assert_eq!(object.label("app.kubernetes.io/name"), Some("web"));
        assert_eq!(object.remove("/metadata/labels/app.kubernetes.io~1name"), Some("web".into()));
        assert_eq!(object.label("app.kubernetes.io/name"), None);
    }

    #[test]
    fn pointers_lead_through_maps_and_lists() {
        let object = Object(serde_json::json!({"a": [{"b/c": 1}], "d": {"e": null}}));
        for (pointer, value) in [
            ("/a/0/b~1c", Some(serde_json::json!(1))),
            ("/a/1", None),
            ("/a/x", None),
            ("/d/e", Some(Value::Null)),
            ("/d/e/f", None),
            ("a", None),
        ] {
            assert_eq!(object.get(pointer), value.as_ref(), "{pointer}");
            assert_eq!(object.get(pointer), object.0.pointer(pointer), "{pointer}");
        }
        assert_eq!(object.get(""), Some(&object.0));
    }

    #[test]
    fn tolerations_match_as_upstream() {
        let taint = |key: &str, value: &str| Taint {
            key: key.into(),
            value: value.into(),
            effect: "NoExecute".into(),
            time_added: None,
        };
        let parse = |json: &str| serde_json::from_str::<Toleration>(json).expect("valid sample");
        let gpu = taint("hw", "gpu");
        assert!(parse(r#"{"operator":"Exists"}"#).tolerates(&gpu));
        assert!(parse(r#"{"key":"hw","value":"gpu"}"#).tolerates(&gpu));
        assert!(!parse(r#"{"key":"hw","value":"cpu"}"#).tolerates(&gpu));
        assert!(parse(r#"{"key":"hw","operator":"Exists","effect":"NoExecute"}"#).tolerates(&gpu));
        assert!(
            !parse(r#"{"key":"hw","operator":"Exists","effect":"NoSchedule"}"#).tolerates(&gpu)
        );
    }
}
