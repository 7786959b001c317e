//! What every store must do: one list of checks that all bodies of [`Store`] pass.
//!
//! Each check keeps to keys of its own, so that all can run one after another on one store.
//! A check waits for what must happen, never for a fixed time.

mod leases;
mod reads;
pub(crate) mod watches;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;

use crate::{
    KeyRange, Op, RangeRequest, RangeResult, Store, Txn, TxnResult, WatchBatch, WatchEvent,
    WatchStream,
};

/// What must happen is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a check comes out: what is wrong, if anything.
pub type Outcome = Result<(), String>;

/// One thing that every store must do.
#[derive(Clone, Copy)]
pub struct Check {
    /// What it claims.
    pub name: &'static str,
    /// Tries it.
    pub run: fn(Scratch) -> BoxFuture<'static, Outcome>,
}

macro_rules! list {
    ($($module:ident :: $check:ident,)+) => {
        &[$(Check {
            name: stringify!($check),
            run: |scratch| Box::pin($module::$check(scratch)),
        },)+]
    };
}

/// Every check.
pub const CHECKS: &[Check] = list![
    leases::a_lease_kept_alive_lives_on,
    leases::a_put_moves_a_key_to_its_new_lease,
    leases::a_revoked_lease_takes_its_keys_along_at_one_revision,
    leases::a_write_with_an_unknown_lease_is_refused,
    leases::an_expired_lease_takes_its_keys_along,
    reads::a_compacted_revision_cannot_be_read,
    reads::a_future_revision_cannot_be_read,
    reads::a_limit_cuts_short_and_says_so,
    reads::a_prefix_holds_exactly_its_keys,
    reads::a_serializable_read_is_answered_from_one_revision,
    reads::a_serializable_read_of_the_past_is_the_past,
    reads::an_old_revision_reads_as_it_was,
    writes::a_transaction_is_one_revision,
    writes::a_transaction_that_changes_nothing_keeps_the_revision,
    writes::a_transaction_takes_the_branch_that_its_comparisons_choose,
    writes::a_wrong_transaction_is_refused_whole,
    writes::of_racing_writers_exactly_one_wins_each_round,
    writes::revisions_and_versions_count_up,
    watches::a_watch_from_a_compacted_revision_is_told_so,
    watches::a_watch_from_an_old_revision_replays_everything,
    watches::a_watch_from_now_on_tells_nothing_older,
    watches::a_watch_from_the_future_tells_nothing_earlier,
    watches::a_watch_tells_what_was_there_before,
    watches::a_watch_tells_only_of_its_range,
    watches::an_open_watch_outlives_compaction,
    watches::watches_tell_every_revision_whole_and_in_order,
];

/// A store with a corner for one check.
#[derive(Clone)]
pub struct Scratch {
    store: Arc<dyn Store>,
    prefix: String,
}

/// Runs every check; answers those that failed, with what is wrong.
pub async fn run_all(store: &Arc<dyn Store>) -> Vec<(&'static str, String)> {
    let mut failures = Vec::new();
    for check in CHECKS {
        let scratch =
            Scratch { store: store.clone(), prefix: format!("/conformance/{}/", check.name) };
        if let Err(why) = (check.run)(scratch).await {
            failures.push((check.name, why));
        }
    }
    failures
}

/// Fails a check unless something holds.
fn ensure(holds: bool, why: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(why()) }
}

/// Fails a check unless two things are equal.
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Outcome {
    ensure(got == wanted, || format!("{what}: got {got:?}, wanted {wanted:?}"))
}

impl Scratch {
    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.prefix).into_bytes()
    }

    fn everything(&self) -> KeyRange {
        KeyRange::prefix(self.prefix.as_bytes())
    }

    fn put_op(&self, name: &str, value: &str) -> Op {
        Op::Put(self.key(name), Bytes::copy_from_slice(value.as_bytes()), 0)
    }

    fn delete_op(&self, name: &str) -> Op {
        Op::Delete(KeyRange::key(self.key(name)))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, String> {
        self.store.txn(txn).await.map_err(|error| format!("transaction: {error}"))
    }

    async fn put(&self, name: &str, value: &str) -> Result<i64, String> {
        let txn = Txn { success: vec![self.put_op(name, value)], ..Txn::default() };
        Ok(self.txn(txn).await?.revision)
    }

    async fn delete(&self, name: &str) -> Result<i64, String> {
        let txn = Txn { success: vec![self.delete_op(name)], ..Txn::default() };
        Ok(self.txn(txn).await?.revision)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResult, String> {
        self.store.range(request).await.map_err(|error| format!("range: {error}"))
    }

    async fn latest(&self) -> Result<RangeResult, String> {
        self.range(RangeRequest::latest(self.everything())).await
    }

    /// Waits until an older read or watch fails.
    async fn compact(&self, revision: i64) -> Outcome {
        self.store.compact(revision).await.map_err(|error| format!("compact: {error}"))
    }

    async fn watch(&self, from: i64) -> Result<Watch, String> {
        let stream = self.store.watch(self.everything(), from).await;
        let stream = stream.map_err(|error| format!("watch: {error}"))?;
        Ok(Watch { stream, seen: self.prefix.len() })
    }
}

/// `name=value`, or nothing but names, of what was read.
fn shown(result: &RangeResult, prefix: usize) -> String {
    let pairs = result.kvs.iter().map(|kv| {
        let (key, value) = (&kv.key[prefix.min(kv.key.len())..], &kv.value);
        format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
    });
    pairs.collect::<Vec<_>>().join(" ")
}

/// An open watch of a check.
struct Watch {
    stream: WatchStream,
    seen: usize,
}

impl Watch {
    /// The next batch with changes.
    async fn batch(&mut self) -> Result<WatchBatch, String> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.stream.next());
            let Ok(next) = next.await else {
                return Err(format!("the watch told nothing for {} s", PATIENCE.as_secs()));
            };
            let batch = next.ok_or("the watch ended silently")?;
            let batch = batch.map_err(|error| format!("the watch ended: {error}"))?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// The next changes, at least so many, all of whole batches.
    async fn events(&mut self, count: usize) -> Result<Vec<WatchEvent>, String> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.batch().await?.events);
        }
        Ok(events)
    }

    /// The next changes as text: `+name=value` and `-name`.
    async fn story(&mut self, count: usize) -> Result<String, String> {
        let events = self.events(count).await?;
        let lines = events.iter().map(|event| {
            let name = String::from_utf8_lossy(&event.kv.key[self.seen.min(event.kv.key.len())..]);
            match event.is_delete {
                true => format!("-{name}"),
                false => format!("+{name}={}", String::from_utf8_lossy(&event.kv.value)),
            }
        });
        Ok(lines.collect::<Vec<_>>().join(" "))
    }
}
