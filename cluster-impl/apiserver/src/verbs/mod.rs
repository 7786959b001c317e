//! What can be done with objects: one file per verb.

pub(crate) mod continue_token;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_collection;
pub(crate) mod event_cache;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::Arc;

use machinery::Status;
use machinery::kinds::{
    API_SERVICE, CERTIFICATE_SIGNING_REQUEST, CUSTOM_RESOURCE_DEFINITION, SERVICE,
};

use crate::answer::Answer;
use crate::request::{Request, Verb};
use crate::server::ApiServer;
use crate::{allocation, custom, status, subresources};

/// Does what a request asks for.
pub(crate) async fn dispatch(server: &Arc<ApiServer>, request: &Request) -> Result<Answer, Status> {
    if request.body.len() > server.config.body_bytes_max {
        return Err(status::body_too_large(server.config.body_bytes_max));
    }
    match request.subresource.as_str() {
        "" => {}
        // The status is part of the object; it differs only in what a write may touch.
        "status" if request.kind.has_status => {}
        // So is the approval.
        "approval" if request.kind.id == CERTIFICATE_SIGNING_REQUEST.id => {}
        _ => return subresources::dispatch(server, request).await,
    }
    if request.kind.id == SERVICE.id && [Verb::Update, Verb::Patch].contains(&request.verb) {
        let taken = allocation::taken(server).await?;
        request.taken.get_or_init(|| taken);
    }
    if request.kind.id == CUSTOM_RESOURCE_DEFINITION.id {
        server.customs.start(server);
    }
    // What the server writes itself is no news to it: it would look again for ever.
    let is_own = request.user.name == "system:apiserver";
    if request.kind.id == API_SERVICE.id && request.verb.is_write() && !is_own {
        server.aggregation.wake();
    }
    match request.verb {
        Verb::Get => get::get(server, request).await,
        Verb::List => list::list(server, request).await,
        Verb::Watch => watch::watch(server, request).await,
        Verb::Create if request.subresource.is_empty() => {
            custom::check_create(server, request.kind)?;
            create::create(server, request).await
        }
        Verb::Update => update::update(server, request).await,
        Verb::Patch => patch::patch(server, request).await,
        Verb::Delete if request.subresource.is_empty() => delete::delete(server, request).await,
        Verb::DeleteCollection => delete_collection::delete_collection(server, request).await,
        Verb::Create | Verb::Delete => Err(status::method_not_allowed()),
    }
}
