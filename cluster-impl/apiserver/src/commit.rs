//! Every change of the store: compare the last revision, then write, in one transaction.

use std::sync::Arc;

use bytes::Bytes;
use env::Sabotage;
use futures::future::BoxFuture;
use machinery::{Object, ObjectKey, Status};
use storage::{Compare, KeyRange, KeyValue, Op, OpResult, RangeRequest, Txn};

use crate::admission::Turn;
use crate::codec::{Stored, encode};
use crate::request::Request;
use crate::server::ApiServer;
use crate::{allocation, custom, fence, status, storage_key};

/// How often a change that names no revision is decided anew because somebody was faster.
const ATTEMPTS_MAX: usize = 16;

/// What to do with an object.
pub(crate) enum Decision {
    /// Nothing.
    Keep,
    /// Write this, and what admission wants to be written along with it.
    Put(Box<Object>, Along),
    /// Take it away; answer with this last state.
    Remove(Box<Object>),
}

/// From what there is to what is to be done; asked anew whenever somebody else was faster.
pub(crate) type Decide<'d> =
    dyn FnMut(Option<Arc<Object>>) -> BoxFuture<'d, Result<Decision, Status>> + Send + 'd;

/// What else must hold, and be written, in the transaction of a change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Along {
    /// Keys that must still be at these revisions.
    pub(crate) guards: Vec<(Vec<u8>, i64)>,
    /// What is written with the object.
    pub(crate) ops: Vec<Op>,
    /// Others who would write the same wait until the change was tried.
    pub(crate) turn: Option<Turn>,
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
    /// What else must hold and is written.
    pub(crate) along: Along,
    /// The object as it was, and as it is to be.
    pub(crate) change: (Option<&'a Object>, Option<&'a Object>),
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

/// The same in the form of the request's kind.
pub(crate) async fn read_served(
    server: &ApiServer,
    request: &Request,
    key: &ObjectKey,
) -> Result<Option<KeyValue>, Status> {
    let mut found = read(server, request, key).await?;
    custom::incoming_one(server, request.kind, &mut found).await?;
    Ok(found)
}

/// Changes one object as `decide` says; decides anew as long as somebody else was faster.
pub(crate) async fn change<'d>(
    server: &ApiServer,
    request: &Request,
    key: &ObjectKey,
    decide: &mut Decide<'d>,
) -> Result<Written, Status> {
    request.trace_key(key);
    let kind = request.kind;
    let mut stored = read(server, request, key).await?;
    for _ in 0..ATTEMPTS_MAX {
        let mut current = stored.clone();
        custom::incoming_one(server, kind, &mut current).await?;
        let old = current.as_ref().map(|kv| server.decoded.of(kind, kv)).transpose()?;
        let (new, along, is_removed) = match decide(old.clone()).await? {
            Decision::Keep => return kept(request, key, current),
            Decision::Put(new, along) => (new, along, false),
            Decision::Remove(last) => (last, Along::default(), true),
        };
        let put = match is_removed {
            true => None,
            false => Some(custom::outgoing(server, kind, &new).await?),
        };
        if let Some(kv) = &stored
            && put.as_ref() == Some(&kv.value)
            && !server.is_stale(&kv.key).await?
        {
            return kept(request, key, current);
        }
        let is_created = old.is_none();
        let expected = current.as_ref().map_or(0, |kv| kv.mod_revision);
        if request.is_dry_run() {
            let stored = Stored { value: encode(&new), revision: expected };
            return Ok(Written { stored, is_created, is_removed });
        }
        let change = (old.as_deref(), (!is_removed).then_some(new.as_ref()));
        let tried =
            attempt(server, request, Attempt { key, expected, put: put.clone(), along, change });
        match tried.await? {
            Tried::Stale(now) => stored = now,
            Tried::Done(revision) => {
                let value = put.filter(|_| kind.custom.is_none()).unwrap_or_else(|| encode(&new));
                let stored = Stored { value, revision };
                if !is_removed {
                    remember(server, request, key, *new, &stored);
                }
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
    let unchecked = match attempt.expected {
        0 => Sabotage::CreateOverwrites,
        _ => Sabotage::UpdateLost,
    };
    let mut compare = Vec::new();
    if !server.env.sabotaged(unchecked) {
        compare.push(Compare::ModRevision(key.clone(), attempt.expected));
    }
    let guards = attempt.along.guards.into_iter();
    compare.extend(guards.map(|(key, revision)| Compare::ModRevision(key, revision)));
    let (old, new) = attempt.change;
    let services = allocation::along(&server.env, request.kind, attempt.key, old, new);
    compare.extend(services.free.into_iter().map(|key| Compare::ModRevision(key, 0)));
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
    success.extend(fence::handover(request.kind, attempt.key, old, new));
    success.extend(services.ops);
    success.extend(attempt.along.ops);
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
    stored: &Stored,
) {
    if request.kind.custom.is_some() {
        return;
    }
    object.set("/metadata/resourceVersion", stored.revision.to_string());
    let key = storage_key::key(request.kind, key);
    server.decoded.keep(key, stored.value.clone(), Arc::new(object));
}

fn kept(request: &Request, key: &ObjectKey, current: Option<KeyValue>) -> Result<Written, Status> {
    let kv = current.ok_or_else(|| status::not_found(request.kind, key))?;
    Ok(Written { stored: Stored::from(&kv), is_created: false, is_removed: false })
}

#[cfg(test)]
mod tests {
    use env::Sabotage;
    use http::Method;
    use serde_json::{Value, json};

    use crate::Config;
    use crate::testing::{MAPS, PODS, World, config_map, named, pod, text};

    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

    fn lease(holder: &str, transitions: i64) -> Value {
        let mut lease = named("coordination.k8s.io/v1", "Lease", "lock");
        lease["spec"] = json!({
            "holderIdentity": holder, "leaseTransitions": transitions, "leaseDurationSeconds": 15,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        });
        lease
    }

    async fn hand_over(world: &World, holder: &str, transitions: i64) {
        let path = format!("{LEASES}/lock");
        let mut new = lease(holder, transitions);
        let now = world.get(&path).await;
        new["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
        world.update(&path, &new).await;
    }

    async fn fenced(world: &World, fence: &str, method: Method, path: &str, body: Value) -> u16 {
        let headers = [("x-shakedown-fence", fence)];
        world.call_with(method, path, &headers, &body).await.0
    }

    #[tokio::test(start_paused = true)]
    async fn a_deposed_leader_writes_nothing() {
        let world = World::new().await;
        let write = |fence: &'static str, name: &'static str| {
            fenced(&world, fence, Method::POST, MAPS, config_map(name, "1"))
        };
        assert_eq!(write("lock/a/0", "too-early").await, 409, "nobody holds the lease");
        world.create(LEASES, lease("a", 0)).await;
        assert_eq!(write("lock/a/0", "held").await, 201);
        assert_eq!(write("lock/a/1", "wrong").await, 409);
        assert_eq!(write("nonsense", "wrong").await, 400);
        hand_over(&world, "b", 1).await;
        assert_eq!(write("lock/a/0", "deposed").await, 409);
        assert_eq!(write("lock/b/1", "new").await, 201);
        hand_over(&world, "b", 2).await;
        assert_eq!(write("lock/b/1", "before").await, 409, "it lost the lease in between");
        world.audit();
        let path = format!("{MAPS}/held");
        let patch = json!({"data": {"key": "2"}});
        assert_eq!(fenced(&world, "lock/a/0", Method::PATCH, &path, patch).await, 415);
        let put = config_map("held", "2");
        assert_eq!(fenced(&world, "lock/a/0", Method::PUT, &path, put).await, 409);
        assert_eq!(fenced(&world, "lock/a/0", Method::DELETE, &path, Value::Null).await, 409);
        assert_eq!(world.get(&path).await["data"]["key"], "1");
        let refused = world.audit().pop().unwrap();
        assert_eq!((refused.code, refused.revision), (409, 0));
        assert_eq!(refused.fence.as_deref(), Some("lock/a/0"));
        world.delete(&format!("{LEASES}/lock")).await;
        assert_eq!(write("lock/b/2", "after").await, 409, "the lease is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn the_handover_and_the_refusal_share_a_revision() {
        let world = World::replicated().await;
        world.create(LEASES, lease("a", 0)).await;
        world.create(MAPS, config_map("m", "0")).await;
        // A leader writes as fast as it can while the lease changes hands: whatever was
        // acknowledged must lie before the revision of the handover.
        let path = format!("{MAPS}/m");
        let writer = async {
            let mut last = 0;
            for at in 1..1000 {
                let map = config_map("m", &at.to_string());
                let headers = [("x-shakedown-fence", "lock/a/0")];
                let (code, answer) = world.call_with(Method::PUT, &path, &headers, &map).await;
                if code != 200 {
                    assert_eq!(code, 409);
                    return last;
                }
                last = text(&answer["metadata"]["resourceVersion"]).parse::<i64>().unwrap();
            }
            panic!("the writer was never refused");
        };
        let usurper = async {
            world.env.sleep(std::time::Duration::from_millis(30)).await;
            hand_over(&world, "b", 1).await;
            let lease = world.get(&format!("{LEASES}/lock")).await;
            text(&lease["metadata"]["resourceVersion"]).parse::<i64>().unwrap()
        };
        let (last, handover) = tokio::join!(writer, usurper);
        assert!(last < handover, "{last} was written after {handover}");
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_do_not_move_the_fence() {
        let world = World::new().await;
        world.create(LEASES, lease("a", 0)).await;
        let count = async || {
            let range = storage::KeyRange::key("/fences/lock");
            let asked = storage::RangeRequest::latest(range);
            world.server.store.range(asked).await.unwrap().kvs[0].version
        };
        hand_over(&world, "a", 0).await;
        assert_eq!(count().await, 1);
        hand_over(&world, "b", 1).await;
        assert_eq!(count().await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn sabotage_lets_a_deposed_leader_write() {
        let world = World::with(&[Sabotage::LeaderNotFenced], Config::default()).await;
        let code = fenced(&world, "lock/a/0", Method::POST, MAPS, config_map("a", "1")).await;
        assert_eq!(code, 201);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_outcome_is_a_timeout_and_an_absent_store_a_refusal() {
        let world = World::new().await;
        // The namespace is known from here on, so that the next thing to fail is the write itself.
        world.create(MAPS, config_map("before", "1")).await;
        world.cluster.set_frozen(0, true);
        let (code, answer) = world.call(Method::POST, MAPS, &config_map("a", "1")).await;
        assert_eq!((code, text(&answer["reason"])), (504, "Timeout"), "{answer}");
        world.cluster.set_frozen(0, false);
        world.cluster.set_up(0, false);
        let (code, answer) = world.call(Method::POST, PODS, &pod("a")).await;
        assert_eq!((code, text(&answer["reason"])), (503, "ServiceUnavailable"), "{answer}");
        let (code, _) = world.call(Method::GET, PODS, &Value::Null).await;
        assert_eq!(code, 503);
    }
}
