//! The steps of a scenario, checked against what came before them and against the faults there are.

use std::time::Duration;

use crate::fault::FaultSpec;
use crate::plan::{Action, Check, Ends, FaultStep, START, Step, Word, end_of};
use crate::read::{Placed, did_you_mean};
use crate::roles::{Ref, Who};
use crate::scenario::check_manifest;
use crate::steps::{ActionEntry, CheckEntry, FaultEntry, StepEntry};
use crate::window::Window;
use crate::yaml::{Part, Path};

use super::Work;

/// How long what settles must stay true if the scenario does not say.
const HOLD: Duration = Duration::from_secs(5);

/// A fault step that was read so far.
struct Injected {
    name: String,
    ends_itself: bool,
    is_healed: bool,
}

/// Where a step stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    /// Its moment.
    moment: &'a str,
    /// The moments before it.
    before: &'a [String],
}

impl Work<'_> {
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut moments = vec![START.to_string()];
        let mut faults: Vec<Injected> = Vec::new();
        let mut steps = Vec::new();
        let later = self.moments();
        for (index, entry) in self.scenario.steps.iter().enumerate() {
            let moment = later[index].clone();
            if moments.contains(&moment) {
                let at = entry.value.name.as_ref().map_or(&entry.at, |name| &name.at);
                self.notes.wrong(
                    at,
                    format!("the moment `{moment}` is named twice"),
                    "choose another name",
                );
            }
            let place = Place { index, moment: &moment, before: &moments };
            let action = self.action(entry, place, &mut faults);
            if matches!(action, Action::Fault(_)) {
                moments.push(end_of(&moment));
            }
            moments.push(moment.clone());
            let (line, _) = self.scenario.document.locate(&entry.at);
            let source = format!("{}:{line}", self.scenario.document.source.name);
            steps.push(Step { index, moment, source, action });
        }
        for (step, entry) in steps.iter().zip(&self.scenario.steps) {
            if let Action::Fault(FaultStep { ends: Ends::AtMoment(moment), .. }) = &step.action
                && !later[step.index + 1..].contains(moment)
            {
                let known: Vec<&str> = later[step.index + 1..].iter().map(String::as_str).collect();
                let at = [entry.at.clone(), vec![Part::Key("until".into())]].concat();
                let message = format!("no later step has the moment `{moment}`");
                self.notes.wrong(&at, message, did_you_mean(moment, &known));
            }
        }
        steps
    }

    /// The name of every step's moment.
    fn moments(&self) -> Vec<String> {
        let is_nameless_heal = |entry: &&Placed<StepEntry>| {
            matches!(entry.value.action, ActionEntry::Heal(_)) && entry.value.name.is_none()
        };
        let heals = self.scenario.steps.iter().filter(is_nameless_heal).count();
        let name = |(index, entry): (usize, &Placed<StepEntry>)| match (
            &entry.value.name,
            &entry.value.action,
        ) {
            (Some(name), _) => name.value.clone(),
            (None, ActionEntry::Heal(_)) if heals == 1 => "heal".to_string(),
            (None, ActionEntry::Heal(fault)) => format!("heal-{}", fault.value),
            (None, _) => format!("step-{index}"),
        };
        self.scenario.steps.iter().enumerate().map(name).collect()
    }

    fn action(
        &self,
        entry: &Placed<StepEntry>,
        place: Place<'_>,
        faults: &mut Vec<Injected>,
    ) -> Action {
        let at = &entry.at;
        match &entry.value.action {
            ActionEntry::ApplyFile(file) => Action::Apply(self.load(file)),
            ActionEntry::Apply(objects) => {
                for object in objects {
                    check_manifest(&self.notes, at, object);
                    self.texts(object, at);
                }
                Action::Apply(objects.clone())
            }
            ActionEntry::Delete(object) => {
                self.object(object, at);
                Action::Delete(object.clone())
            }
            ActionEntry::Patch(object, fields) => {
                self.object(object, at);
                self.texts(fields, at);
                Action::Patch { object: object.clone(), fields: fields.clone() }
            }
            ActionEntry::Scale(object, replicas) => {
                self.object(object, at);
                Action::Scale { object: object.clone(), replicas: *replicas }
            }
            ActionEntry::Wait(time, until) => {
                if let Some(until) = until {
                    self.condition(&until.value, &until.at);
                }
                let until = until.as_ref().map(|until| until.value.clone());
                Action::Wait { time: self.duration(time), until }
            }
            ActionEntry::Heal(fault) => {
                self.heal(fault, faults);
                Action::Heal { fault: fault.value.clone() }
            }
            ActionEntry::Fault(fault) => {
                let step = self.fault(fault, at, place.moment);
                let ends_itself = !matches!(step.ends, Ends::WithScenario);
                faults.push(Injected { name: place.moment.into(), ends_itself, is_healed: false });
                Action::Fault(step)
            }
            ActionEntry::Check(check) => Action::Check(self.check(place, check, at)),
        }
    }

    fn heal(&self, fault: &Placed<String>, faults: &mut [Injected]) {
        let names: Vec<String> = faults.iter().map(|fault| fault.name.clone()).collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let Some(found) = faults.iter_mut().find(|known| known.name == fault.value) else {
            let message = format!("no fault before this step is named `{}`", fault.value);
            self.notes.wrong(&fault.at, message, did_you_mean(&fault.value, &known));
            return;
        };
        if found.is_healed || found.ends_itself {
            self.notes.wrong(
                &fault.at,
                format!("`{}` is already ended by another step, `for:` or `until:`", fault.value),
                "end it once",
            );
        }
        found.is_healed = true;
    }

    fn fault(&self, entry: &FaultEntry, at: &Path, moment: &str) -> FaultStep {
        entry.on.iter().chain(entry.sides.iter().flatten()).for_each(|who| self.who(who, at));
        entry.fields.values().for_each(|field| self.texts(field, at));
        if let Some(condition) = &entry.until {
            self.condition(condition, at);
        }
        let step = FaultStep {
            fault: entry.fault.value.clone(),
            on: entry.on.clone(),
            sides: entry.sides.clone(),
            fields: entry.fields.clone(),
            ends: match (&entry.lasts, &entry.until_moment, &entry.until) {
                (Some(time), ..) => Ends::After(self.duration(time)),
                (_, Some(name), _) => Ends::AtMoment(name.value.clone()),
                (_, _, Some(condition)) => Ends::When(condition.clone()),
                _ => Ends::WithScenario,
            },
        };
        let names: Vec<&str> = self.planner.registry.iter().map(|kind| kind.name).collect();
        let Some(kind) = self.planner.registry.iter().find(|kind| kind.name == entry.fault.value)
        else {
            let message = format!("no fault `{}` is known", entry.fault.value);
            self.notes.wrong(&entry.fault.at, message, did_you_mean(&entry.fault.value, &names));
            return step;
        };
        let spec = FaultSpec {
            fault: kind.name.to_string(),
            name: moment.to_string(),
            on: entry.on.iter().map(|who| self.placeholder(who)).collect(),
            sides: entry
                .sides
                .iter()
                .map(|side| side.iter().map(|who| self.placeholder(who)).collect())
                .collect(),
            fields: entry.fields.clone(),
        };
        if let Err(error) = (kind.build)(&spec) {
            let mut place = at.clone();
            if !error.field.is_empty() {
                place.push(Part::Key(error.field.clone()));
            }
            self.notes.wrong(&place, error.message, error.hint);
        }
        step
    }

    /// A name that stands for whoever has the role, so that a fault can be built before anybody has.
    fn placeholder(&self, who: &Who) -> String {
        let number = {
            let mut count = self.placeholders.borrow_mut();
            *count += 1;
            *count
        };
        let bound = self.bound.borrow();
        let is_pods = who.is_pods().unwrap_or_else(|| {
            who.binding().and_then(|name| bound.get(name)).is_some_and(|(is_pods, _)| *is_pods)
        });
        match who {
            Who::Node(Ref::Name(name)) => name.clone(),
            _ if is_pods => format!("namespace/pod-{number}"),
            _ => format!("node-{number}"),
        }
    }

    fn check(&self, place: Place<'_>, entry: &CheckEntry, at: &Path) -> Check {
        let moments = place.before;
        self.condition(&entry.condition.value, &entry.condition.at);
        let after = match &entry.after {
            Some(after) => {
                if !moments.contains(&after.value) {
                    let known: Vec<&str> = moments.iter().map(String::as_str).collect();
                    self.notes.wrong(
                        &after.at,
                        format!("no step before this one has the moment `{}`", after.value),
                        did_you_mean(&after.value, &known),
                    );
                }
                after.value.clone()
            }
            None => moments.last().cloned().unwrap_or_else(|| START.to_string()),
        };
        let hold = entry.hold.as_ref().map(|hold| self.duration(hold));
        let window = match (&entry.within, hold) {
            (Some((low, high)), _) => {
                let window = Window { low: self.duration(low), high: self.duration(high) };
                if window.low > window.high {
                    let message = format!("the window {window} can never be met");
                    self.notes.wrong(&low.at, message, "its first bound is its lower one");
                }
                window
            }
            (None, Some(high)) if !entry.word.blocks() => Window { low: Duration::ZERO, high },
            _ => {
                let hint = format!("add for example `within: [0s, 20s]`, after `{after}`");
                self.notes.wrong(at, format!("`{}` without a window", entry.word), hint);
                Window { low: Duration::ZERO, high: Duration::ZERO }
            }
        };
        if let Some(text) = &entry.hold {
            match entry.word {
                Word::Eventually => {
                    self.notes.wrong(
                        &text.at,
                        "`eventually` asks for a moment, not for a time",
                        "say `settles`",
                    );
                }
                Word::Always | Word::Never if entry.within.is_some() => {
                    self.notes.wrong(
                        &text.at,
                        "`within:` and `for:` say the same here",
                        "drop one",
                    );
                }
                _ => {}
            }
        }
        Check {
            id: format!("step-{}/{}", place.index, entry.word),
            word: entry.word,
            condition: entry.condition.value.clone(),
            window,
            after,
            hold: if entry.word == Word::Settles { hold.unwrap_or(HOLD) } else { Duration::ZERO },
        }
    }
}
