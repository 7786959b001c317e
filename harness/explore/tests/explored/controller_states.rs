//! States of controllers, from one small scenario: the orchestrator as it is raises no alarm in any of
//! them, and a defect that the scenario itself does not notice is found and kept.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use shakedown_core::verdict::Verdict;
use shakedown_explore::Document;
use shakedown_explore::controller_states::{
    Asked, Outcome, Pattern, Reference, Report, explore, judged, learn, quiet, same_waits,
};
use shakedown_explore::keep::{Found, keep_found};
use shakedown_explore::reason::reasons;
use shakedown_judge::differential;

/// A Deployment of two pods gets a new template.
fn scenario() -> Document {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "web", "image": "kubetm/app:v1"}],
                },
            },
        },
    });
    let again = json!({"template": {"metadata": {"labels": {"app": "web", "release": "two"}}}});
    let steps = json!([
        {"patch": {"deployment": "web", "spec": again}, "as": "updated"},
        {
            "settles": {"deployment": "web", "status": {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}},
            "within": ["0s", "30s"],
            "after": "updated",
        },
    ]);
    let value = json!({
        "apiVersion": "shakedown.dev/v1",
        "kind": "Scenario",
        "metadata": {"name": "small"},
        "spec": {
            "title": "A new template is rolled out",
            "proves": [],
            "cluster": {"controlPlanes": 1, "workers": 2},
            "given": [{"manifest": deployment}],
            "steps": steps,
        },
    });
    Document { id: "test/small".to_owned(), value }
}

fn asked(sabotages: &[&str], runs: Option<u64>, jobs: usize) -> Asked {
    let sabotages = sabotages.iter().map(|name| (*name).to_owned()).collect();
    Asked { seed: 5, runs, jobs, sabotages }
}

fn learnt() -> &'static Reference {
    static LEARNT: OnceLock<Reference> = OnceLock::new();
    LEARNT.get_or_init(|| learn(&scenario(), &asked(&[], None, 1)).expect("it passes"))
}

fn go(reference: &Reference, asked: &Asked) -> (Report, Vec<Outcome>) {
    let mut all = Vec::new();
    let stop = AtomicBool::new(false);
    let report = explore(std::slice::from_ref(reference), asked, &stop, &mut |outcome, _| {
        all.push(outcome.clone());
    });
    (report, all)
}

#[test]
fn what_is_learnt_is_paired_and_pruned() {
    let counts = learnt().counts["kube-controller-manager"];
    let steps = [
        counts.pairs,
        counts.timeless,
        counts.changing,
        counts.related,
        counts.latest,
        counts.unlike,
    ];
    assert!(steps.is_sorted_by(|more, less| more >= less), "no step adds any: {counts:?}");
    assert!(counts.unlike > 10 && counts.unlike_writes > 5, "{counts:?}");
    for pattern in Pattern::ALL {
        let is_one =
            |state: &&shakedown_explore::controller_states::State| state.pattern == *pattern;
        assert!(learnt().states.iter().filter(is_one).count() > 2, "{pattern:?}");
    }
    let again = learn(&scenario(), &asked(&[], None, 1)).expect("it passes");
    assert_eq!(again.states, learnt().states, "the same seed teaches the same");
}

#[test]
fn the_clean_build_raises_no_alarm_whatever_the_number_of_threads() {
    let (alone, outcomes) = go(learnt(), &asked(&[], Some(12), 1));
    let alarms: Vec<_> = outcomes.iter().filter(|outcome| !outcome.reasons.is_empty()).collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
    let [states, runs, reached, passed, findings, untold] = alone.sums();
    assert!(states > 60 && runs == 12, "{states} states, {runs} runs");
    assert!(
        reached >= 11 && passed == reached,
        "{reached} reached, {passed} passed: {outcomes:#?}"
    );
    assert_eq!((findings, untold), (0, 0));
    let (together, _) = go(learnt(), &asked(&[], Some(12), 3));
    assert_eq!(alone, together, "the counts follow from the seed");
}

#[test]
fn a_state_that_is_not_reached_is_no_pass() {
    let mut reference = learnt().clone();
    reference.states.truncate(1);
    let steps = reference.states[0].document.value["spec"]["steps"].as_array_mut();
    steps.expect("it has steps")[0]["nth"] = json!(10_000);
    let (report, outcomes) = go(&reference, &asked(&[], None, 1));
    let [_, runs, reached, passed, findings, untold] = report.sums();
    assert_eq!((runs, reached, passed, findings, untold), (1, 0, 0, 0, 0), "{outcomes:?}");
    assert!(outcomes[0].missed() && outcomes[0].verdict == Verdict::Invalid);
}

#[test]
fn a_defect_that_the_scenario_does_not_notice_is_found_and_kept() {
    let sabotages = ["revision-in-memory".to_owned()];
    let asked = asked(&["revision-in-memory"], None, 2);
    let mut reference = learn(&scenario(), &asked).expect("without a crash nothing is wrong");
    reference.states.retain(|state| {
        state.pattern == Pattern::CrashBefore && state.controller == "deployment-controller"
    });
    let (report, outcomes) = go(&reference, &asked);
    assert!(report.sums()[4] > 0, "{report:?}");
    let found = outcomes.iter().find(|outcome| !outcome.reasons.is_empty()).expect("it is counted");
    assert_eq!(found.verdict, Verdict::Fail);
    assert!(found.reasons.contains(differential::ID), "{found:?}");

    let document = &reference.states[found.state].document;
    let folder = std::env::temp_dir().join(format!("shakedown-states-{}", std::process::id()));
    let by = "explore --controllers";
    let kept = Found {
        folder: &folder,
        document,
        seed: asked.seed,
        sabotages: &sabotages,
        reasons: &found.reasons,
        by,
    };
    let compare = |document: &Document, sabotages: &[String]| {
        let reference = quiet(document, asked.seed, sabotages)?;
        judged(document, &reference.events, asked.seed, sabotages)
    };
    let kept = keep_found(&kept, by, &|candidate| match same_waits(document, candidate) {
        true => compare(candidate, &sabotages),
        false => Err(("less time".to_owned(), String::new())),
    });
    let kept = kept.expect("it can be kept");
    assert!(kept.is_reproduced && kept.steps.1 <= kept.steps.0, "{kept:?}");
    let text = std::fs::read_to_string(&kept.path).expect("the scenario is there");
    let read = shakedown_core::yaml::parse("scenario.yaml", &text).expect("it is YAML");
    let again = Document { id: document.id.clone(), value: read[0].value.clone() };
    let (plan, one) = compare(&again, &sabotages).expect("it ends");
    assert_eq!(reasons(&plan, &one.verdict), found.reasons, "for the same reasons");
    let (plan, one) = compare(&again, &[]).expect("it ends");
    assert!(reasons(&plan, &one.verdict).is_empty(), "without the defect nothing fails");
    std::fs::remove_dir_all(&folder).expect("the folder was made above");
}
