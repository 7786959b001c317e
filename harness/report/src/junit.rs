//! JUnit XML: a suite for each scenario, a case for each check.
//!
//! FAIL is a failure; INVALID, INCONCLUSIVE and HARNESS are errors, as the promise could not be
//! judged; NOT_RUN is skipped. A scenario without checks has one case that is an error.

use std::fmt::Write;

use shakedown_core::verdict::{CheckVerdict, RunVerdict, ScenarioVerdict, Verdict};

use crate::durations::human_ms;

/// The run as `junit.xml`.
pub fn junit(run: &RunVerdict) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all = || run.scenarios.iter().flat_map(cases);
    push(
        &mut xml,
        format_args!(
            "<testsuites name=\"shakedown\" timestamp=\"{}\" time=\"{}\" {}>\n",
            attribute(&run.started),
            seconds(run.wall_ms),
            counts(&all().collect::<Vec<_>>())
        ),
    );
    for scenario in &run.scenarios {
        suite(&mut xml, scenario);
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn suite(xml: &mut String, scenario: &ScenarioVerdict) {
    let cases = cases(scenario);
    push(
        xml,
        format_args!(
            "  <testsuite name=\"{}\" time=\"{}\" {}>\n    <properties>\n      \
             <property name=\"title\" value=\"{}\"/>\n      \
             <property name=\"virtual_time\" value=\"{}\"/>\n",
            attribute(&scenario.id),
            seconds(scenario.wall_ms),
            counts(&cases),
            attribute(&scenario.title),
            seconds(scenario.virtual_ms)
        ),
    );
    for behaviour in &scenario.behaviours {
        let behaviour = attribute(behaviour);
        push(xml, format_args!("      <property name=\"proves\" value=\"{behaviour}\"/>\n"));
    }
    xml.push_str("    </properties>\n");
    for check in &cases {
        case(xml, scenario, check);
    }
    xml.push_str("  </testsuite>\n");
}

fn case(xml: &mut String, scenario: &ScenarioVerdict, check: &CheckVerdict) {
    let time =
        check.observed_ms.map_or(String::new(), |ms| format!(" time=\"{:.3}\"", ms / 1000.0));
    push(
        xml,
        format_args!(
            "    <testcase classname=\"{}\" name=\"{}\"{time}>",
            attribute(&scenario.id),
            attribute(&check.id)
        ),
    );
    let message = attribute(&check.message);
    let word = check.verdict.word();
    let body = text(&told(check));
    match element(check.verdict) {
        Some("skipped") => push(xml, format_args!("<skipped message=\"{message}\"/>")),
        Some(element) => push(
            xml,
            format_args!("<{element} type=\"{word}\" message=\"{message}\">{body}</{element}>"),
        ),
        None => push(xml, format_args!("<system-out>{body}</system-out>")),
    }
    xml.push_str("</testcase>\n");
}

fn told(check: &CheckVerdict) -> String {
    let mut told = check.message.clone();
    if let Some([low, high]) = check.window_ms {
        told.push_str(&format!("\npromised: {} to {}", human_ms(low), human_ms(high)));
    }
    if let Some(observed) = check.observed_ms {
        told.push_str(&format!(
            "\nobserved: {} ± {}",
            human_ms(observed),
            human_ms(check.error_ms)
        ));
    }
    told
}

/// The checks of a scenario; one that says that there was none, if there was none.
fn cases(scenario: &ScenarioVerdict) -> Vec<CheckVerdict> {
    if !scenario.checks.is_empty() {
        return scenario.checks.clone();
    }
    vec![CheckVerdict {
        id: "scenario".to_owned(),
        verdict: scenario.verdict.max(Verdict::Invalid),
        observed_ms: None,
        window_ms: None,
        error_ms: 0.0,
        message: "nothing was checked".to_owned(),
    }]
}

fn element(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Pass => None,
        Verdict::Fail => Some("failure"),
        Verdict::NotRun => Some("skipped"),
        Verdict::Invalid | Verdict::Inconclusive | Verdict::Harness => Some("error"),
    }
}

fn counts(cases: &[CheckVerdict]) -> String {
    let count =
        |wanted| cases.iter().filter(|check| element(check.verdict) == Some(wanted)).count();
    format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
        cases.len(),
        count("failure"),
        count("error"),
        count("skipped")
    )
}

fn seconds(ms: u64) -> String {
    format!("{:.3}", ms as f64 / 1000.0)
}

fn push(xml: &mut String, arguments: std::fmt::Arguments<'_>) {
    xml.write_fmt(arguments).expect("writing to a String cannot fail");
}

/// Text for the inside of an element.
fn text(raw: &str) -> String {
    let mut escaped = String::with_capacity(raw.len());
    for letter in raw.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            // `]]>` must not stand in text.
            '>' => escaped.push_str("&gt;"),
            '\t' | '\n' | '\r' => escaped.push(letter),
            // XML 1.0 has no way to write these, not even as references.
            control if control.is_control() && (control as u32) < 0x20 => escaped.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Text for a value in double quotes.
fn attribute(raw: &str) -> String {
    let escaped = text(raw).replace('"', "&quot;");
    escaped.replace('\n', "&#10;").replace('\r', "&#13;").replace('\t', "&#9;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{empty, run};

    #[test]
    fn every_verdict_has_its_element() {
        insta::assert_snapshot!(junit(&run()));
    }

    #[test]
    fn what_xml_cannot_hold_is_escaped() {
        assert_eq!(text("a<b> && ]]> \u{1b}[31m"), "a&lt;b&gt; &amp;&amp; ]]&gt; \u{fffd}[31m");
        assert_eq!(attribute("say \"no\"\n<b>"), "say &quot;no&quot;&#10;&lt;b&gt;");
    }

    #[test]
    fn a_scenario_without_checks_is_an_error() {
        let mut empty_run = empty();
        let mut scenario = run().scenarios[0].clone();
        scenario.checks.clear();
        empty_run.scenarios.push(scenario);
        assert!(junit(&empty_run).contains("tests=\"1\" failures=\"0\" errors=\"1\""));
    }
}
