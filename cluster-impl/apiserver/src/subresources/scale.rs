//! scale (autoscaling/v1): how many replicas, without the rest of the object.

use std::sync::Arc;

use machinery::patch::PatchType;
use machinery::{Cause, LabelSelector, Object, Status, patch as patches};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::codec::Stored;
use crate::commit::{self, Decision};
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::{patch as patch_verb, update as update_verb};
use crate::{decode, status};

const API_VERSION: &str = "autoscaling/v1";

/// Reads the scale.
pub(crate) async fn get(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let kv = commit::read(server, request, &request.key).await?;
    let kv = kv.ok_or_else(|| status::not_found(request.kind, &request.key))?;
    Ok(Answer::value(scale(server.decoded.object(&kv)?.as_ref())))
}

/// Replaces the scale.
pub(crate) async fn update(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object_of(&server.config, request, API_VERSION, "Scale")?;
    write(server, request, &|_| Ok(body.clone())).await
}

/// Patches the scale.
pub(crate) async fn patch(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let patch = patch_verb::read(server, request)?;
    write(server, request, &|scale| {
        let patched = match patch.form {
            PatchType::Json => patches::json(scale, &patch.body)?,
            // A Scale holds no list, so both kinds of merge come to the same.
            PatchType::Merge | PatchType::Strategic => patches::merge(scale, &patch.body)?,
        };
        Ok(Object(patched))
    })
    .await
}

async fn write(
    server: &ApiServer,
    request: &Request,
    wanted: &(dyn Fn(&Value) -> Result<Object, Status> + Sync),
) -> Result<Answer, Status> {
    let key = &request.key;
    let mut decide = |old: Option<&Arc<Object>>| {
        let Some(old) = old else { return Err(status::not_found(request.kind, key)) };
        let wanted = wanted(&scale(old))?;
        update_verb::check_preconditions(request.kind, old, &wanted)?;
        let mut new = (**old).clone();
        new.set("/spec/replicas", replicas(&wanted)?);
        update_verb::replace(server, request, old, new)
            .map(|decision| if is_same(old, &decision) { Decision::Keep } else { decision })
    };
    let written = commit::change(server, request, key, &mut decide);
    let stored: Stored = written.await?.stored;
    Ok(Answer::value(scale(&stored.object()?)))
}

fn is_same(old: &Object, decision: &Decision) -> bool {
    matches!(decision, Decision::Put(new) if new.get("/spec") == old.get("/spec"))
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

/// An object's scale.
fn scale(object: &Object) -> Value {
    let mut scale = json!({
        "kind": "Scale", "apiVersion": API_VERSION,
        "metadata": {
            "name": object.name(), "namespace": object.namespace(), "uid": object.uid(),
            "resourceVersion": object.resource_version(),
            "creationTimestamp": object.text("/metadata/creationTimestamp"),
        },
        "spec": {"replicas": object.integer("/spec/replicas").unwrap_or_default()},
        "status": {"replicas": object.integer("/status/replicas").unwrap_or_default()},
    });
    if let Ok(selector) = LabelSelector::from_value(object.get("/spec/selector")) {
        scale["status"]["selector"] = selector.to_string().into();
    }
    scale
}
