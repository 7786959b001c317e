//! `traffic`: a workload must have done something while nothing was broken, or the run shows nothing.
//!
//! INCONCLUSIVE if fewer than one in four of the operations were answered that its rate promises for the
//! time in which no fault was in effect, or if no write was acknowledged at all.

use shakedown_core::plan::START;
use shakedown_core::timeline::What;
use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::finding::Judged;
use crate::scene::{Instant, Scene, seconds};

/// The id of the check.
pub const ID: &str = "traffic";

/// For times shorter than this nothing is asked.
const SHORT_US: i64 = 10_000_000;

/// Judges, if the plan has a workload that reads or writes.
pub(crate) fn judge(scene: &Scene<'_>) -> Option<CheckVerdict> {
    let workload = scene.plan.workload.as_ref()?;
    if !workload.mix.iter().any(|(verb, share)| verb != "watch" && *share > 0) {
        return None;
    }
    let ops = &scene.history().ops;
    let calm = calm(scene);
    let lasted: i64 = calm.iter().map(|(from, to)| to - from).sum();
    let answered = ops.iter().filter(|op| {
        let place = calm.partition_point(|(_, to)| *to < op.answered.at_us);
        op.acked().is_some() && calm.get(place).is_some_and(|(from, _)| *from <= op.answered.at_us)
    });
    let answered = answered.count();
    let written = ops.iter().filter(|op| op.is_write() && op.acked().is_some()).count();
    let least = (workload.rate * lasted as f64 / 1e6 / 4.0) as usize;
    let wants_writes = workload
        .mix
        .iter()
        .any(|(verb, share)| *share > 0 && !["get", "list", "watch"].contains(&verb.as_str()));
    let told = format!(
        "{answered} operations answered in {} without a fault, at least {least} are asked for; {written} \
         writes acknowledged",
        seconds(lasted)
    );
    let is_little = lasted >= SHORT_US && answered < least;
    let verdict = match is_little || (wants_writes && written == 0) {
        true => Verdict::Inconclusive,
        false => Verdict::Pass,
    };
    Some(Judged::new(verdict, told).into_check(ID))
}

/// The times between the scenario's start and the last operation in which no fault was in effect.
fn calm(scene: &Scene<'_>) -> Vec<(i64, i64)> {
    let ops = &scene.history().ops;
    let started = scene.own().iter().find_map(|event| match &event.what {
        What::Moment { name } if name == START => Some(Instant::of(event).at_us),
        _ => None,
    });
    let first = started.or(ops.iter().map(|op| op.call_us).min()).unwrap_or(0);
    let last = ops.iter().map(|op| op.answered.at_us).max().unwrap_or(0);
    let mut broken: Vec<(i64, i64)> = scene
        .faults
        .iter()
        .filter_map(|span| Some((span.began()?.0, span.over().unwrap_or(i64::MAX))))
        .collect();
    broken.sort_unstable();
    let mut calm = Vec::new();
    let mut since = first;
    for (from, to) in broken {
        if from > since {
            calm.push((since, from.min(last)));
        }
        since = since.max(to);
    }
    if since < last {
        calm.push((since, last));
    }
    calm.retain(|(from, to)| from < to);
    calm
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shakedown_core::plan::Workload;

    use crate::testing::{Tape, kill};

    /// One operation a second is asked for; so many are done in twenty seconds.
    fn verdict(reads: u32, writes: u32) -> String {
        let mut plan = kill();
        plan.workload = Some(Workload {
            clients: 1,
            mix: BTreeMap::from([("get".to_owned(), 1), ("update".to_owned(), 1)]),
            over: "configmaps".to_owned(),
            keys: 1,
            rate: 1.0,
        });
        let mut tape = Tape::new(plan);
        for at in 0..reads {
            let time = 20.0 * f64::from(at + 1) / f64::from(reads);
            tape.at(time).read("a", None, (time - 0.1, 0));
        }
        for _ in 0..writes {
            tape.config_map("a", 10, Some("one"));
            tape.op("create", "a", Some("one"), (19.9, 10));
        }
        tape.at(60.0).verdict(super::ID)
    }

    #[test]
    fn little_or_no_traffic_is_inconclusive() {
        assert_eq!(verdict(20, 1), "PASS");
        assert_eq!(verdict(2, 1), "INCONCLUSIVE");
        assert_eq!(verdict(20, 0), "INCONCLUSIVE");
        assert_eq!(verdict(0, 0), "INCONCLUSIVE");
    }

    #[test]
    fn without_a_workload_nothing_is_asked() {
        assert_eq!(Tape::new(kill()).at(60.0).checks_with(super::ID), 0);
    }
}
