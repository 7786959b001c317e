//! Validation of a pod's volumes, and of the mounts and devices of its containers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Causes, items, names, text, volume_sources};

/// Volumes by name.
pub type Volumes<'v> = BTreeMap<&'v str, &'v Value>;

/// Checks a list of volumes; answers the good ones. `pod` is the pod's name, "" if it has none yet.
pub fn validate<'v>(
    causes: &mut Causes,
    volumes: &'v Value,
    pod: &str,
    field: &str,
) -> Volumes<'v> {
    let mut known = Volumes::new();
    for (index, volume) in items(volumes) {
        let field = format!("{field}[{index}]");
        let name = text(&volume["name"]);
        let before = causes.count();
        volume_sources::pod_volume(causes, volume, &field);
        if !volume["ephemeral"].is_null() && !pod.is_empty() && !name.is_empty() {
            let claim = format!("{pod}-{name}");
            for why in names::dns_subdomain(&claim) {
                let why = format!("PVC name {claim:?}: {why}");
                causes.invalid(&format!("{field}.name"), name, &why);
            }
        }
        causes.required_name(&format!("{field}.name"), name, names::dns_label);
        if known.contains_key(name) {
            causes.duplicate(&format!("{field}.name"), name);
        }
        if causes.count() == before {
            known.insert(name, volume);
        }
    }
    known
}

/// Checks `volumeMounts` and `volumeDevices` of one container against the volumes of its pod.
pub fn uses(causes: &mut Causes, container: &Value, volumes: &Volumes<'_>, field: &str) {
    let used = |list: &str, path: &str| {
        let names = items(&container[list]).map(|(_, one)| text(&one["name"])).collect();
        (names, items(&container[list]).map(|(_, one)| text(&one[path])).collect())
    };
    let (mounts, devices) =
        (used("volumeMounts", "mountPath"), used("volumeDevices", "devicePath"));
    mount_list(causes, container, volumes, &devices, &format!("{field}.volumeMounts"));
    device_list(
        causes,
        &container["volumeDevices"],
        volumes,
        &mounts,
        &format!("{field}.volumeDevices"),
    );
}

/// The volumes that a list names, and the paths where they are.
type Used<'v> = (BTreeSet<&'v str>, BTreeSet<&'v str>);

fn mount_list(
    causes: &mut Causes,
    container: &Value,
    volumes: &Volumes<'_>,
    (devices, device_paths): &Used<'_>,
    list: &str,
) {
    let mut paths = BTreeSet::new();
    for (index, mount) in items(&container["volumeMounts"]) {
        let field = format!("{list}[{index}]");
        let (name, path) = (text(&mount["name"]), text(&mount["mountPath"]));
        if name.is_empty() {
            causes.required(&format!("{field}.name"), "");
        }
        if !volumes.contains_key(name) {
            causes.not_found(&format!("{field}.name"), name);
        }
        if path.is_empty() {
            causes.required(&format!("{field}.mountPath"), "");
        }
        if !paths.insert(path) {
            causes.invalid(&format!("{field}.mountPath"), path, "must be unique");
        }
        if devices.contains(name) {
            let why = "must not already exist in volumeDevices";
            causes.invalid(&format!("{field}.name"), name, why);
        }
        if device_paths.contains(path) {
            let why = "must not already exist as a path in volumeDevices";
            causes.invalid(&format!("{field}.mountPath"), path, why);
        }
        // Upstream leaves the place in the list out of the fields that follow.
        let (sub_path, expression) = (text(&mount["subPath"]), text(&mount["subPathExpr"]));
        descending(causes, sub_path, &format!("{list}.subPath"));
        if !sub_path.is_empty() && !expression.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            causes.invalid(&format!("{field}.subPathExpr"), expression, why);
        }
        descending(causes, expression, &format!("{list}.subPathExpr"));
        propagation(causes, container, mount, list);
    }
}

fn propagation(causes: &mut Causes, container: &Value, mount: &Value, list: &str) {
    const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
    let field = format!("{list}.mountPropagation");
    let mode = mount["mountPropagation"].as_str();
    if let Some(mode) = mode.filter(|mode| !MODES.contains(mode)) {
        causes.not_supported(&field, mode, MODES);
    }
    if mode == Some("Bidirectional") && container["securityContext"]["privileged"] != true {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        causes.forbidden(&field, why);
    }
    let field = format!("{list}.recursiveReadOnly");
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                causes.forbidden(&field, "may only be specified when readOnly is true");
            }
            if mode.is_some_and(|mode| mode != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                causes.forbidden(&field, why);
            }
        }
        Some(other) => {
            causes.not_supported(&field, other, &["Disabled", "Enabled", "IfPossible"]);
        }
    }
}

fn device_list(
    causes: &mut Causes,
    devices: &Value,
    volumes: &Volumes<'_>,
    (mounts, mount_paths): &Used<'_>,
    list: &str,
) {
    let (mut paths, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in items(devices) {
        let field = format!("{list}[{index}]");
        let (name, path) = (text(&device["name"]), text(&device["devicePath"]));
        let (name_at, path_at) = (format!("{field}.name"), format!("{field}.devicePath"));
        if name.is_empty() {
            causes.required(&name_at, "");
        }
        if !seen.insert(name) {
            causes.invalid(&name_at, name, "must be unique");
        }
        match volumes.get(name) {
            None => causes.not_found(&name_at, name),
            Some(volume)
                if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() =>
            {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral \
                           for block mode";
                causes.invalid(&name_at, name, why);
            }
            Some(_) => {}
        }
        if path.is_empty() {
            causes.required(&path_at, "");
        }
        if !paths.insert(path) {
            causes.invalid(&path_at, path, "must be unique");
        }
        if path.split('/').any(is_up) {
            causes.invalid(&path_at, path, "can not contain backsteps ('..')");
        }
        if mounts.contains(name) {
            causes.invalid(&name_at, name, "must not already exist in volumeMounts");
        }
        if mount_paths.contains(path) {
            causes.invalid(&path_at, path, "must not already exist as a path in volumeMounts");
        }
    }
}

fn is_up(part: &str) -> bool {
    part == ".."
}

/// Checks that a path is relative and does not lead upwards.
pub fn descending(causes: &mut Causes, path: &str, field: &str) {
    if path.starts_with('/') {
        causes.invalid(field, path, "must be a relative path");
    }
    no_backsteps(causes, path, field);
}

/// Checks that a path does not lead upwards.
pub fn no_backsteps(causes: &mut Causes, path: &str, field: &str) {
    if path.split('/').any(is_up) {
        causes.invalid(field, path, "must not contain '..'");
    }
}

/// Checks the path of a file inside a volume: names that start with two dots are the kubelet's.
pub fn file_path(causes: &mut Causes, path: &str, field: &str) {
    descending(causes, path, field);
    if path.starts_with("..") && !path.starts_with("../") {
        causes.invalid(field, path, "must not start with '..'");
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
            {"name": "p", "persistentVolumeClaim": {"claimName": "p"}},
        ]);
        let container = json!({
            "volumeMounts": [
                {"name": "a", "mountPath": "/a"},
                {"name": "a", "mountPath": "/a", "subPath": "/x"},
                {"name": "z", "mountPath": "/z", "mountPropagation": "Bidirectional"},
                {"name": "p", "mountPath": "/p"},
            ],
            "volumeDevices": [{"name": "p", "devicePath": "/dev/x"}, {"name": "a", "devicePath": "/a"}],
        });
        let mut causes = Causes::new();
        let known = validate(&mut causes, &volumes, "", "v");
        uses(&mut causes, &container, &known, "c");
        let found = lines(&causes.into_list());
        let starts = [
            "Invalid v[1].hostPath.path: Invalid value: \"/x/../y\": must not contain '..'",
            "Duplicate v[1].name: Duplicate value: \"a\"",
            "Invalid v[2].name",
            "Invalid c.volumeMounts[0].name: Invalid value: \"a\": must not already exist in",
            "Invalid c.volumeMounts[0].mountPath: Invalid value: \"/a\": must not already exist as",
            "Invalid c.volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "Invalid c.volumeMounts[1].name",
            "Invalid c.volumeMounts[1].mountPath: Invalid value: \"/a\": must not already exist as",
            "Invalid c.volumeMounts.subPath: Invalid value: \"/x\": must be a relative path",
            "NotFound c.volumeMounts[2].name: Not found: \"z\"",
            "Forbidden c.volumeMounts.mountPropagation",
            "Invalid c.volumeMounts[3].name",
            "Invalid c.volumeDevices[0].name",
            "Invalid c.volumeDevices[1].name: Invalid value: \"a\": can only use volume source",
            "Invalid c.volumeDevices[1].name: Invalid value: \"a\": must not already exist in",
            "Invalid c.volumeDevices[1].devicePath",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (line, start) in found.iter().zip(starts) {
            assert!(line.starts_with(start), "{line} / {start}");
        }
    }
}
