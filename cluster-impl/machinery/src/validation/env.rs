//! Validation of a container's environment and of the fields that the downward API can show.

use serde_json::Value;

use super::{Causes, items, names, text};
use crate::Quantity;

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields that a file of a downward API volume can show.
pub const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Checks the list `env` at a field's path.
pub fn env(causes: &mut Causes, env: &Value, field: &str) {
    for (index, variable) in items(env) {
        let field = format!("{field}[{index}]");
        causes.required_name(&format!("{field}.name"), text(&variable["name"]), names::env_name);
        if !variable["valueFrom"].is_null() {
            value_from(causes, variable, &format!("{field}.valueFrom"));
        }
    }
}

fn value_from(causes: &mut Causes, variable: &Value, field: &str) {
    let from = &variable["valueFrom"];
    let mut sources = 0;
    for (name, source) in from.as_object().into_iter().flatten().filter(|(_, one)| !one.is_null()) {
        sources += 1;
        let field = format!("{field}.{name}");
        match name.as_str() {
            "fieldRef" => field_ref(causes, source, FIELDS, &field),
            "resourceFieldRef" => resource_ref(causes, source, false, &field),
            _ => key_ref(causes, source, &field),
        }
    }
    if sources == 0 {
        causes.invalid(
            field,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
             `secretKeyRef`",
        );
    } else if !text(&variable["value"]).is_empty() {
        causes.invalid(field, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        causes.invalid(field, "", "may not have more than one field specified at a time");
    }
}

/// Checks a reference to a key of a ConfigMap or a Secret.
fn key_ref(causes: &mut Causes, source: &Value, field: &str) {
    causes.name(&format!("{field}.name"), text(&source["name"]), names::dns_subdomain);
    causes.required_name(&format!("{field}.key"), text(&source["key"]), names::config_key);
}

/// Checks a reference to a field of the pod.
pub fn field_ref(causes: &mut Causes, source: &Value, supported: &[&str], field: &str) {
    for part in ["apiVersion", "fieldPath"] {
        if text(&source[part]).is_empty() {
            causes.required(&format!("{field}.{part}"), "");
            return;
        }
    }
    let path = text(&source["fieldPath"]);
    if let Some((of, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        match of {
            "metadata.annotations" => {
                for why in names::qualified_name(&key.to_lowercase()) {
                    causes.invalid(field, key.to_lowercase(), &why);
                }
            }
            "metadata.labels" => causes.name(field, key, names::qualified_name),
            other => causes.invalid(field, other, "does not support subscript"),
        }
        return;
    }
    if !FIELDS.contains(&path) && !FILE_FIELDS.contains(&path) {
        let why = format!("error converting fieldPath: field label not supported: {path}");
        causes.invalid(&format!("{field}.fieldPath"), path, &why);
    } else if !supported.contains(&path) {
        causes.not_supported(&format!("{field}.fieldPath"), path, supported);
    }
}

/// Checks a reference to a container's resource; in a volume, it must name the container.
pub fn resource_ref(causes: &mut Causes, source: &Value, in_volume: bool, field: &str) {
    let resource = text(&source["resource"]);
    let is_huge =
        ["limits.hugepages-", "requests.hugepages-"].iter().any(|one| resource.starts_with(one));
    if in_volume && text(&source["containerName"]).is_empty() {
        causes.required(&format!("{field}.containerName"), "");
    } else if resource.is_empty() {
        causes.required(&format!("{field}.resource"), "");
    } else if !RESOURCES.contains(&resource) && !is_huge {
        causes.not_supported(&format!("{field}.resource"), resource, RESOURCES);
    }
    let Some(divisor) = Quantity::from_value(&source["divisor"]) else { return };
    if divisor.is_zero() {
        return;
    }
    let (allowed, what): (&[&str], &str) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "cpu resource"),
        "limits.memory" | "requests.memory" => (DIVISORS, "memory resource"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (DIVISORS, "local ephemeral storage resource")
        }
        _ if is_huge => (DIVISORS, "hugepages resource"),
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        let list = allowed.join(if allowed.len() == 2 { " and " } else { ", " });
        let why = format!("only divisor's values {list} are supported with the {what}");
        causes.invalid(&format!("{field}.divisor"), resource, &why);
    }
}

/// Checks the list `envFrom` at a field's path.
pub fn env_from(causes: &mut Causes, sources: &Value, field: &str) {
    for (index, source) in items(sources) {
        let at = format!("{field}[{index}]");
        let prefix = text(&source["prefix"]);
        if !prefix.is_empty() {
            causes.name(&format!("{at}.prefix"), prefix, names::env_name);
        }
        let mut count = 0;
        for reference in ["configMapRef", "secretRef"] {
            if !source[reference].is_null() {
                count += 1;
                let name = text(&source[reference]["name"]);
                causes.required_name(&format!("{at}.{reference}.name"), name, names::dns_subdomain);
            }
        }
        if count == 0 {
            causes.invalid(field, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            causes.invalid(field, "", "may not have more than one field specified at a time");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn variables_are_checked() {
        let from = |source: Value| json!([{"name": "A", "valueFrom": source}]);
        for (list, start) in [
            (json!([{"name": "A", "value": "x"}]), None),
            (json!([{"value": "x"}]), Some("Required e[0].name")),
            (from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}})), None),
            (
                from(
                    json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a/b']"}}),
                ),
                None,
            ),
            (
                from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}})),
                Some(
                    "NotSupported e[0].valueFrom.fieldRef.fieldPath: Unsupported value: \
                     \"metadata.labels\"",
                ),
            ),
            (
                from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.hostname"}})),
                Some(
                    "Invalid e[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.hostname\": \
                     error converting fieldPath: field label not supported: spec.hostname",
                ),
            ),
            (
                from(json!({"fieldRef": {"apiVersion": "v1"}})),
                Some("Required e[0].valueFrom.fieldRef.fieldPath"),
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
                Some(
                    "Invalid e[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": \
                     only divisor's values 1m and 1 are supported with the cpu resource",
                ),
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.gpu"}})),
                Some("NotSupported e[0].valueFrom.resourceFieldRef.resource"),
            ),
            (
                from(json!({"secretKeyRef": {"name": "s"}})),
                Some("Required e[0].valueFrom.secretKeyRef.key: Required value"),
            ),
            (
                from(json!({})),
                Some("Invalid e[0].valueFrom: Invalid value: \"\": must specify one of"),
            ),
            (
                json!([{"name": "A", "value": "x", "valueFrom":
                    {"configMapKeyRef": {"name": "c", "key": "k"}}}]),
                Some(
                    "Invalid e[0].valueFrom: Invalid value: \"\": may not be specified when `value`",
                ),
            ),
        ] {
            let mut causes = Causes::new();
            env(&mut causes, &list, "e");
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), usize::from(start.is_some()), "{list}: {found:?}");
            assert!(
                found.iter().zip(start).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn whole_sources_are_checked() {
        let mut causes = Causes::new();
        env_from(
            &mut causes,
            &json!([{"configMapRef": {"name": "c"}}, {"prefix": "a=", "secretRef": {}}, {}]),
            "f",
        );
        let found = lines(&causes.into_list());
        let starts = ["Invalid f[1].prefix", "Required f[1].secretRef.name", "Invalid f: "];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        assert!(found.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{found:?}");
    }
}
