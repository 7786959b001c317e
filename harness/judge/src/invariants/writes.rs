//! What workload clients did, and what the witness says of it: shared by the invariants of the store.

use std::collections::BTreeMap;

use shakedown_core::timeline::{Change, Operation, Outcome, What};

use crate::scene::{CONFIG_MAPS, Instant, Scene, text};

/// How long before the end a write may have been answered without the witness having seen it.
pub(super) const CATCH_UP_US: i64 = 5_000_000;

/// An operation with its times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op<'a> {
    /// When the answer came.
    pub(super) answered: Instant,
    /// When the request was sent.
    pub(super) call_us: i64,
    /// What was asked and answered.
    pub(super) op: &'a Operation,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step<'a> {
    /// The revision.
    pub(super) revision: i64,
    /// `data.value`; `None` if it was deleted.
    pub(super) value: Option<&'a str>,
    /// How.
    pub(super) change: Change,
    /// Whether it comes from a list.
    pub(super) is_listed: bool,
    /// The event.
    pub(super) seq: u64,
}

/// Everything about ConfigMaps in one scenario.
pub(super) struct Writes<'a> {
    /// In order of their answers.
    pub(super) ops: Vec<Op<'a>>,
    /// The witness's log of each key, in order of revision.
    pub(super) log: BTreeMap<String, Vec<Step<'a>>>,
    /// The greatest revision that the witness saw.
    pub(super) newest: i64,
    /// Whether the witness missed something.
    pub(super) is_blind: bool,
    end_us: i64,
}

impl<'a> Writes<'a> {
    /// Collects.
    pub(super) fn of(scene: &Scene<'a>) -> Self {
        let ops = scene.own().iter().filter_map(|event| match &event.what {
            What::Operation(op) => Some(Op {
                answered: Instant::of(event),
                call_us: i64::try_from(op.call_us).unwrap_or(i64::MAX),
                op,
            }),
            _ => None,
        });
        let mut log: BTreeMap<String, Vec<Step<'a>>> = BTreeMap::new();
        let mut newest = 0;
        for seen in scene.of_kind(CONFIG_MAPS) {
            newest = newest.max(seen.revision);
            let value = (seen.change != Change::Deleted).then(|| text(seen.object, "/data/value"));
            log.entry(seen.key.clone()).or_default().push(Step {
                revision: seen.revision,
                value,
                change: seen.change,
                is_listed: seen.is_listed,
                seq: seen.when.seq,
            });
        }
        for steps in log.values_mut() {
            steps.sort_by_key(|step| step.revision);
        }
        let is_blind = scene.gaps.iter().any(|(_, kind)| *kind == CONFIG_MAPS);
        Self { ops: ops.collect(), log, newest, is_blind, end_us: scene.end_us() }
    }

    /// The changes of a key.
    pub(super) fn steps(&self, key: &str) -> &[Step<'a>] {
        self.log.get(key).map_or(&[], Vec::as_slice)
    }

    /// The change at exactly this revision.
    pub(super) fn step_at(&self, key: &str, revision: i64) -> Option<&Step<'a>> {
        let steps = self.steps(key);
        let at = steps.partition_point(|step| step.revision < revision);
        steps.get(at).filter(|step| step.revision == revision)
    }

    /// The last change not after this revision.
    pub(super) fn step_until(&self, key: &str, revision: i64) -> Option<&Step<'a>> {
        let steps = self.steps(key);
        let after = steps.partition_point(|step| step.revision <= revision);
        steps.get(after.checked_sub(1)?)
    }

    /// The revision of the first change after this one; the greatest number if there is none.
    pub(super) fn next_after(&self, key: &str, revision: i64) -> i64 {
        let steps = self.steps(key);
        let at = steps.partition_point(|step| step.revision <= revision);
        steps.get(at).map_or(i64::MAX, |step| step.revision)
    }

    /// The deletions of a key that an acknowledged deletion may mean. Kubernetes need not tell its
    /// revision: the answer may have none (0), or the one that the object had before.
    pub(super) fn deletions<'s>(
        &'s self,
        key: &str,
        revision: i64,
    ) -> impl Iterator<Item = &'s Step<'a>> {
        let is_exact = self.step_at(key, revision).is_some_and(|step| step.value.is_none());
        self.steps(key).iter().filter(move |step| {
            let fits = if is_exact { step.revision == revision } else { step.revision > revision };
            step.value.is_none() && fits
        })
    }

    /// Whether a write was answered so shortly before the end that the witness need not have seen it.
    pub(super) fn may_be_late(&self, op: &Op<'_>, revision: i64) -> bool {
        revision > self.newest && self.end_us - op.answered.at_us < CATCH_UP_US
    }
}

impl Op<'_> {
    /// Whether it writes.
    pub(super) fn is_write(&self) -> bool {
        self.op.verb != "get"
    }

    /// The acknowledged revision and value.
    pub(super) fn acked(&self) -> Option<(i64, Option<&str>)> {
        match &self.op.outcome {
            Outcome::Ok { revision, value } => Some((*revision, value.as_deref())),
            _ => None,
        }
    }

    /// `update of shop/a by client 3 (event 17)`
    pub(super) fn tell(&self) -> String {
        let Operation { verb, key, client, .. } = self.op;
        format!("{verb} of {key} by client {client} (event {})", self.answered.seq)
    }
}
