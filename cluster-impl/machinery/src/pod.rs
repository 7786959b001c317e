//! What several components ask of pods and nodes: ready, finished, requests, quality of service.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{Object, Quantity};

/// Amounts by name of resource, such as `cpu` and `memory`.
pub type Resources = BTreeMap<String, Quantity>;

/// Whether a pod's Ready condition is True.
pub fn is_ready(pod: &Object) -> bool {
    pod.condition_status("Ready") == "True"
}

/// Whether a pod is Ready and has been for `seconds`.
pub fn is_available(pod: &Object, seconds: i64, now: jiff::Timestamp) -> bool {
    let Some(ready) = pod.condition("Ready").filter(|ready| ready["status"] == "True") else {
        return false;
    };
    if seconds == 0 {
        return true;
    }
    let since = ready["lastTransitionTime"].as_str().and_then(|at| at.parse().ok());
    since.is_some_and(|since: jiff::Timestamp| now.duration_since(since).as_secs() >= seconds)
}

/// Whether a pod will never run again: its phase is Succeeded or Failed.
pub fn is_finished(pod: &Object) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed")
}

/// Whether a pod counts as a replica: not finished and not being deleted.
pub fn is_active(pod: &Object) -> bool {
    !is_finished(pod) && !pod.is_terminating()
}

/// Whether a node's Ready condition is True.
pub fn node_is_ready(node: &Object) -> bool {
    node.condition_status("Ready") == "True"
}

/// The name of the node that a pod is bound to; "" if none.
pub fn node_name(pod: &Object) -> &str {
    pod.text("/spec/nodeName")
}

/// Whether an init container keeps running beside the main ones.
pub fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

/// Reads a map of quantities; what cannot be read counts as nothing.
pub fn resources(value: &Value) -> Resources {
    let list = value.as_object().into_iter().flatten();
    list.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount)?))).collect()
}

/// What a pod asks of a node: the sum over containers or the largest init container, whichever is more, plus
/// sidecars and overhead (`PodRequests` of k8s.io/component-helpers).
pub fn requests(pod: &Object) -> Resources {
    let mut total = over_containers(pod, |container| {
        let mut requests = resources(&container["resources"]["requests"]);
        // A limit without a request is the request, as defaulting has it.
        for (name, limit) in resources(&container["resources"]["limits"]) {
            requests.entry(name).or_insert(limit);
        }
        requests
    });
    if let Some(overhead) = pod.get("/spec/overhead") {
        add(&mut total, &resources(overhead));
    }
    total
}

/// What a pod may take at most, counted like [`requests`]; overhead counts only where there is a limit.
pub fn limits(pod: &Object) -> Resources {
    let mut total = over_containers(pod, |container| resources(&container["resources"]["limits"]));
    if let Some(overhead) = pod.get("/spec/overhead") {
        for (name, amount) in resources(overhead) {
            if let Some(limit) = total.get_mut(&name) {
                *limit += amount;
            }
        }
    }
    total
}

fn over_containers(pod: &Object, of: impl Fn(&Value) -> Resources) -> Resources {
    let mut total = Resources::new();
    for container in pod.list("/spec/containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for container in pod.list("/spec/initContainers") {
        let own = of(container);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut peak, &together);
        }
    }
    raise(&mut total, &peak);
    total
}

/// Adds amounts by name.
pub fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(total: &mut Resources, floor: &Resources) {
    for (name, amount) in floor {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// Guaranteed, Burstable or BestEffort, from the requests and limits of cpu and memory.
pub fn qos_class(pod: &Object) -> &'static str {
    let (mut requests, mut limits) = (Resources::new(), Resources::new());
    let mut guaranteed = true;
    let containers = pod.list("/spec/containers").iter().chain(pod.list("/spec/initContainers"));
    for container in containers {
        let own = |which: &str| {
            let mut amounts = resources(&container["resources"][which]);
            amounts.retain(|name, amount| (name == "cpu" || name == "memory") && !amount.is_zero());
            amounts
        };
        let own_limits = own("limits");
        guaranteed &= own_limits.len() == 2;
        add(&mut requests, &own("requests"));
        add(&mut limits, &own_limits);
    }
    match () {
        () if requests.is_empty() && limits.is_empty() => "BestEffort",
        () if guaranteed && requests == limits => "Guaranteed",
        () => "Burstable",
    }
}

/// The template of a workload as a pod without a name: labels, annotations, finalizers and spec.
pub fn from_template(template: &Value) -> Object {
    let mut pod = Object(serde_json::json!({"apiVersion": "v1", "kind": "Pod"}));
    let mut metadata = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    pod.set("/metadata", Value::Object(metadata));
    pod.set("/spec", template["spec"].clone());
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(requests: &Value, limits: &Value) -> Value {
        json!({"resources": {"requests": requests, "limits": limits}})
    }

    fn pod(containers: Value, init: Value) -> Object {
        Object(json!({"spec": {"containers": containers, "initContainers": init}}))
    }

    #[test]
    fn quality_of_service() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let less = json!({"cpu": "500m", "memory": "1Gi"});
        let none = json!({});
        for (containers, expected) in [
            (vec![container(&both, &both)], "Guaranteed"),
            (vec![container(&json!({"cpu": "1000m", "memory": "1024Mi"}), &both)], "Guaranteed"),
            (vec![container(&less, &both)], "Burstable"),
            (vec![container(&both, &none)], "Burstable"),
            (vec![container(&none, &none)], "BestEffort"),
            (vec![container(&json!({"cpu": "0"}), &none)], "BestEffort"),
            (vec![container(&json!({"hugepages-2Mi": "1"}), &none)], "BestEffort"),
            (vec![container(&both, &both), container(&none, &none)], "Burstable"),
        ] {
            let pod = pod(json!(containers), json!([]));
            assert_eq!(qos_class(&pod), expected, "{containers:?}");
        }
        let with_init = pod(json!([container(&both, &both)]), json!([container(&none, &none)]));
        assert_eq!(qos_class(&with_init), "Burstable");
    }

    #[test]
    fn requests_take_the_larger_of_init_and_main() {
        let cpu = |amount: &str| container(&json!({"cpu": amount}), &json!({}));
        let mut sidecar = cpu("300m");
        sidecar["restartPolicy"] = "Always".into();
        for (containers, init, expected) in [
            (json!([cpu("1"), cpu("500m")]), json!([]), "1500m"),
            (json!([cpu("1")]), json!([cpu("3")]), "3"),
            (json!([cpu("1")]), json!([sidecar.clone()]), "1300m"),
            (json!([cpu("1")]), json!([sidecar.clone(), cpu("2")]), "2300m"),
            (json!([cpu("1")]), json!([cpu("2"), sidecar.clone()]), "2"),
            (json!([container(&json!({}), &json!({"cpu": "2"}))]), json!([]), "2"),
        ] {
            let pod = pod(containers, init);
            assert_eq!(requests(&pod)["cpu"].to_string(), expected);
        }
        let mut heavy = pod(json!([cpu("1")]), json!([]));
        heavy.set("/spec/overhead/cpu", "250m");
        assert_eq!(requests(&heavy)["cpu"].milli_value(), 1250);
    }

    #[test]
    fn readiness_and_availability() {
        let mut pod = Object(json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:10Z"},
        ]}}));
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        assert!(is_ready(&pod) && is_active(&pod));
        assert!(is_available(&pod, 0, at(10)));
        assert!(!is_available(&pod, 10, at(19)));
        assert!(is_available(&pod, 10, at(20)));
        pod.set("/status/phase", "Failed");
        assert!(is_finished(&pod) && !is_active(&pod));
    }
}
