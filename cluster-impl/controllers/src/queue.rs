//! The driver's queue: which keys are due when, in one order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Key;

/// A key of one controller, by the controller's place in the registry.
pub type Turn = (usize, Key);

/// Keys in order of (due, controller, key). A key stands in it once, at its earliest time.
#[derive(Debug, Default)]
pub struct Queue {
    order: BTreeSet<(Duration, Turn)>,
    due: BTreeMap<Turn, Duration>,
}

impl Queue {
    /// Asks for a key at this time, or earlier if that was asked for already.
    pub fn add(&mut self, turn: Turn, at: Duration) {
        match self.due.get(&turn) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.order.remove(&(*known, turn.clone()));
            }
            None => {}
        }
        self.order.insert((at, turn.clone()));
        self.due.insert(turn, at);
    }

    /// When the first key is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the first key that is due.
    pub fn pop(&mut self, now: Duration) -> Option<Turn> {
        if self.next_due()? > now {
            return None;
        }
        let (_, turn) = self.order.pop_first()?;
        self.due.remove(&turn);
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_one_order_and_once() {
        let mut queue = Queue::default();
        let at = Duration::from_secs;
        let turn = |controller, name: &str| (controller, Key::named("nodes", name));
        queue.add(turn(1, "a"), at(5));
        queue.add(turn(0, "b"), at(5));
        queue.add(turn(0, "a"), at(5));
        queue.add(turn(1, "a"), at(9));
        queue.add(turn(2, "z"), at(7));
        queue.add(turn(2, "z"), at(3));
        assert_eq!(queue.pop(at(2)), None);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(at(5))).collect();
        assert_eq!(order, [turn(2, "z"), turn(0, "a"), turn(0, "b"), turn(1, "a")]);
        assert_eq!(queue.next_due(), None);
    }
}
