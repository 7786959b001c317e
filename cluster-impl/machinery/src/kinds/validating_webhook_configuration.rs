//! ValidatingWebhookConfiguration, and the checks of webhooks and rules that its kin share.
//!
//! Limit: match conditions are not compiled, only looked at for their shape.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::defaulting::{absent, each, empty, inside};
use crate::validation::{Causes, go_strings, items, metadata, names, network, selector, text};
use crate::{Cause, Object};

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const CONDITIONS_MAX: usize = 64;

/// ValidatingWebhookConfiguration.
pub static VALIDATING_WEBHOOK_CONFIGURATION: Kind = Kind {
    id: "validatingwebhookconfigurations.admissionregistration.k8s.io",
    group: "admissionregistration.k8s.io",
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    namespaced: false,
    has_generation: true,
    default: |object| default(object, false),
    validate: |object, old| validate(object, old, false),
    columns: &[NAME, column("Webhooks", "integer", 0), AGE],
    cells: |object, now| {
        vec![object.name().into(), object.list("/webhooks").len().into(), age(object, now)]
    },
    ..PLAIN
};

/// The defaults of a configuration's webhooks.
pub(super) fn default(object: &mut Object, is_mutating: bool) {
    for hook in each(&mut object.0, "webhooks") {
        absent(hook, "failurePolicy", "Fail");
        absent(hook, "matchPolicy", "Equivalent");
        absent(hook, "namespaceSelector", empty());
        absent(hook, "objectSelector", empty());
        absent(hook, "timeoutSeconds", 10);
        if is_mutating {
            absent(hook, "reinvocationPolicy", "Never");
        }
        for rule in each(hook, "rules") {
            absent(rule, "scope", "*");
        }
        let service = inside(hook, "clientConfig").and_then(|config| inside(config, "service"));
        if let Some(service) = service {
            absent(service, "port", 443);
        }
    }
}

/// What is wrong with a configuration.
pub(super) fn validate(object: &Object, old: Option<&Object>, is_mutating: bool) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let mut seen = BTreeSet::new();
    for (index, hook) in items(&object.0["webhooks"]) {
        let field = format!("webhooks[{index}]");
        validate_hook(&mut causes, hook, &field, is_mutating);
        review_versions(&mut causes, hook, &format!("{field}.admissionReviewVersions"));
        let name = text(&hook["name"]);
        if !name.is_empty() && !seen.insert(name) {
            causes.duplicate(&format!("{field}.name"), name);
        }
    }
    causes.into_list()
}

fn validate_hook(causes: &mut Causes, hook: &Value, field: &str, is_mutating: bool) {
    network::fully_qualified_name(causes, &format!("{field}.name"), text(&hook["name"]));
    for (index, rule) in items(&hook["rules"]) {
        rule_with_operations(causes, rule, &format!("{field}.rules[{index}]"));
    }
    supported(causes, hook, field, "failurePolicy", FAILURE_POLICIES);
    supported(causes, hook, field, "matchPolicy", MATCH_POLICIES);
    if hook["sideEffects"].is_null() {
        let why = format!("must specify one of {}", NO_SIDE_EFFECTS.join(", "));
        causes.required(&format!("{field}.sideEffects"), &why);
    }
    supported(causes, hook, field, "sideEffects", NO_SIDE_EFFECTS);
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|n| !(1..=30).contains(n)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        causes.invalid(&format!("{field}.timeoutSeconds"), seconds, why);
    }
    for part in ["namespaceSelector", "objectSelector"] {
        selector::validate(causes, &hook[part], &format!("{field}.{part}"));
    }
    if is_mutating {
        supported(causes, hook, field, "reinvocationPolicy", &["IfNeeded", "Never"]);
    }
    client(causes, &hook["clientConfig"], &format!("{field}.clientConfig"));
    match_conditions(causes, &hook["matchConditions"], &format!("{field}.matchConditions"));
}

fn supported(causes: &mut Causes, at: &Value, field: &str, name: &str, values: &[&str]) {
    if let Some(value) = at[name].as_str().filter(|value| !values.contains(value)) {
        causes.not_supported(&format!("{field}.{name}"), value, values);
    }
}

/// Checks how a webhook is reached.
pub(super) fn client(causes: &mut Causes, config: &Value, field: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    match (config["url"].as_str(), config["service"].is_object()) {
        (Some(url), false) => {
            let field = format!("{field}.url");
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            if scheme != "https" {
                let why = format!("'https' is the only allowed URL scheme{FORM}");
                causes.invalid(&field, scheme, &why);
            }
            let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
            let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
            let host = rest.split('/').next().unwrap_or_default();
            if host.is_empty() || scheme.is_empty() {
                causes.invalid(&field, "", &format!("host must be specified{FORM}"));
            }
            if let Some((user, _)) = host.split_once('@') {
                causes.invalid(&field, user, "user information is not permitted in the URL");
            }
            if !fragment.is_empty() {
                causes.invalid(&field, fragment, "fragments are not permitted in the URL");
            }
            if !query.is_empty() {
                causes.invalid(&field, query, "query parameters are not permitted in the URL");
            }
        }
        (None, true) => service(causes, &config["service"], &format!("{field}.service")),
        _ => causes.required(field, "exactly one of url or service is required"),
    }
}

fn service(causes: &mut Causes, service: &Value, field: &str) {
    for part in ["name", "namespace"] {
        if text(&service[part]).is_empty() {
            let why = format!("service {part} is required");
            causes.required(&format!("{field}.{part}"), &why);
        }
    }
    let port = service["port"].as_i64().unwrap_or_default();
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        causes.invalid(&format!("{field}.port"), port, why);
    }
    let (field, path) = (format!("{field}.path"), text(&service["path"]));
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        return causes.invalid(&field, path, "segment[0] may not be empty");
    }
    let Some(steps) = path.strip_prefix('/') else {
        return causes.invalid(&field, path, "must start with a '/'");
    };
    for (index, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            causes.invalid(&field, path, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for why in names::dns_subdomain(step) {
            causes.invalid(&field, path, &format!("segment[{index}]: {why}"));
        }
    }
}

fn review_versions(causes: &mut Causes, hook: &Value, field: &str) {
    let versions = &hook["admissionReviewVersions"];
    if items(versions).next().is_none() {
        return causes.required(field, "must specify one of v1, v1beta1");
    }
    let mut seen = BTreeSet::new();
    for (index, version) in items(versions) {
        let (field, version) = (format!("{field}[{index}]"), text(version));
        if !seen.insert(version) {
            causes.invalid(&field, version, "duplicate version");
            continue;
        }
        causes.name(&field, version, names::dns_1035_label);
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        causes.invalid_as(field, &go_strings(versions), "must include at least one of v1, v1beta1");
    }
}

/// Checks match conditions.
pub(super) fn match_conditions(causes: &mut Causes, list: &Value, field: &str) {
    let count = items(list).count();
    if count > CONDITIONS_MAX {
        causes.too_many(field, count, CONDITIONS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (index, condition) in items(list) {
        let (field, name) = (format!("{field}[{index}]"), text(&condition["name"]));
        if text(&condition["expression"]).trim().is_empty() {
            causes.required(&format!("{field}.expression"), "");
        }
        causes.required_name(&format!("{field}.name"), name, names::qualified_name);
        if !name.is_empty() && !seen.insert(name) {
            causes.duplicate(&format!("{field}.name"), name);
        }
    }
}

/// Checks a rule with its operations.
pub(super) fn rule_with_operations(causes: &mut Causes, rule: &Value, field: &str) {
    let list = |part: &str| items(&rule[part]).map(|(_, one)| text(one)).collect::<Vec<_>>();
    for (part, what) in [
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
    ] {
        let (field, values) = (format!("{field}.{part}"), list(part));
        if values.is_empty() {
            causes.required(&field, "");
        }
        if values.len() > 1 && values.contains(&"*") {
            let why = format!("if '*' is present, must not specify other {what}");
            causes.invalid_as(&field, &go_strings(&rule[part]), &why);
        }
        for (index, value) in values.iter().enumerate() {
            let field = format!("{field}[{index}]");
            match part {
                "operations" if !OPERATIONS.contains(value) => {
                    causes.not_supported(&field, value, OPERATIONS);
                }
                "apiVersions" if value.is_empty() => causes.required(&field, ""),
                _ => {}
            }
        }
    }
    resources(causes, &list("resources"), &rule["resources"], &format!("{field}.resources"));
    supported(causes, rule, field, "scope", SCOPES);
}

fn resources(causes: &mut Causes, list: &[&str], value: &Value, field: &str) {
    if list.is_empty() {
        causes.required(field, "");
    }
    let (mut whole, mut subs) = (BTreeSet::new(), BTreeSet::new());
    for (index, one) in list.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if one.is_empty() {
            causes.required(&field, "");
            continue;
        }
        let Some((resource, sub)) = one.split_once('/') else { continue };
        if whole.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {one}");
            causes.invalid(&field, *one, &why);
        }
        if subs.contains(sub) {
            let why = format!("if '*/{sub}' is present, must not specify {one}");
            causes.invalid(&field, *one, &why);
        }
        if sub == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            subs.insert(sub);
        }
    }
    if list.len() > 1 && list.contains(&"*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        causes.invalid_as(field, &go_strings(value), why);
    }
    if list.contains(&"*") && list.iter().any(|one| *one != "*" && !one.contains('/')) {
        let why = "if '*' is present, must not specify other resources without subresources";
        causes.invalid_as(field, &go_strings(value), why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn configuration(changes: Value) -> Object {
        let mut hook = json!({
            "name": "check.acme.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": "hook", "namespace": "default", "path": "/check"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"]}],
        });
        hook.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let mut object = Object(json!({
            "metadata": {"name": "check", "creationTimestamp": at(0).to_string()},
            "webhooks": [hook],
        }));
        (VALIDATING_WEBHOOK_CONFIGURATION.default)(&mut object);
        object
    }

    #[test]
    fn webhooks_are_defaulted_and_printed() {
        let object = configuration(json!({}));
        let hook = &object.0["webhooks"][0];
        assert_eq!((&hook["failurePolicy"], &hook["timeoutSeconds"]), (&json!("Fail"), &json!(10)));
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(found(&VALIDATING_WEBHOOK_CONFIGURATION, &object, None), [""; 0]);
        assert_eq!(row(&VALIDATING_WEBHOOK_CONFIGURATION, &object, 5), "check|1|5s");
    }

    #[test]
    fn wrong_webhooks_are_named() {
        let rule = |part: &str, value: Value| {
            let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"]});
            rule[part] = value;
            json!({"rules": [rule]})
        };
        let url = |url: &str| json!({"clientConfig": {"url": url}});
        for (changes, start) in [
            (json!({"name": "check"}), "Invalid webhooks[0].name: Invalid value: \"check\": should \
                be a domain with at least three segments separated by dots"),
            (json!({"sideEffects": "Some"}), "NotSupported webhooks[0].sideEffects"),
            (json!({"sideEffects": null}), "Required webhooks[0].sideEffects: Required value: must \
                specify one of None, NoneOnDryRun"),
            (json!({"timeoutSeconds": 31}), "Invalid webhooks[0].timeoutSeconds"),
            (json!({"admissionReviewVersions": ["v2"]}), "Invalid \
                webhooks[0].admissionReviewVersions: Invalid value: []string{\"v2\"}: must include \
                at least one of v1, v1beta1"),
            (json!({"clientConfig": {}}), "Required webhooks[0].clientConfig: Required value: \
                exactly one of url or service is required"),
            (url("http://a/b"), "Invalid webhooks[0].clientConfig.url: Invalid value: \"http\": \
                'https' is the only allowed URL scheme"),
            (url("https://a/b?c=d"), "Invalid webhooks[0].clientConfig.url"),
            (url("https://me@a/b"), "Invalid webhooks[0].clientConfig.url"),
            (json!({"clientConfig": {"service": {"name": "a", "namespace": "b", "path": "c"}}}),
                "Invalid webhooks[0].clientConfig.service.path: Invalid value: \"c\": must start \
                 with a '/'"),
            (rule("operations", json!(["*", "CREATE"])), "Invalid webhooks[0].rules[0].operations"),
            (rule("operations", json!(["READ"])), "NotSupported webhooks[0].rules[0].operations[0]"),
            (rule("apiGroups", json!([])), "Required webhooks[0].rules[0].apiGroups"),
            (rule("resources", json!(["*", "pods"])), "Invalid webhooks[0].rules[0].resources: \
                Invalid value: []string{\"*\", \"pods\"}: if '*' is present, must not specify other \
                resources without subresources"),
            (rule("resources", json!(["pods/*", "pods/log"])),
                "Invalid webhooks[0].rules[0].resources[1]"),
            (json!({"matchConditions": [{"name": "a"}]}),
                "Required webhooks[0].matchConditions[0].expression"),
        ] {
            let found = found(&VALIDATING_WEBHOOK_CONFIGURATION, &configuration(changes), None);
            assert_eq!(found.len(), 1, "{start}: {found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
