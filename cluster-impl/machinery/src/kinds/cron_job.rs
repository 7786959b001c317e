//! CronJob.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::{
    AGE, Kind, NAME, age, column, containers, create_without_status, job, keep_status, or, selector,
};
use crate::defaulting::{absent, empty, inside, part, zero};
use crate::validation::{Causes, go, is_new_spec, job as rules, metadata, names, text};
use crate::{Cause, Object, cron, duration};

/// A Job of a CronJob is called `{name}-{minute}`, which takes 11 of 63 characters.
const NAME_LENGTH_MAX: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

/// The names of the IANA time zone database; a list, as what a server accepts must not hang on the files
/// of its machine.
static TIME_ZONES: LazyLock<BTreeSet<&str>> =
    LazyLock::new(|| include_str!("../../schema/time-zones.txt").lines().collect());

/// CronJob.
pub static CRON_JOB: Kind = Kind {
    id: "cronjobs.batch",
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    short_names: &["cj"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[],
    has_generation: true,
    selectable: &[],
    default,
    prepare_create: create_without_status,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Schedule", "string", 0),
        column("Timezone", "string", 0),
        column("Suspend", "boolean", 0),
        column("Active", "integer", 0),
        column("Last Schedule", "string", 0),
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
    zero(spec, "concurrencyPolicy", "Allow");
    absent(spec, "suspend", false);
    absent(spec, "successfulJobsHistoryLimit", 3);
    absent(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = part(spec, "jobTemplate")
        && let Some(spec) = part(template, "spec")
        && inside(spec, "template").is_some()
    {
        job::default_spec(spec);
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    if old.is_none() && object.name().len() > NAME_LENGTH_MAX {
        let why = format!("must be no more than {NAME_LENGTH_MAX} characters");
        causes.invalid("metadata.name", object.name(), &why);
    }
    if !is_new_spec(object, old) {
        return causes.into_list();
    }
    let (spec, before) = (&object.0["spec"], old.map(|old| &old.0["spec"]));
    schedule(&mut causes, spec, before.map_or("", |before| text(&before["schedule"])));
    if before.is_none_or(|before| before["timeZone"] != spec["timeZone"]) {
        time_zone(&mut causes, &spec["timeZone"]);
    }
    causes.one_of("spec.concurrencyPolicy", text(&spec["concurrencyPolicy"]), POLICIES);
    for part in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        causes.not_negative(&format!("spec.{part}"), &spec[part]);
    }
    let job = &spec["jobTemplate"]["spec"];
    rules::spec(&mut causes, job, "spec.jobTemplate.spec");
    if !job["selector"].is_null() {
        let shown = go::label_selector(&job["selector"]);
        let why = "`selector` will be auto-generated";
        causes.invalid_as("spec.jobTemplate.spec.selector", &shown, why);
    }
    if job["manualSelector"] == true {
        let field = "spec.jobTemplate.spec.manualSelector";
        causes.not_supported(field, "true", &["nil", "false"]);
    }
    causes.into_list()
}

/// Checks the schedule; one that named its zone before may go on doing so.
fn schedule(causes: &mut Causes, spec: &Value, before: &str) {
    const FIELD: &str = "spec.schedule";
    let schedule = text(&spec["schedule"]);
    if schedule.is_empty() {
        causes.required(FIELD, "");
        return;
    }
    if let Err(why) = cron::parse(schedule) {
        causes.invalid(FIELD, schedule, &why);
    }
    if !schedule.contains("TZ") {
        return;
    }
    if !before.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        causes.invalid(FIELD, schedule, why);
    } else if !spec["timeZone"].is_null() {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        causes.invalid(FIELD, schedule, why);
    }
}

fn time_zone(causes: &mut Causes, zone: &Value) {
    const FIELD: &str = "spec.timeZone";
    let Some(zone) = zone.as_str() else { return };
    if zone.is_empty() {
        causes.invalid(FIELD, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("Local") {
        causes.invalid(
            FIELD,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if !TIME_ZONES.contains(zone) {
        causes.invalid(FIELD, zone, &format!("unknown time zone {zone}"));
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let last = object.time("/status/lastScheduleTime");
    let suspend = match object.get("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let job = &object.0["spec"]["jobTemplate"]["spec"];
    let mut cells = vec![
        object.name().into(),
        object.text("/spec/schedule").into(),
        or(object.text("/spec/timeZone"), "<none>"),
        suspend.into(),
        object.list("/status/active").len().into(),
        last.map_or_else(|| "<none>".to_owned(), |last| duration::age(Some(last), now)).into(),
        age(object, now),
    ];
    cells.extend(containers(&job["template"]));
    cells.push(selector(job.get("selector")));
    cells
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::job::tests::minimal;
    use super::super::tests::{at, found, row};
    use super::*;

    fn cron_job() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "report", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": minimal()}},
        }));
        (CRON_JOB.default)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = cron_job();
        assert_eq!(found(&CRON_JOB, &object, None), [""; 0]);
        let spec = &object.0["spec"];
        assert_eq!(
            (&spec["concurrencyPolicy"], &spec["suspend"]),
            (&json!("Allow"), &json!(false))
        );
        assert_eq!(
            (&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]),
            (&json!(3), &json!(1))
        );
        let job = &spec["jobTemplate"]["spec"];
        assert_eq!(job["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(job.get("completions"), None, "a Job's own defaults are its own");
        assert_eq!(
            row(&CRON_JOB, &object, 5),
            "report|*/5 * * * *|<none>|False|0|<none>|5s|a|x|<none>"
        );
    }

    #[test]
    fn wrong_cron_jobs_are_named() {
        type Change = fn(&mut Object);
        let cases: &[(Change, &str)] = &[
            (|o| o.set("/spec/schedule", "@hourly"), ""),
            (|o| o.set("/spec/timeZone", "Asia/Seoul"), ""),
            (|o| o.set("/spec/schedule", ""), "Required spec.schedule"),
            (
                |o| o.set("/spec/schedule", "* * * *"),
                "Invalid spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4",
            ),
            (
                |o| o.set("/spec/schedule", "TZ=UTC 0 * * * *"),
                "Invalid spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ",
            ),
            (
                |o| o.set("/spec/timeZone", "Asia/Atlantis"),
                "Invalid spec.timeZone: Invalid value: \"Asia/Atlantis\": unknown time zone \
                 Asia/Atlantis",
            ),
            (|o| o.set("/spec/timeZone", "local"), "Invalid spec.timeZone"),
            (|o| o.set("/spec/timeZone", ""), "Invalid spec.timeZone"),
            (|o| o.set("/spec/concurrencyPolicy", "Queue"), "NotSupported spec.concurrencyPolicy"),
            (|o| o.set("/spec/failedJobsHistoryLimit", -1), "Invalid spec.failedJobsHistoryLimit"),
            (|o| o.set("/metadata/name", "x".repeat(53)), "Invalid metadata.name"),
            (
                |o| o.set("/spec/jobTemplate/spec/manualSelector", true),
                "NotSupported spec.jobTemplate.spec.manualSelector",
            ),
            (
                |o| o.set("/spec/jobTemplate/spec/selector", json!({"matchLabels": {"a": "b"}})),
                "Invalid spec.jobTemplate.spec.selector",
            ),
            (
                |o| o.set("/spec/jobTemplate/spec/template/spec/restartPolicy", "Always"),
                "Required spec.jobTemplate.spec.template.spec.restartPolicy",
            ),
        ];
        for (change, start) in cases {
            let mut object = cron_job();
            change(&mut object);
            let found = found(&CRON_JOB, &object, None);
            assert_eq!(found.len(), usize::from(!start.is_empty()), "{start}: {found:?}");
            assert!(found.iter().all(|line| line.starts_with(start)), "{start}: {found:?}");
        }
    }

    #[test]
    fn what_was_allowed_once_stays_allowed() {
        let mut old = cron_job();
        old.set("/spec/schedule", "TZ=UTC 0 * * * *");
        old.set("/metadata/name", "x".repeat(60));
        let mut new = old.clone();
        new.set("/spec/suspend", true);
        assert_eq!(found(&CRON_JOB, &new, Some(&old)), [""; 0]);
    }
}
