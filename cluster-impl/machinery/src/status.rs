//! `Status`: how the API says that something failed.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One reason among several, with the field it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Such as FieldValueRequired.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Such as `spec.containers[0].image`.
    pub field: String,
}

/// A failure, as `kind: Status` tells it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Such as NotFound, AlreadyExists, Conflict, Invalid.
    pub reason: String,
    /// For people.
    pub message: String,
    /// `details`, with name, group, kind, causes, retryAfterSeconds.
    pub details: Value,
}

impl Status {
    /// A failure without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: Value::Null }
    }

    /// 404. `resource` is the plural.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(resource, group));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// 409, the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(resource, group));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409, the object is not what the writer thought.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(resource, group)
        );
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 422, with the fields that are wrong.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let list: Vec<_> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = if let [one] = list.as_slice() {
            one.clone()
        } else {
            format!("[{}]", list.join(", "))
        };
        let message = format!("{} \"{name}\" is invalid: {list}", qualified(kind, group));
        let mut status = Self::new(422, "Invalid", message).about(group, kind, name);
        status.details["causes"] = json!(causes);
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 410, the resource version is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    fn about(self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = json!({});
        for (field, text) in [("name", name), ("group", group), ("kind", kind)] {
            if !text.is_empty() {
                details[field] = text.into();
            }
        }
        Self { details, ..self }
    }

    /// As the API writes it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        value
    }

    /// Reads what [`Status::to_value`] writes; missing parts become empty.
    pub fn from_value(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            code: value["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
            reason: text("reason"),
            message: text("message"),
            details: value["details"].clone(),
        }
    }
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}
