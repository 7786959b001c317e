//! The reference: a scenario of a file, made one that stands alone and that has time for a fault.
//!
//! A controller that has died needs an election, and one that sees nothing does nothing. So what must
//! come may come so much later (see [`slack`]), and waits are as much longer; what must never be is
//! promised as before, from so much later on where it has a deadline in it.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::plan::{Action, Word};
use shakedown_core::target::Parameters;
use shakedown_core::yaml;

use crate::document::Document;

/// For how long a view stands still after the place at which it was stopped.
pub const FROZEN: Duration = Duration::from_secs(20);

/// How much later than without a fault something may come: an election, a view that stands still, and
/// the time to go on.
pub fn slack(parameters: &Parameters) -> Duration {
    parameters.lease + 3 * parameters.retry + FROZEN + Duration::from_secs(10)
}

/// The faults by which states are reached.
pub const FAULTS: &[&str] = &["crash-at-write", "freeze-view", "hold-events", "rewind"];

/// Reads a file that a scenario names.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// A scenario's document that names no file.
pub fn standalone(value: &Value, files: Files<'_>) -> Result<Value, String> {
    let mut whole = value.clone();
    if let Some(spec) = whole["spec"].as_object_mut() {
        // A rule for a controller concerns all of the cluster.
        spec.remove("blast");
    }
    let read = |name: &Value| -> Result<Value, String> {
        let name = name.as_str().ok_or("a file without a name")?;
        let documents = yaml::parse(name, &files(name)?).map_err(|error| error.to_string())?;
        Ok(documents.into_iter().map(|document| document.value).collect())
    };
    for entry in whole["spec"]["given"].as_array_mut().into_iter().flatten() {
        inline(entry, &read)?;
    }
    for step in whole["spec"]["steps"].as_array_mut().into_iter().flatten() {
        if step["apply"]["file"].is_string() {
            inline(&mut step["apply"], &read)?;
        }
    }
    Ok(whole)
}

fn inline(place: &mut Value, read: &dyn Fn(&Value) -> Result<Value, String>) -> Result<(), String> {
    let Some(fields) = place.as_object_mut() else { return Ok(()) };
    if let Some(file) = fields.remove("file") {
        fields.insert("manifest".to_owned(), read(&file)?);
    }
    Ok(())
}

/// The same scenario with time for a fault, and time after it to come to rest.
pub fn patient(document: &Document, seed: u64) -> Result<Document, String> {
    let plan = document.plan(seed, &[])?;
    let slack = slack(&plan.cluster.parameters);
    let mut value = document.value.clone();
    let steps = value["spec"]["steps"].as_array_mut().ok_or("a scenario without steps")?;
    // A step that has no name is named by its number, which a fault before it changes.
    let mut named = Vec::new();
    for (step, planned) in steps.iter_mut().zip(&plan.steps) {
        match &planned.action {
            Action::Wait { time, .. } => step["wait"] = json!(seconds(*time + slack)),
            Action::Check(check) => {
                let meant = plan.steps.iter().find(|other| other.moment == check.after);
                match meant.filter(|other| other.moment == format!("step-{}", other.index)) {
                    Some(other) => {
                        named.push(other.index);
                        step["after"] = json!(format!("was-{}", other.moment));
                    }
                    None => step["after"] = json!(check.after),
                }
                if !check.word.blocks() {
                    step.as_object_mut().map(|fields| fields.remove("for"));
                }
                let (mut low, mut high) = (check.window.low, check.window.high);
                match check.word {
                    Word::Eventually | Word::Settles => high += slack,
                    Word::Always | Word::Never if !low.is_zero() => low += slack,
                    Word::Always | Word::Never => {}
                }
                step["within"] = json!([seconds(low), seconds(high)]);
            }
            _ => {}
        }
        // A fault of the scenario's own lasts for as much longer: a new leader may count its time anew, as
        // upstream's does for a taint without `timeAdded`.
        if let Some(text) = step.get("fault").and_then(|_| step["for"].as_str()) {
            let time = shakedown_core::window::evaluate(text, &plan.cluster.parameters)
                .map_err(|error| error.to_string())?;
            step["for"] = json!(seconds(time + slack));
        }
    }
    for at in named {
        steps[at]["as"] = json!(format!("was-step-{at}"));
    }
    // What has no time left to be judged in promises nothing.
    steps.retain(|step| {
        let bound = |at: usize| {
            let text = step["within"][at].as_str().unwrap_or("0s");
            shakedown_core::window::evaluate(text, &plan.cluster.parameters).unwrap_or_default()
        };
        let is_period = step.get("always").is_some() || step.get("never").is_some();
        !is_period || bound(0) < bound(1)
    });
    steps.push(json!({"wait": seconds(slack)}));
    Ok(Document { id: document.id.clone(), value })
}

/// The scenario without the faults by which states are reached: what it is compared with.
pub fn without_states(document: &Document) -> Document {
    let mut value = document.value.clone();
    if let Some(steps) = value["spec"]["steps"].as_array_mut() {
        steps.retain(|step| !is_state(step));
    }
    Document { id: document.id.clone(), value }
}

/// Whether two documents wait in the same way, and their own faults last as long.
pub fn same_waits(one: &Document, other: &Document) -> bool {
    fn waits(document: &Document) -> Vec<&Value> {
        let steps = document.value["spec"]["steps"].as_array().into_iter().flatten();
        let own = steps.filter(|step| !is_state(step));
        own.flat_map(|step| ["wait", "for"].map(|word| step.get(word))).flatten().collect()
    }
    waits(one) == waits(other)
}

/// Whether a step is a fault by which a state is reached.
pub fn is_state(step: &Value) -> bool {
    step["fault"].as_str().is_some_and(has_state)
}

/// Whether a fault is one by which states are reached.
pub fn has_state(fault: &str) -> bool {
    FAULTS.contains(&fault)
}

/// A time as scenarios write it.
pub fn seconds(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}
