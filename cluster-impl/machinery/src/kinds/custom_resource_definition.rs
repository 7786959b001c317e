//! CustomResourceDefinition. Only the object: what it defines is not served yet.
//!
//! Limits: of a schema's rules those about types, properties and unique items are checked; expressions,
//! defaults and patterns are not.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::validating_webhook_configuration::client;
use super::{CREATED_AT, Kind, NAME, PLAIN, created_at, keep_status};
use crate::defaulting::{absent, inside, part, zero};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

/// CustomResourceDefinition.
pub static CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    id: "customresourcedefinitions.apiextensions.k8s.io",
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    has_status: true,
    has_generation: true,
    default,
    prepare_create: |object| {
        let versions = object.list("/spec/versions").iter().filter(|one| one["storage"] == true);
        let stored: Vec<_> = versions.map(|version| version["name"].clone()).collect();
        let names = json!({"plural": "", "kind": ""});
        let status =
            json!({"conditions": null, "acceptedNames": names, "storedVersions": stored});
        object.set("/status", status);
        object.remove("/status/conditions");
    },
    prepare_update: keep_status,
    validate,
    columns: &[NAME, CREATED_AT],
    cells: |object, _| vec![object.name().into(), created_at(object)],
    ..PLAIN
};

fn default(object: &mut Object) {
    let Some(spec) = part(&mut object.0, "spec") else { return };
    if let Some(names) = inside(spec, "names") {
        let kind = text(&names["kind"]).to_owned();
        if !kind.is_empty() {
            zero(names, "singular", kind.to_lowercase());
            zero(names, "listKind", format!("{kind}List"));
        }
    }
    if let Some(conversion) = part(spec, "conversion") {
        zero(conversion, "strategy", "None");
        let config = inside(conversion, "webhook").and_then(|hook| inside(hook, "clientConfig"));
        if let Some(service) = config.and_then(|config| inside(config, "service")) {
            absent(service, "port", 443);
        }
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    if object.name() != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.invalid("metadata.name", object.name(), why);
    }
    let wrong = names::dns_subdomain(group);
    if group.is_empty() {
        causes.required("spec.group", "");
    } else if !wrong.is_empty() {
        causes.invalid("spec.group", group, &wrong.join(","));
    } else if !group.contains('.') {
        causes.invalid("spec.group", group, "should be a domain with at least one dot");
    }
    causes.one_of("spec.scope", text(&spec["scope"]), &["Cluster", "Namespaced"]);
    if spec["preserveUnknownFields"] == true {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                   spec.versions[*].schema instead";
        causes.invalid("spec.preserveUnknownFields", true, why);
    }
    versions(&mut causes, &spec["versions"]);
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"][name]).is_empty() {
            causes.required(&format!("spec.names.{name}"), "");
        }
    }
    check_names(&mut causes, &spec["names"], "spec.names");
    conversion(&mut causes, &spec["conversion"]);
    check_names(&mut causes, &object.0["status"]["acceptedNames"], "status.acceptedNames");
    if let Some(old) = old {
        update(&mut causes, object, old);
    }
    causes.into_list()
}

fn versions(causes: &mut Causes, list: &Value) {
    const FIELD: &str = "spec.versions";
    let mut seen = BTreeSet::new();
    let mut is_unique = true;
    for (index, version) in items(list) {
        let (field, name) = (format!("{FIELD}[{index}]"), text(&version["name"]));
        is_unique &= seen.insert(name);
        let wrong = names::dns_1035_label(name);
        if !wrong.is_empty() {
            causes.invalid(&format!("{field}.name"), name, &wrong.join(","));
        }
        let field = format!("{field}.schema.openAPIV3Schema");
        let whole = &version["schema"]["openAPIV3Schema"];
        if whole.is_null() {
            causes.required(&field, "schemas are required");
            continue;
        }
        match text(&whole["type"]) {
            "object" => {}
            "" => causes.required(&format!("{field}.type"), "must not be empty at the root"),
            other => {
                causes.invalid(&format!("{field}.type"), other, "must be object at the root");
            }
        }
        schema(causes, whole, &field, true);
    }
    if !is_unique {
        causes.invalid(FIELD, list.clone(), "must contain unique version names");
    }
    if items(list).filter(|(_, version)| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.invalid(FIELD, list.clone(), why);
    }
}

/// Checks the parts of a schema; `is_root` has had its type checked.
fn schema(causes: &mut Causes, at: &Value, field: &str, is_root: bool) {
    if at["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.forbidden(&format!("{field}.uniqueItems"), why);
    }
    let free = at["x-kubernetes-preserve-unknown-fields"] == true
        || at["x-kubernetes-int-or-string"] == true;
    if !is_root && text(&at["type"]).is_empty() && !free {
        let why = "must not be empty for specified object fields";
        causes.required(&format!("{field}.type"), why);
    }
    let properties = at["properties"].as_object();
    let others = &at["additionalProperties"];
    if properties.is_some_and(|all| !all.is_empty()) && !others.is_null() && *others != true {
        let why = "additionalProperties and properties are mutual exclusive";
        causes.forbidden(&format!("{field}.additionalProperties"), why);
    }
    for (name, inner) in properties.into_iter().flatten() {
        schema(causes, inner, &format!("{field}.properties[{name}]"), false);
    }
    if others.is_object() {
        schema(causes, others, &format!("{field}.additionalProperties"), false);
    }
    let inner = &at["items"];
    if at["type"] == "array" && inner.is_null() {
        causes.required(&format!("{field}.items"), "must be specified");
    } else if inner.is_object() {
        schema(causes, inner, &format!("{field}.items"), false);
    }
}

fn check_names(causes: &mut Causes, all: &Value, field: &str) {
    for name in ["plural", "singular", "kind", "listKind"] {
        let value = text(&all[name]);
        let wrong = match name {
            "plural" | "singular" => names::dns_1035_label(value),
            _ => names::dns_1035_label(&value.to_lowercase()),
        };
        if value.is_empty() || wrong.is_empty() {
            continue;
        }
        let why = match name {
            "plural" | "singular" => wrong.join(","),
            _ => {
                let wrong = wrong.join(",");
                format!("may have mixed case, but should otherwise match: {wrong}")
            }
        };
        causes.invalid(&format!("{field}.{name}"), value, &why);
    }
    for list in ["shortNames", "categories"] {
        for (index, name) in items(&all[list]) {
            let wrong = names::dns_1035_label(text(name));
            if !wrong.is_empty() {
                causes.invalid(&format!("{field}.{list}[{index}]"), text(name), &wrong.join(","));
            }
        }
    }
    let kind = text(&all["kind"]);
    if !kind.is_empty() && all["kind"] == all["listKind"] {
        let why = "kind and listKind may not be the same";
        causes.invalid(&format!("{field}.listKind"), kind, why);
    }
}

fn conversion(causes: &mut Causes, conversion: &Value) {
    const FIELD: &str = "spec.conversion";
    match text(&conversion["strategy"]) {
        "" => causes.required(&format!("{FIELD}.strategy"), ""),
        "None" => {
            if !conversion["webhook"].is_null() {
                let why = "should not be set when strategy is not set to Webhook";
                causes.forbidden(&format!("{FIELD}.webhook"), why);
            }
        }
        "Webhook" => {
            let hook = &conversion["webhook"];
            if hook["clientConfig"].is_null() {
                let why = "required when strategy is set to Webhook";
                causes.required(&format!("{FIELD}.webhook.clientConfig"), why);
            } else {
                client(causes, &hook["clientConfig"], &format!("{FIELD}.webhook.clientConfig"));
            }
            if items(&hook["conversionReviewVersions"]).next().is_none() {
                causes.required(&format!("{FIELD}.webhook.conversionReviewVersions"), "");
            }
        }
        other => {
            causes.not_supported(&format!("{FIELD}.strategy"), other, &["None", "Webhook"]);
        }
    }
}

fn update(causes: &mut Causes, object: &Object, old: &Object) {
    let (spec, before) = (&object.0["spec"], &old.0["spec"]);
    if old.condition_status("Established") == "True" {
        causes.immutable("spec.scope", &spec["scope"], &before["scope"]);
        let (new, old) = (&spec["names"]["kind"], &before["names"]["kind"]);
        causes.immutable("spec.names.kind", new, old);
    }
    causes.immutable("spec.group", &spec["group"], &before["group"]);
    let (new, was) = (&spec["names"]["plural"], &before["names"]["plural"]);
    causes.immutable("spec.names.plural", new, was);
    let known: BTreeSet<_> = items(&spec["versions"]).map(|(_, one)| text(&one["name"])).collect();
    for (index, version) in items(&object.0["status"]["storedVersions"]) {
        if !known.contains(text(version)) {
            let field = format!("status.storedVersions[{index}]");
            causes.invalid(&field, text(version), "must appear in spec.versions");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    fn definition(changes: &[(&str, Value)]) -> Object {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        let mut object = Object(json!({
            "metadata": {"name": "widgets.acme.io"},
            "spec": {"group": "acme.io", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": schema}}]},
        }));
        for (pointer, value) in changes {
            *object.0.pointer_mut(pointer).unwrap() = value.clone();
        }
        (CUSTOM_RESOURCE_DEFINITION.default)(&mut object);
        (CUSTOM_RESOURCE_DEFINITION.prepare_create)(&mut object);
        object
    }

    #[test]
    fn definitions_are_defaulted() {
        let object = definition(&[]);
        assert_eq!(object.text("/spec/names/singular"), "widget");
        assert_eq!(object.text("/spec/names/listKind"), "WidgetList");
        assert_eq!(object.text("/spec/conversion/strategy"), "None");
        assert_eq!(object.0["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(found(&CUSTOM_RESOURCE_DEFINITION, &object, None), [""; 0]);
    }

    #[test]
    fn wrong_definitions_are_named() {
        const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";
        const FIELD: &str = "spec.versions[0].schema.openAPIV3Schema";
        for (pointer, value, start) in [
            ("/metadata/name", json!("w"), "Invalid metadata.name: Invalid value: \"w\": must be \
                spec.names.plural+\".\"+spec.group".to_owned()),
            ("/spec/scope", json!("World"), "NotSupported spec.scope".to_owned()),
            ("/spec/versions/0/name", json!("V1"), "Invalid spec.versions[0].name".to_owned()),
            ("/spec/versions/0/storage", json!(false), "Invalid spec.versions".to_owned()),
            ("/spec/names/kind", json!("Wid get"), "Invalid spec.names.kind".to_owned()),
            (SCHEMA, json!(null), format!("Required {FIELD}: Required value: schemas are required")),
            (SCHEMA, json!({"type": "string"}), format!("Invalid {FIELD}.type")),
            (SCHEMA, json!({"type": "object", "properties": {"a": {}}}),
                format!("Required {FIELD}.properties[a].type")),
            (SCHEMA, json!({"type": "object", "properties": {"a": {"type": "array"}}}),
                format!("Required {FIELD}.properties[a].items")),
        ] {
            let object = definition(&[(pointer, value)]);
            let found = found(&CUSTOM_RESOURCE_DEFINITION, &object, None);
            assert!(found.iter().any(|line| line.starts_with(&start)), "{start}: {found:?}");
        }
    }

    #[test]
    fn what_names_the_resource_stays() {
        let old = definition(&[]);
        let new = definition(&[("/spec/names/plural", json!("gadgets"))]);
        let found = found(&CUSTOM_RESOURCE_DEFINITION, &new, Some(&old));
        assert!(found.iter().any(|line| line.starts_with("Invalid spec.names.plural")), "{found:?}");
    }
}
