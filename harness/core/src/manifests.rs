//! What an API server would refuse of a manifest, found before there is one: wrong types and unknown fields.
//!
//! A manifest is read into Kubernetes' own types and written again: what does not come back is unknown.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What is wrong with a manifest and a hint, if anything is.
pub fn refuse(api_version: &str, kind: &str, object: &Value) -> Option<(String, String)> {
    match (api_version, kind) {
        ("v1", "ConfigMap") => round_trip::<ConfigMap>(object),
        ("v1", "Namespace") => round_trip::<Namespace>(object),
        ("v1", "Node") => round_trip::<Node>(object),
        ("v1", "Pod") => round_trip::<Pod>(object),
        ("v1", "Secret") => round_trip::<Secret>(object),
        ("v1", "Service") => round_trip::<Service>(object),
        ("v1", "ServiceAccount") => round_trip::<ServiceAccount>(object),
        ("apps/v1", "Deployment") => round_trip::<Deployment>(object),
        ("apps/v1", "ReplicaSet") => round_trip::<ReplicaSet>(object),
        ("coordination.k8s.io/v1", "Lease") => round_trip::<Lease>(object),
        _ => None,
    }
}

fn round_trip<T: Serialize + DeserializeOwned>(object: &Value) -> Option<(String, String)> {
    let typed: T = match serde_json::from_value(object.clone()) {
        Ok(typed) => typed,
        Err(error) => return Some((error.to_string(), String::new())),
    };
    let back = serde_json::to_value(typed).ok()?;
    let (path, known) = lost(object, &back, String::new())?;
    let hint =
        crate::read::did_you_mean(path.rsplit('.').next().unwrap_or(&path), &known_words(&known));
    Some((format!("no field `{path}` exists"), hint))
}

fn known_words(known: &[String]) -> Vec<&str> {
    known.iter().map(String::as_str).collect()
}

/// The first field that did not come back, and those beside it that did.
fn lost(sent: &Value, back: &Value, path: String) -> Option<(String, Vec<String>)> {
    match (sent, back) {
        (Value::Object(sent), Value::Object(back)) => sent.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match back.get(key) {
                Some(back) => lost(value, back, path),
                None if value.is_null() => None,
                None => Some((path, back.keys().cloned().collect())),
            }
        }),
        (Value::Array(sent), Value::Array(back)) => sent
            .iter()
            .zip(back)
            .enumerate()
            .find_map(|(index, (sent, back))| lost(sent, back, format!("{path}[{index}]"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_and_wrong_types_are_refused() {
        let deployment = |spec: Value| {
            let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec});
            refuse("apps/v1", "Deployment", &object)
        };
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx"}]}});
        let good = json!({"replicas": 6, "selector": {"matchLabels": {"app": "web"}}, "template": template});
        assert_eq!(deployment(good.clone()), None);
        let mut typo = good.clone();
        typo["replcias"] = json!(6);
        let (what, hint) = deployment(typo).unwrap();
        assert_eq!(
            (what.as_str(), hint.as_str()),
            ("no field `spec.replcias` exists", "did you mean `replicas`?")
        );
        let mut text = good.clone();
        text["replicas"] = json!("six");
        assert!(deployment(text).unwrap().0.contains("invalid type"));
        let mut deep = good;
        deep["template"]["spec"]["containers"][0]["imagee"] = json!("x");
        assert!(deployment(deep).unwrap().0.contains("spec.template.spec.containers[0].imagee"));
    }
}
