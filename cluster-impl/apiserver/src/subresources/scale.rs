//! scale (autoscaling/v1): how many replicas, without the rest of the object.

use std::sync::Arc;

use futures::FutureExt;
use machinery::kinds::REPLICATION_CONTROLLER;
use machinery::managed_fields::Apply;
use machinery::patch::PatchType;
use machinery::{Cause, Kind, LabelSelector, Object, Status, patch as patches};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::codec::Stored;
use crate::commit::{self, Decision};
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::create::Owners;
use crate::verbs::patch::Form;
use crate::verbs::{patch as patch_verb, update as update_verb};
use crate::{decode, status};

const API_VERSION: &str = "autoscaling/v1";

/// Reads the scale.
pub(crate) async fn get(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let kv = commit::read_served(server, request, &request.key).await?;
    let kv = kv.ok_or_else(|| status::not_found(request.kind, &request.key))?;
    Ok(Answer::value(scale(request.kind, server.decoded.of(request.kind, &kv)?.as_ref())))
}

/// Replaces the scale.
pub(crate) async fn update(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object_of(&server.config, request, API_VERSION, "Scale")?;
    write(server, request, &|_| Ok(body.clone())).await
}

/// Patches the scale.
pub(crate) async fn patch(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let patch = patch_verb::read(server, request)?;
    let form = match patch.form {
        Form::Changes(form) => form,
        Form::Apply(force) => return apply(server, request, &patch.body, force).await,
    };
    write(server, request, &|scale| {
        let patched = match form {
            PatchType::Json => patches::json(scale, &patch.body)?,
            // A Scale holds no list, so both kinds of merge come to the same.
            PatchType::Merge | PatchType::Strategic => patches::merge(scale, &patch.body)?,
        };
        Ok(Object(patched))
    })
    .await
}

/// Applies a scale: the number of replicas is its manager's from then on.
async fn apply(
    server: &ApiServer,
    request: &Request,
    config: &Value,
    force: bool,
) -> Result<Answer, Status> {
    let (kind, key) = (request.kind, &request.key);
    let wanted = Object(config.clone());
    if wanted.kind() != "Scale" || wanted.api_version() != API_VERSION {
        let found = (wanted.api_version(), wanted.kind());
        let why = format!("invalid object type: {}, Kind={}", found.0, found.1);
        return Err(Status::bad_request(why));
    }
    let mut config = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": key.name}, "spec": {},
    });
    if wanted.get("/spec/replicas").is_some() {
        let mut object = Object(config);
        object.set(wanted_at(kind), replicas(&wanted)?);
        config = object.0;
    }
    let (wanted, config) = (&wanted, &config);
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(kind, key))?;
            update_verb::check_preconditions(kind, &old, wanted)?;
            let new = patch_verb::merged(server, request, Some(&old), Apply { config, force })?;
            update_verb::replace(server, request, &old, new, Owners::Given).await
        }
        .boxed()
    };
    let written = commit::change(server, request, key, &mut decide).await?;
    Ok(Answer::value(scale(kind, &written.stored.object()?)))
}

async fn write(
    server: &ApiServer,
    request: &Request,
    wanted: &(dyn Fn(&Value) -> Result<Object, Status> + Sync),
) -> Result<Answer, Status> {
    let key = &request.key;
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(request.kind, key))?;
            let wanted = wanted(&scale(request.kind, &old))?;
            update_verb::check_preconditions(request.kind, &old, &wanted)?;
            let mut new = (*old).clone();
            new.set(wanted_at(request.kind), replicas(&wanted)?);
            let done = update_verb::replace(server, request, &old, new, Owners::Noted).await?;
            Ok(if is_same(&old, &done) { Decision::Keep } else { done })
        }
        .boxed()
    };
    let written = commit::change(server, request, key, &mut decide);
    let stored: Stored = written.await?.stored;
    Ok(Answer::value(scale(request.kind, &stored.object()?)))
}

fn is_same(old: &Object, decision: &Decision) -> bool {
    matches!(decision, Decision::Put(new, _) if new.get("/spec") == old.get("/spec"))
}

fn replicas(scale: &Object) -> Result<i64, Status> {
    let replicas = match scale.get("/spec/replicas") {
        None | Some(Value::Null) => Some(0),
        Some(value) => value.as_i64(),
    };
    match replicas {
        Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => Ok(replicas),
        other => {
            let value = other.map_or_else(|| "null".to_owned(), |replicas| replicas.to_string());
            let message = format!("Invalid value: {value}: must be greater than or equal to 0");
            let cause = Cause {
                reason: "FieldValueInvalid".into(),
                message,
                field: "spec.replicas".into(),
            };
            Err(Status::invalid("autoscaling", "Scale", scale.name(), &[cause]))
        }
    }
}

/// Where a kind says how many replicas are wanted.
fn wanted_at(kind: &Kind) -> &'static str {
    let paths = kind.custom.and_then(|custom| custom.scale.as_ref());
    paths.map_or("/spec/replicas", |paths| paths.wanted.as_str())
}

/// An object's scale.
fn scale(kind: &Kind, object: &Object) -> Value {
    let paths = kind.custom.and_then(|custom| custom.scale.as_ref());
    let current = paths.map_or("/status/replicas", |paths| paths.current.as_str());
    let mut scale = json!({
        "kind": "Scale", "apiVersion": API_VERSION,
        "metadata": {
            "name": object.name(), "namespace": object.namespace(), "uid": object.uid(),
            "resourceVersion": object.resource_version(),
            "creationTimestamp": object.text("/metadata/creationTimestamp"),
        },
        "spec": {"replicas": object.integer(wanted_at(kind)).unwrap_or_default()},
        "status": {"replicas": object.integer(current).unwrap_or_default()},
    });
    if let Some(paths) = paths {
        if !paths.selector.is_empty() {
            scale["status"]["selector"] = object.text(&paths.selector).into();
        }
    } else if object.kind() == REPLICATION_CONTROLLER.kind {
        // Its selector is a map of labels.
        let labels = object.map("/spec/selector").into_iter().flatten();
        let mut labels: Vec<String> = labels
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        labels.sort();
        scale["status"]["selector"] = labels.join(",").into();
    } else if let Ok(selector) = LabelSelector::from_value(object.get("/spec/selector")) {
        scale["status"]["selector"] = selector.to_string().into();
    }
    scale
}
