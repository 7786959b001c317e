//! Validation of `metadata`, the same for every kind but for the rule of the name.
//!
//! Limits: the annotations of one object hold at most [`ANNOTATIONS_BYTES_MAX`] bytes.

use serde_json::Value;

use super::{Causes, items, names, text};
use crate::Object;

/// Keys and values of annotations together may not be larger.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Checks `metadata` of an object, and against the old one for an update.
pub fn validate(
    causes: &mut Causes,
    object: &Object,
    old: Option<&Object>,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) {
    let metadata = &object.0["metadata"];
    validate_name(causes, metadata, name_rule);
    let namespace = object.namespace();
    if namespaced && namespace.is_empty() {
        causes.required("metadata.namespace", "");
    } else if namespaced {
        causes.name("metadata.namespace", namespace, names::dns_label);
    } else if !namespace.is_empty() {
        causes.forbidden("metadata.namespace", "not allowed on this type");
    }
    causes.not_negative("metadata.generation", &metadata["generation"]);
    labels(causes, &metadata["labels"], "metadata.labels");
    annotations(causes, &metadata["annotations"], "metadata.annotations");
    owners(causes, &metadata["ownerReferences"]);
    for (index, finalizer) in items(&metadata["finalizers"]) {
        let field = format!("metadata.finalizers[{index}]");
        let name = text(finalizer);
        causes.name(&field, name, names::qualified_name);
        if !name.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&name) {
            causes.invalid(
                &field,
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    if let Some(old) = old {
        update(causes, metadata, &old.0["metadata"]);
    }
}

fn validate_name(causes: &mut Causes, metadata: &Value, rule: fn(&str) -> Vec<String>) {
    let (name, generate) = (text(&metadata["name"]), text(&metadata["generateName"]));
    if !generate.is_empty() {
        // The suffix that is added makes a trailing dash right.
        let stem = format!("{}x", generate.trim_end_matches('-'));
        for why in rule(&stem) {
            causes.invalid("metadata.generateName", generate, &why);
        }
    }
    if !name.is_empty() {
        causes.name("metadata.name", name, rule);
    } else if generate.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    }
}

/// Checks a map of labels at a field's path.
pub fn labels(causes: &mut Causes, labels: &Value, field: &str) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        causes.name(field, key, names::qualified_name);
        causes.name(field, text(value), names::label_value);
    }
}

/// Checks a map of annotations at a field's path.
pub fn annotations(causes: &mut Causes, annotations: &Value, field: &str) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for why in names::qualified_name(&key.to_lowercase()) {
            causes.invalid(field, key.as_str(), &why);
        }
        bytes += key.len() + text(value).len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.too_long(field, ANNOTATIONS_BYTES_MAX);
    }
}

fn owners(causes: &mut Causes, owners: &Value) {
    let mut controller: Option<String> = None;
    for (index, owner) in items(owners) {
        let field = format!("metadata.ownerReferences[{index}]");
        let name = format!("{}/{}", text(&owner["kind"]), text(&owner["name"]));
        for (part, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(&owner[part]).is_empty() {
                causes.invalid(&format!("{field}.{part}"), "", why);
            }
        }
        if owner["controller"] != true {
            continue;
        }
        if let Some(first) = &controller {
            causes.invalid(
                "metadata.ownerReferences",
                owners.clone(),
                &format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {name}"
                ),
            );
        }
        controller.get_or_insert(name);
    }
}

fn update(causes: &mut Causes, new: &Value, old: &Value) {
    for part in ["name", "namespace", "uid", "creationTimestamp"] {
        causes.immutable(&format!("metadata.{part}"), &new[part], &old[part]);
    }
    if old["deletionTimestamp"].is_string() {
        let known = |finalizer: &Value| items(&old["finalizers"]).any(|(_, one)| one == finalizer);
        let added: Vec<_> = items(&new["finalizers"])
            .filter(|(_, finalizer)| !known(finalizer))
            .map(|(_, finalizer)| format!("{:?}", text(finalizer)))
            .collect();
        if !added.is_empty() {
            causes.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    if let (Some(new), Some(old)) = (new["generation"].as_i64(), old["generation"].as_i64())
        && new < old
    {
        causes.invalid("metadata.generation", new, "must not be decremented");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    fn check(metadata: &Value, old: Option<&Value>) -> Vec<String> {
        let object = Object(json!({ "metadata": metadata }));
        let old = old.map(|old| Object(json!({ "metadata": old })));
        let mut causes = Causes::new();
        validate(&mut causes, &object, old.as_ref(), true, names::dns_subdomain);
        lines(&causes.into_list())
    }

    #[test]
    fn good_metadata_passes() {
        for metadata in [
            json!({"name": "web", "namespace": "default", "labels": {"app": "web", "a/b": ""},
                "annotations": {"Example.com/A": "any text"}, "finalizers": ["x.io/y"]}),
            json!({"generateName": "web-", "namespace": "default"}),
        ] {
            assert_eq!(check(&metadata, None), Vec::<String>::new());
        }
    }

    #[test]
    fn wrong_metadata_is_named() {
        for (metadata, start) in [
            (
                json!({"namespace": "d"}),
                "Required metadata.name: Required value: name or generateName is required",
            ),
            (
                json!({"name": "Web", "namespace": "d"}),
                "Invalid metadata.name: Invalid value: \"Web\"",
            ),
            (json!({"generateName": "Web-", "namespace": "d"}), "Invalid metadata.generateName"),
            (json!({"name": "w"}), "Required metadata.namespace"),
            (json!({"name": "w", "namespace": "a.b"}), "Invalid metadata.namespace"),
            (
                json!({"name": "w", "namespace": "d", "labels": {"a b": "c"}}),
                "Invalid metadata.labels: Invalid value: \"a b\": name part must consist",
            ),
            (
                json!({"name": "w", "namespace": "d", "labels": {"a": "b c"}}),
                "Invalid metadata.labels: Invalid value: \"b c\": a valid label must be",
            ),
            (
                json!({"name": "w", "namespace": "d", "finalizers": ["x"]}),
                "Invalid metadata.finalizers[0]",
            ),
            (
                json!({"name": "w", "namespace": "d",
                "annotations": {"a": "x".repeat(ANNOTATIONS_BYTES_MAX)}}),
                "TooLong metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
            (
                json!({"name": "w", "namespace": "d", "ownerReferences": [{"apiVersion": "v1",
                "kind": "Pod", "name": "a"}]}),
                "Invalid metadata.ownerReferences[0].uid",
            ),
        ] {
            let found = check(&metadata, None);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{found:?}");
        }
    }

    #[test]
    fn identity_does_not_change() {
        let old = json!({"name": "w", "namespace": "d", "uid": "1",
            "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let mut new = old.clone();
        assert_eq!(check(&new, Some(&old)), Vec::<String>::new());
        new["uid"] = "2".into();
        new["finalizers"] = json!(["x.io/y"]);
        let found = check(&new, Some(&old));
        assert_eq!(found[0], "Invalid metadata.uid: Invalid value: \"2\": field is immutable");
        assert!(found[1].contains("[]string{\"x.io/y\"}"), "{found:?}");
    }
}
