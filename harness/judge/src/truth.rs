//! When each condition of a plan was true: the timeline, replayed once through [`World`].
//!
//! No answer is neither true nor false, and is kept as such.

use shakedown_core::condition::Compiled;
use shakedown_core::plan::Check;
use shakedown_core::sabotage::Sabotage;
use shakedown_core::timeline::What;
use shakedown_core::world::World;

use crate::scene::{Instant, Scene};

/// From this instant on, until the next one, this was the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Since when.
    pub since: Instant,
    /// True, false, or why there is no answer.
    pub is_true: Result<bool, String>,
}

/// The answers to one check's condition.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// In order, from the check's moment on; the last one lasts until the steps are over.
    pub answers: Vec<Answer>,
    /// The kinds of object that the condition speaks of.
    pub kinds: Vec<String>,
    /// Whether it speaks of the cluster.
    pub is_about_cluster: bool,
    /// Whether only that an object is absent is asked.
    pub wants_absence: bool,
    /// Why the condition could not be read.
    pub unreadable: Option<String>,
}

/// The answers to every check of the plan, in the plan's order.
pub fn of_checks(scene: &Scene<'_>) -> Vec<Truth> {
    let mut compiled: Vec<_> =
        scene.plan.checks().map(|(_, check)| Compiled::new(&check.condition)).collect();
    let mut truths: Vec<_> = scene
        .plan
        .checks()
        .zip(&compiled)
        .map(|((_, check), compiled)| about(check, compiled.as_ref()))
        .collect();
    // A check's window counts from its moment: what was true before it is never asked for, but for the
    // answer that is in force when it comes.
    let mut is_open: Vec<bool> = vec![false; truths.len()];
    let mut world = World::new();
    for (place, event) in scene.events.iter().enumerate() {
        let is_seen = match &event.what {
            // What no condition speaks of need not be taken in.
            What::Object { .. } => {
                compiled.iter().flatten().any(|compiled| compiled.can_change(event))
            }
            _ => true,
        };
        if is_seen {
            world.apply(event);
        }
        if place < scene.began {
            continue;
        }
        // What clean-up does is the harness's own doing.
        if scene.steps_over.is_some_and(|(over, _)| event.seq >= over.seq) {
            break;
        }
        let came = match &event.what {
            What::Moment { name } => Some(name),
            _ => None,
        };
        let each = compiled.iter_mut().zip(&mut truths).zip(&mut is_open);
        for (((compiled, truth), is_open), (_, check)) in each.zip(scene.plan.checks()) {
            let Ok(compiled) = compiled else { continue };
            let opens = !*is_open && came.is_some_and(|name| *name == check.after);
            *is_open |= opens;
            let is_asked = opens || (*is_open && compiled.can_change(event));
            if !is_asked {
                continue;
            }
            let is_true = compiled.holds(&world).map_err(|why| why.to_string());
            if truth.answers.last().is_none_or(|last| last.is_true != is_true) {
                truth.answers.push(Answer { since: Instant::of(event), is_true });
            }
        }
    }
    truths
}

fn about<E: std::fmt::Display>(check: &Check, compiled: Result<&Compiled, &E>) -> Truth {
    let mut truth = Truth::default();
    match compiled {
        Err(why) => truth.unreadable = Some(why.to_string()),
        Ok(compiled) => {
            let known = shakedown_core::kinds::KINDS.iter();
            let sees = compiled.sees();
            truth.kinds = known
                .filter(|kind| sees.plurals.iter().any(|plural| plural == kind.plural()))
                .map(|kind| kind.id.to_owned())
                .collect();
            truth.is_about_cluster = sees.has("cluster");
        }
    }
    if let Some(object) = &check.condition.object {
        truth.kinds.push(object.kind.clone());
        truth.wants_absence = !object.exists;
    }
    truth.kinds.sort();
    truth.kinds.dedup();
    truth
}

impl Truth {
    /// The answer that was in force at this place of the timeline.
    pub fn at(&self, seq: u64) -> Option<&Answer> {
        let after = self.answers.partition_point(|answer| answer.since.seq <= seq);
        self.answers.get(after.checked_sub(1)?)
    }

    /// The answers from this place on: the one in force there as if given there, then the later ones.
    /// Each with the instant at which it ended, if it did.
    pub fn from(&self, moment: Instant) -> Vec<(Answer, Option<Instant>)> {
        let first = self.at(moment.seq).map(|answer| Answer {
            since: Instant { error_us: 0, ..moment },
            is_true: answer.is_true.clone(),
        });
        let later = self.answers.iter().filter(|answer| answer.since.seq > moment.seq).cloned();
        let all: Vec<_> = first.into_iter().chain(later).collect();
        let ends: Vec<_> =
            all.iter().skip(1).map(|answer| Some(answer.since)).chain([None]).collect();
        all.into_iter().zip(ends).collect()
    }

    /// Whether anything that the condition speaks of was seen before this time: without it the
    /// answer means nothing.
    pub fn has_data(&self, scene: &Scene<'_>, from_us: i64, until_us: i64) -> bool {
        if scene.plan.sabotaged(Sabotage::JudgePassesNoData) {
            return true;
        }
        let objects = self.kinds.iter().any(|kind| {
            scene.of_kind(kind).first().is_some_and(|seen| seen.when.earliest() <= until_us)
        });
        let facts = self.is_about_cluster
            && scene.events.iter().any(|event| {
                let when = Instant::of(event);
                let of_workload = matches!(event.what, What::Operation(_)) && when.at_us >= from_us;
                let of_target = matches!(
                    event.what,
                    What::EtcdMember { .. } | What::Container { .. } | What::Cluster { .. }
                );
                when.earliest() <= until_us && (of_workload || of_target)
            });
        objects || facts || (self.kinds.is_empty() && !self.is_about_cluster)
    }
}
