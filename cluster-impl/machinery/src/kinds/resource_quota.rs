//! ResourceQuota.

use serde_json::Value;

use super::{AGE, Kind, NAME, age, column, keep_status};
use crate::defaulting::{absent, empty};
use crate::validation::{
    Causes, go, is_new_spec, items, metadata, names, quota, status_change, text,
};
use crate::{Cause, Object};

/// ResourceQuota.
pub static RESOURCE_QUOTA: Kind = Kind {
    id: "resourcequotas",
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    short_names: &["quota"],
    categories: &[],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |object| absent(&mut object.0, "status", empty()),
    prepare_create: |object| object.set("/status", empty()),
    prepare_update: keep_status,
    validate,
    columns: &[NAME, AGE, column("Request", "string", 0), column("Limit", "string", 0)],
    cells,
    custom: None,
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        quota::amounts(&mut causes, &spec["hard"], "spec.hard");
        quota::scopes(&mut causes, spec);
    }
    if let Some(old) = old {
        let sorted = |object: &Object| {
            let scopes = items(&object.0["spec"]["scopes"]).map(|(_, one)| text(one).to_owned());
            let mut scopes: Vec<_> = scopes.collect();
            scopes.sort();
            scopes.dedup();
            scopes
        };
        if sorted(object) != sorted(old) {
            let shown = go::texts("core.ResourceQuotaScope", &spec["scopes"]);
            causes.invalid_as("spec.scopes", &shown, "field is immutable");
        }
    }
    if let Some((status, _)) = status_change(object, old) {
        quota::amounts(&mut causes, &status["hard"], "status.hard");
        quota::amounts(&mut causes, &status["used"], "status.used");
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let mut hard: Vec<_> = object.map("/status/hard").into_iter().flatten().collect();
    hard.sort_by_key(|(name, _)| *name);
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in hard {
        let used = object.0["status"]["used"][name].as_str().unwrap_or("0");
        let list = if name.starts_with("limits.") { &mut limits } else { &mut requests };
        list.push(format!("{name}: {used}/{}", text(hard)));
    }
    vec![
        object.name().into(),
        age(object, now),
        requests.join(", ").into(),
        limits.join(", ").into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn quota() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "compute", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"hard": {"pods": "10", "requests.cpu": "4", "limits.memory": "10Gi"},
                "scopes": ["NotTerminating"]},
        }));
        (RESOURCE_QUOTA.prepare_create)(&mut object);
        object
    }

    #[test]
    fn a_quota_prints_what_is_used() {
        let mut object = quota();
        assert_eq!(found(&RESOURCE_QUOTA, &object, None), [""; 0]);
        assert_eq!(row(&RESOURCE_QUOTA, &object, 5), "compute|5s||");
        object.set("/status", json!({"used": {"pods": "3"},
            "hard": {"requests.cpu": "4", "pods": "10", "limits.memory": "10Gi"}}));
        assert_eq!(found(&RESOURCE_QUOTA, &object, Some(&quota())), [""; 0]);
        assert_eq!(
            row(&RESOURCE_QUOTA, &object, 5),
            "compute|5s|pods: 3/10, requests.cpu: 0/4|limits.memory: 0/10Gi"
        );
    }

    #[test]
    fn scopes_stay() {
        let mut new = quota();
        new.set("/spec/scopes", json!(["BestEffort"]));
        new.set("/spec/hard", json!({"pods": "11"}));
        assert_eq!(
            found(&RESOURCE_QUOTA, &new, Some(&quota())),
            ["Invalid spec.scopes: Invalid value: []core.ResourceQuotaScope{\"BestEffort\"}: field \
              is immutable"]
        );
    }
}
