//! What may change in a pod that exists: images, deadlines, more tolerations, fewer scheduling gates.

use serde_json::Value;

use super::{Causes, items, text};

const ALLOWED: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks the change of a pod's spec.
pub fn pod_update(causes: &mut Causes, new: &Value, old: &Value) {
    let count = |spec: &Value, list: &str| items(&spec[list]).count();
    for list in ["containers", "initContainers"] {
        if count(new, list) != count(old, list) {
            let what = if list == "containers" { "containers" } else { "init containers" };
            let detail = format!("pod updates may not add or remove {what}");
            causes.forbidden(&format!("spec.{list}"), &detail);
            return;
        }
    }
    deadline(causes, new, old);
    tolerations(causes, new, old);
    let gates = gates(causes, new, old);
    let mut wanted = old.clone();
    take_allowed(&mut wanted, new);
    // A pod that waits for gates may still be narrowed down to fewer nodes.
    if gates {
        for field in ["nodeSelector", "affinity"] {
            take(&mut wanted, new, field);
        }
    }
    if without_nulls(&wanted) != without_nulls(new) {
        let difference = first_difference(&wanted, new, "spec".to_owned());
        causes.forbidden("spec", &format!("{ALLOWED}\n{difference}"));
    }
}

fn deadline(causes: &mut Causes, new: &Value, old: &Value) {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            causes.invalid(FIELD, new, "must be less than or equal to previous value")
        }
        (None, Some(_)) => causes.invalid(
            FIELD,
            Value::Null,
            "must not update from a positive integer to nil value",
        ),
        _ => {}
    }
}

fn tolerations(causes: &mut Causes, new: &Value, old: &Value) {
    let same = |a: &Value, b: &Value| {
        // A toleration may be kept with another time.
        let part = |name: &str| text(&a[name]) == text(&b[name]);
        part("key") && part("operator") && part("value") && part("effect")
    };
    for (_, toleration) in items(&old["tolerations"]) {
        if !items(&new["tolerations"]).any(|(_, one)| same(one, toleration)) {
            causes.forbidden(
                "spec.tolerations",
                "existing toleration can not be modified except its tolerationSeconds",
            );
            return;
        }
    }
}

/// Whether the old pod had gates; none may be added.
fn gates(causes: &mut Causes, new: &Value, old: &Value) -> bool {
    for (index, gate) in items(&new["schedulingGates"]) {
        if !items(&old["schedulingGates"]).any(|(_, one)| one["name"] == gate["name"]) {
            let name = text(&gate["name"]);
            causes.forbidden(
                &format!("spec.schedulingGates[{index}].name"),
                &format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
    items(&old["schedulingGates"]).next().is_some()
}

fn take_allowed(wanted: &mut Value, new: &Value) {
    for list in ["containers", "initContainers"] {
        for (index, container) in items(&new[list]) {
            if let Some(image) = container.get("image") {
                wanted[list][index]["image"] = image.clone();
            }
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        take(wanted, new, field);
    }
    let grace = |spec: &Value| spec["terminationGracePeriodSeconds"].as_i64();
    if grace(wanted).is_some_and(|old| old < 0) && grace(new) == Some(1) {
        take(wanted, new, "terminationGracePeriodSeconds");
    }
}

fn take(wanted: &mut Value, new: &Value, field: &str) {
    let Some(wanted) = wanted.as_object_mut() else { return };
    match new.get(field) {
        Some(value) => wanted.insert(field.to_owned(), value.clone()),
        None => wanted.remove(field),
    };
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !is_empty(value));
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// Null, or a list without items: both are left out when an object is written.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn first_difference(wanted: &Value, new: &Value, path: String) -> String {
    match (wanted, new) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                let (x, y) = (a.get(key), b.get(key));
                if without_nulls(x.unwrap_or(&Value::Null))
                    != without_nulls(y.unwrap_or(&Value::Null))
                {
                    let value = |one: Option<&Value>| one.cloned().unwrap_or_default();
                    return first_difference(&value(x), &value(y), format!("{path}.{key}"));
                }
            }
            path
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            match a.iter().zip(b).position(|(x, y)| x != y) {
                Some(at) => first_difference(&a[at], &b[at], format!("{path}[{at}]")),
                None => path,
            }
        }
        _ => format!("{path}: {wanted} -> {new}"),
    }
}

/// Checks what a template of a ReplicaSet or Deployment may not say, though a pod may.
pub fn template_only_fields(causes: &mut Causes, spec: &Value, field: &str, kind: &str) {
    let policy = text(&spec["restartPolicy"]);
    if !policy.is_empty() && policy != "Always" {
        causes.not_supported(&format!("{field}.restartPolicy"), policy, &["Always"]);
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        causes.forbidden(
            &format!("{field}.activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    fn found(change: fn(&mut Value)) -> Vec<String> {
        let old = json!({
            "containers": [{"name": "a", "image": "x:1"}], "nodeName": "worker-1",
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "terminationGracePeriodSeconds": 30,
        });
        let mut new = old.clone();
        change(&mut new);
        let mut causes = Causes::new();
        pod_update(&mut causes, &new, &old);
        lines(&causes.into_list())
    }

    #[test]
    fn allowed_changes_pass() {
        let changes: &[fn(&mut Value)] = &[
            |_| {},
            |s| s["containers"][0]["image"] = "x:2".into(),
            |s| s["activeDeadlineSeconds"] = 5.into(),
            |s| s["initContainers"] = json!([]),
            |s| {
                let more = json!({"key": "b", "operator": "Exists"});
                s["tolerations"].as_array_mut().unwrap().push(more);
            },
            |s| s["tolerations"][0]["tolerationSeconds"] = 5.into(),
        ];
        for change in changes {
            assert_eq!(found(*change), Vec::<String>::new());
        }
    }

    #[test]
    fn other_changes_are_forbidden() {
        type Change = fn(&mut Value);
        let cases: &[(Change, &str)] = &[
            (
                |s| s["nodeName"] = "worker-2".into(),
                "Forbidden spec: Forbidden: pod updates may not",
            ),
            (|s| s["containers"][0]["name"] = "b".into(), "Forbidden spec: "),
            (|s| s["terminationGracePeriodSeconds"] = 1.into(), "Forbidden spec: "),
            (|s| s["tolerations"] = json!([]), "Forbidden spec.tolerations"),
            (|s| s["containers"] = json!([{}, {}]), "Forbidden spec.containers"),
            (
                |s| s["schedulingGates"] = json!([{"name": "g"}]),
                "Forbidden spec.schedulingGates[0]",
            ),
        ];
        for (change, start) in cases {
            let found = found(*change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
        assert!(found(cases[0].0)[0].ends_with("spec.nodeName: \"worker-1\" -> \"worker-2\""));
    }
}
