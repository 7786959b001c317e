//! A blocking check while the scenario waits for it: is it satisfied yet, and can it still be?
//!
//! The judge decides from the timeline; this only says when to go on. Both look at the same [`World`].

use std::time::Duration;

use shakedown_core::condition::{Compiled, ConditionError};
use shakedown_core::plan::{Check, Word};
use shakedown_core::timeline::{Event, What};
use shakedown_core::world::{Moment, World};

/// How much longer than the window the scenario waits, beside the observation error: what is late is
/// then seen late, and its lateness can be told.
const GRACE: Duration = Duration::from_secs(1);

/// A check that the scenario waits for.
pub(crate) struct Goal {
    compiled: Compiled,
    word: Word,
    hold_us: u64,
    deadline_us: u64,
    true_since_us: Option<u64>,
    since_error_us: u64,
    /// Why there was no answer, when last there was none.
    pub trouble: Option<String>,
}

impl Goal {
    /// Waits for a check from its moment on.
    pub fn new(check: &Check, from: Moment, error: Duration) -> Result<Self, ConditionError> {
        let slack = check.window.high + error + GRACE;
        Ok(Self {
            compiled: Compiled::new(&check.condition)?,
            word: check.word,
            hold_us: check.hold.as_micros() as u64,
            deadline_us: from.at_us + slack.as_micros() as u64,
            true_since_us: None,
            since_error_us: 0,
            trouble: None,
        })
    }

    /// Looks at everything since the moment: what the check waits for may have come already.
    pub fn replay(&mut self, mut world: World, events: &[Event], after: &str) {
        let is_moment =
            |event: &Event| matches!(&event.what, What::Moment { name } if name == after);
        let mut has_come = false;
        for event in events {
            // Objects of which the condition does not speak need not be taken in, and between two events
            // that can change the answer it stays as it is.
            let can_change = self.compiled.can_change(event);
            if can_change || !matches!(event.what, What::Object { .. }) {
                world.apply(event);
            }
            let comes = !has_come && is_moment(event);
            has_come |= comes;
            if comes || (has_come && can_change) {
                self.see(&world, event.at_us, event.error_us);
            }
        }
    }

    /// Looks at the world once more.
    pub fn see(&mut self, world: &World, at_us: u64, error_us: u64) {
        if self.is_met(at_us) {
            return;
        }
        match self.compiled.holds(world) {
            Ok(true) if self.true_since_us.is_none() => {
                self.true_since_us = Some(at_us);
                self.since_error_us = error_us;
            }
            Ok(true) => {}
            Ok(false) => self.true_since_us = None,
            Err(error) => {
                self.true_since_us = None;
                self.trouble = Some(error.to_string());
            }
        }
    }

    /// Whether it is satisfied at this time.
    pub fn is_met(&self, now_us: u64) -> bool {
        match self.word {
            Word::Settles => self.true_since_us.is_some_and(|since| now_us >= since + self.hold_us),
            _ => self.true_since_us.is_some(),
        }
    }

    /// When it was satisfied, and by how much earlier that may have been.
    pub fn met_us(&self) -> Option<(u64, u64)> {
        let since = self.true_since_us?;
        Some((since + self.hold_us, self.since_error_us))
    }

    /// Whether it can no longer be satisfied in time.
    pub fn is_missed(&self, now_us: u64) -> bool {
        match self.true_since_us {
            Some(since) => since > self.deadline_us,
            None => now_us > self.deadline_us,
        }
    }

    /// When to look again, if nothing happens before.
    pub fn wakes_us(&self) -> u64 {
        match self.true_since_us {
            Some(since) => since + self.hold_us,
            None => self.deadline_us + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use shakedown_core::condition::Condition;
    use shakedown_core::partial::Partial;
    use shakedown_core::timeline::Change;
    use shakedown_core::window::Window;

    fn check(word: Word, hold: u64) -> Check {
        let object = Partial {
            kind: "nodes".into(),
            namespace: None,
            name: "n".into(),
            exists: true,
            fields: json!({"spec": {"unschedulable": true}}),
        };
        Check {
            id: "step-1/x".into(),
            word,
            condition: Condition { object: Some(object), cel: None },
            window: Window { low: Duration::ZERO, high: Duration::from_secs(10) },
            after: "kill".into(),
            hold: Duration::from_secs(hold),
        }
    }

    fn event(at: u64, what: What) -> Event {
        Event { seq: at, at_us: at * 1_000_000, error_us: 0, scenario: "s".into(), what }
    }

    fn node(at: u64, cordoned: bool) -> Event {
        let object: Value = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": cordoned}});
        event(
            at,
            What::Object {
                change: Change::Modified,
                kind: "nodes".into(),
                revision: 1,
                object: object.into(),
            },
        )
    }

    fn moment(at: u64) -> Event {
        event(at, What::Moment { name: "kill".into() })
    }

    fn goal(word: Word, hold: u64, events: &[Event]) -> Goal {
        let from = Moment { at_us: 5_000_000, error_us: 0 };
        let mut goal = Goal::new(&check(word, hold), from, Duration::ZERO).unwrap();
        goal.replay(World::new(), events, "kill");
        goal
    }

    #[test]
    fn what_came_between_the_moment_and_the_step_counts() {
        let blink = [node(1, false), moment(5), node(7, true), node(8, false)];
        assert!(goal(Word::Eventually, 0, &blink).is_met(9_000_000));
        assert!(!goal(Word::Settles, 5, &blink).is_met(30_000_000));
        let before = [node(1, true), node(2, false), moment(5), node(8, false)];
        assert!(!goal(Word::Eventually, 0, &before).is_met(9_000_000));
        let already = [node(1, true), moment(5)];
        assert!(goal(Word::Eventually, 0, &already).is_met(5_000_000));
    }

    #[test]
    fn settling_takes_its_time_and_begins_again_after_a_relapse() {
        let goal_at_seven = goal(Word::Settles, 5, &[moment(5), node(7, true)]);
        assert!(!goal_at_seven.is_met(11_999_999) && goal_at_seven.is_met(12_000_000));
        assert_eq!(goal_at_seven.wakes_us(), 12_000_000);
        let relapse = [moment(5), node(7, true), node(9, false), node(10, true)];
        let goal_at_ten = goal(Word::Settles, 5, &relapse);
        assert!(!goal_at_ten.is_met(14_999_999) && goal_at_ten.is_met(15_000_000));
        assert_eq!(goal_at_ten.met_us(), Some((15_000_000, 0)));
    }

    #[test]
    fn a_window_that_has_closed_is_missed() {
        let goal = goal(Word::Eventually, 0, &[moment(5)]);
        assert!(!goal.is_missed(16_000_000) && goal.is_missed(16_000_001));
        assert_eq!(goal.wakes_us(), 16_000_001);
    }
}
