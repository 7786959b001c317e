//! ConfigMap.

use serde_json::Value;

use super::{Column, Kind};
use crate::{Cause, Object};

/// ConfigMap.
pub static CONFIG_MAP: Kind = Kind {
    id: "configmaps",
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    has_generation: false,
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
