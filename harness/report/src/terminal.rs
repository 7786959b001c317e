//! The table in the terminal: failures first, with what was promised and seen; then every check.
//!
//! Everything is said in words: colour, where the terminal has it, only repeats them. Nothing is
//! wider than the width it is given, down to [`WIDTH_MIN`].

use std::fmt::Write;

use shakedown_core::verdict::{CheckVerdict, RunVerdict, ScenarioVerdict, Verdict};
use tabled::builder::Builder;
use tabled::settings::peaker::Priority;
use tabled::settings::{Style, Width};

use crate::durations::{human, human_ms};

/// Below this a table cannot be read, and is written wider than asked.
pub const WIDTH_MIN: usize = 60;

/// Every verdict, the worst first: the order of the summary.
const WORST_FIRST: &[Verdict] = &[
    Verdict::Harness,
    Verdict::Fail,
    Verdict::Invalid,
    Verdict::Inconclusive,
    Verdict::NotRun,
    Verdict::Pass,
];

/// The whole report, `width` columns wide at most.
pub fn terminal(run: &RunVerdict, width: usize, is_coloured: bool) -> String {
    let width = width.max(WIDTH_MIN);
    let mut scenarios: Vec<_> = run.scenarios.iter().collect();
    // The worst come first; those of one verdict stay in the order they ran.
    scenarios.sort_by_key(|scenario| std::cmp::Reverse(scenario.verdict));
    let mut text = String::new();
    for scenario in scenarios {
        scenario_text(&mut text, scenario, width, is_coloured);
        text.push('\n');
    }
    text.push_str(&summary(run));
    text.push('\n');
    text
}

fn scenario_text(text: &mut String, scenario: &ScenarioVerdict, width: usize, is_coloured: bool) {
    let word = coloured(scenario.verdict, is_coloured);
    line(text, format_args!("{word}  {}  {}", scenario.id, times(scenario)));
    for part in wrapped(&scenario.title, width - 2) {
        line(text, format_args!("  {part}"));
    }
    let mut checks: Vec<_> = scenario.checks.iter().collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.verdict));
    for check in checks.iter().filter(|check| check.verdict != Verdict::Pass) {
        let told = format!("{} {}: {}", check.verdict.word(), check.id, check.message);
        for (at, part) in wrapped(&told, width - 4).into_iter().enumerate() {
            line(text, format_args!("{}{part}", if at == 0 { "  " } else { "    " }));
        }
    }
    if !checks.is_empty() {
        line(text, format_args!("{}", table(&checks, width)));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a String cannot fail");
}

fn times(scenario: &ScenarioVerdict) -> String {
    if scenario.wall_ms == scenario.virtual_ms {
        format!("in {}", human(scenario.wall_ms))
    } else {
        format!("{} of cluster time in {}", human(scenario.virtual_ms), human(scenario.wall_ms))
    }
}

fn table(checks: &[&CheckVerdict], width: usize) -> String {
    let mut rows = Builder::default();
    rows.push_record(["check", "promised", "observed", "verdict"]);
    for check in checks {
        rows.push_record([
            check.id.clone(),
            promised(check),
            observed(check),
            check.verdict.word().to_owned(),
        ]);
    }
    let mut table = rows.build();
    table.with(Style::sharp());
    table.with(Width::wrap(width).priority(Priority::max(false)).keep_words(true));
    table.to_string()
}

fn promised(check: &CheckVerdict) -> String {
    match check.window_ms {
        Some([low, high]) => format!("{} to {}", human_ms(low), human_ms(high)),
        None => "-".to_owned(),
    }
}

fn observed(check: &CheckVerdict) -> String {
    match check.observed_ms {
        Some(observed) if check.error_ms > 0.0 => {
            format!("{} ± {}", human_ms(observed), human_ms(check.error_ms))
        }
        Some(observed) => human_ms(observed),
        None => "-".to_owned(),
    }
}

/// One line: how many scenarios of each verdict, and what decides the exit code.
pub fn summary(run: &RunVerdict) -> String {
    let count = |verdict| run.scenarios.iter().filter(|one| one.verdict == verdict).count();
    let counts: Vec<_> = WORST_FIRST
        .iter()
        .filter(|verdict| count(**verdict) > 0)
        .map(|verdict| format!("{} {}", count(*verdict), verdict.word()))
        .collect();
    let verdict = Verdict::worst(run.scenarios.iter().map(|scenario| scenario.verdict));
    let counts = if counts.is_empty() { "nothing was run".to_owned() } else { counts.join(", ") };
    format!(
        "{}: {counts}; target {}, seed {}, {} of cluster time in {}; exit code {}",
        verdict.word(),
        run.target,
        run.seed,
        human(run.virtual_ms),
        human(run.wall_ms),
        verdict.exit_code()
    )
}

fn coloured(verdict: Verdict, is_coloured: bool) -> String {
    let word = verdict.word();
    if !is_coloured {
        return word.to_owned();
    }
    let code = match verdict {
        Verdict::Pass => 32,
        Verdict::Fail | Verdict::Harness => 31,
        Verdict::Invalid | Verdict::Inconclusive => 33,
        Verdict::NotRun => 36,
    };
    format!("\u{1b}[1;{code}m{word}\u{1b}[0m")
}

/// Broken between words; a word that is longer than a line is broken inside.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let used = lines.last().map_or(0, |last| last.chars().count());
            let gap = usize::from(used > 0);
            if used + gap + rest.len() <= width {
                let last = lines.last_mut().expect("it begins with one line");
                if gap > 0 {
                    last.push(' ');
                }
                last.extend(rest.drain(..));
            } else if used > 0 {
                lines.push(String::new());
            } else {
                let last = lines.last_mut().expect("it begins with one line");
                last.extend(rest.drain(..width));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{empty, run};

    #[test]
    fn failures_come_first_and_every_check_is_in_the_table() {
        insta::assert_snapshot!(terminal(&run(), 100, false));
    }

    #[test]
    fn a_narrow_terminal_gets_narrow_lines() {
        let text = terminal(&run(), 72, false);
        let body = text
            .lines()
            .filter(|line| !line.contains("exit code") && !line.contains("cluster time"));
        for line in body {
            assert!(line.chars().count() <= 72, "{} columns: {line}", line.chars().count());
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let plain = terminal(&run(), 100, false);
        let mut coloured = terminal(&run(), 100, true);
        assert!(coloured.contains("\u{1b}[1;31mFAIL"));
        for code in ["\u{1b}[1;31m", "\u{1b}[1;32m", "\u{1b}[1;33m", "\u{1b}[1;36m", "\u{1b}[0m"] {
            coloured = coloured.replace(code, "");
        }
        assert_eq!(plain, coloured);
    }

    #[test]
    fn nothing_at_all_is_no_pass() {
        assert!(summary(&empty()).starts_with("INVALID: nothing was run"));
    }

    #[test]
    fn long_words_are_broken() {
        assert_eq!(wrapped("ab abcdefgh c", 4), ["ab", "abcd", "efgh", "c"]);
    }
}
