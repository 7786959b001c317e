//! PersistentVolumeClaim.

use serde_json::{Value, json};

use super::persistent_volume::{class, short_modes};
use super::{AGE, Kind, NAME, age, column, keep_status, or};
use crate::defaulting::{absent, part, zero};
use crate::validation::{
    Causes, claim, difference, is_new_spec, items, metadata, names, resources, status_change, text,
};
use crate::{Cause, Object, Quantity};

const SIZE: &str = "/spec/resources/requests/storage";
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

/// PersistentVolumeClaim.
pub static PERSISTENT_VOLUME_CLAIM: Kind = Kind {
    id: "persistentvolumeclaims",
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    short_names: &["pvc"],
    categories: &[],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |object| default_value(&mut object.0),
    prepare_create,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Status", "string", 0),
        column("Volume", "string", 0),
        column("Capacity", "string", 0),
        column("Access Modes", "string", 0),
        column("StorageClass", "string", 0),
        column("VolumeAttributesClass", "string", 0),
        AGE,
        column("VolumeMode", "string", 1),
    ],
    cells,
    custom: None,
};

/// Sets the defaults of a claim, or of a template of claims.
pub(super) fn default_value(claim: &mut Value) {
    if let Some(status) = part(claim, "status") {
        zero(status, "phase", "Pending");
    }
    if let Some(spec) = part(claim, "spec") {
        absent(spec, "volumeMode", "Filesystem");
    }
}

/// The two fields that name a source of data say the same.
fn prepare_create(object: &mut Object) {
    object.set("/status", json!({"phase": "Pending"}));
    let (source, reference) =
        (object.0["spec"]["dataSource"].clone(), object.0["spec"]["dataSourceRef"].clone());
    if source.is_object() && reference.is_null() {
        object.set("/spec/dataSourceRef", source);
    } else if source.is_null() && reference.is_object() && text(&reference["namespace"]).is_empty() {
        object.set("/spec/dataSource", reference);
        object.remove("/spec/dataSource/namespace");
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    if is_new_spec(object, old) {
        claim::spec(&mut causes, &object.0["spec"], "spec");
    }
    if let Some(old) = old {
        update(&mut causes, object, old);
    }
    if let Some((status, _)) = status_change(object, old) {
        validate_status(&mut causes, status);
    }
    causes.into_list()
}

fn update(causes: &mut Causes, object: &Object, old: &Object) {
    let (new, mut wanted) = (&object.0["spec"], old.0["spec"].clone());
    let mut may_change = |field: &str, when: bool| {
        if when && wanted.is_object() {
            wanted[field] = new[field].clone();
        }
    };
    may_change("volumeName", old.text("/spec/volumeName").is_empty());
    may_change("storageClassName", old.get("/spec/storageClassName").is_none());
    may_change("volumeAttributesClassName", true);
    if object.text("/status/phase") == "Bound" && let Some(size) = object.get(SIZE) {
        let mut claim = Object(json!({ "spec": wanted }));
        claim.set(SIZE, size.clone());
        wanted = claim.0["spec"].take();
    }
    if let Some(difference) = difference(&wanted, new, "spec") {
        let why = format!(
            "spec is immutable after creation except resources.requests and \
             volumeAttributesClassName for bound claims\n{difference}"
        );
        causes.forbidden("spec", &why);
    }
    let size = |object: &Object, pointer: &str| {
        object.get(pointer).and_then(Quantity::from_value).unwrap_or_default()
    };
    let (wanted, before) = (size(object, SIZE), size(old, SIZE));
    if wanted < before && wanted <= size(old, "/status/capacity/storage") {
        let why = "field can not be less than status.capacity";
        causes.forbidden("spec.resources.requests.storage", why);
    }
    causes.immutable("volumeMode", &new["volumeMode"], &old.0["spec"]["volumeMode"]);
}

fn validate_status(causes: &mut Causes, status: &Value) {
    for part in ["capacity", "allocatedResources"] {
        for (name, amount) in status[part].as_object().into_iter().flatten() {
            resources::amount(causes, name, amount, &format!("status.{part}[{name}]"));
        }
    }
    for (_, state) in status["allocatedResourceStatuses"].as_object().into_iter().flatten() {
        if !RESIZE_STATES.contains(&text(state)) {
            causes.not_supported("status.allocatedResourceStatus", text(state), RESIZE_STATES);
        }
    }
    for (index, condition) in items(&status["conditions"]) {
        let field = format!("status.conditions[{index}].type");
        causes.name(&field, text(&condition["type"]), names::qualified_name);
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let phase =
        if object.is_terminating() { "Terminating" } else { object.text("/status/phase") };
    let volume = object.text("/spec/volumeName");
    let (capacity, modes) = match volume {
        "" => (Value::from(""), String::new()),
        _ => (
            or(object.text("/status/capacity/storage"), "0"),
            short_modes(object.list("/status/accessModes")),
        ),
    };
    vec![
        object.name().into(),
        phase.into(),
        volume.into(),
        capacity,
        modes.into(),
        class(object),
        or(object.text("/spec/volumeAttributesClassName"), "<unset>"),
        age(object, now),
        or(object.text("/spec/volumeMode"), "<unset>"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn claim() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "data", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                "resources": {"requests": {"storage": "1G"}}},
        }));
        (PERSISTENT_VOLUME_CLAIM.default)(&mut object);
        (PERSISTENT_VOLUME_CLAIM.prepare_create)(&mut object);
        object
    }

    fn bound() -> Object {
        let mut object = claim();
        object.set("/spec/volumeName", "pv1");
        object.set("/status", json!({"phase": "Bound", "capacity": {"storage": "1G"},
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}));
        object
    }

    #[test]
    fn a_claim_prints_what_it_got() {
        assert_eq!(found(&PERSISTENT_VOLUME_CLAIM, &claim(), None), [""; 0]);
        assert_eq!(
            row(&PERSISTENT_VOLUME_CLAIM, &claim(), 5),
            "data|Pending||||fast|<unset>|5s|Filesystem"
        );
        assert_eq!(
            row(&PERSISTENT_VOLUME_CLAIM, &bound(), 5),
            "data|Bound|pv1|1G|RWO,ROX|fast|<unset>|5s|Filesystem"
        );
    }

    #[test]
    fn sources_of_data_say_the_same() {
        let source = json!({"kind": "PersistentVolumeClaim", "name": "old"});
        for field in ["dataSource", "dataSourceRef"] {
            let mut object = claim();
            object.set(&format!("/spec/{field}"), source.clone());
            (PERSISTENT_VOLUME_CLAIM.prepare_create)(&mut object);
            assert_eq!(object.0["spec"]["dataSource"], source);
            assert_eq!(object.0["spec"]["dataSourceRef"], source);
        }
    }

    #[test]
    fn a_claim_is_bound_once_and_may_grow() {
        type Old = fn() -> Object;
        type Change = fn(&mut Object);
        let cases: &[(Old, Change, &str)] = &[
            (claim, |o| o.set("/spec/volumeName", "pv1"), ""),
            (bound, |o| o.set("/spec/volumeName", "pv2"), "Forbidden spec: Forbidden: spec is imm"),
            (bound, |o| o.set(SIZE, "2G"), ""),
            (claim, |o| o.set(SIZE, "2G"), "Forbidden spec: "),
            (
                bound,
                |o| o.set(SIZE, "500M"),
                "Forbidden spec.resources.requests.storage: Forbidden: field can not be less than \
                 status.capacity",
            ),
            (bound, |o| o.set("/spec/accessModes", json!(["ReadOnlyMany"])), "Forbidden spec: "),
            (bound, |o| o.set("/spec/storageClassName", "slow"), "Forbidden spec: "),
        ];
        for (old, change, start) in cases {
            let mut new = old();
            change(&mut new);
            let found = found(&PERSISTENT_VOLUME_CLAIM, &new, Some(&old()));
            assert_eq!(found.len(), usize::from(!start.is_empty()), "{found:?}");
            assert!(found.iter().all(|line| line.starts_with(start)), "{start}: {found:?}");
        }
    }
}
