//! RuntimeClass: what a pod's runtime costs, and on which nodes it is to be found.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::RUNTIME_CLASS;
use machinery::{Object, ObjectKey, Status, Toleration, pod};
use serde_json::Value;

use super::{Operation, Plugin, Review, Step, find, nothing_to_do};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "RuntimeClass",
    stage: 22,
    admit: Step::Waits(admit),
    validate: Step::Waits(validate),
};

const DIFFERENT: &str =
    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let names_one = review
        .pod(&[Operation::Create])
        .is_some_and(|pod| !pod.text("/spec/runtimeClassName").is_empty());
    if names_one { merge(review).boxed() } else { nothing_to_do() }
}

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let is_concerned = review.pod(&[Operation::Create]).is_some_and(|pod| {
        !pod.text("/spec/runtimeClassName").is_empty() || pod.get("/spec/overhead").is_some()
    });
    if is_concerned { check(review).boxed() } else { nothing_to_do() }
}

async fn merge(review: &mut Review<'_>) -> Result<(), Status> {
    let Some(class) = class(review).await? else { return Ok(()) };
    let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
    let merged = set_overhead(pod, &class).and_then(|()| set_scheduling(pod, &class));
    merged.map_err(|why| review.refusal(&why))
}

async fn check(review: &mut Review<'_>) -> Result<(), Status> {
    let class = class(review).await?;
    let Some(pod) = review.object.as_deref() else { return Ok(()) };
    let own = pod.get("/spec/overhead").filter(|own| !own.is_null());
    let fixed = class.as_ref().and_then(|class| class.get("/overhead/podFixed"));
    let why = match (fixed, own) {
        (Some(fixed), Some(own)) if is_same(fixed, own) => return Ok(()),
        (None, None) => return Ok(()),
        (Some(_), _) => DIFFERENT,
        (None, Some(_)) => {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        }
    };
    Err(review.refusal(why))
}

/// The class that the pod names.
async fn class(review: &Review<'_>) -> Result<Option<Arc<Object>>, Status> {
    let name = review.object.as_deref().map(|pod| pod.text("/spec/runtimeClassName"));
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    let found = find(review.server, &RUNTIME_CLASS, &ObjectKey::new("", name)).await?;
    match found {
        Some(class) => Ok(Some(class)),
        None => Err(review.refusal(&format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    pod::resources(one) == pod::resources(other)
}

fn set_overhead(pod: &mut Object, class: &Object) -> Result<(), String> {
    let Some(fixed) = class.get("/overhead/podFixed") else { return Ok(()) };
    let own = pod.map("/spec/overhead").filter(|own| !own.is_empty());
    if own.is_some_and(|_| !is_same(fixed, &pod.0["spec"]["overhead"])) {
        return Err(DIFFERENT.to_owned());
    }
    pod.set("/spec/overhead", fixed.clone());
    Ok(())
}

fn set_scheduling(pod: &mut Object, class: &Object) -> Result<(), String> {
    for (key, value) in class.map("/scheduling/nodeSelector").into_iter().flatten() {
        let own = pod.map("/spec/nodeSelector").and_then(|own| own.get(key));
        if let Some(own) = own.filter(|own| *own != value) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                 pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(own)
            ));
        }
        let key = key.replace('~', "~0").replace('/', "~1");
        pod.set(&format!("/spec/nodeSelector/{key}"), value.clone());
    }
    let more = class.list("/scheduling/tolerations");
    if !more.is_empty() {
        let all: Vec<Value> = pod.list("/spec/tolerations").iter().chain(more).cloned().collect();
        pod.set("/spec/tolerations", without_narrower(&all));
    }
    Ok(())
}

/// Tolerations without those that an other one covers; of equal ones the first stays.
fn without_narrower(all: &[Value]) -> Vec<Value> {
    let read = |value: &Value| serde_json::from_value::<Toleration>(value.clone()).ok();
    let read: Vec<_> = all.iter().map(read).collect();
    let is_covered = |at: usize| {
        let Some(one) = &read[at] else { return false };
        read.iter().enumerate().any(|(other_at, other)| {
            let Some(other) = other.as_ref().filter(|_| other_at != at) else { return false };
            covers(other, one) && (other_at < at || !covers(one, other))
        })
    };
    (0..all.len()).filter(|at| !is_covered(*at)).map(|at| all[at].clone()).collect()
}

/// Whether whatever `one` tolerates, `wide` tolerates too, and for as long.
fn covers(wide: &Toleration, one: &Toleration) -> bool {
    if wide == one {
        return true;
    }
    let is_exists = |toleration: &Toleration| toleration.operator == "Exists";
    if wide.key != one.key && !(wide.key.is_empty() && is_exists(wide)) {
        return false;
    }
    if wide.effect != one.effect && !wide.effect.is_empty() {
        return false;
    }
    if wide.effect == "NoExecute" {
        match (wide.toleration_seconds, one.toleration_seconds) {
            (Some(_), None) => return false,
            (Some(wide_s), Some(one_s)) if wide_s < one_s => return false,
            _ => {}
        }
    }
    is_exists(wide) || !is_exists(one) && wide.value == one.value
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::testing::{PODS, World, named, pod as pod_body, text};

    #[tokio::test(start_paused = true)]
    async fn a_class_brings_its_cost_and_its_nodes() {
        let world = World::new().await;
        let mut class = named("node.k8s.io/v1", "RuntimeClass", "fast");
        class["handler"] = "fast".into();
        class["overhead"] = json!({"podFixed": {"cpu": "250m"}});
        class["scheduling"] = json!({"nodeSelector": {"a.b/hw": "fast"},
            "tolerations": [{"key": "hw", "operator": "Exists", "effect": "NoSchedule"}]});
        world.create("/apis/node.k8s.io/v1/runtimeclasses", class).await;
        let body = |name: &str, class: &str| {
            let mut pod = pod_body(name);
            pod["spec"]["runtimeClassName"] = class.into();
            pod
        };
        let mut narrow = body("a", "fast");
        narrow["spec"]["tolerations"] =
            json!([{"key": "hw", "value": "x", "effect": "NoSchedule"}]);
        let made = world.create(PODS, narrow).await;
        assert_eq!(made["spec"]["overhead"], json!({"cpu": "250m"}));
        assert_eq!(made["spec"]["nodeSelector"], json!({"a.b/hw": "fast"}));
        let tolerations: Vec<_> =
            made["spec"]["tolerations"].as_array().unwrap().iter().map(|one| &one["key"]).collect();
        assert_eq!(tolerations.iter().filter(|key| **key == "hw").count(), 1, "{tolerations:?}");
        let mut other_node = body("b", "fast");
        other_node["spec"]["nodeSelector"] = json!({"a.b/hw": "slow"});
        let mut other_cost = body("b", "fast");
        other_cost["spec"]["overhead"] = json!({"cpu": "1"});
        let mut no_class = pod_body("b");
        no_class["spec"]["overhead"] = json!({"cpu": "1"});
        for (body, why) in [
            (body("b", "gone"), "pod rejected: RuntimeClass \"gone\" not found"),
            (
                other_node,
                "conflict: runtimeClass.scheduling.nodeSelector[a.b/hw] = fast; \
                 pod.spec.nodeSelector[a.b/hw] = slow",
            ),
            (other_cost, DIFFERENT),
            (
                no_class,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
        ] {
            let (code, answer) = world.call(Method::POST, PODS, &body).await;
            assert_eq!(code, 403, "{answer}");
            assert_eq!(text(&answer["message"]), format!("pods \"b\" is forbidden: {why}"));
        }
    }

    #[test]
    fn of_tolerations_the_wider_stay() {
        let exists = json!({"key": "a", "operator": "Exists"});
        let equal = json!({"key": "a", "value": "x"});
        let all = json!({"operator": "Exists"});
        let short = json!({"key": "a", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 9});
        for (given, left) in [
            (vec![&equal, &exists], vec![&exists]),
            (vec![&exists, &exists], vec![&exists]),
            (vec![&short, &long], vec![&long]),
            (vec![&equal, &short], vec![&equal, &short]),
            (vec![&exists, &all, &long], vec![&all]),
        ] {
            let given: Vec<_> = given.into_iter().cloned().collect();
            let left: Vec<_> = left.into_iter().cloned().collect();
            assert_eq!(without_narrower(&given), left, "{given:?}");
        }
    }
}
