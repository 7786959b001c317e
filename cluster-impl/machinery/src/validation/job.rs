//! Validation of a Job's spec, on its own or in a CronJob's template, and of a Job's status.
//!
//! Limits: an indexed Job runs at most [`PARALLELISM_MAX`] pods at once; lists of policies hold at most
//! [`RULES_MAX`] rules.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, go, items, names, text, workload};
use crate::Object;

/// At most so many pods of an indexed Job run at once.
pub const PARALLELISM_MAX: i64 = 100_000;
/// A policy has at most so many rules.
pub const RULES_MAX: usize = 20;
const FAILED_INDEXES_MAX: i64 = 100_000;
/// Above so many completions, less may fail and run at once.
const COMPLETIONS_MANY: i64 = 100_000;
const WITH_MANY_MAX: i64 = 10_000;
const EXIT_CODES_MAX: usize = 255;
const MANAGED_BY_MAX: usize = 63;
const INDEXES_BYTES_MAX: usize = 64 * 1024;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// Checks the spec of a Job at a field's path, without its selector.
pub fn spec(causes: &mut Causes, spec: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    for part in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        causes.not_negative(&at(part), &spec[part]);
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        causes.required(&at("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        causes.required_name(&at("managedBy"), manager, names::domain_prefixed_path);
        if manager.len() > MANAGED_BY_MAX {
            causes.too_long(&at("managedBy"), MANAGED_BY_MAX);
        }
    }
    completion(causes, spec, field);
    if !spec["podFailurePolicy"].is_null() {
        failure_policy(causes, spec, &at("podFailurePolicy.rules"));
    }
    if !spec["successPolicy"].is_null() {
        if spec["completionMode"] == "Indexed" {
            success_policy(causes, spec, &at("successPolicy.rules"));
        } else {
            let value = spec["successPolicy"].clone();
            causes.invalid(&at("successPolicy"), value, "requires indexed completion mode");
        }
    }
    if let Some(policy) = spec["podReplacementPolicy"].as_str() {
        let supported: &[&str] = if spec["podFailurePolicy"].is_null() {
            &["Failed", "TerminatingOrFailed"]
        } else {
            &["Failed"]
        };
        if !supported.contains(&policy) {
            causes.not_supported(&at("podReplacementPolicy"), policy, supported);
        }
    }
    workload::template(causes, &spec["template"], &at("template"));
    restart_policy(causes, spec, &at("template.spec.restartPolicy"));
}

fn restart_policy(causes: &mut Causes, spec: &Value, field: &str) {
    match text(&spec["template"]["spec"]["restartPolicy"]) {
        "" | "Always" => causes.required(field, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec["podFailurePolicy"].is_null() => {}
        "OnFailure" => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.invalid(field, "OnFailure", why);
        }
        other => causes.not_supported(field, other, &["OnFailure", "Never"]),
    }
}

/// Checks what goes with the mode of completion.
fn completion(causes: &mut Causes, spec: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    let number = |part: &str| spec[part].as_i64();
    let mode = spec["completionMode"].as_str();
    if let Some(other) = mode.filter(|mode| !["NonIndexed", "Indexed"].contains(mode)) {
        causes.not_supported(&at("completionMode"), other, &["NonIndexed", "Indexed"]);
    }
    if mode.is_none_or(|mode| mode == "NonIndexed") {
        for part in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = number(part) {
                causes.invalid(&at(part), value, "requires indexed completion mode");
            }
        }
    }
    if mode != Some("Indexed") {
        return;
    }
    let (completions, parallelism) = (number("completions"), number("parallelism"));
    let failed = number("maxFailedIndexes");
    if completions.is_none() {
        causes.required(&at("completions"), "when completion mode is Indexed");
    }
    let mut at_most = |part: &str, value: Option<i64>, most: i64, when: &str| {
        if let Some(value) = value.filter(|value| *value > most) {
            let why = format!("must be less than or equal to {most}{when}");
            causes.invalid(&at(part), value, &why);
        }
    };
    at_most("parallelism", parallelism, PARALLELISM_MAX, " when completion mode is Indexed");
    at_most("maxFailedIndexes", failed, FAILED_INDEXES_MAX, "");
    let is_many = completions.is_some_and(|completions| completions > COMPLETIONS_MANY);
    if is_many && number("backoffLimitPerIndex").is_some() {
        let when = format!(
            " when completions are above {COMPLETIONS_MANY} and used with backoff limit per index"
        );
        at_most("parallelism", parallelism, WITH_MANY_MAX, &when);
        at_most("maxFailedIndexes", failed, WITH_MANY_MAX, &when);
        if failed.is_none() {
            let why = format!("must be specified when completions is above {COMPLETIONS_MANY}");
            causes.required(&at("maxFailedIndexes"), &why);
        }
    }
    if let (Some(failed), Some(completions)) = (failed, completions)
        && failed > completions
    {
        let why = "must be less than or equal to completions";
        causes.invalid(&at("maxFailedIndexes"), failed, why);
    }
}

fn failure_policy(causes: &mut Causes, spec: &Value, list: &str) {
    let rules = &spec["podFailurePolicy"]["rules"];
    let count = items(rules).count();
    if count > RULES_MAX {
        causes.too_many(list, count, RULES_MAX);
    }
    let pod = &spec["template"]["spec"];
    let containers: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| items(&pod[*list]))
        .map(|(_, container)| text(&container["name"]))
        .collect();
    for (index, rule) in items(rules) {
        let field = format!("{list}[{index}]");
        let action = text(&rule["action"]);
        let action_at = format!("{field}.action");
        if action == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            causes.invalid(&action_at, action, "requires the backoffLimitPerIndex to be set");
        }
        one_of(causes, &action_at, action, ACTIONS);
        let conditions = items(&rule["onPodConditions"]).count();
        if !rule["onExitCodes"].is_null() {
            let field = format!("{field}.onExitCodes");
            exit_codes(causes, &rule["onExitCodes"], &containers, &field);
        }
        pod_conditions(causes, &rule["onPodConditions"], &format!("{field}.onPodConditions"));
        match (rule["onExitCodes"].is_null(), conditions) {
            (false, 1..) => causes.invalid_whole(
                &field,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            ),
            (true, 0) => causes.invalid_whole(
                &field,
                "specifying one of OnExitCodes and OnPodConditions is required",
            ),
            _ => {}
        }
    }
}

/// A text must be one of a few, which are named if it is missing.
fn one_of(causes: &mut Causes, field: &str, value: &str, supported: &[&str]) {
    if value.is_empty() {
        let all: Vec<_> = supported.iter().map(|one| format!("{one:?}")).collect();
        causes.required(field, &format!("valid values: [{}]", all.join(" ")));
    } else if !supported.contains(&value) {
        causes.not_supported(field, value, supported);
    }
}

fn pod_conditions(causes: &mut Causes, patterns: &Value, list: &str) {
    let count = items(patterns).count();
    if count > RULES_MAX {
        causes.too_many(list, count, RULES_MAX);
    }
    for (index, pattern) in items(patterns) {
        let field = format!("{list}[{index}]");
        let kind = text(&pattern["type"]);
        causes.name(&format!("{field}.type"), kind, names::qualified_name);
        one_of(causes, &format!("{field}.status"), text(&pattern["status"]), STATUSES);
    }
}

fn exit_codes(causes: &mut Causes, wanted: &Value, containers: &BTreeSet<&str>, field: &str) {
    let operator = text(&wanted["operator"]);
    one_of(causes, &format!("{field}.operator"), operator, OPERATORS);
    if let Some(name) = wanted["containerName"].as_str().filter(|name| !containers.contains(name)) {
        causes.invalid(
            &format!("{field}.containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let values: Vec<i64> =
        items(&wanted["values"]).map(|(_, code)| code.as_i64().unwrap_or_default()).collect();
    let list = format!("{field}.values");
    let shown = || {
        let all: Vec<_> = values.iter().map(i64::to_string).collect();
        format!("[]int32{{{}}}", all.join(", "))
    };
    if values.is_empty() {
        let shown = go::texts("int32", &wanted["values"]);
        causes.invalid_as(&list, &shown, "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        causes.too_many(&list, values.len(), EXIT_CODES_MAX);
    }
    let mut seen = BTreeSet::new();
    for (index, code) in values.iter().enumerate() {
        let at = format!("{list}[{index}]");
        if operator == "In" && *code == 0 {
            causes.invalid(&at, 0, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            causes.duplicate(&at, *code);
        }
    }
    if !values.is_sorted() {
        causes.invalid_as(&list, &shown(), "must be ordered");
    }
}

fn success_policy(causes: &mut Causes, spec: &Value, list: &str) {
    let rules = &spec["successPolicy"]["rules"];
    let count = items(rules).count();
    if count == 0 {
        let why = "at least one rules must be specified when the successPolicy is specified";
        causes.required(list, why);
    } else if count > RULES_MAX {
        causes.too_many(list, count, RULES_MAX);
    }
    let completions = spec["completions"].as_i64().unwrap_or_default();
    for (index, rule) in items(rules) {
        let field = format!("{list}[{index}]");
        let (indexes, wanted) =
            (rule["succeededIndexes"].as_str(), rule["succeededCount"].as_i64());
        if indexes.is_none() && wanted.is_none() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            causes.required(&field, why);
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let at = format!("{field}.succeededIndexes");
            if indexes.len() > INDEXES_BYTES_MAX {
                causes.too_long(&at, INDEXES_BYTES_MAX);
            }
            match count_indexes(indexes, completions) {
                Ok(count) => total = count,
                Err(why) => {
                    let why = format!("error parsing succeededIndexes: {why}");
                    causes.invalid(&at, indexes, &why);
                }
            }
        }
        let at = format!("{field}.succeededCount");
        causes.not_negative(&at, &rule["succeededCount"]);
        for (most, what, counts) in [
            (completions, "the number of specified completions", true),
            (
                total,
                "the number of indexes in the specified succeededIndexes field",
                indexes.is_some(),
            ),
        ] {
            if let Some(wanted) = wanted.filter(|wanted| counts && *wanted > most) {
                let why = format!("must be less than or equal to {most} ({what})");
                causes.invalid(&at, wanted, &why);
            }
        }
    }
}

/// Counts the indexes of a text such as `0,2-4`.
pub fn count_indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    Ok(intervals(indexes, completions)?.iter().map(|(first, last)| last - first + 1).sum())
}

/// The intervals of a text such as `0,2-4`: first and last index of each, in rising order.
fn intervals(indexes: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let number = |text: &str| {
        let number: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    let order = |previous, current| {
        format!("non-increasing order, previous: {previous}, current: {current}")
    };
    let mut all: Vec<(i64, i64)> = Vec::new();
    for fragment in indexes.split(',').filter(|_| !indexes.is_empty()) {
        let limits: Vec<&str> = fragment.split('-').collect();
        let (first, last) = match limits.as_slice() {
            [one] => {
                let one = number(one)?;
                (one, one)
            }
            [first, last] => {
                let (first, last) = (number(first)?, number(last)?);
                if first >= last {
                    return Err(order(first, last));
                }
                (first, last)
            }
            _ => {
                return Err(format!(
                    "the fragment {fragment:?} violates the requirement that an index interval can \
                     have at most two parts separated by '-'"
                ));
            }
        };
        if let Some((_, previous)) = all.last().filter(|(_, previous)| *previous >= first) {
            return Err(order(*previous, first));
        }
        all.push((first, last));
    }
    Ok(all)
}

/// Checks a change of a Job's status.
pub fn status_update(causes: &mut Causes, object: &Object, old: &Object) {
    let (status, before) = (&object.0["status"], &old.0["status"]);
    causes.counts(status, &["active", "succeeded", "failed", "ready", "terminating"]);
    uncounted(causes, status);
    let is = |object: &Object, condition: &str| object.condition_status(condition) == "True";
    let (complete, failed) = (is(object, "Complete"), is(object, "Failed"));
    let mut conditions = |wrong: bool, why: &str| {
        if wrong {
            causes.invalid_whole("status.conditions", why);
        }
    };
    let (met, target) = (is(object, "SuccessCriteriaMet"), is(object, "FailureTarget"));
    conditions(complete && failed, "cannot set Complete=True and Failed=true conditions");
    conditions(complete && target, "cannot set Complete=True and FailureTarget=true conditions");
    conditions(
        failed && !is(old, "Failed") && !target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    conditions(
        complete && !is(old, "Complete") && !met,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    conditions(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    conditions(
        met && target,
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    for condition in ["Failed", "Complete", "FailureTarget"] {
        let why = format!("cannot disable the terminal {condition}=True condition");
        conditions(is(old, condition) && !is(object, condition), &why);
    }
    conditions(
        is(old, "SuccessCriteriaMet") && !met,
        "cannot disable the SuccessCriteriaMet=True condition",
    );
    times(causes, object, old, complete);
    let number = |status: &Value, part: &str| status[part].as_i64().unwrap_or_default();
    if complete || failed {
        for part in ["active", "terminating"] {
            if number(status, part) > 0 {
                let why = format!("{part}>0 is invalid for finished job");
                causes.invalid(&format!("status.{part}"), number(status, part), &why);
            }
        }
    }
    causes.not_more(status, "ready", "active", "cannot set more ready pods than active");
    for part in ["failed", "succeeded"] {
        if number(status, part) < number(before, part) {
            let why = format!("cannot decrease the {part} counter");
            causes.invalid(&format!("status.{part}"), number(status, part), &why);
        }
    }
    status_indexes(causes, object);
}

fn times(causes: &mut Causes, object: &Object, old: &Object, complete: bool) {
    let time = |object: &Object, part: &str| object.time(&format!("/status/{part}"));
    let (started, completed) = (time(object, "startTime"), time(object, "completionTime"));
    const COMPLETED: &str = "status.completionTime";
    let shown = object.text("/status/completionTime");
    match completed {
        Some(_) if !complete => causes.invalid(
            COMPLETED,
            shown,
            "cannot set completionTime when there is no Complete=True condition",
        ),
        None if complete => {
            causes.required(COMPLETED, "completionTime is required for Complete jobs");
        }
        _ => {}
    }
    if let (Some(started), Some(completed)) = (started, completed)
        && completed < started
    {
        causes.invalid(COMPLETED, shown, "completionTime cannot be set before startTime");
    }
    if let (Some(now), Some(before)) = (completed, time(old, "completionTime"))
        && now != before
    {
        causes.invalid(COMPLETED, shown, "completionTime cannot be mutated");
    }
    if started.is_none() && (complete || object.condition_status("Failed") == "True") {
        causes.required("status.startTime", "startTime is required for finished job");
    }
    if let Some(before) = time(old, "startTime")
        && started != Some(before)
        && !object.flag("/spec/suspend")
    {
        causes.required("status.startTime", "startTime cannot be removed for unsuspended job");
    }
}

fn uncounted(causes: &mut Causes, status: &Value) {
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        for (index, uid) in items(&status["uncountedTerminatedPods"][list]) {
            let field = format!("status.uncountedTerminatedPods.{list}[{index}]");
            if text(uid).is_empty() {
                causes.invalid(&field, "", "must not be empty");
            } else if !seen.insert(text(uid)) {
                causes.duplicate(&field, text(uid));
            }
        }
    }
    let finished = items(&status["conditions"]).any(|(_, one)| {
        ["Complete", "Failed"].contains(&text(&one["type"])) && one["status"] == "True"
    });
    if finished && !seen.is_empty() {
        let value = status["uncountedTerminatedPods"].clone();
        let why = "uncountedTerminatedPods needs to be empty for finished job";
        causes.invalid("status.uncountedTerminatedPods", value, why);
    }
}

fn status_indexes(causes: &mut Causes, object: &Object) {
    let is_indexed = object.text("/spec/completionMode") == "Indexed";
    let completed = object.text("/status/completedIndexes");
    let failed = object.get("/status/failedIndexes").and_then(Value::as_str);
    let mut wrong = |part: &str, value: &str, why: &str| {
        causes.invalid(&format!("status.{part}"), value, why);
    };
    if !is_indexed && !completed.is_empty() {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        wrong("completedIndexes", completed, why);
    }
    if let Some(failed) = failed.filter(|_| object.integer("/spec/backoffLimitPerIndex").is_none())
    {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        wrong("failedIndexes", failed, why);
    }
    let Some(completions) = object.integer("/spec/completions") else { return };
    let failed = failed.unwrap_or_default();
    match (intervals(completed, completions), intervals(failed, completions)) {
        (Err(why), _) => {
            let why = format!("error parsing completedIndexes: {why}");
            wrong("completedIndexes", completed, &why);
        }
        (_, Err(why)) => {
            wrong("failedIndexes", failed, &format!("error parsing failedIndexes: {why}"));
        }
        (Ok(done), Ok(lost)) => {
            let both = done.iter().find_map(|(first, last)| {
                // Both are in order.
                let at = lost.partition_point(|(_, to)| to < first);
                let other = lost.get(at).filter(|(from, _)| from <= last)?;
                Some((*first).max(other.0))
            });
            if let Some(index) = both {
                let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
                wrong("failedIndexes", failed, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn indexes_are_read() {
        for (text, expected) in [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("0,2-4", Ok(4)),
            ("5", Err("too large index: \"5\"")),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            ("3-1", Err("non-increasing order, previous: 3, current: 1")),
            ("2,1", Err("non-increasing order, previous: 2, current: 1")),
            (
                "1-2-3",
                Err("the fragment \"1-2-3\" violates the requirement that an index interval \
                can have at most two parts separated by '-'"),
            ),
        ] {
            assert_eq!(count_indexes(text, 5), expected.map_err(str::to_owned), "{text}");
        }
    }

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut job = json!({"completions": 3, "parallelism": 1, "completionMode": "Indexed",
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "a", "image": "x"}]}}});
        change(&mut job);
        crate::defaulting::template(&mut job);
        let mut causes = Causes::new();
        spec(&mut causes, &job, "s");
        lines(&causes.into_list())
    }

    type Change = fn(&mut Value);

    /// Checks that each change to a good specification is complained of once, so, or not at all.
    fn check(cases: &[(Change, &str)]) {
        for (change, start) in cases {
            let found = found(change);
            assert_eq!(found.len(), usize::from(!start.is_empty()), "{start}: {found:?}");
            assert!(found.iter().all(|line| line.starts_with(start)), "{start}: {found:?}");
        }
    }

    #[test]
    fn numbers_and_modes_are_checked() {
        check(&[
            (|_| {}, ""),
            (|s| s["backoffLimit"] = (-1).into(), "Invalid s.backoffLimit"),
            (|s| s["completionMode"] = "Sorted".into(), "NotSupported s.completionMode"),
            (|s| s["completions"] = Value::Null, "Required s.completions: Required value: when"),
            (|s| s["parallelism"] = 100_001.into(), "Invalid s.parallelism: Invalid value: 100001"),
            (|s| s["maxFailedIndexes"] = 1.into(), "Required s.backoffLimitPerIndex"),
            (|s| s["managedBy"] = "me".into(), "Invalid s.managedBy"),
            (
                |s| s["template"]["spec"]["restartPolicy"] = "Always".into(),
                "Required s.template.spec.restartPolicy: Required value: valid values: \
                 \"OnFailure\", \"Never\"",
            ),
            (|s| s["podReplacementPolicy"] = "Never".into(), "NotSupported s.podReplacementPolicy"),
            (
                |s| {
                    s["completionMode"] = "NonIndexed".into();
                    s["backoffLimitPerIndex"] = 1.into();
                },
                "Invalid s.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            ),
        ]);
    }

    #[test]
    fn policies_are_checked() {
        check(&[
            (
                |s| {
                    s["podFailurePolicy"] = json!({"rules": [{"action": "FailJob",
                        "onExitCodes": {"operator": "In", "values": [1]}}]});
                    s["template"]["spec"]["restartPolicy"] = "OnFailure".into();
                },
                "Invalid s.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\"",
            ),
            (
                |s| {
                    s["podFailurePolicy"] = json!({"rules": [{"action": "Panic",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]})
                },
                "NotSupported s.podFailurePolicy.rules[0].action",
            ),
            (
                |s| {
                    s["podFailurePolicy"] = json!({"rules": [{"action": "FailIndex",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]})
                },
                "Invalid s.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires",
            ),
            (
                |s| s["podFailurePolicy"] = json!({"rules": [{"action": "Ignore"}]}),
                "Invalid s.podFailurePolicy.rules[0]: Invalid value: specifying one of",
            ),
            (
                |s| {
                    s["podFailurePolicy"] = json!({"rules": [{"action": "Ignore",
                    "onExitCodes": {"operator": "In", "values": [3, 1]}}]})
                },
                "Invalid s.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: \
                 []int32{3, 1}: must be ordered",
            ),
            (
                |s| {
                    s["podFailurePolicy"] = json!({"rules": [{"action": "Ignore",
                    "onExitCodes": {"operator": "In", "values": [1], "containerName": "b"}}]})
                },
                "Invalid s.podFailurePolicy.rules[0].onExitCodes.containerName",
            ),
            (|s| s["successPolicy"] = json!({}), "Required s.successPolicy.rules"),
            (
                |s| s["successPolicy"] = json!({"rules": [{"succeededCount": 4}]}),
                "Invalid s.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less \
                 than or equal to 3 (the number of specified completions)",
            ),
            (
                |s| s["successPolicy"] = json!({"rules": [{"succeededIndexes": "0-5"}]}),
                "Invalid s.successPolicy.rules[0].succeededIndexes",
            ),
        ]);
    }

    #[test]
    fn a_status_only_goes_forward() {
        let job = |status: Value| Object(json!({"spec": {"completions": 2}, "status": status}));
        let condition = |name: &str| json!({"type": name, "status": "True"});
        let ended = json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 2,
            "completionTime": "2026-01-01T00:00:05Z",
            "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]});
        let mut early = ended.clone();
        early["completionTime"] = "2025-01-01T00:00:00Z".into();
        for (old, new, starts) in [
            (json!({}), ended.clone(), vec![]),
            (
                json!({}),
                json!({"conditions": [condition("Complete")]}),
                vec![
                    "Invalid status.conditions",
                    "Required status.completionTime",
                    "Required status.startTime",
                ],
            ),
            (json!({}), early, vec!["Invalid status.completionTime"]),
            (
                json!({"failed": 2}),
                json!({"failed": 1, "active": 1, "ready": 2}),
                vec!["Invalid status.ready", "Invalid status.failed"],
            ),
            (
                ended.clone(),
                json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 2}),
                vec![
                    "Invalid status.conditions: Invalid value: cannot disable the terminal Complete",
                    "Invalid status.conditions: Invalid value: cannot disable the SuccessCriteriaMet",
                ],
            ),
            (json!({}), json!({"completedIndexes": "0"}), vec!["Invalid status.completedIndexes"]),
        ] {
            let mut causes = Causes::new();
            status_update(&mut causes, &job(new.clone()), &job(old));
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), starts.len(), "{new}: {found:?}");
            for (line, start) in found.iter().zip(starts) {
                assert!(line.starts_with(start), "{start}: {found:?}");
            }
        }
    }
}
