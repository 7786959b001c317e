//! What the server does to definitions: accepts their names, establishes them, and takes their objects away when
//! they go.
//!
//! Every server does it, none leads: each step is decided from the definition's latest state and written only if
//! it changes something.
//! Limit: a definition is established at once, where upstream waits until other servers may know of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use machinery::conditions::{self, Condition, seconds};
use machinery::kinds::CUSTOM_RESOURCE_DEFINITION;
use machinery::{Kind, Object, ObjectKey, Status};
use serde_json::json;

use super::names;
use crate::commit::{self, Along, Decision};
use crate::config::User;
use crate::query::Query;
use crate::request::{Request, Verb};
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::{delete, list};

/// Holds a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How often the objects of a definition that goes are looked at.
const CLEANUP_PERIOD: Duration = Duration::from_secs(1);
/// How many objects are deleted before the others get their turn.
const DELETED_AT_ONCE: usize = 500;

/// Looks after the definitions for as long as their server is there.
pub(super) async fn run(server: Weak<ApiServer>) {
    let Some(env) = server.upgrade().map(|server| server.env.clone()) else { return };
    let mut backoff =
        env.backoff("definitions-work", Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let Some(strong) = server.upgrade() else { return };
        let wait = match look(&strong).await {
            Ok(true) => Some(CLEANUP_PERIOD),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "a definition could not be looked after");
                Some(backoff.next_wait())
            }
        };
        match wait {
            Some(wait) => {
                drop(strong);
                env.sleep(wait).await;
            }
            None => {
                backoff.reset();
                // The server must be able to go while nothing happens.
                let work = strong.customs.work.clone();
                drop(strong);
                work.notified().await;
            }
        }
    }
}

/// Looks once at every definition; whether some of it takes more time.
async fn look(server: &Arc<ApiServer>) -> Result<bool, Status> {
    if !server.customs.lock().is_read {
        return Ok(false);
    }
    let all = server.customs.objects();
    let mut is_unfinished = false;
    for definition in &all {
        if definition.is_terminating() {
            is_unfinished |= clean_up(server, definition).await?;
        } else {
            let mut probe = (**definition).clone();
            let now = server.env.now();
            if names::decide(&mut probe, all.iter().map(Arc::as_ref), now) {
                accept(server, definition.name()).await?;
            }
        }
    }
    Ok(is_unfinished)
}

/// A write by the server itself.
fn request(kind: &'static Kind, key: ObjectKey, verb: Verb) -> Request {
    let user = User::new("system:apiserver", &["system:masters"]);
    Request::own(user, verb, kind, key)
}

async fn accept(server: &Arc<ApiServer>, name: &str) -> Result<(), Status> {
    // Names are compared with what is there now, not with what was seen.
    let selection =
        Selection::read(&CUSTOM_RESOURCE_DEFINITION, &ObjectKey::new("", ""), &Query::parse(""))?;
    let found = list::everything(server, &selection, None).await?;
    let others: Result<Vec<_>, _> = found.kvs.iter().map(|kv| server.decoded.object(kv)).collect();
    let others = &others?;
    write(server, name, &|object| {
        names::decide(object, others.iter().map(Arc::as_ref), server.env.now())
    })
    .await
}

/// Writes a definition's status, if `change` changes it.
async fn write(
    server: &Arc<ApiServer>,
    name: &str,
    change: &(dyn Fn(&mut Object) -> bool + Sync),
) -> Result<(), Status> {
    let key = ObjectKey::new("", name);
    let mut request = request(&CUSTOM_RESOURCE_DEFINITION, key, Verb::Update);
    request.subresource = "status".to_owned();
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let Some(old) = old else { return Err(gone()) };
            let mut new = (*old).clone();
            if !change(&mut new) {
                return Ok(Decision::Keep);
            }
            let is_free = new.is_terminating() && new.list("/metadata/finalizers").is_empty();
            Ok(match is_free {
                true => Decision::Remove(Box::new(new)),
                false => Decision::Put(Box::new(new), Along::default()),
            })
        }
        .boxed()
    };
    let written = commit::change(server, &request, &request.key, &mut decide).await;
    server.audit_own(&request, &written);
    match written {
        Err(status) if status.code == 404 => Ok(()),
        Err(status) => Err(status),
        Ok(_) => Ok(()),
    }
}

fn gone() -> Status {
    Status::new(404, "NotFound", "the definition is gone")
}

fn terminating<'c>(status: &'c str, reason: &'c str, message: &'c str) -> Condition<'c> {
    Condition { name: "Terminating", status, reason, message }
}

/// What the first request to delete a definition makes of it.
pub(crate) fn mark_terminating(definition: &mut Object, now: env::Timestamp) {
    if definition.is_terminating() {
        return;
    }
    let mut finalizers = definition.list("/metadata/finalizers").to_vec();
    if !finalizers.iter().any(|one| one == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    definition.set("/metadata/finalizers", finalizers);
    definition.set("/metadata/deletionTimestamp", seconds(now));
    definition.set("/metadata/deletionGracePeriodSeconds", 0);
    let told = terminating(
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    conditions::set(definition, told, now);
}

/// Deletes the objects of a definition that goes, then lets go of it. Answers whether some are left.
async fn clean_up(server: &Arc<ApiServer>, definition: &Arc<Object>) -> Result<bool, Status> {
    if !definition.list("/metadata/finalizers").iter().any(|one| one == FINALIZER) {
        return Ok(false);
    }
    let name = definition.name();
    let now = server.env.now();
    write(server, name, &|object| {
        let told = terminating(
            "True",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
        object.is_terminating() && conditions::set(object, told, now)
    })
    .await?;
    let known = server.customs.definition(name);
    let is_accepted = definition.condition_status("Established") == "True";
    if let Some(storage) = known.and_then(|known| known.storage).filter(|_| is_accepted) {
        let selection = Selection::read(storage, &ObjectKey::new("", ""), &Query::parse(""))?;
        let found = list::raw(server, &selection).await?;
        for kv in found.iter().take(DELETED_AT_ONCE) {
            let Some(key) = crate::storage_key::parse(storage, &kv.key) else { continue };
            let request = request(storage, key.clone(), Verb::Delete);
            let options = delete::Options::default();
            let deleted = delete::delete_object(server, &request, &key, &options).await;
            server.audit_own(&request, &deleted);
            match deleted {
                Err(status) if status.code != 404 && status.code != 409 => return Err(status),
                _ => {}
            }
        }
        if !list::raw(server, &selection).await?.is_empty() {
            return Ok(true);
        }
    }
    write(server, name, &|object| {
        let told = terminating("False", "InstanceDeletionCompleted", "removed all instances");
        let is_changed = conditions::set(object, told, now);
        let mut finalizers = object.list("/metadata/finalizers").to_vec();
        finalizers.retain(|one| *one != FINALIZER);
        match finalizers.is_empty() {
            true => drop(object.remove("/metadata/finalizers")),
            false => object.set("/metadata/finalizers", json!(finalizers)),
        }
        is_changed
    })
    .await?;
    Ok(false)
}
