//! Storms around a controller under test: changes to its objects, each under a fault that follows from
//! the seed; then all is healed and the wanted state must come.
//!
//! Invariant: a storm follows from exploration and seed, and is a scenario document. A run in which a
//! fault came to nothing is no pass: it is counted as untold, by its verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::verdict::Verdict;
use shakedown_explore::campaign::attempt_with;
use shakedown_explore::draw::Draw;
use shakedown_explore::keep::ATTEMPTS;
use shakedown_explore::reason::{Reasons, reasons};
use shakedown_explore::shrink::shrink;
use shakedown_explore::storm::mend;
use shakedown_explore::{Document, document};

use super::{Operator, SimError};

/// What to explore.
#[derive(Debug, Clone)]
pub struct Exploration {
    /// The first seed; the others follow it.
    pub first_seed: u64,
    /// How many storms at most: the first finding ends it.
    pub seeds: u64,
    /// How many control planes.
    pub control_planes: u32,
    /// How many workers; the controller runs on the first.
    pub workers: u32,
    /// Manifests that are there from the start, as YAML documents.
    pub given: String,
    /// Manifests that are applied one after the other in the storm, as YAML documents.
    pub changes: String,
    /// The kinds that the controller reads, as plural and group: `configmaps`, `deployments.apps`.
    pub reads: Vec<String>,
    /// A CEL condition that must hold, and go on to hold for ten seconds, once all is healed. Let it
    /// speak of the objects that are there (`objects.configmaps.all(..)`), not of fixed numbers: the
    /// shrinker drops changes, and what was never asked for must not be missed.
    pub wanted: String,
    /// Within how long, from when all is healed.
    pub within: Duration,
}

impl Default for Exploration {
    /// A hundred storms on one control plane and two workers; a minute to come to what is wanted.
    fn default() -> Self {
        Self {
            first_seed: 1,
            seeds: 100,
            control_planes: 1,
            workers: 2,
            given: String::new(),
            changes: String::new(),
            reads: Vec::new(),
            wanted: String::new(),
            within: Duration::from_secs(60),
        }
    }
}

/// What came of an exploration.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How many storms ran; those of shrinking are not among them.
    pub runs: u64,
    /// By verdict, how many.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// The first finding, if there was one.
    pub found: Option<Found>,
}

impl Summary {
    /// How many storms had this verdict.
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(&verdict).copied().unwrap_or(0)
    }
}

/// A storm that broke a promise.
#[derive(Debug, Clone)]
pub struct Found {
    /// It is found again with this seed.
    pub seed: u64,
    /// The broken promises.
    pub reasons: Reasons,
    /// What was seen.
    pub message: String,
    /// The shortest scenario that was found to fail with the same seed for the same reasons.
    pub scenario: String,
    /// Steps before and after.
    pub steps: (usize, usize),
}

/// Runs storm after storm around a controller, until one breaks a promise; shrinks that.
pub fn explore(exploration: &Exploration, operator: &Operator) -> Result<Summary, SimError> {
    let mut summary = Summary::default();
    for seed in (exploration.first_seed..).take(exploration.seeds.try_into().unwrap_or(usize::MAX))
    {
        let storm = storm(exploration, seed)?;
        let (verdict, reasons, message) = outcome(&storm, seed, operator)?;
        summary.runs += 1;
        *summary.verdicts.entry(verdict).or_default() += 1;
        if !reasons.is_empty() {
            summary.found = Some(shrunk(&storm, seed, operator, (reasons, message)));
            break;
        }
    }
    Ok(summary)
}

/// Runs a scenario that was found, and answers the promises that it breaks with this controller.
pub fn replay(scenario: &str, seed: u64, operator: &Operator) -> Result<Reasons, SimError> {
    let values = manifests(scenario)?;
    let [value] = values.as_slice() else {
        return Err(SimError::Scenario(format!("{} scenarios stand in one text", values.len())));
    };
    let document = Document { id: ID.to_owned(), value: value.clone() };
    outcome(&document, seed, operator).map(|(_, reasons, _)| reasons)
}

/// The id of every storm: choices in a run follow from seed and id.
const ID: &str = "sim/storm";

fn outcome(
    document: &Document,
    seed: u64,
    operator: &Operator,
) -> Result<(Verdict, Reasons, String), SimError> {
    let plan = document.plan(seed, &[]).map_err(SimError::Scenario)?;
    Ok(match attempt_with(&plan, seed, Some(operator)) {
        Err((reason, message)) => (Verdict::Fail, Reasons::from([reason]), message),
        Ok(one) => {
            let broken = |verdict| matches!(verdict, Verdict::Fail | Verdict::Harness);
            let told = one.verdict.checks.iter().filter(|check| broken(check.verdict));
            let told = told.map(|check| format!("{}: {}", check.id, check.message));
            let message = told.collect::<Vec<_>>().join("\n");
            (one.verdict.verdict, reasons(&plan, &one.verdict), message)
        }
    })
}

fn shrunk(
    storm: &Document,
    seed: u64,
    operator: &Operator,
    (reasons, message): (Reasons, String),
) -> Found {
    let steps = |value: &Value| value["spec"]["steps"].as_array().map_or(0, Vec::len);
    let smallest = shrink(&storm.value, ATTEMPTS, mend, &mut |value| {
        let candidate = Document { id: storm.id.clone(), value: value.clone() };
        outcome(&candidate, seed, operator).is_ok_and(|(_, again, _)| again == reasons)
    });
    Found {
        seed,
        reasons,
        message,
        scenario: document::write(&smallest.document),
        steps: (steps(&storm.value), steps(&smallest.document)),
    }
}

fn manifests(text: &str) -> Result<Vec<Value>, SimError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let documents = shakedown_core::yaml::parse("manifests.yaml", text)
        .map_err(|problems| SimError::Scenario(problems.to_string()))?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

/// Draws the storm of a seed.
fn storm(exploration: &Exploration, seed: u64) -> Result<Document, SimError> {
    let changes = manifests(&exploration.changes)?;
    if changes.is_empty() || exploration.wanted.trim().is_empty() {
        let why = "an exploration needs changes, and a wanted state to come to";
        return Err(SimError::Scenario(why.to_owned()));
    }
    let given: Vec<Value> = manifests(&exploration.given)?
        .into_iter()
        .map(|manifest| json!({"manifest": manifest}))
        .collect();
    let mut random = Draw::new(seed, "operator");
    let mut steps = vec![json!({"wait": millis(random.between(500, 3000))})];
    for (round, change) in changes.into_iter().enumerate() {
        let name = format!("fault-{round}");
        let fault = random.chance(75).then(|| fault(&mut random, &exploration.reads, &name));
        let is_under = fault.is_some();
        steps.extend(fault);
        steps.push(json!({"apply": change}));
        steps.push(json!({"wait": millis(random.between(2000, 12_000))}));
        if is_under {
            steps.push(json!({"heal": name}));
        }
    }
    steps.push(json!({"wait": "1s", "as": "calm"}));
    let within = millis(u64::try_from(exploration.within.as_millis()).unwrap_or(u64::MAX));
    steps.push(json!({
        "settles": {"cel": exploration.wanted},
        "within": ["0s", within],
        "for": "10s",
        "after": "calm",
    }));
    let value = json!({
        "apiVersion": "shakedown.dev/v1",
        "kind": "Scenario",
        "metadata": {"name": "storm"},
        "spec": {
            "title": format!("Storm {seed} around a controller: once it is healed all comes right"),
            "proves": [],
            "cluster": {
                "controlPlanes": exploration.control_planes,
                "workers": exploration.workers,
            },
            "blast": "cluster",
            "given": given,
            "steps": steps,
        },
    });
    Ok(Document { id: ID.to_owned(), value })
}

fn millis(millis: u64) -> String {
    format!("{millis}ms")
}

/// A fault on the controller, or on what is between it and the API servers.
fn fault(random: &mut Draw, reads: &[String], name: &str) -> Value {
    let on = "worker-1";
    let kind = (!reads.is_empty()).then(|| random.one(reads).clone());
    let mut step = match (random.below(8), kind) {
        (0 | 1, Some(kind)) => json!({"fault": "freeze-view", "kind": kind}),
        (2, Some(kind)) => {
            let by = millis(random.between(1000, 8000));
            json!({"fault": "hold-events", "kind": kind, "by": by})
        }
        (3, _) => json!({"fault": "process-kill", "restart": false}),
        (4, _) => json!({"fault": "process-stop"}),
        (5, _) => {
            let between = [on, "the control plane"];
            return json!({"fault": "partition", "between": between, "as": name});
        }
        _ => {
            let (nth, is_done) = (random.between(1, 2), random.chance(70));
            json!({"fault": "crash-at-write", "nth": nth, "done": is_done})
        }
    };
    step["on"] = json!(on);
    step["component"] = json!("operator");
    step["as"] = json!(name);
    step
}
