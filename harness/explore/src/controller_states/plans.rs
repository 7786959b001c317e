//! From what was learnt to scenarios: the reference with one fault, aimed at one place.
//!
//! A crash comes before and after each write that is worth it. Of each pair of what was seen and what
//! was then written: the notification comes late; it does not come; it is the last that comes, so
//! that what follows from the write is not seen; and the view goes back to before it.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::prune::{Pair, Pruned};
use super::reference::{FROZEN, seconds};
use super::trace::{Anchor, Notification, Subject, Trace, Write};
use crate::document::Document;

/// By how much a notification comes late.
const LATE: Duration = Duration::from_secs(5);

/// What is done at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// The component dies before its write is done.
    CrashBefore,
    /// The component dies when its write is done and it has not heard of it.
    CrashAfter,
    /// A notification, and what follows it, comes late.
    Late,
    /// A notification, and what follows it, does not come.
    Unseen,
    /// What follows a notification does not come.
    Stale,
    /// The view goes back to before a notification.
    Rewound,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: &[Pattern] = &[
        Pattern::CrashBefore,
        Pattern::CrashAfter,
        Pattern::Late,
        Pattern::Unseen,
        Pattern::Stale,
        Pattern::Rewound,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::CrashBefore => "crash-before",
            Pattern::CrashAfter => "crash-after",
            Pattern::Late => "late",
            Pattern::Unseen => "unseen",
            Pattern::Stale => "stale",
            Pattern::Rewound => "rewound",
        }
    }
}

/// A state of a controller, and the scenario that brings it about.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// What is done.
    pub pattern: Pattern,
    /// To which controller, by the write that it is about.
    pub controller: &'static str,
    /// In which component.
    pub component: &'static str,
    /// For people: at which place.
    pub place: String,
    /// The reference with the fault.
    pub document: Document,
}

/// The name of the fault's moment.
const NAME: &str = "state";

/// The states of a component, each by a scenario of its own; none is brought about twice.
pub fn states(
    reference: &Document,
    trace: &Trace,
    pruned: &Pruned,
    subject: &Subject,
) -> Vec<State> {
    let mut work = Work { reference, trace, subject, states: Vec::new(), done: Vec::new() };
    for at in &pruned.writes {
        work.crashes(&trace.writes[*at]);
    }
    for pair in &pruned.pairs {
        work.views(pair);
    }
    work.states
}

struct Work<'a> {
    reference: &'a Document,
    trace: &'a Trace,
    subject: &'a Subject,
    states: Vec<State>,
    /// Faults and before which step they are.
    done: Vec<(usize, Value)>,
}

impl Work<'_> {
    fn crashes(&mut self, write: &Write) {
        let Some(anchor) = self.trace.anchor(write.seq) else { return };
        let nth = self.trace.nth_write(write, anchor);
        let place = told(write, nth);
        for (pattern, is_done) in [(Pattern::CrashBefore, false), (Pattern::CrashAfter, true)] {
            let fault = json!({
                "fault": "crash-at-write", "kind": write.about.kind, "nth": nth, "done": is_done,
            });
            self.add(pattern, write, (anchor, write.at_us), (fault, place.clone()));
        }
    }

    fn views(&mut self, pair: &Pair) {
        let trace = self.trace;
        let (seen, write) = (&trace.notifications[pair.notification], &trace.writes[pair.write]);
        let (Some(anchor), Some(own)) = (trace.anchor(write.seq), trace.anchor(seen.seq)) else {
            return;
        };
        let kind = &seen.about.kind;
        // How many notifications of the kind, from the anchor on, the view held when it was written.
        let held = if own == anchor { trace.nth_notification(seen, anchor) } else { 0 };
        let place = format!("{}, then {}", heard(seen, held), told_alone(write));
        let at_us = seen.at_us.max(anchor.at_us);
        if held > 0 {
            let late =
                json!({"fault": "hold-events", "kind": kind, "nth": held, "by": seconds(LATE)});
            let unseen = json!({"fault": "freeze-view", "kind": kind, "nth": held});
            self.add(Pattern::Late, write, (anchor, at_us), (late, place.clone()));
            self.add(Pattern::Unseen, write, (anchor, at_us), (unseen, place.clone()));
        }
        let stale = json!({"fault": "freeze-view", "kind": kind, "nth": held + 1});
        self.add(Pattern::Stale, write, (anchor, at_us), (stale, place.clone()));
        // The view goes back once the write was made: with the next notification, to before this one.
        let next = trace.notifications.iter().find(|next| {
            next.about.kind == *kind && next.seq > anchor.seq && next.revision >= write.revision
        });
        let Some(next) = next else { return };
        let nth = trace.nth_notification(next, anchor);
        let back = (nth - held.max(1)).max(1);
        let rewound = json!({"fault": "rewind", "kind": kind, "nth": nth, "back": back});
        self.add(Pattern::Rewound, write, (anchor, next.at_us), (rewound, place));
    }

    fn add(
        &mut self,
        pattern: Pattern,
        write: &Write,
        (anchor, at_us): (Anchor, u64),
        (mut fault, place): (Value, String),
    ) {
        if self.done.contains(&(anchor.step, fault.clone())) {
            return;
        }
        self.done.push((anchor.step, fault.clone()));
        let component = self.subject.component.name();
        // In whole seconds, so that a run that is a little slower reaches the place.
        let offset = Duration::from_secs(at_us.saturating_sub(anchor.at_us).div_ceil(1_000_000));
        fault["on"] = json!(self.subject.on);
        fault["component"] = json!(component);
        fault["for"] = json!(seconds(offset + FROZEN));
        fault["as"] = json!(NAME);
        let mut value = self.reference.value.clone();
        let title = format!("{} of {}: {place}", pattern.name(), write.controller);
        value["spec"]["title"] = json!(title);
        if let Some(steps) = value["spec"]["steps"].as_array_mut() {
            steps.insert(anchor.step.min(steps.len()), fault);
            if pattern == Pattern::Rewound {
                // It may create again what it does not see, for a moment: see `judge/differential.rs`.
                let is_period = |step: &Value| step.get("always").or(step.get("never")).is_some();
                steps.retain(|step| !is_period(step) || step.get("as").is_some());
            }
        }
        let document = Document { id: self.reference.id.clone(), value };
        let controller = write.controller;
        self.states.push(State { pattern, controller, component, place, document });
    }
}

fn told(write: &Write, nth: u32) -> String {
    format!("{} (write {nth} of {})", told_alone(write), write.about.kind)
}

fn told_alone(write: &Write) -> String {
    format!("{} {} {}", write.verb, write.about.kind, write.shape)
}

fn heard(seen: &Notification, nth: u32) -> String {
    let which = if nth == 0 { "an earlier".to_owned() } else { format!("the {nth}.") };
    format!("{which} notification of {} ({})", seen.about.kind, seen.shape)
}
