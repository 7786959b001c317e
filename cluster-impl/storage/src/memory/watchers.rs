//! The watches on one member: each has a queue that the member fills as it applies revisions.
//!
//! A watch holds what it was told, so a compaction never takes an event away from an open watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::{KeyRange, StoreError, WatchBatch, WatchEvent};

use super::mvcc::Record;

/// A watch whose reader falls so many revisions behind is ended.
const WATCH_BACKLOG_MAX: usize = 100_000;

/// A reader that is behind is told at most so many revisions in one batch, as etcd does.
const JOINED_MAX: usize = 1000;

/// What waits for the reader of a watch.
#[derive(Default)]
struct Backlog {
    batches: VecDeque<WatchBatch>,
    end: Option<StoreError>,
    is_paused: bool,
}

/// One open watch.
pub(crate) struct Watcher {
    range: KeyRange,
    from: i64,
    backlog: Mutex<Backlog>,
    /// Told whenever there may be something to read.
    pub(crate) wake: Notify,
}

/// What a reader finds.
pub(crate) enum Waiting {
    /// Changes.
    Batch(WatchBatch),
    /// The watch is over.
    End(StoreError),
    /// Nothing yet.
    Nothing,
    /// The member stands still.
    Paused,
}

impl Watcher {
    /// The next thing for the reader.
    pub(crate) fn take(&self) -> Waiting {
        let mut backlog = self.lock();
        if backlog.is_paused {
            return Waiting::Paused;
        }
        match (backlog.batches.pop_front(), &backlog.end) {
            (Some(batch), _) => Waiting::Batch(batch),
            (None, Some(end)) => Waiting::End(end.clone()),
            (None, None) => Waiting::Nothing,
        }
    }

    /// The next thing for the reader, with the changes that wait behind it.
    pub(crate) fn take_joined(&self) -> Waiting {
        let mut first = self.take();
        if let Waiting::Batch(batch) = &mut first {
            for _ in 1..JOINED_MAX {
                let Waiting::Batch(more) = self.take() else { break };
                batch.revision = more.revision;
                batch.events.extend(more.events);
            }
        }
        first
    }

    /// Queues the changes of one revision that concern this watch. `compacted` decides whether the
    /// values before the changes can still be told.
    pub(crate) fn offer(&self, record: &Record, compacted: i64) {
        if record.revision < self.from {
            return;
        }
        let events: Vec<WatchEvent> = record
            .events
            .iter()
            .filter(|event| self.range.contains(&event.kv.key))
            .map(|event| match record.revision > compacted {
                true => event.clone(),
                false => WatchEvent { prev: None, ..event.clone() },
            })
            .collect();
        if events.is_empty() {
            return;
        }
        let mut backlog = self.lock();
        if backlog.batches.len() >= WATCH_BACKLOG_MAX {
            let why = format!("the watch fell {WATCH_BACKLOG_MAX} revisions behind");
            backlog.end = Some(StoreError::Unavailable(why));
        }
        if backlog.end.is_none() {
            backlog.batches.push_back(WatchBatch { revision: record.revision, events });
        }
        drop(backlog);
        self.wake.notify_one();
    }

    /// Queues a sign of progress.
    pub(crate) fn offer_progress(&self, revision: i64) {
        self.lock().batches.push_back(WatchBatch { revision, events: Vec::new() });
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().expect("no code panics while it holds a backlog")
    }
}

/// The open watches of one member.
#[derive(Default)]
pub(crate) struct Watchers {
    next: u64,
    open: BTreeMap<u64, Arc<Watcher>>,
}

impl Watchers {
    /// Opens a watch on the changes from a revision on; answers its number.
    pub(crate) fn open(&mut self, range: KeyRange, from: i64) -> (u64, Arc<Watcher>) {
        let backlog = Mutex::default();
        let watcher = Arc::new(Watcher { range, from, backlog, wake: Notify::new() });
        self.next += 1;
        self.open.insert(self.next, watcher.clone());
        (self.next, watcher)
    }

    /// Forgets a watch.
    pub(crate) fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Tells every watch of a revision.
    pub(crate) fn offer(&self, record: &Record, compacted: i64) {
        self.open.values().for_each(|watcher| watcher.offer(record, compacted));
    }

    /// Lets readers see nothing, or again everything.
    pub(crate) fn pause(&self, is_paused: bool) {
        for watcher in self.open.values() {
            watcher.lock().is_paused = is_paused;
            watcher.wake.notify_one();
        }
    }

    /// Ends every watch.
    pub(crate) fn end(&mut self, why: &StoreError) {
        for watcher in std::mem::take(&mut self.open).into_values() {
            let mut backlog = watcher.lock();
            backlog.is_paused = false;
            backlog.batches.clear();
            backlog.end = Some(why.clone());
            drop(backlog);
            watcher.wake.notify_one();
        }
    }
}
