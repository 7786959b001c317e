//! `watch-without-gaps`: what a workload client's watch delivers is what happened: every change
//! between its first and its last revision, once, in order, as it was.
//!
//! ```yaml
//! invariants: [watch-without-gaps]
//! ```
//!
//! These are the promises of etcd's watch and of Kubernetes' at once, as far as a client can see them:
//! ordered (revisions of a stream never decrease, those of an object grow), unique, reliable (no change
//! between the first and the last is left out), resumable, and after 410 begun anew by a list.
//! Bookmarks are not in the timeline; the revision that a stream says it reached stands for them.
//! A list before a watch agrees with the witness's log at that revision; a watch that goes on where
//! the last one ended loses nothing in between. Only the namespaces of the workload count.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::timeline::{Change, What};

use super::Invariant;
use crate::finding::Finding;
use crate::history::{History, namespace_of};
use crate::scene::{Instant, Scene};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "watch-without-gaps",
    promise: "a watch delivers every change once, in order, as it was",
    judge,
};

/// One watch request.
#[derive(Default)]
struct Stream<'a> {
    began: Option<(Instant, i64)>,
    listed: Option<&'a BTreeMap<String, i64>>,
    reached: i64,
    is_expired: bool,
    delivered: Vec<Delivery<'a>>,
}

struct Delivery<'a> {
    seq: u64,
    change: Change,
    key: &'a str,
    revision: i64,
    value: Option<&'a str>,
}

fn judge(scene: &Scene<'_>) -> Finding {
    let writes = scene.history();
    let streams = streams(scene);
    let delivered: usize = streams.values().map(|stream| stream.delivered.len()).sum();
    if streams.is_empty() || writes.keys().next().is_none() {
        return Finding::nothing("no workload client watched");
    }
    let namespaces = namespaces(writes, &streams);
    let mut violations = Vec::new();
    // What each client had reached at the end of its last stream.
    let mut reached: BTreeMap<u32, i64> = BTreeMap::new();
    // The clients whose last stream ended because its revision was gone.
    let mut expired: BTreeSet<u32> = BTreeSet::new();
    for ((client, number), stream) in &streams {
        let name = format!("stream {number} of client {client}");
        as_it_was(writes, &name, stream, &mut violations);
        let Some((began, from)) = stream.began else { continue };
        match (stream.listed, reached.get(client)) {
            (Some(listed), _) => {
                let differs = |namespace: &String| writes.list_differs(namespace, from, listed);
                let told = namespaces.iter().find_map(differs);
                violations.extend(told.map(|why| format!("{name} listed {why}")));
            }
            (None, Some(last)) if from > *last => violations.push(format!(
                "{name} began at {from} although the one before had only reached {last} (event {})",
                began.seq
            )),
            _ => {}
        }
        if expired.remove(client) && stream.listed.is_none() {
            violations
                .push(format!("{name} went on after 410 without a list (event {})", began.seq));
        }
        if stream.is_expired {
            expired.insert(*client);
        }
        no_gap(writes, &namespaces, (&name, from), stream, &mut violations);
        reached.insert(*client, stream.reached.max(from));
    }
    let seen = format!("{delivered} changes over {} watches", streams.len());
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, writes.is_blind)
}

fn streams<'a>(scene: &Scene<'a>) -> BTreeMap<(u32, u32), Stream<'a>> {
    let mut streams: BTreeMap<(u32, u32), Stream<'a>> = BTreeMap::new();
    for event in scene.own() {
        match &event.what {
            What::WatchStream { client, stream, revision, state, listed, .. } => {
                let known = streams.entry((*client, *stream)).or_default();
                if state == "began" {
                    known.began = Some((Instant::of(event), *revision));
                    known.listed = listed.as_ref();
                } else {
                    known.reached = known.reached.max(*revision);
                    known.is_expired = state.starts_with("410");
                }
            }
            What::Delivered { client, stream, change, key, revision, value } => {
                let known = streams.entry((*client, *stream)).or_default();
                known.reached = known.reached.max(*revision);
                known.delivered.push(Delivery {
                    seq: event.seq,
                    change: *change,
                    key,
                    revision: *revision,
                    value: value.as_deref(),
                });
            }
            _ => {}
        }
    }
    streams
}

fn namespaces(
    writes: &History<'_>,
    streams: &BTreeMap<(u32, u32), Stream<'_>>,
) -> BTreeSet<String> {
    let of = |key: &str| namespace_of(key).to_owned();
    let written = writes.ops.iter().map(|op| of(op.key));
    let delivered =
        streams.values().flat_map(|stream| &stream.delivered).map(|delivery| of(delivery.key));
    let listed = streams.values().filter_map(|stream| stream.listed).flat_map(BTreeMap::keys);
    written.chain(delivered).chain(listed.map(|key| of(key))).collect()
}

fn is_inside(namespaces: &BTreeSet<String>, key: &str) -> bool {
    namespaces.contains(namespace_of(key))
}

/// Each delivery is in the log, and revisions of an object grow.
fn as_it_was(writes: &History<'_>, name: &str, stream: &Stream<'_>, violations: &mut Vec<String>) {
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    let mut newest = 0;
    for Delivery { seq, change, key, revision, value } in &stream.delivered {
        let told = format!("{name} delivered {key} at {revision} (event {seq})");
        if let Some(before) = last.insert(key, *revision)
            && before >= *revision
        {
            violations.push(format!("{told} after {before}"));
        }
        if *revision < newest {
            violations.push(format!("{told} after {newest} of another object"));
        }
        newest = newest.max(*revision);
        if let Some((_, from)) = stream.began
            && *revision <= from
        {
            violations.push(format!("{told} although it began at {from}"));
        }
        match writes.step_at(key, *revision) {
            None if *revision > writes.newest => {}
            None => violations.push(format!("{told}, which never was")),
            Some(step) => {
                let same_value = step.value.is_none() || step.value == *value;
                // A list shows what is there as added, whatever had happened to it.
                let same_change = step.is_listed || step.change == *change;
                if !same_value || !same_change {
                    violations.push(format!(
                        "{told} as {change:?} {value:?}; it was {:?} {:?}",
                        step.change, step.value
                    ));
                }
            }
        }
    }
}

/// Every change between the beginning and what was reached was delivered.
fn no_gap(
    writes: &History<'_>,
    namespaces: &BTreeSet<String>,
    (name, from): (&str, i64),
    stream: &Stream<'_>,
    violations: &mut Vec<String>,
) {
    let delivered: BTreeSet<_> =
        stream.delivered.iter().map(|delivery| (delivery.key, delivery.revision)).collect();
    for (key, steps) in writes.keys().filter(|(key, _)| is_inside(namespaces, key)) {
        let first = steps.partition_point(|step| step.revision <= from);
        for step in steps[first..].iter().take_while(|step| step.revision <= stream.reached) {
            if !delivered.contains(&(key, step.revision)) {
                violations.push(format!(
                    "{name} reached {} without {key} at {} (event {})",
                    stream.reached, step.revision, step.when.seq
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::Change::{self, Added, Deleted, Modified};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/watch-without-gaps";

    /// Change, key, revision and value of a delivery.
    type Line = (Change, &'static str, i64, &'static str);

    /// The log has a at 10, 12 and 14 (deleted), b at 11; the stream lists at 10.
    fn log() -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).config_map("a", 10, Some("one"));
        tape.at(1.1).config_map("b", 11, Some("bee"));
        tape.at(1.2).config_map("a", 12, Some("two"));
        tape.at(1.4).config_map("a", 14, None);
        tape.at(2.0).stream(1, 1, 10, "began", Some(&[("a", 10)]));
        tape
    }

    #[test]
    fn everything_in_order_passes() {
        let mut tape = log();
        tape.delivered(1, 1, (Added, "b", 11), Some("bee"));
        tape.delivered(1, 1, (Modified, "a", 12), Some("two"));
        tape.stream(1, 1, 12, "connection reset", None);
        tape.stream(1, 2, 12, "began", None);
        tape.delivered(1, 2, (Deleted, "a", 14), Some("two"));
        assert_eq!(tape.at(60.0).verdict(ID), "PASS");
    }

    #[test]
    fn corrupted_streams_are_rejected() {
        let cases: &[(&str, &[Line])] = &[
            ("a gap", &[(Added, "b", 11, "bee"), (Deleted, "a", 14, "two")]),
            ("twice", &[(Added, "b", 11, "bee"), (Added, "b", 11, "bee")]),
            ("another value", &[(Added, "b", 11, "wasp")]),
            ("another change", &[(Added, "b", 11, "bee"), (Added, "a", 12, "two")]),
            ("out of thin air", &[(Added, "b", 11, "bee"), (Added, "c", 12, "x")]),
            (
                "backwards",
                &[(Added, "b", 11, "bee"), (Modified, "a", 12, "two"), (Added, "a", 10, "one")],
            ),
        ];
        for (name, deliveries) in cases {
            let mut tape = log();
            for (change, key, revision, value) in *deliveries {
                tape.delivered(1, 1, (*change, key, *revision), Some(value));
            }
            assert_eq!(tape.at(60.0).verdict(ID), "FAIL", "{name}");
        }
    }

    #[test]
    fn what_was_missed_between_two_streams_is_a_gap() {
        let mut tape = log();
        tape.delivered(1, 1, (Added, "b", 11), Some("bee"));
        tape.stream(1, 1, 11, "connection reset", None);
        tape.stream(1, 2, 12, "began", None);
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");
    }

    #[test]
    fn objects_come_in_one_order_and_410_asks_for_a_list() {
        let mut tape = log();
        tape.delivered(1, 1, (Modified, "a", 12), Some("two"));
        tape.delivered(1, 1, (Added, "b", 11), Some("bee"));
        assert_eq!(tape.at(60.0).verdict(ID), "FAIL");

        for (listed, verdict) in [(None, "FAIL"), (Some(&[("b", 11)][..]), "PASS")] {
            let mut tape = log();
            tape.delivered(1, 1, (Added, "b", 11), Some("bee"));
            tape.delivered(1, 1, (Modified, "a", 12), Some("two"));
            tape.delivered(1, 1, (Deleted, "a", 14), Some("two"));
            tape.stream(1, 1, 14, "410 Gone", None);
            tape.stream(1, 2, 14, "began", listed);
            assert_eq!(tape.at(60.0).verdict(ID), verdict);
        }
    }

    #[test]
    fn a_list_must_agree_with_the_log() {
        for listed in [&[("a", 9)][..], &[][..], &[("a", 10), ("b", 11)][..]] {
            let mut tape = log();
            tape.delivered(1, 1, (Added, "b", 11), Some("bee"));
            tape.stream(2, 1, 10, "began", Some(listed));
            assert_eq!(tape.at(60.0).verdict(ID), "FAIL", "{listed:?}");
        }
    }
}
