//! The files of ConfigMap, Secret, downward API and projected volumes: pure functions of the objects.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::Object;
use serde_json::Value;

use crate::MachineFacts;
use crate::downward;
use crate::pod_spec::text;
use crate::runtime::VolumeFile;

/// Files by their path in the volume.
pub(crate) type Files = BTreeMap<String, VolumeFile>;

/// A mode that neither the volume nor the item tells.
const MODE_DEFAULT: u32 = 0o644;

/// The volume's `defaultMode`.
pub(crate) fn default_mode(source: &Value) -> u32 {
    source["defaultMode"].as_u64().and_then(|mode| mode.try_into().ok()).unwrap_or(MODE_DEFAULT)
}

fn file(content: Vec<u8>, item: &Value, mode: u32) -> VolumeFile {
    let own = item["mode"].as_u64().and_then(|mode| mode.try_into().ok());
    VolumeFile { content, mode: own.unwrap_or(mode), user: None }
}

/// The files of a ConfigMap or Secret. `object` is absent if it does not exist, which only an optional
/// source may.
pub(crate) fn of_object(
    (noun, name): (&str, &str),
    object: Option<&Object>,
    source: &Value,
    mode: u32,
) -> Result<Files, String> {
    let is_optional = source["optional"] == true;
    let data = match object {
        Some(object) => data(object),
        None if is_optional => BTreeMap::new(),
        None => return Err(format!("{noun} {name:?} not found")),
    };
    let Some(items) = source["items"].as_array().filter(|items| !items.is_empty()) else {
        let whole = data.into_iter();
        return Ok(whole.map(|(key, content)| (key, file(content, &Value::Null, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        let key = text(item, "key");
        match data.get(key) {
            Some(content) => {
                files.insert(text(item, "path").to_owned(), file(content.clone(), item, mode));
            }
            None if is_optional => {}
            None if noun == "secret" => {
                return Err(format!("references non-existent secret key: {key}"));
            }
            None => return Err(format!("configmap references non-existent config key: {key}")),
        }
    }
    Ok(files)
}

/// What a ConfigMap or Secret holds.
pub(crate) fn data(object: &Object) -> BTreeMap<String, Vec<u8>> {
    let is_secret = object.kind() == "Secret";
    let mut all = BTreeMap::new();
    for (list, is_encoded) in [("/data", is_secret), ("/binaryData", true)] {
        for (key, value) in object.map(list).into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let content = if is_encoded {
                STANDARD.decode(text).ok()
            } else {
                Some(text.as_bytes().to_vec())
            };
            all.extend(content.map(|content| (key.clone(), content)));
        }
    }
    all
}

/// The files of a downward API source.
pub(crate) fn of_pod(
    machine: &MachineFacts,
    pod: &Object,
    source: &Value,
    mode: u32,
) -> Result<Files, Vec<String>> {
    let (mut files, mut problems) = (Files::new(), Vec::new());
    for item in source["items"].as_array().into_iter().flatten() {
        let told = match item["fieldRef"]["fieldPath"].as_str() {
            Some(path) => downward::file(pod, path),
            None => downward::resource(machine, pod, None, &item["resourceFieldRef"]),
        };
        match told {
            Ok(told) => {
                files.insert(text(item, "path").to_owned(), file(told.into_bytes(), item, mode));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

/// Several problems as upstream's aggregate writes them: each once, in brackets if they are many.
pub(crate) fn aggregate(problems: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for problem in problems {
        if !distinct.contains(&problem.as_str()) {
            distinct.push(problem);
        }
    }
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Why a path may not be in a volume. The API server refuses such paths, but keys of data are not paths.
pub(crate) fn bad_path(files: &Files) -> Option<String> {
    let is_bad = |path: &&String| {
        path.is_empty()
            || path.starts_with('/')
            || path.starts_with("..")
            || path.split('/').any(|part| part == ".." || part.len() > 255)
            || path.len() > 4096
    };
    files.keys().find(is_bad).map(|path| format!("invalid path {path:?} in a volume"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(files: Result<Files, String>) -> String {
        match files {
            Ok(files) => {
                let one = |(path, file): (&String, &VolumeFile)| {
                    format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.content))
                };
                files.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Err(problem) => problem,
        }
    }

    fn config_map() -> Object {
        let mut object = Object::new("v1", "ConfigMap", "default", "paint");
        object.set("/data", json!({"colour": "red", "shape": "round"}));
        object.set("/binaryData", json!({"raw": "AAE="}));
        object
    }

    #[test]
    fn keys_become_files_whole_or_by_item() {
        let object = config_map();
        let of = |source: Value| {
            told(of_object(("configmap", "paint"), Some(&object), &source, default_mode(&source)))
        };
        assert_eq!(of(json!({})), "colour 644 red; raw 644 \u{0}\u{1}; shape 644 round");
        let items = json!({"defaultMode": 256, "items": [{"key": "colour", "path": "deep/c"},
            {"key": "shape", "path": "s", "mode": 511}]});
        assert_eq!(of(items), "deep/c 400 red; s 777 round");
        let missing = json!({"items": [{"key": "size", "path": "s"}]});
        assert_eq!(of(missing.clone()), "configmap references non-existent config key: size");
        let optional = json!({"optional": true, "items": missing["items"]});
        assert_eq!(of(optional), "");
    }

    #[test]
    fn secrets_are_decoded_and_what_is_missing_is_told() {
        let mut secret = Object::new("v1", "Secret", "default", "key");
        secret.set("/data", json!({"password": "czNjcmV0"}));
        let of = |object: Option<&Object>, source: Value| {
            told(of_object(("secret", "key"), object, &source, 0o400))
        };
        assert_eq!(of(Some(&secret), json!({})), "password 400 s3cret");
        let items = json!({"items": [{"key": "user", "path": "u"}]});
        assert_eq!(of(Some(&secret), items), "references non-existent secret key: user");
        assert_eq!(of(None, json!({})), "secret \"key\" not found");
        assert_eq!(of(None, json!({"optional": true})), "");
    }

    #[test]
    fn the_pod_s_own_fields_become_files() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/metadata/labels", json!({"app": "web"}));
        let limits = json!({"limits": {"memory": "64Mi"}});
        pod.set("/spec/containers", json!([{"name": "main", "resources": limits}]));
        let machine = MachineFacts::simulated("worker-1", 1);
        let source = json!({"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "memory", "mode": 292, "resourceFieldRef":
                {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"}},
        ]});
        let files = of_pod(&machine, &pod, &source, 0o644).map_err(|problems| aggregate(&problems));
        assert_eq!(told(files), "labels 644 app=\"web\"; memory 444 64");
        let wrong = json!({"items": [{"path": "a", "fieldRef": {"fieldPath": "spec.x"}},
            {"path": "b", "resourceFieldRef": {"containerName": "no", "resource": "limits.cpu"}}]});
        let problems = of_pod(&machine, &pod, &wrong, 0o644).unwrap_err();
        assert_eq!(aggregate(&problems), "[unsupported fieldPath: spec.x, container no not found]");
    }

    #[test]
    fn no_path_leads_out_of_the_volume() {
        for (path, is_bad) in [
            ("a", false),
            ("a/b", false),
            ("", true),
            ("/a", true),
            ("..a", true),
            ("a/../b", true),
        ] {
            let files = Files::from([(path.to_owned(), file(Vec::new(), &Value::Null, 0o644))]);
            assert_eq!(bad_path(&files).is_some(), is_bad, "{path}");
        }
    }
}
