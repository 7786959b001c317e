//! The pods that wait for a node: ready to be tried, backing off, or waiting for something to change.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use machinery::ObjectKey;

/// `podInitialBackoffSeconds`
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// `podMaxBackoffSeconds`
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A pod that fitted nowhere is tried again after this long even if nothing was seen to change.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Default)]
struct Entry {
    priority: i64,
    /// When it was first seen.
    since: Duration,
    attempts: u32,
    /// When it was tried last.
    tried_at: Duration,
    /// When it is tried next.
    due: Duration,
    /// Whether it waits for a change rather than for time alone.
    is_stuck: bool,
}

impl Entry {
    /// The earliest time at which it may be tried: 1, 2, 4, 8, 10 s after the last attempt.
    fn backoff_end(&self) -> Duration {
        match self.attempts {
            0 => Duration::ZERO,
            _ => {
                let wait = BACKOFF_FIRST * 2_u32.pow((self.attempts - 1).min(4));
                self.tried_at + wait.min(BACKOFF_MOST)
            }
        }
    }
}

/// The pods that wait for a node. Higher priority first, then the one that waits longest.
#[derive(Debug, Default)]
pub struct Pending {
    entries: BTreeMap<ObjectKey, Entry>,
    /// Pods that may be tried later, by when.
    order: BTreeSet<(Duration, ObjectKey)>,
    /// Pods whose time has come, in the order in which they are tried: with when it came.
    ready: BTreeMap<Turn, Duration>,
}

/// Priority, highest first; when it was first seen; which pod.
type Turn = (Reverse<i64>, Duration, ObjectKey);

impl Pending {
    /// Takes in a pod that has no node; a known one was changed and need not wait for anything else.
    pub fn add(&mut self, key: &ObjectKey, priority: i64, now: Duration) {
        let known = self.entries.get(key).cloned();
        let entry = known.unwrap_or(Entry { since: now, ..Entry::default() });
        let due = now.max(entry.backoff_end());
        self.put(key, Entry { priority, due, is_stuck: false, ..entry });
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&(entry.due, key.clone()));
            self.ready.remove(&turn(key, &entry));
        }
    }

    /// When the next pod may be tried.
    pub fn next_due(&self) -> Option<Duration> {
        // Of those whose time has come, any will do: it is past.
        let ready = self.ready.values().next().copied();
        let later = self.order.first().map(|(due, _)| *due);
        ready.into_iter().chain(later).min()
    }

    /// The pod to try now; it stays known until it is removed.
    pub fn pop(&mut self, now: Duration) -> Option<ObjectKey> {
        while self.order.first().is_some_and(|(due, _)| *due <= now)
            && let Some((due, key)) = self.order.pop_first()
        {
            self.ready.insert(turn(&key, &self.entries[&key]), due);
        }
        let ((_, _, key), _) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.attempts += 1;
        entry.tried_at = now;
        Some(key)
    }

    /// Puts a pod back that fitted nowhere: it waits for a change.
    pub fn stuck(&mut self, key: &ObjectKey, now: Duration) {
        if let Some(entry) = self.entries.get(key).cloned() {
            self.put(key, Entry { due: now + FLUSH_AFTER, is_stuck: true, ..entry });
        }
    }

    /// Puts a pod back whose binding failed: it waits for its backoff.
    pub fn failed(&mut self, key: &ObjectKey, now: Duration) {
        if let Some(entry) = self.entries.get(key).cloned() {
            let entry = Entry { tried_at: now, is_stuck: false, ..entry };
            self.put(key, Entry { due: entry.backoff_end(), ..entry });
        }
    }

    /// Something has changed: pods that were stuck may be tried once their backoff is over.
    pub fn wake(&mut self, now: Duration) {
        let stuck: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_stuck)
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        for (key, entry) in stuck {
            let due = now.max(entry.backoff_end());
            self.put(&key, Entry { due, is_stuck: false, ..entry });
        }
    }

    fn put(&mut self, key: &ObjectKey, entry: Entry) {
        self.remove(key);
        self.order.insert((entry.due, key.clone()));
        self.entries.insert(key.clone(), entry);
    }
}

fn turn(key: &ObjectKey, entry: &Entry) -> Turn {
    (Reverse(entry.priority), entry.since, key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn higher_priority_first_then_the_longest_wait() {
        let mut pending = Pending::default();
        pending.add(&key("b"), 0, at(1));
        pending.add(&key("a"), 0, at(2));
        pending.add(&key("c"), 9, at(3));
        assert_eq!(pending.pop(at(0)), None);
        let order: Vec<_> = std::iter::from_fn(|| pending.pop(at(3))).collect();
        assert_eq!(order, [key("c"), key("b"), key("a")]);
        pending.failed(&key("a"), at(3));
        assert_eq!(pending.next_due(), Some(at(4)), "known until it is bound");
    }

    #[test]
    fn a_stuck_pod_waits_for_a_change_and_for_its_backoff() {
        let mut pending = Pending::default();
        pending.add(&key("a"), 0, at(0));
        assert_eq!(pending.pop(at(0)), Some(key("a")));
        pending.stuck(&key("a"), at(0));
        assert_eq!(pending.next_due(), Some(at(300)));
        pending.wake(at(0));
        assert_eq!(pending.next_due(), Some(at(1)), "the first backoff");
        assert_eq!(pending.pop(at(1)), Some(key("a")));
        pending.stuck(&key("a"), at(1));
        pending.wake(at(60));
        assert_eq!(pending.pop(at(60)), Some(key("a")), "its backoff was over long ago");
        pending.stuck(&key("a"), at(60));
        assert_eq!(pending.pop(at(359)), None);
        assert_eq!(pending.pop(at(360)), Some(key("a")), "nothing was seen to change");
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let mut pending = Pending::default();
        pending.add(&key("a"), 0, at(0));
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            pending.pop(now);
            pending.failed(&key("a"), now);
            let due = pending.next_due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }
}
