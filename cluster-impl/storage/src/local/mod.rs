//! The store of one process: in memory, and on request kept on disk across restarts.
//!
//! Changes are made in memory at once and seen by nobody until they are on disk: reads and watches
//! stop at the last revision that is. One thread writes, and puts all that waits into one commit.
//! Invariants: what was acknowledged survives a killed process; what could not be written is taken
//! back, its writers are told so, and the store goes on from what the disk holds.
//! Limit: the disk holds the latest state, not its history: after a restart older revisions count as
//! compacted.

mod disk;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use env::{Env, Task};
use futures::StreamExt;
use rand::Rng;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::memory::mvcc::{self, Mvcc, Record};
use crate::memory::watchers::{Waiting, Watcher, Watchers};
use crate::{
    KeyRange, MemberStatus, RangeRequest, RangeResult, Store, StoreError, Txn, TxnResult,
    WatchBatch, WatchStream,
};

use disk::Disk;
pub use disk::OpenError;
use writer::Writer;

/// How long a watch stays silent before it shows its progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// The shortest lease, as etcd's.
const LEASE_TTL_S_MIN: i64 = 2;

/// A store of one process.
pub struct LocalStore {
    shared: Arc<Shared>,
    env: Env,
    /// Absent if nothing is kept.
    writer: Option<Writer>,
    _expiry: Task<()>,
}

/// What requests, the writer and the end of leases share.
struct Shared {
    state: Mutex<State>,
    /// Told whenever a lease may run out sooner than was known.
    leases: Notify,
}

struct State {
    mvcc: Mvcc,
    watchers: Watchers,
    /// Up to this revision everything is safe, and may be seen.
    safe: i64,
    /// Of this revision and older ones, changes cannot be told any more.
    floor: i64,
    deadlines: BTreeMap<i64, Instant>,
    /// Rises whenever changes had to be taken back.
    generation: u64,
    trouble: Option<Trouble>,
}

/// What keeps the disk from being used.
enum Trouble {
    /// It takes nothing more; what is safe can be read.
    Full,
    /// It cannot be told what it holds.
    Broken(String),
}

/// A change on its way to the disk.
struct Job {
    generation: u64,
    /// Absent if nothing changed: then its answer only waits for what was decided before.
    record: Option<Record>,
    /// A lease that began, with its time to live, or ended.
    lease: Option<(i64, Option<i64>)>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// What a command did to the store.
struct Change<T> {
    answer: T,
    record: Option<Record>,
    lease: Option<(i64, Option<i64>)>,
}

impl LocalStore {
    /// An empty store that nobody keeps.
    pub fn in_memory(env: Env) -> Arc<Self> {
        Self::start(env, State::new(Mvcc::new(false), 0), None)
    }

    /// The store that is kept in a directory, which is made if it does not exist.
    pub fn open(env: Env, dir: &Path) -> Result<Arc<Self>, OpenError> {
        Self::of(env, Disk::open(dir)?)
    }

    fn of(env: Env, disk: Disk) -> Result<Arc<Self>, OpenError> {
        let held = disk.load()?;
        let floor = held.revision();
        Ok(Self::start(env, State::new(held, floor), Some(disk)))
    }

    fn start(env: Env, mut state: State, disk: Option<Disk>) -> Arc<Self> {
        state.restart_leases(Instant::now());
        let shared = Arc::new(Shared { state: Mutex::new(state), leases: Notify::new() });
        let writer = disk.map(|disk| Writer::start(shared.clone(), disk));
        let queue = writer.as_ref().map(Writer::queue);
        let expiring = shared.clone();
        let expiry = env.spawn(async move { expiring.expire(queue).await });
        Arc::new(Self { shared, env, writer, _expiry: expiry })
    }

    /// Does something to the store; answers once it is safe.
    async fn submit<T>(
        &self,
        act: impl FnOnce(&mut State) -> Result<Change<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let queue = self.writer.as_ref().map(Writer::queue);
        let (answer, done) = self.shared.submit(queue.as_ref(), act)?;
        match done {
            None => Ok(answer),
            Some(done) => {
                let lost = |_| StoreError::Unknown("the store has ended".to_owned());
                done.await.map_err(lost)?.map(|()| answer)
            }
        }
    }
}

/// What the writer is told.
enum Message {
    Job(Job),
    /// Write what waits, and end.
    End,
}

type Queue = mpsc::Sender<Message>;
type Done = oneshot::Receiver<Result<(), StoreError>>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the store")
    }

    fn submit<T>(
        &self,
        queue: Option<&Queue>,
        act: impl FnOnce(&mut State) -> Result<Change<T>, StoreError>,
    ) -> Result<(T, Option<Done>), StoreError> {
        let mut state = self.lock();
        state.check()?;
        if matches!(state.trouble, Some(Trouble::Full)) {
            return Err(StoreError::NoSpace);
        }
        let Change { answer, record, lease } = act(&mut state)?;
        let Some(queue) = queue else {
            state.publish(record.as_ref());
            return Ok((answer, None));
        };
        if record.is_none() && lease.is_none() && state.safe == state.mvcc.revision() {
            return Ok((answer, None));
        }
        let (done, waits) = oneshot::channel();
        // Under the lock, so that the disk gets changes in the order in which they were decided.
        let job = Job { generation: state.generation, record, lease, done };
        queue
            .send(Message::Job(job))
            .map_err(|_| StoreError::Unavailable("the store has ended".to_owned()))?;
        Ok((answer, Some(waits)))
    }

    /// Ends leases when their time is over.
    async fn expire(&self, queue: Option<Queue>) {
        loop {
            let next = self.lock().deadlines.values().min().copied();
            tokio::select! {
                biased;
                () = self.leases.notified() => continue,
                () = until(next) => {}
            }
            let now = Instant::now();
            let over: Vec<i64> = {
                let state = self.lock();
                let over = state.deadlines.iter().filter(|(_, deadline)| **deadline <= now);
                over.map(|(lease, _)| *lease).collect()
            };
            for lease in over {
                self.lock().deadlines.remove(&lease);
                let ended = self.submit(queue.as_ref(), |state| state.revoke(lease));
                if let Err(error) = ended {
                    tracing::debug!(%error, lease, "a lease could not be ended");
                }
            }
        }
    }
}

/// Waits until an instant, or for ever.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl State {
    fn new(mvcc: Mvcc, floor: i64) -> Self {
        Self {
            safe: mvcc.revision(),
            mvcc,
            watchers: Watchers::default(),
            floor,
            deadlines: BTreeMap::new(),
            generation: 0,
            trouble: None,
        }
    }

    /// Every lease starts its time anew, as etcd's do under a new leader.
    fn restart_leases(&mut self, now: Instant) {
        let leases = self.mvcc.leases().iter();
        self.deadlines = leases.map(|(id, lease)| (*id, now + seconds(lease.ttl_s))).collect();
    }

    fn check(&self) -> Result<(), StoreError> {
        match &self.trouble {
            Some(Trouble::Broken(why)) => Err(StoreError::Unavailable(why.clone())),
            Some(Trouble::Full) | None => Ok(()),
        }
    }

    /// What is safe may be seen.
    fn publish(&mut self, record: Option<&Record>) {
        let Some(record) = record else { return };
        self.safe = record.revision;
        self.watchers.offer(record, self.mvcc.compacted());
    }

    /// Goes back to what is on disk; whoever follows must begin anew.
    fn go_back(&mut self, held: Mvcc, why: &StoreError) {
        self.generation += 1;
        self.safe = held.revision();
        self.floor = held.revision();
        self.mvcc = held;
        self.watchers.end(why);
        self.restart_leases(Instant::now());
    }

    fn revoke(&mut self, lease: i64) -> Result<Change<()>, StoreError> {
        let record = self.mvcc.revoke(lease)?;
        self.deadlines.remove(&lease);
        Ok(Change { answer: (), record, lease: Some((lease, None)) })
    }

    fn read(&self, request: &RangeRequest) -> Result<RangeResult, StoreError> {
        self.check()?;
        let (asked, oldest) = (request.revision, self.mvcc.compacted());
        if asked > self.safe {
            return Err(StoreError::FutureRevision { asked });
        }
        if asked > 0 && asked < oldest {
            return Err(StoreError::Compacted { asked, oldest });
        }
        let revision = if asked > 0 { asked } else { self.safe };
        let found = self.mvcc.range(&request.range, revision, request.limit);
        let mvcc::Found { kvs, more, count } = found;
        Ok(RangeResult { revision: self.safe, kvs, more, count })
    }

    fn open(&mut self, range: KeyRange, from: i64) -> Result<(u64, Arc<Watcher>), StoreError> {
        self.check()?;
        let oldest = self.mvcc.compacted().max(self.floor + 1);
        if from > 0 && from < oldest {
            return Err(StoreError::Compacted { asked: from, oldest });
        }
        let first = if from > 0 { from } else { self.safe + 1 };
        let (number, watcher) = self.watchers.open(range, first);
        if from == 0 {
            watcher.offer_progress(self.safe);
        }
        for record in self.mvcc.history_from(first) {
            if record.revision <= self.safe {
                watcher.offer(record, self.mvcc.compacted());
            }
        }
        Ok((number, watcher))
    }
}

fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(ttl_s.unsigned_abs())
}

/// Closes a watch when its reader goes.
struct Closing {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.shared.lock().watchers.close(self.number);
    }
}

/// The next batch of a watch.
async fn next_batch(watcher: &Watcher, shared: &Shared) -> Result<WatchBatch, StoreError> {
    let silent_until = Instant::now() + PROGRESS;
    loop {
        match watcher.take_joined() {
            Waiting::Batch(batch) => return Ok(batch),
            Waiting::End(why) => return Err(why),
            Waiting::Nothing | Waiting::Paused => {}
        }
        tokio::select! {
            biased;
            () = watcher.wake.notified() => {}
            () = tokio::time::sleep_until(silent_until) => {
                // Under the lock nothing is offered between the look and the answer.
                let state = shared.lock();
                match watcher.take_joined() {
                    Waiting::Batch(batch) => return Ok(batch),
                    Waiting::End(why) => return Err(why),
                    Waiting::Nothing | Waiting::Paused => {
                        return Ok(WatchBatch { revision: state.safe, events: Vec::new() });
                    }
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for LocalStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        if request.range.start.is_empty() && request.range.end.is_none() {
            return Err(StoreError::Invalid("the key is empty".to_owned()));
        }
        self.shared.lock().read(&request)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        mvcc::check(&txn)?;
        self.submit(|state| {
            let (answer, record) = state.mvcc.txn(&txn)?;
            Ok(Change { answer, record, lease: None })
        })
        .await
    }

    async fn watch(&self, range: KeyRange, from: i64) -> Result<WatchStream, StoreError> {
        let (number, watcher) = self.shared.lock().open(range, from)?;
        let closing = Closing { shared: self.shared.clone(), number };
        let reader = Some((watcher, closing));
        let stream = futures::stream::unfold(reader, |reader| async move {
            let (watcher, closing) = reader?;
            match next_batch(&watcher, &closing.shared).await {
                Ok(batch) => Some((Ok(batch), Some((watcher, closing)))),
                Err(why) => Some((Err(why), None)),
            }
        });
        Ok(stream.boxed())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let mut state = self.shared.lock();
        state.check()?;
        if revision > state.safe {
            return Err(StoreError::FutureRevision { asked: revision });
        }
        state.mvcc.compact(revision)?;
        state.mvcc.purge(revision, false);
        Ok(())
    }

    async fn lease_grant(&self, ttl_s: i64) -> Result<i64, StoreError> {
        if ttl_s <= 0 {
            return Err(StoreError::Invalid("a lease needs a time to live".to_owned()));
        }
        let ttl_s = ttl_s.max(LEASE_TTL_S_MIN);
        let lease = self.env.entropy("lease").random_range(1..i64::MAX);
        self.submit(|state| {
            state.mvcc.grant(lease, ttl_s);
            state.deadlines.insert(lease, Instant::now() + seconds(ttl_s));
            Ok(Change { answer: (), record: None, lease: Some((lease, Some(ttl_s))) })
        })
        .await?;
        self.shared.leases.notify_one();
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<i64, StoreError> {
        let mut state = self.shared.lock();
        state.check()?;
        let ttl_s = state.mvcc.leases().get(&lease).ok_or(StoreError::NoLease(lease))?.ttl_s;
        match state.deadlines.get_mut(&lease) {
            Some(deadline) => *deadline = Instant::now() + seconds(ttl_s),
            None => return Err(StoreError::NoLease(lease)),
        }
        Ok(ttl_s)
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.submit(|state| state.revoke(lease)).await
    }

    async fn status(&self) -> Result<MemberStatus, StoreError> {
        let state = self.shared.lock();
        state.check()?;
        Ok(MemberStatus { member: 1, leader: 1, term: 1, revision: state.safe })
    }
}

#[cfg(test)]
mod tests;
