//! patch: part of an object changed, by merge, strategic merge or JSON patch; or applied by who owns it.

use std::sync::Arc;

use futures::FutureExt;
use machinery::conditions::seconds;
use machinery::fields::{self, FieldValidation, Reading};
use machinery::managed_fields::{self, Apply};
use machinery::patch::{self as patches, PatchType};
use machinery::{Cause, Object, Status, versions};
use serde_json::Value;

use crate::accept::media_type;
use crate::answer::{Answer, Content};
use crate::commit::{self, Written};
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::create::{self, Owners};
use crate::verbs::update;
use crate::{decode, status, yaml_keys};

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                        application/strategic-merge-patch+json, application/apply-patch+yaml";
const CUSTOM_ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                               application/apply-patch+yaml";
/// The media type of what a manager applies.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// How often an apply finds an object gone that was there, or there that was gone.
const TURNS_MAX: usize = 5;

/// A patch as it was sent.
pub(crate) struct Patch {
    pub(crate) form: Form,
    pub(crate) body: Value,
    /// What a strict reader finds wrong with it, if the client wants to know.
    pub(crate) problems: Vec<String>,
}

/// What a patch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// What to change.
    Changes(PatchType),
    /// What its manager wants; whether it takes what others own.
    Apply(bool),
}

/// Patches an object or its status.
pub(crate) async fn patch(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let patch = read(server, request)?;
    let written = match patch.form {
        Form::Changes(form) => change(server, request, form, &patch).await?,
        Form::Apply(force) => apply(server, request, &patch.body, force).await?,
    };
    let code = if written.is_created { 201 } else { 200 };
    Ok(Answer::new(code, Content::Object(request.kind, written.stored)))
}

/// Reads the patch from the body.
pub(crate) fn read(server: &ApiServer, request: &Request) -> Result<Patch, Status> {
    let force = request.query.optional_flag("force");
    if media_type(&request.content_type) == APPLY {
        if request.query.text("fieldManager").is_empty() {
            return Err(refused(
                "FieldValueRequired",
                "Required value: is required for apply patch",
                "fieldManager",
            ));
        }
        let body = decode::value(&server.config, "application/yaml", &request.body)
            .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
        check_keys(request)?;
        if !body.is_object() {
            return Err(Status::bad_request("error decoding YAML: the body must be an object"));
        }
        let form = Form::Apply(force.unwrap_or_default());
        return Ok(Patch { form, body, problems: Vec::new() });
    }
    let is_custom = request.kind.custom.is_some();
    let form = PatchType::from_media_type(&request.content_type)
        .filter(|form| !is_custom || *form != PatchType::Strategic)
        .ok_or_else(|| {
            status::unsupported_media_type(if is_custom { CUSTOM_ACCEPTED } else { ACCEPTED })
        })?;
    if force.is_some() {
        let why = "Forbidden: may not be specified for non-apply patch";
        return Err(refused("FieldValueForbidden", why, "force"));
    }
    let (body, is_doubled) = decode::noted(&server.config, "application/json", &request.body)?;
    let problems = match form {
        _ if decode::field_validation(request)? == FieldValidation::Ignore => Vec::new(),
        PatchType::Json => fields::problems(&request.body, Reading::JsonPatch),
        _ if is_doubled => fields::problems(&request.body, Reading::Anything),
        _ => Vec::new(),
    };
    Ok(Patch { form: Form::Changes(form), body, problems })
}

/// Warns of keys that are there twice in what is applied, or refuses it.
fn check_keys(request: &Request) -> Result<(), Status> {
    let validation = decode::field_validation(request)?;
    if validation == FieldValidation::Ignore {
        return Ok(());
    }
    let problems = yaml_keys::problems(&request.body, validation);
    match (validation, problems.first()) {
        (FieldValidation::Strict, Some(problem)) => Err(Status::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: {problem}"
        ))),
        _ => {
            request.warn(problems);
            Ok(())
        }
    }
}

fn refused(reason: &str, message: &str, field: &str) -> Status {
    let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
    Status::invalid("meta.k8s.io", "PatchOptions", "", &[cause])
}

async fn change(
    server: &ApiServer,
    request: &Request,
    form: PatchType,
    patch: &Patch,
) -> Result<Written, Status> {
    let kind = request.kind;
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(kind, &request.key))?;
            let mut served = None;
            if versions::of(kind).is_some() {
                versions::from_stored(kind, served.insert((*old).clone()));
            }
            let new = patches::apply(kind, served.as_ref().unwrap_or(&old), form, &patch.body)?;
            if new.kind() != kind.kind || new.api_version() != kind.api_version() {
                return Err(Status::bad_request("a patch cannot change apiVersion or kind"));
            }
            let new = decode::patched(request, patch, new)?;
            // The patch was applied to the latest object, so only a revision that it brings can differ.
            if !new.resource_version().is_empty() {
                update::check_preconditions(kind, &old, &new)?;
            }
            update::replace(server, request, &old, new, Owners::Noted).await
        }
        .boxed()
    };
    commit::change(server, request, &request.key, &mut decide).await
}

/// Applies what a manager wants; what is not there is created.
async fn apply(
    server: &ApiServer,
    request: &Request,
    config: &Value,
    force: bool,
) -> Result<Written, Status> {
    let kind = request.kind;
    for _ in 0..TURNS_MAX {
        let mut decide = |old: Option<Arc<Object>>| {
            async move {
                let old = old.ok_or_else(|| status::not_found(kind, &request.key))?;
                let new = merged(server, request, Some(&old), Apply { config, force })?;
                update::check_preconditions(kind, &old, &new)?;
                update::replace(server, request, &old, new, Owners::Given).await
            }
            .boxed()
        };
        match commit::change(server, request, &request.key, &mut decide).await {
            Err(missing) if missing.code == 404 && request.subresource.is_empty() => {}
            changed => return changed,
        }
        let new = merged(server, request, None, Apply { config, force })?;
        if !new.uid().is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                new.uid()
            );
            return Err(status::conflict(kind, &request.key, &why));
        }
        match create::create_object(server, request, new, Owners::Given).await {
            Err(taken) if taken.reason == "AlreadyExists" => {}
            created => return created,
        }
    }
    Err(status::stale(kind, &request.key))
}

/// The object that an apply makes, as its kind's struct would hold it.
pub(crate) fn merged(
    server: &ApiServer,
    request: &Request,
    old: Option<&Object>,
    wanted: Apply<'_>,
) -> Result<Object, Status> {
    let time = seconds(server.env.now());
    // Owners are told of the stored form, whatever version is asked for.
    let kind = versions::stored(request.kind);
    let mut config = Object(wanted.config.clone());
    versions::to_stored(request.kind, &mut config).map_err(Status::bad_request)?;
    let wanted = Apply { config: &config.0, ..wanted };
    let mut new = managed_fields::apply(kind, request.writer(&time), old, wanted)?;
    if new.name().is_empty() {
        new.set("/metadata/name", request.key.name.as_str());
    }
    if new.name() != request.key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            new.name(),
            request.key.name
        )));
    }
    fields::decode(kind, &mut new)?;
    Ok(new)
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
            (apply, json!({"data": {}}), 422),
            ("application/json", json!({}), 415),
            (JSON, json!([{"op": "test", "path": "/data/key", "value": "9"}]), 422),
            (JSON, json!({"data": {}}), 400),
            (MERGE, json!({"kind": "Secret"}), 400),
            (MERGE, json!({"data": 5}), 422),
            (MERGE, json!({"metadata": {"labels": 5}}), 422),
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
