//! What workload clients did, and what the witness says of it: shared by the invariants of the store.
//!
//! Borrowed texts and sorted vectors: millions of operations are judged in memory. Every question is
//! answered by binary search in the log of one key.

use std::collections::BTreeMap;
use std::ops::Bound;

use shakedown_core::timeline::{Change, Operation, Outcome, Reads, What};

use crate::scene::{CONFIG_MAPS, Instant, Scene, text};

/// How long before the end a write may have been answered without the witness having seen it.
pub const CATCH_UP_US: i64 = 5_000_000;

/// How an operation came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<'a> {
    /// It was acknowledged.
    Ok {
        /// The revision it happened at, or was read at.
        revision: i64,
        /// The value written or read.
        value: Option<&'a str>,
    },
    /// It was refused, with this HTTP status.
    Refused(u16),
    /// Nobody knows whether it happened.
    Unknown,
}

/// An operation with its times.
#[derive(Debug, Clone, Copy)]
pub struct Op<'a> {
    /// When the answer came.
    pub answered: Instant,
    /// When the request was sent.
    pub call_us: i64,
    /// Which client.
    pub client: u32,
    /// The node of the API server.
    pub server: &'a str,
    /// get, list, create, update, patch, delete.
    pub verb: &'a str,
    /// `namespace/name`; of a list the namespace and a `/`.
    pub key: &'a str,
    /// The value to be written.
    pub value: Option<&'a str>,
    /// The resourceVersion that the object had to have.
    pub expected: Option<i64>,
    /// Which state a read wants.
    pub reads: Reads,
    /// What a list answered.
    pub listed: Option<&'a BTreeMap<String, i64>>,
    /// How it came out.
    pub done: Done<'a>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<'a> {
    /// The revision.
    pub revision: i64,
    /// `data.value`; `None` if it was deleted.
    pub value: Option<&'a str>,
    /// How.
    pub change: Change,
    /// Whether it comes from a list.
    pub is_listed: bool,
    /// The event.
    pub when: Instant,
}

/// Everything that happened to one key.
#[derive(Debug, Clone, Default)]
struct KeyLog<'a> {
    /// In order of revision.
    steps: Vec<Step<'a>>,
    /// The revisions of its deletions, in order.
    deletions: Vec<i64>,
    /// The stretches of revisions at which there was no object, in order.
    absences: Vec<(i64, i64)>,
}

/// Everything about ConfigMaps in one scenario.
pub struct History<'a> {
    /// In order of their answers.
    pub ops: Vec<Op<'a>>,
    log: BTreeMap<String, KeyLog<'a>>,
    /// The revisions of all changes in each namespace, in order.
    of_namespace: BTreeMap<String, Vec<i64>>,
    /// The greatest revision that the witness saw.
    pub newest: i64,
    /// Whether the witness missed something.
    pub is_blind: bool,
    end_us: i64,
}

impl<'a> History<'a> {
    /// Collects from a scenario.
    pub fn of(scene: &Scene<'a>) -> Self {
        let ops = scene.own().iter().filter_map(|event| match &event.what {
            What::Operation(op) => Some(Op::of(Instant::of(event), op)),
            _ => None,
        });
        let ops: Vec<_> = ops.collect();
        let steps = scene.of_kind(CONFIG_MAPS).iter().map(|seen| {
            let value = (seen.change != Change::Deleted).then(|| text(seen.object, "/data/value"));
            let step = Step {
                revision: seen.revision,
                value,
                change: seen.change,
                is_listed: seen.is_listed,
                when: seen.when,
            };
            (seen.key.as_str(), step)
        });
        let is_blind = scene.gaps.iter().any(|(_, kind)| *kind == CONFIG_MAPS);
        Self::from_parts(ops, steps, is_blind, scene.end_us())
    }

    /// From operations in order of their answers, and the witness's log in the order of its events.
    pub fn from_parts<'k>(
        ops: Vec<Op<'a>>,
        log: impl Iterator<Item = (&'k str, Step<'a>)>,
        is_blind: bool,
        end_us: i64,
    ) -> Self {
        let mut history = Self {
            ops,
            log: BTreeMap::new(),
            of_namespace: BTreeMap::new(),
            newest: 0,
            is_blind,
            end_us,
        };
        for (key, step) in log {
            history.newest = history.newest.max(step.revision);
            let namespace = namespace_of(key);
            match history.of_namespace.get_mut(namespace) {
                Some(known) => known.push(step.revision),
                None => {
                    history.of_namespace.insert(namespace.to_owned(), vec![step.revision]);
                }
            }
            match history.log.get_mut(key) {
                Some(known) => known.steps.push(step),
                None => {
                    let known = KeyLog { steps: vec![step], ..KeyLog::default() };
                    history.log.insert(key.to_owned(), known);
                }
            }
        }
        history.log.values_mut().for_each(KeyLog::index);
        history.of_namespace.values_mut().for_each(|revisions| revisions.sort_unstable());
        history
    }

    /// Adds to the log that a key has this value once more, after everything else: for those who test
    /// the judge. `false` if the key has no log.
    pub fn repeat(&mut self, key: &str, value: &'a str) -> bool {
        let Some(log) = self.log.get_mut(key) else { return false };
        let Some(last) = log.steps.last().cloned() else { return false };
        for between in [None, Some(value)] {
            self.newest += 1;
            let change = if between.is_some() { Change::Added } else { Change::Deleted };
            log.steps.push(Step { revision: self.newest, value: between, change, ..last.clone() });
        }
        let steps = std::mem::take(&mut log.steps);
        *log = KeyLog { steps, ..KeyLog::default() };
        log.index();
        true
    }

    /// Every key with its changes in order of revision.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &[Step<'a>])> {
        self.log.iter().map(|(key, log)| (key.as_str(), log.steps.as_slice()))
    }

    /// The keys of one namespace with their changes.
    pub fn keys_in<'s>(
        &'s self,
        namespace: &'s str,
    ) -> impl Iterator<Item = (&'s str, &'s [Step<'a>])> {
        let from = (Bound::Included(namespace), Bound::Unbounded);
        self.log
            .range::<str, _>(from)
            .take_while(move |(key, _)| key.starts_with(namespace))
            .filter(move |(key, _)| namespace_of(key) == namespace)
            .map(|(key, log)| (key.as_str(), log.steps.as_slice()))
    }

    /// The changes of a key.
    pub fn steps(&self, key: &str) -> &[Step<'a>] {
        self.log.get(key).map_or(&[], |log| log.steps.as_slice())
    }

    /// The change at exactly this revision.
    pub fn step_at(&self, key: &str, revision: i64) -> Option<&Step<'a>> {
        at(self.steps(key), revision)
    }

    /// The last change not after this revision.
    pub fn step_until(&self, key: &str, revision: i64) -> Option<&Step<'a>> {
        until(self.steps(key), revision)
    }

    /// The revision of the first change after this one; the greatest number if there is none.
    pub fn next_after(&self, key: &str, revision: i64) -> i64 {
        let steps = self.steps(key);
        let at = steps.partition_point(|step| step.revision <= revision);
        steps.get(at).map_or(i64::MAX, |step| step.revision)
    }

    /// The revision of the first change of anything in a namespace after this one.
    pub fn next_in(&self, namespace: &str, revision: i64) -> i64 {
        let all = self.of_namespace.get(namespace).map_or(&[][..], Vec::as_slice);
        let at = all.partition_point(|known| *known <= revision);
        all.get(at).copied().unwrap_or(i64::MAX)
    }

    /// The revisions of the deletions of a key that an acknowledged deletion may mean, in order.
    /// Kubernetes need not tell its revision: the answer may have none (0), or the one that the object
    /// had before.
    pub fn deletions(&self, key: &str, revision: i64) -> &[i64] {
        let all = self.log.get(key).map_or(&[][..], |log| log.deletions.as_slice());
        let from = all.partition_point(|known| *known < revision);
        if all.get(from) == Some(&revision) {
            return &all[from..=from];
        }
        &all[all.partition_point(|known| *known <= revision)..]
    }

    /// The stretches of revisions at which a key had no object, in order; `None` if it never had one.
    pub fn absences(&self, key: &str) -> Option<&[(i64, i64)]> {
        self.log.get(key).map(|log| log.absences.as_slice())
    }

    /// How a list at a revision differs from the log; `None` if it agrees, or is newer than the log.
    pub fn list_differs(
        &self,
        namespace: &str,
        at: i64,
        listed: &BTreeMap<String, i64>,
    ) -> Option<String> {
        if at > self.newest {
            return None;
        }
        for (key, steps) in self.keys_in(namespace) {
            let told = listed.get(key).copied();
            let Some(step) = until(steps, at) else {
                // Before its first step nothing is known of a listed object.
                if told.is_some() && steps.first().is_some_and(|first| !first.is_listed) {
                    return Some(format!("{key} at {at} before it was there"));
                }
                continue;
            };
            let there = step.value.map(|_| step.revision);
            if told != there {
                return Some(format!(
                    "{key} as {told:?} at {at}; the log has {there:?} (event {})",
                    step.when.seq
                ));
            }
        }
        let stranger = listed.keys().find(|key| !self.log.contains_key(*key));
        stranger.map(|key| format!("{key} at {at}, which never was there"))
    }

    /// Whether a write was answered so shortly before the end that the witness need not have seen it.
    pub fn may_be_late(&self, op: &Op<'_>, revision: i64) -> bool {
        revision > self.newest && self.end_us - op.answered.at_us < CATCH_UP_US
    }
}

impl KeyLog<'_> {
    fn index(&mut self) {
        self.steps.sort_by_key(|step| step.revision);
        let mut since = Some(0);
        for step in &self.steps {
            match (step.value, since) {
                (Some(_), Some(from)) => {
                    // What was listed may have been there from the beginning.
                    let until = if step.is_listed { step.revision } else { step.revision - 1 };
                    self.absences.push((from, until));
                    since = None;
                }
                (None, None) => since = Some(step.revision),
                _ => {}
            }
            if step.value.is_none() {
                self.deletions.push(step.revision);
            }
        }
        self.absences.extend(since.map(|from| (from, i64::MAX)));
    }
}

/// The change at exactly this revision, among those of one key.
pub fn at<'s, 'a>(steps: &'s [Step<'a>], revision: i64) -> Option<&'s Step<'a>> {
    let at = steps.partition_point(|step| step.revision < revision);
    steps.get(at).filter(|step| step.revision == revision)
}

/// The last change not after this revision, among those of one key.
pub fn until<'s, 'a>(steps: &'s [Step<'a>], revision: i64) -> Option<&'s Step<'a>> {
    let after = steps.partition_point(|step| step.revision <= revision);
    steps.get(after.checked_sub(1)?)
}

/// The namespace of a key.
pub fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

impl<'a> Op<'a> {
    /// As it was recorded.
    pub fn of(answered: Instant, op: &'a Operation) -> Self {
        let done = match &op.outcome {
            Outcome::Ok { revision, value } => {
                Done::Ok { revision: *revision, value: value.as_deref() }
            }
            Outcome::Refused { code, .. } => Done::Refused(*code),
            Outcome::Unknown { .. } => Done::Unknown,
        };
        Self {
            answered,
            call_us: i64::try_from(op.call_us).unwrap_or(i64::MAX),
            client: op.client,
            server: &op.server,
            verb: &op.verb,
            key: &op.key,
            value: op.value.as_deref(),
            expected: op.expected,
            reads: op.reads,
            listed: op.listed.as_ref(),
            done,
        }
    }

    /// Whether it writes.
    pub fn is_write(&self) -> bool {
        !["get", "list"].contains(&self.verb)
    }

    /// Whether it writes, or reads the newest state.
    pub fn is_current(&self) -> bool {
        self.is_write() || self.reads == Reads::Latest
    }

    /// The acknowledged revision and value.
    pub fn acked(&self) -> Option<(i64, Option<&'a str>)> {
        match self.done {
            Done::Ok { revision, value } => Some((revision, value)),
            _ => None,
        }
    }

    /// `update of shop/a by client 3 (event 17)`
    pub fn tell(&self) -> String {
        let Self { verb, key, client, .. } = self;
        format!("{verb} of {key} by client {client} (event {})", self.answered.seq)
    }
}
