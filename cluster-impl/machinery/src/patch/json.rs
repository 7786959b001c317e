//! JSON patch (RFC 6902).

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::{OPERATIONS_MAX, check_depth, check_size, unprocessable};
use crate::Status;

/// The value with a JSON patch applied, whole or not at all.
pub fn json(original: &Value, patch: &Value) -> Result<Value, Status> {
    check_depth(patch)?;
    let count = patch.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        return Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
            ),
        ));
    }
    let Patch(operations) = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut patched = original.clone();
    for operation in &operations {
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| failed(operation, &error))?;
        // Copies can double an object; stop long before memory does.
        if matches!(operation, PatchOperation::Copy(_)) {
            check_size(&patched)?;
        }
    }
    check_size(&patched)?;
    Ok(patched)
}

fn failed(operation: &PatchOperation, error: &json_patch::PatchError) -> Status {
    let (name, path) = (
        match operation {
            PatchOperation::Add(_) => "add",
            PatchOperation::Remove(_) => "remove",
            PatchOperation::Replace(_) => "replace",
            PatchOperation::Move(_) => "move",
            PatchOperation::Copy(_) => "copy",
            PatchOperation::Test(_) => "test",
        },
        operation.path(),
    );
    if name == "test" {
        return unprocessable(format!("testing value {path} failed: {}", error.kind));
    }
    unprocessable(format!(
        "{name} operation does not apply: doc is missing path: {path}: {}",
        error.kind
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn applies_operations_in_order() {
        let original = value!({"spec": {"taints": [{"key": "a"}], "replicas": 1}});
        let patch = value!([
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 3},
            {"op": "add", "path": "/spec/taints/-", "value": {"key": "b"}},
            {"op": "remove", "path": "/spec/taints/0"},
            {"op": "add", "path": "/metadata", "value": {"x~y/z": 1}},
            {"op": "copy", "from": "/metadata/x~0y~1z", "path": "/copied"},
        ]);
        assert_eq!(
            json(&original, &patch).unwrap(),
            value!({
                "spec": {"taints": [{"key": "b"}], "replicas": 3},
                "metadata": {"x~y/z": 1}, "copied": 1,
            })
        );
    }

    #[test]
    fn errors_have_kubernetes_codes() {
        let original = value!({"a": 1});
        for (patch, code) in [
            (value!([{"op": "test", "path": "/a", "value": 2}]), 422),
            (value!([{"op": "remove", "path": "/b"}]), 422),
            (value!([{"op": "replace", "path": "/b/c", "value": 1}]), 422),
            (value!([{"op": "frob", "path": "/a"}]), 400),
            (value!({"op": "add"}), 400),
            (value!([{"op": "add", "path": "a", "value": 1}]), 400),
        ] {
            assert_eq!(json(&original, &patch).unwrap_err().code, code, "{patch}");
        }
    }

    #[test]
    fn operations_and_growth_are_limited() {
        let many = vec![value!({"op": "test", "path": "/a", "value": 1}); OPERATIONS_MAX + 1];
        assert_eq!(json(&value!({"a": 1}), &Value::Array(many)).unwrap_err().code, 413);
        let mut bomb = vec![value!({"op": "add", "path": "/a", "value": [1, 1, 1, 1]})];
        bomb.extend((0..40).map(|_| value!({"op": "copy", "from": "/a", "path": "/a/0"})));
        assert_eq!(json(&value!({}), &Value::Array(bomb)).unwrap_err().code, 413);
    }
}
