//! Judges a generated history of millions of operations for linearizability, by the same code as every
//! run, and tells time and memory.
//!
//! ```text
//! cargo run --release -p shakedown-judge --example linearizability -- 5000000 [--corrupt]
//! ```
//!
//! Clients overlap: each has one operation open at a time, whose effect falls somewhere between its call
//! and its answer. One in two hundred is never answered, and of those one in two happened. The witness
//! sees every change. With `--corrupt` one defect of each clause is planted in turn and must be found.

#![expect(clippy::disallowed_methods, reason = "the judge's own speed is measured in real time")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant as Clock;

use shakedown_core::timeline::{Change, Reads};
use shakedown_judge::history::{Done, History, Op, Step};
use shakedown_judge::invariants::linearizable;
use shakedown_judge::scene::Instant;

/// How many operations are open at once.
const CLIENTS: usize = 32;
/// How many objects there are.
const KEYS: u64 = 2_000;
/// One list in so many operations.
const LIST_EVERY: u64 = 20_000;

/// SplitMix64: the same history for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// An operation as it was done: texts by number, so that they can be borrowed afterwards.
struct Done1 {
    answered: Instant,
    call_us: i64,
    client: u32,
    verb: &'static str,
    key: u32,
    /// The number of the value that it wrote.
    wrote: Option<u32>,
    listed: Option<u32>,
    outcome: Outcome1,
}

enum Outcome1 {
    Ok { revision: i64, value: Option<u32> },
    Refused,
    Unknown,
}

struct Change1 {
    key: u32,
    value: Option<u32>,
    revision: i64,
    change: Change,
    when: Instant,
}

/// A generated history.
struct Generated {
    ops: Vec<Done1>,
    log: Vec<Change1>,
    lists: Vec<BTreeMap<String, i64>>,
    keys: Vec<String>,
    values: Vec<String>,
    end_us: i64,
}

#[expect(clippy::too_many_lines, reason = "one pass over one state")]
fn generate(operations: usize, seed: u64) -> Generated {
    let mut random = Random(seed);
    let keys: Vec<String> = (0..KEYS).map(|at| format!("shop/work-{at:04}")).collect();
    let mut values: Vec<String> = Vec::new();
    let mut ops: Vec<Done1> = Vec::with_capacity(operations);
    let mut log: Vec<Change1> = Vec::new();
    let mut lists = Vec::new();
    // Of each key: its revision and value.
    let mut state: Vec<Option<(i64, u32)>> = vec![None; keys.len()];
    let (mut revision, mut now, mut seq) = (1_i64, 0_i64, 0_u64);
    // When each client may call again.
    let mut free = vec![0_i64; CLIENTS];
    for count in 0..operations as u64 {
        // Effects happen in this order, a little later each; calls and answers lie around them.
        now += 1 + random.below(20) as i64;
        seq += 1;
        let client = random.below(CLIENTS as u64) as usize;
        let call_us = (now - random.below(300) as i64).max(free[client]).min(now);
        let answered_us = now + random.below(300) as i64;
        free[client] = answered_us + 1;
        let key = random.below(KEYS) as usize;
        let draw = random.below(100);
        let verb = match (state[key], draw) {
            _ if count % LIST_EVERY == LIST_EVERY - 1 => "list",
            (_, 0..40) => "get",
            (None, _) => "create",
            (Some(_), 40..95) => "update",
            (Some(_), _) => "delete",
        };
        let is_lost = verb != "get" && verb != "list" && random.below(200) == 0;
        let happens = !is_lost || random.below(2) == 0;
        let is_refused = !is_lost && verb == "update" && random.below(10) == 0;
        let mut wrote = None;
        let mut listed = None;
        let outcome = match verb {
            "get" => {
                let (at, value) = state[key].map_or((0, None), |(at, value)| (at, Some(value)));
                Outcome1::Ok { revision: at, value }
            }
            "list" => {
                let there = state.iter().zip(&keys);
                let map = there.filter_map(|(state, key)| Some((key.clone(), (*state)?.0)));
                lists.push(map.collect());
                listed = Some(lists.len() as u32 - 1);
                Outcome1::Ok { revision, value: None }
            }
            _ => {
                if verb != "delete" {
                    values.push(format!("{client}-{count}"));
                    wrote = Some(values.len() as u32 - 1);
                }
                if is_refused {
                    Outcome1::Refused
                } else {
                    if happens {
                        revision += 1;
                        let change = match verb {
                            "create" => Change::Added,
                            "delete" => Change::Deleted,
                            _ => Change::Modified,
                        };
                        let when = Instant { seq, at_us: now, error_us: 0 };
                        log.push(Change1 { key: key as u32, value: wrote, revision, change, when });
                        state[key] = wrote.map(|value| (revision, value));
                    }
                    match is_lost {
                        true => Outcome1::Unknown,
                        false => Outcome1::Ok { revision, value: wrote },
                    }
                }
            }
        };
        let answered = Instant { seq, at_us: answered_us, error_us: 0 };
        let (client, key) = (client as u32, key as u32);
        ops.push(Done1 { answered, call_us, client, verb, key, wrote, listed, outcome });
    }
    ops.sort_by_key(|op| op.answered.at_us);
    Generated { ops, log, lists, keys, values, end_us: now + 60_000_000 }
}

impl Generated {
    fn history(&self) -> History<'_> {
        let text = |value: Option<u32>| value.map(|at| self.values[at as usize].as_str());
        let ops = self.ops.iter().map(|op| Op {
            answered: op.answered,
            call_us: op.call_us,
            client: op.client,
            server: "cp-1",
            verb: op.verb,
            key: if op.verb == "list" { "shop/" } else { &self.keys[op.key as usize] },
            value: text(op.wrote),
            expected: None,
            reads: Reads::Latest,
            listed: op.listed.map(|at| &self.lists[at as usize]),
            done: match op.outcome {
                Outcome1::Ok { revision, value } => Done::Ok { revision, value: text(value) },
                Outcome1::Refused => Done::Refused(409),
                Outcome1::Unknown => Done::Unknown,
            },
        });
        let log = self.log.iter().map(|change| {
            let step = Step {
                revision: change.revision,
                value: text(change.value),
                change: change.change,
                is_listed: false,
                when: change.when,
            };
            (self.keys[change.key as usize].as_str(), step)
        });
        History::from_parts(ops.collect(), log, false, self.end_us)
    }
}

/// Plants a defect in the middle of a history; `false` if there is no place for it.
type Plant = fn(&mut History<'_>) -> bool;

/// From the middle on, the first operation that is like this.
fn find(history: &History<'_>, is_it: impl Fn(&Op<'_>) -> bool) -> Option<usize> {
    let middle = history.ops.len() / 2;
    (middle..history.ops.len()).find(|at| is_it(&history.ops[*at]))
}

fn is_acked(op: &Op<'_>, verb: &str) -> bool {
    op.verb == verb && op.acked().is_some()
}

/// One defect of each clause, and the words that the judge must find it by.
const DEFECTS: &[(&str, &str, Plant)] = &[
    ("an acknowledged write that is not in the log", "is not in the log", |history| {
        let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
        let Done::Ok { value, .. } = history.ops[at].done else { return false };
        // The revision of another key's change.
        let Some((revision, _)) = history.ops[at + 1..]
            .iter()
            .find(|op| is_acked(op, "update") && op.key != history.ops[at].key)
            .and_then(Op::acked)
        else {
            return false;
        };
        history.ops[at].done = Done::Ok { revision, value };
        true
    }),
    ("a write with another value than the log's", "the log has", |history| {
        let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
        history.ops[at].value = Some("another");
        true
    }),
    ("a read of a value that never was", "read", |history| {
        let is_it = |op: &Op<'_>| op.acked().is_some_and(|(_, value)| value.is_some());
        let Some(at) = find(history, |op| op.verb == "get" && is_it(op)) else { return false };
        let Some((revision, _)) = history.ops[at].acked() else { return false };
        history.ops[at].done = Done::Ok { revision, value: Some("never") };
        true
    }),
    ("a stale read", "but began after", |history| {
        let stale = |op: &Op<'_>| {
            let (revision, _) = op.acked().filter(|(_, value)| value.is_some())?;
            let at = history.steps(op.key).partition_point(|step| step.revision < revision);
            history.steps(op.key)[..at]
                .iter()
                .rev()
                .skip(1)
                .find(|step| step.value.is_some())
                .map(|step| Done::Ok { revision: step.revision, value: step.value })
        };
        let Some(at) = find(history, |op| op.verb == "get" && stale(op).is_some()) else {
            return false;
        };
        let Some(done) = stale(&history.ops[at]) else { return false };
        history.ops[at].done = done;
        true
    }),
    ("an absence that never was at that time", "but began after", |history| {
        // A key that was there long before and long after.
        let is_it = |op: &Op<'_>| {
            let (revision, value) = op.acked().unwrap_or_default();
            let absences = history.absences(op.key).unwrap_or_default();
            value.is_some() && absences.iter().all(|(_, until)| *until < revision)
        };
        let Some(at) = find(history, |op| op.verb == "get" && is_it(op)) else { return false };
        history.ops[at].done = Done::Ok { revision: 0, value: None };
        true
    }),
    ("two writes at one revision", "share revision", |history| {
        let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
        let one = history.ops[at];
        let other = |op: &Op<'_>| is_acked(op, "update") && op.key != one.key;
        let Some(next) = find(history, other) else { return false };
        history.ops[next].done = one.done;
        true
    }),
    ("a list without an object", "listed", |history| {
        let Some(at) = find(history, |op| op.verb == "list") else { return false };
        // An empty one.
        static EMPTY: BTreeMap<String, i64> = BTreeMap::new();
        history.ops[at].listed = Some(&EMPTY);
        true
    }),
    ("a write that happened before it was sent", "but began after", |history| {
        let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
        history.ops[at].call_us += 10_000;
        history.ops[at].answered.at_us =
            history.ops[at].answered.at_us.max(history.ops[at].call_us);
        true
    }),
    ("a refused write that happened", "was refused", |history| {
        let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
        history.ops[at].done = Done::Refused(409);
        true
    }),
    (
        "a lost write that happened before it was sent",
        "had been answered before it began",
        |history| {
            let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
            history.ops[at].done = Done::Unknown;
            history.ops[at].call_us += 10_000;
            true
        },
    ),
    ("a lost write that happened twice", "happened twice", |history| {
        // Somebody else's value appears again, as if a lost request had been repeated.
        let Some(at) = find(history, |op| is_acked(op, "update")) else { return false };
        let one = history.ops[at];
        history.ops[at].done = Done::Unknown;
        let Some(value) = one.value else { return false };
        history.repeat(one.key, value)
    }),
];

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let operations = arguments.iter().find_map(|text| text.parse().ok()).unwrap_or(100_000);
    let began = Clock::now();
    let generated = generate(operations, 1);
    println!(
        "{operations} operations and {} changes generated in {:.2?}",
        generated.log.len(),
        began.elapsed()
    );
    let began = Clock::now();
    let mut history = generated.history();
    let indexed = began.elapsed();
    let (placed, violations) = linearizable::violations(&history);
    println!(
        "{placed} placed, {} violations, in {:.2?} ({indexed:.2?} of it for the index); peak memory {} MiB",
        violations.len(),
        began.elapsed(),
        peak_mib()
    );
    let mut is_right = violations.is_empty() && placed > operations / 2;
    if arguments.iter().any(|text| text == "--corrupt") {
        for (name, words, plant) in DEFECTS {
            if !plant(&mut history) {
                println!("{name}: no place for it");
                is_right = false;
                continue;
            }
            let began = Clock::now();
            let (_, violations) = linearizable::violations(&history);
            let found = violations.iter().find(|told| told.contains(words));
            match found {
                Some(told) => println!("{name}: found in {:.2?}: {told}", began.elapsed()),
                None => println!(
                    "{name}: MISSED; {} others: {:?}",
                    violations.len(),
                    violations.first()
                ),
            }
            is_right &= found.is_some();
            history = generated.history();
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
