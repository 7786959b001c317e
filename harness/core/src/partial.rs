//! A partial object that must match: Kubernetes' own notation for what is wanted of an object.
//!
//! Fields that are not written match anything. `null` matches what is absent. An item of a list
//! matches if an item with the same merge key (a condition's `type`, a taint's `key` and `effect`,
//! a container's `name`) matches; an empty list matches only an empty or absent one.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::condition::{ConditionError, error, plain_name};
use crate::expression::Shown;
use crate::json;
use crate::kinds::Kind;
use crate::roles::Ref;
use crate::world::World;

/// An object that must be there, or must not, and the fields that must match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// Plural and group, `deployments.apps`.
    pub kind: String,
    /// Its namespace; absent for the scenario's own and for cluster-scoped objects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// Its name, or `$binding`.
    pub name: String,
    /// Whether it must be there; if not, nothing else is asked.
    pub exists: bool,
    /// The fields that must match. Texts may be `$bindings`.
    pub fields: Value,
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Kind::of_id(&self.kind).map_or(self.kind.as_str(), |kind| kind.word);
        write!(f, "{word} ")?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)?;
        match (&self.fields, self.exists) {
            (_, false) => f.write_str(" does not exist"),
            (Value::Object(fields), _) if fields.is_empty() => f.write_str(" exists"),
            (fields, _) => write!(f, " matches {fields}"),
        }
    }
}

impl Partial {
    /// The object, if it is there.
    pub fn find<'w>(&self, world: &'w World) -> Result<Option<&'w json::Value>, ConditionError> {
        Ok(self.shown(world)?.map(Shown::object))
    }

    /// As [`Partial::find`], with what CEL sees of it.
    pub(crate) fn shown<'w>(&self, world: &'w World) -> Result<Option<&'w Shown>, ConditionError> {
        let name = bound_text(&self.name, world)?;
        let kind = Kind::of_id(&self.kind);
        let namespace = match (&self.namespace, kind) {
            (Some(namespace), _) => namespace.as_str(),
            (None, Some(kind)) if !kind.is_namespaced => "",
            (None, _) => world.namespace(),
        };
        Ok(world.shown(&self.kind, namespace, &name))
    }

    /// Whether the object is as it must be.
    pub fn holds(&self, world: &World) -> Result<bool, ConditionError> {
        match (self.find(world)?, self.exists) {
            (found, false) => Ok(found.is_none()),
            (None, true) => Ok(false),
            (Some(object), true) => Ok(matches(&bind(&self.fields, world)?, object)),
        }
    }
}

/// A text with its binding replaced: the name without its namespace.
pub fn bound_text(text: &str, world: &World) -> Result<String, ConditionError> {
    let Ref::Binding(name) = Ref::parse(text) else { return Ok(text.to_string()) };
    match world.bound(&name) {
        Some([one]) => Ok(plain_name(one).to_string()),
        Some(several) => Err(error(
            format!("`${name}` stands for {} objects, and one is wanted", several.len()),
            "use a CEL expression with `in`",
        )),
        None => Err(error(format!("`${name}` is not bound yet"), "bind it in `bind:` or by `as:`")),
    }
}

/// A value with every text that is a binding replaced.
pub fn bind(value: &Value, world: &World) -> Result<Value, ConditionError> {
    Ok(match value {
        Value::String(text) => Value::String(bound_text(text, world)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| bind(item, world)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, field)| Ok((key.clone(), bind(field, world)?)))
                .collect::<Result<_, ConditionError>>()?,
        ),
        other => other.clone(),
    })
}

/// Whether what was seen is as is wanted.
pub fn matches(wanted: &Value, seen: &json::Value) -> bool {
    use json::Value as Seen;
    match (wanted, seen) {
        (Value::Object(wanted), Seen::Object(seen)) => {
            wanted.iter().all(|(key, wanted)| match seen.get(key) {
                Some(seen) => matches(wanted, seen),
                None => is_nothing(wanted),
            })
        }
        // Merge keys are unique in a list: an item that matches has the wanted one's merge key.
        (Value::Array(wanted), Seen::Array(seen)) if !wanted.is_empty() => {
            wanted.iter().all(|wanted| seen.iter().any(|seen| matches(wanted, seen)))
        }
        (Value::Array(_), Seen::Array(seen)) => seen.is_empty(),
        (Value::Number(wanted), Seen::Number(seen)) => wanted.as_f64() == seen.as_f64(),
        (wanted, Seen::Null) => is_nothing(wanted),
        (Value::String(wanted), seen) => *seen == *wanted,
        (Value::Bool(wanted), seen) => *seen == *wanted,
        _ => false,
    }
}

/// Whether a wanted value is the same as no value at all.
fn is_nothing(wanted: &Value) -> bool {
    match wanted {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        // Kubernetes leaves zero counts and false out.
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(value) => !value,
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn partial_objects_match_by_merge_key() {
        let node = json!({
            "spec": {"taints": [{"key": "a", "effect": "NoExecute", "timeAdded": "now"}, {"key": "a", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "DiskPressure", "status": "False"}]},
        });
        for (wanted, expected) in [
            (json!({}), true),
            (json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), true),
            (json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), false),
            (
                json!({"status": {"conditions": [{"type": "DiskPressure", "status": "Unknown"}]}}),
                false,
            ),
            (json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}), true),
            (
                json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "b"}]}}),
                false,
            ),
            (json!({"spec": {"taints": []}}), false),
            (json!({"spec": {"unschedulable": null}}), true),
            (json!({"spec": {"unschedulable": false}}), true),
            (json!({"spec": {"unschedulable": true}}), false),
        ] {
            assert_eq!(matches(&wanted, &node.clone().into()), expected, "{wanted}");
        }
    }

    #[test]
    fn absent_is_empty_and_zero() {
        for (wanted, seen, expected) in [
            (json!({"spec": {"taints": []}}), json!({"spec": {}}), true),
            (json!({"spec": {"taints": []}}), json!({}), true),
            (json!({"status": {"readyReplicas": 0}}), json!({"status": {}}), true),
            (json!({"status": {"readyReplicas": 1}}), json!({"status": {}}), false),
            (json!({"status": {"phase": "Running"}}), json!({}), false),
            (json!({"a": 6}), json!({"a": 6.0}), true),
            (json!({"a": "6"}), json!({"a": 6}), false),
        ] {
            assert_eq!(matches(&wanted, &seen.clone().into()), expected, "{wanted} {seen}");
        }
    }
}
