//! Priority: a pod's `priorityClassName` as a number, and what PriorityClasses may be made and deleted.
//!
//! The two system classes are made at the start of a cluster and cannot be deleted, so a pod may name
//! them even before that.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::{PRIORITY_CLASS, SYSTEM_PRIORITY_CLASSES};
use machinery::{Object, ObjectKey, Status};

use super::{Operation, Plugin, Review, Step, find, nothing_to_do};
use crate::picture::Picture;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "Priority",
    stage: 13,
    admit: Step::Waits(admit),
    validate: Step::Waits(validate),
};

const PREEMPTS: &str = "PreemptLowerPriority";

/// What a class gives a pod.
struct Given {
    class: String,
    priority: i64,
    preemption: String,
}

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    if review.pod(&[Operation::Create]).is_some() {
        return fill_in(review).boxed();
    }
    keep(review);
    nothing_to_do()
}

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    if review.kind.id != PRIORITY_CLASS.id || !review.subresource.is_empty() {
        return nothing_to_do();
    }
    if review.operation == Operation::Delete {
        let is_system =
            SYSTEM_PRIORITY_CLASSES.iter().any(|(system, _)| *system == review.key.name);
        if is_system {
            let why = "this is a system priority class and cannot be deleted";
            let refused = review.refusal(why);
            return async move { Err(refused) }.boxed();
        }
        return nothing_to_do();
    }
    if review.object.as_deref().is_some_and(|class| class.flag("/globalDefault")) {
        return be_the_only_default(review).boxed();
    }
    nothing_to_do()
}

/// What an update leaves out stays as it was.
fn keep(review: &mut Review<'_>) {
    let Some(old) = review.old else { return };
    let Some(pod) = review.pod(&[Operation::Update]) else { return };
    for field in ["/spec/priority", "/spec/preemptionPolicy"] {
        if let (None, Some(value)) = (pod.get(field), old.get(field)) {
            pod.set(field, value.clone());
        }
    }
}

async fn fill_in(review: &mut Review<'_>) -> Result<(), Status> {
    let name = review.object.as_deref().map(|pod| pod.text("/spec/priorityClassName").to_owned());
    let given = match name.unwrap_or_default() {
        name if name.is_empty() => by_default(review).await?,
        name => by_name(review, name).await?,
    };
    let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
    let Given { class, priority, preemption } = given;
    let own = pod.integer("/spec/priority").filter(|own| *own != priority);
    let own_policy = pod.text("/spec/preemptionPolicy");
    let why = if let Some(own) = own {
        format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority \
             admission controller computed {priority} from the given PriorityClass name"
        )
    } else if !own_policy.is_empty() && own_policy != preemption {
        format!(
            "the string value of PreemptionPolicy ({own_policy}) must not be provided in pod spec; \
             priority admission controller computed {preemption} from the given PriorityClass name"
        )
    } else {
        if !class.is_empty() {
            pod.set("/spec/priorityClassName", class);
        }
        pod.set("/spec/priority", priority);
        pod.set("/spec/preemptionPolicy", preemption);
        return Ok(());
    };
    Err(review.refusal(&why))
}

fn given(class: &Object) -> Given {
    let preemption = match class.text("/preemptionPolicy") {
        "" => PREEMPTS,
        policy => policy,
    };
    Given {
        class: class.name().to_owned(),
        priority: class.integer("/value").unwrap_or_default(),
        preemption: preemption.to_owned(),
    }
}

async fn by_name(review: &Review<'_>, name: String) -> Result<Given, Status> {
    let system = SYSTEM_PRIORITY_CLASSES.iter().find(|(system, _)| *system == name);
    if let Some((_, priority)) = system {
        let preemption = PREEMPTS.to_owned();
        return Ok(Given { class: name, priority: *priority, preemption });
    }
    match find(review.server, &PRIORITY_CLASS, &ObjectKey::new("", name.as_str())).await? {
        Some(class) => Ok(given(&class)),
        None => Err(review.refusal(&format!("no PriorityClass with name {name} was found"))),
    }
}

async fn by_default(review: &Review<'_>) -> Result<Given, Status> {
    let class = default_class(review).await?;
    Ok(class.map_or_else(
        || Given { class: String::new(), priority: 0, preemption: PREEMPTS.to_owned() },
        |class| given(&class),
    ))
}

/// The default class; of several the one of the least value.
async fn default_class(review: &Review<'_>) -> Result<Option<Arc<Object>>, Status> {
    let classes = Picture::all(review.server, &PRIORITY_CLASS, "").await?;
    let defaults = classes.into_iter().filter(|class| class.flag("/globalDefault"));
    Ok(defaults.min_by_key(|class| class.integer("/value").unwrap_or_default()))
}

async fn be_the_only_default(review: &mut Review<'_>) -> Result<(), Status> {
    match default_class(review).await? {
        Some(known) if review.operation == Operation::Create || known.name() != review.key.name => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                known.name()
            );
            Err(review.refusal(&why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use serde_json::{Value, json};

    use crate::testing::{PODS, World, named, pod, text};

    const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

    fn class(name: &str, value: i64) -> Value {
        let mut class = named("scheduling.k8s.io/v1", "PriorityClass", name);
        class["value"] = value.into();
        class
    }

    /// What becomes of a pod with this spec beside its containers: priority, class and policy, or why not.
    async fn made(world: &World, spec: Value) -> String {
        let mut body = pod("");
        body["metadata"] = json!({"generateName": "p-"});
        for (name, value) in spec.as_object().unwrap() {
            body["spec"][name] = value.clone();
        }
        let (code, answer) = world.call(Method::POST, PODS, &body).await;
        let spec = &answer["spec"];
        match code {
            201 => format!(
                "{} {} {}",
                spec["priority"],
                text(&spec["priorityClassName"]),
                text(&spec["preemptionPolicy"])
            ),
            _ => text(&answer["message"]).split_once(": ").unwrap().1.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn classes_become_numbers() {
        let world = World::new().await;
        let mut mild = class("mild", 500);
        mild["preemptionPolicy"] = "Never".into();
        world.create(CLASSES, mild).await;
        for (spec, expected) in [
            (json!({}), "0  PreemptLowerPriority"),
            (json!({"priority": 0}), "0  PreemptLowerPriority"),
            (
                json!({"priority": 7}),
                "the integer value of priority (7) must not be provided in pod spec; priority \
                 admission controller computed 0 from the given PriorityClass name",
            ),
            (
                json!({"priorityClassName": "system-node-critical"}),
                "2000001000 system-node-critical PreemptLowerPriority",
            ),
            (json!({"priorityClassName": "mild"}), "500 mild Never"),
            (
                json!({"priorityClassName": "mild", "preemptionPolicy": "PreemptLowerPriority"}),
                "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in \
                 pod spec; priority admission controller computed Never from the given PriorityClass \
                 name",
            ),
            (json!({"priorityClassName": "gone"}), "no PriorityClass with name gone was found"),
        ] {
            assert_eq!(made(&world, spec.clone()).await, expected, "{spec}");
        }
        // A class that was made this moment counts, though the server may not have followed it yet.
        world.create(CLASSES, class("fresh", 3)).await;
        let fresh = json!({"priorityClassName": "fresh"});
        assert_eq!(made(&world, fresh).await, "3 fresh PreemptLowerPriority");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_one_default() {
        let world = World::new().await;
        let default = |name: &str, value: i64| {
            let mut class = class(name, value);
            class["globalDefault"] = true.into();
            class
        };
        world.create(CLASSES, default("usual", 10)).await;
        world.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(made(&world, json!({})).await, "10 usual PreemptLowerPriority");
        let (code, answer) = world.call(Method::POST, CLASSES, &default("more", 20)).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            "priorityclasses.scheduling.k8s.io \"more\" is forbidden: PriorityClass usual is already \
             marked as default. Only one default can exist"
        );
        world.create(CLASSES, class("more", 20)).await;
        let path = format!("{CLASSES}/more");
        let mark = json!({"globalDefault": true});
        assert_eq!(world.call(Method::PATCH, &path, &mark).await.0, 403);
        world.patch(&format!("{CLASSES}/usual"), json!({"description": "still"})).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_systems_own_classes_stay() {
        let world = World::new().await;
        let running = world.env.spawn(world.server.clone().run());
        world.env.sleep(Duration::from_secs(5)).await;
        for (name, value) in super::SYSTEM_PRIORITY_CLASSES {
            let path = format!("{CLASSES}/{name}");
            assert_eq!(world.get(&path).await["value"], value);
            let (code, answer) = world.call(Method::DELETE, &path, &Value::Null).await;
            assert_eq!(code, 403);
            assert_eq!(
                text(&answer["message"]),
                format!(
                    "priorityclasses.scheduling.k8s.io \"{name}\" is forbidden: this is a system \
                     priority class and cannot be deleted"
                )
            );
        }
        world.create(CLASSES, class("mine", 1)).await;
        world.delete(&format!("{CLASSES}/mine")).await;
        drop(running);
    }
}
