//! `cordon`: a node takes no new pods: `spec.unschedulable`, as `kubectl cordon` sets it.
//!
//! ```yaml
//! fault: cordon
//! on: worker-1
//! for: 60s
//! ```
//!
//! Proven: two API servers, where there are two, show the Node unschedulable, at another revision
//! than before; an untouched Node is as before at the first proof: later somebody else may cordon it.
//! Healed: the Node is schedulable again, and so says another API server.

use serde_json::{Value, json};
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{LeverKind, Undo};
use shakedown_core::target::Endpoint;
use shakedown_core::timeline::Evidence;

use crate::api;
use crate::evidence::{behaviour, control, counter, proof};
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "cordon",
    summary: "a node takes no new pods until healed",
    fields: &[],
    needs: &[LeverKind::Api],
    sample: "fault: cordon\non: worker-1\nfor: 60s\n",
    build,
};

struct Cordon {
    nodes: Vec<String>,
    /// Each node's resourceVersion before.
    before: Vec<String>,
    /// An untouched node, and whether it was unschedulable.
    peer: Option<(String, bool)>,
    is_shown: bool,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    Fields::of(spec, KIND.fields)?;
    let nodes = spec::on(spec, "nodes")?;
    Ok(Box::new(Cordon { nodes, before: Vec::new(), peer: None, is_shown: false }))
}

impl Cordon {
    async fn set(&self, endpoints: &[Endpoint], wanted: bool) -> Result<(), FaultError> {
        for name in &self.nodes {
            let found = api::change(endpoints, &api::node_path(name), |node| {
                // As `kubectl uncordon` leaves it: the field is absent, not false.
                let value = if wanted { json!(true) } else { Value::Null };
                (unschedulable(node) != wanted).then(|| json!({"spec": {"unschedulable": value}}))
            })
            .await?;
            if found.is_none() && wanted {
                return Err(FaultError::Api {
                    doing: format!("failed to cordon node {name}"),
                    why: "there is no such Node".to_owned(),
                });
            }
        }
        Ok(())
    }

    async fn evidence(
        &self,
        endpoints: &[Endpoint],
        wanted: bool,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        for (name, before) in self.nodes.iter().zip(&self.before) {
            let path = api::node_path(name);
            let node = api::get(endpoints, &path).await?.1.unwrap_or_default();
            let version = version(&node);
            evidence.push(counter(
                format!("Node {name} at revision {version} is {}", word(unschedulable(&node))),
                !node.is_null() && unschedulable(&node) == wanted && version != *before,
                None,
            ));
            let (by, seen) = api::get_elsewhere(endpoints, &path).await?;
            let seen = seen.unwrap_or_default();
            evidence.push(behaviour(
                format!(
                    "the API server on {by} says that {name} is {}",
                    word(unschedulable(&seen))
                ),
                !seen.is_null() && unschedulable(&seen) == wanted,
                None,
            ));
        }
        Ok(evidence)
    }

    /// Whether an untouched node is as before. It bears witness once: whatever else goes on may
    /// cordon it, or delete it, later.
    async fn control(&self, endpoints: &[Endpoint]) -> Result<Option<Evidence>, FaultError> {
        let Some((name, before)) = &self.peer else { return Ok(None) };
        if self.is_shown {
            let text = format!("untouched Node {name} was as before at the first proof");
            return Ok(Some(control(text, true, None)));
        }
        let node = api::get(endpoints, &api::node_path(name)).await?.1.unwrap_or_default();
        let now = unschedulable(&node);
        let text = format!("untouched Node {name} is {}", word(now));
        Ok(Some(control(text, now == *before && !node.is_null(), None)))
    }
}

#[async_trait::async_trait]
impl Fault for Cordon {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn undos(&self) -> Vec<Undo> {
        self.nodes.iter().map(|node| Undo::Uncordon { node: node.clone() }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        for node in api::list(cx.endpoints, "/api/v1/nodes").await? {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            if !self.nodes.iter().any(|known| known == name) {
                self.peer = Some((name.to_owned(), unschedulable(&node)));
            }
        }
        for name in &self.nodes {
            let node = api::get(cx.endpoints, &api::node_path(name)).await?.1.unwrap_or_default();
            if unschedulable(&node) {
                return Err(FaultError::Api {
                    doing: format!("failed to cordon node {name}"),
                    why: "it is unschedulable already".to_owned(),
                });
            }
            self.before.push(version(&node));
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.set(cx.endpoints, true).await
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = self.evidence(cx.endpoints, true).await?;
        evidence.extend(self.control(cx.endpoints).await?);
        let proof = proof(evidence);
        self.is_shown |= proof.holds();
        Ok(proof)
    }

    fn is_momentary(&self) -> bool {
        false
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.set(cx.endpoints, false).await
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(self.evidence(cx.endpoints, false).await?))
    }
}

fn unschedulable(node: &Value) -> bool {
    node["spec"]["unschedulable"].as_bool().unwrap_or(false)
}

fn word(unschedulable: bool) -> &'static str {
    if unschedulable { "unschedulable" } else { "schedulable" }
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scripted::{World, life, life_amid, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        life("cordon", &["worker-1", "worker-2"], World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("cordon", &["worker-1"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn an_untouched_node_that_somebody_else_cordons_later_says_nothing() {
        let step = spec("cordon", &["worker-1"]);
        let cordoned = |world: &World| {
            for other in ["worker-2", "worker-3"] {
                let cordon =
                    |node: &mut serde_json::Value| node["spec"]["unschedulable"] = json!(true);
                world.edit(&format!("/api/v1/nodes/{other}"), cordon);
            }
        };
        life_amid(&step, World::working(), cordoned).await.proven_and_healed();
        let uncordoned = |world: &World| {
            world.edit("/api/v1/nodes/worker-1", |node| node["spec"] = json!({}));
        };
        life_amid(&step, World::working(), uncordoned).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_stays_it_is_not_healed() {
        life("cordon", &["worker-1"], World::working().stuck()).await.not_healed();
    }
}
