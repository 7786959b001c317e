//! A container's environment: literal values, ConfigMaps, Secrets, fields of the pod, and the Services
//! of the cluster.

use std::collections::BTreeMap;

use machinery::kinds::{CONFIG_MAP, SECRET};
use machinery::{Kind, Object, ObjectKey};
use serde_json::Value;

use crate::downward::{self, Places};
use crate::pod_spec::{name_of, text, texts};
use crate::volumes;
use crate::{MachineFacts, Shared};

/// The ConfigMaps and Secrets that a container's environment refers to, by kind and name.
type Sources = BTreeMap<(&'static str, String), Option<BTreeMap<String, String>>>;

/// Looks up what is referred to and computes the environment. The error is for the status.
pub(crate) async fn environment(
    cx: &Shared,
    places: &Places<'_>,
    pod: &Object,
    container: &Value,
) -> Result<Vec<(String, String)>, String> {
    let mut sources = Sources::new();
    for (kind, name) in references(container) {
        let key = ObjectKey::new(pod.namespace(), name.as_str());
        let object = cx.objects.get(kind, &key).await?;
        sources.insert((kind.id, name), object.map(|object| data_of(&object)));
    }
    let around = Around {
        sources: &sources,
        places,
        machine: &cx.config.machine,
        services: cx.services.variables(pod),
    };
    resolve(&around, pod, container)
}

/// All that a container's variables are made of, beside its pod.
struct Around<'a> {
    sources: &'a Sources,
    places: &'a Places<'a>,
    machine: &'a MachineFacts,
    services: BTreeMap<String, String>,
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
    let text = |(key, content): (String, Vec<u8>)| (key, String::from_utf8_lossy(&content).into());
    volumes::data(object).into_iter().map(text).collect()
}

fn resolve(
    around: &Around<'_>,
    pod: &Object,
    container: &Value,
) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    for from in entries(container, "envFrom") {
        for (kind, field) in [(&CONFIG_MAP, "configMapRef"), (&SECRET, "secretRef")] {
            let Some(name) = from[field]["name"].as_str() else { continue };
            match around.sources.get(&(kind.id, name.to_owned())).and_then(Option::as_ref) {
                Some(data) => {
                    for (key, value) in data {
                        put(&mut env, format!("{}{key}", text(from, "prefix")), value.clone());
                    }
                }
                None if from[field]["optional"] == true => {}
                None => return Err(format!("{} \"{name}\" not found", noun(kind))),
            }
        }
    }
    for entry in entries(container, "env") {
        let value = match entry.get("valueFrom") {
            None | Some(Value::Null) => {
                let lookup = |name: &str| found(&env, name).or(around.services.get(name));
                Some(expand(text(entry, "value"), lookup))
            }
            Some(from) => value_from(around, pod, container, from)?,
        };
        if let Some(value) = value {
            put(&mut env, name_of(entry).to_owned(), value);
        }
    }
    for (name, value) in &around.services {
        if found(&env, name).is_none() {
            env.push((name.clone(), value.clone()));
        }
    }
    Ok(env)
}

/// A later value of a name takes the place of an earlier one.
fn put(env: &mut Vec<(String, String)>, name: String, value: String) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => env.push((name, value)),
    }
}

fn found<'e>(env: &'e [(String, String)], name: &str) -> Option<&'e String> {
    env.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn value_from(
    around: &Around<'_>,
    pod: &Object,
    container: &Value,
    from: &Value,
) -> Result<Option<String>, String> {
    for (kind, field) in [(&CONFIG_MAP, "configMapKeyRef"), (&SECRET, "secretKeyRef")] {
        let reference = &from[field];
        let Some(name) = reference["name"].as_str() else { continue };
        let key = text(reference, "key");
        let data = around.sources.get(&(kind.id, name.to_owned())).and_then(Option::as_ref);
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
        return downward::variable(around.places, pod, path).map(Some);
    }
    let reference = &from["resourceFieldRef"];
    downward::resource(around.machine, pod, Some(container), reference).map(Some)
}

/// Replaces `$(NAME)`; `$$` stands for `$`, and unknown names stay as they are.
fn expand<'e>(input: &str, lookup: impl Fn(&str) -> Option<&'e String>) -> String {
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
            match lookup(name) {
                Some(value) => output.push_str(value),
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

/// The same, but no name may be unknown.
pub(crate) fn expand_whole(input: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let whole = expand(input, |name| {
        let value = found(env, name);
        if value.is_none() {
            missing.replace(Some(format!("missing value for {name:?}")));
        }
        value
    });
    missing.into_inner().map_or(Ok(whole), Err)
}

/// A container's `command` or `args`, with the environment's values put in.
pub(crate) fn words(list: &Value, env: &[(String, String)]) -> Vec<String> {
    texts(list).iter().map(|word| expand(word, |name| found(env, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLACES: Places<'static> =
        Places { node_name: "worker-1", node_ip: "10.0.0.1", pod_ip: "10.244.0.5" };

    fn resolved(container: Value, sources: &Sources) -> Result<Vec<(String, String)>, String> {
        let pod = Object::new("v1", "Pod", "default", "web");
        let services = BTreeMap::from([("DB_SERVICE_HOST".to_owned(), "10.96.0.7".to_owned())]);
        let machine = &MachineFacts::simulated("worker-1", 1);
        resolve(&Around { sources, places: &PLACES, machine, services }, &pod, &container)
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
                {"name": "URL", "value": "http://$(DB_SERVICE_HOST)/"},
            ],
        });
        let env = resolved(container, &sources).unwrap();
        let expected = [
            ("P_COLOUR", "blue"),
            ("A", "is red, not $(B) or $(A)"),
            ("IP", "10.244.0.5"),
            ("KEY", "red"),
            ("URL", "http://10.96.0.7/"),
            ("DB_SERVICE_HOST", "10.96.0.7"),
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
        let services = vec![("DB_SERVICE_HOST".to_owned(), "10.96.0.7".to_owned())];
        assert_eq!(resolved(key(true), &sources), Ok(services));
        assert_eq!(resolved(key(false), &sources), Err("configmap \"gone\" not found".to_owned()));
    }
}
