//! Shrinks a scenario document: to the shortest one that still fails for the same reason.
//!
//! Delta debugging over units (a fault with its heal, a change, a check, a given object), then smaller
//! clusters, workloads, counts and times. Pure over `fails`: the same document and the same answers
//! give the same result. What cannot be planned does not fail, so every result is a scenario.

use serde_json::{Map, Value};

/// Says whether a document still fails for the reason that is looked for.
pub type Fails<'a> = &'a mut dyn FnMut(&Value) -> bool;

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The smallest document that was found to fail.
    pub document: Value,
    /// How many documents were tried.
    pub attempts: usize,
    /// Whether the attempts ran out before nothing more could be dropped.
    pub is_cut_short: bool,
}

/// Shrinks, with at most so many attempts. `mend` makes a smaller document consistent with itself.
pub fn shrink(document: &Value, attempts: usize, mend: fn(&mut Value), fails: Fails<'_>) -> Shrunk {
    let mut work = Work { best: document.clone(), left: attempts, tried: 0, mend, fails };
    // What a pass makes possible may help another, so that all are done until none helps.
    loop {
        let before = work.best.clone();
        work.drop_units();
        work.drop_given();
        work.simplify();
        if work.best == before || work.left == 0 {
            break;
        }
    }
    Shrunk { document: work.best, attempts: work.tried, is_cut_short: work.left == 0 }
}

struct Work<'a> {
    best: Value,
    left: usize,
    tried: usize,
    mend: fn(&mut Value),
    fails: Fails<'a>,
}

impl Work<'_> {
    /// Takes a smaller document if it fails too.
    fn takes(&mut self, mut smaller: Value) -> bool {
        (self.mend)(&mut smaller);
        if self.left == 0 || smaller == self.best {
            return false;
        }
        self.left -= 1;
        self.tried += 1;
        let is_taken = (self.fails)(&smaller);
        if is_taken {
            self.best = smaller;
        }
        is_taken
    }

    fn drop_units(&mut self) {
        let units = units(list(&self.best, "steps"));
        self.minimise(units, |document, kept| {
            let steps = list(document, "steps");
            let mut indices: Vec<usize> = kept.iter().flatten().copied().collect();
            indices.sort_unstable();
            let steps: Vec<Value> = indices.iter().map(|index| steps[*index].clone()).collect();
            with(document, "steps", Value::Array(steps))
        });
    }

    fn drop_given(&mut self) {
        let units = (0..list(&self.best, "given").len()).map(|index| vec![index]).collect();
        self.minimise(units, |document, kept| {
            let given = list(document, "given");
            let given: Vec<Value> =
                kept.iter().flatten().map(|index| given[*index].clone()).collect();
            with(document, "given", Value::Array(given))
        });
    }

    /// ddmin (Zeller and Hildebrandt, 2002): drops ever smaller parts of what is left.
    fn minimise(&mut self, units: Vec<Vec<usize>>, make: impl Fn(&Value, &[Vec<usize>]) -> Value) {
        let whole = self.best.clone();
        let mut kept = units;
        let mut parts = 2;
        // Nothing at all is smaller than anything.
        if !kept.is_empty() && self.takes(make(&whole, &[])) {
            return;
        }
        while !kept.is_empty() && self.left > 0 {
            let size = kept.len().div_ceil(parts);
            let mut found = None;
            for start in (0..kept.len()).step_by(size) {
                let end = (start + size).min(kept.len());
                let rest = [&kept[..start], &kept[end..]].concat();
                if self.takes(make(&whole, &rest)) {
                    found = Some(rest);
                    break;
                }
            }
            match found {
                Some(rest) => {
                    kept = rest;
                    parts = (parts - 1).max(2);
                }
                None if size == 1 => break,
                None => parts = (parts * 2).min(kept.len()),
            }
        }
    }

    /// One change after the other, each kept if the document still fails.
    fn simplify(&mut self) {
        loop {
            let mut has_changed = false;
            for smaller in simpler(&self.best) {
                if self.takes(smaller) {
                    has_changed = true;
                    break;
                }
            }
            if !has_changed || self.left == 0 {
                return;
            }
        }
    }
}

fn spec(document: &Value) -> &Value {
    &document["spec"]
}

fn list<'v>(document: &'v Value, field: &str) -> &'v [Value] {
    spec(document)[field].as_array().map_or(&[], Vec::as_slice)
}

fn with(document: &Value, field: &str, value: Value) -> Value {
    let mut changed = document.clone();
    changed["spec"][field] = value;
    changed
}

/// The steps that go together: a fault and its heal. What speaks of a moment that is gone cannot be
/// planned, so it goes first.
fn units(steps: &[Value]) -> Vec<Vec<usize>> {
    let mut units: Vec<Vec<usize>> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let heals = step["heal"].as_str();
        let owner = heals.and_then(|name| {
            units.iter().position(|unit| unit.iter().any(|at| steps[*at]["as"] == name))
        });
        match owner {
            Some(owner) => units[owner].push(index),
            None => units.push(vec![index]),
        }
    }
    units
}

/// Documents that are a little simpler, the boldest first.
fn simpler(document: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let spec = spec(document);
    let without = |field: &str| {
        let mut changed = document.clone();
        changed["spec"].as_object_mut().map(|spec| spec.remove(field));
        changed
    };
    if spec.get("workload").is_some() {
        all.push(without("workload"));
    }
    for (field, smaller) in [("controlPlanes", &[1, 3][..]), ("workers", &[1, 2, 3, 4][..])] {
        let now = spec["cluster"][field].as_u64().unwrap_or(0);
        for count in smaller.iter().filter(|count| **count < now) {
            let mut changed = document.clone();
            changed["spec"]["cluster"][field] = (*count).into();
            all.push(changed);
        }
    }
    all.extend(fields_dropped(document));
    for (at, smaller) in halves(spec, "/spec".to_owned()) {
        let mut changed = document.clone();
        if let Some(place) = changed.pointer_mut(&at) {
            *place = smaller;
            all.push(changed);
        }
    }
    all
}

/// Fields that a scenario can do without: of faults, of the mix, of given pods and deployments.
fn fields_dropped(document: &Value) -> Vec<Value> {
    const KEPT: &[&str] =
        &["fault", "on", "between", "from", "to", "for", "until", "as", "component"];
    let mut all = Vec::new();
    let mut drop = |at: String, field: &str| {
        let mut changed = document.clone();
        let place = changed.pointer_mut(&at).and_then(Value::as_object_mut);
        if place.and_then(|place| place.remove(field)).is_some() {
            all.push(changed);
        }
    };
    let names = |value: &Value| -> Vec<String> {
        value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    for verb in names(&spec(document)["workload"]["mix"]) {
        drop("/spec/workload/mix".to_owned(), &verb);
    }
    for (index, step) in list(document, "steps").iter().enumerate() {
        for field in names(step).iter().filter(|_| step.get("fault").is_some()) {
            if !KEPT.contains(&field.as_str()) {
                drop(format!("/spec/steps/{index}"), field);
            }
        }
    }
    for index in 0..list(document, "given").len() {
        drop(format!("/spec/given/{index}"), "tolerations");
        drop(format!("/spec/given/{index}/manifest/spec"), "strategy");
    }
    all
}

/// Counts and times inside of a value, each halved; whole numbers come down to 1, times to a second.
fn halves(value: &Value, at: String) -> Vec<(String, Value)> {
    const COUNTS: &[&str] = &["replicas", "clients", "keys"];
    const TIMES: &[&str] = &["for", "wait", "down", "rate"];
    let mut all = Vec::new();
    match value {
        Value::Object(fields) => halves_of(fields, &at, (COUNTS, TIMES), &mut all),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                all.extend(halves(item, format!("{at}/{index}")));
            }
        }
        _ => {}
    }
    all
}

fn halves_of(
    fields: &Map<String, Value>,
    at: &str,
    (counts, times): (&[&str], &[&str]),
    all: &mut Vec<(String, Value)>,
) {
    for (name, field) in fields {
        let place = format!("{at}/{name}");
        match field {
            Value::Number(number) if counts.contains(&name.as_str()) => {
                let number = number.as_u64().unwrap_or(0);
                if number > 1 {
                    all.push((place, (number / 2).into()));
                }
            }
            // The hold of a check is what it promises; a fault's time and a wait are not.
            Value::String(text)
                if times.contains(&name.as_str()) && fields.get("settles").is_none() =>
            {
                if let Some(half) = half(text) {
                    all.push((place, half.into()));
                }
            }
            other => all.extend(halves(other, place)),
        }
    }
}

/// Half of a plain time or rate: `7s`, `1500ms`, `8/s`; `None` if it is small, or is no plain one.
fn half(text: &str) -> Option<String> {
    if let Some(rate) = text.strip_suffix("/s") {
        let rate: u64 = rate.parse().ok()?;
        return (rate > 1).then(|| format!("{}/s", rate / 2));
    }
    if let Some(millis) = text.strip_suffix("ms") {
        let millis: u64 = millis.parse().ok()?;
        return match millis {
            2001.. => Some(format!("{}s", millis / 2000)),
            1001.. => Some("1s".to_owned()),
            501.. => Some("500ms".to_owned()),
            _ => None,
        };
    }
    let seconds: u64 = text.strip_suffix('s')?.parse().ok()?;
    (seconds > 1).then(|| format!("{}s", seconds / 2))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(faults: usize) -> Value {
        let mut steps = Vec::new();
        for number in 0..faults {
            steps.push(json!({"fault": "node-kill", "on": format!("worker-{number}"), "as": format!("f{number}")}));
            steps.push(json!({"wait": "9s"}));
            steps.push(json!({"heal": format!("f{number}")}));
        }
        json!({"spec": {
            "cluster": {"controlPlanes": 5, "workers": 5},
            "given": [{"pod": "a"}, {"manifest": {"spec": {"replicas": 9}}}],
            "workload": {"clients": 4, "mix": {"get": 1, "create": 3}, "rate": "8/s"},
            "steps": steps,
        }})
    }

    fn has(document: &Value, faults: &[&str]) -> bool {
        let steps = list(document, "steps");
        faults.iter().all(|name| {
            steps.iter().any(|step| step["as"] == *name)
                && steps.iter().any(|step| step["heal"] == *name)
        })
    }

    #[test]
    fn what_is_left_is_what_it_takes() {
        let shrunk =
            shrink(&document(12), 5000, |_| {}, &mut |candidate| has(candidate, &["f3", "f7"]));
        assert!(!shrunk.is_cut_short);
        let expected = json!({"spec": {
            "cluster": {"controlPlanes": 1, "workers": 1},
            "given": [],
            "steps": [
                {"fault": "node-kill", "on": "worker-3", "as": "f3"}, {"heal": "f3"},
                {"fault": "node-kill", "on": "worker-7", "as": "f7"}, {"heal": "f7"},
            ],
        }});
        assert_eq!(shrunk.document, expected);
    }

    #[test]
    fn counts_and_times_become_small() {
        let needs = |candidate: &Value| {
            let waits = list(candidate, "steps").iter().any(|step| {
                step["wait"].as_str().is_some_and(|wait| {
                    wait.trim_end_matches('s').parse::<u64>().is_ok_and(|seconds| seconds >= 2)
                })
            });
            let clients = spec(candidate)["workload"]["clients"].as_u64().is_some_and(|n| n >= 2);
            waits && clients && spec(candidate)["workload"]["mix"].get("create").is_some()
        };
        let shrunk = shrink(&document(3), 5000, |_| {}, &mut |candidate| needs(candidate));
        assert_eq!(list(&shrunk.document, "steps"), [json!({"wait": "2s"})]);
        let workload = &spec(&shrunk.document)["workload"];
        assert_eq!(*workload, json!({"clients": 2, "mix": {"create": 3}, "rate": "1/s"}));
    }

    #[test]
    fn a_fickle_reason_ends_all_the_same_and_twice_the_same() {
        // An even number of steps fails: what is dropped alone never helps, pairs do.
        let fickle = |candidate: &Value| {
            let steps = list(candidate, "steps").len();
            steps > 0 && steps.is_multiple_of(2)
        };
        let first = shrink(&document(8), 5000, |_| {}, &mut |candidate| fickle(candidate));
        let second = shrink(&document(8), 5000, |_| {}, &mut |candidate| fickle(candidate));
        assert_eq!(first, second);
        assert!(fickle(&first.document) && !first.is_cut_short);
        assert!(list(&first.document, "steps").len() < 8, "{}", first.document);
    }

    #[test]
    fn attempts_are_bounded() {
        let mut calls = 0;
        let shrunk = shrink(&document(12), 7, |_| {}, &mut |_| {
            calls += 1;
            false
        });
        assert_eq!((calls, shrunk.attempts, shrunk.is_cut_short), (7, 7, true));
        assert_eq!(shrunk.document, document(12));
    }

    #[test]
    fn times_are_halved_down_to_little() {
        for (text, expected) in [
            ("9s", Some("4s")),
            ("1s", None),
            ("1500ms", Some("1s")),
            ("900ms", Some("500ms")),
            ("5000ms", Some("2s")),
            ("8/s", Some("4/s")),
            ("1/s", None),
            ("2 * lease", None),
        ] {
            assert_eq!(half(text).as_deref(), expected, "{text}");
        }
    }
}
