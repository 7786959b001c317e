//! What happens to the workload's clients: their reads, their writes and their watches.

use std::collections::{BTreeMap, BTreeSet};

use super::Counts;
use crate::json::Value;
use crate::timeline::{Operation, Outcome, Reads};

/// What is known of the clients' work.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients {
    /// When what revision had been acknowledged at the latest; both only grow.
    acked: Grown,
    /// The same for each key.
    acked_by_key: BTreeMap<String, Grown>,
    /// The values of writes without an answer, by key.
    unknown: BTreeMap<String, BTreeSet<String>>,
    /// The values that the witness saw, by key.
    seen: BTreeMap<String, BTreeSet<String>>,
}

/// Pairs of a time and the greatest revision until then, in order.
#[derive(Debug, Clone, Default)]
struct Grown(Vec<(u64, i64)>);

impl Grown {
    fn grow(&mut self, at_us: u64, revision: i64) {
        if self.0.last().is_none_or(|(_, greatest)| *greatest < revision) {
            self.0.push((at_us, revision));
        }
    }

    /// The greatest revision that was known before a time.
    fn before(&self, at_us: u64) -> i64 {
        let known = self.0.partition_point(|(at, _)| *at < at_us);
        known.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

fn is_write(verb: &str) -> bool {
    !matches!(verb, "get" | "list")
}

impl Clients {
    pub(super) fn operation(
        &mut self,
        at_us: u64,
        operation: &Operation,
        has_quorum: bool,
        counts: &mut Counts,
    ) {
        let Operation { verb, key, value, outcome, .. } = operation;
        match outcome {
            Outcome::Ok { revision, .. } if is_write(verb) => {
                // The answer to a deletion need not tell its revision.
                if verb != "delete" {
                    self.acked.grow(at_us, *revision);
                    self.acked_by_key.entry(key.clone()).or_default().grow(at_us, *revision);
                }
            }
            Outcome::Ok { revision, .. } => {
                let known = match verb.as_str() {
                    "list" => Some(&self.acked),
                    _ => self.acked_by_key.get(key),
                };
                let newest = known.map_or(0, |known| known.before(operation.call_us));
                let is_allowed = matches!(operation.reads, Reads::Any | Reads::NotOlderThan(_));
                // Of what is not there no revision is told.
                if is_allowed && *revision > 0 && *revision < newest {
                    counts.add("stale-read");
                }
            }
            Outcome::Refused { code: 410, .. } => counts.add("compaction-hit"),
            Outcome::Refused { code, reason } if is_write(verb) => {
                if *code == 412 || (*code == 409 && reason == "Conflict") {
                    counts.add("write-conflicted");
                }
            }
            Outcome::Refused { .. } => {}
            Outcome::Unknown { why } => {
                if is_reset(why) {
                    counts.add("connection-reset");
                }
                if !is_write(verb) {
                    return;
                }
                counts.add("write-outcome-unknown");
                if !has_quorum {
                    counts.add("write-refused-without-quorum");
                }
                if let Some(value) = value {
                    let seen = self.seen.get(key).is_some_and(|seen| seen.contains(value));
                    if seen {
                        counts.add("unknown-write-happened");
                    } else {
                        self.unknown.entry(key.clone()).or_default().insert(value.clone());
                    }
                }
            }
        }
    }

    /// A ConfigMap as the witness sees it.
    pub(super) fn object(&mut self, object: &Value, counts: &mut Counts) {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let Some(value) = text("/data/value") else { return };
        let place = (text("/metadata/namespace"), text("/metadata/name"));
        let (Some(namespace), Some(name)) = place else { return };
        let key = format!("{namespace}/{name}");
        if self.unknown.get_mut(&key).is_some_and(|values| values.remove(value)) {
            counts.add("unknown-write-happened");
        }
        self.seen.entry(key).or_default().insert(value.to_string());
    }

    /// A watch began or ended.
    pub(super) fn stream(&self, state: &str, has_list: bool, counts: &mut Counts) {
        match state {
            "began" if has_list => {}
            "began" => counts.add("watch-resumed"),
            "closed" => {}
            expired if expired.starts_with("410") => {
                counts.add("watch-expired");
                counts.add("compaction-hit");
            }
            broken => {
                counts.add("watch-broken");
                if is_reset(broken) {
                    counts.add("connection-reset");
                }
            }
        }
    }
}

/// Whether an error's text tells of a reset connection.
fn is_reset(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    why.contains("connection reset") || why.contains("connection was reset")
}
