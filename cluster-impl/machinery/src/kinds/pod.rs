//! Pod.

use serde_json::Value;

use super::{Column, Kind};
use crate::{Cause, Object};

/// Pod.
pub static POD: Kind = Kind {
    id: "pods",
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
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
