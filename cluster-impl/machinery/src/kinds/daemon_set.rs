//! DaemonSet.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, age, column, containers, keep_status, labels, selector};
use crate::defaulting::{absent, part, template, zero};
use crate::validation::{
    Causes, go, is_new_spec, metadata, names, share, status_change, text, workload,
};
use crate::{Cause, Object};

/// Where apps/v1 keeps how often the template has changed.
const TEMPLATE_GENERATION: &str =
    "/metadata/annotations/deprecated.daemonset.template.generation";

/// DaemonSet.
pub static DAEMON_SET: Kind = Kind {
    id: "daemonsets.apps",
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    short_names: &["ds"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: true,
    selectable: &[],
    default,
    prepare_create,
    prepare_update,
    validate,
    columns: &[
        NAME,
        column("Desired", "integer", 0),
        column("Current", "integer", 0),
        column("Ready", "integer", 0),
        column("Up-to-date", "integer", 0),
        column("Available", "integer", 0),
        column("Node Selector", "string", 0),
        AGE,
        column("Containers", "string", 1),
        column("Images", "string", 1),
        column("Selector", "string", 1),
    ],
    cells,
    custom: None,
};

fn no_status() -> Value {
    json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
        "numberReady": 0})
}

fn default(object: &mut Object) {
    absent(&mut object.0, "status", no_status());
    let Some(spec) = part(&mut object.0, "spec") else { return };
    if let Some(strategy) = part(spec, "updateStrategy") {
        zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = part(strategy, "rollingUpdate")
        {
            absent(rolling, "maxUnavailable", 1);
            absent(rolling, "maxSurge", 0);
        }
    }
    absent(spec, "revisionHistoryLimit", 10);
    template(spec);
}

fn prepare_create(object: &mut Object) {
    object.set("/status", no_status());
    object.set(TEMPLATE_GENERATION, "1");
}

/// The generation of the template is the server's to count.
fn prepare_update(object: &mut Object, old: &Object) {
    keep_status(object, old);
    let before: i64 = old.text(TEMPLATE_GENERATION).parse().unwrap_or(1);
    let is_changed = object.get("/spec/template") != old.get("/spec/template");
    object.set(TEMPLATE_GENERATION, (before + i64::from(is_changed)).to_string());
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        workload::selector_and_template(&mut causes, spec, "DaemonSet");
        causes.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
        strategy(&mut causes, &spec["updateStrategy"]);
        causes.not_negative("spec.revisionHistoryLimit", &spec["revisionHistoryLimit"]);
    }
    if let Some(old) = old {
        workload::selector_immutable(&mut causes, spec, &old.0["spec"]);
    }
    if let Some((status, before)) = status_change(object, old) {
        causes.counts(
            status,
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ],
        );
        causes.collisions(status, before);
    }
    causes.into_list()
}

fn strategy(causes: &mut Causes, strategy: &Value) {
    const FIELD: &str = "spec.updateStrategy";
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => {
            causes.required(&format!("{FIELD}.rollingUpdate"), "");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let at = |part: &str| format!("{FIELD}.rollingUpdate.{part}");
            for (value, part) in [(unavailable, "maxUnavailable"), (surge, "maxSurge")] {
                share::number_or_percent(causes, value, &at(part));
                share::at_most_100_percent(causes, value, &at(part));
            }
            match (share::amount(unavailable) != 0, share::amount(surge) != 0) {
                (true, true) => causes.invalid_as(
                    &at("maxSurge"),
                    &go::int_or_string(surge),
                    "may not be set when maxUnavailable is non-zero",
                ),
                (false, false) => {
                    causes.required(&at("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        other => causes.not_supported(FIELD, other, &["RollingUpdate", "OnDelete"]),
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let mut cells = vec![object.name().into()];
    for count in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        cells.push(object.integer(&format!("/status/{count}")).unwrap_or_default().into());
    }
    let template = &object.0["spec"]["template"];
    cells.extend([labels(&template["spec"]["nodeSelector"]), age(object, now)]);
    cells.extend(containers(template));
    cells.push(selector(object.get("/spec/selector")));
    cells
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn set() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "log", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": {
                "metadata": {"labels": {"app": "log"}},
                "spec": {"nodeSelector": {"disk": "ssd"},
                    "containers": [{"name": "a", "image": "x"}]}}},
        }));
        (DAEMON_SET.default)(&mut object);
        (DAEMON_SET.prepare_create)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = set();
        assert_eq!(found(&DAEMON_SET, &object, None), [""; 0]);
        assert_eq!(
            object.0["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(row(&DAEMON_SET, &object, 5), "log|0|0|0|0|0|disk=ssd|5s|a|x|app=log");
    }

    #[test]
    fn a_changed_template_is_counted() {
        let old = set();
        let mut new = set();
        new.set("/spec/template/spec/terminationGracePeriodSeconds", 5);
        new.set(TEMPLATE_GENERATION, "7");
        (DAEMON_SET.prepare_update)(&mut new, &old);
        assert_eq!(new.text(TEMPLATE_GENERATION), "2");
        let mut same = old.clone();
        (DAEMON_SET.prepare_update)(&mut same, &old);
        assert_eq!(same, old);
    }

    #[test]
    fn wrong_sets_are_named() {
        type Change = fn(&mut Object);
        let cases: &[(Change, &str)] = &[
            (|o| o.set("/spec/updateStrategy", json!({"type": "Blue"})), "NotSupported spec.update"),
            (
                |o| o.set("/spec/updateStrategy/rollingUpdate/maxSurge", 1),
                "Invalid spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \
                 intstr.IntOrString{Type:0, IntVal:1, StrVal:\"\"}: may not be set when",
            ),
            (
                |o| o.set("/spec/updateStrategy/rollingUpdate/maxUnavailable", "0%"),
                "Required spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0",
            ),
            (
                |o| o.set("/spec/template/spec/restartPolicy", "OnFailure"),
                "NotSupported spec.template.spec.restartPolicy",
            ),
            (|o| o.set("/spec/minReadySeconds", -1), "Invalid spec.minReadySeconds"),
        ];
        for (change, start) in cases {
            let mut object = set();
            change(&mut object);
            let found = found(&DAEMON_SET, &object, None);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
