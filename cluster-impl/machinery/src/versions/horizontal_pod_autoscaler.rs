//! `autoscaling/v1` HorizontalPodAutoscaler over the stored `v2`: one target of CPU, the rest in annotations.
//!
//! The annotations hold the forms that upstream writes: metrics and conditions as the types of v1 have them,
//! the behaviour with the names that Go gives its fields.

use serde_json::{Map, Value, json};

use super::Version;
use crate::{Kind, Object};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

static KIND: Kind = Kind {
    id: "horizontalpodautoscalers.autoscaling",
    group: "autoscaling",
    version: "v1",
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
    default: |object| {
        if let Some(stored) = super::stored_as(&KIND) {
            (stored.default)(object);
        }
    },
    prepare_create: |object| {
        if let Some(stored) = super::stored_as(&KIND) {
            (stored.prepare_create)(object);
        }
    },
    prepare_update: |object, old| {
        if let Some(stored) = super::stored_as(&KIND) {
            (stored.prepare_update)(object, old);
        }
    },
    validate: |object, old| {
        super::stored_as(&KIND).map(|stored| (stored.validate)(object, old)).unwrap_or_default()
    },
    columns: &[],
    cells: |object, now| {
        super::stored_as(&KIND).map(|stored| (stored.cells)(object, now)).unwrap_or_default()
    },
    custom: None,
};

pub(super) static V1: Version = Version { kind: &KIND, to_stored, from_stored };

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn from_stored(object: &mut Object) {
    let take = |object: &mut Object, pointer: &str| match object.remove(pointer) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let metrics = take(object, "/spec/metrics");
    let current = take(object, "/status/currentMetrics");
    let conditions = take(object, "/status/conditions");
    let behavior = object.remove("/spec/behavior");
    let mut others = Vec::new();
    let mut target = None;
    for metric in &metrics {
        let share = metric["resource"]["target"]["averageUtilization"].as_i64();
        match share.filter(|_| is_cpu(metric)) {
            Some(share) => {
                target.get_or_insert(share);
            }
            None => others.push(flatten(metric, "target", "target")),
        }
    }
    if let Some(target) = target {
        object.set("/spec/targetCPUUtilizationPercentage", target);
    }
    let share = |metric: &Value| metric["resource"]["current"]["averageUtilization"].as_i64();
    if let Some(share) =
        current.iter().filter(|metric| is_cpu(metric)).filter_map(share).next_back()
    {
        object.set("/status/currentCPUUtilizationPercentage", share);
    }
    let current: Vec<_> = current.iter().map(|one| flatten(one, "current", "current")).collect();
    let texts = [
        (METRICS, (!others.is_empty()).then(|| json!(others))),
        (CURRENT, (!current.is_empty()).then(|| json!(current))),
        (CONDITIONS, (!conditions.is_empty()).then(|| json!(conditions))),
        (BEHAVIOR, behavior.map(|behavior| go_names(&behavior, false))),
    ];
    for (annotation, value) in texts {
        let pointer = format!("/metadata/annotations/{}", annotation.replace('/', "~1"));
        match value {
            Some(value) => object.set(&pointer, value.to_string()),
            None => drop(object.remove(&pointer)),
        }
    }
}

fn to_stored(object: &mut Object) -> Result<(), String> {
    let mut metrics = Vec::new();
    if let Some(target) = object.remove("/spec/targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": target});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    let mut current = Vec::new();
    if let Some(share) = object.remove("/status/currentCPUUtilizationPercentage") {
        let share = json!({"averageUtilization": share});
        current.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": share}}));
    }
    let mut note = |annotation: &str| -> Result<Option<Value>, String> {
        let pointer = format!("/metadata/annotations/{}", annotation.replace('/', "~1"));
        let Some(Value::String(text)) = object.remove(&pointer) else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| format!("{annotation}: {error}"))
    };
    if let Some(Value::Array(others)) = note(METRICS)? {
        metrics.extend(others.iter().map(|metric| unflatten(metric, "target", "target")));
    }
    if let Some(Value::Array(all)) = note(CURRENT)? {
        current = all.iter().map(|metric| unflatten(metric, "current", "current")).collect();
    }
    let (conditions, behavior) = (note(CONDITIONS)?, note(BEHAVIOR)?);
    if object.map("/metadata/annotations").is_some_and(Map::is_empty) {
        object.remove("/metadata/annotations");
    }
    if !metrics.is_empty() {
        object.set("/spec/metrics", metrics);
    }
    if !current.is_empty() {
        object.set("/status/currentMetrics", current);
    }
    if let Some(conditions) = conditions {
        object.set("/status/conditions", conditions);
    }
    if let Some(behavior) = behavior {
        object.set("/spec/behavior", go_names(&behavior, true));
    }
    Ok(())
}

/// The member of a metric's type, such as `containerResource`.
fn member(metric: &Value) -> String {
    let kind = metric["type"].as_str().unwrap_or_default();
    let mut letters = kind.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// The name of a field in v1: `targetAverageValue` for the `averageValue` of a target.
fn long(prefix: &str, field: &str) -> String {
    let mut letters = field.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    format!("{prefix}{}", first.into_iter().chain(letters).collect::<String>())
}

/// A metric of v2, or its status, as v1 has it.
fn flatten(metric: &Value, amounts: &str, prefix: &str) -> Value {
    let kind = member(metric);
    let source = &metric[kind.as_str()];
    let mut flat = Map::new();
    let mut put = |name: &str, value: &Value| {
        if !value.is_null() {
            flat.insert(name.to_owned(), value.clone());
        }
    };
    put("name", &source["name"]);
    put("container", &source["container"]);
    put("metricName", &source["metric"]["name"]);
    let selector = if kind == "external" { "metricSelector" } else { "selector" };
    put(selector, &source["metric"]["selector"]);
    put("target", &source["describedObject"]);
    for field in ["value", "averageValue", "averageUtilization"] {
        // Only here v1 has the name of v2.
        let plain = kind == "object" && field == "averageValue";
        let name = if plain { field.to_owned() } else { long(prefix, field) };
        put(&name, &source[amounts][field]);
    }
    let mut whole = json!({"type": metric["type"]});
    whole[kind] = Value::Object(flat);
    whole
}

/// A metric of v1, or its status, as v2 has it.
fn unflatten(metric: &Value, amounts: &str, prefix: &str) -> Value {
    let kind = member(metric);
    let flat = &metric[kind.as_str()];
    let mut source = json!({});
    for field in ["name", "container"] {
        if !flat[field].is_null() {
            source[field] = flat[field].clone();
        }
    }
    if !flat["metricName"].is_null() {
        source["metric"] = json!({"name": flat["metricName"]});
        let selector = if kind == "external" { "metricSelector" } else { "selector" };
        if !flat[selector].is_null() {
            source["metric"]["selector"] = flat[selector].clone();
        }
    }
    if !flat["target"].is_null() {
        source["describedObject"] = flat["target"].clone();
    }
    let mut values = json!({});
    for (field, of_type) in [
        ("value", "Value"),
        ("averageValue", "AverageValue"),
        ("averageUtilization", "Utilization"),
    ] {
        let plain = kind == "object" && field == "averageValue";
        let name = if plain { field.to_owned() } else { long(prefix, field) };
        let value = &flat[name.as_str()];
        // A target by its average has a value of zero beside it.
        let is_unset = value.is_null() || field == "value" && value == "0";
        if !is_unset {
            values[field] = value.clone();
            if amounts == "target" {
                values["type"] = of_type.into();
            }
        }
    }
    source[amounts] = values;
    let mut whole = json!({"type": metric["type"]});
    whole[kind] = source;
    whole
}

/// A behaviour with the names of Go's fields, or back from them.
fn go_names(value: &Value, back: bool) -> Value {
    match value {
        Value::Object(members) => {
            let renamed =
                members.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
                    let mut letters = name.chars();
                    let first = letters.next().map(|first| {
                        if back { first.to_ascii_lowercase() } else { first.to_ascii_uppercase() }
                    });
                    (first.into_iter().chain(letters).collect(), go_names(value, back))
                });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => items.iter().map(|item| go_names(item, back)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_target_is_the_same_in_both() {
        let mut object = Object(json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50}}));
        let before = object.clone();
        to_stored(&mut object).unwrap();
        assert_eq!(
            object.0["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}])
        );
        from_stored(&mut object);
        assert_eq!(object, before);
    }

    #[test]
    fn what_v1_does_not_know_survives_in_annotations() {
        let stored = Object(json!({
            "metadata": {"name": "web", "annotations": {"mine": "x"}},
            "spec": {"maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Resource", "resource": {"name": "memory",
                    "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "a",
                    "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Pods", "pods": {"metric": {"name": "rps"},
                    "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "Object", "object": {"metric": {"name": "hits", "selector": {}},
                    "describedObject": {"kind": "Ingress", "name": "main"},
                    "target": {"type": "Value", "value": "2k"}}},
                {"type": "External", "external": {"metric": {"name": "queue",
                    "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "5"}}},
            ], "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}}},
            "status": {"currentReplicas": 1, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 40, "averageValue": "100m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}]},
        }));
        let mut served = stored.clone();
        from_stored(&mut served);
        assert_eq!(served.integer("/spec/targetCPUUtilizationPercentage"), Some(50));
        assert_eq!(served.integer("/status/currentCPUUtilizationPercentage"), Some(40));
        assert_eq!(served.get("/spec/metrics"), None);
        assert_eq!(
            served.annotation(BEHAVIOR).unwrap(),
            r#"{"ScaleDown":{"Policies":[{"PeriodSeconds":15,"Type":"Pods","Value":1}],"StabilizationWindowSeconds":60}}"#
        );
        let metrics: Value = serde_json::from_str(served.annotation(METRICS).unwrap()).unwrap();
        assert_eq!(metrics[0]["resource"], json!({"name": "memory", "targetAverageValue": "1Gi"}));
        assert_eq!(metrics[3]["object"]["target"]["name"], "main");
        assert_eq!(metrics[4]["external"]["metricSelector"], json!({"matchLabels": {"a": "b"}}));
        let mut back = served;
        to_stored(&mut back).unwrap();
        assert_eq!(back, stored);
    }

    #[test]
    fn annotations_that_are_no_json_are_refused() {
        let mut object = Object(json!({"metadata": {"annotations": {METRICS: "{"}}, "spec": {}}));
        assert!(to_stored(&mut object).unwrap_err().starts_with(METRICS));
    }
}
