//! patch: part of an object changed, by merge, strategic merge or JSON patch.
//!
//! Server-side apply (`application/apply-patch+yaml`) is not served: 415.

use std::sync::Arc;

use machinery::patch::{PatchType, apply};
use machinery::{Object, Status};
use serde_json::Value;

use crate::answer::{Answer, Content};
use crate::commit::{self, Written};
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::update;
use crate::{decode, status};

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                        application/strategic-merge-patch+json";

/// A patch as it was sent.
pub(crate) struct Patch {
    pub(crate) form: PatchType,
    pub(crate) body: Value,
}

/// Patches an object or its status.
pub(crate) async fn patch(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let patch = read(server, request)?;
    let written = patch_object(server, request, &patch).await?;
    Ok(Answer::new(200, Content::Object(request.kind, written.stored)))
}

/// Reads the patch from the body.
pub(crate) fn read(server: &ApiServer, request: &Request) -> Result<Patch, Status> {
    let form = PatchType::from_media_type(&request.content_type)
        .ok_or_else(|| status::unsupported_media_type(ACCEPTED))?;
    let body = decode::value(&server.config, "application/json", &request.body)?;
    Ok(Patch { form, body })
}

async fn patch_object(
    server: &ApiServer,
    request: &Request,
    patch: &Patch,
) -> Result<Written, Status> {
    let kind = request.kind;
    commit::change(server, request, &request.key, &mut |old: Option<&Arc<Object>>| {
        let Some(old) = old else { return Err(status::not_found(kind, &request.key)) };
        let new = apply(kind, old, patch.form, &patch.body)?;
        if new.kind() != kind.kind || new.api_version() != kind.api_version() {
            return Err(Status::bad_request("a patch cannot change apiVersion or kind"));
        }
        let new = decode::fit(request, new, &[])?;
        // The patch was applied to the latest object, so only a revision that it brings can differ.
        if !new.resource_version().is_empty() {
            update::check_preconditions(kind, old, &new)?;
        }
        update::replace(server, request, old, new)
    })
    .await
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use crate::testing::{MAPS, PODS, World, config_map, pod, text};

    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    const MERGE: &str = "application/merge-patch+json";
    const JSON: &str = "application/json-patch+json";

    async fn patch(world: &World, path: &str, form: &str, body: Value) -> (u16, Value) {
        world.call_with(Method::PATCH, path, &[("content-type", form)], &body).await
    }

    #[tokio::test(start_paused = true)]
    async fn every_form_is_applied_in_its_own_way() {
        let world = World::new().await;
        world.create(PODS, pod("a")).await;
        let path = format!("{PODS}/a");
        let tolerations = json!([{"key": "x", "operator": "Exists"}]);
        let image = json!({"spec": {"containers": [{"name": "main", "image": "web:2"}]}});
        let (code, after) = patch(&world, &path, STRATEGIC, image).await;
        assert_eq!((code, &after["spec"]["containers"][0]["image"]), (200, &json!("web:2")));
        assert_eq!(after["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        let labels = json!({"metadata": {"labels": {"app": null, "tier": "front"}}});
        let (_, after) = patch(&world, &path, MERGE, labels).await;
        assert_eq!(after["metadata"]["labels"], json!({"tier": "front"}));
        let more = json!([{"op": "add", "path": "/spec/tolerations/-", "value": tolerations[0]}]);
        let (code, after) = patch(&world, &path, JSON, more).await;
        assert_eq!(code, 200, "{after}");
        assert_eq!(after["spec"]["tolerations"].as_array().unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_patches_are_refused_and_change_nothing() {
        let world = World::new().await;
        let map = world.create(MAPS, config_map("a", "1")).await;
        let path = format!("{MAPS}/a");
        let apply = "application/apply-patch+yaml";
        for (form, body, code) in [
            (apply, json!({"data": {}}), 415),
            ("application/json", json!({}), 415),
            (JSON, json!([{"op": "test", "path": "/data/key", "value": "9"}]), 422),
            (JSON, json!({"data": {}}), 400),
            (MERGE, json!({"kind": "Secret"}), 400),
            (MERGE, json!({"data": 5}), 400),
            (MERGE, json!({"metadata": {"labels": 5}}), 400),
            (MERGE, json!({"metadata": {"name": "b"}}), 400),
            (MERGE, json!({"metadata": {"resourceVersion": "1"}}), 409),
            (MERGE, json!({"metadata": {"uid": "other"}}), 409),
        ] {
            let (found, answer) = patch(&world, &path, form, body.clone()).await;
            assert_eq!(found, code, "{form} {body}: {answer}");
        }
        assert_eq!(world.get(&path).await, map);
        let (code, answer) = patch(&world, &format!("{MAPS}/b"), MERGE, json!({})).await;
        assert_eq!((code, text(&answer["message"])), (404, "configmaps \"b\" not found"));
    }
}
