//! Two runs of one scenario side by side: what both saw and when, and what only one of them saw.
//!
//! For the same scenario on two targets, with two seeds, or before and after a change. Times count
//! from the moment at which the first fault took effect; generated names are replaced by their owners'.
//! Limits: only milestones are compared (faults, nodes, taints, pods, leaders, processes), not every event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use shakedown_core::json::Value;
use shakedown_core::lever::ProcessState;
use shakedown_core::timeline::{Change, Event, FaultPhase, What};
use shakedown_core::verdict::ScenarioVerdict;
use tabled::builder::Builder;
use tabled::settings::peaker::Priority;
use tabled::settings::{Style, Width};

use crate::durations::human_ms;
use crate::terminal::WIDTH_MIN;

/// One side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// What it is called: the target, or the folder.
    pub name: &'a str,
    /// Everything that was seen.
    pub events: &'a [Event],
    /// What followed from it, if it was kept.
    pub verdict: Option<&'a ScenarioVerdict>,
}

/// What happened, and which time it was: the third readiness of a pod of `web` is its own milestone.
type Milestone = (String, usize);

/// Compares a scenario of two runs, as text of at most this width.
pub fn compare(scenario: &str, one: Side<'_>, other: Side<'_>, width: usize) -> String {
    let (ours, theirs) = (milestones(scenario, one.events), milestones(scenario, other.events));
    let known: BTreeMap<&Milestone, i64> = theirs.iter().map(|(what, at)| (what, *at)).collect();
    let mut text = format!("{scenario}: {} and {}\n", one.name, other.name);
    text.push_str(&verdicts(one, other, width));
    let mut rows = Builder::default();
    rows.push_record(["milestone", one.name, other.name, "difference"]);
    let (mut shared, mut largest) = (BTreeSet::new(), 0_i64);
    for (what, at) in &ours {
        let Some(there) = known.get(what) else { continue };
        shared.insert(what);
        largest = largest.max((there - at).abs());
        rows.push_record([told(what), ms(*at), ms(*there), ms(there - at)]);
    }
    text.push_str(&table(rows, width));
    for (side, all) in [(one, &ours), (other, &theirs)] {
        let alone: Vec<_> = all.iter().filter(|(what, _)| !shared.contains(what)).collect();
        line(&mut text, format_args!("only in {}: {}", side.name, alone.len()));
        for (what, at) in alone {
            line(&mut text, format_args!("  {}  {}", ms(*at), told(what)));
        }
    }
    let (count, largest) = (shared.len(), ms(largest));
    line(
        &mut text,
        format_args!("{count} milestones in both; the largest difference is {largest}"),
    );
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a String cannot fail");
}

fn ms(micros: i64) -> String {
    human_ms(micros as f64 / 1000.0)
}

fn told((what, nth): &Milestone) -> String {
    if *nth == 0 { what.clone() } else { format!("{what} ({})", nth + 1) }
}

fn table(rows: Builder, width: usize) -> String {
    let mut table = rows.build();
    table.with(Style::sharp());
    let width = width.max(WIDTH_MIN);
    table.with(Width::wrap(width).priority(Priority::max(false)).keep_words(true));
    format!("{table}\n")
}

/// The checks of both, side by side.
fn verdicts(one: Side<'_>, other: Side<'_>, width: usize) -> String {
    let (Some(ours), Some(theirs)) = (one.verdict, other.verdict) else { return String::new() };
    let of = |verdict: &ScenarioVerdict, id: &str| {
        let check = verdict.checks.iter().find(|check| check.id == id);
        check.map_or("-".to_owned(), |check| match check.observed_ms {
            Some(observed) => format!("{} {}", check.verdict.word(), human_ms(observed)),
            None => check.verdict.word().to_owned(),
        })
    };
    let mut ids: Vec<&str> = Vec::new();
    for check in ours.checks.iter().chain(&theirs.checks) {
        if !ids.contains(&check.id.as_str()) {
            ids.push(&check.id);
        }
    }
    let mut rows = Builder::default();
    rows.push_record(["check", one.name, other.name]);
    rows.push_record(["all", ours.verdict.word(), theirs.verdict.word()]);
    for id in ids {
        rows.push_record([id.to_owned(), of(ours, id), of(theirs, id)]);
    }
    table(rows, width)
}

/// The milestones of a scenario, in order, in microseconds after the first fault took effect.
fn milestones(scenario: &str, events: &[Event]) -> Vec<(Milestone, i64)> {
    let own = || events.iter().filter(|event| event.scenario == scenario);
    let applied =
        |event: &&Event| matches!(event.what, What::Fault { phase: FaultPhase::Applied, .. });
    let zero = own().find(applied).or_else(|| own().next());
    let Some(zero) = zero.map(|event| signed(event.at_us)) else { return Vec::new() };
    let mut known = Known::default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = Vec::new();
    for event in own() {
        let at = signed(event.at_us) - zero;
        for what in known.news(&event.what) {
            // What was so before the first fault is taken in, and is no milestone.
            if at < 0 {
                continue;
            }
            let count = counts.entry(what.clone()).or_default();
            all.push(((what, *count), at));
            *count += 1;
        }
    }
    all
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// What is known so far, so that only news are milestones.
#[derive(Default)]
struct Known {
    /// By subject: what was last said of it.
    last: BTreeMap<String, String>,
    taints: BTreeMap<String, BTreeSet<String>>,
    term: u64,
    members: BTreeMap<u64, String>,
}

impl Known {
    /// Notes what is said of a subject; answers whether that is new.
    fn is_new(&mut self, subject: String, state: &str) -> bool {
        self.last.insert(subject, state.to_owned()).as_deref() != Some(state)
    }

    fn news(&mut self, what: &What) -> Vec<String> {
        match what {
            What::Moment { name } => vec![format!("moment {name}")],
            What::Fault { name, phase, .. } => match phase {
                FaultPhase::Planned | FaultPhase::UndoLogged | FaultPhase::Sustained => Vec::new(),
                phase => vec![format!("fault {name}: {phase:?}")],
            },
            What::Object { change, kind, object, .. } => self.object(*change, kind, object),
            What::Process { node, component, state, .. } => {
                let word = match state {
                    ProcessState::Running => "runs",
                    ProcessState::Stopped => "stands still",
                    ProcessState::Absent => "is gone",
                };
                let subject = format!("{component} on {node}");
                let news = self.is_new(subject.clone(), word);
                news.then(|| format!("{subject} {word}")).into_iter().collect()
            }
            What::EtcdMember { node, member, leader, term, .. } => {
                self.members.insert(*member, node.clone());
                let is_newer = *leader != 0 && *term > self.term;
                let leads = self.members.get(leader).filter(|_| is_newer).cloned();
                leads
                    .into_iter()
                    .map(|leads| {
                        self.term = *term;
                        format!("etcd is led by {leads}")
                    })
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn object(&mut self, change: Change, kind: &str, object: &Value) -> Vec<String> {
        let name = text(object, "/metadata/name");
        match kind {
            "nodes" => self.node(name, object),
            "pods" => self.pod(change, object),
            "deployments.apps" => {
                let ready = object.pointer("/status/readyReplicas").and_then(Value::as_u64);
                let state = format!("has {} ready replicas", ready.unwrap_or(0));
                let subject = format!("deployment {name}");
                let news = self.is_new(subject.clone(), &state);
                news.then(|| format!("{subject} {state}")).into_iter().collect()
            }
            "leases.coordination.k8s.io"
                if text(object, "/metadata/namespace") == "kube-system" =>
            {
                let holder = text(object, "/spec/holderIdentity").split('_').next();
                let state = format!("is held by {}", holder.unwrap_or("nobody"));
                let subject = format!("lease {name}");
                let news = self.is_new(subject.clone(), &state);
                news.then(|| format!("{subject} {state}")).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn node(&mut self, name: &str, object: &Value) -> Vec<String> {
        let mut news = Vec::new();
        let ready = list(object, "/status/conditions").find(|one| one["type"] == "Ready");
        let state = format!("Ready={}", ready.map_or("", |ready| text(ready, "/status")));
        if self.is_new(format!("node {name}"), &state) {
            news.push(format!("node {name} {state}"));
        }
        let taints: BTreeSet<String> = list(object, "/spec/taints")
            .map(|taint| format!("{}:{}", text(taint, "/key"), text(taint, "/effect")))
            .collect();
        let before = self.taints.insert(name.to_owned(), taints.clone()).unwrap_or_default();
        news.extend(taints.difference(&before).map(|taint| format!("node {name} tainted {taint}")));
        let gone = before.difference(&taints);
        news.extend(gone.map(|taint| format!("node {name} rid of {taint}")));
        news
    }

    fn pod(&mut self, change: Change, object: &Value) -> Vec<String> {
        let whose = owner(object);
        let uid = text(object, "/metadata/uid");
        let node = text(object, "/spec/nodeName");
        let is_going = object.pointer("/metadata/deletionTimestamp").is_some();
        let ready = list(object, "/status/conditions").find(|one| one["type"] == "Ready");
        let is_ready = ready.is_some_and(|ready| ready["status"] == "True");
        let state = match (change, is_going, is_ready, node.is_empty()) {
            (Change::Deleted, ..) => "is deleted",
            (_, true, ..) => "is being deleted",
            (_, _, true, _) => "is Ready",
            (_, _, _, false) => "is bound",
            _ => "is made",
        };
        if !self.is_new(format!("pod {uid}"), state) {
            return Vec::new();
        }
        let place = if node.is_empty() { String::new() } else { format!(" on {node}") };
        vec![format!("{whose}{place} {state}")]
    }
}

/// `a pod of web`, or `pod bare`: generated names differ from run to run.
fn owner(object: &Value) -> String {
    let Some(owner) = list(object, "/metadata/ownerReferences").next() else {
        return format!("pod {}", text(object, "/metadata/name"));
    };
    let hash = text(object, "/metadata/labels/pod-template-hash");
    let name = text(owner, "/name");
    let name = name.strip_suffix(hash).and_then(|name| name.strip_suffix('-')).unwrap_or(name);
    format!("a pod of {name}")
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(object: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(at_s: f64, what: What) -> Event {
        let at_us = (at_s * 1e6) as u64;
        Event { seq: 0, at_us, error_us: 0, scenario: "s".to_owned(), what }
    }

    fn fault(at_s: f64, phase: FaultPhase) -> Event {
        let (name, fault) = ("kill".to_owned(), "node-kill".to_owned());
        let (targets, undo, evidence) = (Vec::new(), Vec::new(), Vec::new());
        event(at_s, What::Fault { name, fault, phase, targets, undo, evidence })
    }

    fn node(at_s: f64, ready: &str, taints: serde_json::Value) -> Event {
        let object = json!({
            "metadata": {"name": "worker-1"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        event(
            at_s,
            What::Object {
                change: Change::Modified,
                kind: "nodes".into(),
                revision: 1,
                object: object.into(),
            },
        )
    }

    fn pod(at_s: f64, suffix: &str) -> Event {
        let object = json!({
            "metadata": {
                "name": format!("web-7f-{suffix}"), "uid": suffix, "deletionTimestamp": "x",
                "labels": {"pod-template-hash": "7f"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-7f"}],
            },
            "spec": {"nodeName": "worker-1"},
        });
        event(
            at_s,
            What::Object {
                change: Change::Modified,
                kind: "pods".into(),
                revision: 1,
                object: object.into(),
            },
        )
    }

    fn side<'a>(name: &'a str, events: &'a [Event]) -> Side<'a> {
        Side { name, events, verdict: None }
    }

    #[test]
    fn what_both_saw_stands_together_and_what_one_saw_alone() {
        let taint = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
        let sim = [
            node(5.0, "True", json!([])),
            fault(10.0, FaultPhase::Applied),
            node(50.0, "Unknown", json!([])),
            node(55.0, "Unknown", taint.clone()),
            pod(60.0, "a"),
            pod(61.0, "b"),
        ];
        let docker = [
            node(1.0, "True", json!([])),
            fault(100.0, FaultPhase::Applied),
            node(142.5, "Unknown", taint),
            pod(151.0, "x"),
        ];
        let text = compare("s", side("sim", &sim), side("docker", &docker), 100);
        let row = |what: &str| text.lines().find(|line| line.contains(what)).unwrap_or_default();
        assert!(
            row("Ready=Unknown").contains("40.00 s") && row("Ready=Unknown").contains("42.50 s")
        );
        assert!(row("tainted").contains("45.00 s"), "{text}");
        assert!(row("a pod of web on worker-1 is being deleted").contains("1.00 s"), "{text}");
        assert!(
            text.contains(
                "only in sim: 1\n  51.00 s  a pod of web on worker-1 is being deleted (2)"
            )
        );
        assert!(text.contains("only in docker: 0"));
        assert!(text.contains("4 milestones in both; the largest difference is 2.50 s"), "{text}");
        assert!(!text.contains("Ready=True"), "what was so before the fault is no milestone");
    }

    #[test]
    fn a_scenario_that_one_has_not_run_shares_nothing() {
        let sim = [fault(10.0, FaultPhase::Applied)];
        let text = compare("s", side("a", &sim), side("b", &[]), 80);
        assert!(text.contains("0 milestones in both"), "{text}");
        assert!(text.contains("only in a: 1"), "{text}");
    }
}
