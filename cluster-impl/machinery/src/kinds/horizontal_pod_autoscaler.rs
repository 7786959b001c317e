//! HorizontalPodAutoscaler.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, age, column, keep_status};
use crate::defaulting::{absent, inside, part};
use crate::validation::{
    Causes, is_new_spec, items, metadata, names, resources, selector, status_change, text,
};
use crate::{Cause, Object, Quantity};

const STABILIZATION_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
/// A cell shows at most so many metrics.
const SHOWN_MAX: usize = 2;
/// The types of metrics, with the fields that hold them.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

/// HorizontalPodAutoscaler.
pub static HORIZONTAL_POD_AUTOSCALER: Kind = Kind {
    id: "horizontalpodautoscalers.autoscaling",
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    short_names: &["hpa"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default,
    prepare_create: |object| object.set("/status", json!({"desiredReplicas": 0})),
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Reference", "string", 0),
        column("Targets", "string", 0),
        column("MinPods", "string", 0),
        column("MaxPods", "string", 0),
        column("Replicas", "string", 0),
        AGE,
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    absent(&mut object.0, "status", json!({"desiredReplicas": 0}));
    let Some(spec) = part(&mut object.0, "spec") else { return };
    absent(spec, "minReplicas", 1);
    if spec["metrics"].is_null() || spec["metrics"] == json!([]) {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    }
    let Some(behavior) = inside(spec, "behavior") else { return };
    if let Some(up) = part(behavior, "scaleUp") {
        absent(up, "stabilizationWindowSeconds", 0);
        absent(up, "selectPolicy", "Max");
        absent(
            up,
            "policies",
            json!([{"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
    }
    // How long to wait before scaling down is the controller's to say.
    if let Some(down) = part(behavior, "scaleDown") {
        absent(down, "selectPolicy", "Max");
        let policies = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        absent(down, "policies", policies);
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    if is_new_spec(object, old) {
        validate_spec(&mut causes, &object.0["spec"]);
    }
    if let Some((status, _)) = status_change(object, old) {
        causes.counts(status, &["currentReplicas", "desiredReplicas"]);
    }
    causes.into_list()
}

fn validate_spec(causes: &mut Causes, spec: &Value) {
    let least = spec["minReplicas"].as_i64();
    let most = spec["maxReplicas"].as_i64().unwrap_or_default();
    if let Some(least) = least.filter(|least| *least < 1) {
        causes.invalid("spec.minReplicas", least, "must be greater than or equal to 1");
    }
    if most < 1 {
        causes.invalid("spec.maxReplicas", most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        causes.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`");
    }
    reference(causes, &spec["scaleTargetRef"], "spec.scaleTargetRef");
    for (index, one) in items(&spec["metrics"]) {
        metric(causes, one, &format!("spec.metrics[{index}]"));
    }
    for direction in ["scaleUp", "scaleDown"] {
        let value = &spec["behavior"][direction];
        if !value.is_null() {
            rules(causes, value, &format!("spec.behavior.{direction}"));
        }
    }
}

fn reference(causes: &mut Causes, reference: &Value, field: &str) {
    for part in ["kind", "name"] {
        let value = text(&reference[part]);
        causes.required_name(&format!("{field}.{part}"), value, names::path_segment);
    }
}

fn rules(causes: &mut Causes, rules: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    if let Some(seconds) = rules["stabilizationWindowSeconds"].as_i64() {
        let field = at("stabilizationWindowSeconds");
        if seconds < 0 {
            causes.invalid(&field, seconds, "must be greater than or equal to zero");
        } else if seconds > STABILIZATION_SECONDS_MAX {
            let why = format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}");
            causes.invalid(&field, seconds, &why);
        }
    }
    const SELECT: &[&str] = &["Disabled", "Max", "Min"];
    let policy = rules["selectPolicy"].as_str();
    if let Some(policy) = policy.filter(|policy| !SELECT.contains(policy)) {
        causes.not_supported(&at("selectPolicy"), policy, SELECT);
    }
    if items(&rules["policies"]).next().is_none() {
        causes.required(&at("policies"), "must specify at least one Policy");
    }
    for (index, policy) in items(&rules["policies"]) {
        let field = format!("{}[{index}]", at("policies"));
        let kind = text(&policy["type"]);
        if !["Percent", "Pods"].contains(&kind) {
            causes.not_supported(&format!("{field}.type"), kind, &["Percent", "Pods"]);
        }
        for part in ["value", "periodSeconds"] {
            let value = policy[part].as_i64().unwrap_or_default();
            if value <= 0 {
                causes.invalid(&format!("{field}.{part}"), value, "must be greater than zero");
            }
        }
        let period = policy["periodSeconds"].as_i64().unwrap_or_default();
        if period > PERIOD_SECONDS_MAX {
            let why = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            causes.invalid(&format!("{field}.periodSeconds"), period, &why);
        }
    }
}

fn metric(causes: &mut Causes, metric: &Value, field: &str) {
    let kind = text(&metric["type"]);
    if kind.is_empty() {
        causes.required(&format!("{field}.type"), "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        causes.not_supported(&format!("{field}.type"), kind, TYPES);
    }
    let given = || SOURCES.iter().filter(|(_, part)| !metric[*part].is_null());
    if let Some((of, part)) = given().next() {
        source(causes, of, &metric[*part], &format!("{field}.{part}"));
    }
    let wanted = SOURCES.iter().find(|(of, _)| *of == kind).map_or("", |(_, part)| *part);
    if !wanted.is_empty() && metric[wanted].is_null() {
        let why = "must populate information for the given metric source";
        causes.required(&format!("{field}.{wanted}"), why);
    }
    if given().count() != 1 {
        for (_, part) in given().filter(|(_, part)| *part != wanted) {
            let why = "must populate the given metric source only";
            causes.forbidden(&format!("{field}.{part}"), why);
        }
    }
}

fn source(causes: &mut Causes, kind: &str, source: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    let goal = &source["target"];
    match kind {
        "Resource" | "ContainerResource" => {
            let name = text(&source["name"]);
            if name.is_empty() {
                causes.required(&at("name"), "must specify a resource name");
            } else if kind == "ContainerResource" {
                resources::container_resource_name(causes, name, &at("name"));
            }
            let container = text(&source["container"]);
            if kind == "ContainerResource" && container.is_empty() {
                causes.required(&at("container"), "must specify a container");
            }
        }
        _ => {
            if kind == "Object" {
                reference(causes, &source["describedObject"], &at("describedObject"));
            }
            let name = text(&source["metric"]["name"]);
            if name.is_empty() {
                causes.required(&at("metric.name"), "must specify a metric name");
            } else {
                causes.name(&at("metric.name"), name, names::path_segment);
            }
            let wanted = &source["metric"]["selector"];
            selector::validate(causes, wanted, &at("metric.selector"));
        }
    }
    target(causes, goal, &at("target"));
    let has = |part: &str| !goal[part].is_null();
    let average = at("target.averageValue");
    match kind {
        "Pods" if !has("averageValue") => {
            causes.required(&average, "must specify a positive target averageValue");
        }
        "Pods" => {}
        "Object" | "External" => match (has("value"), has("averageValue")) {
            (false, false) => causes.required(
                &average,
                "must set either a target value for metric or a per-pod target",
            ),
            (true, true) if kind == "External" => causes.forbidden(
                &at("target.value"),
                "may not set both a target value for metric and a per-pod target",
            ),
            _ => {}
        },
        _ => match (has("averageUtilization"), has("averageValue")) {
            (false, false) => causes.required(
                &at("target.averageUtilization"),
                "must set either a target raw value or a target utilization",
            ),
            (true, true) => causes.forbidden(
                &average,
                "may not set both a target raw value and a target utilization",
            ),
            _ => {}
        },
    }
}

fn target(causes: &mut Causes, target: &Value, field: &str) {
    let kind = text(&target["type"]);
    if kind.is_empty() {
        causes.required(&format!("{field}.type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let why = "must be either Utilization, Value, or AverageValue";
        causes.invalid(&format!("{field}.type"), kind, why);
    }
    for part in ["value", "averageValue"] {
        let amount = Quantity::from_value(&target[part]);
        if let Some(amount) = amount.filter(|amount| *amount <= Quantity::ZERO) {
            causes.invalid(&format!("{field}.{part}"), amount.to_string(), "must be positive");
        }
    }
    if let Some(share) = target["averageUtilization"].as_i64().filter(|share| *share < 1) {
        let why = "must be greater than 0";
        causes.invalid(&format!("{field}.averageUtilization"), share, why);
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let kind = object.text("/spec/scaleTargetRef/kind");
    let reference = format!("{kind}/{}", object.text("/spec/scaleTargetRef/name"));
    let least = object.integer("/spec/minReplicas");
    vec![
        object.name().into(),
        reference.into(),
        targets(object).into(),
        least.map_or_else(|| "<unset>".to_owned(), |least| least.to_string()).into(),
        object.integer("/spec/maxReplicas").unwrap_or_default().into(),
        object.integer("/status/currentReplicas").unwrap_or_default().into(),
        age(object, now),
    ]
}

/// What is and what is wanted of the first metrics.
fn targets(object: &Object) -> String {
    let metrics = object.list("/spec/metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = object.list("/status/currentMetrics");
    let shown = metrics.iter().enumerate().take(SHOWN_MAX);
    let mut list: Vec<_> =
        shown.map(|(at, metric)| one_target(metric, current.get(at))).collect();
    if let Some(more) = metrics.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        let last = list.last_mut().expect("there are metrics");
        last.push_str(&format!(" + {more} more..."));
    }
    list.join(", ")
}

fn one_target(metric: &Value, current: Option<&Value>) -> String {
    let kind = text(&metric["type"]);
    let Some((_, part)) = SOURCES.iter().find(|(of, _)| *of == kind) else {
        return "<unknown type>".to_owned();
    };
    let goal = &metric[*part]["target"];
    let now = |field: &str| {
        let value = current.map(|current| &current[*part]["current"][field]);
        match value {
            Some(Value::String(amount)) => amount.clone(),
            Some(Value::Number(share)) => format!("{share}%"),
            _ => "<unknown>".to_owned(),
        }
    };
    let of_pods = !goal["averageValue"].is_null();
    let name = text(&metric[*part]["name"]);
    match kind {
        "External" | "Object" if of_pods => {
            format!("{}/{} (avg)", now("averageValue"), text(&goal["averageValue"]))
        }
        "External" | "Object" => format!("{}/{}", now("value"), text(&goal["value"])),
        "Pods" => format!("{}/{}", now("averageValue"), text(&goal["averageValue"])),
        _ if of_pods => format!("{name}: {}/{}", now("averageValue"), text(&goal["averageValue"])),
        _ => {
            let wanted = goal["averageUtilization"].as_i64();
            let wanted = wanted.map_or_else(|| "<auto>".to_owned(), |share| format!("{share}%"));
            format!("{name}: {}/{wanted}", now("averageUtilization"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn scaler(more: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"maxReplicas": 10,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
        }));
        object.0["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (HORIZONTAL_POD_AUTOSCALER.default)(&mut object);
        (HORIZONTAL_POD_AUTOSCALER.prepare_create)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = scaler(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}));
        assert_eq!(found(&HORIZONTAL_POD_AUTOSCALER, &object, None), [""; 0]);
        assert_eq!(object.integer("/spec/minReplicas"), Some(1));
        assert_eq!(
            object.0["spec"]["behavior"],
            json!({
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15}]},
                "scaleDown": {"stabilizationWindowSeconds": 5, "selectPolicy": "Max", "policies": [
                    {"type": "Percent", "value": 100, "periodSeconds": 15}]},
            })
        );
        assert_eq!(
            row(&HORIZONTAL_POD_AUTOSCALER, &object, 5),
            "web|Deployment/web|cpu: <unknown>/80%|1|10|0|5s"
        );
    }

    #[test]
    fn targets_are_shown() {
        let metrics = json!([
            {"type": "Resource", "resource": {"name": "memory",
                "target": {"type": "AverageValue", "averageValue": "5Mi"}}},
            {"type": "External", "external": {"metric": {"name": "q"},
                "target": {"type": "AverageValue", "averageValue": "30"}}},
            {"type": "Pods", "pods": {"metric": {"name": "q"},
                "target": {"type": "AverageValue", "averageValue": "1"}}},
        ]);
        let mut object = scaler(json!({ "metrics": metrics }));
        assert_eq!(found(&HORIZONTAL_POD_AUTOSCALER, &object, None), [""; 0]);
        object.set("/status/currentMetrics", json!([{"type": "Resource",
            "resource": {"name": "memory", "current": {"averageValue": "4Mi"}}}]));
        assert_eq!(
            row(&HORIZONTAL_POD_AUTOSCALER, &object, 5),
            "web|Deployment/web|memory: 4Mi/5Mi, <unknown>/30 (avg) + 1 more...|1|10|0|5s"
        );
    }

    #[test]
    fn wrong_scalers_are_named() {
        let metric = |metric: Value| json!({ "metrics": [metric] });
        let cpu = |target: Value| {
            metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}))
        };
        for (more, starts) in [
            (json!({"minReplicas": 0}), vec!["Invalid spec.minReplicas"]),
            (
                json!({"minReplicas": 11}),
                vec!["Invalid spec.maxReplicas: Invalid value: 10: must be greater than or equal to \
                      `minReplicas`"],
            ),
            (json!({"maxReplicas": 0}), vec!["Invalid spec.maxReplicas", "Invalid spec.maxReplicas"]),
            (
                json!({"scaleTargetRef": {"name": "a/b"}}),
                vec!["Required spec.scaleTargetRef.kind", "Invalid spec.scaleTargetRef.name"],
            ),
            (metric(json!({"type": "Guess"})), vec!["NotSupported spec.metrics[0].type"]),
            (
                metric(json!({"type": "Pods"})),
                vec!["Required spec.metrics[0].pods: Required value: must populate information"],
            ),
            (
                cpu(json!({"type": "Utilization"})),
                vec!["Required spec.metrics[0].resource.target.averageUtilization"],
            ),
            (
                cpu(json!({"type": "Utilization", "averageUtilization": 0})),
                vec!["Invalid spec.metrics[0].resource.target.averageUtilization"],
            ),
            (
                cpu(json!({"type": "AverageValue", "averageValue": "-1"})),
                vec!["Invalid spec.metrics[0].resource.target.averageValue"],
            ),
            (
                json!({"behavior": {"scaleUp": {"selectPolicy": "Any", "policies": [
                    {"type": "Pods", "value": 0, "periodSeconds": 1801}]}}}),
                vec!["NotSupported spec.behavior.scaleUp.selectPolicy",
                    "Invalid spec.behavior.scaleUp.policies[0].value",
                    "Invalid spec.behavior.scaleUp.policies[0].periodSeconds"],
            ),
            (
                json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}),
                vec!["Invalid spec.behavior.scaleDown.stabilizationWindowSeconds"],
            ),
        ] {
            let found = found(&HORIZONTAL_POD_AUTOSCALER, &scaler(more), None);
            assert_eq!(found.len(), starts.len(), "{found:?}");
            for (line, start) in found.iter().zip(starts) {
                assert!(line.starts_with(start), "{start}: {found:?}");
            }
        }
    }
}
