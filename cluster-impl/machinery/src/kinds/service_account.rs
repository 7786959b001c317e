//! ServiceAccount.

use serde_json::Value;

use super::{AGE, Kind, NAME, Subresource, age, column, create_as_is, update_as_is};
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object};

/// ServiceAccount.
pub static SERVICE_ACCOUNT: Kind = Kind {
    id: "serviceaccounts",
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[Subresource {
        name: "token",
        kind: "TokenRequest",
        group: "authentication.k8s.io",
        verbs: &["create"],
    }],
    has_generation: false,
    selectable: &[],
    default: |_| {},
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, column("Secrets", "string", 0), AGE],
    cells,
    custom: None,
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.list("/secrets").len().into(), age(object, now)]
}
