//! Calibration: before it judges anything, the judge judges a few timelines whose verdicts are known.
//!
//! Each stands for one way in which a judge goes wrong: windows, gaps, missing data, invariants,
//! verdicts. A judge that gets one of them wrong is broken, and what else it says is worth nothing.
//! The judge is pure: one without planted defects is calibrated once in a process.

use std::sync::OnceLock;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Value, json};
use shakedown_core::condition::Condition;
use shakedown_core::lever::Undo;
use shakedown_core::partial::Partial;
use shakedown_core::plan::{
    Action, Blast, Check, Ends, FORMAT, FaultStep, Plan, START, Step, Word,
};
use shakedown_core::seal::Seal;
use shakedown_core::target::ClusterSpec;
use shakedown_core::timeline::{
    Change, Event, Evidence, FORMAT as TIMELINE_FORMAT, FaultPhase, What,
};
use shakedown_core::verdict::{CheckVerdict, Verdict};
use shakedown_core::window::Window;

use crate::finding::Judged;

const SCENARIO: &str = "calibration";
const MOMENT: &str = "moment";

/// What is wrong with the judge, if anything is.
pub(crate) fn judge(of: &Plan) -> Option<CheckVerdict> {
    static SOUND: OnceLock<Option<CheckVerdict>> = OnceLock::new();
    let sabotages = of.cluster.sabotages.clone();
    let cluster =
        ClusterSpec { control_planes: 1, workers: 1, sabotages, ..ClusterSpec::default() };
    match cluster.sabotages.is_empty() {
        true => SOUND.get_or_init(|| calibrate(&cluster)).clone(),
        false => calibrate(&cluster),
    }
}

fn calibrate(cluster: &ClusterSpec) -> Option<CheckVerdict> {
    let wrong: Vec<_> = samples(cluster)
        .into_iter()
        .filter_map(|sample| {
            let found = crate::judge_uncalibrated(&sample.plan, &sample.events).verdict;
            (found != sample.verdict).then(|| {
                let (found, known) = (found.word(), sample.verdict.word());
                format!("{} is {known}, and was judged {found}", sample.name)
            })
        })
        .collect();
    (!wrong.is_empty()).then(|| {
        let message = format!("the judge errs on known timelines: {}", wrong.join("; "));
        Judged::new(Verdict::Harness, message).into_check("calibration")
    })
}

/// A timeline whose verdict is known.
struct Sample {
    name: &'static str,
    plan: Plan,
    events: Vec<Event>,
    verdict: Verdict,
}

fn sample(name: &'static str, plan: Plan, tape: Tape, verdict: Verdict) -> Sample {
    Sample { name, plan, events: tape.end(), verdict }
}

fn bound(node: &str) -> Value {
    json!({"nodeName": node})
}

fn samples(cluster: &ClusterSpec) -> Vec<Sample> {
    let mut all = of_windows(cluster);
    all.extend(of_the_rest(cluster));
    all
}

fn of_windows(cluster: &ClusterSpec) -> Vec<Sample> {
    let plan = |action| plan(cluster, action);
    let eventually = || plan(check(Word::Eventually));
    let never = || plan(check(Word::Never));
    vec![
        sample(
            "what comes in its window",
            eventually(),
            Tape::begin().pod(35, "a", bound("n1")),
            Verdict::Pass,
        ),
        sample(
            "what comes too early",
            eventually(),
            Tape::begin().pod(10, "a", bound("n1")),
            Verdict::Fail,
        ),
        sample(
            "what comes too late",
            eventually(),
            Tape::begin().pod(5, "b", bound("n1")).pod(50, "a", bound("n1")),
            Verdict::Fail,
        ),
        sample(
            "what never comes",
            eventually(),
            Tape::begin().pod(5, "b", bound("n1")),
            Verdict::Fail,
        ),
        sample("what must not be", never(), Tape::begin().pod(35, "a", bound("n1")), Verdict::Fail),
        sample(
            "what may be before its window",
            never(),
            Tape::begin().pod(5, "b", bound("n1")),
            Verdict::Pass,
        ),
        sample(
            "a window that was not watched",
            never(),
            Tape::begin().pod(5, "b", bound("n1")).gap(35),
            Verdict::Invalid,
        ),
        sample("an empty world", never(), Tape::begin(), Verdict::Invalid),
    ]
}

fn of_the_rest(cluster: &ClusterSpec) -> Vec<Sample> {
    let plan = |action| plan(cluster, action);
    let eventually = || plan(check(Word::Eventually));
    let mut asked = eventually();
    asked.invariants = vec!["linearizable".to_owned()];
    let mut holed = Tape::begin().pod(35, "a", bound("n1")).end();
    holed.remove(2);
    vec![
        sample(
            "an invariant without data",
            asked,
            Tape::begin().pod(35, "a", bound("n1")),
            Verdict::Invalid,
        ),
        sample(
            "a pod on two nodes",
            eventually(),
            Tape::begin().pod(35, "a", bound("n1")).pod(36, "a", bound("n2")),
            Verdict::Fail,
        ),
        sample(
            "a fault that was never proven",
            plan(fault()),
            Tape::begin().fault(&[
                FaultPhase::Unproven,
                FaultPhase::Removed,
                FaultPhase::HealProven,
            ]),
            Verdict::Invalid,
        ),
        sample(
            "a fault that was never healed",
            plan(fault()),
            Tape::begin().fault(&[FaultPhase::Proven, FaultPhase::Removed]),
            Verdict::Harness,
        ),
        Sample {
            name: "a timeline with a hole",
            plan: eventually(),
            events: holed,
            verdict: Verdict::Invalid,
        },
    ]
}

fn plan(cluster: &ClusterSpec, action: Action) -> Plan {
    Plan {
        format: FORMAT,
        scenario: SCENARIO.to_owned(),
        title: String::new(),
        proves: vec![],
        seed: 1,
        cluster: cluster.clone(),
        needs: vec![],
        blast: Blast::Cluster,
        given: vec![],
        bind: IndexMap::new(),
        workload: None,
        steps: vec![Step { index: 0, moment: "step".into(), source: String::new(), action }],
        invariants: vec![],
        reaches: vec![],
    }
}

/// That the pod `a` is there, 30 to 45 s after the moment.
fn check(word: Word) -> Action {
    let object = Partial {
        kind: "pods".to_owned(),
        namespace: Some("x".to_owned()),
        name: "a".to_owned(),
        exists: true,
        fields: json!({}),
    };
    Action::Check(Check {
        id: "step-0".to_owned(),
        word,
        condition: Condition { object: Some(object), cel: None },
        window: Window { low: Duration::from_secs(30), high: Duration::from_secs(45) },
        after: MOMENT.to_owned(),
        hold: Duration::ZERO,
    })
}

fn fault() -> Action {
    Action::Fault(FaultStep {
        fault: "node-kill".to_owned(),
        on: vec![],
        sides: vec![],
        fields: std::collections::BTreeMap::new(),
        ends: Ends::WithScenario,
    })
}

/// A timeline in the making; it begins with the moment, and ends a minute later.
struct Tape {
    events: Vec<Event>,
    seal: Seal,
    revision: i64,
}

impl Tape {
    fn begin() -> Self {
        let tape = Self { events: vec![], seal: Seal::default(), revision: 100 };
        let run = What::Run { format: TIMELINE_FORMAT, target: SCENARIO.into(), seed: 1 };
        tape.see(0, run)
            .see(0, What::ScenarioBegan { id: SCENARIO.into() })
            .see(0, What::Moment { name: START.into() })
            .see(0, What::Moment { name: MOMENT.into() })
    }

    fn see(mut self, seconds: u64, what: What) -> Self {
        let at_us = seconds * 1_000_000;
        // The run began before the scenario, whose seal this is.
        if !matches!(what, What::Run { .. }) {
            self.seal.count(&what);
            self.seal.chain(at_us, 0, &what);
        }
        let (seq, scenario) = (self.events.len() as u64, SCENARIO.to_owned());
        self.events.push(Event { seq, at_us, error_us: 0, scenario, what });
        self
    }

    fn pod(mut self, seconds: u64, name: &str, spec: Value) -> Self {
        self.revision += 1;
        let metadata = json!({"namespace": "x", "name": name, "uid": name});
        let object = json!({"metadata": metadata, "spec": spec, "status": {}}).into();
        let revision = self.revision;
        self.see(
            seconds,
            What::Object { change: Change::Modified, kind: "pods".into(), revision, object },
        )
    }

    fn gap(self, seconds: u64) -> Self {
        self.see(seconds, What::WitnessGap { kind: "pods".into(), why: String::new() })
    }

    /// A fault that was applied, and then came to these phases.
    fn fault(mut self, then: &[FaultPhase]) -> Self {
        let first = [FaultPhase::Planned, FaultPhase::UndoLogged, FaultPhase::Applied];
        for phase in first.into_iter().chain(then.iter().copied()) {
            let holds = phase != FaultPhase::Unproven;
            let text = String::new();
            let evidence = Evidence { kind: "counter".into(), text, holds, reading: None };
            self = self.see(
                10,
                What::Fault {
                    name: "step".into(),
                    fault: "node-kill".into(),
                    phase,
                    targets: vec!["n1".into()],
                    undo: vec![Undo::StartNode { node: "n1".into() }],
                    evidence: vec![evidence],
                },
            );
        }
        self
    }

    fn end(mut self) -> Vec<Event> {
        let counts = std::mem::take(&mut self.seal.counts);
        let digest = self.seal.digest();
        let sealed = self.see(60, What::Sealed { counts, digest });
        sealed.see(60, What::ScenarioEnded { id: SCENARIO.into() }).events
    }
}

#[cfg(test)]
mod tests {
    use shakedown_core::sabotage::Sabotage;

    use crate::testing::kill;

    #[test]
    fn a_sound_judge_is_calibrated_and_each_defect_shows() {
        assert_eq!(super::judge(&kill()), None);
        let defects = Sabotage::ALL.iter().filter(|one| one.name().starts_with("judge-"));
        for defect in defects {
            let mut plan = kill();
            plan.cluster.sabotages = vec![defect.name().to_owned()];
            assert!(super::judge(&plan).is_some(), "{defect} is not noticed");
        }
    }
}
