//! Runs the references, then the states, on several threads, and counts what came of them.
//!
//! Invariant: what is counted follows from scenarios and seed, however many threads there are.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use shakedown_core::plan::{Action, Plan};
use shakedown_core::timeline::{Event, What};
use shakedown_core::verdict::Verdict;
use shakedown_judge::differential;

use super::plans::{Pattern, State, states};
use super::prune::{Counts, prune};
use super::reference::{has_state, is_state, patient, without_states};
use super::trace::{SUBJECTS, Trace};
use crate::campaign::attempt;
use crate::document::Document;
use crate::draw::Draw;
use crate::one::One;
use crate::ordered::ordered;
use crate::reason::{Reasons, reasons};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Decides every choice of every run.
    pub seed: u64,
    /// How many states at most: a sample that follows from the seed.
    pub runs: Option<u64>,
    /// How many threads.
    pub jobs: usize,
    /// Planted defects.
    pub sabotages: Vec<String>,
}

/// A run to compare with, and what was learnt from it.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The scenario, with time for a fault.
    pub document: Document,
    /// What was seen.
    pub events: Vec<Event>,
    /// By component: what its pairs came to.
    pub counts: BTreeMap<&'static str, Counts>,
    /// The states to go through, in order.
    pub states: Vec<State>,
}

/// Whether the place was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reached {
    /// The rule was met.
    Yes,
    /// It was in force, and its occasion did not come.
    No,
    /// The run came to nothing, so that nobody knows.
    Unknown,
}

/// What came of a state.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The reference's place among the references.
    pub reference: usize,
    /// The state's place among the reference's.
    pub state: usize,
    /// Whether its place was reached.
    pub reached: Reached,
    /// The verdict, the comparison included. What could not be run to its end is FAIL.
    pub verdict: Verdict,
    /// Why it is a finding; empty if it is none.
    pub reasons: Reasons,
    /// For people: what failed, or why nothing could be told.
    pub message: String,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
}

impl Outcome {
    /// Whether the state was reached and all promises were kept.
    pub fn passed(&self) -> bool {
        self.reached == Reached::Yes && self.verdict == Verdict::Pass
    }

    /// Whether its place was not reached, and nothing else was wrong.
    pub fn missed(&self) -> bool {
        self.reached == Reached::No && self.reasons.is_empty()
    }
}

/// What became of the states of one component of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// The component.
    pub component: String,
    /// How it came to its states.
    pub counts: Counts,
    /// Its states.
    pub states: u64,
    /// Of these, run.
    pub runs: u64,
    /// Of these, with a place that was reached.
    pub reached: u64,
    /// Of these, without anything wrong.
    pub passed: u64,
    /// Runs in which a promise was broken.
    pub findings: u64,
    /// Runs of which nothing could be told.
    pub untold: u64,
}

/// The counts of a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// By scenario and component, in their order.
    pub rows: Vec<Row>,
    /// How often each pattern was reached in each controller, and how often it passed.
    pub coverage: BTreeMap<String, BTreeMap<Pattern, (u64, u64)>>,
    /// Virtual time of all runs.
    pub virtual_ms: u64,
}

impl Report {
    /// The rows of what is to be run.
    pub fn of(references: &[Reference]) -> Self {
        let rows = references.iter().flat_map(|reference| {
            reference.counts.iter().map(|(component, counts)| Row {
                scenario: reference.document.id.clone(),
                component: (*component).to_owned(),
                counts: *counts,
                states: reference
                    .states
                    .iter()
                    .filter(|state| state.component == *component)
                    .count() as u64,
                ..Row::default()
            })
        });
        Self { rows: rows.collect(), ..Self::default() }
    }

    /// The sums of all rows: states, runs, reached, passed, findings, untold.
    pub fn sums(&self) -> [u64; 6] {
        self.rows.iter().fold([0; 6], |sum, row| {
            let of = [row.states, row.runs, row.reached, row.passed, row.findings, row.untold];
            std::array::from_fn(|at| sum[at] + of[at])
        })
    }

    fn add(&mut self, reference: &Reference, outcome: &Outcome) {
        let state = &reference.states[outcome.state];
        let row = self
            .rows
            .iter_mut()
            .find(|row| row.scenario == reference.document.id && row.component == state.component);
        let is_reached = outcome.reached == Reached::Yes;
        let is_finding = !outcome.reasons.is_empty();
        let is_untold = !is_finding && !outcome.passed() && !outcome.missed();
        if let Some(row) = row {
            row.runs += 1;
            row.reached += u64::from(is_reached);
            row.passed += u64::from(outcome.passed());
            row.findings += u64::from(is_finding);
            row.untold += u64::from(is_untold);
        }
        let patterns = self.coverage.entry(state.controller.to_owned()).or_default();
        let (reached, passed) = patterns.entry(state.pattern).or_default();
        *reached += u64::from(is_reached);
        *passed += u64::from(outcome.passed());
        self.virtual_ms += outcome.virtual_ms;
    }
}

/// Runs a scenario without a fault, and learns which states to go through. A document that has such a
/// fault already is the one state, and its reference is what is left without it.
pub fn learn(document: &Document, asked: &Asked) -> Result<Reference, String> {
    let steps = document.value["spec"]["steps"].as_array();
    let has_state = steps.is_some_and(|steps| steps.iter().any(is_state));
    let quiet = match has_state {
        true => without_states(document),
        false => patient(document, asked.seed)?,
    };
    let (plan, one) = without(&quiet, asked.seed, &asked.sabotages)
        .map_err(|(_, why)| format!("{}: {why}", quiet.id))?;
    let trace = Trace::of(&plan, &one.events);
    let mut counts = BTreeMap::new();
    let mut all = Vec::new();
    for subject in SUBJECTS {
        let pruned = prune(&trace, subject);
        if !has_state {
            all.extend(states(&quiet, &trace, &pruned, subject));
        }
        counts.insert(subject.component.name(), pruned.counts);
    }
    if has_state {
        all.push(given(document, &document.plan(asked.seed, &asked.sabotages)?)?);
        let component = all[0].component;
        counts.retain(|known, _| *known == component);
    }
    Ok(Reference { document: quiet, events: one.events, counts, states: all })
}

/// The state that a document brings about.
fn given(document: &Document, plan: &Plan) -> Result<State, String> {
    let fault = plan.steps.iter().find_map(|step| match &step.action {
        Action::Fault(fault) if has_state(&fault.fault) => Some(fault),
        _ => None,
    });
    let fault = fault.ok_or("it has no such fault")?;
    let field = |name: &str| fault.fields.get(name).and_then(serde_json::Value::as_str);
    let component = SUBJECTS
        .iter()
        .map(|subject| subject.component.name())
        .find(|name| Some(*name) == field("component"))
        .ok_or("its fault is in no component whose states are gone through")?;
    let is_done = fault.fields.get("done") == Some(&serde_json::Value::Bool(true));
    let pattern = match fault.fault.as_str() {
        "crash-at-write" if is_done => Pattern::CrashAfter,
        "crash-at-write" => Pattern::CrashBefore,
        "hold-events" => Pattern::Late,
        "freeze-view" => Pattern::Stale,
        _ => Pattern::Rewound,
    };
    let place = plan.title.clone();
    Ok(State { pattern, controller: component, component, place, document: document.clone() })
}

/// Runs what is left of a document without the fault by which a state is reached; it must pass.
pub fn quiet(
    document: &Document,
    seed: u64,
    sabotages: &[String],
) -> Result<One, (String, String)> {
    without(&without_states(document), seed, sabotages).map(|(_, one)| one)
}

fn without(
    document: &Document,
    seed: u64,
    sabotages: &[String],
) -> Result<(Plan, One), (String, String)> {
    let plan =
        document.plan(seed, sabotages).map_err(|why| ("cannot be planned".to_owned(), why))?;
    let one = attempt(&plan, seed)?;
    let bad = one.verdict.checks.iter().filter(|check| check.verdict != Verdict::Pass);
    let told: Vec<_> = bad
        .map(|check| format!("{} {}: {}", check.verdict.word(), check.id, check.message))
        .collect();
    match one.verdict.verdict {
        Verdict::Pass => Ok((plan, one)),
        _ => Err((
            "does not pass without a fault".to_owned(),
            format!("it does not pass without a fault: {}", told.join("; ")),
        )),
    }
}

/// Runs a document and adds the comparison with its reference's timeline to the verdict.
pub fn judged(
    document: &Document,
    reference: &[Event],
    seed: u64,
    sabotages: &[String],
) -> Result<(Plan, One), (String, String)> {
    let plan =
        document.plan(seed, sabotages).map_err(|why| ("cannot be planned".to_owned(), why))?;
    let mut one = attempt(&plan, seed)?;
    one.verdict.checks.push(differential(reference, &one.events, &plan));
    one.verdict.verdict = Verdict::worst(one.verdict.checks.iter().map(|check| check.verdict));
    Ok((plan, one))
}

/// Runs the states of the references, or a sample of them. `stop` ends it after the runs under way;
/// `seen` is called with every outcome in order, and with the counts so far.
pub fn explore(
    references: &[Reference],
    asked: &Asked,
    stop: &AtomicBool,
    seen: &mut dyn FnMut(&Outcome, &Report),
) -> Report {
    let chosen = chosen(references, asked);
    let mut report = Report::of(references);
    let work = |index: u64| {
        let (reference, state) = chosen[usize::try_from(index).expect("a place in a list")];
        one_state(references, (reference, state), asked)
    };
    ordered(chosen.len() as u64, asked.jobs, stop, &work, &mut |_, outcome| {
        report.add(&references[outcome.reference], &outcome);
        seen(&outcome, &report);
    });
    report
}

/// Every state, or as many as are asked for: each has the same chance, and they keep their order.
fn chosen(references: &[Reference], asked: &Asked) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = references
        .iter()
        .enumerate()
        .flat_map(|(at, reference)| (0..reference.states.len()).map(move |state| (at, state)))
        .collect();
    let most = asked.runs.and_then(|runs| usize::try_from(runs).ok()).unwrap_or(usize::MAX);
    let mut random = Draw::new(asked.seed, "controller states");
    while all.len() > most {
        all.remove(random.below(all.len()));
    }
    all
}

fn one_state(references: &[Reference], (at, state): (usize, usize), asked: &Asked) -> Outcome {
    let reference = &references[at];
    let document = &reference.states[state].document;
    let mut outcome = Outcome {
        reference: at,
        state,
        reached: Reached::Unknown,
        verdict: Verdict::Fail,
        reasons: Reasons::new(),
        message: String::new(),
        virtual_ms: 0,
    };
    match judged(document, &reference.events, asked.seed, &asked.sabotages) {
        Ok((plan, one)) => {
            outcome.reached = reached(&one.events);
            outcome.verdict = one.verdict.verdict;
            outcome.reasons = reasons(&plan, &one.verdict);
            outcome.message = worst(&one);
            outcome.virtual_ms = u64::try_from(one.virtual_time.as_millis()).unwrap_or(u64::MAX);
        }
        Err((reason, why)) => {
            outcome.reasons.insert(reason);
            outcome.message = why;
        }
    }
    outcome
}

/// Whether the rule of a run was met.
pub fn reached(events: &[Event]) -> Reached {
    use shakedown_core::lever::Reading;
    let mut reached = Reached::Unknown;
    for event in events {
        let What::Fault { fault, evidence, .. } = &event.what else { continue };
        for piece in evidence.iter().filter(|_| has_state(fault)) {
            match piece.reading {
                Some(Reading::Meddled { in_place: true, hits: 0 }) if reached != Reached::Yes => {
                    reached = Reached::No;
                }
                Some(Reading::Meddled { in_place: true, hits: 1.. }) => reached = Reached::Yes,
                _ => {}
            }
        }
    }
    reached
}

/// What the worst check of a run says.
fn worst(one: &One) -> String {
    let mut checks = one.verdict.checks.iter().filter(|check| check.verdict == one.verdict.verdict);
    let first = checks.find(|check| check.verdict != Verdict::Pass);
    first.map_or_else(String::new, |check| format!("{}: {}", check.id, check.message))
}
