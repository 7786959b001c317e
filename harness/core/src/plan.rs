//! The plan: what will be done and checked, with everything computed that can be before a cluster is up.
//!
//! `plan.yaml` is a [`Plan`]. The judge reads it together with the timeline.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::condition::Condition;
use crate::lever::LeverKind;
use crate::roles::Who;
use crate::target::ClusterSpec;
use crate::window::{self, Window};

/// The shape of a plan; raised when it changes.
pub const FORMAT: u32 = 1;

/// The moment at which the given objects were there and ready: before the first step.
pub const START: &str = "start";

/// What a scenario may break, by which scenarios share a cluster or do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blast {
    /// Only its own namespace.
    Namespace,
    /// Nodes, and what runs on them.
    Nodes,
    /// Anything: the control plane, etcd.
    #[default]
    Cluster,
}

/// A scenario, ready to be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The shape of this file.
    pub format: u32,
    /// The scenario's id, such as `resilience/node-killed`.
    pub scenario: String,
    /// What it claims, in a sentence.
    pub title: String,
    /// The documented behaviours that it proves.
    pub proves: Vec<String>,
    /// Decides every choice.
    pub seed: u64,
    /// The cluster it wants.
    pub cluster: ClusterSpec,
    /// What the target must be able to do.
    pub needs: Vec<LeverKind>,
    /// What it may break.
    pub blast: Blast,
    /// What is there before the first step.
    pub given: Vec<Given>,
    /// Names, bound before the first step, in this order.
    pub bind: IndexMap<String, Vec<Who>>,
    /// Clients that read and write all the while.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<Workload>,
    /// What is done and checked, in order.
    pub steps: Vec<Step>,
    /// Invariants that are checked beside the usual ones.
    pub invariants: Vec<String>,
    /// What must have happened at least once, by the names of [`crate::sometimes`]: a run that never
    /// came there is INCONCLUSIVE.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reaches: Vec<String>,
}

/// An object that is there before the first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// The manifest. Without a namespace it goes to the scenario's own.
    pub object: Value,
    /// For a pod: on whose node it is put.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on: Option<Who>,
    /// The name that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bound_as: Option<String>,
}

/// Clients that read and write all the while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// How many.
    pub clients: u32,
    /// How often each verb comes: create, delete, get, list, patch, update, watch. Shares of roll and
    /// scale are for one more client, which changes the given Deployments at a slow pace.
    pub mix: BTreeMap<String, u32>,
    /// What they write: `configmaps`.
    pub over: String,
    /// How many objects they share.
    pub keys: u32,
    /// Operations a second, of all clients together.
    pub rate: f64,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its place, from 0.
    pub index: usize,
    /// The name of its moment: `as:`, or `step-<index>`; `heal` for the only heal without a name.
    pub moment: String,
    /// Where it stands: `node-killed.yaml:25`.
    pub source: String,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Creates objects, or changes them to this.
    Apply(Vec<Value>),
    /// Deletes an object.
    Delete(ObjectRef),
    /// Merges fields into an object (RFC 7386).
    Patch {
        /// The object.
        object: ObjectRef,
        /// The fields.
        fields: Value,
    },
    /// Sets `spec.replicas`.
    Scale {
        /// The object.
        object: ObjectRef,
        /// How many.
        replicas: u32,
    },
    /// Injects a fault; the scenario goes on once it is proven.
    Fault(FaultStep),
    /// Takes a fault back; the scenario goes on once that is proven.
    Heal {
        /// The fault step's name.
        fault: String,
    },
    /// Lets time pass.
    Wait {
        /// How much.
        #[serde(with = "window::text")]
        time: Duration,
        /// Goes on earlier, as soon as this is true. That it never becomes true is no failure.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        until: Option<Condition>,
    },
    /// An expectation in time.
    Check(Check),
}

/// Names an object of a step. Names may be `$bindings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Plural and group.
    pub kind: String,
    /// Its namespace; absent for the scenario's own and for cluster-scoped objects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// Its name, or `$binding`.
    pub name: String,
    /// How long a deleted pod has to end; absent for its own default.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grace_seconds: Option<u64>,
}

/// A fault step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultStep {
    /// The kind of fault, such as `node-kill`.
    pub fault: String,
    /// `on:`; what it is done to.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub on: Vec<Who>,
    /// `between:` or `from:` and `to:`; two groups of nodes, or none.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sides: Vec<Vec<Who>>,
    /// The fault's own fields; with `from:` and `to:` also `direction: to`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub fields: BTreeMap<String, Value>,
    /// When it ends by itself.
    pub ends: Ends,
}

/// When a fault ends, if no `heal:` comes first. The end of the scenario ends it in any case.
/// Its end is the moment [`end_of`] its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ends {
    /// With the scenario.
    WithScenario,
    /// So long after its moment.
    After(#[serde(with = "window::text")] Duration),
    /// At this moment.
    AtMoment(String),
    /// As soon as this is true.
    When(Condition),
}

/// The name of the moment at which a fault was taken back.
pub fn end_of(fault: &str) -> String {
    format!("end of {fault}")
}

/// The words that say when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// It becomes true inside the window: the first time it is true, counted from the moment, is inside.
    Eventually,
    /// It is true at every time inside the window.
    Always,
    /// It is true at no time inside the window.
    Never,
    /// It becomes true inside the window and then stays true for `hold`.
    Settles,
}

impl Word {
    /// Every word.
    pub const ALL: &[Word] = &[Word::Eventually, Word::Always, Word::Never, Word::Settles];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Word::Eventually => "eventually",
            Word::Always => "always",
            Word::Never => "never",
            Word::Settles => "settles",
        }
    }

    /// Whether the scenario waits at the step until it is true. The others only open a period,
    /// and the scenario lasts until it has closed.
    pub fn blocks(self) -> bool {
        matches!(self, Word::Eventually | Word::Settles)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An expectation in time.
///
/// The moment of a blocking check is when it was first satisfied; of the others, when the step was reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Unique in the scenario: `step-3/eventually`.
    pub id: String,
    /// When.
    pub word: Word,
    /// What.
    pub condition: Condition,
    /// Between which times after the moment.
    pub window: Window,
    /// The moment.
    pub after: String,
    /// How long it must stay true, for `settles`; zero for the others.
    #[serde(with = "window::text")]
    pub hold: Duration,
}

impl Plan {
    /// Every check, with its step.
    pub fn checks(&self) -> impl Iterator<Item = (&Step, &Check)> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Check(check) => Some((step, check)),
            _ => None,
        })
    }

    /// Every fault step.
    pub fn faults(&self) -> impl Iterator<Item = (&Step, &FaultStep)> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Fault(fault) => Some((step, fault)),
            _ => None,
        })
    }

    /// As YAML.
    pub fn to_yaml(&self) -> Result<String, String> {
        crate::yaml::write(self)
    }

    /// From YAML; refuses formats that it does not know.
    pub fn from_yaml(text: &str) -> Result<Plan, String> {
        let plan: Plan = crate::yaml::read(text)?;
        if plan.format != FORMAT {
            return Err(format!(
                "the plan has format {}; this program reads {FORMAT}",
                plan.format
            ));
        }
        Ok(plan)
    }
}
