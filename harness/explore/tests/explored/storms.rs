//! Storms against the orchestrator as it is and with planted defects: the clean one raises no alarm, a
//! defect is found, and what it is shrunk to is a file that fails for the same reason.

use std::sync::atomic::{AtomicBool, Ordering};

use shakedown_core::target::Target;
use shakedown_core::verdict::Verdict;
use shakedown_explore::campaign::attempt;
use shakedown_explore::reason::reasons;
use shakedown_explore::{Bounds, Document, Outcome, Summary, campaign, document, keep, storm};
use shakedown_target_sim::SimTarget;

fn explore(first: u64, runs: u64, jobs: usize, sabotages: &[&str]) -> (Summary, Vec<Outcome>) {
    let abilities = SimTarget::new(0).abilities();
    let sabotages: Vec<String> = sabotages.iter().map(|name| (*name).to_owned()).collect();
    let source = |seed| storm(seed, &abilities).plan(seed, &sabotages);
    let stop = AtomicBool::new(false);
    let mut found = Vec::new();
    let summary = campaign(Bounds { first, runs, jobs }, &source, &stop, &mut |outcome, _| {
        if !outcome.reasons.is_empty() {
            found.push(outcome.clone());
            // One is enough.
            stop.store(true, Ordering::Relaxed);
        }
    });
    (summary, found)
}

#[test]
fn clean_storms_raise_no_alarm_whatever_the_number_of_threads() {
    let (alone, found) = explore(200, 24, 1, &[]);
    assert!(found.is_empty(), "{found:#?}");
    let passed = alone.verdicts.get("PASS").copied().unwrap_or(0);
    assert!(passed >= 22, "{:?}", alone.untold);
    assert!(alone.repeated > 0 && alone.operations > 1000, "nothing happened: {alone:?}");
    let (together, _) = explore(200, 24, 3, &[]);
    assert_eq!(alone, together, "the summary follows from the seeds");
}

#[test]
fn a_planted_defect_is_found_shrunk_and_fails_again_from_its_file() {
    let sabotage = ["replicaset-off-by-one".to_owned()];
    let (_, found) = explore(1, 20, 1, &["replicaset-off-by-one"]);
    let first = found.first().expect("twenty storms do not overlook a pod too many");
    assert_eq!(first.verdict, Verdict::Fail);
    let whole = storm(first.seed, &SimTarget::new(0).abilities());
    let out = std::env::temp_dir().join(format!("shakedown-storms-{}", std::process::id()));
    let kept = keep(&out, &whole, first.seed, &sabotage, &first.reasons).expect("it can be kept");
    assert!(kept.is_reproduced && kept.steps.1 < kept.steps.0, "{kept:?}");

    let text = std::fs::read_to_string(&kept.path).expect("the scenario is there");
    let read = shakedown_core::yaml::parse("scenario.yaml", &text).expect("it is YAML");
    let again = Document { id: whole.id.clone(), value: read[0].value.clone() };
    assert!(text.ends_with(&document::write(&again.value)), "the file is the document");
    let plan = again.plan(first.seed, &sabotage).expect("it can be planned");
    let one = attempt(&plan, first.seed).expect("it ends");
    assert_eq!(reasons(&plan, &one.verdict), first.reasons, "for the same reasons");

    let clean = again.plan(first.seed, &[]).expect("it can be planned");
    let one = attempt(&clean, first.seed).expect("it ends");
    assert!(reasons(&clean, &one.verdict).is_empty(), "without the defect nothing fails");
    std::fs::remove_dir_all(&out).expect("the folder was made above");
}
