//! MutatingAdmissionWebhook: others change what is to be written, one after the other.
//!
//! Limit: what the server itself sets in `metadata`, and who owns which fields, no webhook changes.

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::MUTATING_WEBHOOK_CONFIGURATION;
use machinery::{Cause, Kind, Object, Status, fields, patch, versions};
use serde_json::Value;

use super::webhook::{self, Hook};
use super::{Plugin, Review, Step, attributes};
use crate::decode;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "MutatingAdmissionWebhook",
    stage: 31,
    admit: Step::Waits(admit),
    validate: Step::Nothing,
};

/// Members of `metadata` that stay as they are.
const KEPT: [&str; 7] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
];

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        for hook in webhook::all(review, &MUTATING_WEBHOOK_CONFIGURATION, true).await? {
            if !review.webhooks.is_due(&hook) {
                continue;
            }
            let Some(kind) = webhook::concerned(review, &hook).await? else { continue };
            let answer = webhook::ask(review, &hook, kind).await?;
            let is_changed = match answer.and_then(|answer| answer.patch) {
                Some(patch) => change(review, &hook, kind, &patch).await?,
                None => false,
            };
            review.webhooks.note(&hook, is_changed);
        }
        Ok(())
    }
    .boxed()
}

/// Applies a webhook's patch; answers whether it changed anything.
async fn change(
    review: &mut Review<'_>,
    hook: &Hook,
    kind: &'static Kind,
    patch: &Value,
) -> Result<bool, Status> {
    let name = &hook.name;
    if patch.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    let (of, config, server) = (review.kind, review.config, review.server);
    let Some(object) = review.object.as_deref_mut() else {
        return Err(Status::internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for \
             this operation"
        )));
    };
    let wrong = |why: &dyn std::fmt::Display| {
        Status::internal(format!("admission webhook {name:?} returned a patch that fails: {why}"))
    };
    let before = attributes::in_version(server, kind, object).await?;
    let mut new = Object(patch::json(&before.0, patch).map_err(|error| wrong(&error))?);
    if new == before {
        return Ok(false);
    }
    decode::check_nesting(config, &new.0).map_err(|error| wrong(&error))?;
    if !new.0.is_object() || !new.0["metadata"].is_object() && before.0["metadata"].is_object() {
        return Err(wrong(&"it takes away the object's metadata"));
    }
    if (new.api_version(), new.kind()) != (before.api_version(), before.kind()) {
        return Err(wrong(&"apiVersion and kind cannot be changed"));
    }
    for member in KEPT {
        let pointer = format!("/metadata/{member}");
        match before.get(&pointer) {
            Some(value) => new.set(&pointer, value.clone()),
            None => drop(new.remove(&pointer)),
        }
    }
    if new.key() != before.key() {
        let (field, value) = match new.name() == before.name() {
            true => ("metadata.namespace", new.namespace()),
            false => ("metadata.name", new.name()),
        };
        let message = format!("Invalid value: {value:?}: field is immutable");
        let cause = Cause { reason: "FieldValueInvalid".into(), message, field: field.into() };
        return Err(Status::invalid(of.group, of.kind, before.name(), &[cause]));
    }
    // A subresource may have a kind of its own, which has no schema here.
    if new.kind() == kind.kind {
        fields::decode(kind, &mut new).map_err(|error| wrong(&error))?;
        versions::to_stored(kind, &mut new).map_err(|error| wrong(&error))?;
        if of.custom.is_some() {
            new = attributes::in_version(server, of, &new).await?;
        }
        of.set_defaults(&mut new);
    }
    *object = new;
    Ok(true)
}
