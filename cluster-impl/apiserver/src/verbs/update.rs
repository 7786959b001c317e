//! update: an object replaced, whole or only its status.
//!
//! What a writer may not touch is carried over from the old object: identity and deletion always,
//! the status by a write of the object, everything else by a write of the status.

use std::sync::Arc;

use machinery::{Cause, Kind, Object, ObjectKey, Status};
use serde_json::Value;

use crate::admission::{self, Operation, Review};
use crate::answer::{Answer, Content};
use crate::commit::{self, Decision, Written};
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::create;
use crate::{decode, meta, status};

/// Kinds that must be replaced with a revision: their writers compete.
const CONDITIONAL: [&str; 2] = ["leases.coordination.k8s.io", "serviceaccounts"];
/// Kinds that a replacement creates if they are not there.
const CREATED: [&str; 3] = ["events", "leases.coordination.k8s.io", "services"];

/// Replaces an object or its status with what the body holds.
pub(crate) async fn update(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object(&server.config, request)?;
    let written = update_object(server, request, body).await?;
    let code = if written.is_created { 201 } else { 200 };
    Ok(Answer::new(code, Content::Object(request.kind, written.stored)))
}

async fn update_object(
    server: &ApiServer,
    request: &Request,
    body: Object,
) -> Result<Written, Status> {
    check_names(&request.key, &body)?;
    let kind = request.kind;
    let is_created = request.subresource.is_empty() && CREATED.contains(&kind.id);
    let written = commit::change(server, request, &request.key, &mut |old| {
        let Some(old) = old else { return Err(status::not_found(kind, &request.key)) };
        check_preconditions(kind, old, &body)?;
        replace(server, request, old, body.clone())
    });
    match written.await {
        Err(missing)
            if is_created && missing.code == 404 && body.resource_version().is_empty() =>
        {
            create::create_object(server, request, body).await
        }
        written => written,
    }
}

/// What comes of replacing `old` by `new`, as far as the request's subresource reaches.
pub(crate) fn replace(
    server: &ApiServer,
    request: &Request,
    old: &Arc<Object>,
    mut new: Object,
) -> Result<Decision, Status> {
    let kind = request.kind;
    if new.name().is_empty() {
        new.set("/metadata/name", old.name());
    }
    check_names(&old.key(), &new)?;
    if kind.namespaced {
        new.set("/metadata/namespace", old.namespace());
    }
    meta::carry_over(old, &mut new);
    isolate(kind, &request.subresource, old, &mut new);
    (kind.default)(&mut new);
    meta::check_finalizers(kind, old, &new)?;
    if request.subresource != "status" {
        meta::count_generation(kind, old, &mut new);
    }
    admission::admit(Review {
        operation: Operation::Update,
        kind,
        subresource: &request.subresource,
        key: &request.key,
        object: Some(&mut new),
        namespace: None,
        config: &server.config,
    })?;
    let causes = (kind.validate)(&new, Some(old));
    if !causes.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, new.name(), &causes));
    }
    if meta::is_released(kind, old, &new) {
        return Ok(Decision::Remove(Box::new(new)));
    }
    Ok(Decision::Put(Box::new(new)))
}

/// Refuses a body that was made for another object or for another state of it.
pub(crate) fn check_preconditions(kind: &Kind, old: &Object, new: &Object) -> Result<(), Status> {
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new.uid(),
            old.uid()
        );
        return Err(status::conflict(kind, &old.key(), &why));
    }
    match new.resource_version() {
        "" | "0" if CONDITIONAL.contains(&kind.id) => {
            let cause = Cause {
                reason: "FieldValueInvalid".into(),
                message: "Invalid value: 0x0: must be specified for an update".into(),
                field: "metadata.resourceVersion".into(),
            };
            Err(Status::invalid(kind.group, kind.kind, old.name(), &[cause]))
        }
        "" | "0" => Ok(()),
        revision if revision == old.resource_version() => Ok(()),
        _ => Err(status::stale(kind, &old.key())),
    }
}

fn check_names(key: &ObjectKey, object: &Object) -> Result<(), Status> {
    if object.name() != key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            key.name
        )));
    }
    if !object.namespace().is_empty() && object.namespace() != key.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the URL ({})",
            object.namespace(),
            key.namespace
        )));
    }
    Ok(())
}

/// Takes back what this subresource may not touch.
fn isolate(kind: &Kind, subresource: &str, old: &Object, new: &mut Object) {
    match subresource {
        "status" => {
            let parts: Vec<String> = [new, old]
                .iter()
                .filter_map(|object| object.0.as_object())
                .flat_map(|top| top.keys().cloned())
                .filter(|part| !matches!(part.as_str(), "metadata" | "status"))
                .collect();
            for part in parts {
                take_back(old, new, &format!("/{part}"));
            }
            take_back(old, new, "/metadata/ownerReferences");
            if kind.group == "apps" {
                take_back(old, new, "/metadata/labels");
            }
        }
        "finalize" => take_back(old, new, "/status"),
        _ => {
            if kind.has_status {
                take_back(old, new, "/status");
            }
            if kind.id == "namespaces" {
                take_back(old, new, "/spec/finalizers");
            }
        }
    }
}

fn take_back(old: &Object, new: &mut Object, pointer: &str) {
    match old.get(pointer) {
        Some(value) => {
            if new.get(pointer) != Some(value) {
                let value: Value = value.clone();
                new.set(pointer, value);
            }
        }
        None => {
            new.remove(pointer);
        }
    }
}
