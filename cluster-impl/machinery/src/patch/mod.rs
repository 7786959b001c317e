//! Patches: strategic merge, JSON merge (RFC 7386) and JSON patch (RFC 6902).
//!
//! Limits: [`OPERATIONS_MAX`] operations in a JSON patch, [`DEPTH_MAX`] levels of nesting in any patch, and
//! [`SIZE_MAX`] values in the result, so that a small patch cannot grow an object without bound.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

use serde_json::Value;

use crate::{Kind, Object, Status};

/// More operations in one JSON patch are refused, as upstream does.
pub const OPERATIONS_MAX: usize = 10_000;
/// Deeper nesting is refused.
pub const DEPTH_MAX: usize = 64;
/// Deeper nesting of an object that was patched by JSON patch is refused: what a server takes in a body.
pub const RESULT_DEPTH_MAX: usize = 100;
/// More values in a patched object are refused; about what fits into etcd's request limit.
pub const SIZE_MAX: usize = 1 << 20;

/// The forms of a patch, by media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/json-patch+json`.
    Json,
}

impl PatchType {
    /// The form that a Content-Type names, parameters aside.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/json-patch+json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// An object of a kind with a patch applied. Nothing is defaulted or validated.
pub fn apply(
    kind: &Kind,
    object: &Object,
    patch_type: PatchType,
    patch: &Value,
) -> Result<Object, Status> {
    let patched = match patch_type {
        PatchType::Strategic => strategic(&object.0, patch, crate::schema::type_of(kind))?,
        PatchType::Merge => merge(&object.0, patch)?,
        PatchType::Json => json(&object.0, patch)?,
    };
    if !patched.is_object() {
        return Err(unprocessable("the patch leaves no object"));
    }
    Ok(Object(patched))
}

/// 422 without a field, as upstream's patch handlers answer it.
fn unprocessable(message: impl Into<String>) -> Status {
    Status::new(422, "Invalid", message)
}

fn check_depth(patch: &Value) -> Result<(), Status> {
    if depth(patch) > DEPTH_MAX {
        return Err(Status::bad_request(format!("the patch is nested deeper than {DEPTH_MAX}")));
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn check_size(value: &Value) -> Result<(), Status> {
    if size(value) > SIZE_MAX { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> Status {
    Status::new(
        413,
        "RequestEntityTooLarge",
        format!("the patched object has more than {SIZE_MAX} values"),
    )
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::POD;

    #[test]
    fn media_types_are_known() {
        for (text, expected) in [
            ("application/strategic-merge-patch+json", Some(PatchType::Strategic)),
            ("application/merge-patch+json; charset=utf-8", Some(PatchType::Merge)),
            ("application/json-patch+json", Some(PatchType::Json)),
            ("application/json", None),
        ] {
            assert_eq!(PatchType::from_media_type(text), expected, "{text}");
        }
    }

    #[test]
    fn a_patch_must_leave_an_object_and_not_be_too_deep() {
        let pod = Object::new("v1", "Pod", "default", "web");
        let replaced = json!([{"op": "replace", "path": "", "value": 3}]);
        assert_eq!(apply(&POD, &pod, PatchType::Json, &replaced).unwrap_err().code, 422);
        let deep = (0..=DEPTH_MAX).fold(json!(1), |inner, _| json!({ "a": inner }));
        for form in [PatchType::Strategic, PatchType::Merge] {
            assert_eq!(apply(&POD, &pod, form, &deep).unwrap_err().code, 400);
        }
    }
}
