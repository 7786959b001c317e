//! The log of the consensus model: entries on their way, what is committed, what each member has
//! applied, the leases that the leader minds, and the requests that clients have put to members.

use std::sync::Arc;
use std::time::Duration;

use env::Sabotage;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{MemberStatus, StoreError};

use super::raft::{Access, Command, Committed, Entry, Event, Raft, ReadTicket, Reply, Standing};

impl Raft {
    // The log.

    pub(super) fn append(
        &mut self,
        leader: usize,
        origin: Option<(usize, u64)>,
        command: Command,
        now: Instant,
    ) {
        let (term, index) = (self.members[leader].term, self.members[leader].last.1 + 1);
        let entry = Arc::new(Entry { term, index, origin, command });
        for member in 0..self.members.len() {
            let receives = member == leader
                || (self.links[leader][member]
                    && self.is_awake(member)
                    && self.members[member].leader == Some(leader)
                    && self.members[member].term == term
                    && self.members[member].last.1 + 1 == index);
            if receives {
                self.members[member].tail.push(entry.clone());
                self.members[member].last = (term, index);
            }
        }
        if self.members.len() == 1 {
            self.acknowledged(leader, term, index, now);
            return;
        }
        // The answers of enough followers to make a quorum with the leader.
        let followers = self.followers(leader);
        let mut answers: Vec<Duration> = Vec::new();
        for member in (0..self.members.len()).filter(|member| *member != leader) {
            let there = self.way((leader, member), now);
            let answer = there + self.way((member, leader), now + there);
            if followers.contains(&member) && self.members[member].standing == Standing::Voter {
                answers.push(answer);
            }
        }
        answers.sort();
        // If there are too few, those who come into contact later answer then.
        let needed = self.quorum() - 1;
        let at = match needed.checked_sub(1) {
            None => Some(Duration::ZERO),
            Some(last) => answers.get(last).copied(),
        };
        if let Some(at) = at {
            self.schedule(now + at, Event::Acknowledged { leader, term, index });
        }
    }

    fn committed(&self) -> u64 {
        self.first + self.log.len() as u64 - 1
    }

    pub(super) fn acknowledged(&mut self, leader: usize, term: u64, index: u64, now: Instant) {
        if !self.is_leading(leader)
            || self.members[leader].term != term
            || self.members[leader].applied >= index
        {
            return;
        }
        // Only entries of its own term tell a leader that those before them are committed.
        let tail = &self.members[leader].tail;
        let place = tail.partition_point(|entry| entry.index < index);
        let is_own =
            tail.get(place).is_some_and(|entry| entry.index == index && entry.term == term);
        let followers = self.followers(leader);
        let holders = followers.iter().filter(|member| {
            let member = &self.members[**member];
            member.standing == Standing::Voter && member.last.1 >= index
        });
        let holders = holders.count();
        if !is_own || holders < self.quorum() {
            return;
        }
        let entries = tail[..=place].to_vec();
        for entry in entries {
            if entry.index > self.committed() {
                self.commit(&entry, now);
            }
        }
        self.apply(leader, index);
        for follower in followers {
            if follower != leader {
                let hop = self.way((leader, follower), now);
                let upto = self.members[leader].applied;
                self.schedule(now + hop, Event::Told { member: follower, upto });
            }
        }
    }

    /// Carries an entry out, once for all members: they differ only in how far they have come.
    fn commit(&mut self, entry: &Entry, now: Instant) {
        let mut record = None;
        let reply = match &entry.command {
            Command::Txn(txn) => self.mvcc.txn(txn).map(|(result, change)| {
                record = change;
                Reply::Txn(result)
            }),
            Command::Compact(revision) => self.mvcc.compact(*revision).map(|()| Reply::Done),
            Command::Grant(lease, ttl_s) => {
                self.mvcc.grant(*lease, *ttl_s);
                let time_to_live = Duration::from_secs(ttl_s.unsigned_abs());
                self.lease_deadlines.insert(*lease, now + time_to_live);
                self.arm_leases(now);
                Ok(Reply::Done)
            }
            Command::Revoke(lease) => {
                self.lease_deadlines.remove(lease);
                self.mvcc.revoke(*lease).map(|change| {
                    record = change;
                    Reply::Done
                })
            }
            Command::Elected => {
                self.has_changed = true;
                Ok(Reply::Done)
            }
            change @ (Command::Replace(_) | Command::Promote(_)) => {
                self.change_membership(change, now);
                Ok(Reply::Done)
            }
        };
        let (revision, compacted) = (self.mvcc.revision(), self.mvcc.compacted());
        let origin = entry.origin;
        self.log.push_back(Committed { origin, reply, record, revision, compacted });
    }

    pub(super) fn told(&mut self, index: usize, upto: u64) {
        let Some(leader) = self.members[index].leader else { return };
        if leader != index
            && self.is_leading(leader)
            && self.are_connected(index, leader)
            && self.members[index].has_data()
        {
            self.apply(index, upto.min(self.members[leader].applied));
        }
    }

    /// Brings a member up to an index of the committed log.
    fn apply(&mut self, index: usize, upto: u64) {
        let member = &mut self.members[index];
        let was_compacted = member.compacted;
        while member.applied < upto {
            member.applied += 1;
            let at = usize::try_from(member.applied - self.first).expect("the log fits in memory");
            let committed = &self.log[at];
            member.revision = committed.revision;
            member.compacted = committed.compacted;
            if let Some(record) = &committed.record {
                member.watchers.offer(record, committed.compacted);
            }
            if let Some((origin, request)) = committed.origin
                && origin == index
                && let Some(waiting) = member.waiting.remove(&request)
            {
                // The client may have stopped waiting.
                let _ = waiting.send(committed.reply.clone());
            }
        }
        let applied = member.applied;
        let kept = member.tail.partition_point(|entry| entry.index <= applied);
        member.tail.drain(..kept);
        let has_compacted = member.compacted != was_compacted;
        self.trim();
        if has_compacted {
            let holding = self.members.iter().filter(|member| member.has_data());
            let oldest = holding.map(|member| member.compacted).min().unwrap_or(0);
            let drops_live = self.planted.contains(&Sabotage::CompactionDropsLive);
            self.mvcc.purge(oldest, drops_live);
        }
    }

    /// Forgets the entries that every member with a log has applied: others get a snapshot.
    pub(super) fn trim(&mut self) {
        let holding = self.members.iter().filter(|member| member.has_data());
        let slowest = holding.map(|member| member.applied).min().unwrap_or(0);
        while self.first <= slowest && !self.log.is_empty() {
            self.log.pop_front();
            self.first += 1;
        }
    }

    /// Makes a member the leader of a term.
    pub(super) fn lead(&mut self, index: usize, term: u64, now: Instant) {
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

    // Leases.

    pub(super) fn leading_with_quorum(&self) -> Option<usize> {
        (0..self.members.len())
            .filter(|member| self.is_leading(*member) && self.members[*member].has_contact)
            .max_by_key(|member| self.members[*member].term)
    }

    pub(super) fn arm_leases(&mut self, now: Instant) {
        let Some(first) = self.lease_deadlines.values().min().copied() else { return };
        self.lease_epoch += 1;
        let epoch = self.lease_epoch;
        self.schedule(first.max(now), Event::ExpireLeases { epoch });
    }

    pub(super) fn expire_leases(&mut self, now: Instant) {
        // Without such a leader the next one starts all leases anew.
        let Some(leader) = self.leading_with_quorum() else { return };
        let over: Vec<i64> = self
            .lease_deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now)
            .map(|(lease, _)| *lease)
            .collect();
        for lease in over {
            self.lease_deadlines.remove(&lease);
            self.append(leader, None, Command::Revoke(lease), now);
        }
        self.arm_leases(now);
    }

    // Requests.

    fn access(&self, index: usize) -> Access<usize> {
        let member = &self.members[index];
        match member.leader {
            _ if !member.is_up => Access::Down,
            _ if member.is_frozen => Access::Frozen,
            // A member that has not joined yet serves no clients.
            _ if member.standing != Standing::Voter => Access::Down,
            Some(leader) if self.is_leading(leader) && self.are_connected(index, leader) => {
                Access::Granted(leader)
            }
            _ => Access::NoLeader,
        }
    }

    /// Puts a command on its way; answers the number of the request and where its answer will come.
    pub(super) fn submit(
        &mut self,
        index: usize,
        command: &Command,
        now: Instant,
    ) -> Access<(u64, oneshot::Receiver<Result<Reply, StoreError>>)> {
        let leader = match self.access(index) {
            Access::Granted(leader) => leader,
            Access::Down => return Access::Down,
            Access::Frozen => return Access::Frozen,
            Access::NoLeader => return Access::NoLeader,
        };
        let (send, receive) = oneshot::channel();
        let member = &mut self.members[index];
        member.requests += 1;
        let request = member.requests;
        member.waiting.insert(request, send);
        let origin = (index, request);
        if leader == index {
            self.append(leader, Some(origin), command.clone(), now);
        } else {
            let hop = self.way((index, leader), now);
            let command = command.clone();
            self.schedule(now + hop, Event::Forwarded { leader, origin, command });
        }
        Access::Granted((request, receive))
    }

    /// Forgets a request whose client has stopped waiting.
    pub(super) fn abandon(&mut self, index: usize, request: u64) {
        self.members[index].waiting.remove(&request);
    }

    /// Begins a linearizable read: the leader notes how far it has come, then asks a quorum whether
    /// it still leads.
    pub(super) fn begin_read(&mut self, index: usize, now: Instant) -> Access<ReadTicket> {
        let leader = match self.access(index) {
            Access::Granted(leader) => leader,
            Access::Down => return Access::Down,
            Access::Frozen => return Access::Frozen,
            Access::NoLeader => return Access::NoLeader,
        };
        // Before its first entry is committed a leader does not know how far the log is.
        let is_new = |entry: &Arc<Entry>| matches!(entry.command, Command::Elected);
        if self.members[leader].tail.iter().any(is_new) {
            return Access::NoLeader;
        }
        let followers = self.followers(leader);
        let mut latency = self.round(leader, &followers, now);
        if leader != index {
            let there = self.way((index, leader), now);
            latency += there + self.way((leader, index), now + there);
        }
        let (term, applied) = (self.members[leader].term, self.members[leader].applied);
        Access::Granted(ReadTicket { leader, term, index: applied, latency })
    }

    /// Whether the leader still led when the read's round was over.
    pub(super) fn is_confirmed(&self, index: usize, ticket: &ReadTicket) -> bool {
        let leader = &self.members[ticket.leader];
        self.is_leading(ticket.leader)
            && leader.term == ticket.term
            && self.are_connected(index, ticket.leader)
            && self.voting(&self.followers(ticket.leader)) >= self.quorum()
    }

    /// Whether the member has applied what the read must see.
    pub(super) fn has_applied(&self, index: usize, ticket: &ReadTicket) -> bool {
        self.members[index].applied >= ticket.index
    }

    /// Renews a lease at the leader; answers its time to live.
    pub(super) fn keep_alive(&mut self, lease: i64, now: Instant) -> Result<i64, StoreError> {
        let Some(record) = self.mvcc.leases().get(&lease) else {
            return Err(StoreError::NoLease(lease));
        };
        let ttl_s = record.ttl_s;
        let Some(deadline) = self.lease_deadlines.get_mut(&lease) else {
            return Err(StoreError::NoLease(lease));
        };
        *deadline = now + Duration::from_secs(ttl_s.unsigned_abs());
        self.arm_leases(now);
        Ok(ttl_s)
    }

    /// What a member says of itself.
    pub(super) fn status(&self, index: usize) -> Access<MemberStatus> {
        let member = &self.members[index];
        if !member.is_up {
            return Access::Down;
        }
        if member.is_frozen {
            return Access::Frozen;
        }
        if member.standing != Standing::Voter {
            return Access::Down;
        }
        Access::Granted(MemberStatus {
            member: member.id,
            leader: member.leader.map_or(0, |leader| self.members[leader].id),
            term: member.term,
            revision: member.revision,
        })
    }

    /// The leader that can commit.
    pub(super) fn leader(&self) -> Option<usize> {
        self.leading_with_quorum()
    }
}
