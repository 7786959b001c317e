//! Namespace.

use serde_json::Value;

use super::{Column, Kind};
use crate::{Cause, Object};

/// Namespace.
pub static NAMESPACE: Kind = Kind {
    id: "namespaces",
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
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
