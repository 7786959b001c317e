//! Validation of a pod's volumes and of the mounts of its containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, items, names, text};

/// The fields that a source must have, by the source's name.
const REQUIRED: &[(&str, &str)] = &[
    ("hostPath", "path"),
    ("configMap", "name"),
    ("secret", "secretName"),
    ("persistentVolumeClaim", "claimName"),
    ("nfs", "server"),
    ("nfs", "path"),
    ("csi", "driver"),
];

/// Checks a list of volumes; answers their names.
pub fn validate<'v>(causes: &mut Causes, volumes: &'v Value, field: &str) -> BTreeSet<&'v str> {
    let mut known = BTreeSet::new();
    for (index, volume) in items(volumes) {
        let field = format!("{field}[{index}]");
        let name = text(&volume["name"]);
        causes.required_name(&format!("{field}.name"), name, names::dns_label);
        if !name.is_empty() && !known.insert(name) {
            causes.duplicate(&format!("{field}.name"), name);
        }
        source(causes, volume, &field);
    }
    known
}

fn source(causes: &mut Causes, volume: &Value, field: &str) {
    let sources: Vec<&str> = volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| *name != "name" && !value.is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    if sources.is_empty() {
        causes.required(field, "must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        causes.forbidden(&format!("{field}.{extra}"), "may not specify more than 1 volume type");
    }
    for (source, part) in REQUIRED.iter().filter(|(source, _)| sources.contains(source)) {
        if text(&volume[*source][*part]).is_empty() {
            causes.required(&format!("{field}.{source}.{part}"), "");
        }
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        let mode = &volume[source]["defaultMode"];
        if mode.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
            causes.invalid(
                &format!("{field}.{source}.defaultMode"),
                mode.clone(),
                "must be a number between 0 and 0777 (octal), both inclusive",
            );
        }
    }
    if sources.contains(&"hostPath") && text(&volume["hostPath"]["path"]).split('/').any(is_up) {
        causes.invalid(
            &format!("{field}.hostPath.path"),
            text(&volume["hostPath"]["path"]),
            "must not contain '..'",
        );
    }
}

fn is_up(part: &str) -> bool {
    part == ".."
}

/// Checks the mounts of one container against the volumes of its pod.
pub fn mounts(causes: &mut Causes, mounts: &Value, volumes: &BTreeSet<&str>, field: &str) {
    let mut paths = BTreeSet::new();
    for (index, mount) in items(mounts) {
        let field = format!("{field}[{index}]");
        let (name, path) = (text(&mount["name"]), text(&mount["mountPath"]));
        if name.is_empty() {
            causes.required(&format!("{field}.name"), "");
        } else if !volumes.contains(name) {
            causes.not_found(&format!("{field}.name"), name);
        }
        if path.is_empty() {
            causes.required(&format!("{field}.mountPath"), "");
        } else if !paths.insert(path) {
            causes.invalid(&format!("{field}.mountPath"), path, "must be unique");
        }
        let sub_path = text(&mount["subPath"]);
        if sub_path.starts_with('/') {
            causes.invalid(&format!("{field}.subPath"), sub_path, "must be a relative path");
        } else if sub_path.split('/').any(is_up) {
            causes.invalid(&format!("{field}.subPath"), sub_path, "must not contain '..'");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn volumes_and_mounts() {
        let volumes = json!([
            {"name": "a", "emptyDir": {}},
            {"name": "a", "hostPath": {"path": "/x/../y"}},
            {"name": "B", "emptyDir": {}},
            {"name": "c", "emptyDir": {}, "secret": {"secretName": "s"}},
            {"name": "d", "persistentVolumeClaim": {}},
        ]);
        let mounted = json!([
            {"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/a"},
            {"name": "z", "mountPath": "/z"}, {"name": "c"},
        ]);
        let mut causes = Causes::new();
        let known = validate(&mut causes, &volumes, "v");
        mounts(&mut causes, &mounted, &known, "m");
        let found = lines(&causes.into_list());
        let starts = [
            "Duplicate v[1].name: Duplicate value: \"a\"",
            "Invalid v[1].hostPath.path",
            "Invalid v[2].name",
            "Forbidden v[3].secret: Forbidden: may not specify more than 1 volume type",
            "Required v[4].persistentVolumeClaim.claimName",
            "Invalid m[1].mountPath: Invalid value: \"/a\": must be unique",
            "NotFound m[2].name: Not found: \"z\"",
            "Required m[3].mountPath",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        for (line, start) in found.iter().zip(starts) {
            assert!(line.starts_with(start), "{line} / {start}");
        }
    }
}
