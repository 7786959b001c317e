//! Consensus among the members: who leads, what is in whose log, what is committed, what is applied.
//!
//! A synchronous model without heartbeats: whatever changes (a link, a member, a write) sets off the
//! few events that follow from it, each at its own instant, so that an idle cluster costs nothing.
//! It is honest at this granularity: terms, logs and votes are kept for each member; a write counts
//! only once a quorum has it and a leader of that term knows; an uncommitted entry survives exactly
//! if a later leader has it. Two members talk only while both directions between them are open, as
//! over TCP; what was sent just before in a direction that is still open does arrive.
//! Elections are preceded by etcd's pre-vote: who cannot win does not raise its term.
//! A change of membership is an entry of the log, and one at a time: old and new majorities meet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::Sabotage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{StoreError, Txn, TxnResult};

use super::MemoryConfig;
use super::mvcc::{Mvcc, Record};
use super::watchers::Watchers;
use super::weather::{LinkTraffic, Way};

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
    /// This member, whose disk was lost, is no member any more; a new one takes its place and learns.
    Replace(usize),
    /// This member has learnt enough to vote.
    Promote(usize),
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

/// What a member is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// One of those whose majority decides.
    Voter,
    /// Still counted among the voters, but its disk is empty: it takes no part.
    Lost,
    /// A new member without data.
    Empty,
    /// A new member that follows the leader and does not count yet.
    Learner,
}

/// One member.
pub(super) struct Member {
    /// Never used again once the member was replaced.
    pub(super) id: u64,
    pub(super) standing: Standing,
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
    Told { member: usize, upto: u64 },
    /// The packets that a bad link carries even when nothing is written.
    Beat { from: usize, to: usize, epoch: u64 },
    /// Stalled packets get through again.
    Flows,
    /// A member that is none yet takes its next step.
    Join { member: usize },
    /// What the leader had is at a new member.
    Snapshot { member: usize, leader: usize, term: u64, epoch: u64 },
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
    /// What the network does to messages, where it does anything.
    pub(super) weather: BTreeMap<(usize, usize), Way>,
    /// What went over the ways while the weather was bad.
    pub(super) traffic: BTreeMap<(usize, usize), LinkTraffic>,
    pub(super) weather_epoch: u64,
    pub(super) last_id: u64,
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
    /// Planted defects that are switched on.
    pub(super) planted: Vec<Sabotage>,
}

impl Raft {
    pub(super) fn new(
        config: MemoryConfig,
        members: usize,
        stream: ChaCha8Rng,
        planted: Vec<Sabotage>,
    ) -> Self {
        let member = |index: usize| Member {
            id: index as u64 + 1,
            standing: Standing::Voter,
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
            members: (0..members).map(member).collect(),
            links: vec![vec![true; members]; members],
            weather: BTreeMap::new(),
            traffic: BTreeMap::new(),
            weather_epoch: 0,
            last_id: members as u64,
            mvcc: Mvcc::new(planted.contains(&Sabotage::AckedWriteLost)),
            log: VecDeque::new(),
            first: 1,
            queue: BTreeMap::new(),
            queued: 0,
            stream,
            lease_deadlines: BTreeMap::new(),
            lease_epoch: 0,
            has_changed: false,
            planted,
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
                let stalled_until = self.is_stalled(origin.0, leader);
                if !self.is_leading(leader) || !self.are_joined(origin.0, leader) {
                    return;
                }
                if let Some(at) = stalled_until.filter(|at| *at > now) {
                    // TCP sends it again when packets get through.
                    self.schedule(at, Event::Forwarded { leader, origin, command });
                } else {
                    self.append(leader, Some(origin), command, now);
                }
            }
            Event::Acknowledged { leader, term, index } => {
                self.acknowledged(leader, term, index, now);
            }
            Event::Told { member, upto } => self.told(member, upto),
            Event::Beat { from, to, epoch } => self.beat((from, to), epoch, now),
            Event::Flows => {
                self.clear_stalls(now);
                self.reconcile(now);
            }
            Event::Join { member } => self.join(member, now),
            Event::Snapshot { member, leader, term, epoch } => {
                self.snapshot(member, (leader, term), epoch, now);
            }
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

    /// Whether there is a connection, even if nothing gets through for a while.
    fn are_joined(&self, one: usize, other: usize) -> bool {
        self.is_awake(one)
            && self.is_awake(other)
            && (one == other || (self.links[one][other] && self.links[other][one]))
    }

    /// Whether the two hear of each other.
    pub(super) fn are_connected(&self, one: usize, other: usize) -> bool {
        let is_stalled =
            || self.is_stalled(one, other).is_some() || self.is_stalled(other, one).is_some();
        self.are_joined(one, other) && (self.weather.is_empty() || !is_stalled())
    }

    pub(super) fn is_leading(&self, member: usize) -> bool {
        self.members[member].is_leader && self.is_awake(member)
    }

    pub(super) fn quorum(&self) -> usize {
        self.members.iter().filter(|member| member.is_counted()).count() / 2 + 1
    }

    /// How many of these vote.
    pub(super) fn voting(&self, members: &[usize]) -> usize {
        members.iter().filter(|member| self.members[**member].standing == Standing::Voter).count()
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
            if self.members[index].standing != Standing::Voter {
                self.schedule(now, Event::Join { member: index });
            }
            if !self.members[index].has_data() {
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

    pub(super) fn follow(&mut self, index: usize, leader: usize, now: Instant) {
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
        let upto = self.members[leader].applied;
        let (there, back) = (self.way((leader, index), now), self.way((index, leader), now));
        self.schedule(now + there, Event::Told { member: index, upto });
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
        let has_quorum = self.voting(&self.followers(index)) >= self.quorum();
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
            member.standing == Standing::Voter
                && self.are_connected(index, voter)
                && !member.is_leader
                && is_free
                && last >= member.last
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
        if self.members[index].standing != Standing::Voter {
            return;
        }
        let voters = self.voters(index, now);
        if voters.len() < self.quorum() {
            self.arm_election(index, now);
            return;
        }
        let answers = self.round(index, &voters, now);
        if answers >= self.config.election {
            // The votes would come after the candidate has given up and begun anew.
            self.arm_election(index, now);
            return;
        }
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
        let step = u64::from(!self.planted.contains(&Sabotage::TermUsedTwice));
        let known = voters.iter().map(|voter| self.members[*voter].term).max().unwrap_or(0);
        let term = (known + step).max(2);
        self.lead(index, term, now);
    }
}
