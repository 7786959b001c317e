//! Conditions in `status.conditions`: set them without touching the time of transition for nothing.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Object;

/// Sets a condition. `lastTransitionTime` moves only if the status changes; other fields of the entry
/// (such as `lastHeartbeatTime`) stay. Answers whether anything changed.
pub fn set(object: &mut Object, condition: Condition<'_>, now: Timestamp) -> bool {
    let Condition { name, status, reason, message } = condition;
    let mut wanted = Map::new();
    wanted.insert("type".into(), name.into());
    wanted.insert("status".into(), status.into());
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            wanted.insert(field.into(), text.into());
        }
    }
    if !object.get("/status/conditions").is_some_and(Value::is_array) {
        object.set("/status/conditions", json!([]));
    }
    let Some(Value::Array(list)) = object.0.pointer_mut("/status/conditions") else { return false };
    let Some(old) = list.iter_mut().find(|entry| entry["type"] == name) else {
        wanted.insert("lastTransitionTime".into(), seconds(now).into());
        list.push(Value::Object(wanted));
        return true;
    };
    let before = old.clone();
    if old["status"] != status {
        old["lastTransitionTime"] = seconds(now).into();
    }
    if let Some(old) = old.as_object_mut() {
        old.remove("reason");
        old.remove("message");
        old.extend(wanted);
    }
    *old != before
}

/// A condition as it should be; an empty reason or message is left out.
#[derive(Debug, Clone, Copy)]
pub struct Condition<'a> {
    /// Type, such as Ready.
    pub name: &'a str,
    /// True, False or Unknown.
    pub status: &'a str,
    /// One word.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
}

/// Takes a condition away; answers whether it was there.
pub fn remove(object: &mut Object, name: &str) -> bool {
    let Some(Value::Array(list)) = object.0.pointer_mut("/status/conditions") else { return false };
    let before = list.len();
    list.retain(|entry| entry["type"] != name);
    list.len() != before
}

/// An instant as the API writes `metav1.Time`: whole seconds, `Z`.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An instant as the API writes `metav1.MicroTime`: six digits, `Z`.
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(status: &str) -> Condition<'_> {
        Condition { name: "Ready", status, reason: "KubeletReady", message: "" }
    }

    #[test]
    fn the_time_of_transition_moves_only_with_the_status() {
        let mut node = Object::new("v1", "Node", "", "worker-1");
        assert!(set(&mut node, ready("True"), at(0)));
        assert!(!set(&mut node, ready("True"), at(5)), "nothing changed");
        assert_eq!(node.condition("Ready").unwrap()["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let other = Condition { reason: "Other", ..ready("True") };
        assert!(set(&mut node, other, at(6)), "the reason changed");
        assert_eq!(node.condition("Ready").unwrap()["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert!(set(&mut node, ready("Unknown"), at(7)));
        assert_eq!(node.condition("Ready").unwrap()["lastTransitionTime"], "1970-01-01T00:00:07Z");
        assert_eq!(node.list("/status/conditions").len(), 1);
    }

    #[test]
    fn other_fields_of_the_entry_stay() {
        let mut node = Object(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "x", "message": "old"},
        ]}}));
        set(&mut node, ready("False"), at(1));
        let condition = node.condition("Ready").unwrap();
        assert_eq!(condition["lastHeartbeatTime"], "x");
        assert_eq!(condition.get("message"), None);
        assert!(remove(&mut node, "Ready"));
        assert!(!remove(&mut node, "Ready"));
    }

    #[test]
    fn times_are_written_as_the_api_writes_them() {
        let instant: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        assert_eq!(seconds(instant), "2026-01-02T03:04:05Z");
        assert_eq!(micros(instant), "2026-01-02T03:04:05.678901Z");
    }
}
