//! The server's own picture of roles and bindings: a list of each kind, then its hub's changes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use machinery::kinds::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
use machinery::{Kind, ObjectKey, Status, View};
use storage::{StoreError, WatchBatch, WatchStream};

use super::default_policy;
use super::rbac::Policy;
use crate::query::Query;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::list::{self, Found};
use crate::{hub, status, storage_key};

/// The kinds that decide who may do what.
const KINDS: [&Kind; 4] = [&CLUSTER_ROLE, &CLUSTER_ROLE_BINDING, &ROLE, &ROLE_BINDING];

/// Makes the default roles, then keeps the policy as the store has it, for ever.
pub(crate) async fn run(server: Arc<ApiServer>) {
    let mut backoff =
        server.env.backoff("authorization", Duration::from_millis(100), Duration::from_secs(5));
    while let Err(error) = default_policy::ensure(&server).await {
        tracing::debug!(%error, "the default roles wait for the store");
        server.env.sleep(backoff.next_wait()).await;
    }
    backoff.reset();
    loop {
        match follow(&server).await {
            Ok(()) => backoff.reset(),
            Err(error) => tracing::debug!(%error, "roles and bindings cannot be followed"),
        }
        server.env.sleep(backoff.next_wait()).await;
    }
}

/// All objects of a kind.
pub(super) async fn everything(server: &ApiServer, kind: &'static Kind) -> Result<Found, Status> {
    list::everything(server, &selection(kind)?, None).await
}

fn selection(kind: &'static Kind) -> Result<Selection, Status> {
    Selection::read(kind, &ObjectKey::new("", ""), &Query::parse(""))
}

/// Follows the four kinds until one of their watches ends.
async fn follow(server: &Arc<ApiServer>) -> Result<(), Status> {
    let mut view = View::default();
    let mut feeds: Vec<(&'static Kind, WatchStream)> = Vec::new();
    for kind in KINDS {
        let found = everything(server, kind).await?;
        for kv in &found.kvs {
            view.put(kind, server.decoded.object(kv)?);
        }
        let following = hub::follow(server, kind, &selection(kind)?, found.revision + 1).await;
        feeds.push((kind, following.map_err(status::from_store)?.events));
    }
    server.authorizer.set(Policy::new(&view));
    loop {
        let (kind, batch) = next(&mut feeds).await;
        let Some(Ok(batch)) = batch else { return Ok(()) };
        for event in batch.events {
            if event.is_delete {
                if let Some(key) = storage_key::parse(kind, &event.kv.key) {
                    view.take(kind, &key);
                }
            } else {
                view.put(kind, server.decoded.object(&event.kv)?);
            }
        }
        server.authorizer.set(Policy::new(&view));
    }
}

/// The next batch of any feed; the first in order wins.
async fn next(
    feeds: &mut [(&'static Kind, WatchStream)],
) -> (&'static Kind, Option<Result<WatchBatch, StoreError>>) {
    poll_fn(|cx| {
        for (kind, feed) in feeds.iter_mut() {
            if let Poll::Ready(batch) = feed.poll_next_unpin(cx) {
                return Poll::Ready((*kind, batch));
            }
        }
        Poll::Pending
    })
    .await
}
