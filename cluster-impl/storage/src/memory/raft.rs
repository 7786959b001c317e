//! Consensus among the members: who leads, what is in whose log, what is committed, what is applied.
//!
//! A synchronous model without heartbeats: whatever changes (a link, a member, a write) sets off the
//! few events that follow from it, each at its own instant, so that an idle cluster costs nothing.
//! It is honest at this granularity: terms, logs and votes are kept for each member; a write counts
//! only once a quorum has it and a leader of that term knows; an uncommitted entry survives exactly
//! if a later leader has it. Two members talk only while both directions between them are open, as
//! over TCP; what was sent just before in a direction that is still open does arrive.
//! Elections are preceded by etcd's pre-vote: who cannot win does not raise its term.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{StoreError, Txn, TxnResult};

use super::MemoryConfig;
use super::mvcc::{Mvcc, Record};
use super::watchers::Watchers;

/// What the log holds.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// A transaction.
    Txn(Txn),
    /// Forget old revisions.
    Compact(i64),
    /// A new lease: its id and its time to live in seconds.
    Grant(i64, i64),
    /// The end of a lease.
    Revoke(i64),
    /// A new leader's first entry: it commits what earlier terms left.
    Elected,
}

/// What a command answered.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// To [`Command::Txn`].
    Txn(TxnResult),
    /// To the others.
    Done,
}

/// An entry of the log.
pub(super) struct Entry {
    pub(super) term: u64,
    pub(super) index: u64,
    /// Which member's client asked for it, and the number of its request there.
    pub(super) origin: Option<(usize, u64)>,
    pub(super) command: Command,
}

/// An entry that was committed, with what came of it.
pub(super) struct Committed {
    pub(super) origin: Option<(usize, u64)>,
    pub(super) reply: Result<Reply, StoreError>,
    pub(super) record: Option<Record>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

/// One member.
pub(super) struct Member {
    pub(super) is_up: bool,
    pub(super) is_frozen: bool,
    pub(super) term: u64,
    pub(super) is_leader: bool,
    pub(super) leader: Option<usize>,
    /// Whether the leader is in contact; for a leader, whether a quorum is.
    pub(super) has_contact: bool,
    /// Since when it is not.
    pub(super) alone_since: Option<Instant>,
    /// Timers set before this rose mean nothing any more.
    pub(super) epoch: u64,
    pub(super) is_timed: bool,
    /// Term and index of the last entry in its log.
    pub(super) last: (u64, u64),
    /// The end of its log: at least all that nobody has committed.
    pub(super) tail: Vec<Arc<Entry>>,
    pub(super) applied: u64,
    /// As of what it has applied.
    pub(super) revision: i64,
    /// As of what it has applied.
    pub(super) compacted: i64,
    pub(super) requests: u64,
    pub(super) waiting: BTreeMap<u64, oneshot::Sender<Result<Reply, StoreError>>>,
    pub(super) watchers: Watchers,
}

/// Something that will happen.
pub(super) enum Event {
    /// A forwarded request reaches the leader.
    Forwarded { leader: usize, origin: (usize, u64), command: Command },
    /// The answers of the followers reach the leader.
    Acknowledged { leader: usize, term: u64, index: u64 },
    /// A follower hears how far the leader has committed.
    Told { member: usize },
    /// A leader has not heard from a quorum for an election timeout.
    StepDown { member: usize, epoch: u64 },
    /// A member has not heard from a leader for its election timeout.
    Campaign { member: usize, epoch: u64 },
    /// A candidate's votes have come in.
    Elected { member: usize, epoch: u64 },
    /// The leader looks for leases that have run out.
    ExpireLeases { epoch: u64 },
}

/// How a member takes a request.
pub(super) enum Access<T> {
    /// It goes on.
    Granted(T),
    /// Nothing listens.
    Down,
    /// The member stands still.
    Frozen,
    /// It has no leader.
    NoLeader,
}

/// A linearizable read under way.
pub(super) struct ReadTicket {
    pub(super) leader: usize,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) latency: Duration,
}

/// The whole cluster.
pub(super) struct Raft {
    pub(super) config: MemoryConfig,
    pub(super) members: Vec<Member>,
    /// `links[from][to]`: whether messages get through.
    pub(super) links: Vec<Vec<bool>>,
    pub(super) mvcc: Mvcc,
    /// The committed log; `first` is the index of its first entry.
    pub(super) log: VecDeque<Committed>,
    pub(super) first: u64,
    pub(super) queue: BTreeMap<(Instant, u64), Event>,
    pub(super) queued: u64,
    pub(super) stream: ChaCha8Rng,
    pub(super) lease_deadlines: BTreeMap<i64, Instant>,
    pub(super) lease_epoch: u64,
    /// Whether somebody who waits for a leader or a thaw should look again.
    pub(super) has_changed: bool,
}

impl Raft {
    pub(super) fn new(
        config: MemoryConfig,
        members: usize,
        stream: ChaCha8Rng,
        is_lossy: bool,
    ) -> Self {
        let member = || Member {
            is_up: true,
            is_frozen: false,
            term: 1,
            is_leader: false,
            leader: None,
            has_contact: false,
            alone_since: None,
            epoch: 0,
            is_timed: false,
            last: (0, 0),
            tail: Vec::new(),
            applied: 0,
            revision: 1,
            compacted: 0,
            requests: 0,
            waiting: BTreeMap::new(),
            watchers: Watchers::default(),
        };
        Self {
            config,
            members: (0..members).map(|_| member()).collect(),
            links: vec![vec![true; members]; members],
            mvcc: Mvcc::new(is_lossy),
            log: VecDeque::new(),
            first: 1,
            queue: BTreeMap::new(),
            queued: 0,
            stream,
            lease_deadlines: BTreeMap::new(),
            lease_epoch: 0,
            has_changed: false,
        }
    }

    /// When something will happen next.
    pub(super) fn next_event(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets everything happen that is due.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.happen(event, at);
        }
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }

    fn happen(&mut self, event: Event, now: Instant) {
        match event {
            Event::Forwarded { leader, origin, command } => {
                if self.is_leading(leader) && self.are_connected(origin.0, leader) {
                    self.append(leader, Some(origin), command, now);
                }
            }
            Event::Acknowledged { leader, term, index } => {
                self.acknowledged(leader, term, index, now);
            }
            Event::Told { member } => self.told(member),
            Event::StepDown { member, epoch } => {
                if self.members[member].epoch == epoch {
                    self.members[member].is_timed = false;
                    self.step_down(member);
                    self.reconcile(now);
                }
            }
            Event::Campaign { member, epoch } => self.campaign(member, epoch, now),
            Event::Elected { member, epoch } => self.elected(member, epoch, now),
            Event::ExpireLeases { epoch } => {
                if epoch == self.lease_epoch {
                    self.expire_leases(now);
                }
            }
        }
    }

    // Topology.

    pub(super) fn is_awake(&self, member: usize) -> bool {
        self.members[member].is_up && !self.members[member].is_frozen
    }

    pub(super) fn are_connected(&self, one: usize, other: usize) -> bool {
        self.is_awake(one)
            && self.is_awake(other)
            && (one == other || (self.links[one][other] && self.links[other][one]))
    }

    pub(super) fn is_leading(&self, member: usize) -> bool {
        self.members[member].is_leader && self.is_awake(member)
    }

    pub(super) fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Those in contact with `leader` that accept it, itself included.
    pub(super) fn followers(&self, leader: usize) -> Vec<usize> {
        let term = self.members[leader].term;
        let follows = |member: usize| {
            member == leader
                || (self.members[member].leader == Some(leader)
                    && self.members[member].term == term)
        };
        (0..self.members.len())
            .filter(|member| follows(*member) && self.are_connected(leader, *member))
            .collect()
    }

    /// One way between two members.
    pub(super) fn hop(&mut self) -> Duration {
        if self.members.len() == 1 {
            return Duration::ZERO;
        }
        let (least, most) = self.config.hop_us;
        Duration::from_micros(self.stream.random_range(least..=most))
    }

    fn election_timeout(&mut self) -> Duration {
        if self.members.len() == 1 {
            return Duration::ZERO;
        }
        self.config.election.mul_f64(self.stream.random_range(1.0..2.0))
    }

    /// Opens or cuts one direction between two members.
    pub(super) fn set_link(&mut self, from: usize, to: usize, is_open: bool, now: Instant) {
        self.links[from][to] = is_open;
        self.reconcile(now);
    }

    /// Starts or crashes a member; its log stays.
    pub(super) fn set_up(&mut self, index: usize, is_up: bool, now: Instant) {
        let member = &mut self.members[index];
        if member.is_up == is_up {
            return;
        }
        member.is_up = is_up;
        member.is_frozen = false;
        member.epoch += 1;
        member.is_timed = false;
        member.is_leader = false;
        member.leader = None;
        member.has_contact = false;
        member.alone_since = None;
        member.waiting.clear();
        member.watchers.end(&StoreError::Unavailable("the member went down".to_owned()));
        self.reconcile(now);
    }

    /// Freezes or thaws a member.
    pub(super) fn set_frozen(&mut self, index: usize, is_frozen: bool, now: Instant) {
        let member = &mut self.members[index];
        if !member.is_up || member.is_frozen == is_frozen {
            return;
        }
        member.is_frozen = is_frozen;
        member.epoch += 1;
        member.is_timed = false;
        member.watchers.pause(is_frozen);
        self.reconcile(now);
    }

    /// Draws the consequences of a change of topology or leadership.
    pub(super) fn reconcile(&mut self, now: Instant) {
        self.has_changed = true;
        for index in 0..self.members.len() {
            if !self.is_awake(index) {
                self.members[index].has_contact = false;
                continue;
            }
            let rival = self.leader_in_contact(index);
            if rival.is_some_and(|rival| self.members[rival].term > self.members[index].term) {
                self.members[index].is_leader = false;
            }
            if !self.members[index].is_leader {
                match rival {
                    Some(leader) => self.follow(index, leader, now),
                    None => self.lose_contact(index, now),
                }
            }
        }
        for index in 0..self.members.len() {
            if self.is_leading(index) {
                self.check_quorum(index, now);
            }
        }
    }

    /// The leader of the highest term that `index` is in contact with and would accept.
    fn leader_in_contact(&self, index: usize) -> Option<usize> {
        (0..self.members.len())
            .filter(|other| {
                *other != index
                    && self.is_leading(*other)
                    && self.members[*other].term >= self.members[index].term
                    && self.are_connected(index, *other)
            })
            .max_by_key(|other| self.members[*other].term)
    }

    fn follow(&mut self, index: usize, leader: usize, now: Instant) {
        let term = self.members[leader].term;
        let (tail, last) = (self.members[leader].tail.clone(), self.members[leader].last);
        let member = &mut self.members[index];
        if member.has_contact && member.leader == Some(leader) && member.term == term {
            return;
        }
        member.epoch += 1;
        member.is_timed = false;
        member.term = term;
        member.leader = Some(leader);
        member.has_contact = true;
        member.alone_since = None;
        member.tail = tail;
        member.last = last;
        let (there, back) = (self.hop(), self.hop());
        self.schedule(now + there, Event::Told { member: index });
        let answered = Event::Acknowledged { leader, term, index: last.1 };
        self.schedule(now + there + back, answered);
    }

    fn lose_contact(&mut self, index: usize, now: Instant) {
        let member = &mut self.members[index];
        member.has_contact = false;
        member.alone_since.get_or_insert(now);
        if !member.is_timed {
            self.arm_election(index, now);
        }
    }

    fn arm_election(&mut self, index: usize, now: Instant) {
        let timeout = self.election_timeout();
        let member = &mut self.members[index];
        member.epoch += 1;
        member.is_timed = true;
        let epoch = member.epoch;
        self.schedule(now + timeout, Event::Campaign { member: index, epoch });
    }

    fn check_quorum(&mut self, index: usize, now: Instant) {
        let has_quorum = self.followers(index).len() >= self.quorum();
        let election = self.config.election;
        let member = &mut self.members[index];
        if has_quorum {
            if member.is_timed {
                member.epoch += 1;
                member.is_timed = false;
            }
            let was_alone = !member.has_contact;
            member.has_contact = true;
            if was_alone {
                self.arm_leases(now);
            }
        } else {
            member.has_contact = false;
            if !member.is_timed {
                member.epoch += 1;
                member.is_timed = true;
                let epoch = member.epoch;
                self.schedule(now + election, Event::StepDown { member: index, epoch });
            }
        }
    }

    // Elections.

    fn step_down(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.is_leader = false;
        member.leader = None;
        member.has_contact = false;
    }

    /// Those who would vote for `index`, itself included.
    fn voters(&self, index: usize, now: Instant) -> Vec<usize> {
        let last = self.members[index].last;
        let would_vote = |voter: usize| {
            let member = &self.members[voter];
            // Who has heard from a leader within an election timeout does not vote.
            let is_free = member
                .alone_since
                .is_some_and(|since| since + self.config.election <= now || member.term == 1);
            self.are_connected(index, voter) && !member.is_leader && is_free && last >= member.last
        };
        (0..self.members.len()).filter(|voter| *voter == index || would_vote(*voter)).collect()
    }

    fn campaign(&mut self, index: usize, epoch: u64, now: Instant) {
        if self.members[index].epoch != epoch {
            return;
        }
        self.members[index].is_timed = false;
        self.members[index].leader = None;
        self.has_changed = true;
        if self.voters(index, now).len() < self.quorum() {
            self.arm_election(index, now);
            return;
        }
        let answers = self.hop() + self.hop();
        let member = &mut self.members[index];
        member.epoch += 1;
        member.is_timed = true;
        let epoch = member.epoch;
        self.schedule(now + answers, Event::Elected { member: index, epoch });
    }

    fn elected(&mut self, index: usize, epoch: u64, now: Instant) {
        if self.members[index].epoch != epoch {
            return;
        }
        self.members[index].is_timed = false;
        let voters = self.voters(index, now);
        if voters.len() < self.quorum() {
            self.arm_election(index, now);
            return;
        }
        let term = voters.iter().map(|voter| self.members[*voter].term).max().unwrap_or(0) + 1;
        let member = &mut self.members[index];
        member.term = term;
        member.is_leader = true;
        member.leader = Some(index);
        member.alone_since = None;
        // As etcd does when a lessor is promoted: every lease starts its time anew.
        let leases = self.mvcc.leases().iter();
        self.lease_deadlines = leases
            .map(|(id, lease)| (*id, now + Duration::from_secs(lease.ttl_s.unsigned_abs())))
            .collect();
        self.reconcile(now);
        self.append(index, None, Command::Elected, now);
        self.arm_leases(now);
    }
}

/// A member's id: 0 means nobody.
pub(super) fn number(index: usize) -> u64 {
    index as u64 + 1
}
