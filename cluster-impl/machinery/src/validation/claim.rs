//! Validation of what a claim asks of a volume: on its own, or in a template.

use serde_json::Value;

use super::{Causes, items, metadata, names, resources, selector, text};

const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// The modes in which a volume can be used.
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Checks the spec of a claim at a field's path.
pub fn spec(causes: &mut Causes, spec: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    if items(&spec["accessModes"]).next().is_none() {
        causes.required(&at("accessModes"), "at least 1 access mode is required");
    }
    if !spec["selector"].is_null() {
        selector::validate(causes, &spec["selector"], &at("selector"));
    }
    access_modes(causes, &spec["accessModes"], &at("accessModes"));
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        causes.required(&at("resources[storage]"), "");
    } else {
        resources::positive_amount(causes, storage, &at("resources[storage]"));
    }
    for part in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(&spec[part]);
        if !class.is_empty() {
            causes.name(&at(part), class, names::dns_subdomain);
        }
    }
    volume_mode(causes, &spec["volumeMode"], &at("volumeMode"));
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    data_source(causes, source, &at("dataSource"));
    data_source(causes, reference, &at("dataSourceRef"));
    let namespace = text(&reference["namespace"]);
    if source.is_null() {
        return;
    }
    if !namespace.is_empty() {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        causes.invalid(field, at("dataSource"), why);
    } else if !reference.is_null()
        && ["apiGroup", "kind", "name"].iter().any(|part| source[*part] != reference[*part])
    {
        causes.invalid(field, at("dataSource"), "must match dataSourceRef");
    }
}

/// Checks a template of claims: its metadata may hold labels and annotations only.
pub fn template(causes: &mut Causes, template: &Value, field: &str) {
    let given = &template["metadata"];
    metadata::annotations(causes, &given["annotations"], &format!("{field}.metadata.annotations"));
    metadata::labels(causes, &given["labels"], &format!("{field}.metadata.labels"));
    for (part, value) in given.as_object().into_iter().flatten() {
        if !["annotations", "labels", "creationTimestamp"].contains(&part.as_str())
            && !value.is_null()
        {
            causes.forbidden(&format!("{field}.metadata.{part}"), "cannot be set");
        }
    }
    spec(causes, &template["spec"], &format!("{field}.spec"));
}

/// Checks modes of access; whether there are any is the caller's to check.
pub fn access_modes(causes: &mut Causes, modes: &Value, field: &str) {
    let (mut one_pod, mut others) = (false, false);
    for (_, mode) in items(modes) {
        match text(mode) {
            "ReadWriteOncePod" => one_pod = true,
            mode if ACCESS_MODES.contains(&mode) => others = true,
            mode => causes.not_supported(field, mode, ACCESS_MODES),
        }
    }
    if one_pod && others {
        causes.forbidden(field, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Checks the mode of a volume, if there is one.
pub fn volume_mode(causes: &mut Causes, mode: &Value, field: &str) {
    if !mode.is_null() && !VOLUME_MODES.contains(&text(mode)) {
        causes.not_supported(field, text(mode), VOLUME_MODES);
    }
}

fn data_source(causes: &mut Causes, source: &Value, field: &str) {
    if source.is_null() {
        return;
    }
    for part in ["name", "kind"] {
        if text(&source[part]).is_empty() {
            causes.required(&format!("{field}.{part}"), "");
        }
    }
    let (group, kind) = (text(&source["apiGroup"]), text(&source["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        causes.invalid(field, kind, why);
    }
    if !group.is_empty() {
        causes.name(&format!("{field}.apiGroup"), group, names::dns_subdomain);
    }
    let namespace = text(&source["namespace"]);
    if !namespace.is_empty() {
        causes.name(&format!("{field}.namespace"), namespace, names::dns_label);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn claims_are_checked() {
        type Change = fn(&mut Value);
        let cases: &[(Change, &str)] = &[
            (
                |s| s["accessModes"] = json!([]),
                "Required s.accessModes: Required value: at least 1",
            ),
            (|s| s["accessModes"] = json!(["Any"]), "NotSupported s.accessModes"),
            (
                |s| s["accessModes"] = json!(["ReadWriteOncePod", "ReadOnlyMany"]),
                "Forbidden s.accessModes",
            ),
            (|s| s["resources"] = json!({}), "Required s.resources[storage]: Required value"),
            (
                |s| s["resources"]["requests"]["storage"] = "0".into(),
                "Invalid s.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (|s| s["storageClassName"] = "A".into(), "Invalid s.storageClassName"),
            (|s| s["volumeMode"] = "Tape".into(), "NotSupported s.volumeMode"),
            (
                |s| s["dataSource"] = json!({"kind": "Pod", "name": "x"}),
                "Invalid s.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim'",
            ),
            (
                |s| {
                    s["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"});
                    s["dataSourceRef"] = json!({"kind": "PersistentVolumeClaim", "name": "y"});
                },
                "Invalid s: Invalid value: \"s.dataSource\": must match dataSourceRef",
            ),
        ];
        let good = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}});
        let found = |value: &Value| {
            let mut causes = Causes::new();
            spec(&mut causes, value, "s");
            lines(&causes.into_list())
        };
        assert_eq!(found(&good), [""; 0]);
        for (change, start) in cases {
            let mut value = good.clone();
            change(&mut value);
            let found = found(&value);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
        let mut causes = Causes::new();
        let named = json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": good});
        template(&mut causes, &named, "t");
        assert_eq!(
            lines(&causes.into_list()),
            ["Forbidden t.metadata.name: Forbidden: cannot be set"]
        );
    }
}
