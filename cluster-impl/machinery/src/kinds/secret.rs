//! Secret.

use serde_json::Value;

use super::{Column, Kind};
use crate::{Cause, Object};

/// Secret.
pub static SECRET: Kind = Kind {
    id: "secrets",
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    short_names: &[],
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
