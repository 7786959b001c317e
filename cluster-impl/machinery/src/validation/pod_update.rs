//! What may change in a pod that exists: images, deadlines, more tolerations, fewer scheduling gates;
//! through subresources also ephemeral containers and resources.

use serde_json::Value;

use super::{Causes, items, metadata, names, pod_spec, text};
use crate::{Cause, Object, Quantity, pod};

const ALLOWED: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The annotation of a pod that a kubelet runs without being asked.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Checks the change of a pod.
pub fn pod_update(causes: &mut Causes, new: &Object, old: &Object) {
    let (pod, old_pod) = (new, old);
    let (new, old) = (&new.0["spec"], &old.0["spec"]);
    let count = |spec: &Value, list: &str| items(&spec[list]).count();
    for list in ["containers", "initContainers"] {
        if count(new, list) != count(old, list) {
            let why = "pod updates may not add or remove containers";
            causes.forbidden(&format!("spec.{list}"), why);
            return;
        }
    }
    if !deadline(causes, new, old) {
        return;
    }
    tolerations(causes, new, old);
    let gates = gates(causes, new, old);
    if without_nulls(new) == without_nulls(old) {
        return;
    }
    if pod::qos_class(pod) != pod::qos_class(old_pod) {
        causes.invalid("metadata", pod.text("/status/qosClass"), "Pod QoS is immutable");
    }
    let mut wanted = old.clone();
    take_allowed(&mut wanted, new);
    // A pod that waits for gates may still be narrowed down to fewer nodes.
    if gates {
        narrowed(causes, new, old);
        take(&mut wanted, new, "nodeSelector");
        take_node_affinity(&mut wanted, new);
    }
    if without_nulls(&wanted) != without_nulls(new) {
        let difference = first_difference(&wanted, new, "spec".to_owned());
        causes.forbidden("spec", &format!("{ALLOWED}\n{difference}"));
    }
}

/// What is wrong with an update of a pod's ephemeral containers.
pub fn ephemeral_containers_update(new: &Object, old: &Object) -> Vec<Cause> {
    const FIELD: &str = "spec.ephemeralContainers";
    let mut causes = whole(new, old);
    if old.annotation(MIRROR).is_some() {
        let mut causes = Causes::new();
        causes.forbidden("", "static pods do not support ephemeral containers");
        return causes.into_list();
    }
    for before in old.list("/spec/ephemeralContainers") {
        let name = text(&before["name"]);
        match new.list("/spec/ephemeralContainers").iter().find(|one| one["name"] == name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                causes.forbidden(FIELD, &why);
            }
            Some(now) if without_nulls(now) != without_nulls(before) => {
                let difference = first_difference(before, now, FIELD.to_owned());
                let why = format!(
                    "existing ephemeral containers {name:?} may not be changed\n{difference}"
                );
                causes.forbidden(FIELD, &why);
            }
            Some(_) => {}
        }
    }
    causes.into_list()
}

/// What is wrong with an update of a pod's resources.
pub fn pod_resize(new: &Object, old: &Object) -> Vec<Cause> {
    let refused = |why: &str| {
        let mut causes = Causes::new();
        causes.forbidden("", why);
        causes.into_list()
    };
    let pod_level = |pod: &Object| pod.map("/spec/resources").is_some_and(|map| !map.is_empty());
    if pod_level(new) || pod_level(old) {
        return refused("pods with pod-level resources cannot be resized");
    }
    if old.annotation(MIRROR).is_some() {
        return refused("static pods cannot be resized");
    }
    if old.text("/spec/os/name") == "windows" {
        return refused("windows pods cannot be resized");
    }
    let mut causes = whole(new, old);
    let class = pod::qos_class(new);
    if pod::qos_class(old) != class {
        causes.invalid("spec", class, "Pod QOS Class may not change as a result of resizing");
    }
    let running = old.list("/status/containerStatuses").iter();
    let mut running = running.filter(|status| status["state"]["running"].is_object());
    if running.next().is_some_and(|status| status["resources"].is_null()) {
        causes.forbidden("spec", "Pod running on node without support for resize");
    }
    let before = causes.count();
    for list in ["initContainers", "containers"] {
        let names = |pod: &Object| -> Vec<String> {
            let list = pod.list(&format!("/spec/{list}")).iter();
            list.map(|container| text(&container["name"]).to_owned()).collect()
        };
        if names(new) != names(old) {
            let why = "containers may not be renamed or reordered on resize";
            causes.forbidden(&format!("spec.{list}"), why);
        }
    }
    if causes.count() > before {
        return causes.into_list();
    }
    let mut wanted = old.clone();
    for list in ["initContainers", "containers"] {
        let pointer = format!("/spec/{list}");
        for (index, (now, before)) in new.list(&pointer).iter().zip(old.list(&pointer)).enumerate()
        {
            let is_sidecar = list == "containers" || pod::is_sidecar(before);
            if is_sidecar {
                resized(&mut causes, now, before, &format!("spec.{list}[{index}].resources"));
                take_resources(&mut wanted.0["spec"][list][index], now);
            } else if without_nulls(&now["resources"]) != without_nulls(&before["resources"]) {
                causes.forbidden("spec", "resources for non-sidecar init containers are immutable");
                return causes.into_list();
            }
        }
    }
    if without_nulls(&wanted.0["spec"]) != without_nulls(&new.0["spec"]) {
        causes.forbidden("spec", "only cpu and memory resources are mutable");
    }
    causes.into_list()
}

/// What holds for a pod whichever way it is updated.
fn whole(new: &Object, old: &Object) -> Causes {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, new, Some(old), true, names::dns_subdomain);
    let of = pod_spec::Of::Pod(new.name());
    pod_spec::validate(&mut causes, &new.0["spec"], "spec", of);
    causes
}

/// Checks the new resources of one container.
fn resized(causes: &mut Causes, new: &Value, old: &Value, field: &str) {
    for (which, what) in [("requests", "requests"), ("limits", "limits")] {
        let (now, before) = (&new["resources"][which], &old["resources"][which]);
        let gone = |(name, _): (&String, &Value)| now[name.as_str()].is_null();
        if before.as_object().into_iter().flatten().any(gone) {
            let why = format!("resource {what} cannot be removed");
            causes.forbidden(&format!("{field}.{which}"), &why);
        }
    }
    let memory = items(&new["resizePolicy"]).find(|(_, one)| one["resourceName"] == "memory");
    if memory.is_some_and(|(_, policy)| policy["restartPolicy"] == "RestartContainer") {
        return;
    }
    let limit = |of: &Value| Quantity::from_value(&of["resources"]["limits"]["memory"]);
    if let (Some(now), Some(before)) = (limit(new), limit(old))
        && now < before
    {
        causes.forbidden(
            &format!("{field}.limits[memory]"),
            "memory limits cannot be decreased unless resizePolicy is RestartContainer",
        );
    }
}

/// Takes over cpu, memory and how to resize them.
fn take_resources(wanted: &mut Value, new: &Value) {
    take(wanted, new, "resizePolicy");
    for which in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            let amount = &new["resources"][which][name];
            if !amount.is_null() {
                wanted["resources"][which][name] = amount.clone();
            } else if let Some(own) = wanted["resources"][which].as_object_mut() {
                own.remove(name);
            }
        }
    }
}

/// Checks that a pod that waits for gates is only narrowed down.
fn narrowed(causes: &mut Causes, new: &Value, old: &Value) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let lost = |(key, value): (&String, &Value)| new["nodeSelector"][key.as_str()] != *value;
    if old["nodeSelector"].as_object().into_iter().flatten().any(lost) {
        causes.invalid(
            "spec.nodeSelector",
            new["nodeSelector"].clone(),
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    fn terms(spec: &Value) -> &Value {
        &spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    }
    let (now, before) = (terms(new), terms(old));
    let count = items(before).count();
    if count == 0 {
        return;
    }
    let field = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if items(now).count() != count {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        causes.invalid(&field, now.clone(), why);
        return;
    }
    for (index, term) in items(now) {
        let has_only_more = |list: &str| {
            let mut kept = items(&term[list]).map(|(_, one)| one);
            items(&before[index][list]).all(|(_, one)| kept.next() == Some(one))
        };
        let lists = ["matchExpressions", "matchFields"];
        let had = lists.iter().any(|list| items(&before[index][*list]).next().is_some());
        let has = lists.iter().any(|list| items(&term[*list]).next().is_some());
        if !lists.iter().all(|list| has_only_more(list)) || has && !had {
            let why = "only additions are allowed (no mutations or deletions)";
            causes.invalid(&format!("{field}[{index}]"), term.clone(), why);
        }
    }
}

fn take_node_affinity(wanted: &mut Value, new: &Value) {
    let node = &new["affinity"]["nodeAffinity"];
    if !node.is_null() {
        if !wanted["affinity"].is_object() {
            wanted["affinity"] = serde_json::json!({});
        }
        wanted["affinity"]["nodeAffinity"] = node.clone();
    } else if let Some(affinity) = wanted["affinity"].as_object_mut() {
        affinity.remove("nodeAffinity");
        if affinity.is_empty() && new["affinity"].is_null() {
            wanted.as_object_mut().map(|spec| spec.remove("affinity"));
        }
    }
}

/// Checks a deadline; answers whether it makes sense to go on.
fn deadline(causes: &mut Causes, new: &Value, old: &Value) -> bool {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            causes.invalid(FIELD, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            causes.invalid(FIELD, Value::Null, why);
            true
        }
        _ => true,
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

/// Where two values differ first, as `spec.a[0].b: old -> new`; nulls and empty lists do not count.
pub fn difference(old: &Value, new: &Value, field: &str) -> Option<String> {
    let differs = without_nulls(old) != without_nulls(new);
    differs.then(|| first_difference(old, new, field.to_owned()))
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
        changed(&old, change)
    }

    fn changed(old: &Value, change: impl Fn(&mut Value)) -> Vec<String> {
        let old = Object(json!({ "spec": old }));
        let mut new = old.clone();
        change(&mut new.0["spec"]);
        let mut causes = Causes::new();
        pod_update(&mut causes, &new, &old);
        lines(&causes.into_list())
    }

    fn pod() -> Object {
        let mut pod = Object(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"containers": [{"name": "a", "image": "x:1", "resources": {
                "requests": {"cpu": "100m", "memory": "64Mi"},
                "limits": {"cpu": "200m", "memory": "64Mi"}}}]},
        }));
        crate::defaulting::pod_spec(&mut pod.0["spec"]);
        pod
    }

    fn by(
        check: fn(&Object, &Object) -> Vec<Cause>,
        old: &Object,
        change: impl Fn(&mut Value),
    ) -> Vec<String> {
        let mut new = old.clone();
        change(&mut new.0["spec"]);
        lines(&check(&new, old))
    }

    #[test]
    fn cpu_and_memory_can_be_resized() {
        type Change = fn(&mut Value);
        let cases: &[(Change, &str)] = &[
            (|s| s["containers"][0]["resources"]["requests"]["cpu"] = "150m".into(), ""),
            (
                |s| s["containers"][0]["resources"]["requests"]["cpu"] = "300m".into(),
                "Invalid spec.containers[0].resources.requests: Invalid value: \"300m\": must be less",
            ),
            (
                |s| s["containers"][0]["resources"]["requests"] = json!({"cpu": "100m"}),
                "Forbidden spec.containers[0].resources.requests: Forbidden: resource requests cannot \
                 be removed",
            ),
            (
                |s| {
                    s["containers"][0]["resources"]["limits"]["memory"] = "32Mi".into();
                    s["containers"][0]["resources"]["requests"]["memory"] = "32Mi".into();
                },
                "Forbidden spec.containers[0].resources.limits[memory]: Forbidden: memory limits",
            ),
            (
                |s| s["containers"][0]["resources"]["requests"]["cpu"] = "200m".into(),
                "Invalid spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result",
            ),
            (
                |s| s["containers"][0]["resources"]["limits"]["ephemeral-storage"] = "1Gi".into(),
                "Forbidden spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                |s| s["containers"][0]["name"] = "b".into(),
                "Forbidden spec.containers: Forbidden: containers may not be renamed or reordered",
            ),
        ];
        for (change, start) in cases {
            let found = by(pod_resize, &pod(), change);
            assert_eq!(found.len(), usize::from(!start.is_empty()), "{start}: {found:?}");
            assert!(found.iter().all(|line| line.starts_with(start)), "{start}: {found:?}");
        }
        let mut fixed = pod();
        fixed.set("/metadata/annotations/kubernetes.io~1config.mirror", "x");
        assert_eq!(
            by(pod_resize, &fixed, |_| {}),
            ["Forbidden : Forbidden: static pods cannot be resized"]
        );
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let debugger = json!({"name": "d", "image": "x:1", "imagePullPolicy": "Always",
            "terminationMessagePolicy": "File"});
        let mut old = pod();
        let add = |s: &mut Value| s["ephemeralContainers"] = json!([debugger]);
        assert_eq!(by(ephemeral_containers_update, &old, add), [""; 0]);
        old.set("/spec/ephemeralContainers", json!([debugger]));
        let found = by(ephemeral_containers_update, &old, |s| {
            s["ephemeralContainers"][0]["image"] = "y".into();
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("existing ephemeral containers \"d\" may not be changed"));
        let found = by(ephemeral_containers_update, &old, |s| s["ephemeralContainers"] = json!([]));
        assert!(found[0].ends_with("\"d\" may not be removed\n"), "{found:?}");
    }

    #[test]
    fn a_gated_pod_may_be_narrowed_down() {
        let old = json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}});
        let more = |s: &mut Value| {
            s["nodeSelector"]["c"] = "d".into();
            s["affinity"] = affinity.clone();
            s["schedulingGates"] = json!([]);
        };
        assert_eq!(changed(&old, more), [""; 0]);
        let found = changed(&old, |s| s["nodeSelector"] = json!({"a": "c"}));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("Invalid spec.nodeSelector"), "{found:?}");
        let mut bound = old.clone();
        bound["affinity"] = affinity.clone();
        let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        let found = changed(&bound, |s| {
            s.pointer_mut(terms).unwrap()["nodeSelectorTerms"] = json!([]);
        });
        assert!(found[0].contains("no additions/deletions to non-empty"), "{found:?}");
    }

    #[test]
    fn the_class_of_service_stays() {
        let found = changed(&pod().0["spec"], |s| s["containers"][0]["resources"] = json!({}));
        assert_eq!(found[0], "Invalid metadata: Invalid value: \"\": Pod QoS is immutable");
        assert!(
            found[1].starts_with("Forbidden spec: Forbidden: pod updates may not change fields")
        );
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
