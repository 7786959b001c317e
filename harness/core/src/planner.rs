//! From a scenario to a plan: everything that can be wrong before a cluster is up is found here.

mod steps;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;

use crate::condition::{Compiled, Condition};
use crate::fault::FaultKind;
use crate::lever::LeverKind;
use crate::plan::{Action, Blast, FORMAT, Given, ObjectRef, Plan, Step};
use crate::read::{Notes, Placed, did_you_mean};
use crate::roles::{Ref, Who};
use crate::scenario::{CHANGES, GivenEntry, Scenario, check_manifest};
use crate::sometimes;
use crate::target::{ClusterSpec, Parameters, Role};
use crate::window;
use crate::yaml::{self, Part, Path, Problems};

/// Reads a file that a scenario names, by its path relative to the scenario's own.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// Makes plans.
pub struct Planner<'a> {
    /// The faults there are.
    pub registry: &'a [FaultKind],
    /// The ids of the documented behaviours; absent to take any.
    pub behaviours: Option<&'a BTreeSet<String>>,
    /// The invariants that the judge knows; absent to take any.
    pub invariants: Option<&'a BTreeSet<String>>,
    /// Reads files that scenarios name.
    pub files: Files<'a>,
    /// The timings of clusters, where a scenario does not say otherwise.
    pub parameters: Parameters,
    /// Planted defects to switch on.
    pub sabotages: &'a [String],
}

impl Planner<'_> {
    /// Makes the plan of a scenario, or says everything that is wrong with it.
    pub fn plan(&self, id: &str, scenario: &Scenario, seed: u64) -> Result<Plan, Problems> {
        let work = Work::new(self, scenario);
        work.known("behaviour", &scenario.proves, self.behaviours);
        work.known("invariant", &scenario.invariants, self.invariants);
        let events = sometimes::names().map(str::to_string).collect();
        work.known("event", &scenario.reaches, Some(&events));
        let given = work.given();
        work.changes(&given);
        work.bindings();
        let steps = work.steps();
        work.unused();
        let needs = work.needs(&steps);
        let plan = Plan {
            format: FORMAT,
            scenario: id.to_string(),
            title: scenario.title.clone(),
            proves: scenario.proves.iter().map(|id| id.value.clone()).collect(),
            seed,
            cluster: ClusterSpec {
                control_planes: scenario.cluster.control_planes,
                workers: scenario.cluster.workers,
                zones: scenario.cluster.zones,
                parameters: work.parameters,
                sabotages: self.sabotages.to_vec(),
            },
            blast: scenario.blast.unwrap_or_else(|| implied_blast(scenario, &needs)),
            needs: needs.into_iter().collect(),
            given,
            bind: ordered(&scenario.bind),
            workload: scenario.workload.clone(),
            steps,
            invariants: scenario.invariants.iter().map(|name| name.value.clone()).collect(),
            reaches: scenario.reaches.iter().map(|name| name.value.clone()).collect(),
        };
        work.notes.finish(plan)
    }
}

/// What its faults and its workload imply, if a scenario does not say what it may break.
fn implied_blast(scenario: &Scenario, needs: &BTreeSet<LeverKind>) -> Blast {
    let is_mild = |need: &LeverKind| matches!(need, LeverKind::Api | LeverKind::KillContainer);
    match (needs.is_empty(), needs.iter().all(is_mild)) {
        (true, _) if scenario.workload.is_none() => Blast::Namespace,
        (_, true) => Blast::Nodes,
        _ => Blast::Cluster,
    }
}

/// Bindings in an order in which each can be resolved; what is left over comes last.
fn ordered(bind: &IndexMap<String, Placed<Vec<Who>>>) -> IndexMap<String, Vec<Who>> {
    let is_rest = |who: &Who| matches!(who, Who::Others(_) | Who::OtherMembers);
    let mut order = IndexMap::new();
    for rest in [false, true] {
        for _ in 0..bind.len() {
            for (name, roles) in bind {
                let ready = roles.value.iter().all(|who| {
                    who.binding()
                        .is_none_or(|other| !bind.contains_key(other) || order.contains_key(other))
                });
                if ready && roles.value.iter().any(is_rest) == rest && !order.contains_key(name) {
                    order.insert(name.clone(), roles.value.clone());
                }
            }
        }
    }
    for (name, roles) in bind {
        order.entry(name.clone()).or_insert_with(|| roles.value.clone());
    }
    order
}

struct Work<'a> {
    planner: &'a Planner<'a>,
    scenario: &'a Scenario,
    notes: Notes<'a>,
    parameters: Parameters,
    /// Bound names, and whether they stand for pods.
    bound: RefCell<BTreeMap<String, (bool, Path)>>,
    used: RefCell<BTreeSet<String>>,
    /// How many placeholders were handed out.
    placeholders: RefCell<usize>,
}

impl<'a> Work<'a> {
    fn new(planner: &'a Planner<'a>, scenario: &'a Scenario) -> Self {
        let notes = Notes::new(&scenario.document);
        let mut parameters = planner.parameters;
        for (name, value) in &scenario.cluster.parameters {
            match window::evaluate(&value.value, &planner.parameters) {
                Ok(duration) => set(&mut parameters, name, duration),
                Err(error) => notes.wrong(&value.at, error.message, error.hint),
            }
        }
        Self {
            planner,
            scenario,
            notes,
            parameters,
            bound: RefCell::default(),
            used: RefCell::default(),
            placeholders: RefCell::default(),
        }
    }

    fn known(&self, what: &str, names: &[Placed<String>], known: Option<&BTreeSet<String>>) {
        let Some(known) = known else { return };
        let words: Vec<&str> = known.iter().map(String::as_str).collect();
        for name in names.iter().filter(|name| !known.contains(&name.value)) {
            let hint = match did_you_mean(&name.value, &words) {
                all if all.starts_with("known: ") && words.len() > 30 => {
                    format!("`shakedown list {what}s` has them all")
                }
                hint => hint,
            };
            self.notes.wrong(&name.at, format!("no {what} `{}` is known", name.value), hint);
        }
    }

    fn duration(&self, text: &Placed<String>) -> Duration {
        window::evaluate(&text.value, &self.parameters).unwrap_or_else(|error| {
            self.notes.wrong(&text.at, error.message, error.hint);
            Duration::ZERO
        })
    }

    fn load(&self, file: &Placed<String>) -> Vec<Value> {
        let text = match (self.planner.files)(&file.value) {
            Ok(text) => text,
            Err(why) => {
                let hint = "the path is relative to the scenario's own file";
                self.notes.wrong(&file.at, format!("cannot read `{}`: {why}", file.value), hint);
                return Vec::new();
            }
        };
        let documents = match yaml::parse(&file.value, &text) {
            Ok(documents) => documents,
            Err(Problems(problems)) => {
                problems.into_iter().for_each(|problem| self.notes.add(problem));
                return Vec::new();
            }
        };
        if documents.is_empty() {
            self.notes.wrong(&file.at, format!("`{}` has no manifest", file.value), "");
        }
        let mut objects = Vec::new();
        for document in &documents {
            let notes = Notes::new(document);
            check_manifest(&notes, &Path::new(), &document.value);
            if let Err(Problems(problems)) = notes.finish(()) {
                problems.into_iter().for_each(|problem| self.notes.add(problem));
            }
            objects.push(document.value.clone());
        }
        objects
    }

    fn bind(&self, name: &str, is_pods: bool, at: &Path) {
        let before = self.bound.borrow_mut().insert(name.to_string(), (is_pods, at.clone()));
        if before.is_some() {
            self.notes.wrong(at, format!("`{name}` is bound twice"), "choose another name");
        }
    }

    fn given(&self) -> Vec<Given> {
        let mut given = Vec::new();
        for entry in &self.scenario.given {
            let (objects, on, bound_as) = match &entry.value {
                GivenEntry::File(file, bound_as) => (self.load(file), None, bound_as),
                GivenEntry::Objects { objects, on, bound_as } => {
                    objects.iter().for_each(|object| {
                        check_manifest(&self.notes, &entry.at, object);
                    });
                    (objects.clone(), on.clone(), bound_as)
                }
            };
            if let Some(name) = bound_as {
                let is_pods = objects.first().is_some_and(|object| object["kind"] == "Pod");
                self.bind(name, is_pods, &entry.at);
                if objects.len() > 1 {
                    self.notes.wrong(
                        &entry.at,
                        "`as:` names one object, and there are several",
                        "",
                    );
                }
            }
            if let Some(who) = &on {
                self.who(who, &entry.at);
            }
            given.extend(objects.into_iter().map(|object| Given {
                object,
                on: on.clone(),
                bound_as: bound_as.clone(),
            }));
        }
        given
    }

    /// Notes a workload that changes Deployments where there are none.
    fn changes(&self, given: &[Given]) {
        let Some(workload) = &self.scenario.workload else { return };
        let is_asked = |verb: &&&str| workload.mix.get(**verb).is_some_and(|share| *share > 0);
        let at = [Part::Key("spec".into()), Part::Key("workload".into()), Part::Key("mix".into())];
        if let Some(verb) = CHANGES.iter().find(is_asked)
            && !given.iter().any(|given| given.object["kind"] == "Deployment")
        {
            let message = format!("there is no Deployment to {verb}");
            self.notes.wrong(&at, message, "add one to `given:`");
        }
    }

    fn bindings(&self) {
        for (name, roles) in &self.scenario.bind {
            let is_pods = roles.value.iter().any(|who| who.is_pods() == Some(true));
            self.bind(name, is_pods, &roles.at);
        }
        for roles in self.scenario.bind.values() {
            roles.value.iter().for_each(|who| self.who(who, &roles.at));
        }
    }

    fn uses(&self, name: &str, at: &Path) {
        self.used.borrow_mut().insert(name.to_string());
        let bound = self.bound.borrow();
        if !bound.contains_key(name) {
            let known: Vec<&str> = bound.keys().map(String::as_str).collect();
            let hint = if known.is_empty() {
                "bind it in `bind:`, or by `as:` of a given object".to_string()
            } else {
                did_you_mean(name, &known)
            };
            self.notes.wrong(at, format!("`{name}` is not bound"), hint);
        }
    }

    fn unused(&self) {
        let used = self.used.borrow();
        for (name, (_, at)) in self.bound.borrow().iter() {
            if !used.contains(name) {
                self.notes.wrong(
                    at,
                    format!("`{name}` is bound but never used"),
                    "drop it, or use it",
                );
            }
        }
    }

    /// Notes a role that nobody can play in a cluster of this size.
    fn who(&self, who: &Who, at: &Path) {
        if let Some(name) = who.binding() {
            self.uses(name, at);
        }
        let (planes, workers) =
            (self.scenario.cluster.control_planes, self.scenario.cluster.workers);
        let too_few = |needed: u32, there: u32, what: &str| {
            if there < needed {
                self.notes.wrong(
                    at,
                    format!("nobody can be `{who}` with {there} {what}"),
                    format!("ask for at least {needed} in `cluster:`"),
                );
            }
        };
        match who {
            Who::Any(Role::Worker) | Who::All(Role::Worker) => too_few(1, workers, "workers"),
            Who::Others(Role::Worker) => too_few(2, workers, "workers"),
            Who::Others(Role::ControlPlane)
            | Who::Follower
            | Who::Followers
            | Who::OtherMembers => {
                too_few(2, planes, "control planes");
            }
            Who::Minority => too_few(3, planes, "control planes"),
            Who::AnyZone => too_few(2, self.scenario.cluster.zones, "zones"),
            Who::Zone(zone) => {
                let zones = self.scenario.cluster.zones;
                let needed = zone.strip_prefix("zone-").and_then(|number| number.parse().ok());
                too_few(needed.unwrap_or(u32::MAX).max(2), zones, "zones");
            }
            Who::Node(Ref::Name(name)) => self.node(name, at),
            _ => {}
        }
    }

    fn node(&self, name: &str, at: &Path) {
        let cluster = &self.scenario.cluster;
        let nodes: Vec<String> = (1..=cluster.control_planes)
            .map(|n| format!("cp-{n}"))
            .chain((1..=cluster.workers).map(|n| format!("worker-{n}")))
            .collect();
        if !nodes.iter().any(|node| node == name) {
            let known: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let hint = did_you_mean(name, &known[..known.len().min(20)]);
            self.notes.wrong(at, format!("the cluster has no node `{name}`"), hint);
        }
    }

    /// Notes the bindings in a value's texts.
    fn texts(&self, value: &Value, at: &Path) {
        match value {
            Value::String(text) => {
                if let Ref::Binding(name) = Ref::parse(text) {
                    self.uses(&name, at);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.texts(item, at)),
            Value::Object(fields) => fields.values().for_each(|field| self.texts(field, at)),
            _ => {}
        }
    }

    fn object(&self, object: &ObjectRef, at: &Path) {
        self.texts(&Value::String(object.name.clone()), at);
    }

    fn condition(&self, condition: &Condition, at: &Path) {
        if let Some(object) = &condition.object {
            self.texts(&Value::String(object.name.clone()), at);
            self.texts(&object.fields, at);
        }
        // The expression was compiled when it was read.
        let Ok(compiled) = Compiled::new(condition) else { return };
        for name in &compiled.sees().names {
            if !["object", "objects", "cluster"].contains(&name.as_str()) {
                self.uses(name, &[at.clone(), vec![Part::Key("cel".into())]].concat());
            }
        }
    }

    fn needs(&self, steps: &[Step]) -> BTreeSet<LeverKind> {
        let mut needs: BTreeSet<LeverKind> = self.scenario.needs.iter().copied().collect();
        for step in steps {
            if let Action::Fault(fault) = &step.action
                && let Some(kind) =
                    self.planner.registry.iter().find(|kind| kind.name == fault.fault)
            {
                needs.extend(kind.needs);
            }
        }
        needs
    }
}

fn set(parameters: &mut Parameters, name: &str, value: Duration) {
    let field = match name {
        "monitor" => &mut parameters.monitor,
        "grace" => &mut parameters.grace,
        "heartbeat" => &mut parameters.heartbeat,
        "lease" => &mut parameters.lease,
        "renew" => &mut parameters.renew,
        "retry" => &mut parameters.retry,
        "T" => &mut parameters.toleration,
        "election" => &mut parameters.election,
        // Unknown names were noted when the scenario was read.
        _ => return,
    };
    *field = value;
}
