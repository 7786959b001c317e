//! The table of planted defects: what each breaks, what catches it, and whether it did.
//!
//! Misses come first, with what was seen instead.

use std::fmt::Write;

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::peaker::Priority;
use tabled::settings::{Style, Width};

use crate::durations::human;
use crate::terminal::WIDTH_MIN;

/// What became of one planted defect in one scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SabotageRow {
    /// Its name.
    pub sabotage: String,
    /// `orchestrator` or `harness`.
    pub place: String,
    /// What it breaks.
    pub breaks: String,
    /// In which scenario it was planted.
    pub scenario: String,
    /// The verdict and check that catch it.
    pub caught_by: String,
    /// Whether they did.
    pub is_caught: bool,
    /// What did not pass.
    pub seen: String,
    /// Wall time.
    pub wall_ms: u64,
}

/// The table, `width` columns wide at most, and a line that sums it up.
pub fn sabotages(rows: &[SabotageRow], width: usize) -> String {
    let width = width.max(WIDTH_MIN);
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.is_caught) {
        let lines = row.seen.lines().map(|line| format!("\n  {line}")).collect::<String>();
        writeln!(
            text,
            "MISSED {} in {}: expected {}, seen were:{lines}",
            row.sabotage, row.scenario, row.caught_by
        )
        .expect("writing to a String cannot fail");
    }
    let mut table = Builder::default();
    table.push_record(["sabotage", "where", "breaks", "caught by", "verdict", "time"]);
    for row in rows {
        table.push_record([
            row.sabotage.clone(),
            row.place.clone(),
            row.breaks.clone(),
            format!("{} of {}", row.caught_by, row.scenario),
            if row.is_caught { "caught" } else { "MISSED" }.to_owned(),
            human(row.wall_ms),
        ]);
    }
    let mut table = table.build();
    table.with(Style::sharp());
    table.with(Width::wrap(width).priority(Priority::max(false)).keep_words(true));
    let caught = rows.iter().filter(|row| row.is_caught).count();
    let missed = rows.len() - caught;
    writeln!(text, "{table}\n{caught} caught, {missed} missed")
        .expect("writing to a String cannot fail");
    text
}

/// The same for programs.
pub fn sabotages_json(rows: &[SabotageRow]) -> String {
    serde_json::to_string_pretty(rows).expect("rows are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_comes_first_and_says_what_was_seen() {
        let row = |name: &str, is_caught| SabotageRow {
            sabotage: name.to_owned(),
            place: "harness".to_owned(),
            breaks: "A fault is injected on paper only.".to_owned(),
            scenario: "resilience/node-killed".to_owned(),
            caught_by: "INVALID fault/kill".to_owned(),
            is_caught,
            seen: "PASS".to_owned(),
            wall_ms: 1500,
        };
        let text = sabotages(&[row("good", true), row("bad", false)], 100);
        assert!(text.starts_with("MISSED bad in resilience/node-killed"), "{text}");
        assert!(text.ends_with("1 caught, 1 missed\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let read: serde_json::Value =
            serde_json::from_str(&sabotages_json(&[row("good", true)])).unwrap();
        assert_eq!(read[0]["is_caught"], true);
    }
}
