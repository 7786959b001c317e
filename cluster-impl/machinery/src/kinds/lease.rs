//! Lease.

use serde_json::Value;

use super::{AGE, Kind, NAME, age, column, create_as_is, update_as_is};
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object};

/// Lease.
pub static LEASE: Kind = Kind {
    id: "leases.coordination.k8s.io",
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |_| {},
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, column("Holder", "string", 0), AGE],
    cells,
    custom: None,
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    if let Some(seconds) = object.integer("/spec/leaseDurationSeconds").filter(|n| *n <= 0) {
        causes.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
    }
    if let Some(count) = object.integer("/spec/leaseTransitions").filter(|n| *n < 0) {
        causes.invalid("spec.leaseTransitions", count, "must be greater than or equal to 0");
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.text("/spec/holderIdentity").into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn durations_are_positive() {
        let mut lease = Object::new("coordination.k8s.io/v1", "Lease", "kube-system", "l");
        lease.set("/spec/leaseDurationSeconds", 15);
        assert_eq!(found(&LEASE, &lease, None), [""; 0]);
        lease.set("/spec/leaseDurationSeconds", 0);
        lease.set("/spec/leaseTransitions", -1);
        assert_eq!(found(&LEASE, &lease, None).len(), 2);
    }
}
