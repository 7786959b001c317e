//! Shrinks what a campaign found and keeps it: a scenario file that `run` takes, its timeline and its
//! verdicts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shakedown_core::plan::Plan;
use shakedown_core::timeline::Event;
use shakedown_core::verdict::ScenarioVerdict;

use crate::campaign::attempt;
use crate::document::{Document, write};
use crate::reason::{Reasons, reasons};
use crate::shrink::{Shrunk, shrink};

/// How many documents are tried for one finding.
pub const ATTEMPTS: usize = 400;

/// What a finding was shrunk to.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where the scenario lies.
    pub path: PathBuf,
    /// Steps before and after.
    pub steps: (usize, usize),
    /// How many documents were tried.
    pub attempts: usize,
    /// Whether it failed again at all.
    pub is_reproduced: bool,
}

/// Whether a plan fails with this seed for just these reasons, and no other ones.
pub fn fails_for(plan: &Plan, seed: u64, wanted: &Reasons) -> bool {
    match attempt(plan, seed) {
        Ok(one) => reasons(plan, &one.verdict) == *wanted,
        Err((reason, _)) => *wanted == Reasons::from([reason]),
    }
}

/// Shrinks a document to one that fails with the same seed for the same reasons.
pub fn shrink_document(
    document: &Document,
    seed: u64,
    sabotages: &[String],
    wanted: &Reasons,
) -> Shrunk {
    let mut fails = |value: &Value| {
        let candidate = Document { id: document.id.clone(), value: value.clone() };
        candidate.plan(seed, sabotages).is_ok_and(|plan| fails_for(&plan, seed, wanted))
    };
    shrink(&document.value, ATTEMPTS, &mut fails)
}

/// Shrinks a finding and writes it into its folder, named by the seed.
pub fn keep(
    out: &Path,
    document: &Document,
    seed: u64,
    sabotages: &[String],
    wanted: &Reasons,
) -> std::io::Result<Kept> {
    let count = |value: &Value| value["spec"]["steps"].as_array().map_or(0, Vec::len);
    let whole = document.plan(seed, sabotages).is_ok_and(|plan| fails_for(&plan, seed, wanted));
    let shrunk = if whole {
        shrink_document(document, seed, sabotages, wanted)
    } else {
        Shrunk { document: document.value.clone(), attempts: 1, is_cut_short: false }
    };
    let folder = out.join(seed.to_string());
    fs::create_dir_all(&folder)?;
    let path = folder.join("scenario.yaml");
    let smallest = Document { id: document.id.clone(), value: shrunk.document };
    let mut told: Vec<String> = wanted.iter().map(|reason| format!("failed: {reason}")).collect();
    let mut verdict = None;
    if let Ok(plan) = smallest.plan(seed, sabotages)
        && let Ok(one) = attempt(&plan, seed)
    {
        let broken = one.verdict.checks.iter().filter(|check| {
            let only = ScenarioVerdict { checks: vec![(*check).clone()], ..one.verdict.clone() };
            !reasons(&plan, &only).is_disjoint(wanted)
        });
        told.extend(broken.map(|check| format!("{}: {}", check.id, check.message)));
        verdict = Some(one);
    }
    let sabotage: String = sabotages.iter().map(|name| format!(" --sabotage {name}")).collect();
    told.push(format!(
        "found by: shakedown explore --runs 1 --seed {seed}{sabotage}, {} steps, shrunk to {} in {} attempts",
        count(&document.value), count(&smallest.value), shrunk.attempts
    ));
    told.push(format!("replay: shakedown run {} --seed {seed}{sabotage}", path.display()));
    fs::write(&path, format!("{}{}", header(&told), write(&smallest.value)))?;
    if let Some(one) = verdict {
        write_timeline(&folder.join("timeline.ndjson"), &one.events)?;
        fs::write(folder.join("verdicts.json"), serde_json::to_vec_pretty(&one.verdict)?)?;
    }
    let steps = (count(&document.value), count(&smallest.value));
    Ok(Kept { path, steps, attempts: shrunk.attempts, is_reproduced: whole })
}

/// Comments that are safe whatever they tell.
fn header(lines: &[String]) -> String {
    let clean = |line: &String| line.replace(['\n', '\r'], " ");
    lines.iter().map(|line| format!("# {}\n", clean(line))).collect()
}

fn write_timeline(path: &Path, events: &[Event]) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}
