//! `shakedown explore --controllers`: brings controllers into their states one by one, by a crash at each
//! write and a late, lost or older view at each notification, and compares with the run without it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use shakedown_core::verdict::Verdict;
use shakedown_explore::controller_states::{
    Asked, Outcome, Pattern, Reference, Report, Row, explore, judged, learn, quiet, same_waits,
    standalone,
};
use shakedown_explore::keep::{Found, keep_found};
use shakedown_explore::ordered::ordered;
use shakedown_explore::{Document, keep::Kept};

use super::explore::{
    Args, COUNTS, Clock, PROGRESS, cannot, sabotages, short, stop_when_interrupted,
};
use crate::failure::Failure;
use crate::plans::{self, Wanted};

/// The scenarios that are gone through if none is named: each lets other controllers work.
const REFERENCES: &[&str] = &[
    "suites/conformance/garbage-collected.yaml",
    "suites/conformance/namespace-deleted.yaml",
    "suites/conformance/replicaset-scaled.yaml",
    "suites/conformance/rolling-update.yaml",
    "suites/conformance/taint-no-execute.yaml",
];

/// Goes through the states; answers the exit code.
pub(super) fn run(args: &Args, jobs: usize) -> Result<u8, Failure> {
    let documents = documents(args)?;
    let asked = Asked { seed: args.seed, runs: args.runs, jobs, sabotages: args.sabotage.clone() };
    let stop = Arc::new(AtomicBool::new(false));
    stop_when_interrupted(&stop);
    let clock = Clock::start(args.time);
    let (references, wrong) = references(&documents, &asked);
    for why in &wrong {
        println!("nothing to compare with: {why}");
    }
    let learnt = clock.elapsed();
    let mut first_of: BTreeMap<String, (u64, Outcome)> = BTreeMap::new();
    let mut untold: BTreeMap<String, (u64, Outcome)> = BTreeMap::new();
    let mut shown = Duration::ZERO;
    let report = explore(&references, &asked, &stop, &mut |outcome, so_far| {
        let book = match (outcome.reasons.is_empty(), outcome.passed() || outcome.missed()) {
            (false, _) => Some(&mut first_of),
            (true, false) => Some(&mut untold),
            (true, true) => None,
        };
        if let Some(book) = book {
            let (count, _) =
                book.entry(key(&references, outcome)).or_insert_with(|| (0, outcome.clone()));
            *count += 1;
        }
        if clock.is_over() {
            stop.store(true, Ordering::Relaxed);
        }
        if !args.quiet && clock.elapsed() >= shown + PROGRESS {
            shown = clock.elapsed();
            eprintln!("· {}", pace(so_far, shown.saturating_sub(learnt)));
        }
    });
    let took = clock.elapsed().saturating_sub(learnt);
    fs::create_dir_all(&args.out).map_err(|error| cannot(&args.out, &error))?;
    write_counts(&args.out, &report)?;
    println!("{}\n", pace(&report, took));
    print!("{}", table(&report));
    for (count, outcome) in untold.values() {
        let state = &references[outcome.reference].states[outcome.state];
        let word = outcome.verdict.word();
        println!(
            "\nuntold {count} times: {word} {} of {}: {}",
            state.pattern.name(),
            state.controller,
            state.place
        );
        println!("  {}", short(&outcome.message));
    }
    for (number, (key, (count, outcome))) in first_of.iter().enumerate() {
        println!("\nfound {count} times: {key}");
        told(args, &references, outcome, number < args.shrink)?;
    }
    let verdict = conclude(&report, wrong.is_empty());
    let [states, runs, ..] = report.sums();
    println!(
        "\n{} after {runs} of {states} states; counts: {}",
        verdict.word(),
        args.out.join(COUNTS).display()
    );
    Ok(verdict.exit_code())
}

/// The scenarios named, each standing alone.
fn documents(args: &Args) -> Result<Vec<Document>, Failure> {
    let paths = match args.paths.is_empty() {
        true => REFERENCES.iter().map(PathBuf::from).collect(),
        false => args.paths.clone(),
    };
    // What is wrong in a file is told with its place.
    plans::plans(&Wanted { paths: paths.clone(), seed: args.seed, ..Wanted::default() })?;
    let files = shakedown_suites::find(&paths)
        .map_err(|error| Failure::usage(error.to_string(), "name scenario files or folders"))?;
    let mut documents = Vec::new();
    for file in files {
        let folder = file.path.parent().unwrap_or(Path::new(".")).to_owned();
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let shown = file.path.display().to_string();
        let values = shakedown_core::yaml::parse(&shown, &file.text)
            .map_err(|problems| Failure::problems(&problems))?;
        for value in values {
            let name = value.value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let value = standalone(&value.value, &read)
                .map_err(|why| Failure::usage(format!("{shown}: {why}"), ""))?;
            documents.push(Document { id: format!("{}/{name}", file.suite), value });
        }
    }
    Ok(documents)
}

/// Runs every scenario without a fault, on several threads; what does not pass is told and left out.
fn references(documents: &[Document], asked: &Asked) -> (Vec<Reference>, Vec<String>) {
    let (mut references, mut wrong) = (Vec::new(), Vec::new());
    let stop = AtomicBool::new(false);
    let work = |index: u64| {
        let at = usize::try_from(index).expect("a place in a list");
        learn(&documents[at], asked)
    };
    ordered(documents.len() as u64, asked.jobs, &stop, &work, &mut |_, learnt| match learnt {
        Ok(reference) => references.push(reference),
        Err(why) => wrong.push(why),
    });
    (references, wrong)
}

fn key(references: &[Reference], outcome: &Outcome) -> String {
    let reference = &references[outcome.reference];
    let state = &reference.states[outcome.state];
    let reasons: Vec<_> = outcome.reasons.iter().map(String::as_str).collect();
    let word =
        if reasons.is_empty() { outcome.verdict.word().to_owned() } else { reasons.join(", ") };
    format!("{}, {}: {word}", reference.document.id, state.controller)
}

/// What people want to know while they wait.
fn pace(report: &Report, took: Duration) -> String {
    let [states, runs, reached, passed, findings, untold] = report.sums();
    let seconds = took.as_secs_f64().max(0.001);
    format!(
        "{runs} of {states} states in {seconds:.0} s, {:.0} an hour, {:.0} times as fast as the clock: {reached} reached, {passed} passed, {findings} findings, {untold} untold",
        runs as f64 * 3600.0 / seconds,
        report.virtual_ms as f64 / 1e3 / seconds,
    )
}

/// By scenario and component, then by controller and pattern.
fn table(report: &Report) -> String {
    let mut text = format!(
        "{:<34} {:<24} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}\n",
        "scenario",
        "component",
        "notified",
        "writes",
        "pairs",
        "timeless",
        "changing",
        "related",
        "latest",
        "unlike",
        "states",
        "run",
        "reached",
        "passed",
        "found"
    );
    for row in &report.rows {
        let counts = &row.counts;
        text.push_str(&format!(
            "{:<34} {:<24} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}\n",
            row.scenario, row.component, counts.notifications, counts.writes, counts.pairs,
            counts.timeless, counts.changing, counts.related, counts.latest, counts.unlike,
            row.states, row.runs, row.reached, row.passed, row.findings
        ));
    }
    text.push_str(&format!("\n{:<30}", "reached and passed"));
    for pattern in Pattern::ALL {
        text.push_str(&format!(" {:>13}", pattern.name()));
    }
    text.push('\n');
    for (controller, patterns) in &report.coverage {
        text.push_str(&format!("{controller:<30}"));
        for pattern in Pattern::ALL {
            let (reached, passed) = patterns.get(pattern).copied().unwrap_or_default();
            text.push_str(&format!(" {:>13}", format!("{reached} / {passed}")));
        }
        text.push('\n');
    }
    text
}

/// Tells of a finding, keeps it as a scenario, and says how to see it again.
fn told(
    args: &Args,
    references: &[Reference],
    outcome: &Outcome,
    is_kept: bool,
) -> Result<(), Failure> {
    let state = &references[outcome.reference].states[outcome.state];
    println!("  {} of {}: {}", state.pattern.name(), state.controller, state.place);
    println!("  {}", short(&outcome.message));
    if !is_kept {
        return Ok(());
    }
    let name = format!("state-{}-{}", outcome.reference, outcome.state);
    let scenario = state.document.value["metadata"]["name"].as_str().unwrap_or("scenario");
    // As `run` will name it, so that the same choices follow from the seed.
    let document =
        Document { id: format!("{name}/{scenario}"), value: state.document.value.clone() };
    let kept = kept(args, &name, &document, outcome).map_err(|error| cannot(&args.out, &error))?;
    let seed = args.seed;
    let (again, path) = (replay(outcome), kept.path.display());
    if !kept.is_reproduced {
        println!("  it did not fail again from its own file, {path}");
        return Ok(());
    }
    println!(
        "  shrunk from {} steps to {} in {} attempts",
        kept.steps.0, kept.steps.1, kept.attempts
    );
    println!("  again: shakedown {again} {path} --seed {seed}{}", sabotages(args));
    Ok(())
}

/// A finding of the comparison needs the run to compare with.
fn replay(outcome: &Outcome) -> &'static str {
    let is_compared = |reason: &String| reason == shakedown_judge::differential::ID;
    match outcome.reasons.iter().any(is_compared) {
        true => "explore --controllers",
        false => "run",
    }
}

fn kept(args: &Args, name: &str, document: &Document, outcome: &Outcome) -> std::io::Result<Kept> {
    let by = format!("explore --controllers --seed {}", args.seed);
    let folder = args.out.join(name);
    let found = Found {
        folder: &folder,
        document,
        seed: args.seed,
        sabotages: &args.sabotage,
        reasons: &outcome.reasons,
        by: &by,
    };
    let (seed, sabotages) = (args.seed, &args.sabotage);
    let judge = |candidate: &Document| {
        // With less time it may fail for want of time.
        if !same_waits(document, candidate) {
            return Err(("less time".to_owned(), String::new()));
        }
        let reference = quiet(candidate, seed, sabotages)?;
        judged(candidate, &reference.events, seed, sabotages)
    };
    keep_found(&found, replay(outcome), &judge)
}

/// A finding fails a campaign. Without one it passes only if something was reached, and every run told
/// something.
fn conclude(report: &Report, all_learnt: bool) -> Verdict {
    // A component of which nothing was reached, by a small sample or for want of time.
    let is_unseen = |row: &Row| row.states > 0 && row.reached == 0;
    let [_, runs, reached, passed, findings, untold] = report.sums();
    if findings > 0 {
        Verdict::Fail
    } else if !all_learnt || passed == 0 {
        Verdict::Invalid
    } else if untold > 0 || reached * 2 < runs || report.rows.iter().any(is_unseen) {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}

fn write_counts(out: &Path, report: &Report) -> Result<(), Failure> {
    let path = out.join(COUNTS);
    let text: Value = serde_json::to_value(report)
        .map_err(|error| Failure::harness(format!("failed to write the counts: {error}"), ""))?;
    fs::write(&path, format!("{text:#}\n")).map_err(|error| cannot(&path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(runs: u64, reached: u64, passed: u64, findings: u64, untold: u64) -> Report {
        let row = Row { states: 20, runs, reached, passed, findings, untold, ..Row::default() };
        Report { rows: vec![row], ..Report::default() }
    }

    #[test]
    fn states_that_were_not_reached_pass_nothing() {
        let conclude = |report| super::conclude(&report, true);
        assert_eq!(conclude(report(10, 10, 10, 0, 0)), Verdict::Pass);
        assert_eq!(conclude(report(10, 9, 9, 0, 0)), Verdict::Pass);
        assert_eq!(conclude(report(10, 4, 4, 0, 0)), Verdict::Inconclusive);
        assert_eq!(conclude(report(10, 10, 9, 0, 1)), Verdict::Inconclusive);
        assert_eq!(conclude(report(10, 10, 9, 1, 0)), Verdict::Fail);
        assert_eq!(conclude(report(10, 0, 0, 0, 0)), Verdict::Invalid);
        assert_eq!(conclude(report(0, 0, 0, 0, 0)), Verdict::Invalid);
        assert_eq!(super::conclude(&self::report(10, 10, 10, 0, 0), false), Verdict::Invalid);
        let mut half = self::report(10, 10, 10, 0, 0);
        half.rows.push(Row { states: 3, ..Row::default() });
        assert_eq!(super::conclude(&half, true), Verdict::Inconclusive, "a row was not reached");
    }
}
