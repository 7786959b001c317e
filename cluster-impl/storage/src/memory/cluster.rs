//! A cluster of members in memory, and the [`Store`] that each of them offers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use env::{Env, Sabotage, Signal, Task};
use futures::StreamExt;
use futures::stream::BoxStream;
use rand::Rng;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::{
    KeyRange, MemberStatus, RangeRequest, RangeResult, Store, StoreError, Txn, TxnResult,
    WatchBatch, WatchStream,
};

use super::MemoryConfig;
use super::mvcc;
use super::raft::{Access, Command, Raft, Reply};
use super::watchers::{Waiting, Watcher};
use super::weather::{LinkTraffic, LinkWeather};

/// So often, at one instant, the cluster is asked by no honest run.
const ASKED_AT_ONCE_MAX: u64 = 5_000_000;
/// etcd's shortest lease: one and a half election timeouts, in whole seconds.
const LEASE_TTL_ELECTIONS_MIN: f64 = 1.5;

/// What members and clients share.
struct Shared {
    raft: Mutex<Raft>,
    config: MemoryConfig,
    /// Tells the driver that something will happen earlier than it knows.
    kick: Notify,
    /// Raised with every change of topology or leadership.
    changes: Signal,
    /// How often something was asked at the last instant.
    asked: Mutex<(Instant, u64)>,
}

impl Shared {
    /// Does something to the cluster as of now.
    ///
    /// # Panics
    ///
    /// If time has long stood still: under a paused clock, who asks again and again without waiting
    /// would do so for ever, and nobody else would get to end the run.
    fn with<T>(&self, act: impl FnOnce(&mut Raft, Instant) -> T) -> T {
        let now = Instant::now();
        let at_once = self.count(now);
        assert!(
            at_once <= ASKED_AT_ONCE_MAX,
            "etcd was asked {ASKED_AT_ONCE_MAX} times at one instant: something asks again without \
             waiting"
        );
        let mut raft = self.raft.lock().expect("no code panics while it holds the cluster");
        raft.advance(now);
        let next = raft.next_event();
        let result = act(&mut raft, now);
        raft.advance(now);
        let is_sooner = raft.next_event().is_some_and(|at| next.is_none_or(|next| at < next));
        let has_changed = std::mem::take(&mut raft.has_changed);
        drop(raft);
        if is_sooner {
            self.kick.notify_one();
        }
        if has_changed {
            self.changes.raise();
        }
        result
    }

    /// Counts what is asked at this instant.
    fn count(&self, now: Instant) -> u64 {
        let mut asked = self.asked.lock().expect("no code panics while it counts");
        if asked.0 != now {
            *asked = (now, 0);
        }
        asked.1 += 1;
        asked.1
    }

    /// Lets events happen when they are due.
    async fn drive(&self) {
        loop {
            let next = self.with(|raft, _| raft.next_event());
            tokio::select! {
                biased;
                () = self.kick.notified() => {}
                () = until(next) => {}
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

/// What a member holds, as one number (etcd's HashKV).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreHash {
    /// Equal wherever the same is held.
    pub hash: u64,
    /// The revision up to which it was computed.
    pub revision: i64,
    /// The revision that the member compacted last.
    pub compacted: i64,
}

struct Running {
    shared: Arc<Shared>,
    members: usize,
    env: Env,
    _driver: Task<()>,
}

/// etcd members in memory with one log among them, links that can be cut, crashes and freezes.
#[derive(Clone)]
pub struct MemoryCluster {
    running: Arc<Running>,
}

impl MemoryCluster {
    /// A cluster with the documented defaults. `env` must not be behind a gate that may close: the
    /// cluster outlives the processes that use it.
    pub fn new(env: Env, members: usize) -> Self {
        Self::with_config(env, members, MemoryConfig::default())
    }

    /// A cluster.
    pub fn with_config(env: Env, members: usize, config: MemoryConfig) -> Self {
        assert!(members > 0, "a cluster needs a member");
        let planted = Sabotage::ALL.iter().copied().filter(|known| env.sabotaged(*known)).collect();
        let stream = env.entropy("etcd");
        let mut raft = Raft::new(config.clone(), members, stream, planted);
        raft.reconcile(Instant::now());
        let shared = Arc::new(Shared {
            raft: Mutex::new(raft),
            config,
            kick: Notify::new(),
            changes: Signal::default(),
            asked: Mutex::new((Instant::now(), 0)),
        });
        let driven = shared.clone();
        let driver = env.spawn(async move { driven.drive().await });
        Self { running: Arc::new(Running { shared, members, env, _driver: driver }) }
    }

    /// The store as the member with this index, from 0, offers it.
    pub fn member(&self, index: usize) -> Arc<dyn Store> {
        assert!(index < self.running.members, "there is no member {index}");
        Arc::new(MemberStore { running: self.running.clone(), index })
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.running.members
    }

    /// Opens or cuts the way from one member to another; the way back is another link.
    pub fn set_link(&self, from: usize, to: usize, is_open: bool) {
        self.running.shared.with(|raft, now| raft.set_link(from, to, is_open, now));
    }

    /// Changes the weather from one member to another; the way back is another link.
    pub fn set_weather(&self, from: usize, to: usize, weather: LinkWeather) {
        self.running.shared.with(|raft, now| raft.set_weather((from, to), weather, now));
    }

    /// What went from one member to another while the weather was bad there, since the beginning.
    pub fn traffic(&self, from: usize, to: usize) -> LinkTraffic {
        let read = |raft: &mut Raft, _| raft.traffic.get(&(from, to)).copied();
        self.running.shared.with(read).unwrap_or_default()
    }

    /// Breaks the open connections between two members; answers how many there were.
    pub fn reset(&self, one: usize, other: usize) -> u64 {
        self.running.shared.with(|raft, now| raft.reset(one, other, now))
    }

    /// Empties the disk of a member that is down. When it starts again it is removed, and a new one
    /// joins. Refused if committed writes would be lost with it.
    pub fn lose_disk(&self, index: usize) -> Result<(), StoreError> {
        self.running.shared.with(|raft, now| raft.lose_disk(index, now))
    }

    /// Hands the leadership to a member that keeps up with the leader.
    pub fn move_leader(&self, index: usize) -> Result<(), StoreError> {
        self.running.shared.with(|raft, now| raft.move_leader(index, now))
    }

    /// The revision that a member compacted last; `None` if it is down or frozen.
    pub fn compacted(&self, index: usize) -> Option<i64> {
        self.running.shared.with(|raft, _| match raft.status(index) {
            Access::Granted(_) => Some(raft.members[index].compacted),
            _ => None,
        })
    }

    /// What a member holds up to a revision (0 for its newest), as one number.
    pub fn hash(&self, index: usize, revision: i64) -> Result<StoreHash, StoreError> {
        self.running.shared.with(|raft, _| {
            let Access::Granted(status) = raft.status(index) else {
                return Err(StoreError::Unavailable("the member does not answer".to_owned()));
            };
            let compacted = raft.members[index].compacted;
            if revision > status.revision {
                return Err(StoreError::FutureRevision { asked: revision });
            }
            if revision > 0 && revision < compacted {
                return Err(StoreError::Compacted { asked: revision, oldest: compacted });
            }
            let revision = if revision > 0 { revision } else { status.revision };
            let hash = raft.mvcc.hash(revision, compacted);
            Ok(StoreHash { hash, revision, compacted })
        })
    }

    /// Starts or crashes a member. Its disk stays.
    pub fn set_up(&self, index: usize, is_up: bool) {
        self.running.shared.with(|raft, now| raft.set_up(index, is_up, now));
    }

    /// Freezes or thaws a member.
    pub fn set_frozen(&self, index: usize, is_frozen: bool) {
        self.running.shared.with(|raft, now| raft.set_frozen(index, is_frozen, now));
    }

    /// What a member says of itself; `None` if it is down or frozen.
    pub fn status(&self, index: usize) -> Option<MemberStatus> {
        match self.running.shared.with(|raft, _| raft.status(index)) {
            Access::Granted(status) => Some(status),
            Access::Down | Access::Frozen | Access::NoLeader => None,
        }
    }

    /// The leader that has a quorum, if there is one.
    pub fn leader(&self) -> Option<usize> {
        self.running.shared.with(|raft, _| raft.leader())
    }

    #[cfg(test)]
    pub(super) fn running_next_event(&self) -> Option<Instant> {
        self.running.shared.with(|raft, _| raft.next_event())
    }

    /// Tells of every change of topology or leadership.
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let shared = self.running.shared.clone();
        let seen = shared.changes.count();
        let stream = futures::stream::unfold((shared, seen), |(shared, seen)| async move {
            let seen = shared.changes.after(seen).await;
            Some(((), (shared, seen)))
        });
        stream.boxed()
    }
}

/// One member, as its clients see it.
struct MemberStore {
    running: Arc<Running>,
    index: usize,
}

impl MemberStore {
    fn shared(&self) -> &Shared {
        &self.running.shared
    }

    /// Asks until the member takes the request, or too long.
    async fn admitted<T>(
        &self,
        deadline: Instant,
        mut ask: impl FnMut(&mut Raft, Instant) -> Access<T>,
    ) -> Result<T, StoreError> {
        loop {
            let seen = self.shared().changes.count();
            let why = match self.shared().with(&mut ask) {
                Access::Granted(granted) => return Ok(granted),
                Access::Down => {
                    return Err(StoreError::Unavailable("connection refused".to_owned()));
                }
                Access::Frozen => StoreError::Unknown("no answer in time".to_owned()),
                Access::NoLeader => StoreError::Unavailable("no leader".to_owned()),
            };
            if timeout_at(deadline, self.shared().changes.after(seen)).await.is_err() {
                return Err(why);
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared().config.request_timeout
    }

    /// Puts a command through the log.
    async fn propose(&self, command: Command) -> Result<Reply, StoreError> {
        let deadline = self.deadline();
        let submit = |raft: &mut Raft, now| raft.submit(self.index, &command, now);
        let (request, answer) = self.admitted(deadline, submit).await?;
        let answer: oneshot::Receiver<_> = answer;
        match timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(StoreError::Unknown("the connection was lost".to_owned())),
            Err(_) => {
                self.shared().with(|raft, _| raft.abandon(self.index, request));
                Err(StoreError::Unknown("request timed out".to_owned()))
            }
        }
    }

    /// Waits until the member has applied all that was committed when the wait began.
    async fn linearize(&self, deadline: Instant) -> Result<(), StoreError> {
        if self.running.env.sabotaged(Sabotage::ReadNotConfirmed) {
            return Ok(());
        }
        loop {
            let seen = self.shared().changes.count();
            let begin = |raft: &mut Raft, now| raft.begin_read(self.index, now);
            let ticket = self.admitted(deadline, begin).await.map_err(read_error)?;
            let late = || StoreError::Unavailable("request timed out".to_owned());
            timeout_at(deadline, pause(ticket.latency)).await.map_err(|_| late())?;
            let hop = Duration::from_micros(self.shared().config.hop_us.1);
            while self.shared().with(|raft, _| {
                raft.is_confirmed(self.index, &ticket) && !raft.has_applied(self.index, &ticket)
            }) {
                if Instant::now() >= deadline {
                    return Err(late());
                }
                // What is long on its way need not be looked for so often.
                pause(hop.max(ticket.latency / 16)).await;
            }
            if self.shared().with(|raft, _| raft.is_confirmed(self.index, &ticket)) {
                return Ok(());
            }
            // Without a majority no answer comes, however often one asks: something must change.
            let changed = timeout_at(deadline, self.shared().changes.after(seen)).await;
            changed.map_err(|_| late())?;
        }
    }

    /// Answers from what the member has applied.
    fn read(&self, request: &RangeRequest) -> Result<RangeResult, StoreError> {
        self.shared().with(|raft, _| {
            let member = &raft.members[self.index];
            let asked = request.revision;
            if asked > member.revision {
                return Err(StoreError::FutureRevision { asked });
            }
            if asked > 0 && asked < member.compacted {
                return Err(StoreError::Compacted { asked, oldest: member.compacted });
            }
            let revision = if asked > 0 { asked } else { member.revision };
            let found = raft.mvcc.range(&request.range, revision, request.limit);
            let mvcc::Found { kvs, more, count } = found;
            Ok(RangeResult { revision: member.revision, kvs, more, count })
        })
    }

    /// Opens a watch: what has happened since `from` is queued at once.
    fn open(&self, range: &KeyRange, from: i64) -> Result<(u64, Arc<Watcher>), StoreError> {
        self.shared().with(|raft, _| {
            let member = &mut raft.members[self.index];
            let (applied, compacted) = (member.revision, member.compacted);
            if from > 0 && from < compacted {
                return Err(StoreError::Compacted { asked: from, oldest: compacted });
            }
            let first = if from > 0 { from } else { applied + 1 };
            let (number, watcher) = member.watchers.open(range.clone(), first);
            if from == 0 {
                watcher.offer_progress(applied);
            }
            for record in raft.mvcc.history_from(first) {
                if record.revision <= applied {
                    watcher.offer(record, compacted);
                }
            }
            Ok((number, watcher))
        })
    }
}

/// A read changes nothing, so an unknown outcome is no outcome.
fn read_error(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown(why) => StoreError::Unavailable(why),
        other => other,
    }
}

/// Sleeps, unless for no time at all: that would still cost a millisecond.
async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// Closes a watch when its reader goes.
struct Closing {
    running: Arc<Running>,
    index: usize,
    number: u64,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let close = |raft: &mut Raft, _| raft.members[self.index].watchers.close(self.number);
        self.running.shared.with(close);
    }
}

/// The next batch of a watch; `None` after its end.
async fn next_batch(watcher: &Watcher, closing: &Closing) -> Result<WatchBatch, StoreError> {
    let shared = &closing.running.shared;
    let silent_until = Instant::now() + shared.config.progress;
    loop {
        let is_paused = match watcher.take_joined() {
            Waiting::Batch(batch) => return Ok(batch),
            Waiting::End(why) => return Err(why),
            Waiting::Nothing => false,
            Waiting::Paused => true,
        };
        tokio::select! {
            biased;
            () = watcher.wake.notified() => {}
            () = until((!is_paused).then_some(silent_until)) => {
                // The lock keeps a revision from being applied between the look and the answer.
                let revision = shared.with(|raft, _| match watcher.take_joined() {
                    Waiting::Nothing => Some(Ok(raft.members[closing.index].revision)),
                    Waiting::Batch(batch) => Some(Err(batch)),
                    Waiting::End(_) | Waiting::Paused => None,
                });
                match revision {
                    Some(Ok(revision)) => return Ok(WatchBatch { revision, events: Vec::new() }),
                    Some(Err(batch)) => return Ok(batch),
                    None => {}
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for MemberStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        if request.range.start.is_empty() && request.range.end.is_none() {
            return Err(StoreError::Invalid("the key is empty".to_owned()));
        }
        let deadline = self.deadline();
        if request.serializable {
            let awake = |raft: &mut Raft, _| raft.status(self.index);
            self.admitted(deadline, awake).await.map_err(read_error)?;
        } else {
            self.linearize(deadline).await?;
        }
        self.read(&request)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        mvcc::check(&txn)?;
        match self.propose(Command::Txn(txn)).await? {
            Reply::Txn(result) => Ok(result),
            Reply::Done => unreachable!("a transaction answers with its result"),
        }
    }

    async fn watch(&self, range: KeyRange, from: i64) -> Result<WatchStream, StoreError> {
        let awake = |raft: &mut Raft, _| raft.status(self.index);
        self.admitted(self.deadline(), awake).await.map_err(read_error)?;
        let (number, watcher) = self.open(&range, from)?;
        let closing = Closing { running: self.running.clone(), index: self.index, number };
        let reader = Some((watcher, closing));
        let stream = futures::stream::unfold(reader, |reader| async move {
            let (watcher, closing) = reader?;
            match next_batch(&watcher, &closing).await {
                Ok(batch) => Some((Ok(batch), Some((watcher, closing)))),
                Err(why) => Some((Err(why), None)),
            }
        });
        Ok(stream.boxed())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.propose(Command::Compact(revision)).await.map(|_| ())
    }

    async fn lease_grant(&self, ttl_s: i64) -> Result<i64, StoreError> {
        if ttl_s <= 0 {
            return Err(StoreError::Invalid("a lease needs a time to live".to_owned()));
        }
        let least = (self.shared().config.election.as_secs_f64() * LEASE_TTL_ELECTIONS_MIN).ceil();
        let ttl_s = if (ttl_s as f64) < least { least as i64 } else { ttl_s };
        let lease = self.running.env.entropy("lease").random_range(1..i64::MAX);
        self.propose(Command::Grant(lease, ttl_s)).await.map(|_| lease)
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<i64, StoreError> {
        let begin = |raft: &mut Raft, now| raft.begin_read(self.index, now);
        let deadline = self.deadline();
        let ticket = self.admitted(deadline, begin).await?;
        let late = |_| StoreError::Unknown("request timed out".to_owned());
        timeout_at(deadline, pause(ticket.latency)).await.map_err(late)?;
        self.shared().with(|raft, now| match raft.is_confirmed(self.index, &ticket) {
            true => raft.keep_alive(lease, now),
            false => Err(StoreError::Unknown("the connection was lost".to_owned())),
        })
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.propose(Command::Revoke(lease)).await.map(|_| ())
    }

    async fn status(&self) -> Result<MemberStatus, StoreError> {
        let awake = |raft: &mut Raft, _| raft.status(self.index);
        self.admitted(self.deadline(), awake).await.map_err(read_error)
    }
}
