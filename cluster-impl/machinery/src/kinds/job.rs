//! Job.

use serde_json::{Map, Value};

use super::{AGE, Kind, NAME, age, column, containers, create_without_status, keep_status, selector};
use crate::defaulting::{absent, each, empty, inside, part, template, zero};
use crate::validation::{
    Causes, go, is_new_spec, job as rules, metadata, names, selector as selectors, status_change,
    workload,
};
use crate::{Cause, LabelSelector, Object, duration};

/// The labels by which the pods of a Job are known: old and new name of each.
const BY_UID: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const BY_NAME: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const BACKOFF_LIMIT: i64 = 6;

/// Job.
pub static JOB: Kind = Kind {
    id: "jobs.batch",
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    short_names: &[],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: true,
    selectable: &[("status.successful", "/status/succeeded")],
    default,
    prepare_create,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Status", "string", 0),
        column("Completions", "string", 0),
        column("Duration", "string", 0),
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
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        absent(spec, "completions", 1);
    }
    absent(spec, "parallelism", 1);
    let limit =
        if spec["backoffLimitPerIndex"].is_null() { BACKOFF_LIMIT } else { i64::from(i32::MAX) };
    absent(spec, "backoffLimit", limit);
    absent(spec, "completionMode", "NonIndexed");
    absent(spec, "suspend", false);
    absent(spec, "manualSelector", false);
    let replaced =
        if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    absent(spec, "podReplacementPolicy", replaced);
    default_spec(spec);
    let labels = object.0["spec"]["template"]["metadata"]["labels"].clone();
    let has_own = object.map("/metadata/labels").is_some_and(|own| !own.is_empty());
    if !has_own && labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        object.set("/metadata/labels", labels);
    }
}

/// Sets the defaults of a Job's spec that a CronJob's template gets, too.
pub(super) fn default_spec(spec: &mut Value) {
    if let Some(policy) = inside(spec, "podFailurePolicy") {
        for rule in each(policy, "rules") {
            for pattern in each(rule, "onPodConditions") {
                zero(pattern, "status", "True");
            }
        }
    }
    template(spec);
}

/// A Job selects its pods by its own uid, unless it is told not to.
fn prepare_create(object: &mut Object) {
    create_without_status(object);
    if object.flag("/spec/manualSelector") {
        return;
    }
    let (uid, name) = (object.uid().to_owned(), object.name().to_owned());
    let mut labels: Map<String, Value> =
        object.map("/spec/template/metadata/labels").cloned().unwrap_or_default();
    for (keys, value) in [(BY_NAME, &name), (BY_UID, &uid)] {
        for key in keys {
            // What conflicts is refused later.
            labels.entry(key).or_insert_with(|| value.as_str().into());
        }
    }
    object.set("/spec/template/metadata/labels", labels);
    let mut selected: Map<String, Value> =
        object.map("/spec/selector/matchLabels").cloned().unwrap_or_default();
    selected.entry(BY_UID[1]).or_insert_with(|| uid.into());
    object.set("/spec/selector/matchLabels", selected);
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        generated_selector(&mut causes, object);
        rules::spec(&mut causes, spec, "spec");
        if spec["selector"].is_null() {
            causes.required("spec.selector", "");
        } else {
            selectors::validate(&mut causes, &spec["selector"], "spec.selector");
        }
        let wanted = LabelSelector::from_value(object.get("/spec/selector"));
        let labels = object.map("/spec/template/metadata/labels");
        if wanted.is_ok_and(|wanted| !wanted.matches(labels)) {
            workload::not_selected(&mut causes, &spec["template"]);
        }
        indexed_names(&mut causes, object);
    }
    if let Some(old) = old {
        update(&mut causes, object, old);
    }
    if let Some(old) = old.filter(|_| status_change(object, old).is_some()) {
        rules::status_update(&mut causes, object, old);
    }
    causes.into_list()
}

/// Checks that a generated selector is the one that would be generated.
fn generated_selector(causes: &mut Causes, object: &Object) {
    if object.flag("/spec/manualSelector") || object.0["spec"]["selector"].is_null() {
        return;
    }
    if object.uid().is_empty() {
        causes.required("metadata.uid", "");
    }
    let labels = &object.0["spec"]["template"]["metadata"]["labels"];
    let mut expected = Map::new();
    for (keys, value) in [(BY_UID, object.uid()), (BY_NAME, object.name())] {
        for key in keys {
            let field = format!("spec.template.metadata.labels[{key}]");
            match labels[key].as_str() {
                None => causes.required(&field, &format!("must be '{value}'")),
                Some(found) if found != value => {
                    let shown = labels.as_object().map_or_else(String::new, go::labels);
                    causes.invalid_as(&field, &shown, &format!("must be '{value}'"));
                }
                Some(_) => {}
            }
            expected.insert(key.to_owned(), value.into());
        }
    }
    let wanted = LabelSelector::from_value(object.get("/spec/selector"));
    if wanted.is_ok_and(|wanted| !wanted.matches(Some(&expected))) {
        let shown = go::label_selector(&object.0["spec"]["selector"]);
        causes.invalid_as("spec.selector", &shown, "`selector` not auto-generated");
    }
}

/// The pods of an indexed Job are hosts called `{name}-{index}`.
fn indexed_names(causes: &mut Causes, object: &Object) {
    let completions = object.integer("/spec/completions").unwrap_or_default();
    if object.text("/spec/completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let longest = format!("{}-{}", object.name(), completions - 1);
    if !names::dns_label(&longest).is_empty() {
        let why = format!("will not able to create pod with invalid DNS label: {longest}");
        causes.invalid("metadata.name", object.name(), &why);
    }
}

fn update(causes: &mut Causes, object: &Object, old: &Object) {
    let (new, before) = (&object.0["spec"], &old.0["spec"]);
    if new["completions"] != before["completions"] {
        if new["completionMode"] != "Indexed" {
            causes.immutable("spec.completions", &new["completions"], &before["completions"]);
        } else if !new["completions"].is_null() && new["completions"] != new["parallelism"] {
            let why = "can only be modified in tandem with spec.parallelism";
            causes.invalid("spec.completions", new["completions"].clone(), why);
        }
    }
    workload::selector_immutable(causes, new, before);
    let mut template = before["template"].clone();
    let has_not_begun = old.flag("/spec/suspend") && old.text("/status/startTime").is_empty();
    if has_not_begun {
        take_directives(&mut template, &new["template"]);
    }
    causes.immutable("spec.template", &new["template"], &template);
    for part in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        causes.immutable(&format!("spec.{part}"), &new[part], &before[part]);
    }
}

/// What may still be said about where the pods of a Job run that has not begun.
fn take_directives(wanted: &mut Value, new: &Value) {
    let mut object = Object(wanted.take());
    let take = |object: &mut Object, pointer: &str| match new.pointer(pointer) {
        Some(value) => object.set(pointer, value.clone()),
        None => drop(object.remove(pointer)),
    };
    for pointer in [
        "/spec/nodeSelector",
        "/spec/tolerations",
        "/spec/schedulingGates",
        "/metadata/annotations",
        "/metadata/labels",
    ] {
        take(&mut object, pointer);
    }
    let has_node_affinity = !new["spec"]["affinity"]["nodeAffinity"].is_null();
    take(&mut object, "/spec/affinity/nodeAffinity");
    // Nothing else in it: it came and goes as a whole.
    let is_empty = object.map("/spec/affinity").is_some_and(Map::is_empty);
    if !has_node_affinity && is_empty {
        take(&mut object, "/spec/affinity");
    }
    *wanted = object.0;
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let succeeded = object.integer("/status/succeeded").unwrap_or_default();
    let parallelism = object.integer("/spec/parallelism").unwrap_or_default();
    let completions = match object.integer("/spec/completions") {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let is = |condition: &str| object.condition_status(condition) == "True";
    let status = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if object.is_terminating() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () => "Running",
    };
    let took = object.time("/status/startTime").map(|started| {
        let ended = object.time("/status/completionTime").unwrap_or(now);
        duration::human(ended.duration_since(started).as_secs())
    });
    let mut cells = vec![
        object.name().into(),
        status.into(),
        completions.into(),
        took.unwrap_or_default().into(),
        age(object, now),
    ];
    cells.extend(containers(&object.0["spec"]["template"]));
    cells.push(selector(object.get("/spec/selector")));
    cells
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    /// The spec of a small Job.
    pub fn minimal() -> Value {
        json!({"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "a", "image": "x"}]}}})
    }

    fn bare(spec: Value) -> Object {
        Object(json!({
            "metadata": {"name": "sum", "namespace": "default", "uid": "u-1",
                "creationTimestamp": at(0).to_string()},
            "spec": spec,
        }))
    }

    fn job() -> Object {
        created(bare(minimal()))
    }

    fn created(mut object: Object) -> Object {
        (JOB.default)(&mut object);
        (JOB.prepare_create)(&mut object);
        object
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let job = job();
        assert_eq!(found(&JOB, &job, None), [""; 0]);
        assert_eq!(
            job.0["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}})
        );
        assert_eq!(
            job.0["spec"]["template"]["metadata"]["labels"],
            json!({"controller-uid": "u-1", "batch.kubernetes.io/controller-uid": "u-1",
                "job-name": "sum", "batch.kubernetes.io/job-name": "sum"})
        );
        let spec = &job.0["spec"];
        for (field, value) in [
            ("completions", json!(1)),
            ("parallelism", json!(1)),
            ("backoffLimit", json!(6)),
            ("completionMode", json!("NonIndexed")),
            ("suspend", json!(false)),
            ("manualSelector", json!(false)),
            ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ] {
            assert_eq!(spec[field], value, "{field}");
        }
    }

    #[test]
    fn a_selector_of_ones_own_needs_to_be_asked_for() {
        let mut spec = minimal();
        spec["template"]["metadata"] = json!({"labels": {"app": "sum"}});
        spec["selector"] = json!({"matchLabels": {"app": "sum"}});
        let mut manual = spec.clone();
        manual["manualSelector"] = true.into();
        let manual = created(bare(manual));
        assert_eq!(found(&JOB, &manual, None), [""; 0]);
        assert_eq!(manual.label("app"), Some("sum"), "labels come from the template");
        let lines = found(&JOB, &created(bare(spec.clone())), None);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("Invalid spec.selector: "), "{lines:?}");
        assert!(lines[0].ends_with("`selector` not auto-generated"), "{lines:?}");
        spec["selector"] = Value::Null;
        spec["template"]["metadata"]["labels"]["job-name"] = "other".into();
        let lines = found(&JOB, &created(bare(spec)), None);
        assert!(lines[0].starts_with("Invalid spec.template.metadata.labels[job-name]"), "{lines:?}");
    }

    #[test]
    fn wrong_jobs_are_named() {
        let mut long = job();
        long.set("/metadata/name", "x".repeat(62));
        for key in BY_NAME {
            long.0["spec"]["template"]["metadata"]["labels"][key] = "x".repeat(62).into();
        }
        long.set("/spec/completionMode", "Indexed");
        assert_eq!(found(&JOB, &long, None).len(), 1);
        let mut again = job();
        again.set("/spec/template/spec/restartPolicy", "Always");
        assert_eq!(
            found(&JOB, &again, None),
            ["Required spec.template.spec.restartPolicy: Required value: valid values: \
              \"OnFailure\", \"Never\""]
        );
    }

    #[test]
    fn only_some_of_it_may_change() {
        let old = job();
        let change = |old: &Object, pointer: &str, value: Value| {
            let mut new = old.clone();
            new.set(pointer, value);
            found(&JOB, &new, Some(old))
        };
        for (pointer, value, start) in [
            ("/spec/parallelism", json!(3), ""),
            ("/spec/suspend", json!(true), ""),
            ("/spec/completions", json!(2), "Invalid spec.completions"),
            ("/spec/template/spec/nodeSelector", json!({"a": "b"}), "Invalid spec.template"),
            ("/spec/managedBy", json!("a.b/c"), "Invalid spec.managedBy"),
        ] {
            let lines = change(&old, pointer, value);
            assert_eq!(lines.len(), usize::from(!start.is_empty()), "{lines:?}");
            assert!(lines.iter().all(|line| line.starts_with(start)), "{lines:?}");
        }
        let mut suspended = job();
        suspended.set("/spec/suspend", true);
        let node = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}});
        for (pointer, value) in [
            ("/spec/template/spec/nodeSelector", json!({"a": "b"})),
            ("/spec/template/spec/affinity", node),
            ("/spec/template/metadata/annotations", json!({"a": "b"})),
        ] {
            assert_eq!(change(&suspended, pointer, value), [""; 0], "{pointer}");
        }
        let mut indexed = job();
        indexed.set("/spec/completionMode", "Indexed");
        let mut wider = indexed.clone();
        wider.set("/spec/completions", 3);
        let lines = found(&JOB, &wider, Some(&indexed));
        assert!(lines[0].ends_with("can only be modified in tandem with spec.parallelism"));
        wider.set("/spec/parallelism", 3);
        assert_eq!(found(&JOB, &wider, Some(&indexed)), [""; 0]);
    }

    #[test]
    fn columns_are_kubectls() {
        let mut job = job();
        assert_eq!(
            row(&JOB, &job, 5),
            "sum|Running|0/1||5s|a|x|batch.kubernetes.io/controller-uid=u-1"
        );
        job.set("/status", json!({"startTime": at(10).to_string(), "succeeded": 1,
            "completionTime": at(40).to_string(),
            "conditions": [{"type": "Complete", "status": "True"}]}));
        assert!(row(&JOB, &job, 100).starts_with("sum|Complete|1/1|30s|100s|"));
    }
}
