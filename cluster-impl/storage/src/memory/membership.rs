//! Who belongs to the cluster: a lost disk, the member that replaces it, and handing over leadership.
//!
//! A member whose disk is empty must not vote: it would not know what it has promised. So it counts
//! as one that is down until a majority of the others has removed it; the new member gets a
//! snapshot, follows, and votes only when that too is in the log. Without a majority nothing moves.

use std::time::Duration;

use tokio::time::Instant;

use crate::StoreError;

use super::raft::{Command, Event, Member, Raft, Standing};

/// What sending and loading a snapshot takes, the way there aside.
const SNAPSHOT: Duration = Duration::from_millis(100);

impl Member {
    /// Whether it has a log to follow a leader with.
    pub(super) fn has_data(&self) -> bool {
        matches!(self.standing, Standing::Voter | Standing::Learner)
    }

    /// Whether it counts when a majority is asked for.
    pub(super) fn is_counted(&self) -> bool {
        matches!(self.standing, Standing::Voter | Standing::Lost)
    }
}

impl Raft {
    /// Empties the disk of a member that is down.
    pub(super) fn lose_disk(&mut self, index: usize, now: Instant) -> Result<(), StoreError> {
        let refused = |why: &str| Err(StoreError::Invalid(why.to_owned()));
        if self.members[index].is_up {
            return refused("the member is up");
        }
        let others: Vec<usize> = (0..self.members.len()).filter(|other| *other != index).collect();
        let is_voter = self.members[index].standing == Standing::Voter;
        if is_voter && self.voting(&others) < self.quorum() {
            return refused(
                "no majority of disks would be left, and committed writes would be lost",
            );
        }
        let member = &mut self.members[index];
        member.standing = if member.is_counted() { Standing::Lost } else { Standing::Empty };
        member.tail.clear();
        member.last = (0, 0);
        (member.applied, member.revision, member.compacted) = (0, 1, 0);
        member.term = 1;
        if member.standing == Standing::Empty {
            self.last_id += 1;
            self.members[index].id = self.last_id;
        }
        for other in others {
            if self.members[other].leader == Some(index) {
                self.members[other].leader = None;
            }
        }
        self.trim();
        self.reconcile(now);
        Ok(())
    }

    /// The next step of a member that is up and does not vote: removed and added anew, told
    /// everything, counted.
    pub(super) fn join(&mut self, index: usize, now: Instant) {
        let Some(leader) = self.leading_with_quorum() else { return };
        if leader == index || !self.are_connected(index, leader) {
            return;
        }
        match self.members[index].standing {
            Standing::Voter => {}
            Standing::Lost => self.propose_once(leader, Command::Replace(index), now),
            Standing::Empty => {
                if !self.members[index].is_timed {
                    let wait = self.way((leader, index), now) + SNAPSHOT;
                    let member = &mut self.members[index];
                    member.is_timed = true;
                    member.epoch += 1;
                    let (epoch, term) = (member.epoch, self.members[leader].term);
                    let event = Event::Snapshot { member: index, leader, term, epoch };
                    self.schedule(now + wait, event);
                }
            }
            Standing::Learner => {
                if self.members[index].leader == Some(leader) {
                    self.propose_once(leader, Command::Promote(index), now);
                }
            }
        }
    }

    /// Proposes a change of membership, unless one is under way: there is one at a time.
    fn propose_once(&mut self, leader: usize, command: Command, now: Instant) {
        let is_change =
            |command: &Command| matches!(command, Command::Replace(_) | Command::Promote(_));
        if !self.members[leader].tail.iter().any(|entry| is_change(&entry.command)) {
            self.append(leader, None, command, now);
        }
    }

    /// A new member has got what the leader had.
    pub(super) fn snapshot(
        &mut self,
        index: usize,
        (leader, term): (usize, u64),
        epoch: u64,
        now: Instant,
    ) {
        if self.members[index].epoch != epoch {
            return;
        }
        self.members[index].is_timed = false;
        let is_sent = self.is_leading(leader)
            && self.members[leader].term == term
            && self.are_connected(index, leader);
        if is_sent {
            let from = &self.members[leader];
            let (applied, revision, compacted) = (from.applied, from.revision, from.compacted);
            let member = &mut self.members[index];
            (member.applied, member.revision, member.compacted) = (applied, revision, compacted);
            member.standing = Standing::Learner;
        }
        self.reconcile(now);
    }

    /// Carries out a change of membership.
    pub(super) fn change_membership(&mut self, command: &Command, now: Instant) {
        let (index, standing) = match command {
            Command::Replace(index) => (*index, Standing::Empty),
            Command::Promote(index) => (*index, Standing::Voter),
            _ => return,
        };
        let expected = match standing {
            Standing::Empty => Standing::Lost,
            _ => Standing::Learner,
        };
        // Its disk may have been lost once more since this was proposed.
        if self.members[index].standing == expected {
            self.members[index].standing = standing;
            if standing == Standing::Empty {
                self.last_id += 1;
                self.members[index].id = self.last_id;
            }
            self.has_changed = true;
        }
        // This is in the middle of a commit: what follows comes after it.
        self.schedule(now, Event::Flows);
    }

    /// Hands the leadership to a member, as etcd's `move-leader`.
    pub(super) fn move_leader(&mut self, to: usize, now: Instant) -> Result<(), StoreError> {
        let unavailable = |why: &str| Err(StoreError::Unavailable(why.to_owned()));
        let Some(leader) = self.leading_with_quorum() else { return unavailable("no leader") };
        if leader == to {
            return Ok(());
        }
        let (old, new) = (&self.members[leader], &self.members[to]);
        let follows = self.followers(leader).contains(&to) && new.standing == Standing::Voter;
        if !follows || new.last < old.last {
            return unavailable("the member does not keep up with the leader");
        }
        // It campaigns at once, whoever has heard from the leader lately.
        let votes = (0..self.members.len())
            .filter(|voter| {
                let member = &self.members[*voter];
                member.standing == Standing::Voter
                    && self.are_connected(to, *voter)
                    && member.last <= new.last
            })
            .count();
        if votes < self.quorum() {
            return unavailable("the member would get no majority");
        }
        let term = old.term + 1;
        self.members[leader].is_leader = false;
        self.lead(to, term, now);
        Ok(())
    }
}
