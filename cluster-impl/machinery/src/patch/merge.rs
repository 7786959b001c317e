//! JSON merge patch (RFC 7386): maps are merged, null deletes, everything else is replaced.

use serde_json::Value;

use super::{check_depth, check_size};
use crate::Status;

/// The value with a merge patch applied.
pub fn merge(original: &Value, patch: &Value) -> Result<Value, Status> {
    check_depth(patch)?;
    if !patch.is_object() {
        return Err(Status::bad_request("a merge patch is a JSON object"));
    }
    let mut merged = original.clone();
    json_patch::merge(&mut merged, patch);
    check_size(&merged)?;
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges_as_rfc_7386() {
        let original = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "list": [1, 2]});
        for (patch, expected) in [
            (json!({}), original.clone()),
            (
                json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
                json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "list": [1, 2]}),
            ),
            (json!({"list": [3], "metadata": null}), json!({"list": [3]})),
            (
                json!({"new": {"x": null, "y": 1}, "metadata": null, "list": null}),
                json!({"new": {"y": 1}}),
            ),
        ] {
            assert_eq!(merge(&original, &patch).unwrap(), expected, "{patch}");
        }
        assert_eq!(merge(&original, &json!([])).unwrap_err().code, 400);
    }
}
