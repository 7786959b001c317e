//! `watch-progress`: while nothing is broken, every change soon reaches every open watch.
//!
//! ```yaml
//! invariants: [watch-progress]
//! ```
//!
//! Each change of the workload's namespaces that happens while a client's watch is open is delivered
//! on it within five seconds, beside the errors of observation. Not judged while a fault is in effect
//! or has just ended, or where the watch ended sooner.

use std::collections::BTreeMap;

use shakedown_core::timeline::What;

use super::Invariant;
use crate::finding::Finding;
use crate::history::{Step, namespace_of};
use crate::scene::{Instant, Scene, seconds};

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "watch-progress",
    promise: "while nothing is broken, every change reaches every open watch within five seconds",
    judge,
};

/// Within this time.
const REACHED_US: i64 = 5_000_000;

/// One watch request.
struct Stream<'a> {
    began: Instant,
    from: i64,
    ended: Option<Instant>,
    /// By revision, in the order of their coming.
    delivered: Vec<(i64, &'a str, Instant)>,
}

fn judge(scene: &Scene<'_>) -> Finding {
    let streams = streams(scene);
    if streams.is_empty() {
        return Finding::nothing("no workload client watched");
    }
    let history = scene.history();
    let Some(namespace) = history.ops.first().map(|op| namespace_of(op.key)) else {
        return Finding::nothing("no workload client wrote");
    };
    let mut steps: Vec<(&str, &Step<'_>)> = history
        .keys_in(namespace)
        .flat_map(|(key, steps)| steps.iter().map(move |step| (key, step)))
        .filter(|(_, step)| !step.is_listed)
        .collect();
    steps.sort_by_key(|(_, step)| step.when.at_us);
    // The store elects, and a watch that was caught in a fault finds out.
    let election = i64::try_from(scene.parameters().election.as_micros()).unwrap_or(i64::MAX / 8);
    let after = 4 * election + REACHED_US;
    let mut violations = Vec::new();
    let mut judged = 0;
    for ((client, number), stream) in &streams {
        let until = stream.ended.map_or(scene.end_us(), Instant::earliest);
        let first = steps.partition_point(|(_, step)| step.when.at_us < stream.began.at_us);
        for (key, step) in &steps[first..] {
            let (from, to) = (step.when.earliest(), step.when.at_us + REACHED_US);
            if to > until {
                break;
            }
            if step.revision <= stream.from || !scene.is_calm_after(after, from, to) {
                continue;
            }
            judged += 1;
            let at = stream.delivered.partition_point(|(known, ..)| *known < step.revision);
            let reached = stream.delivered[at..]
                .iter()
                .take_while(|(known, ..)| *known == step.revision)
                .find(|(_, known, _)| known == key);
            let late = match reached {
                Some((_, _, when)) => {
                    let took = when.earliest() - step.when.at_us;
                    (took > REACHED_US).then(|| format!("after {}", seconds(took)))
                }
                None => Some("never".to_owned()),
            };
            violations.extend(late.map(|when| {
                format!(
                    "{key} at {} (event {}) reached stream {number} of client {client} {when}",
                    step.revision, step.when.seq
                )
            }));
        }
    }
    if judged == 0 && violations.is_empty() {
        return Finding::nothing("nothing changed while a watch was open and nothing was broken");
    }
    let seen = format!("{judged} changes on open watches, each delivered in time");
    Finding::of_unless_blind(INVARIANT.promise, &violations, seen, history.is_blind)
}

fn streams<'a>(scene: &Scene<'a>) -> BTreeMap<(u32, u32), Stream<'a>> {
    let mut streams: BTreeMap<(u32, u32), Stream<'a>> = BTreeMap::new();
    for event in scene.own() {
        let when = Instant::of(event);
        match &event.what {
            What::WatchStream { client, stream, revision, state, .. } if state == "began" => {
                let (began, from) = (when, *revision);
                let new = Stream { began, from, ended: None, delivered: Vec::new() };
                streams.insert((*client, *stream), new);
            }
            What::WatchStream { client, stream, .. } => {
                if let Some(known) = streams.get_mut(&(*client, *stream)) {
                    known.ended = Some(when);
                }
            }
            What::Delivered { client, stream, key, revision, .. } => {
                if let Some(known) = streams.get_mut(&(*client, *stream)) {
                    known.delivered.push((*revision, key, when));
                }
            }
            _ => {}
        }
    }
    for stream in streams.values_mut() {
        stream.delivered.sort_by_key(|(revision, _, when)| (*revision, when.seq));
    }
    streams
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::{Change, FaultPhase};

    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/watch-progress";

    /// A watch from 9; a change at 10 s, delivered then.
    fn tape(delivered: Option<f64>) -> Tape {
        let mut tape = Tape::new(kill());
        tape.at(1.0).stream(1, 1, 9, "began", Some(&[]));
        tape.at(10.0).config_map("a", 10, Some("one"));
        tape.at(10.0).op("create", "a", Some("one"), (9.9, 10));
        if let Some(at) = delivered {
            tape.at(at).delivered(1, 1, (Change::Added, "a", 10), Some("one"));
        }
        tape
    }

    #[test]
    fn soon_passes_late_and_never_fail() {
        for (delivered, verdict) in
            [(Some(10.1), "PASS"), (Some(14.9), "PASS"), (Some(15.5), "FAIL"), (None, "FAIL")]
        {
            assert_eq!(tape(delivered).at(60.0).verdict(ID), verdict, "{delivered:?}");
        }
    }

    #[test]
    fn a_watch_that_ended_or_a_fault_excuses() {
        let mut ended = tape(None);
        ended.at(12.0).stream(1, 1, 9, "connection reset", None);
        assert_eq!(ended.at(60.0).checks_with(ID), 0);
        let mut broken = tape(None);
        broken.at(12.0).fault("kill", "node-kill", FaultPhase::Applied, &["cp-1"]);
        assert_eq!(broken.at(60.0).checks_with(ID), 0);
    }

    #[test]
    fn a_blind_witness_is_invalid() {
        let mut tape = tape(None);
        tape.gap("configmaps");
        assert_eq!(tape.at(60.0).verdict(ID), "INVALID");
    }
}
