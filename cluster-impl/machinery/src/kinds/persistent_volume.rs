//! PersistentVolume.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, age, column, keep_status, or};
use crate::defaulting::{absent, part, volume_source, zero};
use crate::validation::{
    Causes, PERSISTENT_SOURCES, claim, difference, go, is_new_spec, items, metadata, names,
    persistent_volume_source, resources, scheduling, text,
};
use crate::{Cause, Object};

const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
/// Where the class of storage stood before it had a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// PersistentVolume.
pub static PERSISTENT_VOLUME: Kind = Kind {
    id: "persistentvolumes",
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    short_names: &["pv"],
    categories: &[],
    namespaced: false,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default,
    prepare_create,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Capacity", "string", 0),
        column("Access Modes", "string", 0),
        column("Reclaim Policy", "string", 0),
        column("Status", "string", 0),
        column("Claim", "string", 0),
        column("StorageClass", "string", 0),
        column("VolumeAttributesClass", "string", 0),
        column("Reason", "string", 0),
        AGE,
        column("VolumeMode", "string", 1),
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    if let Some(status) = part(&mut object.0, "status") {
        zero(status, "phase", "Pending");
    }
    let Some(spec) = part(&mut object.0, "spec") else { return };
    zero(spec, "persistentVolumeReclaimPolicy", "Retain");
    absent(spec, "volumeMode", "Filesystem");
    volume_source(spec);
}

fn prepare_create(object: &mut Object) {
    object.set("/status", json!({"phase": "Pending"}));
    if let Some(created) = object.get("/metadata/creationTimestamp").cloned() {
        object.set("/status/lastPhaseTransitionTime", created);
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        validate_spec(&mut causes, spec);
    }
    if let Some(old) = old.map(|old| &old.0["spec"]) {
        let source = |spec: &Value| {
            let given = PERSISTENT_SOURCES.iter().map(|source| (source, &spec[*source]));
            let given = given.filter(|(_, value)| !value.is_null());
            Value::Object(given.map(|(source, value)| ((*source).into(), value.clone())).collect())
        };
        let (mut new, before) = (source(spec), source(old));
        // This secret may be added later.
        if before["csi"].is_object() && before["csi"]["controllerExpandSecretRef"].is_null()
            && let Some(csi) = new["csi"].as_object_mut()
        {
            csi.remove("controllerExpandSecretRef");
        }
        if let Some(difference) = difference(&before, &new, "spec") {
            let why = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
            causes.forbidden("spec.persistentvolumesource", &why);
        }
        causes.immutable("volumeMode", &spec["volumeMode"], &old["volumeMode"]);
        if !old["nodeAffinity"].is_null() {
            causes.immutable("nodeAffinity", &spec["nodeAffinity"], &old["nodeAffinity"]);
        }
    }
    causes.into_list()
}

fn validate_spec(causes: &mut Causes, spec: &Value) {
    let modes = &spec["accessModes"];
    if items(modes).next().is_none() {
        causes.required("spec.accessModes", "");
    }
    claim::access_modes(causes, modes, "spec.accessModes");
    capacity(causes, &spec["capacity"]);
    let policy = text(&spec["persistentVolumeReclaimPolicy"]);
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        causes.not_supported("spec.persistentVolumeReclaimPolicy", policy, POLICIES);
    }
    let affinity = &spec["nodeAffinity"];
    if affinity["required"].is_object() {
        scheduling::node_selector(causes, &affinity["required"], "spec.nodeAffinity.required");
    } else if !affinity.is_null() {
        causes.required("spec.nodeAffinity.required", "must specify required node constraints");
    }
    let source = persistent_volume_source(causes, spec, "spec");
    if source == Some("local") && affinity.is_null() {
        causes.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
    let root = spec["hostPath"]["path"].as_str().is_some_and(is_root);
    if root && policy == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        causes.forbidden("spec.persistentVolumeReclaimPolicy", why);
    }
    let class = text(&spec["storageClassName"]);
    if !class.is_empty() {
        causes.name("spec.storageClassName", class, names::dns_subdomain);
    }
    claim::volume_mode(causes, &spec["volumeMode"], "spec.volumeMode");
}

/// Whether a path comes to `/` once its dots are followed.
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn capacity(causes: &mut Causes, capacity: &Value) {
    let given = capacity.as_object();
    if given.is_none_or(serde_json::Map::is_empty) {
        causes.required("spec.capacity", "");
    }
    if capacity["storage"].is_null() || given.is_some_and(|given| given.len() > 1) {
        let shown = given.map_or_else(|| "map[]".to_owned(), go::labels);
        causes.not_supported("spec.capacity", &shown, &["storage"]);
    }
    for (name, amount) in given.into_iter().flatten() {
        resources::positive_amount(causes, amount, &format!("spec.capacity[{name}]"));
    }
}

/// Modes of access, as cells write them.
pub(super) fn short_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = short.iter().filter(|(mode, _)| modes.iter().any(|one| one == mode));
    given.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The class of storage of a volume or a claim, as a cell.
pub(super) fn class(object: &Object) -> Value {
    object.annotation(CLASS).unwrap_or_else(|| object.text("/spec/storageClassName")).into()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let claim = match object.map("/spec/claimRef") {
        Some(_) => format!(
            "{}/{}",
            object.text("/spec/claimRef/namespace"),
            object.text("/spec/claimRef/name")
        ),
        None => String::new(),
    };
    let phase =
        if object.is_terminating() { "Terminating" } else { object.text("/status/phase") };
    vec![
        object.name().into(),
        or(object.text("/spec/capacity/storage"), "0"),
        short_modes(object.list("/spec/accessModes")).into(),
        object.text("/spec/persistentVolumeReclaimPolicy").into(),
        phase.into(),
        claim.into(),
        class(object),
        or(object.text("/spec/volumeAttributesClassName"), "<unset>"),
        object.text("/status/reason").into(),
        age(object, now),
        or(object.text("/spec/volumeMode"), "<unset>"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn volume() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "pv1", "creationTimestamp": at(0).to_string()},
            "spec": {"capacity": {"storage": "3G"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/tmp/x"}},
        }));
        (PERSISTENT_VOLUME.default)(&mut object);
        (PERSISTENT_VOLUME.prepare_create)(&mut object);
        object
    }

    #[test]
    fn a_small_volume_passes_and_prints() {
        let mut object = volume();
        assert_eq!(found(&PERSISTENT_VOLUME, &object, None), [""; 0]);
        assert_eq!(
            row(&PERSISTENT_VOLUME, &object, 5),
            "pv1|3G|RWO|Retain|Pending||  |<unset>||5s|Filesystem".replace("  ", "")
        );
        object.set("/spec/claimRef", json!({"namespace": "default", "name": "c"}));
        object.set("/spec/storageClassName", "fast");
        object.set("/status/phase", "Bound");
        assert!(row(&PERSISTENT_VOLUME, &object, 5).contains("|Bound|default/c|fast|<unset>|"));
    }

    #[test]
    fn wrong_volumes_are_named() {
        type Change = fn(&mut Object);
        let cases: &[(Change, &str)] = &[
            (|o| o.set("/spec/accessModes", json!([])), "Required spec.accessModes"),
            (
                |o| o.set("/spec/capacity", json!({"storage": "1", "iops": "1"})),
                "NotSupported spec.capacity",
            ),
            (|o| o.set("/spec/capacity/storage", "0"), "Invalid spec.capacity[storage]"),
            (
                |o| o.set("/spec/persistentVolumeReclaimPolicy", "Burn"),
                "NotSupported spec.persistentVolumeReclaimPolicy",
            ),
            (
                |o| {
                    o.set("/spec/persistentVolumeReclaimPolicy", "Recycle");
                    o.set("/spec/hostPath/path", "/./");
                },
                "Forbidden spec.persistentVolumeReclaimPolicy",
            ),
            (|o| o.set("/spec/nfs", json!({"server": "a", "path": "/"})), "Forbidden spec.nfs"),
            (|o| drop(o.remove("/spec/hostPath")), "Required spec: Required value: must specify a"),
            (
                |o| {
                    o.remove("/spec/hostPath");
                    o.set("/spec/local/path", "/x");
                },
                "Required spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (|o| o.set("/spec/volumeMode", "Tape"), "NotSupported spec.volumeMode"),
        ];
        for (change, start) in cases {
            let mut object = volume();
            change(&mut object);
            let found = found(&PERSISTENT_VOLUME, &object, None);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn the_source_stays() {
        let old = volume();
        let mut new = volume();
        new.set("/spec/persistentVolumeReclaimPolicy", "Delete");
        new.set("/spec/capacity/storage", "5G");
        assert_eq!(found(&PERSISTENT_VOLUME, &new, Some(&old)), [""; 0]);
        new.set("/spec/hostPath/path", "/tmp/y");
        new.set("/spec/volumeMode", "Block");
        let lines = found(&PERSISTENT_VOLUME, &new, Some(&old));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("Forbidden spec.persistentvolumesource"), "{lines:?}");
        assert!(lines[1].starts_with("Invalid volumeMode: Invalid value: \"Block\": field is imm"));
    }
}
