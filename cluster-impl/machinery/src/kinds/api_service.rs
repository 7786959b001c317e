//! APIService: who serves a group's version.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, PLAIN, age, column, create_without_status, keep_status};
use crate::defaulting::{absent, empty, inside};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

/// APIService.
pub static API_SERVICE: Kind = Kind {
    id: "apiservices.apiregistration.k8s.io",
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    categories: &["api-extensions"],
    namespaced: false,
    has_status: true,
    default: |object| {
        absent(&mut object.0, "status", empty());
        let service = inside(&mut object.0, "spec").and_then(|spec| inside(spec, "service"));
        if let Some(service) = service {
            absent(service, "port", 443);
        }
    },
    prepare_create: |object| {
        create_without_status(object);
        if object.map("/spec/service").is_none() {
            // What the server serves itself is there as long as the server is.
            let since = object.get("/metadata/creationTimestamp").cloned().unwrap_or_default();
            let condition = json!({"type": "Available", "status": "True", "reason": "Local",
                "lastTransitionTime": since,
                "message": "Local APIServices are always available"});
            object.set("/status/conditions", json!([condition]));
        }
    },
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Service", "string", 0),
        column("Available", "string", 0),
        AGE,
    ],
    cells,
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::path_segment);
    let spec = &object.0["spec"];
    let (group, version) = (text(&spec["group"]), text(&spec["version"]));
    let wanted = format!("{version}.{group}");
    if !object.name().is_empty() && object.name() != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        causes.invalid("metadata.name", object.name(), &why);
    }
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        causes.required("spec.group", why);
    }
    if !group.is_empty() {
        causes.name("spec.group", group, names::dns_subdomain);
    }
    causes.name("spec.version", version, names::dns_1035_label);
    for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let number = spec[field].as_i64().unwrap_or_default();
        if !(1..=most).contains(&number) {
            let why = format!("must be positive and less than {most}");
            causes.invalid(&format!("spec.{field}"), number, &why);
        }
    }
    let (bundle, skips) = (text(&spec["caBundle"]), spec["insecureSkipTLSVerify"] == true);
    const SKIPS: &str = "spec.insecureSkipTLSVerify";
    if spec["service"].is_null() {
        if !bundle.is_empty() {
            let bytes = format!("{} bytes", bundle.len() / 4 * 3);
            causes.invalid("spec.caBundle", bytes, "local APIServices may not have a caBundle");
        }
        if skips {
            causes.invalid(SKIPS, true, "local APIServices may not have insecureSkipTLSVerify");
        }
    } else {
        for part in ["namespace", "name"] {
            if text(&spec["service"][part]).is_empty() {
                causes.required(&format!("spec.service.{part}"), "");
            }
        }
        if skips && !bundle.is_empty() {
            causes.invalid(SKIPS, true, "may not be true if caBundle is present");
        }
    }
    for (index, condition) in items(&object.0["status"]["conditions"]) {
        let status = text(&condition["status"]);
        if !["True", "False", "Unknown"].contains(&status) {
            let field = format!("status.conditions[{index}].status");
            causes.not_supported(&field, status, &["True", "False", "Unknown"]);
        }
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let service = match object.map("/spec/service") {
        None => "Local".to_owned(),
        Some(_) => {
            let part = |name: &str| object.text(&format!("/spec/service/{name}"));
            format!("{}/{}", part("namespace"), part("name"))
        }
    };
    let available = match object.condition("Available") {
        None => "Unknown".to_owned(),
        Some(condition) if condition["status"] == "True" => "True".to_owned(),
        Some(condition) => {
            format!("{} ({})", text(&condition["status"]), text(&condition["reason"]))
        }
    };
    vec![object.name().into(), service.into(), available.into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    #[test]
    fn services_are_checked_and_printed() {
        let service = |name: &str, changes: Value| {
            let mut spec = json!({"group": "metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": {"name": "metrics", "namespace": "kube-system"}});
            spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let mut object = Object(json!({
                "metadata": {"name": name, "creationTimestamp": at(0).to_string()}, "spec": spec,
            }));
            (API_SERVICE.default)(&mut object);
            object
        };
        const GOOD: &str = "v1beta1.metrics.k8s.io";
        let good = service(GOOD, json!({}));
        assert_eq!(good.integer("/spec/service/port"), Some(443));
        assert_eq!(found(&API_SERVICE, &good, None), [""; 0]);
        assert_eq!(row(&API_SERVICE, &good, 5), format!("{GOOD}|kube-system/metrics|Unknown|5s"));
        for (object, start) in [
            (service("other", json!({})), "Invalid metadata.name: Invalid value: \"other\": must be \
                `spec.version+\".\"+spec.group`: \"v1beta1.metrics.k8s.io\""),
            (service(GOOD, json!({"versionPriority": 0})), "Invalid spec.versionPriority"),
            (service(GOOD, json!({"service": null, "insecureSkipTLSVerify": true})),
                "Invalid spec.insecureSkipTLSVerify"),
            (service(GOOD, json!({"service": {"name": "a"}})), "Required spec.service.namespace"),
        ] {
            let found = found(&API_SERVICE, &object, None);
            assert!(found.len() == 1 && found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
