//! Validation shared by workloads: replicas, selector, template.

use serde_json::Value;

use super::{Causes, go, metadata, pod_spec, selector, template_only_fields};
use crate::LabelSelector;

/// Checks `spec.selector` and `spec.template` of a workload. `kind` is written in lower case in messages.
pub fn selector_and_template(causes: &mut Causes, spec: &Value, kind: &str) {
    let wanted = &spec["selector"];
    if wanted.is_null() {
        causes.required("spec.selector", "");
    } else {
        selector::validate(causes, wanted, "spec.selector");
        if selector::is_empty(wanted) {
            let detail = format!("empty selector is invalid for {}", kind.to_lowercase());
            causes.invalid_as("spec.selector", &go::label_selector(wanted), &detail);
        }
    }
    let template = &spec["template"];
    if template.is_null() {
        causes.required("spec.template", "");
        return;
    }
    let labels = template["metadata"]["labels"].as_object();
    if !selector::is_empty(wanted)
        && LabelSelector::from_value(Some(wanted)).is_ok_and(|wanted| !wanted.matches(labels))
    {
        let shown = labels.map_or_else(|| "map[string]string(nil)".to_owned(), go::labels);
        causes.invalid_as(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        );
    }
    metadata::labels(causes, &template["metadata"]["labels"], "spec.template.metadata.labels");
    metadata::annotations(
        causes,
        &template["metadata"]["annotations"],
        "spec.template.metadata.annotations",
    );
    pod_spec::validate(causes, &template["spec"], "spec.template.spec");
    template_only_fields(causes, &template["spec"], "spec.template.spec", kind);
}

/// A workload's selector must be what it was.
pub fn selector_immutable(causes: &mut Causes, new: &Value, old: &Value) {
    if new["selector"] != old["selector"] {
        let shown = go::label_selector(&new["selector"]);
        causes.invalid_as("spec.selector", &shown, "field is immutable");
    }
}
