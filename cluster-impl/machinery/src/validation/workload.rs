//! Validation shared by workloads: selector, template, counts of replicas.

use serde_json::Value;

use super::{Causes, go, items, metadata, pod_spec, selector, text};
use crate::LabelSelector;

/// Checks `spec.selector` and `spec.template` of a workload whose pods are restarted always.
pub fn selector_and_template(causes: &mut Causes, spec: &Value, kind: &str) {
    required_selector(causes, spec, kind);
    let wanted = &spec["template"];
    if wanted.is_null() {
        causes.required("spec.template", "");
        return;
    }
    template_is_selected(causes, spec);
    template(causes, wanted, "spec.template");
    restarted_always(causes, &wanted["spec"], "spec.template.spec", kind);
}

/// Checks `spec.selector`: there, well-formed and not empty.
pub fn required_selector(causes: &mut Causes, spec: &Value, kind: &str) {
    let wanted = &spec["selector"];
    if wanted.is_null() {
        causes.required("spec.selector", "");
        return;
    }
    selector::validate(causes, wanted, "spec.selector");
    if selector::is_empty(wanted) {
        // Upstream says `deployment` for a ReplicaSet, too.
        let kind = if kind == "ReplicaSet" { "Deployment" } else { kind };
        let detail = format!("empty selector is invalid for {}", kind.to_lowercase());
        causes.invalid_as("spec.selector", &go::label_selector(wanted), &detail);
    }
}

/// Checks that `spec.selector` selects the pods of `spec.template`.
pub fn template_is_selected(causes: &mut Causes, spec: &Value) {
    let labels = spec["template"]["metadata"]["labels"].as_object();
    let wanted = &spec["selector"];
    if !selector::is_empty(wanted)
        && LabelSelector::from_value(Some(wanted)).is_ok_and(|wanted| !wanted.matches(labels))
    {
        not_selected(causes, &spec["template"]);
    }
}

/// Says that a selector does not select the template's pods.
pub fn not_selected(causes: &mut Causes, template: &Value) {
    let labels = template["metadata"]["labels"].as_object();
    let shown = labels.map_or_else(|| "map[string]string(nil)".to_owned(), go::labels);
    causes.invalid_as(
        "spec.template.metadata.labels",
        &shown,
        "`selector` does not match template `labels`",
    );
}

/// Checks a template of pods at a field's path.
pub fn template(causes: &mut Causes, template: &Value, field: &str) {
    template_metadata(causes, template, field);
    pod_spec::validate(causes, &template["spec"], &format!("{field}.spec"), pod_spec::Of::Template);
    if items(&template["spec"]["ephemeralContainers"]).next().is_some() {
        causes.forbidden(
            &format!("{field}.spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Checks the labels and annotations of a template.
pub fn template_metadata(causes: &mut Causes, template: &Value, field: &str) {
    let given = &template["metadata"];
    metadata::labels(causes, &given["labels"], &format!("{field}.labels"));
    metadata::annotations(causes, &given["annotations"], &format!("{field}.annotations"));
}

/// Checks that the pods of a template are restarted always and without a deadline.
pub fn restarted_always(causes: &mut Causes, spec: &Value, field: &str, kind: &str) {
    let policy = text(&spec["restartPolicy"]);
    if !policy.is_empty() && policy != "Always" {
        causes.not_supported(&format!("{field}.restartPolicy"), policy, &["Always"]);
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        // Upstream says `ReplicaSet` for a Deployment, too.
        let kind = if kind == "Deployment" { "ReplicaSet" } else { kind };
        causes.forbidden(
            &format!("{field}.activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

/// A workload's selector must be what it was.
pub fn selector_immutable(causes: &mut Causes, new: &Value, old: &Value) {
    if new["selector"] != old["selector"] {
        let shown = go::label_selector(&new["selector"]);
        causes.invalid_as("spec.selector", &shown, "field is immutable");
    }
}

/// Checks counts of replicas in a status: none negative, none more than `replicas`, and no more
/// available than ready.
pub fn replica_counts(causes: &mut Causes, status: &Value, counts: &[&str], ready: &str) {
    causes.counts(status, &["observedGeneration", "replicas"]);
    causes.counts(status, counts);
    for count in counts.iter().filter(|count| **count != "unavailableReplicas") {
        causes.not_more(status, count, "replicas", "cannot be greater than status.replicas");
    }
    let detail = format!("cannot be greater than {ready}");
    causes.not_more(status, "availableReplicas", "readyReplicas", &detail);
}
