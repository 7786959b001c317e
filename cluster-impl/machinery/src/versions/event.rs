//! `events.k8s.io/v1` Event over the stored `v1` Event: other names for the same fields, stricter rules.

use std::sync::LazyLock;

use super::{Version, rename};
use crate::kinds::EVENT;
use crate::validation::{Causes, names, text};
use crate::{Cause, Kind, Object};

const TEXT_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

/// Names in the stored form and in this one.
const FIELDS: [(&str, &str); 7] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

static KIND: Kind = Kind {
    id: "events",
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[
        ("regarding.kind", "/involvedObject/kind"),
        ("regarding.namespace", "/involvedObject/namespace"),
        ("regarding.name", "/involvedObject/name"),
        ("regarding.uid", "/involvedObject/uid"),
        ("regarding.apiVersion", "/involvedObject/apiVersion"),
        ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
        ("regarding.fieldPath", "/involvedObject/fieldPath"),
        ("reason", "/reason"),
        ("reportingController", "/reportingComponent"),
        ("type", "/type"),
    ],
    default: |object| (EVENT.default)(object),
    prepare_create: |object| (EVENT.prepare_create)(object),
    prepare_update: |object, old| (EVENT.prepare_update)(object, old),
    validate,
    columns: &[],
    cells: |object, now| (EVENT.cells)(object, now),
    custom: None,
};

pub(super) static V1: Version = Version {
    kind: &KIND,
    to_stored: |object| {
        FIELDS.iter().for_each(|(stored, served)| rename(object, served, stored));
        Ok(())
    },
    from_stored: |object| FIELDS.iter().for_each(|(stored, served)| rename(object, stored, served)),
};

/// What may not be set by whoever writes in this form.
static UNSET: LazyLock<[(&str, &str); 4]> = LazyLock::new(|| {
    [
        ("firstTimestamp", "/firstTimestamp"),
        ("lastTimestamp", "/lastTimestamp"),
        ("count", "/count"),
        ("source", "/source"),
    ]
});

fn validate(event: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    let has_time = event.get("/eventTime").is_some_and(|time| !time.is_null());
    if has_time {
        let controller = event.text("/reportingComponent");
        if controller.is_empty() {
            causes.required("reportingController", "");
        }
        causes.name("reportingController", controller, names::qualified_name);
        for (field, must, most) in [
            ("reportingInstance", true, TEXT_BYTES_MAX),
            ("action", true, TEXT_BYTES_MAX),
            ("reason", true, TEXT_BYTES_MAX),
            ("message", false, NOTE_BYTES_MAX),
        ] {
            let value = text(&event.0[field]);
            if must && value.is_empty() {
                causes.required(field, "");
            }
            if value.len() > most {
                causes.invalid(field, "", &format!("can have at most {most} characters"));
            }
        }
    }
    match old {
        None => created(&mut causes, event, has_time),
        Some(old) => updated(&mut causes, event, old),
    }
    let mut all = (EVENT.validate)(event, old);
    all.extend(causes.into_list());
    all
}

fn created(causes: &mut Causes, event: &Object, has_time: bool) {
    series(causes, event);
    if !has_time {
        causes.required("eventTime", "");
    }
    let kind = event.text("/type");
    if !["Normal", "Warning"].contains(&kind) {
        causes.invalid("type", "", &format!("has invalid value: {kind}"));
    }
    for (field, pointer) in UNSET.iter() {
        let is_set = event.get(pointer).is_some_and(|value| match value {
            serde_json::Value::Object(members) => members.values().any(|one| one != ""),
            serde_json::Value::Number(number) => number.as_i64() != Some(0),
            other => !other.is_null(),
        });
        if is_set {
            causes.invalid(field, "", "needs to be unset");
        }
    }
}

fn updated(causes: &mut Causes, event: &Object, old: &Object) {
    if event.get("/series") != old.get("/series") {
        series(causes, event);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
    ] {
        causes.immutable(field, &event.0[field], &old.0[field]);
    }
    let (new, before) = (&event.0["reportingComponent"], &old.0["reportingComponent"]);
    causes.immutable("reportingController", new, before);
    let (new, before) = (&event.0["reportingInstance"], &old.0["reportingInstance"]);
    causes.immutable("reportingInstance", new, before);
}

fn series(causes: &mut Causes, event: &Object) {
    if event.map("/series").is_none() {
        return;
    }
    if event.integer("/series/count").unwrap_or_default() < 2 {
        causes.invalid("series.count", "", "should be at least 2");
    }
    if event.text("/series/lastObservedTime").is_empty() {
        causes.required("series.lastObservedTime", "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{from_stored, to_stored};
    use super::*;
    use crate::validation::tests::lines;

    fn event() -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "a", "namespace": "default"}, "type": "Normal", "reason": "Made",
            "note": "made it", "regarding": {"kind": "Pod", "namespace": "default", "name": "web"},
            "reportingController": "acme.io/maker", "reportingInstance": "maker-1",
            "action": "Make", "eventTime": "2026-01-01T00:00:00.000000Z",
        })
    }

    #[test]
    fn an_event_comes_back_as_it_went() {
        let mut object = Object(event());
        to_stored(&KIND, &mut object).unwrap();
        assert_eq!((object.api_version(), object.text("/message")), ("v1", "made it"));
        assert_eq!(object.text("/involvedObject/name"), "web");
        assert_eq!(object.text("/reportingComponent"), "acme.io/maker");
        assert_eq!(object.get("/note"), None);
        from_stored(&KIND, &mut object);
        assert_eq!(object.0, event());
    }

    #[test]
    fn an_event_of_old_shows_its_deprecated_fields() {
        let mut object = Object(json!({"source": {"component": "x"}, "count": 2,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z"}));
        from_stored(&KIND, &mut object);
        assert_eq!(object.text("/deprecatedSource/component"), "x");
        assert_eq!(object.integer("/deprecatedCount"), Some(2));
        assert_eq!(object.text("/deprecatedLastTimestamp"), "2026-01-01T00:00:01Z");
    }

    #[test]
    fn the_rules_are_stricter() {
        let with = |field: &str, value: Value| {
            let mut event = event();
            event[field] = value;
            let mut object = Object(event);
            to_stored(&KIND, &mut object).unwrap();
            object
        };
        for (object, expected) in [
            (with("note", "x".into()), vec![]),
            (with("eventTime", Value::Null), vec!["Required eventTime: Required value"]),
            (
                with("type", "Odd".into()),
                vec!["Invalid type: Invalid value: \"\": has invalid value: Odd"],
            ),
            (
                with("deprecatedCount", 1.into()),
                vec!["Invalid count: Invalid value: \"\": needs to be unset"],
            ),
            (with("action", "".into()), vec!["Required action: Required value"]),
            (
                with("series", json!({"count": 1})),
                vec![
                    "Invalid series.count: Invalid value: \"\": should be at least 2",
                    "Required series.lastObservedTime: Required value",
                ],
            ),
            (
                with("note", "x".repeat(1025).into()),
                vec!["Invalid message: Invalid value: \"\": can have at most 1024 characters"],
            ),
        ] {
            assert_eq!(lines(&validate(&object, None)), expected);
        }
        let (old, new) = (with("note", "a".into()), with("note", "b".into()));
        assert_eq!(
            lines(&validate(&new, Some(&old))),
            ["Invalid message: Invalid value: \"b\": field is immutable"]
        );
    }
}
