//! LimitRange.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{CREATED_AT, Kind, NAME, create_as_is, created_at, update_as_is};
use crate::defaulting::{each, inside};
use crate::validation::{Causes, items, metadata, names, resources, text};
use crate::{Cause, Object, Quantity};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

/// LimitRange.
pub static LIMIT_RANGE: Kind = Kind {
    id: "limitranges",
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    short_names: &["limits"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default,
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, CREATED_AT],
    cells: |object, _| vec![object.name().into(), created_at(object)],
    custom: None,
};

/// What a container is not told follows from what it is told.
fn default(object: &mut Object) {
    let Some(spec) = inside(&mut object.0, "spec") else { return };
    for limit in each(spec, "limits") {
        if limit["type"] != "Container" {
            continue;
        }
        for (from, to) in
            [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
        {
            let Some(amounts) = limit[from].as_object().cloned() else { continue };
            let mut own = limit[to].as_object().cloned().unwrap_or_default();
            for (name, amount) in amounts {
                own.entry(name).or_insert(amount);
            }
            if !own.is_empty() {
                limit[to] = own.into();
            }
        }
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let mut seen = BTreeSet::new();
    for (index, limit) in items(&object.0["spec"]["limits"]) {
        let field = format!("spec.limits[{index}]");
        let kind = text(&limit["type"]);
        let type_at = format!("{field}.type");
        let before = causes.count();
        causes.name(&type_at, kind, names::qualified_name);
        if causes.count() == before && !kind.contains('/') && !TYPES.contains(&kind) {
            causes.invalid(&type_at, kind, "must be a standard limit type or fully qualified");
        }
        if !seen.insert(kind) {
            causes.duplicate(&type_at, kind);
        }
        one(&mut causes, limit, kind, &field);
    }
    causes.into_list()
}

fn one(causes: &mut Causes, limit: &Value, kind: &str, field: &str) {
    const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let of_containers = kind == "Pod" || kind == "Container";
    let mut resources_seen = BTreeSet::new();
    for list in LISTS {
        let amounts = limit[list].as_object().filter(|amounts| !amounts.is_empty());
        if kind == "Pod" && (list == "default" || list == "defaultRequest") {
            if amounts.is_some() {
                let why = "may not be specified when `type` is 'Pod'";
                causes.forbidden(&format!("{field}.{list}"), why);
            }
            continue;
        }
        for (name, _) in amounts.into_iter().flatten() {
            let at = format!("{field}.{list}[{name}]");
            if of_containers {
                resources::container_resource_name(causes, name, &at);
            } else {
                resources::resource_name(causes, name, &at);
            }
            resources_seen.insert(name.as_str());
        }
    }
    let bounds = ["min", "max"];
    if kind == "PersistentVolumeClaim" && bounds.iter().all(|one| limit[*one]["storage"].is_null()) {
        causes.required(
            &format!("{field}.limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for name in resources_seen {
        relations(causes, limit, name, field);
    }
}

/// Checks that what is said of one resource goes together.
fn relations(causes: &mut Causes, limit: &Value, name: &str, field: &str) {
    let of = |list: &str| Quantity::from_value(&limit[list][name]);
    let (least, most) = (of("min"), of("max"));
    let (default, request) = (of("default"), of("defaultRequest"));
    let mut ordered = |low: Option<Quantity>, high: Option<Quantity>, blamed: (&str, bool), names: [&str; 2]| {
        let (Some(low), Some(high)) = (low, high) else { return };
        if low > high {
            let (list, is_low) = blamed;
            let shown = if is_low { low } else { high };
            let why = format!("{} value {low} is greater than {} value {high}", names[0], names[1]);
            causes.invalid(&format!("{field}.{list}[{name}]"), shown.to_string(), &why);
        }
    };
    ordered(least, most, ("min", true), ["min", "max"]);
    ordered(least, request, ("defaultRequest", false), ["min", "default request"]);
    ordered(request, most, ("defaultRequest", true), ["default request", "max"]);
    ordered(request, default, ("defaultRequest", true), ["default request", "default limit"]);
    ordered(least, default, ("default", true), ["min", "default"]);
    ordered(default, most, ("default", false), ["default", "max"]);
    if let Some(ratio) = of("maxLimitRequestRatio") {
        ratio_fits(causes, ratio, (least, most), &format!("{field}.maxLimitRequestRatio[{name}]"));
    }
    if let (Some(default), Some(request)) = (default, request)
        && default != request
        && !resources::may_overcommit(name)
    {
        let why =
            format!("default value {default} must equal to defaultRequest value {request} in {name}");
        causes.invalid(&format!("{field}.defaultRequest[{name}]"), request.to_string(), &why);
    }
}

fn ratio_fits(
    causes: &mut Causes,
    ratio: Quantity,
    (least, most): (Option<Quantity>, Option<Quantity>),
    field: &str,
) {
    if ratio.milli_value() < 1000 {
        causes.invalid(field, ratio.to_string(), &format!("ratio {ratio} is less than 1"));
    }
    let (Some(least), Some(most)) = (least, most) else { return };
    // Only for people: a ratio is shown with six digits.
    let greatest = most.milli_value() as f64 / least.milli_value() as f64;
    if ratio.milli_value() as f64 / 1000.0 > greatest {
        let why = format!("ratio {ratio} is greater than max/min = {greatest:.6}");
        causes.invalid(field, ratio.to_string(), &why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn range(limit: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "limits", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"limits": [limit]},
        }));
        (LIMIT_RANGE.default)(&mut object);
        object
    }

    #[test]
    fn what_is_not_said_follows() {
        let object = range(json!({"type": "Container", "max": {"cpu": "2", "memory": "1Gi"},
            "min": {"cpu": "100m", "ephemeral-storage": "1Gi"}, "defaultRequest": {"memory": "64Mi"}}));
        assert_eq!(found(&LIMIT_RANGE, &object, None), [""; 0]);
        let limit = &object.0["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!(
            limit["defaultRequest"],
            json!({"memory": "64Mi", "cpu": "2", "ephemeral-storage": "1Gi"})
        );
        assert_eq!(row(&LIMIT_RANGE, &object, 5), "limits|1970-01-01T00:00:00Z");
        let pod = range(json!({"type": "Pod", "max": {"cpu": "2"}}));
        assert_eq!(pod.0["spec"]["limits"][0].get("default"), None);
    }

    #[test]
    fn wrong_ranges_are_named() {
        for (limit, start) in [
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"},
                    "defaultRequest": {"cpu": "1"}, "default": {"cpu": "1"}}),
                "Invalid spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than \
                 max value 1",
            ),
            (json!({"type": "Pod", "default": {"cpu": "1"}}), "Forbidden spec.limits[0].default"),
            (json!({"type": "Node"}), "Invalid spec.limits[0].type: Invalid value: \"Node\": must be"),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "Required spec.limits[0].limits: Required value: either minimum or maximum",
            ),
            (
                json!({"type": "Pod", "max": {"cpus": "1"}}),
                "Invalid spec.limits[0].max[cpus]: Invalid value: \"cpus\": must be a standard",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "1"},
                    "maxLimitRequestRatio": {"cpu": "3"}}),
                "Invalid spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is \
                 greater than max/min = 2.000000",
            ),
            (
                json!({"type": "Container", "default": {"example.com/gpu": "2"},
                    "defaultRequest": {"example.com/gpu": "1"}}),
                "Invalid spec.limits[0].defaultRequest[example.com/gpu]",
            ),
        ] {
            let found = found(&LIMIT_RANGE, &range(limit), None);
            assert!(!found.is_empty() && found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
