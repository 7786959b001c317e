//! patch: part of an object changed, by merge, strategic merge or JSON patch.
//!
//! Server-side apply (`application/apply-patch+yaml`) is not served: 415.

use std::sync::Arc;

use machinery::patch::{PatchType, apply};
use machinery::{Object, Status};
use serde_json::Value;

use crate::answer::{Answer, Content};
use crate::commit::{self, Decision, Written};
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
        decode::check_shape(kind, &new)?;
        if new.kind() != kind.kind || new.api_version() != kind.api_version() {
            return Err(Status::bad_request("a patch cannot change apiVersion or kind"));
        }
        // The patch was applied to the latest object, so only a revision that it brings can differ.
        if !new.resource_version().is_empty() {
            update::check_preconditions(kind, old, &new)?;
        }
        update::replace(server, request, old, new)
    })
    .await
}
