//! What the faults in the conversation of a component with its API servers share. A rule is armed when
//! it is injected; whether it is ever met is known only later.
//!
//! Proven: every rule is in force; the component is the process that ran before and answers, until the
//! rule is met; a peer is as before.
//! Healed: no rule is in force, and the component runs and answers. How often each rule was met is
//! noted as evidence: the judge takes a rule that nobody met for no fault at all.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::kinds::KINDS;
use shakedown_core::lever::{Component, Lever, LeverKind, ProcessState, Reading, Rule, Undo};
use shakedown_core::read::did_you_mean;
use shakedown_core::timeline::Evidence;

use crate::evidence::{behaviour, counter, health, process, proof};
use crate::processes::{Processes, word};
use crate::readings::meddled;
use crate::spec::Fields;

/// The components that speak to API servers.
const SPEAKERS: &[Component] = &[
    Component::KubeControllerManager,
    Component::KubeScheduler,
    Component::Kubelet,
    Component::Operator,
];

/// One rule for one component on some nodes.
pub(crate) struct Meddling {
    processes: Processes,
    name: String,
    rule: Rule,
    /// How often each rule was met when last asked.
    hits: Vec<u64>,
    is_shown: bool,
}

impl Meddling {
    /// Reads the step; `rule` is what its own fields say.
    pub(crate) fn of(spec: &FaultSpec, kind: &FaultKind, rule: Rule) -> Result<Self, SpecError> {
        let fields = Fields::of(spec, kind.fields)?;
        let processes = Processes::of(spec, &fields)?;
        if !SPEAKERS.contains(&processes.component) {
            let names: Vec<_> = SPEAKERS.iter().map(|component| component.name()).collect();
            return Err(SpecError {
                field: "component".to_owned(),
                message: format!("{} speaks to no API server", processes.component),
                hint: format!("one of {}", names.join(", ")),
            });
        }
        let (name, hits) = (spec.name.clone(), Vec::new());
        Ok(Self { processes, name, rule, hits, is_shown: false })
    }

    fn id(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    fn ids(&self) -> Vec<String> {
        self.processes.nodes.iter().map(|node| self.id(node)).collect()
    }

    /// Whether the rule ends the process that meets it.
    fn is_deadly(&self) -> bool {
        matches!(self.rule, Rule::CrashAtWrite { .. })
    }

    /// What the processes of the components are: killed where the rule kills, else as before. Later
    /// they may end for reasons of their own (a leader with a view that stands still, for one).
    async fn behaviours(&self, cx: &mut FaultCx<'_>) -> Result<Vec<Evidence>, FaultError> {
        let component = self.processes.component;
        let mut evidence = Vec::new();
        for (at, node) in self.processes.nodes.iter().enumerate() {
            let view = process(cx, node, component).await?;
            let is_other = view.identity != self.processes.before[at].identity;
            let text = format!(
                "{component} on {node} is {}, {}",
                word(&view.state),
                if is_other { "not the process of before" } else { "as before" }
            );
            let was_met = self.hits[at] > 0;
            let holds = match (self.is_deadly() && was_met, self.is_shown) {
                (true, _) => is_other,
                (false, true) => true,
                (false, false) => !is_other && health(cx, node, component).await.ok,
            };
            evidence.push(behaviour(text, holds, Some(view.reading)));
        }
        Ok(evidence)
    }
}

#[async_trait::async_trait]
impl Fault for Meddling {
    fn needs(&self) -> Vec<LeverKind> {
        vec![LeverKind::Meddle]
    }

    fn targets(&self) -> Vec<String> {
        self.processes.targets()
    }

    fn undos(&self) -> Vec<Undo> {
        self.ids().into_iter().map(|id| Undo::Unmeddle { id }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.processes.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let component = self.processes.component;
        for node in self.processes.nodes.clone() {
            let (id, rule) = (self.id(&node), self.rule.clone());
            cx.target.pull(&Lever::Meddle { id, node, component, rule }).await?;
        }
        self.hits = vec![0; self.processes.nodes.len()];
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        for (at, id) in self.ids().into_iter().enumerate() {
            let (in_place, hits) = meddled(cx, &id).await?;
            self.hits[at] = hits;
            let word = if in_place { "in force" } else { "not in force" };
            let text = format!("rule {id} is {word}, and was met {hits} times");
            evidence.push(counter(text, in_place, Some(Reading::Meddled { in_place, hits })));
        }
        evidence.extend(self.behaviours(cx).await?);
        evidence.push(self.processes.control(cx).await);
        let proof = proof(evidence);
        self.is_shown |= proof.holds();
        Ok(proof)
    }

    fn is_momentary(&self) -> bool {
        false
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        // Afterwards nobody remembers how often it was met.
        for (at, id) in self.ids().into_iter().enumerate() {
            if let (Ok((true, hits)), Some(known)) = (meddled(cx, &id).await, self.hits.get_mut(at))
            {
                *known = hits.max(*known);
            }
        }
        for undo in self.undos() {
            cx.target.undo(&undo).await?;
        }
        Ok(())
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let component = self.processes.component;
        let mut evidence = Vec::new();
        for (at, id) in self.ids().into_iter().enumerate() {
            let (in_place, _) = meddled(cx, &id).await?;
            let word = if in_place { "still in force" } else { "lifted" };
            evidence.push(counter(format!("rule {id} is {word}"), !in_place, None));
            let hits = self.hits.get(at).copied().unwrap_or(0);
            let reading = Reading::Meddled { in_place: true, hits };
            let text = format!("rule {id} was met {hits} times before it was lifted");
            evidence.push(counter(text, true, Some(reading)));
        }
        for (at, node) in self.processes.nodes.iter().enumerate() {
            let view = process(cx, node, component).await?;
            let is_other = view.identity != self.processes.before[at].identity;
            let was_met = self.hits.get(at).is_some_and(|hits| *hits > 0);
            let answer = health(cx, node, component).await;
            let text = format!("{component} on {node} is {}: {}", word(&view.state), answer.detail);
            let runs = view.state == ProcessState::Running && answer.ok;
            let holds = runs && (!self.is_deadly() || !was_met || is_other);
            evidence.push(behaviour(text, holds, Some(view.reading)));
        }
        Ok(proof(evidence))
    }
}

/// The field `kind`, as plural and group: `pods`, `deployments.apps`. The word of scenario files, and
/// the plural alone, are understood. Empty if it is not there.
pub(crate) fn kind_of(fields: &Fields<'_>) -> Result<String, SpecError> {
    let Some(text) = fields.text("kind")? else { return Ok(String::new()) };
    let known = KINDS.iter().find(|kind| [kind.word, kind.id, kind.plural()].contains(&&*text));
    match known {
        Some(kind) => Ok(kind.id.to_owned()),
        // Kinds that scenarios do not speak of have a group in their name.
        None if text.contains('.') => Ok(text),
        None if MORE_KINDS.contains(&&*text) => Ok(text),
        None => {
            let ids: Vec<_> =
                KINDS.iter().map(|kind| kind.id).chain(MORE_KINDS.iter().copied()).collect();
            Err(SpecError {
                field: "kind".to_owned(),
                message: format!("no kind of object is named `{text}`"),
                hint: did_you_mean(&text, &ids),
            })
        }
    }
}

/// Kinds of the core group that scenarios do not speak of.
const MORE_KINDS: &[&str] = &["endpoints", "events"];

/// As [`kind_of`], of a rule that must have one.
pub(crate) fn kind_needed(fields: &Fields<'_>, fault: &str) -> Result<String, SpecError> {
    let kind = kind_of(fields)?;
    if kind.is_empty() {
        return Err(SpecError {
            field: "kind".to_owned(),
            message: format!("fault `{fault}` does not say which kind of object"),
            hint: "add `kind:`, such as `kind: pods`".to_owned(),
        });
    }
    Ok(kind)
}
