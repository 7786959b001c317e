//! StatefulSet.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, age, column, containers, keep_status, persistent_volume_claim};
use crate::defaulting::{absent, each, part, template, zero};
use crate::validation::{
    Causes, difference, go, is_new_spec, metadata, names, share, status_change, text, workload,
};
use crate::{Cause, Object};

/// The fields of a spec that may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// StatefulSet.
pub static STATEFUL_SET: Kind = Kind {
    id: "statefulsets.apps",
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    short_names: &["sts"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: true,
    subresources: &[],
    has_generation: true,
    selectable: &[],
    default,
    prepare_create,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Ready", "string", 0),
        AGE,
        column("Containers", "string", 1),
        column("Images", "string", 1),
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    absent(&mut object.0, "status", json!({"replicas": 0, "availableReplicas": 0}));
    let Some(spec) = part(&mut object.0, "spec") else { return };
    zero(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = part(spec, "updateStrategy") {
        if text(&strategy["type"]).is_empty() {
            zero(strategy, "type", "RollingUpdate");
            part(strategy, "rollingUpdate");
        }
        if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
            absent(&mut strategy["rollingUpdate"], "partition", 0);
        }
    }
    if let Some(policy) = part(spec, "persistentVolumeClaimRetentionPolicy") {
        zero(policy, "whenDeleted", "Retain");
        zero(policy, "whenScaled", "Retain");
    }
    absent(spec, "replicas", 1);
    absent(spec, "revisionHistoryLimit", 10);
    for claim in each(spec, "volumeClaimTemplates") {
        if claim.is_object() {
            // Upstream stores the templates as whole objects.
            zero(claim, "apiVersion", "v1");
            zero(claim, "kind", "PersistentVolumeClaim");
            persistent_volume_claim::default_value(claim);
        }
    }
    template(spec);
}

fn prepare_create(object: &mut Object) {
    object.set("/status", json!({"replicas": 0, "availableReplicas": 0}));
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    // Names were looser once, so only new ones must make names of pods.
    let rule = if old.is_none() { names::dns_label } else { names::dns_subdomain };
    metadata::validate(&mut causes, object, old, true, rule);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        validate_spec(&mut causes, spec);
        let service = text(&spec["serviceName"]);
        if old.is_none() && !service.is_empty() {
            causes.name("spec.serviceName", service, names::dns_label);
        }
    }
    if let Some(old) = old {
        let mut wanted = old.0["spec"].clone();
        for field in MUTABLE {
            wanted[*field] = spec[*field].clone();
        }
        if difference(&wanted, spec, "spec").is_some() {
            causes.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                 'template', 'updateStrategy', 'revisionHistoryLimit', \
                 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }
    if let Some((status, before)) = status_change(object, old) {
        let counts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        workload::replica_counts(&mut causes, status, &counts, "status.readyReplicas");
        causes.not_negative("status.collisionCount", &status["collisionCount"]);
        causes.collisions(status, before);
    }
    causes.into_list()
}

fn validate_spec(causes: &mut Causes, spec: &Value) {
    match text(&spec["podManagementPolicy"]) {
        "" => causes.required("spec.podManagementPolicy", ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            let why = "must be 'OrderedReady' or 'Parallel'";
            causes.invalid("spec.podManagementPolicy", other, why);
        }
    }
    strategy(causes, &spec["updateStrategy"]);
    for part in ["whenDeleted", "whenScaled"] {
        let field = format!("spec.persistentVolumeClaimRetentionPolicy.{part}");
        let policy = text(&spec["persistentVolumeClaimRetentionPolicy"][part]);
        if !["Retain", "Delete"].contains(&policy) {
            causes.not_supported(&field, policy, &["Retain", "Delete"]);
        }
    }
    causes.not_negative("spec.replicas", &spec["replicas"]);
    causes.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    causes.not_negative("spec.ordinals.start", &spec["ordinals"]["start"]);
    workload::required_selector(causes, spec, "StatefulSet");
    workload::template_is_selected(causes, spec);
    // As upstream: the rest of the template is looked at when pods are made of it, for only then it is
    // known which volumes they have.
    workload::template_metadata(causes, &spec["template"], "spec.template");
    let pod = &spec["template"]["spec"];
    workload::restarted_always(causes, pod, "spec.template.spec", "StatefulSet");
}

fn strategy(causes: &mut Causes, strategy: &Value) {
    const FIELD: &str = "spec.updateStrategy";
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "" => causes.required(FIELD, ""),
        "OnDelete" if !rolling.is_null() => causes.invalid(
            &format!("{FIELD}.rollingUpdate"),
            rolling.clone(),
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        "OnDelete" => {}
        "RollingUpdate" => {
            causes.not_negative(&format!("{FIELD}.rollingUpdate.partition"), &rolling["partition"]);
            let unavailable = &rolling["maxUnavailable"];
            if !unavailable.is_null() {
                let field = format!("{FIELD}.rollingUpdate.maxUnavailable");
                share::number_or_percent(causes, unavailable, &field);
                if share::amount(unavailable) == 0 {
                    causes.invalid_as(&field, &go::int_or_string(unavailable), "cannot be 0");
                }
                share::at_most_100_percent(causes, unavailable, &field);
            }
        }
        _ => causes.invalid(FIELD, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let ready = object.integer("/status/readyReplicas").unwrap_or_default();
    let wanted = object.integer("/spec/replicas").unwrap_or_default();
    let mut cells =
        vec![object.name().into(), format!("{ready}/{wanted}").into(), age(object, now)];
    cells.extend(containers(&object.0["spec"]["template"]));
    cells
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn set() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "db", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "a", "image": "x",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1G"}}}}]},
        }));
        (STATEFUL_SET.default)(&mut object);
        (STATEFUL_SET.prepare_create)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = set();
        assert_eq!(found(&STATEFUL_SET, &object, None), [""; 0]);
        assert_eq!(object.text("/spec/podManagementPolicy"), "OrderedReady");
        assert_eq!(
            object.0["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            object.0["spec"]["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        let claim = &object.0["spec"]["volumeClaimTemplates"][0];
        assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
        assert_eq!((&claim["kind"], &claim["status"]["phase"]), (
            &json!("PersistentVolumeClaim"),
            &json!("Pending")
        ));
        assert_eq!(object.0["status"], json!({"replicas": 0, "availableReplicas": 0}));
        assert_eq!(row(&STATEFUL_SET, &object, 5), "db|0/1|5s|a|x");
    }

    #[test]
    fn wrong_sets_are_named() {
        type Change = fn(&mut Object);
        let cases: &[(Change, &str)] = &[
            (|o| o.set("/metadata/name", "a.b"), "Invalid metadata.name"),
            (|o| o.set("/spec/serviceName", "A"), "Invalid spec.serviceName"),
            (
                |o| o.set("/spec/podManagementPolicy", "Any"),
                "Invalid spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or",
            ),
            (|o| o.set("/spec/updateStrategy/type", "OnDelete"), "Invalid spec.updateStrategy.rolling"),
            (|o| o.set("/spec/updateStrategy/type", "Blue"), "Invalid spec.updateStrategy"),
            (
                |o| o.set("/spec/updateStrategy/rollingUpdate/partition", -1),
                "Invalid spec.updateStrategy.rollingUpdate.partition",
            ),
            (
                |o| o.set("/spec/persistentVolumeClaimRetentionPolicy/whenScaled", "Ask"),
                "NotSupported spec.persistentVolumeClaimRetentionPolicy.whenScaled",
            ),
            (
                |o| o.set("/spec/selector", json!({})),
                "Invalid spec.selector: Invalid value: v1.LabelSelector{MatchLabels:\
                 map[string]string(nil), MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: empty \
                 selector is invalid for statefulset",
            ),
            (
                |o| o.set("/spec/template/metadata/labels", json!({"app": "api"})),
                "Invalid spec.template.metadata.labels",
            ),
            (
                |o| o.set("/spec/template/spec/restartPolicy", "Never"),
                "NotSupported spec.template.spec.restartPolicy",
            ),
        ];
        for (change, start) in cases {
            let mut object = set();
            change(&mut object);
            let found = found(&STATEFUL_SET, &object, None);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn only_some_of_it_may_change() {
        let old = set();
        let mut new = set();
        new.set("/spec/replicas", 3);
        new.set("/spec/template/spec/terminationGracePeriodSeconds", 5);
        new.set("/spec/revisionHistoryLimit", 2);
        assert_eq!(found(&STATEFUL_SET, &new, Some(&old)), [""; 0]);
        new.set("/spec/serviceName", "other");
        let lines = found(&STATEFUL_SET, &new, Some(&old));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("Forbidden spec: Forbidden: updates to statefulset spec for"));
    }
}
