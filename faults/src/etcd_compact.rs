//! `etcd-compact`: etcd forgets every revision before the one it is at now. It is done to etcd as a
//! whole, so it has no `on`.
//!
//! ```yaml
//! fault: etcd-compact
//! ```
//!
//! Proven: every member that is up has compacted a later revision than before; an API server that
//! answered with an old revision before says that it is gone (410); the newest is still answered.
//! It is over by itself: nothing is healed.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Component, Lever, LeverKind, ProcessState, Undo};
use shakedown_core::target::Role;

use crate::api;
use crate::evidence::{behaviour, control, counter, process, proof};
use crate::readings::{compacted, member};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "etcd-compact",
    summary: "etcd forgets its history, once",
    fields: &[],
    needs: &[LeverKind::EtcdAdmin],
    sample: "fault: etcd-compact\n",
    build,
};

/// What is listed at an old revision: there are few of them.
const LIST: &str = "/api/v1/namespaces";

struct EtcdCompact {
    /// What the members that answered had compacted before.
    before: Vec<(String, i64)>,
    /// A revision that could be read before, and is older than the newest.
    old: Option<i64>,
    /// Why it could not be done, if it could not.
    refused: Option<String>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    Fields::of(spec, KIND.fields)?;
    for (field, is_there) in [("on", !spec.on.is_empty()), ("between", !spec.sides.is_empty())] {
        if is_there {
            return Err(SpecError {
                field: field.to_owned(),
                message: "fault `etcd-compact` is done to etcd as a whole".to_owned(),
                hint: format!("leave `{field}:` out"),
            });
        }
    }
    Ok(Box::new(EtcdCompact { before: Vec::new(), old: None, refused: None }))
}

fn exactly(revision: i64) -> String {
    format!("{LIST}?resourceVersion={revision}&resourceVersionMatch=Exact")
}

#[async_trait::async_trait]
impl Fault for EtcdCompact {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        vec!["etcd".to_owned()]
    }

    fn undos(&self) -> Vec<Undo> {
        Vec::new()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        let mut newest = None;
        for node in cx.cluster.names(Role::ControlPlane) {
            let (Ok(view), Ok(revision)) = (member(cx, &node).await, compacted(cx, &node).await)
            else {
                continue;
            };
            newest = newest.max(Some(view.revision));
            self.before.push((node, revision));
        }
        // The newest revision stays: the one before it is the first to go.
        self.old = newest.map(|revision| revision - 1);
        if let Some(old) = self.old {
            let answer = api::code(cx.endpoints, &exactly(old)).await;
            self.old = self.old.filter(|_| answer.is_ok_and(|(_, code)| code == 200));
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        // Without a leader there is nobody to compact: that is no fault of the harness.
        self.refused = cx.target.pull(&Lever::Compact).await.err().map(|error| error.to_string());
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        if let Some(why) = &self.refused {
            evidence.push(counter(format!("nothing was compacted: {why}"), false, None));
        }
        for (node, before) in &self.before {
            match compacted(cx, node).await {
                Ok(now) => {
                    let text = format!("etcd on {node} compacted revision {now}, before {before}");
                    evidence.push(counter(text, now > *before, None));
                }
                // A member that went down meanwhile compacts when it is up again.
                Err(error) => {
                    let view = process(cx, node, Component::Etcd).await?;
                    let is_down = view.state != ProcessState::Running;
                    let text = format!("etcd on {node} does not answer: {error}");
                    evidence.push(counter(text, is_down, Some(view.reading)));
                }
            }
        }
        evidence.push(match self.old {
            None => {
                behaviour("no old revision could be read before either".to_owned(), false, None)
            }
            Some(old) => {
                let (node, code) = api::code(cx.endpoints, &exactly(old)).await?;
                let text = format!("kube-apiserver on {node} answers {code} for revision {old}");
                behaviour(text, code == 410, None)
            }
        });
        let (node, code) = api::code(cx.endpoints, LIST).await?;
        let text = format!("kube-apiserver on {node} answers {code} for the newest revision");
        evidence.push(control(text, code == 200, None));
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        true
    }

    async fn remove(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }

    async fn prove_healed(&mut self, _: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(vec![counter("there is nothing to take back".to_owned(), true, None)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{World, life, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven() {
        let life = life("etcd-compact", &[], World::working()).await;
        assert!(life.momentary);
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("etcd-compact", &[], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_compaction_that_no_reader_notices_is_not_proven() {
        life("etcd-compact", &[], World::working().that_forgets_nothing()).await.not_proven();
    }

    #[test]
    fn it_is_done_to_nobody_in_particular() {
        let error = build(&spec("etcd-compact", &["cp-1"])).err().unwrap();
        assert_eq!((error.field.as_str(), error.hint.as_str()), ("on", "leave `on:` out"));
    }
}
