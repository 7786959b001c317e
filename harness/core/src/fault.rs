//! A fault: what a scenario asks for. Open, many, built from levers and from writes through the API.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::lever::{LeverKind, Undo};
use crate::target::{ClusterFact, Endpoint, Target, TargetError};
use crate::timeline::Evidence;

/// The fields of a fault step after names were bound: what the fault is done to, and the rest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FaultSpec {
    /// The fault's name, such as `node-kill`.
    pub fault: String,
    /// The step's name: unique in the run; goes into cut ids and taint values.
    pub name: String,
    /// `on:` bound to names: nodes, or `namespace/name` of pods.
    pub on: Vec<String>,
    /// `between:` or `from:`/`to:` bound to two groups of nodes.
    pub sides: Vec<Vec<String>>,
    /// The other fields, as the scenario has them, such as `component`, `key`, `effect`, `container`.
    pub fields: BTreeMap<String, Value>,
}

/// What is wrong with a fault step. Found while planning, before anything runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecError {
    /// The field that is wrong; empty for the whole step.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: String,
}

/// Why a fault could not be injected, proven or removed.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The target failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The API failed.
    #[error("{doing}: {why}")]
    Api {
        /// What was tried.
        doing: String,
        /// Why it failed.
        why: String,
    },
}

/// What a fault may use.
pub struct FaultCx<'a> {
    /// The target.
    pub target: &'a mut dyn Target,
    /// The cluster.
    pub cluster: &'a ClusterFact,
    /// API servers that the fault may speak to: those that answer, best first.
    pub endpoints: &'a [Endpoint],
}

/// Evidence that a fault is, or is no longer, in effect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proof {
    /// Every piece; the proof holds if there is at least one and all hold.
    pub evidence: Vec<Evidence>,
}

impl Proof {
    /// Whether it shows what it must show. Without evidence nothing is shown.
    pub fn holds(&self) -> bool {
        !self.evidence.is_empty() && self.evidence.iter().all(|piece| piece.holds)
    }
}

/// A fault, bound to its targets.
///
/// The runner calls, in this order: `undos` (logged), `baseline`, `inject`, `prove` until it holds or
/// its patience ends, `prove` once a second, `remove`, `prove_healed` until it holds or patience ends.
#[async_trait::async_trait]
pub trait Fault: Send {
    /// What the target must be able to do.
    fn needs(&self) -> Vec<LeverKind>;
    /// What it is done to, for people and for the timeline.
    fn targets(&self) -> Vec<String>;
    /// What takes it back, as data: known before anything is done.
    fn undos(&self) -> Vec<Undo>;
    /// Notes what the proofs will compare with (process identities, counters, reachability).
    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError>;
    /// Does it.
    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError>;
    /// Shows that it is in effect: a counter or state, a behaviour seen by somebody who is not the
    /// injector, and an untouched peer that behaves as before.
    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError>;
    /// Whether it is over by itself once proven (a killed container, a deleted pod): nothing is
    /// sustained, and there is nothing to heal.
    fn is_momentary(&self) -> bool;
    /// Takes it back.
    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError>;
    /// Shows that its effect is gone.
    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError>;
}

/// Makes a bound fault of a step, or says what is wrong with the step. `on` and `sides` hold at
/// least one name each when the plan is checked; they may be placeholders then.
pub type Build = fn(&FaultSpec) -> Result<Box<dyn Fault>, SpecError>;

/// A kind of fault in the registry.
#[derive(Clone, Copy)]
pub struct FaultKind {
    /// The name in scenario files.
    pub name: &'static str,
    /// One line for `shakedown list faults`.
    pub summary: &'static str,
    /// The fields that it takes beside `on`, `between`, `from`, `to`, `for`, `until` and `as`.
    pub fields: &'static [&'static str],
    /// What the target must be able to do.
    pub needs: &'static [LeverKind],
    /// A step in YAML; a test parses it.
    pub sample: &'static str,
    /// Makes it.
    pub build: Build,
}
