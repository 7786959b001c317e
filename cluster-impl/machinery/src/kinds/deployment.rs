//! Deployment.

use serde_json::{Value, json};

use super::{
    AGE, Kind, NAME, age, column, containers, create_without_status, keep_status, selector,
};
use crate::defaulting::{absent, empty, part, template, zero};
use crate::validation::{
    Causes, go, is_new_spec, metadata, names, share, status_change, text, workload,
};
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
    subresources: &[],
    has_generation: true,
    selectable: &[],
    default,
    prepare_create: create_without_status,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Ready", "string", 0),
        column("Up-to-date", "string", 0),
        column("Available", "string", 0),
        AGE,
        column("Containers", "string", 1),
        column("Images", "string", 1),
        column("Selector", "string", 1),
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    absent(&mut object.0, "status", empty());
    let Some(spec) = part(&mut object.0, "spec") else { return };
    absent(spec, "replicas", 1);
    absent(spec, "revisionHistoryLimit", 10);
    absent(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = part(spec, "strategy") {
        zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = part(strategy, "rollingUpdate")
        {
            absent(rolling, "maxUnavailable", "25%");
            absent(rolling, "maxSurge", "25%");
        }
    }
    template(spec);
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        causes.not_negative("spec.replicas", &spec["replicas"]);
        workload::selector_and_template(&mut causes, spec, "Deployment");
        strategy(&mut causes, &spec["strategy"]);
        times(&mut causes, spec);
    }
    if let Some(old) = old {
        workload::selector_immutable(&mut causes, spec, &old.0["spec"]);
    }
    if let Some((status, before)) = status_change(object, old) {
        let counts =
            ["updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
        workload::replica_counts(&mut causes, status, &counts, "readyReplicas");
        causes.not_negative("status.collisionCount", &status["collisionCount"]);
        causes.collisions(status, before);
    }
    causes.into_list()
}

fn times(causes: &mut Causes, spec: &Value) {
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        causes.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or_default()
    {
        causes.invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        );
    }
}

fn strategy(causes: &mut Causes, strategy: &Value) {
    const FIELD: &str = "spec.strategy.rollingUpdate";
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "Recreate" if !rolling.is_null() => causes.forbidden(
            FIELD,
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let unavailable_at = format!("{FIELD}.maxUnavailable");
            share::number_or_percent(causes, unavailable, &unavailable_at);
            share::number_or_percent(causes, surge, &format!("{FIELD}.maxSurge"));
            if share::amount(unavailable) == 0 && share::amount(surge) == 0 {
                let shown = go::int_or_string(unavailable);
                causes.invalid_as(&unavailable_at, &shown, "may not be 0 when `maxSurge` is 0");
            }
            share::at_most_100_percent(causes, unavailable, &unavailable_at);
        }
        other => {
            causes.not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]);
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let count = |field: &str| object.integer(&format!("/status/{field}")).unwrap_or_default();
    let wanted = object.integer("/spec/replicas").unwrap_or_default();
    let mut cells = vec![
        object.name().into(),
        json!(format!("{}/{wanted}", count("readyReplicas"))),
        count("updatedReplicas").into(),
        count("availableReplicas").into(),
        age(object, now),
    ];
    cells.extend(containers(&object.0["spec"]["template"]));
    cells.push(selector(object.get("/spec/selector")));
    cells
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn deployment() -> Object {
        let mut object = Object(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "app", "image": "nginx:1"}]}},
            },
        }));
        (DEPLOYMENT.default)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = deployment();
        assert_eq!(object.integer("/spec/replicas"), Some(1));
        assert_eq!(
            object.0["spec"]["strategy"],
            json!({"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(object.integer("/spec/progressDeadlineSeconds"), Some(600));
        assert_eq!(object.text("/spec/template/spec/restartPolicy"), "Always");
        assert_eq!(object.get("/spec/template/spec/enableServiceLinks"), None);
        assert_eq!(found(&DEPLOYMENT, &object, None), [""; 0]);
    }

    #[test]
    fn wrong_deployments_are_named() {
        type Change = fn(&mut Object);
        let cases: &[(Change, &str)] = &[
            (|o| o.set("/spec/replicas", -1), "Invalid spec.replicas"),
            (|o| o.set("/spec/template/metadata/labels", json!({"app": "api"})),
                "Invalid spec.template.metadata.labels: Invalid value: \
                 map[string]string{\"app\":\"api\"}: `selector` does not match template `labels`"),
            (|o| o.set("/spec/selector", json!({})), "Invalid spec.selector: Invalid value: \
                 v1.LabelSelector{MatchLabels:map[string]string(nil), \
                 MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: empty selector is invalid \
                 for deployment"),
            (|o| o.set("/spec/strategy/type", "Recreate"), "Forbidden spec.strategy.rollingUpdate"),
            (|o| o.set("/spec/strategy/type", "Blue"), "NotSupported spec.strategy.type"),
            (|o| o.set("/spec/strategy/rollingUpdate", json!({"maxUnavailable": 0, "maxSurge": 0})),
                "Invalid spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \
                 intstr.IntOrString{Type:0, IntVal:0, StrVal:\"\"}: may not be 0 when `maxSurge` is 0"),
            (|o| o.set("/spec/strategy/rollingUpdate/maxUnavailable", "101%"),
                "Invalid spec.strategy.rollingUpdate.maxUnavailable"),
            (|o| o.set("/spec/template/spec/activeDeadlineSeconds", 5),
                "Forbidden spec.template.spec.activeDeadlineSeconds: Forbidden: \
                 activeDeadlineSeconds in ReplicaSet is not Supported"),
            (|o| o.set("/spec/strategy/rollingUpdate/maxSurge", "a lot"),
                "Invalid spec.strategy.rollingUpdate.maxSurge"),
            (|o| o.set("/spec/template/spec/restartPolicy", "Never"),
                "NotSupported spec.template.spec.restartPolicy"),
            (|o| o.set("/spec/minReadySeconds", 600), "Invalid spec.progressDeadlineSeconds"),
        ];
        for (change, start) in cases {
            let mut object = deployment();
            change(&mut object);
            let found = found(&DEPLOYMENT, &object, None);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn the_selector_stays() {
        let old = deployment();
        let mut new = deployment();
        new.set("/spec/selector/matchLabels/tier", "front");
        new.set("/spec/template/metadata/labels/tier", "front");
        let found = found(&DEPLOYMENT, &new, Some(&old));
        assert_eq!(found.len(), 1);
        assert!(found[0].ends_with("field is immutable"), "{found:?}");
    }

    #[test]
    fn prints_as_kubectl() {
        let mut object = deployment();
        object.set("/status", json!({"readyReplicas": 1, "updatedReplicas": 2}));
        object.set("/spec/replicas", 3);
        assert_eq!(row(&DEPLOYMENT, &object, 125), "web|1/3|2|0|2m5s|app|nginx:1|app=web");
    }
}
