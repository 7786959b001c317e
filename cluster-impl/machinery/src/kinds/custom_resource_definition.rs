//! CustomResourceDefinition: the object. What it defines is in [`crate::custom`].

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::validating_webhook_configuration::client;
use super::{CREATED_AT, Kind, NAME, PLAIN, created_at, keep_status};
use crate::custom::json_path::JsonPath;
use crate::custom::structural;
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
    prepare_update: |object, old| {
        keep_status(object, old);
        let stored = storage_version(object).map(str::to_owned);
        if let Some(Value::Array(known)) = object.0.pointer_mut("/status/storedVersions")
            && let Some(stored) = stored
            && !known.iter().any(|one| *one == stored)
        {
            known.push(stored.into());
        }
    },
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
    approval(&mut causes, object, group);
    // What is stored already was looked at, and its expressions take their time.
    if old.is_none_or(|old| old.0["spec"]["versions"] != spec["versions"]) {
        versions(&mut causes, &spec["versions"]);
    }
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

/// Groups that are Kubernetes' own need its leave.
fn approval(causes: &mut Causes, object: &Object, group: &str) {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    const FIELD: &str = "metadata.annotations[api-approved.kubernetes.io]";
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|suffix| group.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    if !is_protected {
        return;
    }
    match object.annotation(ANNOTATION) {
        None | Some("") => {
            let why = format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}");
            causes.required(FIELD, &why);
        }
        Some(said) if said.starts_with("unapproved") => {}
        Some(said) if said.starts_with("https://") => {}
        Some(said) => {
            let why = format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a \
                 reason starting with \"unapproved\", {SEE}"
            );
            causes.invalid(FIELD, said, &why);
        }
    }
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
        // As upstream: what all versions share is told once.
        if !shares(list, "/schema") {
            structural::check(causes, whole, &field);
        } else if index == 0 {
            structural::check(causes, whole, "spec.validation.openAPIV3Schema");
        }
        parts(causes, version, index, list);
    }
    if !is_unique {
        causes.invalid(FIELD, list.clone(), "must contain unique version names");
    }
    if items(list).filter(|(_, version)| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.invalid(FIELD, list.clone(), why);
    }
}

/// Whether all versions say the same of something.
fn shares(list: &Value, pointer: &str) -> bool {
    let mut all = items(list).map(|(_, one)| one.pointer(pointer).unwrap_or(&Value::Null));
    let Some(first) = all.next() else { return true };
    all.all(|one| one == first)
}

/// Columns, subresources and selectable fields of a version.
fn parts(causes: &mut Causes, version: &Value, index: usize, list: &Value) {
    let place = |part: &str| match shares(list, &format!("/{part}")) {
        true if index > 0 => None,
        true => Some(format!("spec.{part}")),
        false => Some(format!("spec.versions[{index}].{part}")),
    };
    if let Some(warning) = version["deprecationWarning"].as_str() {
        let field = format!("spec.versions[{index}].deprecationWarning");
        if version["deprecated"] != true {
            let why = "can only be set for deprecated versions";
            causes.invalid(&field, warning, why);
        }
        if warning.len() > 256 {
            causes.too_long(&field, 256);
        } else if warning.is_empty() {
            causes.invalid(&field, warning, "must not be an empty string");
        } else if warning.chars().any(char::is_control) {
            let why = "must only contain printable UTF-8 characters";
            causes.invalid(&field, warning, why);
        }
    }
    if let Some(field) = place("additionalPrinterColumns") {
        columns(causes, &version["additionalPrinterColumns"], &field);
    }
    if let Some(field) = place("subresources") {
        scale(causes, &version["subresources"]["scale"], &format!("{field}.scale"));
    }
    if let Some(field) = place("selectableFields") {
        let schema = &version["schema"]["openAPIV3Schema"];
        selectable(causes, &version["selectableFields"], schema, &field);
    }
}

fn columns(causes: &mut Causes, list: &Value, field: &str) {
    let types = ["boolean", "date", "integer", "number", "string"];
    let formats =
        ["binary", "byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for (index, column) in items(list) {
        let field = format!("{field}[{index}]");
        if text(&column["name"]).is_empty() {
            causes.required(&format!("{field}.name"), "");
        }
        match text(&column["type"]) {
            "" => causes.required(&format!("{field}.type"), "must be one of boolean,date,integer,number,string"),
            kind if !types.contains(&kind) => {
                let why = "must be one of boolean,date,integer,number,string";
                causes.invalid(&format!("{field}.type"), kind, why);
            }
            _ => {}
        }
        let format = text(&column["format"]);
        if !format.is_empty() && !formats.contains(&format) {
            let why = format!("must be one of {}", formats.join(","));
            causes.invalid(&format!("{field}.format"), format, &why);
        }
        let path = text(&column["jsonPath"]);
        if path.is_empty() {
            causes.required(&format!("{field}.jsonPath"), "");
        } else {
            json_path(causes, path, &format!("{field}.jsonPath"));
        }
    }
}

fn json_path(causes: &mut Causes, path: &str, field: &str) -> Option<JsonPath> {
    let read = if path.starts_with('.') {
        JsonPath::read(path)
    } else {
        Err("must start with a dot".to_owned())
    };
    read.map_err(|why| causes.invalid(field, path, &format!("is an invalid path: {why}"))).ok()
}

fn scale(causes: &mut Causes, scale: &Value, field: &str) {
    if scale.is_null() {
        return;
    }
    for (name, start, is_required) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", ".status.", false),
    ] {
        let (path, field) = (text(&scale[name]), format!("{field}.{name}"));
        if path.is_empty() {
            if is_required {
                causes.required(&field, "");
            }
            continue;
        }
        if let Some(read) = json_path(causes, path, &field) {
            let is_selector_in_spec = !is_required && path.starts_with(".spec.");
            if read.names().is_none() {
                let why = "should be a json path without array notation";
                causes.invalid(&field, path, why);
            } else if !path.starts_with(start) && !is_selector_in_spec {
                let why = match is_required {
                    true => format!("should be a json path under {}", start.trim_end_matches('.')),
                    false => "should be a json path under either .spec or .status".to_owned(),
                };
                causes.invalid(&field, path, &why);
            }
        }
    }
}

fn selectable(causes: &mut Causes, list: &Value, schema: &Value, field: &str) {
    const MOST: usize = 8;
    let count = items(list).count();
    if count > MOST {
        causes.too_many(field, count, MOST);
    }
    let mut seen = BTreeSet::new();
    for (index, one) in items(list) {
        let (path, field) = (text(&one["jsonPath"]), format!("{field}[{index}].jsonPath"));
        if path.is_empty() {
            causes.required(&field, "");
            continue;
        }
        if !seen.insert(path) {
            causes.duplicate(&field, path);
            continue;
        }
        let Some(read) = json_path(causes, path, &field) else { continue };
        let Some(names) = read.names() else {
            causes.invalid(&field, path, "is an invalid path: must not use array notation");
            continue;
        };
        if names.first() == Some(&"metadata") {
            causes.invalid(&field, path, "must not point to fields in metadata");
            continue;
        }
        let at = names.iter().fold(schema, |at, name| &at["properties"][*name]);
        if !["string", "boolean", "integer"].contains(&text(&at["type"])) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and \
                       strings with formats are allowed.";
            causes.invalid(&field, path, why);
        }
    }
}

/// The version in which objects are stored.
fn storage_version(object: &Object) -> Option<&str> {
    let versions = object.list("/spec/versions").iter();
    versions.filter(|one| one["storage"] == true).find_map(|one| one["name"].as_str())
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
        const FIELD: &str = "spec.validation.openAPIV3Schema";
        for (pointer, value, start) in [
            ("/metadata/name", json!("w"), "Invalid metadata.name: Invalid value: \"w\": must be \
                spec.names.plural+\".\"+spec.group".to_owned()),
            ("/spec/scope", json!("World"), "NotSupported spec.scope".to_owned()),
            ("/spec/versions/0/name", json!("V1"), "Invalid spec.versions[0].name".to_owned()),
            ("/spec/versions/0/storage", json!(false), "Invalid spec.versions".to_owned()),
            ("/spec/names/kind", json!("Wid get"), "Invalid spec.names.kind".to_owned()),
            (SCHEMA, json!(null), "Required spec.versions[0].schema.openAPIV3Schema: Required value: \
                schemas are required".to_owned()),
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
