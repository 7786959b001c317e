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
use crate::one::One;
use crate::reason::{Reasons, reasons};
use crate::shrink::{Shrunk, shrink};
use crate::storm::mend;

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

/// Runs and judges a document; what ends the run before its time is told by a reason and in words.
pub type Judge<'a> = &'a dyn Fn(&Document) -> Result<(Plan, One), (String, String)>;

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The folder that it is kept in, which is also that of its scenario's id.
    pub folder: &'a Path,
    /// The scenario.
    pub document: &'a Document,
    /// With which seed.
    pub seed: u64,
    /// Planted defects.
    pub sabotages: &'a [String],
    /// The broken promises.
    pub reasons: &'a Reasons,
    /// The command that found it.
    pub by: &'a str,
}

/// Whether a plan fails with this seed for just these reasons, and no other ones.
pub fn fails_for(plan: &Plan, seed: u64, wanted: &Reasons) -> bool {
    fails(attempt(plan, seed).map(|one| (plan.clone(), one)), wanted)
}

fn fails(judged: Result<(Plan, One), (String, String)>, wanted: &Reasons) -> bool {
    match judged {
        Ok((plan, one)) => reasons(&plan, &one.verdict) == *wanted,
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
    smallest(document, wanted, &planned(seed, sabotages))
}

/// Runs a document as `run` would.
fn planned(
    seed: u64,
    sabotages: &[String],
) -> impl Fn(&Document) -> Result<(Plan, One), (String, String)> {
    move |document| {
        let plan =
            document.plan(seed, sabotages).map_err(|why| ("cannot be planned".to_owned(), why))?;
        attempt(&plan, seed).map(|one| (plan, one))
    }
}

fn smallest(document: &Document, wanted: &Reasons, judge: Judge<'_>) -> Shrunk {
    let mut fails = |value: &Value| {
        let candidate = Document { id: document.id.clone(), value: value.clone() };
        fails(judge(&candidate), wanted)
    };
    shrink(&document.value, ATTEMPTS, mend, &mut fails)
}

/// Shrinks a finding and writes it into its folder, named by the seed.
pub fn keep(
    out: &Path,
    document: &Document,
    seed: u64,
    sabotages: &[String],
    wanted: &Reasons,
) -> std::io::Result<Kept> {
    let by = format!("explore --runs 1 --seed {seed}");
    let folder = &out.join(seed.to_string());
    let found = Found { folder, document, seed, sabotages, reasons: wanted, by: &by };
    keep_found(&found, "run", &planned(seed, sabotages))
}

/// Shrinks a finding and writes it into its folder. `replay` is the command that shows it again, given
/// the file.
pub fn keep_found(found: &Found<'_>, replay: &str, judge: Judge<'_>) -> std::io::Result<Kept> {
    let Found { folder, document, seed, sabotages, reasons: wanted, by } = *found;
    let count = |value: &Value| value["spec"]["steps"].as_array().map_or(0, Vec::len);
    let whole = fails(judge(document), wanted);
    let shrunk = if whole {
        smallest(document, wanted, judge)
    } else {
        Shrunk { document: document.value.clone(), attempts: 1, is_cut_short: false }
    };
    fs::create_dir_all(folder)?;
    let path = folder.join("scenario.yaml");
    let smallest = Document { id: document.id.clone(), value: shrunk.document };
    let mut told: Vec<String> = wanted.iter().map(|reason| format!("failed: {reason}")).collect();
    let mut verdict = None;
    if let Ok((plan, one)) = judge(&smallest) {
        let broken = one.verdict.checks.iter().filter(|check| {
            let only = ScenarioVerdict { checks: vec![(*check).clone()], ..one.verdict.clone() };
            !reasons(&plan, &only).is_disjoint(wanted)
        });
        told.extend(broken.map(|check| format!("{}: {}", check.id, check.message)));
        verdict = Some(one);
    }
    let sabotage: String = sabotages.iter().map(|name| format!(" --sabotage {name}")).collect();
    told.push(format!(
        "found by: shakedown {by}{sabotage}, {} steps, shrunk to {} in {} attempts",
        count(&document.value),
        count(&smallest.value),
        shrunk.attempts
    ));
    told.push(format!("replay: shakedown {replay} {} --seed {seed}{sabotage}", path.display()));
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
