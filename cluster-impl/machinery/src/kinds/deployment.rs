//! Deployment.

use serde_json::Value;

use super::{Column, Kind};
use crate::{Cause, Object};

/// Deployment.
pub static DEPLOYMENT: Kind = Kind {
    id: "deployments.apps",
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    short_names: &["deploy"],
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
