//! pods/ephemeralcontainers and pods/resize: parts of a pod's spec that change through doors of their own.
//!
//! Whatever else a write says is passed over.

use std::sync::Arc;

use futures::FutureExt;
use machinery::conditions::seconds;
use machinery::managed_fields::{self, Apply};
use machinery::patch::apply;
use machinery::validation::{ephemeral_containers_update, pod_resize};
use machinery::{Cause, Object, Status};
use serde_json::Value;

use crate::accept::media_type;
use crate::admission::{self, Operation, Review};
use crate::answer::{Answer, Content};
use crate::commit::{self, Decision};
use crate::request::{Request, Verb};
use crate::server::ApiServer;
use crate::verbs::patch::Form;
use crate::verbs::{get, patch as patch_verb, update as update_verb};
use crate::{decode, meta, status};

/// A part of a pod's spec.
pub(crate) struct Part {
    /// Puts what is wanted into the pod that there is.
    take: fn(&mut Object, &Object),
    /// What is wrong with the outcome.
    validate: fn(&Object, &Object) -> Vec<Cause>,
}

/// pods/ephemeralcontainers.
pub(crate) const EPHEMERAL_CONTAINERS: Part =
    Part { take: take_ephemeral_containers, validate: ephemeral_containers_update };
/// pods/resize.
pub(crate) const RESIZE: Part = Part { take: take_resources, validate: pod_resize };

/// Makes what the request wants of what is stored.
type Wanted<'a> = Box<dyn Fn(&Arc<Object>) -> Result<Object, Status> + Send + Sync + 'a>;

/// Reads the pod, or changes one part of it.
pub(crate) async fn serve(
    server: &ApiServer,
    request: &Request,
    part: &Part,
) -> Result<Answer, Status> {
    let kind = request.kind;
    let wanted: Wanted<'_> = match request.verb {
        Verb::Get => return get::get(server, request).await,
        Verb::Update => {
            let body = decode::object(&server.config, request)?;
            update_verb::check_names(&request.key, &body)?;
            Box::new(move |_| Ok(body.clone()))
        }
        Verb::Patch => {
            let patch = patch_verb::read(server, request)?;
            Box::new(move |old| match patch.form {
                Form::Changes(form) => {
                    decode::patched(request, &patch, apply(kind, old, form, &patch.body)?)
                }
                Form::Apply(force) => {
                    let wanted = Apply { config: &patch.body, force };
                    patch_verb::merged(server, request, Some(old), wanted)
                }
            })
        }
        _ => return Err(status::method_not_allowed()),
    };
    let is_apply = media_type(&request.content_type) == patch_verb::APPLY;
    let wanted = &wanted;
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(kind, &request.key))?;
            let wanted = wanted(&old)?;
            update_verb::check_preconditions(kind, &old, &wanted)?;
            decided(server, request, (part, is_apply), &old, &wanted).await
        }
        .boxed()
    };
    let written = commit::change(server, request, &request.key, &mut decide).await?;
    Ok(Answer::new(200, Content::Object(kind, written.stored)))
}

async fn decided(
    server: &ApiServer,
    request: &Request,
    (part, is_apply): (&Part, bool),
    old: &Arc<Object>,
    wanted: &Object,
) -> Result<Decision, Status> {
    let kind = request.kind;
    let mut new = Object::clone(old);
    (part.take)(&mut new, wanted);
    kind.set_defaults(&mut new);
    match is_apply {
        // Who owns what was found out with the rest of what was wanted.
        true => new.set("/metadata/managedFields", wanted.list("/metadata/managedFields").to_vec()),
        false => {
            let time = seconds(server.env.now());
            managed_fields::update(kind, request.writer(&time), Some(old), &mut new);
        }
    }
    meta::count_generation(kind, old, &mut new);
    let mut review = Review {
        object: Some(&mut new),
        old: Some(old),
        ..Review::new(server, request, Operation::Update)
    };
    admission::mutate(&mut review).await?;
    let causes = (part.validate)(&new, old);
    if !causes.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, new.name(), &causes));
    }
    let review = Review {
        object: Some(&mut new),
        old: Some(old),
        ..Review::new(server, request, Operation::Update)
    };
    let along = admission::validate(review).await?;
    managed_fields::keep_times(old, &mut new);
    Ok(Decision::Put(Box::new(new), along))
}

fn take_ephemeral_containers(pod: &mut Object, wanted: &Object) {
    match wanted.get("/spec/ephemeralContainers") {
        Some(containers) => pod.set("/spec/ephemeralContainers", containers.clone()),
        None => drop(pod.remove("/spec/ephemeralContainers")),
    }
}

/// Containers that are not the same, in the same order, are taken as they are, to be refused.
fn take_resources(pod: &mut Object, wanted: &Object) {
    for list in ["/spec/initContainers", "/spec/containers"] {
        let (own, given) = (pod.list(list), wanted.list(list));
        let is_same = own.len() == given.len()
            && own.iter().zip(given).all(|(own, given)| own["name"] == given["name"]);
        let mut containers = given.to_vec();
        if is_same {
            containers = own.to_vec();
            for (own, given) in containers.iter_mut().zip(given) {
                take(own, given, "resources");
                take(own, given, "resizePolicy");
            }
        }
        if !containers.is_empty() || !own.is_empty() {
            pod.set(list, containers);
        }
    }
}

fn take(own: &mut Value, given: &Value, field: &str) {
    let Some(own) = own.as_object_mut() else { return };
    match given.get(field) {
        Some(value) => own.insert(field.to_owned(), value.clone()),
        None => own.remove(field),
    };
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::testing::{PODS, World, pod, text};

    #[tokio::test(start_paused = true)]
    async fn a_debugger_is_added_and_stays() {
        let world = World::new().await;
        world.create(PODS, pod("a")).await;
        let path = format!("{PODS}/a/ephemeralcontainers");
        let debugger = json!({"spec": {"ephemeralContainers": [
            {"name": "debug", "image": "tools:1", "targetContainerName": "main"}]}});
        let headers = [("content-type", "application/strategic-merge-patch+json")];
        let (code, after) = world.call_with(Method::PATCH, &path, &headers, &debugger).await;
        assert_eq!(code, 200, "{after}");
        let container = &after["spec"]["ephemeralContainers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent", "it gets its defaults");
        assert_eq!(after["metadata"]["generation"], 2);
        assert_eq!(world.get(&path).await, world.get(&format!("{PODS}/a")).await);
        let mut without = after.clone();
        without["spec"]["ephemeralContainers"] = json!([]);
        let (code, answer) = world.call(Method::PUT, &path, &without).await;
        assert_eq!(code, 422);
        assert!(text(&answer["message"]).contains("\"debug\" may not be removed"), "{answer}");
        // The pod itself is no door to it.
        let (code, _) = world.call(Method::PUT, &format!("{PODS}/a"), &without).await;
        assert_eq!(code, 422);
        let unknown = json!({"spec": {"ephemeralContainers": [
            {"name": "more", "image": "tools:1", "targetContainerName": "other"}]}});
        assert_eq!(world.call_with(Method::PATCH, &path, &headers, &unknown).await.0, 422);
    }

    #[tokio::test(start_paused = true)]
    async fn resources_are_changed_and_nothing_else() {
        let world = World::new().await;
        let mut body = pod("a");
        body["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
        world.create(PODS, body).await;
        let path = format!("{PODS}/a/resize");
        let headers = [("content-type", "application/strategic-merge-patch+json")];
        let resize = |container: Value| {
            let (world, path) = (&world, &path);
            let body = json!({"spec": {"containers": [container], "nodeName": "elsewhere"}});
            async move { world.call_with(Method::PATCH, path, &headers, &body).await }
        };
        let more = json!({"name": "main", "image": "other:1",
            "resources": {"requests": {"cpu": "150m"}}});
        let (code, after) = resize(more).await;
        assert_eq!(code, 200, "{after}");
        let container = &after["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"]["cpu"], "150m");
        assert_eq!(container["image"], "web:1", "that is not its door");
        assert_eq!(after["spec"].get("nodeName"), None);
        for (container, why) in [
            (
                json!({"name": "main", "resources": {"requests": {"cpu": "300m"}}}),
                "must be less than or equal to cpu limit of 200m",
            ),
            (
                json!({"name": "other", "image": "x"}),
                "containers may not be renamed or reordered on resize",
            ),
            (json!({"name": "main", "resources": {"requests": {"cpu": null}}}), ""),
        ] {
            let (code, answer) = resize(container).await;
            // A request that is taken away is the limit again, by defaulting.
            let expected = if why.is_empty() { 200 } else { 422 };
            assert_eq!(code, expected, "{answer}");
            assert!(text(&answer["message"]).contains(why), "{answer}");
        }
    }
}
