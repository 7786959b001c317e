//! `shakedown explore --nodes N --pods P`: one large world, how far it is, and what each phase took.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use shakedown_core::verdict::{RunVerdict, ScenarioVerdict, Verdict};
use shakedown_explore::campaign::LIMITS;
use shakedown_explore::large::{Glance, Ran, Size, large, phases, run as run_large};
use shakedown_target_sim::RunLimits;

use super::{Args, PROGRESS, cannot};
use crate::failure::Failure;
use crate::pipeline;

/// The bounds of a large world: far beyond what five thousand nodes need.
const LARGE: RunLimits = RunLimits {
    wall_time: Duration::from_secs(4 * 3600),
    requests: 500_000_000,
    requests_at_once: LIMITS.requests_at_once,
    virtual_time: Duration::from_secs(3 * 3600),
};

/// What the machine had given so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spent {
    wall: Duration,
    /// The processor's time: on a busy machine the clock on the wall tells less.
    cpu: Duration,
}

/// Where a world stood.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    virt: Duration,
    spent: Spent,
}

/// A clock of the machine.
struct Clock {
    began: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "what a large world takes of the machine's time"
        )]
        let began = Instant::now();
        Self { began, cpu: cpu() }
    }

    fn spent(&self) -> Spent {
        Spent { wall: self.began.elapsed(), cpu: cpu().saturating_sub(self.cpu) }
    }
}

/// How long this thread has run.
fn cpu() -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Makes the world, runs it, judges it; answers the exit code.
pub(super) fn run(args: &Args, size: Size) -> Result<u8, Failure> {
    size.check().map_err(|why| Failure::usage(why, ""))?;
    let document = large(size, args.seed);
    fs::create_dir_all(&args.out).map_err(|error| cannot(&args.out, &error))?;
    let file = args.out.join(format!("large-{}-{}.yaml", size.nodes, size.pods));
    let text = shakedown_explore::document::write(&document.value);
    fs::write(&file, text).map_err(|error| cannot(&file, &error))?;
    let clock = Clock::start();
    let plan = document.plan(args.seed, &args.sabotage).map_err(|why| Failure::harness(why, ""))?;
    println!("{}", plan.title);
    println!("again: shakedown run {} --seed {}", file.display(), args.seed);
    let planned = clock.spent();

    let started = jiff::Timestamp::now().to_string();
    let clock = Clock::start();
    let marks = RefCell::new(Vec::new());
    let shown = Cell::new(Duration::ZERO);
    let glance = |glance: Glance| {
        let mark = Mark { virt: glance.virtual_time, spent: clock.spent() };
        marks.borrow_mut().push(mark);
        if !args.quiet && mark.spent.wall >= shown.get() + PROGRESS {
            shown.set(mark.spent.wall);
            let (virt, wall) = (mark.virt.as_secs(), mark.spent.wall.as_secs());
            let (requests, gib) = (glance.requests, gib(memory_kib("VmRSS:")));
            eprintln!("· {virt} s of the cluster in {wall} s, {requests} requests, {gib:.2} GiB");
        }
    };
    let tell = |text: &str| {
        if !args.quiet {
            eprintln!("· {}", super::short(text));
        }
    };
    let ran = run_large(&plan, args.seed, LARGE, glance, &tell);
    let ran = ran.map_err(|error| Failure::harness(error.to_string(), ""))?;
    let ran_for = clock.spent();
    let judging = Clock::start();
    let mut verdict = ran.judge(&plan);
    let judged_for = judging.spent();

    verdict.wall_ms = millis(ran_for.wall);
    verdict.virtual_ms = millis(ran.virtual_time);
    print!("\n{}", table(&ran, &marks.into_inner(), (planned, ran_for, judged_for)));
    print!("{}", told(&verdict));
    let word = verdict.verdict;
    write(args, &args.out, started, verdict)?;
    println!("{} for {} nodes and {} pods", word.word(), size.nodes, size.pods);
    Ok(word.exit_code())
}

fn write(
    args: &Args,
    out: &Path,
    started: String,
    verdict: ScenarioVerdict,
) -> Result<(), Failure> {
    let run = RunVerdict {
        format: shakedown_judge::VERDICTS_FORMAT,
        target: "sim".to_owned(),
        seed: args.seed,
        started,
        wall_ms: verdict.wall_ms,
        virtual_ms: verdict.virtual_ms,
        scenarios: vec![verdict],
    };
    pipeline::write_verdict(out, &run)
}

/// Each phase with its times, then the whole.
fn table(ran: &Ran, marks: &[Mark], (planned, ran_for, judged): (Spent, Spent, Spent)) -> String {
    let mut text =
        format!("{:<34} {:>10} {:>10} {:>10} {:>9}\n", "phase", "virtual", "wall", "cpu", "ratio");
    let mut line = |name: &str, virt: Duration, spent: Spent| {
        let virt = virt.as_secs_f64();
        let (wall, cpu) = (spent.wall.as_secs_f64(), spent.cpu.as_secs_f64());
        let ratio = virt / cpu.max(0.001);
        text.push_str(&format!(
            "{name:<34} {virt:>8.1} s {wall:>8.1} s {cpu:>8.1} s {ratio:>7.2}:1\n"
        ));
    };
    let mut before = Mark::default();
    for (name, until) in phases(ran) {
        let spent = if until == ran.virtual_time { ran_for } else { spent_at(marks, until) };
        let since = before.spent;
        let took = Spent {
            wall: spent.wall.saturating_sub(since.wall),
            cpu: spent.cpu.saturating_sub(since.cpu),
        };
        line(name, until.saturating_sub(before.virt), took);
        before = Mark { virt: until, spent };
    }
    line("all of it", ran.virtual_time, ran_for);
    let events = ran.events.len();
    let rate = events as f64 / ran_for.cpu.as_secs_f64().max(0.001);
    let seeds = 3600.0 / (ran_for.cpu + judged.cpu).as_secs_f64().max(0.001);
    let peak = gib(memory_kib("VmHWM:"));
    text.push_str(&format!(
        "planned in {:.1} s, judged in {:.1} s of cpu; {seeds:.1} seeds/h/core; {events} events, \
         {rate:.0} events/s of cpu; peak memory {peak:.2} GiB\n",
        planned.cpu.as_secs_f64(),
        judged.cpu.as_secs_f64(),
    ));
    text
}

/// What was spent up to a time of the cluster: between two marks it is as if all went on evenly.
fn spent_at(marks: &[Mark], virt: Duration) -> Spent {
    let after = marks.partition_point(|mark| mark.virt < virt);
    let one = after.checked_sub(1).map_or_else(Mark::default, |before| marks[before]);
    let Some(other) = marks.get(after) else { return one.spent };
    let whole = (other.virt - one.virt).as_secs_f64();
    let part = if whole > 0.0 { (virt - one.virt).as_secs_f64() / whole } else { 0.0 };
    let between = |one: Duration, other: Duration| one + other.saturating_sub(one).mul_f64(part);
    Spent {
        wall: between(one.spent.wall, other.spent.wall),
        cpu: between(one.spent.cpu, other.spent.cpu),
    }
}

/// What did not pass.
fn told(verdict: &ScenarioVerdict) -> String {
    let missed = verdict.checks.iter().filter(|check| check.verdict != Verdict::Pass);
    let line = |check: &shakedown_core::verdict::CheckVerdict| {
        format!("{} {}: {}\n", check.verdict.word(), check.id, super::short(&check.message))
    };
    let passed = verdict.checks.iter().filter(|check| check.verdict == Verdict::Pass).count();
    format!(
        "{}{passed} of {} checks passed\n",
        missed.map(line).collect::<String>(),
        verdict.checks.len()
    )
}

/// A line of what the kernel says of this process's memory.
fn memory_kib(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|known| known.strip_prefix(line));
    told.and_then(|told| told.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn gib(kib: u64) -> f64 {
    kib as f64 / f64::from(1 << 20)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_marks_time_goes_evenly() {
        let at = Duration::from_secs;
        let spent = |wall| Spent { wall: at(wall), cpu: at(wall) / 2 };
        let mark = |virt, wall| Mark { virt: at(virt), spent: spent(wall) };
        let marks = [mark(10, 100), mark(20, 300)];
        for (virt, wall) in [(0, 0), (5, 50), (10, 100), (15, 200), (20, 300), (30, 300)] {
            assert_eq!(spent_at(&marks, at(virt)), spent(wall), "{virt}");
        }
    }
}
