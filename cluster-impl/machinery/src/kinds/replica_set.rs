//! ReplicaSet.

use serde_json::Value;

use super::{Column, Kind};
use crate::{Cause, Object};

/// ReplicaSet.
pub static REPLICA_SET: Kind = Kind {
    id: "replicasets.apps",
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: true,
    has_generation: true,
    selectable: &[],
    default,
    validate,
    columns: &[Column { name: "Name", format: "string", priority: 0 }],
    cells,
};

fn default(_object: &mut Object) {}

fn validate(_object: &Object, _old: Option<&Object>) -> Vec<Cause> {
    Vec::new()
}

fn cells(object: &Object, _now: jiff::Timestamp) -> Vec<Value> {
    vec![object.name().into()]
}
