//! `process-stop`: SIGSTOP to a component: it keeps its sockets and its memory, and does nothing.
//!
//! ```yaml
//! fault: process-stop
//! on: cp-1
//! component: kube-controller-manager
//! for: 30s
//! ```
//!
//! Proven: two samples show the very process that ran before, stopped, and using no CPU between
//! them; its health check gets no answer; a peer is as before.
//! Healed: it runs and uses CPU again, or ended and another one runs (a leader that lost its lease
//! meanwhile ends itself); it answers.

use std::time::Duration;

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, ProcessState, Undo};

use crate::evidence::{behaviour, counter, health_all, processes, proof};
use crate::processes::{Processes, word};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "process-stop",
    summary: "SIGSTOP to a component until healed",
    fields: &["component"],
    needs: &[LeverKind::StopProcess],
    sample: "fault: process-stop\non: cp-1\ncomponent: kube-controller-manager\nfor: 30s\n",
    build,
};

/// How long between two samples of a process that must not move.
const SAMPLE_PERIOD: Duration = Duration::from_millis(100);

struct ProcessStop {
    processes: Processes,
    /// CPU ticks of each when last seen stopped.
    ticks: Vec<u64>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    Ok(Box::new(ProcessStop { processes: Processes::of(spec, &fields)?, ticks: Vec::new() }))
}

#[async_trait::async_trait]
impl Fault for ProcessStop {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.processes.targets()
    }

    fn undos(&self) -> Vec<Undo> {
        let component = self.processes.component;
        let nodes = self.processes.nodes.iter().cloned();
        nodes.map(|node| Undo::ContinueProcess { node, component }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.processes.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let component = self.processes.component;
        for node in self.processes.nodes.clone() {
            cx.target.pull(&Lever::StopProcess { node, component }).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let component = self.processes.component;
        let mut evidence = Vec::new();
        let nodes = self.processes.nodes.clone();
        let first = processes(cx, &nodes, component).await?;
        tokio::time::sleep(SAMPLE_PERIOD).await;
        self.ticks.clear();
        let views = processes(cx, &nodes, component).await?;
        let places = nodes.iter().map(|node| (node.clone(), component)).collect();
        let answers = health_all(cx, places).await;
        for (at, ((node, view), answer)) in nodes.iter().zip(views).zip(answers).enumerate() {
            let (before, sample) = (&self.processes.before[at], &first[at]);
            let stopped = [&view, sample].iter().all(|seen| {
                seen.state == ProcessState::Stopped && seen.identity == before.identity
            });
            let gained = view.ticks.saturating_sub(sample.ticks);
            self.ticks.push(view.ticks);
            evidence.push(counter(
                format!(
                    "{component} on {node} is {}, {gained} CPU ticks gained",
                    word(&view.state)
                ),
                stopped && gained == 0,
                Some(view.reading),
            ));
            let silent = answer.silent();
            evidence.push(behaviour(
                format!("health of {component} on {node}: {}", answer.detail),
                silent,
                answer.reading,
            ));
        }
        evidence.push(self.processes.control(cx).await);
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        false
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for undo in self.undos() {
            cx.target.undo(&undo).await?;
        }
        Ok(())
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let component = self.processes.component;
        let mut evidence = Vec::new();
        let nodes = self.processes.nodes.clone();
        let views = processes(cx, &nodes, component).await?;
        let places = nodes.iter().map(|node| (node.clone(), component)).collect();
        let answers = health_all(cx, places).await;
        for (at, ((node, view), answer)) in nodes.iter().zip(views).zip(answers).enumerate() {
            let before = &self.processes.before[at];
            let ticks = self.ticks.get(at).copied().unwrap_or(before.ticks);
            let moves = view.identity != before.identity || view.ticks > ticks;
            evidence.push(counter(
                format!(
                    "{component} on {node} is {}, at {} CPU ticks after {ticks}",
                    word(&view.state),
                    view.ticks
                ),
                view.state == ProcessState::Running && moves,
                Some(view.reading),
            ));
            evidence.push(behaviour(
                format!("health of {component} on {node}: {}", answer.detail),
                answer.ok,
                answer.reading,
            ));
        }
        Ok(proof(evidence))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{World, life_of, spec};

    fn stop() -> FaultSpec {
        let mut step = spec("process-stop", &["cp-1"]);
        step.fields.insert("component".to_owned(), json!("kube-controller-manager"));
        step
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        life_of(&stop(), World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life_of(&stop(), World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_never_continued_it_is_not_healed() {
        life_of(&stop(), World::working().stuck()).await.not_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_peer_that_is_as_before_it_is_not_proven() {
        life_of(&stop(), World::working().that_stops_everything()).await.not_proven();
    }
}
