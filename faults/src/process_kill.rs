//! `process-kill`: SIGKILL to a component; its supervisor starts it again, unless `restart: false`
//! (or `hold: true`, which says the same) keeps it down until healed.
//!
//! ```yaml
//! fault: process-kill
//! on: cp-1
//! component: kube-apiserver
//! restart: false
//! for: 30s
//! ```
//!
//! Proven: the process is gone, or is another one than before (a supervisor may be faster than any
//! probe); its health check gets no answer, or gets it from the other process; a peer is as before.
//! Healed: another process than before runs and answers.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, ProcessState, Undo};

use crate::evidence::{behaviour, counter, health, process, proof};
use crate::processes::{Processes, word};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "process-kill",
    summary: "SIGKILL to a component, restarted by its supervisor or held down",
    fields: &["component", "hold", "restart"],
    needs: &[LeverKind::KillProcess],
    sample: "fault: process-kill\non: cp-1\ncomponent: kube-apiserver\nrestart: false\nfor: 30s\n",
    build,
};

struct ProcessKill {
    processes: Processes,
    hold: bool,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let hold = match (fields.flag("hold")?, fields.flag("restart")?) {
        (Some(hold), Some(restart)) if hold == restart => {
            return Err(SpecError {
                field: "hold".to_owned(),
                message: "`hold` and `restart` contradict each other".to_owned(),
                hint: "leave one of them out: `restart: false` means `hold: true`".to_owned(),
            });
        }
        (Some(hold), _) => hold,
        (None, Some(restart)) => !restart,
        (None, None) => false,
    };
    Ok(Box::new(ProcessKill { processes: Processes::of(spec, &fields)?, hold }))
}

#[async_trait::async_trait]
impl Fault for ProcessKill {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.processes.targets()
    }

    fn undos(&self) -> Vec<Undo> {
        if !self.hold {
            return Vec::new();
        }
        let component = self.processes.component;
        let nodes = self.processes.nodes.iter().cloned();
        nodes.map(|node| Undo::ReleaseProcess { node, component }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.processes.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let component = self.processes.component;
        for node in self.processes.nodes.clone() {
            cx.target.pull(&Lever::KillProcess { node, component, hold: self.hold }).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let component = self.processes.component;
        let mut evidence = Vec::new();
        for (node, before) in self.processes.nodes.iter().zip(&self.processes.before) {
            let view = process(cx, node, component).await?;
            let ran = before.state != ProcessState::Absent;
            let absent = view.state == ProcessState::Absent;
            let other = !absent && view.identity != before.identity;
            evidence.push(counter(
                format!(
                    "{component} on {node} is {}{}; before: {}",
                    word(&view.state),
                    if other { ", another process" } else { "" },
                    before.identity
                ),
                ran && (absent || (other && !self.hold)),
                Some(view.reading),
            ));
            let answer = health(cx, node, component).await;
            let replaced = !self.hold && other && answer.ok;
            evidence.push(behaviour(
                format!("health of {component} on {node}: {}", answer.detail),
                answer.silent() || replaced,
                answer.reading,
            ));
        }
        evidence.push(self.processes.control(cx).await);
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        !self.hold
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
        for (node, before) in self.processes.nodes.iter().zip(&self.processes.before) {
            let view = process(cx, node, component).await?;
            let anew = view.state == ProcessState::Running && view.identity != before.identity;
            evidence.push(counter(
                format!("{component} on {node} is {}: {}", word(&view.state), view.identity),
                anew,
                Some(view.reading),
            ));
            let answer = health(cx, node, component).await;
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

    fn kill(fields: serde_json::Value) -> FaultSpec {
        let mut step = spec("process-kill", &["cp-1"]);
        step.fields = serde_json::from_value(fields).unwrap();
        step
    }

    #[tokio::test(start_paused = true)]
    async fn held_down_it_is_proven_and_healed() {
        let step = kill(json!({"component": "kube-apiserver", "restart": false}));
        life_of(&step, World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn restarted_before_any_probe_it_is_proven_by_its_identity() {
        let step = kill(json!({"component": "etcd"}));
        let life = life_of(&step, World::working()).await;
        assert!(life.momentary);
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        for fields in [json!({"component": "etcd"}), json!({"component": "etcd", "hold": true})] {
            life_of(&kill(fields), World::inert()).await.not_proven();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_stays_down_it_is_not_healed() {
        let step = kill(json!({"component": "etcd", "hold": true}));
        life_of(&step, World::working().stuck()).await.not_healed();
    }

    #[test]
    fn hold_and_restart_must_agree() {
        let refused = build(&kill(json!({"component": "etcd", "hold": true, "restart": true})));
        assert_eq!(refused.err().map(|error| error.field), Some("hold".to_owned()));
        let agreed = build(&kill(json!({"component": "etcd", "hold": true, "restart": false})));
        assert_eq!(agreed.map(|fault| fault.undos().len()).ok(), Some(1));
    }
}
