//! Every change of the store: compare the last revision, then write, in one transaction.

use std::sync::Arc;

use bytes::Bytes;
use env::Sabotage;
use machinery::{Object, ObjectKey, Status};
use storage::{Compare, KeyRange, KeyValue, Op, OpResult, RangeRequest, Txn};

use crate::codec::{Stored, encode};
use crate::request::Request;
use crate::server::ApiServer;
use crate::{fence, status, storage_key};

/// How often a change that names no revision is decided anew because somebody was faster.
const ATTEMPTS_MAX: usize = 16;

/// What to do with an object.
pub(crate) enum Decision {
    /// Nothing.
    Keep,
    /// Write this.
    Put(Box<Object>),
    /// Take it away; answer with this last state.
    Remove(Box<Object>),
}

/// How a change ended.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The object after the change, or as it was last.
    pub(crate) stored: Stored,
    /// Whether it was not there before.
    pub(crate) is_created: bool,
    /// Whether it is gone.
    pub(crate) is_removed: bool,
}

/// One try at one key.
pub(crate) struct Attempt<'a> {
    /// Which object.
    pub(crate) key: &'a ObjectKey,
    /// Its last revision, as far as is known; 0 if it does not exist.
    pub(crate) expected: i64,
    /// What to write; `None` to delete.
    pub(crate) put: Option<Bytes>,
    /// A further key that must still be at this revision.
    pub(crate) guard: Option<(Vec<u8>, i64)>,
    /// What to write along with it.
    pub(crate) along: Option<Op>,
}

/// How one try ended.
pub(crate) enum Tried {
    /// Written, at this revision.
    Done(i64),
    /// Something was not as expected; this is the key now.
    Stale(Option<KeyValue>),
}

/// Reads one object's key, consistently.
pub(crate) async fn read(
    server: &ApiServer,
    request: &Request,
    key: &ObjectKey,
) -> Result<Option<KeyValue>, Status> {
    let range = KeyRange::key(storage_key::key(request.kind, key));
    let result = server.store.range(RangeRequest::latest(range)).await;
    Ok(result.map_err(status::from_store)?.kvs.pop())
}

/// Changes one object as `decide` says; decides anew as long as somebody else was faster.
pub(crate) async fn change(
    server: &ApiServer,
    request: &Request,
    key: &ObjectKey,
    decide: &mut (dyn FnMut(Option<&Arc<Object>>) -> Result<Decision, Status> + Send),
) -> Result<Written, Status> {
    request.trace_key(key);
    let mut current = read(server, request, key).await?;
    for _ in 0..ATTEMPTS_MAX {
        let old = current.as_ref().map(|kv| server.decoded.object(kv)).transpose()?;
        let (new, is_removed) = match decide(old.as_ref())? {
            Decision::Keep => return kept(request, key, current),
            Decision::Put(new) => (new, false),
            Decision::Remove(last) => (last, true),
        };
        let put = (!is_removed).then(|| encode(&new));
        if let Some(kv) = &current
            && put.as_ref() == Some(&kv.value)
        {
            return kept(request, key, current);
        }
        let is_created = old.is_none();
        let expected = current.as_ref().map_or(0, |kv| kv.mod_revision);
        if request.is_dry_run() {
            let stored = Stored { value: encode(&new), revision: expected };
            return Ok(Written { stored, is_created, is_removed });
        }
        let along = fence::handover(
            request.kind,
            key,
            old.as_deref(),
            (!is_removed).then_some(new.as_ref()),
        );
        let tried =
            attempt(server, request, Attempt { key, expected, put: put.clone(), guard: None, along });
        match tried.await? {
            Tried::Stale(now) => current = now,
            Tried::Done(revision) => {
                let value = put.unwrap_or_else(|| encode(&new));
                if !is_removed {
                    remember(server, request, key, *new, revision);
                }
                let stored = Stored { value, revision };
                return Ok(Written { stored, is_created, is_removed });
            }
        }
    }
    Err(status::stale(request.kind, key))
}

/// One try: compares, then writes. Answers 409 if the writer's fence does not hold.
pub(crate) async fn attempt(
    server: &ApiServer,
    request: &Request,
    attempt: Attempt<'_>,
) -> Result<Tried, Status> {
    let key = storage_key::key(request.kind, attempt.key);
    let mut compare = vec![Compare::ModRevision(key.clone(), attempt.expected)];
    compare.extend(attempt.guard.map(|(key, revision)| Compare::ModRevision(key, revision)));
    let mut failure = vec![Op::Get(KeyRange::key(key.clone()))];
    let is_unfenced = server.env.sabotaged(Sabotage::LeaderNotFenced);
    let fence = request.fence.as_ref().filter(|_| !is_unfenced);
    if let Some(fence) = fence {
        compare.push(Compare::Value(fence.key(), fence.value()));
        failure.push(Op::Get(KeyRange::key(fence.key())));
    }
    let mut success = vec![match attempt.put {
        Some(value) => Op::Put(key, value, 0),
        None => Op::Delete(KeyRange::key(key)),
    }];
    success.extend(attempt.along);
    let result = server.store.txn(Txn { compare, success, failure }).await;
    let result = result.map_err(status::from_store)?;
    if result.succeeded {
        request.trace_revision(result.revision);
        return Ok(Tried::Done(result.revision));
    }
    let mut results = result.results.into_iter().map(|result| match result {
        OpResult::Got(mut kvs) => kvs.pop(),
        OpResult::Put | OpResult::Deleted(_) => None,
    });
    let now = results.next().flatten();
    if let Some(fence) = fence {
        let held = results.next().flatten().map(|kv| kv.value);
        if held != Some(fence.value()) {
            return Err(fence.refusal(request.kind, attempt.key, held.as_deref()));
        }
    }
    Ok(Tried::Stale(now))
}

/// Keeps a written object decoded: the next reader will want it.
pub(crate) fn remember(
    server: &ApiServer,
    request: &Request,
    key: &ObjectKey,
    mut object: Object,
    revision: i64,
) {
    object.set("/metadata/resourceVersion", revision.to_string());
    server.decoded.keep(storage_key::key(request.kind, key), Arc::new(object));
}

fn kept(
    request: &Request,
    key: &ObjectKey,
    current: Option<KeyValue>,
) -> Result<Written, Status> {
    let kv = current.ok_or_else(|| status::not_found(request.kind, key))?;
    Ok(Written { stored: Stored::from(&kv), is_created: false, is_removed: false })
}
