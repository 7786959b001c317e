//! Entries of `status.conditions`.

use machinery::Object;
use serde_json::{Value, json};

/// Sets a condition; its transition time moves only if the status changes. Answers whether anything
/// changed.
pub fn set(object: &mut Object, name: &str, status: &str, (reason, message): (&str, &str), now: &str) -> bool {
    let mut fresh = json!({"type": name, "status": status, "lastTransitionTime": now});
    if !reason.is_empty() {
        fresh["reason"] = reason.into();
    }
    if !message.is_empty() {
        fresh["message"] = message.into();
    }
    let mut conditions = object.list("/status/conditions").to_vec();
    match conditions.iter_mut().find(|condition| condition["type"] == name) {
        Some(known) => {
            if known["status"] == status {
                if text(known, "reason") == reason && text(known, "message") == message {
                    return false;
                }
                fresh["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            for kept in ["lastHeartbeatTime", "lastProbeTime", "lastUpdateTime"] {
                if let Some(value) = known.get(kept) {
                    fresh[kept] = value.clone();
                }
            }
            *known = fresh;
        }
        None => conditions.push(fresh),
    }
    object.set("/status/conditions", conditions);
    true
}

/// The string under a name, or "".
pub fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
