//! `shakedown explore`: runs storms, or scenarios, on one seed after the other, and shrinks what fails;
//! or runs one large world. With `--controllers` see `controllers.rs`.

mod large;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shakedown_core::plan::Plan;
use shakedown_core::target::{Parameters, Target};
use shakedown_core::verdict::Verdict;
use shakedown_explore::coverage::UNREACHABLE;
use shakedown_explore::large::Size;
use shakedown_explore::{Bounds, Document, Outcome, Phase, Summary, campaign, keep, storm};
use shakedown_target_sim::SimTarget;

use crate::failure::Failure;
use crate::pipeline::asked_to_end;
use crate::plans::{self, Wanted};

/// What `explore` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Scenario files or folders to run on every seed, instead of storms.
    pub(super) paths: Vec<PathBuf>,
    /// Instead, learn from one run of each scenario what controllers see and write, and run it again with
    /// a crash before and after each write, and with a late, lost or older view at each notification that
    /// a write follows from. Each run is judged by its checks and all invariants, and must end as the one
    /// without the fault did. Without a path: a rollout, a scaling, deletions and an eviction.
    #[arg(long)]
    controllers: bool,
    /// How many runs. With --controllers a sample of so many; all by default.
    #[arg(
        long,
        conflicts_with = "time",
        required_unless_present_any = ["time", "controllers", "nodes"]
    )]
    pub(super) runs: Option<u64>,
    /// For how long, such as 90s or 10m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(super) time: Option<Duration>,
    /// One large world of so many workers instead of storms: a rolling update, the loss of a zone.
    #[arg(
        long,
        requires = "pods",
        conflicts_with_all = ["paths", "runs", "time", "jobs", "controllers"]
    )]
    nodes: Option<u32>,
    /// So many pods on them.
    #[arg(long, requires = "nodes")]
    pods: Option<u32>,
    /// The first seed; the others follow it.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// How many threads; by default one for each processor.
    #[arg(long)]
    jobs: Option<usize>,
    /// Where findings and counts go.
    #[arg(long, default_value = "out/explore")]
    pub(super) out: PathBuf,
    /// How many findings with different reasons are shrunk.
    #[arg(long, default_value_t = 5)]
    pub(super) shrink: usize,
    /// A planted defect to switch on, for testing the tester. Repeatable.
    #[arg(long, value_name = "NAME", hide = true)]
    pub(super) sabotage: Vec<String>,
    /// Say nothing while it works.
    #[arg(long)]
    pub(super) quiet: bool,
}

/// From so many runs on, a fault that was never in effect makes a campaign inconclusive.
const RUNS_ENOUGH: u64 = 500;
/// From so many runs on, an event that was never reached makes a campaign inconclusive.
const RUNS_TO_REACH: u64 = 200;
/// How many runs in a hundred may tell nothing before a campaign tells nothing.
const UNTOLD_MAX: u64 = 10;
/// The file with the counts of a campaign.
pub(super) const COUNTS: &str = "coverage.json";
/// The file with the storm of a single run.
const STORM: &str = "storm.yaml";
/// Between two lines of progress.
pub(super) const PROGRESS: Duration = Duration::from_secs(2);

fn duration(text: &str) -> Result<Duration, String> {
    shakedown_core::window::evaluate(text, &Parameters::default()).map_err(|e| e.to_string())
}

/// Explores; answers the exit code.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let (Some(nodes), Some(pods)) = (args.nodes, args.pods) {
        return large::run(args, Size { nodes, pods });
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(processors).max(1);
    if args.controllers {
        return super::controllers::run(args, jobs);
    }
    let bounds = Bounds { first: args.seed, runs: args.runs.unwrap_or(u64::MAX), jobs };
    let abilities = SimTarget::new(0).abilities();
    let scenarios = scenarios(args)?;
    let sabotages = args.sabotage.clone();
    let source = |seed: u64| match scenarios.len() {
        0 => storm(seed, &abilities).plan(seed, &sabotages),
        count => {
            let at = usize::try_from(seed.wrapping_sub(args.seed)).unwrap_or(0) % count;
            Ok(Plan { seed, ..scenarios[at].clone() })
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    stop_when_interrupted(&stop);
    let clock = Clock::start(args.time);
    let mut first_of: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut shown = Duration::ZERO;
    let summary = campaign(bounds, &source, &stop, &mut |outcome, so_far| {
        if !outcome.reasons.is_empty() {
            first_of.entry(key(outcome)).or_insert_with(|| outcome.clone());
        }
        if clock.is_over() {
            stop.store(true, Ordering::Relaxed);
        }
        if !args.quiet && clock.elapsed() >= shown + PROGRESS {
            shown = clock.elapsed();
            eprintln!("· {}", pace(so_far, shown, jobs));
        }
    });
    let took = clock.elapsed();
    fs::create_dir_all(&args.out).map_err(|error| cannot(&args.out, &error))?;
    write_counts(&args.out, &summary)?;
    if args.runs == Some(1) && scenarios.is_empty() {
        write_storm(&args.out, &storm(args.seed, &abilities))?;
    }
    println!("{}\n", pace(&summary, took, jobs));
    print!("{}", table(&summary));
    let document = |seed| scenarios.is_empty().then(|| storm(seed, &abilities));
    findings(args, &summary, &first_of, &document)?;
    let mut missed = Vec::new();
    if scenarios.is_empty() && summary.runs >= RUNS_ENOUGH {
        missed.extend(never_in_effect(&summary));
    }
    if scenarios.is_empty() && summary.runs >= RUNS_TO_REACH {
        missed.extend(never_reached(&summary));
    }
    let verdict = conclude(&summary, &missed);
    println!(
        "\n{} after {} runs; counts: {}",
        verdict.word(),
        summary.runs,
        args.out.join(COUNTS).display()
    );
    Ok(verdict.exit_code())
}

/// The plans of the scenarios named, with the seed of the first run.
fn scenarios(args: &Args) -> Result<Vec<Plan>, Failure> {
    if args.paths.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = Wanted {
        paths: args.paths.clone(),
        seed: args.seed,
        sabotages: args.sabotage.clone(),
        ..Wanted::default()
    };
    Ok(plans::plans(&wanted)?.into_iter().map(|planned| planned.plan).collect())
}

/// The wall clock of a campaign.
pub(super) struct Clock {
    began: Instant,
    limit: Option<Duration>,
}

impl Clock {
    pub(super) fn start(limit: Option<Duration>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "wall time of a campaign, for people")]
        let began = Instant::now();
        Self { began, limit }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.elapsed() >= limit)
    }
}

/// Lets a campaign end after the runs under way when the user interrupts it.
pub(super) fn stop_when_interrupted(stop: &Arc<AtomicBool>) {
    let stop = stop.clone();
    let waits = move || {
        let asked = super::block_on(async {
            asked_to_end().await;
            Ok(())
        });
        if asked.is_ok() {
            stop.store(true, Ordering::Relaxed);
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "waits for a signal beside the campaign, no part of it"
    )]
    let _waiting = std::thread::spawn(waits);
}

/// What people want to know while they wait.
fn pace(summary: &Summary, took: Duration, jobs: usize) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    let rate = summary.runs as f64 / seconds;
    let found: u64 = summary.findings.values().map(|finding| finding.count).sum();
    format!(
        "{} runs in {:.0} s: {rate:.1}/s, {:.0} seeds/h/core, {:.0} times as fast as the clock, {:.0} events/s, {found} findings",
        summary.runs,
        seconds,
        rate * 3600.0 / jobs as f64,
        summary.virtual_ms as f64 / 1e3 / seconds,
        summary.events as f64 / seconds,
    )
}

fn key(outcome: &Outcome) -> String {
    outcome.reasons.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Which fault was in effect on what, in which phase.
fn table(summary: &Summary) -> String {
    let mut text = format!("{:<17} {:<36}", "fault", "on");
    for phase in Phase::ALL {
        text.push_str(&format!(" {:>9}", phase.name()));
    }
    text.push('\n');
    for (fault, parts) in &summary.coverage.faults {
        for (part, cells) in parts {
            text.push_str(&format!("{fault:<17} {part:<36}"));
            for phase in Phase::ALL {
                text.push_str(&format!(" {:>9}", cells.get(phase).copied().unwrap_or(0)));
            }
            text.push('\n');
        }
    }
    text.push_str("\nreached in so many runs:\n");
    for (event, runs) in &summary.coverage.reached {
        let unreachable = UNREACHABLE.iter().find(|(name, _)| name == event);
        let why = unreachable.map_or_else(String::new, |(_, why)| format!("  ({why})"));
        text.push_str(&format!("{event:<32} {runs:>9}{why}\n"));
    }
    let told = |(verdict, count): (&String, &u64)| format!("{verdict} {count}");
    let verdicts: Vec<_> = summary.verdicts.iter().map(told).collect();
    text.push_str(&format!(
        "\n{}; {} of {} run twice, {} operations, {:.1} h of virtual time\n",
        verdicts.join(", "),
        summary.repeated,
        summary.runs,
        summary.operations,
        summary.virtual_ms as f64 / 3.6e6,
    ));
    for (verdict, untold) in &summary.untold {
        text.push_str(&format!(
            "{verdict}: seeds {:?}: {}\n",
            untold.seeds,
            short(&untold.message)
        ));
    }
    text
}

pub(super) fn short(message: &str) -> String {
    const MOST: usize = 300;
    match message.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &message[..at]),
        None => message.to_owned(),
    }
}

/// Tells what was found, shrinks one of each kind, and says how to see it again.
fn findings(
    args: &Args,
    summary: &Summary,
    first_of: &BTreeMap<String, Outcome>,
    document: &dyn Fn(u64) -> Option<Document>,
) -> Result<(), Failure> {
    for (number, (reasons, finding)) in summary.findings.iter().enumerate() {
        println!("\nfound {} times: {reasons}", finding.count);
        println!("  seeds {:?}: {}", finding.seeds, short(&finding.message));
        let Some(first) = first_of.get(reasons) else { continue };
        match document(first.seed).filter(|_| number < args.shrink) {
            Some(document) => shrunk(args, &document, first)?,
            None => println!("  again: {}", again(args, first.seed)),
        }
    }
    Ok(())
}

fn shrunk(args: &Args, document: &Document, first: &Outcome) -> Result<(), Failure> {
    let kept = keep(&args.out, document, first.seed, &args.sabotage, &first.reasons)
        .map_err(|error| cannot(&args.out, &error))?;
    if !kept.is_reproduced {
        println!("  it did not fail again; again: {}", again(args, first.seed));
        return Ok(());
    }
    println!(
        "  shrunk from {} steps to {} in {} attempts",
        kept.steps.0, kept.steps.1, kept.attempts
    );
    let sabotage = sabotages(args);
    println!("  again: shakedown run {} --seed {}{sabotage}", kept.path.display(), first.seed);
    Ok(())
}

pub(super) fn sabotages(args: &Args) -> String {
    args.sabotage.iter().map(|name| format!(" --sabotage {name}")).collect()
}

fn again(args: &Args, seed: u64) -> String {
    let paths: String = args.paths.iter().map(|path| format!(" {}", path.display())).collect();
    format!("shakedown explore{paths} --runs 1 --seed {seed}{}", sabotages(args))
}

/// Faults that the target can do and that never were in effect.
fn never_in_effect(summary: &Summary) -> Vec<&'static str> {
    let abilities = SimTarget::new(0).abilities();
    let kinds = shakedown_explore::storm::drawable(&abilities);
    let missed: Vec<_> =
        kinds.into_iter().filter(|kind| summary.coverage.of_fault(kind) == 0).collect();
    if !missed.is_empty() {
        println!("never in effect: {}", missed.join(", "));
    }
    missed
}

/// Events that ought to happen at times and never did.
fn never_reached(summary: &Summary) -> Vec<&'static str> {
    let missed = summary.coverage.never_reached();
    if !missed.is_empty() {
        println!("never reached: {}", missed.join(", "));
    }
    missed
}

/// A finding fails a campaign. Without one it passes only if enough was seen.
fn conclude(summary: &Summary, missed: &[&str]) -> Verdict {
    let passed = summary.verdicts.get(Verdict::Pass.word()).copied().unwrap_or(0);
    let untold = summary.runs - passed;
    if !summary.findings.is_empty() {
        let harness = summary.verdicts.contains_key(Verdict::Harness.word());
        return if harness { Verdict::Harness } else { Verdict::Fail };
    }
    if passed == 0 {
        return Verdict::Invalid;
    }
    if !missed.is_empty() || untold * 100 > summary.runs * UNTOLD_MAX {
        return Verdict::Inconclusive;
    }
    Verdict::Pass
}

fn write_counts(out: &Path, summary: &Summary) -> Result<(), Failure> {
    let path = out.join(COUNTS);
    let text = serde_json::to_vec_pretty(summary)
        .map_err(|error| Failure::harness(format!("failed to write the counts: {error}"), ""))?;
    fs::write(&path, text).map_err(|error| cannot(&path, &error))
}

/// The scenario of a storm, as it was drawn: of a single run one wants to see it, whatever came of it.
fn write_storm(out: &Path, document: &Document) -> Result<(), Failure> {
    let path = out.join(STORM);
    fs::write(&path, shakedown_explore::document::write(&document.value))
        .map_err(|error| cannot(&path, &error))
}

pub(super) fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::harness(
        format!("failed to write {}: {error}", path.display()),
        "look at the disk's free space, or name another folder with --out",
    )
}

#[cfg(test)]
mod tests {
    use shakedown_explore::Finding;

    use super::*;

    fn summary(verdicts: &[(&str, u64)]) -> Summary {
        let verdicts: BTreeMap<_, _> =
            verdicts.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        Summary { runs: verdicts.values().sum(), verdicts, ..Summary::default() }
    }

    #[test]
    fn a_campaign_passes_only_if_enough_was_seen() {
        assert_eq!(conclude(&summary(&[("PASS", 100)]), &[]), Verdict::Pass);
        assert_eq!(conclude(&summary(&[("PASS", 95), ("INVALID", 5)]), &[]), Verdict::Pass);
        assert_eq!(
            conclude(&summary(&[("PASS", 80), ("INVALID", 20)]), &[]),
            Verdict::Inconclusive
        );
        assert_eq!(conclude(&summary(&[("PASS", 100)]), &["partition"]), Verdict::Inconclusive);
        assert_eq!(conclude(&summary(&[("INVALID", 3)]), &[]), Verdict::Invalid);
        assert_eq!(conclude(&summary(&[]), &[]), Verdict::Invalid);
    }

    #[test]
    fn a_finding_fails_a_campaign_whatever_else_passed() {
        let mut found = summary(&[("PASS", 999), ("FAIL", 1)]);
        found.findings.insert("invariant/linearizable".to_owned(), Finding::default());
        assert_eq!(conclude(&found, &[]), Verdict::Fail);
        found.verdicts.insert("HARNESS".to_owned(), 1);
        assert_eq!(conclude(&found, &[]), Verdict::Harness);
    }

    #[test]
    fn durations_are_those_of_scenarios() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert!(duration("10").is_err());
    }
}
