//! Double entry: what one part of the harness tells is held against what another one tells.
//!
//! The recorder against the seal of its sources; the witness against the API servers' audit; the
//! workload's clients against both. Each can lose something without noticing it, and what is lost is
//! most often a violation: where two books differ nothing is a pass, and the verdict is INVALID.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::kinds::Kind;
use shakedown_core::plan::START;
use shakedown_core::seal::Seal;
use shakedown_core::timeline::{Change, Event, FORMAT, Operation, Outcome, What};
use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::finding::{Judged, broken};
use crate::scene::{Instant, Scene, key};

/// How long before the end a write may have been answered without the witness having seen it.
const CATCH_UP_US: i64 = 5_000_000;
/// Whom the workload's clients, and the harness itself, write as.
const ADMINISTRATOR: &str = "kubernetes-admin";
/// How the names of the workload's objects begin.
const WORK: &str = "work-";

/// Why the timeline is not what was handed to the recorder; `None` if it is.
pub(crate) fn broken_seal(scene: &Scene<'_>) -> Option<String> {
    let mut seal = Seal::of_format(scene.format().unwrap_or(FORMAT));
    for event in scene.own() {
        let What::Sealed { counts, digest } = &event.what else {
            seal.count(&event.what);
            seal.chain(event.at_us, event.error_us, &event.what);
            continue;
        };
        let sorts: BTreeSet<&String> = counts.keys().chain(seal.counts.keys()).collect();
        let of = |book: &BTreeMap<String, u64>, sort: &String| book.get(sort).copied().unwrap_or(0);
        let differences: Vec<_> = sorts
            .into_iter()
            .filter(|sort| of(counts, sort) != of(&seal.counts, sort))
            .map(|sort| format!("{} of {} {sort}", of(&seal.counts, sort), of(counts, sort)))
            .collect();
        if !differences.is_empty() {
            let told = differences.join(", ");
            return Some(format!("not everything that was told was recorded: there are {told}"));
        }
        if seal.digest() != *digest {
            return Some("events were moved, dated otherwise or changed on their way".to_owned());
        }
        return None;
    }
    Some("the scenario's end was not sealed: what came last may be missing".to_owned())
}

/// The witness against the audit, and the workload against both.
pub(crate) fn judge(scene: &Scene<'_>) -> Vec<CheckVerdict> {
    let started = scene
        .own()
        .iter()
        .find(|event| matches!(&event.what, What::Moment { name } if name == START));
    let Some(started) = started else { return Vec::new() };
    let writes = audited(scene, started);
    witness(scene, &writes).into_iter().chain(workload(scene, started, &writes)).collect()
}

/// A write of a watched object that an API server says was done.
struct Audited<'a> {
    when: Instant,
    user: &'a str,
    verb: &'a str,
    kind: &'static str,
    key: String,
    revision: i64,
}

/// Every write that was done after the start, by the audit.
fn audited<'a>(scene: &Scene<'a>, started: &Event) -> Vec<Audited<'a>> {
    let done = scene.own().iter().filter_map(|event| match &event.what {
        What::Audit { user, verb, kind, key, code, revision, .. }
            if event.seq > started.seq && (200..300).contains(code) && *revision > 0 =>
        {
            let kind = Kind::of_id(kind).filter(|kind| kind.is_watched)?;
            // The subresource follows the name.
            let parts = if kind.is_namespaced { 2 } else { 1 };
            let key = key.split('/').take(parts).collect::<Vec<_>>().join("/");
            let when = Instant::of(event);
            Some(Audited { when, user, verb, kind: kind.id, key, revision: *revision })
        }
        _ => None,
    });
    done.collect()
}

/// Whether the witness saw every write that the audit tells of.
fn witness(scene: &Scene<'_>, writes: &[Audited<'_>]) -> Option<CheckVerdict> {
    let end_us = scene.end_us();
    let must_be_seen: Vec<_> = writes
        .iter()
        .filter(|write| end_us - write.when.at_us >= CATCH_UP_US)
        .filter(|write| !scene.gaps.iter().any(|(_, kind)| *kind == write.kind))
        .collect();
    if must_be_seen.is_empty() {
        return None;
    }
    let mut seen: BTreeSet<(&str, i64)> = BTreeSet::new();
    let mut keys: BTreeMap<(&str, i64), String> = BTreeMap::new();
    for event in scene.own() {
        if let What::Object { kind, revision, object, .. } = &event.what {
            seen.insert((kind, *revision));
            keys.insert((kind, *revision), key(object));
        }
    }
    let missed: Vec<_> = must_be_seen
        .iter()
        .filter(|write| {
            let place = (write.kind, write.revision);
            !seen.contains(&place) || keys.get(&place).is_some_and(|known| *known != write.key)
        })
        .map(|write| {
            let Audited { when, verb, kind, key, revision, .. } = write;
            format!("{verb} of {kind} {key} at {revision} (event {})", when.seq)
        })
        .collect();
    let judged = if missed.is_empty() {
        let count = must_be_seen.len();
        Judged::new(Verdict::Pass, format!("all {count} writes in the audit were seen"))
    } else {
        let promise = "the witness sees every write that an API server says was done";
        Judged::new(Verdict::Invalid, broken(promise, &missed))
    };
    Some(judged.into_check("witness"))
}

/// Whether the workload ran, and told of everything that it did.
fn workload(scene: &Scene<'_>, started: &Event, writes: &[Audited<'_>]) -> Option<CheckVerdict> {
    scene.plan.workload.as_ref()?;
    let check =
        |verdict, message: String| Some(Judged::new(verdict, message).into_check("workload"));
    let mut told = Told::default();
    for event in scene.own() {
        if let What::Operation(op) = &event.what {
            told.take(op);
        }
    }
    // After the last step every object is read once more: those reads alone are no workload.
    let names: BTreeSet<&str> = told.clients.iter().map(|(_, verb)| *verb).collect();
    let wanted: Vec<&str> =
        scene.plan.workload.iter().flat_map(|w| w.mix.keys()).map(String::as_str).collect();
    if told.clients.is_empty() || (wanted.contains(&"create") && !names.contains("create")) {
        return check(Verdict::Invalid, "the workload's clients did nothing".to_owned());
    }
    let mut hidden: Vec<_> = writes
        .iter()
        .filter(|write| write.user == ADMINISTRATOR && is_work(write.kind, &write.key))
        .filter(|write| !told.explains(write))
        .map(|write| {
            let Audited { when, verb, key, revision, .. } = write;
            format!("{verb} of {key} at {revision} (event {}), which no client tells of", when.seq)
        })
        .collect();
    hidden.extend(scene.own().iter().filter_map(|event| match &event.what {
        What::Object { change, kind, revision, object }
            if event.seq > started.seq
                && *change != Change::Deleted
                && is_work(kind, &key(object)) =>
        {
            let value =
                object.pointer("/data/value").and_then(shakedown_core::json::Value::as_str)?;
            (!told.written.contains(value)).then(|| {
                format!(
                    "{value} in {} at {revision} (event {}), which no client tells of writing",
                    key(object),
                    event.seq
                )
            })
        }
        _ => None,
    }));
    if hidden.is_empty() {
        let count = told.count;
        return check(Verdict::Pass, format!("{count} operations, as audit and witness have them"));
    }
    let promise = "clients tell of everything that they did";
    check(Verdict::Invalid, broken(promise, &hidden))
}

fn is_work(kind: &str, key: &str) -> bool {
    kind == "configmaps" && key.split_once('/').is_some_and(|(_, name)| name.starts_with(WORK))
}

/// What clients tell.
#[derive(Default)]
struct Told<'a> {
    count: usize,
    clients: BTreeSet<(u32, &'a str)>,
    /// Acknowledged writes: key and revision.
    done: BTreeSet<(&'a str, i64)>,
    /// Keys of acknowledged deletions, which need not tell their revision.
    deleted: BTreeSet<&'a str>,
    /// Keys of writes without an answer, and when the first was sent.
    unknown: BTreeMap<&'a str, i64>,
    /// Values that were written, or may have been.
    written: BTreeSet<&'a str>,
}

impl<'a> Told<'a> {
    fn take(&mut self, op: &'a Operation) {
        self.count += 1;
        self.clients.insert((op.client, op.verb.as_str()));
        if matches!(op.verb.as_str(), "get" | "list") {
            return;
        }
        match &op.outcome {
            Outcome::Ok { .. } if op.verb == "delete" => {
                self.deleted.insert(&op.key);
            }
            Outcome::Ok { revision, .. } => {
                self.done.insert((&op.key, *revision));
            }
            Outcome::Unknown { .. } => {
                let sent = i64::try_from(op.call_us).unwrap_or(i64::MAX);
                let first = self.unknown.entry(&op.key).or_insert(sent);
                *first = sent.min(*first);
            }
            Outcome::Refused { .. } => return,
        }
        self.written.extend(op.value.as_deref());
    }

    /// Whether a client tells of this write, or of one that it may be.
    fn explains(&self, write: &Audited<'_>) -> bool {
        let key = write.key.as_str();
        self.done.contains(&(key, write.revision))
            || (write.verb == "delete" && self.deleted.contains(key))
            || self.unknown.get(key).is_some_and(|sent| *sent <= write.when.at_us)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shakedown_core::plan::{Plan, Workload};
    use shakedown_core::seal::Seal;
    use shakedown_core::timeline::{Event, What};

    use crate::testing::{Tape, kill};

    fn working() -> Plan {
        let mix = BTreeMap::from([("create".to_owned(), 1), ("get".to_owned(), 1)]);
        let workload = Workload { clients: 2, mix, over: "configmaps".into(), keys: 4, rate: 10.0 };
        Plan { workload: Some(workload), ..kill() }
    }

    /// A created object, as client, witness and audit have it; each may keep silent.
    fn written(client: &str, is_seen: bool) -> Tape {
        let mut tape = Tape::new(working());
        let key = "shop/work-1";
        tape.at(1.0).op("create", "work-0", Some("1-1"), (0.5, 10));
        tape.config_map("work-0", 10, Some("1-1"));
        tape.audit("kubernetes-admin", "create", ("configmaps", "shop/work-0"), 10, "");
        tape.audit("kubernetes-admin", "create", ("configmaps", key), 11, "");
        if is_seen {
            tape.config_map("work-1", 11, Some("1-2"));
        }
        match client {
            "ok" => tape.op("create", "work-1", Some("1-2"), (0.6, 11)),
            "unknown" => tape.unknown("create", "work-1", "1-2", 0.6),
            "refused" => tape.refused("create", "work-1", "1-2", (0.6, 409)),
            _ => {}
        }
        tape.at(60.0);
        tape
    }

    #[test]
    fn a_write_in_the_audit_must_have_been_seen() {
        assert_eq!(written("ok", true).verdict("witness"), "PASS");
        let missed = written("ok", false).judged("witness");
        assert_eq!(missed.verdict.word(), "INVALID");
        assert!(missed.message.contains("shop/work-1 at 11"), "{}", missed.message);
        let mut gap = written("ok", false);
        gap.gap("configmaps");
        assert_eq!(gap.at(70.0).checks_with("witness"), 0, "it says that it was blind");
    }

    #[test]
    fn a_write_that_was_done_must_be_told_of() {
        assert_eq!(written("ok", true).verdict("workload"), "PASS");
        assert_eq!(written("unknown", true).verdict("workload"), "PASS");
        assert_eq!(written("refused", true).verdict("workload"), "INVALID");
        assert_eq!(written("silent", true).verdict("workload"), "INVALID");
        assert_eq!(written("silent", false).verdict("workload"), "INVALID", "by the audit alone");
    }

    #[test]
    fn a_workload_that_did_nothing_is_none() {
        assert_eq!(Tape::new(working()).at(60.0).verdict("workload"), "INVALID");
        let mut reads = Tape::new(working());
        reads.at(59.0).read("work-0", None, (58.0, 0));
        assert_eq!(reads.at(60.0).verdict("workload"), "INVALID");
        assert_eq!(Tape::new(kill()).at(60.0).checks_with("workload"), 0);
    }

    #[test]
    fn whatever_was_lost_moved_or_changed_breaks_the_seal() {
        let (plan, whole) = written("ok", true).finish();
        let trouble = |events: &[Event]| {
            let checks = crate::judge(&plan, events).checks;
            checks.into_iter().find(|check| check.id == "timeline").map(|check| check.message)
        };
        assert_eq!(trouble(&whole), None);
        let number = |events: &mut [Event]| {
            (0..).zip(events).for_each(|(seq, event)| event.seq = seq);
        };
        let mut lost = whole.clone();
        lost.remove(6);
        number(&mut lost);
        assert!(trouble(&lost).is_some_and(|why| why.contains("not everything")));
        let mut moved = whole.clone();
        let (before, after) = moved.split_at_mut(7);
        std::mem::swap(&mut before[6].what, &mut after[0].what);
        assert!(trouble(&moved).is_some_and(|why| why.contains("moved")));
        let mut dated = whole.clone();
        dated[6].at_us += 1;
        assert!(trouble(&dated).is_some_and(|why| why.contains("dated")));
        let mut unsealed = whole.clone();
        unsealed.retain(|event| !matches!(event.what, What::Sealed { .. }));
        number(&mut unsealed);
        assert!(trouble(&unsealed).is_some_and(|why| why.contains("not sealed")));
    }

    #[test]
    fn a_seal_of_format_2_is_read_as_it_was_made() {
        let (plan, mut old) = written("ok", true).finish();
        old[0].what = What::Run { format: 2, target: "sim".to_owned(), seed: 1 };
        let trouble = |events: &[Event]| {
            let checks = crate::judge(&plan, events).checks;
            checks.into_iter().find(|check| check.id == "timeline").map(|check| check.message)
        };
        assert!(trouble(&old).is_some_and(|why| why.contains("moved")), "it has the newer seal");
        let mut seal = Seal::of_format(2);
        let began = |event: &&mut Event| !matches!(event.what, What::ScenarioBegan { .. });
        for event in old.iter_mut().skip_while(began) {
            if let What::Sealed { digest, .. } = &mut event.what {
                *digest = seal.digest();
                break;
            }
            seal.chain(event.at_us, event.error_us, &event.what);
        }
        assert_eq!(trouble(&old), None);
    }
}
