//! Scenario documents as values: written as a person would write them, and planned as `run` plans them.
//!
//! What explore finds is a file. So a generated storm is a document first, and goes through the very
//! reader and planner that take files.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use shakedown_core::plan::Plan;
use shakedown_core::planner::Planner;
use shakedown_core::scenario;
use shakedown_core::target::Parameters;

/// How long a line may be before a value is broken into several.
const LINE_MAX: usize = 108;
/// Keys that stand first, in this order; the others follow in order of name, the last ones last.
const FIRST: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "title",
    "proves",
    "cluster",
    "controlPlanes",
    "workers",
    "parameters",
    "given",
    "bind",
    "workload",
    "steps",
    "manifest",
    "pod",
    "fault",
    "settles",
    "eventually",
    "always",
    "never",
    "heal",
    "wait",
    "scale",
    "patch",
    "delete",
    "apply",
    "deployment",
    "component",
    "on",
    "between",
    "from",
    "to",
    "within",
    "after",
];
const LAST: &[&str] = &["spec", "status", "for", "until", "as"];

/// A scenario document, where it stands, and what decides its choices.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The scenario's id, as `run` makes it of the file's folder and the scenario's name.
    pub id: String,
    /// What the file says.
    pub value: Value,
}

impl Document {
    /// Plans it as `run` plans a file, or says what is wrong.
    pub fn plan(&self, seed: u64, sabotages: &[String]) -> Result<Plan, String> {
        let text = write(&self.value);
        let scenarios =
            scenario::parse("scenario.yaml", &text).map_err(|error| error.to_string())?;
        let [scenario] = scenarios.as_slice() else {
            return Err(format!("{} scenarios stand in one document", scenarios.len()));
        };
        let invariants: BTreeSet<String> =
            shakedown_judge::invariants::names().into_iter().map(str::to_owned).collect();
        let planner = Planner {
            registry: shakedown_faults::ALL,
            behaviours: None,
            invariants: Some(&invariants),
            files: &|name| Err(format!("a generated scenario names no file, and here is {name}")),
            parameters: Parameters::default(),
            sabotages,
        };
        planner.plan(&self.id, scenario, seed).map_err(|error| error.to_string())
    }
}

/// Writes a document as YAML: what fits in a line stands in one.
pub fn write(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(fields) => {
            for (name, field) in ordered(fields) {
                text.push_str(&" ".repeat(indent));
                text.push_str(&scalar(name));
                text.push(':');
                under(field, indent, name.len() + 1, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                text.push_str(&" ".repeat(indent));
                text.push('-');
                let short = flow(item);
                if short.len() + indent + 2 <= LINE_MAX || !item.is_object() {
                    text.push(' ');
                    text.push_str(&short);
                    text.push('\n');
                } else {
                    let mut inner = String::new();
                    block(item, indent + 2, &mut inner);
                    text.push(' ');
                    text.push_str(inner.trim_start());
                }
            }
        }
        other => {
            text.push_str(&flow(other));
            text.push('\n');
        }
    }
}

fn under(field: &Value, indent: usize, used: usize, text: &mut String) {
    let short = flow(field);
    let is_long = short.len() + indent + used + 1 > LINE_MAX;
    match field {
        Value::Object(fields) if is_long && !fields.is_empty() => {
            text.push('\n');
            block(field, indent + 2, text);
        }
        Value::Array(items) if is_long && !items.is_empty() => {
            text.push('\n');
            block(field, indent, text);
        }
        _ => {
            text.push(' ');
            text.push_str(&short);
            text.push('\n');
        }
    }
}

fn ordered(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |name: &str| {
        let first = FIRST.iter().position(|known| *known == name);
        let last = LAST.iter().position(|known| *known == name);
        first.or(last.map(|at| at + 1000)).unwrap_or(500)
    };
    let mut all: Vec<_> = fields.iter().collect();
    all.sort_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
    all
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = ordered(fields);
            let parts =
                fields.iter().map(|(name, field)| format!("{}: {}", scalar(name), flow(field)));
            format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A text without quotes where YAML takes it for nothing else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " _./$*+-()".contains(c);
    let starts = |c: char| c.is_ascii_alphanumeric() || c == '$';
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_number = text.parse::<f64>().is_ok() || text.starts_with("0x") || text.starts_with("0o");
    let is_plain = text.starts_with(starts)
        && !text.ends_with(' ')
        && text.chars().all(plain)
        && !is_number
        // As a key `on` is a text for the reader used here; as a value it would be one too, but is read
        // by people as a truth value.
        && (text == "on" || !words.contains(&text.to_ascii_lowercase().as_str()));
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({
            "spec": {
                "steps": [
                    {"fault": "partition", "between": ["worker-1", "the control plane"], "for": "12s", "as": "a"},
                    {"patch": {"deployment": "web", "spec": {"template": {"metadata": {"annotations": {"round": "2", "note": "a: b, {c}"}}}}}},
                    {"settles": {"cel": "objects.nodes.all(n, n.status.conditions.exists(c, c.type == 'Ready' && c.status == 'True'))"}, "within": ["0s", "2 * lease + (grace - 1s)"], "after": "calm"},
                ],
                "invariants": [], "truth": "True", "number": "12", "on": true, "empty": {}, "text": "",
            },
            "apiVersion": "shakedown.dev/v1",
        });
        let text = write(&value);
        let documents = shakedown_core::yaml::parse("a.yaml", &text).expect("it is YAML");
        assert_eq!(documents[0].value, value, "{text}");
        assert!(text.lines().all(|line| line.len() <= 160), "{text}");
        assert!(text.starts_with("apiVersion: shakedown.dev/v1\n"), "{text}");
        assert!(
            text.contains(
                "- {fault: partition, between: [worker-1, the control plane], for: 12s, as: a}"
            ),
            "{text}"
        );
    }
}
