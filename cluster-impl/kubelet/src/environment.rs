//! A container's environment: literal values, ConfigMaps, Secrets, fields of the pod.

use std::collections::BTreeMap;

use apiclient::{ApiClient, ApiError};
use base64::Engine;
use machinery::kinds::{CONFIG_MAP, SECRET};
use machinery::{Kind, Object, ObjectKey, Quantity};
use serde_json::Value;

use crate::pod_spec::{app_containers, init_containers, name_of, text, texts};

/// What a pod's fields cannot tell before it runs.
pub(crate) struct Places<'p> {
    pub(crate) node_name: &'p str,
    pub(crate) node_ip: &'p str,
    pub(crate) pod_ip: &'p str,
}

/// The ConfigMaps and Secrets that a container's environment refers to, by kind and name.
type Sources = BTreeMap<(&'static str, String), Option<BTreeMap<String, String>>>;

/// Fetches what is referred to and computes the environment. The error is for the status.
pub(crate) async fn environment(
    client: &ApiClient,
    places: &Places<'_>,
    pod: &Object,
    container: &Value,
) -> Result<Vec<(String, String)>, String> {
    let mut sources = Sources::new();
    for (kind, name) in references(container) {
        let key = ObjectKey::new(pod.namespace(), name.as_str());
        let data = match client.get(kind, &key).await {
            Ok(object) => Some(data_of(&object)),
            Err(error) if error.is_not_found() => None,
            Err(ApiError::Status(status)) => return Err(status.message),
            Err(error) => return Err(format!("failed to sync {} cache: {error}", noun(kind))),
        };
        sources.insert((kind.id, name), data);
    }
    resolve(&sources, places, pod, container)
}

fn noun(kind: &Kind) -> String {
    kind.kind.to_lowercase()
}

fn entries<'c>(container: &'c Value, list: &str) -> &'c [Value] {
    container[list].as_array().map_or(&[], Vec::as_slice)
}

fn references(container: &Value) -> Vec<(&'static Kind, String)> {
    let mut found: Vec<(&'static Kind, String)> = Vec::new();
    for (kind, whole, one) in
        [(&CONFIG_MAP, "configMapRef", "configMapKeyRef"), (&SECRET, "secretRef", "secretKeyRef")]
    {
        let names = entries(container, "envFrom")
            .iter()
            .map(|from| &from[whole])
            .chain(entries(container, "env").iter().map(|env| &env["valueFrom"][one]));
        for name in names.filter_map(|reference| reference["name"].as_str()) {
            let is_known = |(known, other): &(&Kind, String)| known.id == kind.id && other == name;
            if !found.iter().any(is_known) {
                found.push((kind, name.to_owned()));
            }
        }
    }
    found
}

fn data_of(object: &Object) -> BTreeMap<String, String> {
    let is_secret = object.kind() == "Secret";
    let Some(data) = object.map("/data") else { return BTreeMap::new() };
    data.iter()
        .filter_map(|(key, value)| {
            let value = value.as_str()?;
            if !is_secret {
                return Some((key.clone(), value.to_owned()));
            }
            let bytes = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
            Some((key.clone(), String::from_utf8_lossy(&bytes).into_owned()))
        })
        .collect()
}

fn resolve(
    sources: &Sources,
    places: &Places<'_>,
    pod: &Object,
    container: &Value,
) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut put = |name: String, value: String| {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => env.push((name, value)),
        }
        env.clone()
    };
    let mut so_far = Vec::new();
    for from in entries(container, "envFrom") {
        for (kind, field) in [(&CONFIG_MAP, "configMapRef"), (&SECRET, "secretRef")] {
            let Some(name) = from[field]["name"].as_str() else { continue };
            match sources.get(&(kind.id, name.to_owned())).and_then(Option::as_ref) {
                Some(data) => {
                    for (key, value) in data {
                        so_far = put(format!("{}{key}", text(from, "prefix")), value.clone());
                    }
                }
                None if from[field]["optional"] == true => {}
                None => return Err(format!("{} \"{name}\" not found", noun(kind))),
            }
        }
    }
    for entry in entries(container, "env") {
        let name = name_of(entry).to_owned();
        let value = match entry.get("valueFrom") {
            None | Some(Value::Null) => Some(expand(text(entry, "value"), &so_far)),
            Some(from) => value_from(sources, places, pod, container, from)?,
        };
        if let Some(value) = value {
            so_far = put(name, value);
        }
    }
    Ok(so_far)
}

fn value_from(
    sources: &Sources,
    places: &Places<'_>,
    pod: &Object,
    container: &Value,
    from: &Value,
) -> Result<Option<String>, String> {
    for (kind, field) in [(&CONFIG_MAP, "configMapKeyRef"), (&SECRET, "secretKeyRef")] {
        let reference = &from[field];
        let Some(name) = reference["name"].as_str() else { continue };
        let key = text(reference, "key");
        let data = sources.get(&(kind.id, name.to_owned())).and_then(Option::as_ref);
        return match (data.and_then(|data| data.get(key)), data) {
            (Some(value), _) => Ok(Some(value.clone())),
            (None, _) if reference["optional"] == true => Ok(None),
            (None, None) => Err(format!("{} \"{name}\" not found", noun(kind))),
            (None, Some(_)) => {
                Err(format!("couldn't find key {key} in {} {}/{name}", kind.kind, pod.namespace()))
            }
        };
    }
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return field(places, pod, path).map(Some);
    }
    Ok(Some(bound(pod, container, &from["resourceFieldRef"])))
}

/// A field of the pod, as the downward API names it.
fn field(places: &Places<'_>, pod: &Object, path: &str) -> Result<String, String> {
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
        "spec.nodeName" => places.node_name,
        "spec.serviceAccountName" => pod.text("/spec/serviceAccountName"),
        "status.hostIP" | "status.hostIPs" => places.node_ip,
        "status.podIP" | "status.podIPs" => places.pod_ip,
        _ => return Err(format!("unsupported fieldPath: {path}")),
    }
    .to_owned())
}

/// A container's request or limit in units of the divisor, rounded up; 0 if there is none.
fn bound(pod: &Object, container: &Value, reference: &Value) -> String {
    let of = text(reference, "containerName");
    let all = init_containers(pod).iter().chain(app_containers(pod));
    let container = all.filter(|c| name_of(c) == of).chain([container]).next();
    let (list, name) = text(reference, "resource").split_once('.').unwrap_or_default();
    let amount = container.and_then(|c| Quantity::from_value(&c["resources"][list][name]));
    let divisor = Quantity::from_value(&reference["divisor"]).filter(|q| !q.is_zero());
    let divisor = divisor.map_or(1000, |divisor| divisor.milli_value()).max(1);
    let amount = amount.map_or(0, |amount| amount.milli_value());
    (amount / divisor + i64::from(amount % divisor != 0)).to_string()
}

/// Replaces `$(NAME)`; `$$` stands for `$`, and unknown names stay as they are.
fn expand(input: &str, env: &[(String, String)]) -> String {
    let mut output = String::new();
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match env.iter().find(|(known, _)| known == name) {
                Some((_, value)) => output.push_str(value),
                None => output.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            output.push('$');
        }
    }
    output.push_str(rest);
    output
}

/// A container's `command` or `args`, with the environment's values put in.
pub(crate) fn words(list: &Value, env: &[(String, String)]) -> Vec<String> {
    texts(list).iter().map(|word| expand(word, env)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLACES: Places<'static> =
        Places { node_name: "worker-1", node_ip: "10.0.0.1", pod_ip: "10.244.0.5" };

    fn resolved(container: Value, sources: &Sources) -> Result<Vec<(String, String)>, String> {
        let pod = Object::new("v1", "Pod", "default", "web");
        resolve(sources, &PLACES, &pod, &container)
    }

    #[test]
    fn later_values_see_earlier_ones_and_win() {
        let mut sources = Sources::new();
        let data = BTreeMap::from([("COLOUR".to_owned(), "red".to_owned())]);
        sources.insert((CONFIG_MAP.id, "paint".to_owned()), Some(data));
        let container = json!({
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "paint"}}],
            "env": [
                {"name": "A", "value": "is $(P_COLOUR), not $(B) or $$(A)"},
                {"name": "P_COLOUR", "value": "blue"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "paint", "key": "COLOUR"}}},
            ],
        });
        let env = resolved(container, &sources).unwrap();
        let expected = [
            ("P_COLOUR", "blue"),
            ("A", "is red, not $(B) or $(A)"),
            ("IP", "10.244.0.5"),
            ("KEY", "red"),
        ];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn what_is_missing_is_told_unless_it_is_optional() {
        let mut sources = Sources::new();
        sources.insert((CONFIG_MAP.id, "gone".to_owned()), None);
        let key = |optional: bool| {
            json!({"env": [{"name": "A", "valueFrom":
                {"configMapKeyRef": {"name": "gone", "key": "k", "optional": optional}}}]})
        };
        assert_eq!(resolved(key(true), &sources), Ok(Vec::new()));
        assert_eq!(resolved(key(false), &sources), Err("configmap \"gone\" not found".to_owned()));
    }

    #[test]
    fn bounds_are_counted_in_their_divisor() {
        let pod = Object::new("v1", "Pod", "default", "web");
        let container =
            json!({"name": "a", "resources": {"limits": {"cpu": "250m", "memory": "1Gi"}}});
        let asked = |resource: &str, divisor: &str| {
            bound(&pod, &container, &json!({"resource": resource, "divisor": divisor}))
        };
        assert_eq!(asked("limits.cpu", "1"), "1");
        assert_eq!(asked("limits.cpu", "1m"), "250");
        assert_eq!(asked("limits.memory", "1Mi"), "1024");
        assert_eq!(asked("requests.cpu", "1"), "0");
    }
}
