//! namespaces/finalize: whoever emptied a namespace lets go of it, and it is gone.

use std::sync::Arc;

use futures::FutureExt;
use machinery::{Object, Status};
use serde_json::json;

use crate::answer::{Answer, Content};
use crate::commit;
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::create::Owners;
use crate::verbs::update;
use crate::{decode, status};

/// Replaces `spec.finalizers`; the last one gone, a terminating namespace goes too.
pub(crate) async fn update(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object(&server.config, request)?;
    if body.name() != request.key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            body.name(),
            request.key.name
        )));
    }
    let body = &body;
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(request.kind, &request.key))?;
            update::check_preconditions(request.kind, &old, body)?;
            let mut new = (*old).clone();
            new.set("/spec/finalizers", json!(body.list("/spec/finalizers")));
            update::replace(server, request, &old, new, Owners::Noted).await
        }
        .boxed()
    };
    let written = commit::change(server, request, &request.key, &mut decide);
    Ok(Answer::new(200, Content::Object(request.kind, written.await?.stored)))
}
