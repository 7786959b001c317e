//! JSON patch (RFC 6902).

use json_patch::jsonptr::Pointer;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::{OPERATIONS_MAX, RESULT_DEPTH_MAX, SIZE_MAX, check_depth, check_size, depth, size};
use super::{too_large, unprocessable};
use crate::Status;

/// So many values may be moved about by one patch: each time they are looked at.
const MOVED_MAX: usize = 16 * SIZE_MAX;

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
    let (mut copied, mut moved) = (0, 0);
    for operation in &operations {
        // Copies can double an object; stop long before memory does.
        match operation {
            PatchOperation::Add(add) => check_place(&add.path, &add.value)?,
            PatchOperation::Replace(replace) => check_place(&replace.path, &replace.value)?,
            PatchOperation::Copy(copy) => {
                copied += check_source(&patched, &copy.from, &copy.path)?;
            }
            PatchOperation::Move(from) => {
                moved += check_source(&patched, &from.from, &from.path)?;
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => {}
        }
        if copied > SIZE_MAX || moved > MOVED_MAX {
            return Err(too_large());
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| failed(operation, &error))?;
    }
    check_size(&patched)?;
    Ok(patched)
}

/// Refuses what would make the object deeper than it may be: nothing that walks through it later could
/// bear that, and the store could not be read again.
fn check_place(path: &Pointer, value: &Value) -> Result<(), Status> {
    if path.count() + depth(value) > RESULT_DEPTH_MAX {
        return Err(Status::bad_request(format!(
            "the patched object would be nested deeper than {RESULT_DEPTH_MAX}"
        )));
    }
    Ok(())
}

/// The same for what is there already; answers how much that is.
fn check_source(patched: &Value, from: &Pointer, path: &Pointer) -> Result<usize, Status> {
    let Some(value) = patched.pointer(from.as_str()) else { return Ok(0) };
    check_place(path, value)?;
    Ok(size(value))
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
    fn no_operations_nest_an_object_without_end() {
        let step = |op: &str, at: usize| value!({"op": op, "path": "/a".repeat(at), "value": {}});
        let added: Vec<_> = (1..=RESULT_DEPTH_MAX).map(|at| step("add", at)).collect();
        assert_eq!(json(&value!({}), &Value::Array(added)).unwrap_err().code, 400);
        // Each copy into itself doubles the depth.
        let mut doubled = vec![step("add", 1)];
        let copy = |at: usize| value!({"op": "copy", "from": "/a", "path": "/a".repeat((1 << (at - 1)) + 1)});
        doubled.extend((1..20).map(copy));
        assert_eq!(json(&value!({}), &Value::Array(doubled)).unwrap_err().code, 400);
        // What lies side by side is put one into the other.
        let places = (0..5000).map(|at| (at.to_string(), value!({"x": {"x": {"x": {}}}})));
        let wide = Value::Object(places.collect());
        let into = |at: usize| value!({"op": "move", "from": format!("/{at}"), "path": format!("/{}/x/x/x/x", at + 1)});
        let moved: Vec<_> = (0..4999).map(into).collect();
        assert_eq!(json(&wide, &Value::Array(moved)).unwrap_err().code, 400);
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
