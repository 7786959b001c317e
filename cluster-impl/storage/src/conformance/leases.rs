//! Checks of leases.

use std::time::Duration;

use bytes::Bytes;

use crate::{Op, StoreError, Txn};

use super::{Outcome, Scratch, ensure, equal, shown};

/// The shortest lease that etcd gives with its default timing.
const SHORT_S: i64 = 2;

impl Scratch {
    async fn lease(&self, ttl_s: i64) -> Result<i64, String> {
        self.store.lease_grant(ttl_s).await.map_err(|error| format!("grant: {error}"))
    }

    async fn put_leased(&self, names: &[&str], lease: i64) -> Result<i64, String> {
        let put = |name: &&str| Op::Put(self.key(name), Bytes::from_static(b"1"), lease);
        let success = names.iter().map(put).collect();
        Ok(self.txn(Txn { success, ..Txn::default() }).await?.revision)
    }
}

pub(super) async fn an_expired_lease_takes_its_keys_along(scratch: Scratch) -> Outcome {
    let mut watch = scratch.watch(0).await?;
    // It lives from some moment between the question and the answer.
    let asked = tokio::time::Instant::now();
    let lease = scratch.lease(SHORT_S).await?;
    scratch.put_leased(&["a", "b"], lease).await?;
    scratch.put("c", "1").await?;
    let state = scratch.latest().await?;
    let leases: Vec<i64> = state.kvs.iter().map(|kv| kv.lease).collect();
    equal("the keys' leases", leases, vec![lease, lease, 0])?;
    let story = watch.story(5).await?;
    equal("the story", story.as_str(), "+a=1 +b=1 +c=1 -a -b")?;
    let lived = asked.elapsed();
    let least = Duration::from_secs(SHORT_S.unsigned_abs());
    ensure(lived >= least, || format!("the lease of {SHORT_S} s lived {lived:?}"))?;
    let state = scratch.latest().await?;
    equal("what is left", shown(&state, scratch.prefix.len()).as_str(), "c=1")?;
    let answer = scratch.store.lease_keep_alive(lease).await;
    equal("renewing it", answer, Err(StoreError::NoLease(lease)))
}

pub(super) async fn a_lease_kept_alive_lives_on(scratch: Scratch) -> Outcome {
    let lease = scratch.lease(SHORT_S).await?;
    scratch.put_leased(&["a"], lease).await?;
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    for _ in 0..8 {
        pace.tick().await;
        let ttl_s = scratch.store.lease_keep_alive(lease).await;
        equal("the renewed time to live", ttl_s, Ok(SHORT_S))?;
    }
    equal("the keys after 3.5 s", scratch.latest().await?.count, 1)?;
    scratch.store.lease_revoke(lease).await.map_err(|error| format!("revoke: {error}"))
}

pub(super) async fn a_revoked_lease_takes_its_keys_along_at_one_revision(
    scratch: Scratch,
) -> Outcome {
    let mut watch = scratch.watch(0).await?;
    let lease = scratch.lease(3600).await?;
    let written = scratch.put_leased(&["b", "a"], lease).await?;
    scratch.store.lease_revoke(lease).await.map_err(|error| format!("revoke: {error}"))?;
    let events = watch.events(4).await?;
    let revisions: Vec<i64> = events.iter().map(|event| event.kv.mod_revision).collect();
    equal("the revisions", revisions, vec![written, written, written + 1, written + 1])?;
    equal("what is left", scratch.latest().await?.count, 0)?;
    let again = scratch.store.lease_revoke(lease).await;
    equal("revoking it again", again, Err(StoreError::NoLease(lease)))
}

pub(super) async fn a_put_moves_a_key_to_its_new_lease(scratch: Scratch) -> Outcome {
    let (first, second) = (scratch.lease(3600).await?, scratch.lease(3600).await?);
    scratch.put_leased(&["moved", "freed"], first).await?;
    scratch.put_leased(&["moved"], second).await?;
    scratch.put("freed", "1").await?;
    scratch.store.lease_revoke(first).await.map_err(|error| format!("revoke: {error}"))?;
    equal("after the first lease", scratch.latest().await?.count, 2)?;
    scratch.store.lease_revoke(second).await.map_err(|error| format!("revoke: {error}"))?;
    let state = scratch.latest().await?;
    equal("after the second", shown(&state, scratch.prefix.len()).as_str(), "freed=1")
}

pub(super) async fn a_write_with_an_unknown_lease_is_refused(scratch: Scratch) -> Outcome {
    let before = scratch.put("a", "1").await?;
    let success = vec![Op::Put(scratch.key("b"), Bytes::from_static(b"1"), 4711)];
    let answer = scratch.store.txn(Txn { success, ..Txn::default() }).await;
    let error = answer.err();
    equal("the answer", error, Some(StoreError::NoLease(4711)))?;
    equal("the revision", scratch.latest().await?.revision, before)
}
