//! The downward API: what a pod may read of itself, its fields and its containers' resources.

use machinery::{Object, Quantity};
use serde_json::Value;

use crate::MachineFacts;
use crate::pod_spec::{app_containers, init_containers, name_of, text};

/// What a pod's fields cannot tell before it runs.
pub(crate) struct Places<'p> {
    pub(crate) node_name: &'p str,
    pub(crate) node_ip: &'p str,
    pub(crate) pod_ip: &'p str,
}

/// A field as an environment variable holds it.
pub(crate) fn variable(places: &Places<'_>, pod: &Object, path: &str) -> Result<String, String> {
    Ok(match path {
        "spec.nodeName" => places.node_name,
        "spec.serviceAccountName" => pod.text("/spec/serviceAccountName"),
        "status.hostIP" | "status.hostIPs" => places.node_ip,
        "status.podIP" | "status.podIPs" => places.pod_ip,
        path => return common(pod, path),
    }
    .to_owned())
}

/// A field as a file holds it.
pub(crate) fn file(pod: &Object, path: &str) -> Result<String, String> {
    match path {
        "metadata.labels" => Ok(lines(pod.get("/metadata/labels"))),
        "metadata.annotations" => Ok(lines(pod.get("/metadata/annotations"))),
        path => common(pod, path),
    }
}

fn common(pod: &Object, path: &str) -> Result<String, String> {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let value = match map {
            "metadata.labels" => pod.label(key),
            "metadata.annotations" => pod.annotation(key),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(value.unwrap_or_default().to_owned());
    }
    Ok(match path {
        "metadata.name" => pod.name(),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    }
    .to_owned())
}

/// `key="value"`, one a line, in order of key.
fn lines(map: Option<&Value>) -> String {
    let Some(Value::Object(map)) = map else { return String::new() };
    let mut lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", quoted(value.as_str().unwrap_or_default())))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// As Go's `%q` writes a text.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control < ' ' || control == '\u{7f}' => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A container's request or limit in units of the divisor, rounded up. A limit that is not set is what
/// the node has; a request that is not set is 0.
pub(crate) fn resource(
    machine: &MachineFacts,
    pod: &Object,
    own: Option<&Value>,
    reference: &Value,
) -> Result<String, String> {
    let of = text(reference, "containerName");
    let mut all = init_containers(pod).iter().chain(app_containers(pod));
    let container = match (all.find(|c| name_of(c) == of), own) {
        (Some(named), _) => named,
        (None, Some(own)) if of.is_empty() => own,
        _ => return Err(format!("container {of} not found")),
    };
    let (list, name) = text(reference, "resource").split_once('.').unwrap_or_default();
    let told = Quantity::from_value(&container["resources"][list][name]);
    let told = told.filter(|amount| !amount.is_zero()).map(|amount| amount.milli_value());
    let amount = told.unwrap_or_else(|| match (list, name) {
        ("limits", "cpu") => machine.cpu_milli,
        ("limits", "memory") => machine.memory.saturating_mul(1000),
        ("limits", "ephemeral-storage") => machine.ephemeral_storage.saturating_mul(1000),
        _ => 0,
    });
    let divisor = Quantity::from_value(&reference["divisor"]).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.map_or(1000, |divisor| divisor.milli_value()).max(1);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_are_counted_in_their_divisor() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        let bounds = json!({"limits": {"cpu": "250m", "memory": "1Gi"}});
        pod.set("/spec/containers", json!([{"name": "a", "resources": bounds}, {"name": "b"}]));
        let machine = MachineFacts::simulated("worker-1", 1);
        let asked = |of: &str, resource: &str, divisor: &str| {
            let reference = json!({"containerName": of, "resource": resource, "divisor": divisor});
            super::resource(&machine, &pod, None, &reference)
        };
        for (of, resource, divisor, expected) in [
            ("a", "limits.cpu", "1", "1"),
            ("a", "limits.cpu", "1m", "250"),
            ("a", "limits.memory", "1Mi", "1024"),
            ("a", "limits.memory", "0", "1073741824"),
            ("a", "requests.cpu", "1", "0"),
            // What is not limited has the node.
            ("b", "limits.cpu", "1", "4"),
            ("b", "limits.memory", "1Gi", "8"),
        ] {
            assert_eq!(asked(of, resource, divisor), Ok(expected.to_owned()), "{of} {resource}");
        }
        assert_eq!(asked("c", "limits.cpu", "1"), Err("container c not found".to_owned()));
    }

    #[test]
    fn labels_are_written_line_by_line_as_go_quotes_them() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/metadata/labels", json!({"b": "two", "a": "1"}));
        pod.set("/metadata/annotations", json!({"note": "a \"b\"\n\\"}));
        assert_eq!(file(&pod, "metadata.labels").unwrap(), "a=\"1\"\nb=\"two\"");
        assert_eq!(file(&pod, "metadata.annotations").unwrap(), r#"note="a \"b\"\n\\""#);
        assert_eq!(file(&pod, "metadata.labels['b']").unwrap(), "two");
        assert!(file(&pod, "status.podIP").is_err());
    }
}
