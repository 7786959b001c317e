//! CSIDriver.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, PLAIN, age, column, or};
use crate::defaulting::{absent, part};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const MODES: &[&str] = &["Persistent", "Ephemeral"];
const NAME_BYTES_MAX: usize = 63;

/// CSIDriver.
pub static CSI_DRIVER: Kind = Kind {
    id: "csidrivers.storage.k8s.io",
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    namespaced: false,
    default,
    validate,
    columns: &[
        NAME,
        column("AttachRequired", "boolean", 0),
        column("PodInfoOnMount", "boolean", 0),
        column("StorageCapacity", "boolean", 0),
        column("TokenRequests", "string", 0),
        column("RequiresRepublish", "boolean", 0),
        column("Modes", "string", 0),
        AGE,
    ],
    cells,
    ..PLAIN
};

fn default(object: &mut Object) {
    let Some(spec) = part(&mut object.0, "spec") else { return };
    absent(spec, "attachRequired", true);
    for flag in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        absent(spec, flag, false);
    }
    absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if items(&spec["volumeLifecycleModes"]).next().is_none() {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

/// Checks the name of a driver.
pub(super) fn name(causes: &mut Causes, field: &str, name: &str) {
    if name.is_empty() {
        causes.required(field, "");
    }
    if name.len() > NAME_BYTES_MAX {
        causes.too_long(field, NAME_BYTES_MAX);
    }
    for why in names::dns_subdomain(&name.to_lowercase()) {
        causes.invalid(field, name, &why);
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    // The first path is upstream's own slip.
    for (field, path) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
        ("seLinuxMount", "seLinuxMount"),
    ] {
        if spec[field].is_null() {
            causes.required(&format!("spec.{path}"), "");
        }
    }
    if let Some(policy) = spec["fsGroupPolicy"].as_str().filter(|one| !POLICIES.contains(one)) {
        causes.not_supported("spec.fsGroupPolicy", policy, POLICIES);
    }
    tokens(&mut causes, &spec["tokenRequests"]);
    for (_, mode) in items(&spec["volumeLifecycleModes"]) {
        if !MODES.contains(&text(mode)) {
            causes.not_supported("spec.volumeLifecycleModes", text(mode), MODES);
        }
    }
    if let Some(period) =
        spec["nodeAllocatableUpdatePeriodSeconds"].as_i64().filter(|period| *period < 10)
    {
        let field = "spec.nodeAllocatableUpdatePeriodSeconds";
        causes.invalid(field, period, "must be greater than or equal to 10 seconds");
    }
    if let Some(old) = old {
        let old = &old.0["spec"];
        causes.immutable("spec.attachedRequired", &spec["attachRequired"], &old["attachRequired"]);
        let modes = "volumeLifecycleModes";
        causes.immutable("spec.volumeLifecycleModes", &spec[modes], &old[modes]);
    }
    causes.into_list()
}

fn tokens(causes: &mut Causes, requests: &Value) {
    let mut audiences = BTreeSet::new();
    for (index, request) in items(requests) {
        let field = format!("spec.tokenRequests[{index}]");
        let audience = text(&request["audience"]);
        if !audiences.insert(audience) {
            causes.duplicate(&format!("{field}.audience"), audience);
            continue;
        }
        let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
        let field = format!("{field}.expirationSeconds");
        if seconds < 600 {
            causes.invalid(&field, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            causes.invalid(&field, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &object.0["spec"];
    let flag = |name: &str, otherwise: bool| spec[name].as_bool().unwrap_or(otherwise);
    let tokens = match spec["tokenRequests"].as_array() {
        None => "<unset>".to_owned(),
        Some(list) => {
            list.iter().map(|one| text(&one["audience"])).collect::<Vec<_>>().join(",")
        }
    };
    let modes: Vec<_> = items(&spec["volumeLifecycleModes"]).map(|(_, mode)| text(mode)).collect();
    vec![
        object.name().into(),
        flag("attachRequired", true).into(),
        flag("podInfoOnMount", false).into(),
        flag("storageCapacity", false).into(),
        tokens.into(),
        flag("requiresRepublish", false).into(),
        or(&modes.join(","), "<none>"),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn driver(spec: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "disk.example.com", "creationTimestamp": at(0).to_string()},
            "spec": spec,
        }));
        (CSI_DRIVER.default)(&mut object);
        object
    }

    #[test]
    fn drivers_are_defaulted_checked_and_printed() {
        let good = driver(json!({}));
        assert_eq!(found(&CSI_DRIVER, &good, None), [""; 0]);
        assert_eq!(
            row(&CSI_DRIVER, &good, 5),
            "disk.example.com|true|false|false|<unset>|false|Persistent|5s"
        );
        for (spec, line) in [
            (json!({"fsGroupPolicy": "All"}), "NotSupported spec.fsGroupPolicy: Unsupported \
                value: \"All\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\""),
            (json!({"tokenRequests": [{"audience": "a"}, {"audience": "a"}]}),
                "Duplicate spec.tokenRequests[1].audience: Duplicate value: \"a\""),
            (json!({"tokenRequests": [{"audience": "a", "expirationSeconds": 1}]}),
                "Invalid spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not \
                 specify a duration less than 10 minutes"),
            (json!({"volumeLifecycleModes": ["Some"]}), "NotSupported spec.volumeLifecycleModes: \
                Unsupported value: \"Some\": supported values: \"Persistent\", \"Ephemeral\""),
        ] {
            assert_eq!(found(&CSI_DRIVER, &driver(spec), None), [line]);
        }
        assert_eq!(
            found(&CSI_DRIVER, &driver(json!({"attachRequired": false})), Some(&good)),
            ["Invalid spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }
}
