//! Validation of where a volume comes from: exactly one source, with what that source needs. Pods and
//! PersistentVolumes share most of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, claim, env, items, names, text, volumes};
use crate::Quantity;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const PARTITION: &str = "must be between 0 and 255, inclusive";
const HOST_PATHS: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Every source of a pod's volume, in upstream's order: of several, the first counts.
const POD: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Every source of a PersistentVolume, in upstream's order.
pub(crate) const PERSISTENT: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The parts that a source must have: text that is not empty, or a list with items.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("configMap", &["name"]),
    ("csi", &["driver"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("hostPath", &["path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("local", &["path"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("secret", &["secretName"]),
    ("storageos", &["volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// Checks the source of a pod's volume at the volume's path.
pub fn pod_volume(causes: &mut Causes, volume: &Value, field: &str) {
    let Some(source) = the_one(causes, volume, POD, field) else { return };
    let (value, at) = (&volume[source], format!("{field}.{source}"));
    match source {
        "emptyDir" => {
            let limit = Quantity::from_value(&value["sizeLimit"]);
            if limit.is_some_and(|size| size.is_negative()) {
                let why = "SizeLimit field must be a valid resource quantity";
                causes.forbidden(&format!("{at}.sizeLimit"), why);
            }
        }
        "secret" | "configMap" => {
            mode(causes, &value["defaultMode"], &format!("{at}.defaultMode"));
            keys(causes, &value["items"], &format!("{at}.items"));
        }
        "downwardAPI" => {
            mode(causes, &value["defaultMode"], &format!("{at}.defaultMode"));
            for (_, file) in items(&value["items"]) {
                downward_file(causes, file, &at);
            }
        }
        "projected" => projected(causes, value, &at),
        "ephemeral" if value["volumeClaimTemplate"].is_null() => {
            causes.required(&format!("{at}.volumeClaimTemplate"), "");
        }
        "ephemeral" => {
            let template = &value["volumeClaimTemplate"];
            claim::template(causes, template, &format!("{at}.volumeClaimTemplate"));
        }
        "csi" if !value["nodePublishSecretRef"].is_null() => {
            let name = text(&value["nodePublishSecretRef"]["name"]);
            let name_at = format!("{at}.nodePublishSecretRef.name");
            causes.required_name(&name_at, name, names::dns_subdomain);
        }
        _ => {}
    }
    common(causes, source, value, &at);
}

/// Checks the source of a PersistentVolume at its spec's path; answers which it is.
pub fn persistent<'v>(causes: &mut Causes, spec: &'v Value, field: &str) -> Option<&'v str> {
    let source = the_one(causes, spec, PERSISTENT, field)?;
    let (value, at) = (&spec[source], format!("{field}.{source}"));
    if source == "csi" {
        if text(&value["volumeHandle"]).is_empty() {
            causes.required(&format!("{at}.volumeHandle"), "");
        }
        for part in [
            "controllerPublishSecretRef",
            "controllerExpandSecretRef",
            "nodePublishSecretRef",
            "nodeExpandSecretRef",
        ] {
            if !value[part].is_null() {
                let (name, namespace) =
                    (text(&value[part]["name"]), text(&value[part]["namespace"]));
                let at = format!("{at}.{part}");
                causes.required_name(&format!("{at}.name"), name, names::dns_subdomain);
                causes.required_name(&format!("{at}.namespace"), namespace, names::dns_label);
            }
        }
    }
    if value["secretNamespace"] == "" {
        causes.required(&format!("{at}.secretNamespace"), "");
    }
    common(causes, source, value, &at);
    Some(source)
}

/// The one source that is given; more than one or none is wrong.
fn the_one<'s>(
    causes: &mut Causes,
    volume: &Value,
    sources: &[&'s str],
    field: &str,
) -> Option<&'s str> {
    let mut given = sources.iter().copied().filter(|source| !volume[*source].is_null());
    let first = given.next();
    if first.is_none() {
        causes.required(field, "must specify a volume type");
    }
    for extra in given {
        causes.forbidden(&format!("{field}.{extra}"), "may not specify more than 1 volume type");
    }
    first
}

/// What pods and PersistentVolumes have in common.
fn common(causes: &mut Causes, source: &str, value: &Value, at: &str) {
    let needs = REQUIRED.iter().filter(|(name, _)| *name == source).flat_map(|(_, parts)| *parts);
    for part in needs {
        let given = &value[*part];
        if text(given).is_empty() && items(given).next().is_none() {
            causes.required(&format!("{at}.{part}"), "");
        }
    }
    let path = text(&value["path"]);
    match source {
        "hostPath" => {
            volumes::no_backsteps(causes, path, &format!("{at}.path"));
            if let Some(kind) = value["type"].as_str().filter(|kind| !HOST_PATHS.contains(kind)) {
                causes.not_supported(&format!("{at}.type"), kind, HOST_PATHS);
            }
        }
        "local" => volumes::no_backsteps(causes, path, &format!("{at}.path")),
        "nfs" if !path.starts_with('/') => {
            causes.invalid(&format!("{at}.path"), path, "must be an absolute path");
        }
        "gitRepo" => {
            volumes::descending(causes, text(&value["directory"]), &format!("{at}.directory"));
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = value["partition"].as_i64().unwrap_or_default();
            if !(0..=255).contains(&partition) {
                causes.invalid(&format!("{at}.partition"), partition, PARTITION);
            }
        }
        "iscsi" => iscsi(causes, value, at),
        "fc" => fibre_channel(causes, value, at),
        "flocker" => flocker(causes, value, at),
        "quobyte" if text(&value["registry"]).is_empty() => causes.required(
            &format!("{at}.registry"),
            "must be a host:port pair or multiple pairs separated by commas",
        ),
        "csi" => {
            let driver = text(&value["driver"]);
            if driver.len() > 63 {
                causes.too_long(&format!("{at}.driver"), 63);
            }
            for why in names::dns_subdomain(&driver.to_lowercase()) {
                causes.invalid(&format!("{at}.driver"), driver, &why);
            }
        }
        _ => {}
    }
}

fn iscsi(causes: &mut Causes, value: &Value, at: &str) {
    let iqn = text(&value["iqn"]);
    if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|start| iqn.starts_with(start)) {
        let why = "must be valid format starting with iqn, eui, or naa";
        causes.invalid(&format!("{at}.iqn"), iqn, why);
    }
    let lun = value["lun"].as_i64().unwrap_or_default();
    if !(0..=255).contains(&lun) {
        causes.invalid(&format!("{at}.lun"), lun, PARTITION);
    }
    let with_secret = value["chapAuthDiscovery"] == true || value["chapAuthSession"] == true;
    if with_secret && value["secretRef"].is_null() {
        causes.required(&format!("{at}.secretRef"), "");
    }
}

fn fibre_channel(causes: &mut Causes, value: &Value, at: &str) {
    let has = |part: &str| items(&value[part]).next().is_some();
    let field = format!("{at}.targetWWNs");
    match (has("targetWWNs"), has("wwids")) {
        (false, false) => {
            causes.required(&field, "must specify either targetWWNs or wwids, but not both");
        }
        (true, true) => causes.invalid(
            &field,
            value["targetWWNs"].clone(),
            "targetWWNs and wwids can not be specified simultaneously",
        ),
        _ => {}
    }
    if !has("targetWWNs") {
        return;
    }
    match value["lun"].as_i64() {
        None => causes.required(&format!("{at}.lun"), "lun is required if targetWWNs is specified"),
        Some(lun) if !(0..=255).contains(&lun) => {
            causes.invalid(&format!("{at}.lun"), lun, PARTITION);
        }
        Some(_) => {}
    }
}

fn flocker(causes: &mut Causes, value: &Value, at: &str) {
    let (name, uuid) = (text(&value["datasetName"]), text(&value["datasetUUID"]));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => causes.required(at, "one of datasetName and datasetUUID is required"),
        (false, false) => causes.invalid(
            at,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ),
        _ => {}
    }
    if name.contains('/') {
        causes.invalid(&format!("{at}.datasetName"), name, "must not contain '/'");
    }
}

fn mode(causes: &mut Causes, mode: &Value, field: &str) {
    if let Some(mode) = mode.as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        causes.invalid(field, mode, FILE_MODE);
    }
}

fn keys(causes: &mut Causes, list: &Value, field: &str) {
    for (index, item) in items(list) {
        let at = format!("{field}[{index}]");
        for part in ["key", "path"] {
            if text(&item[part]).is_empty() {
                causes.required(&format!("{at}.{part}"), "");
            }
        }
        volumes::file_path(causes, text(&item["path"]), &format!("{at}.path"));
        mode(causes, &item["mode"], &format!("{at}.mode"));
    }
}

fn downward_file(causes: &mut Causes, file: &Value, field: &str) {
    let path = text(&file["path"]);
    if path.is_empty() {
        causes.required(&format!("{field}.path"), "");
    }
    volumes::file_path(causes, path, &format!("{field}.path"));
    let (of_pod, of_container) = (&file["fieldRef"], &file["resourceFieldRef"]);
    if !of_pod.is_null() {
        env::field_ref(causes, of_pod, env::FILE_FIELDS, &format!("{field}.fieldRef"));
        if !of_container.is_null() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            causes.invalid(field, "resource", why);
        }
    } else if !of_container.is_null() {
        env::resource_ref(causes, of_container, true, &format!("{field}.resourceFieldRef"));
    } else {
        causes.required(field, "one of fieldRef and resourceFieldRef is required");
    }
    mode(causes, &file["mode"], &format!("{field}.mode"));
}

fn projected(causes: &mut Causes, value: &Value, at: &str) {
    mode(causes, &value["defaultMode"], &format!("{at}.defaultMode"));
    let mut paths = BTreeSet::new();
    for (index, source) in items(&value["sources"]) {
        let field = format!("{at}.sources[{index}]");
        let mut count = 0;
        for (kind, one) in
            source.as_object().into_iter().flatten().filter(|(_, one)| !one.is_null())
        {
            count += 1;
            projection(causes, kind, one, at, &format!("{field}.{kind}"));
            let own = [one].into_iter().filter(|_| kind == "clusterTrustBundle");
            for file in items(&one["items"]).map(|(_, file)| file).chain(own) {
                let path = text(&file["path"]);
                if !path.is_empty() && !paths.insert(path.to_owned()) {
                    let shown = if kind == "downwardAPI" || kind == "clusterTrustBundle" {
                        path
                    } else {
                        text(&one["name"])
                    };
                    causes.invalid(at, shown, "conflicting duplicate paths");
                }
            }
        }
        if count > 1 {
            causes.forbidden(&field, "may not specify more than 1 volume type");
        }
    }
}

/// One source of a projected volume; `at` is the volume's path, `field` its own.
fn projection(causes: &mut Causes, kind: &str, value: &Value, at: &str, field: &str) {
    match kind {
        "secret" | "configMap" => {
            if text(&value["name"]).is_empty() {
                causes.required(&format!("{field}.name"), "");
            }
            keys(causes, &value["items"], &format!("{field}.items"));
        }
        "downwardAPI" => {
            for (_, file) in items(&value["items"]) {
                downward_file(causes, file, field);
            }
        }
        "serviceAccountToken" => {
            let seconds = value["expirationSeconds"].as_i64().unwrap_or_default();
            let seconds_at = format!("{field}.expirationSeconds");
            if seconds < 600 {
                let why = "may not specify a duration less than 10 minutes";
                causes.invalid(&seconds_at, seconds, why);
            } else if seconds > 1 << 32 {
                let why = "may not specify a duration larger than 2^32 seconds";
                causes.invalid(&seconds_at, seconds, why);
            }
            let path = text(&value["path"]);
            if path.is_empty() {
                causes.required(&format!("{at}.path"), "");
            }
            volumes::file_path(causes, path, &format!("{at}.path"));
        }
        "clusterTrustBundle" => {
            let (name, signer) = (&value["name"], &value["signerName"]);
            match (name.is_null(), signer.is_null()) {
                (false, false) => {
                    let why = "only one of name and signerName may be used";
                    causes.invalid(field, value.clone(), why);
                }
                (true, true) => {
                    causes.required(field, "either name or signerName must be specified");
                }
                _ => {}
            }
            let path = text(&value["path"]);
            if path.is_empty() {
                causes.required(&format!("{field}.path"), "");
            }
            volumes::file_path(causes, path, &format!("{field}.path"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    fn found(check: impl Fn(&mut Causes, &Value), volume: &Value) -> Vec<String> {
        let mut causes = Causes::new();
        check(&mut causes, volume);
        lines(&causes.into_list())
    }

    #[test]
    fn sources_of_pods() {
        for (volume, starts) in [
            (json!({"emptyDir": {"sizeLimit": "1Gi"}}), vec![]),
            (json!({}), vec!["Required v: Required value: must specify a volume type"]),
            (
                json!({"emptyDir": {}, "secret": {"secretName": "s"}}),
                vec!["Forbidden v.secret: Forbidden: may not specify more than 1 volume type"],
            ),
            (json!({"emptyDir": {"sizeLimit": "-1"}}), vec!["Forbidden v.emptyDir.sizeLimit"]),
            (
                json!({"persistentVolumeClaim": {}}),
                vec!["Required v.persistentVolumeClaim.claimName"],
            ),
            (
                json!({"hostPath": {"path": "/a", "type": "Tape"}}),
                vec!["NotSupported v.hostPath.type"],
            ),
            (
                json!({"nfs": {"server": "a", "path": "b"}}),
                vec!["Invalid v.nfs.path: Invalid value: \"b\": must be an absolute path"],
            ),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 512, "items": [{"key": "a",
                    "path": "..a"}]}}),
                vec!["Invalid v.secret.defaultMode", "Invalid v.secret.items[0].path"],
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "a", "fieldRef": {"apiVersion": "v1",
                    "fieldPath": "status.podIP"}}]}}),
                vec!["NotSupported v.downwardAPI.fieldRef.fieldPath"],
            ),
            (
                json!({"projected": {"sources": [
                    {"configMap": {"name": "c", "items": [{"key": "a", "path": "x"}]}},
                    {"secret": {"name": "s", "items": [{"key": "a", "path": "x"}]}},
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}},
                    {"configMap": {"name": "c"}, "secret": {"name": "s"}}]}}),
                vec![
                    "Invalid v.projected: Invalid value: \"s\": conflicting duplicate paths",
                    "Invalid v.projected.sources[2].serviceAccountToken.expirationSeconds",
                    "Forbidden v.projected.sources[3]",
                ],
            ),
            (json!({"ephemeral": {}}), vec!["Required v.ephemeral.volumeClaimTemplate"]),
            (json!({"csi": {"driver": "A_b"}}), vec!["Invalid v.csi.driver"]),
            (json!({"rbd": {"image": "x"}}), vec!["Required v.rbd.monitors"]),
            (
                json!({"iscsi": {"targetPortal": "a", "iqn": "x", "lun": 256, "chapAuthSession": true}}),
                vec!["Invalid v.iscsi.iqn", "Invalid v.iscsi.lun", "Required v.iscsi.secretRef"],
            ),
            (json!({"fc": {"targetWWNs": ["a"]}}), vec!["Required v.fc.lun"]),
            (json!({"flocker": {}}), vec!["Required v.flocker"]),
        ] {
            let found = found(|causes, volume| pod_volume(causes, volume, "v"), &volume);
            assert_eq!(found.len(), starts.len(), "{volume}: {found:?}");
            for (line, start) in found.iter().zip(starts) {
                assert!(line.starts_with(start), "{start}: {found:?}");
            }
        }
    }

    #[test]
    fn sources_of_persistent_volumes() {
        for (spec, starts) in [
            (json!({"hostPath": {"path": "/a"}, "capacity": {}}), vec![]),
            (json!({"local": {"path": "/a/../b"}}), vec!["Invalid s.local.path"]),
            (
                json!({"csi": {"driver": "a", "nodePublishSecretRef": {"name": "s"}}}),
                vec![
                    "Required s.csi.volumeHandle",
                    "Required s.csi.nodePublishSecretRef.namespace",
                ],
            ),
            (
                json!({"emptyDir": {}}),
                vec!["Required s: Required value: must specify a volume type"],
            ),
        ] {
            let check = |causes: &mut Causes, spec: &Value| {
                persistent(causes, spec, "s");
            };
            let found = found(check, &spec);
            assert_eq!(found.len(), starts.len(), "{spec}: {found:?}");
            assert!(
                found.iter().zip(starts).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }
}
