//! What the taint faults share: adding and removing exactly one taint, and what shows it.
//!
//! A taint is known by key, value and effect together: one that somebody else put there under the
//! same key is never touched. That the node's other taints were left alone is shown at the first proof
//! and at the healing: between the two whoever put them there may take them away.

use serde_json::{Value, json};
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{LeverKind, Undo};
use shakedown_core::target::Endpoint;
use shakedown_core::timeline::Evidence;

use crate::api;
use crate::evidence::{behaviour, control, counter, proof};
use crate::spec::{self, Fields};

/// The key unless the step says otherwise.
const KEY: &str = "shakedown.dev/fault";

/// One taint on some nodes.
#[derive(Debug)]
pub(crate) struct Taints {
    pub(crate) nodes: Vec<String>,
    key: String,
    value: String,
    effect: String,
    /// Each node's other taints before, and its resourceVersion.
    before: Vec<(Vec<Value>, String)>,
    is_shown: bool,
}

impl Taints {
    /// Reads `on`, `key` and `value`.
    pub(crate) fn of(
        spec: &FaultSpec,
        fields: &Fields<'_>,
        effect: &str,
    ) -> Result<Self, SpecError> {
        Ok(Self {
            nodes: spec::on(spec, "nodes")?,
            key: fields.text("key")?.unwrap_or_else(|| KEY.to_owned()),
            value: fields.text("value")?.unwrap_or_else(|| format!("shk-{}", spec.name)),
            effect: effect.to_owned(),
            before: Vec::new(),
            is_shown: false,
        })
    }

    /// Adds the taint.
    async fn add(&self, endpoints: &[Endpoint]) -> Result<(), FaultError> {
        for name in &self.nodes {
            let path = api::node_path(name);
            let changed = api::change(endpoints, &path, |node| {
                let mut all = taints(node);
                if all.iter().any(|taint| self.is_ours(taint)) {
                    return None;
                }
                all.push(json!({"key": self.key, "value": self.value, "effect": self.effect}));
                Some(json!({"spec": {"taints": all}}))
            });
            if changed.await?.is_none() {
                let doing = format!("failed to taint node {name}");
                return Err(FaultError::Api { doing, why: "there is no such Node".to_owned() });
            }
        }
        Ok(())
    }

    /// Removes exactly this taint. A node that is gone has none.
    async fn take_away(&self, endpoints: &[Endpoint]) -> Result<(), FaultError> {
        for name in &self.nodes {
            api::change(endpoints, &api::node_path(name), |node| {
                let mut all = taints(node);
                let many = all.len();
                all.retain(|taint| !self.is_ours(taint));
                (all.len() != many).then(|| json!({"spec": {"taints": all}}))
            })
            .await?;
        }
        Ok(())
    }

    /// What shows that the taint is there (`wanted`) or not.
    async fn evidence(
        &self,
        endpoints: &[Endpoint],
        wanted: bool,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        let may_others_go = wanted && self.is_shown;
        for (at, name) in self.nodes.iter().enumerate() {
            let path = api::node_path(name);
            let (_, node) = api::get(endpoints, &path).await?;
            let node = node.unwrap_or_default();
            let has = self.has(&node);
            let (others, version_before) = self.before.get(at).cloned().unwrap_or_default();
            let changed = version(&node) != version_before;
            evidence.push(counter(
                format!("Node {name} at revision {} {}", version(&node), self.phrase(has)),
                has == wanted && changed && !node.is_null(),
                None,
            ));
            let (by, seen) = api::get_elsewhere(endpoints, &path).await?;
            let seen = seen.unwrap_or_default();
            let has = self.has(&seen);
            evidence.push(behaviour(
                format!("the API server on {by} says that {name} {}", self.phrase(has)),
                has == wanted && !seen.is_null(),
                None,
            ));
            if !may_others_go {
                evidence.push(untouched_taints(name, &others, &taints(&node)));
            }
        }
        evidence.extend(self.peer(endpoints).await?);
        Ok(evidence)
    }

    /// Another node must not have the taint.
    async fn peer(&self, endpoints: &[Endpoint]) -> Result<Option<Evidence>, FaultError> {
        let nodes = api::list(endpoints, "/api/v1/nodes").await?;
        let mut others = nodes.iter().filter_map(|node| {
            let name = node["metadata"]["name"].as_str()?;
            (!self.nodes.iter().any(|known| known == name)).then_some((name, node))
        });
        Ok(others.next().map(|(name, node)| {
            let has = self.has(node);
            control(format!("untouched Node {name} {}", self.phrase(has)), !has, None)
        }))
    }

    fn has(&self, node: &Value) -> bool {
        taints(node).iter().any(|taint| self.is_ours(taint))
    }

    fn is_ours(&self, taint: &Value) -> bool {
        is(taint, (&self.key, &self.value, &self.effect))
    }

    fn text(&self) -> String {
        format!("{}={}:{}", self.key, self.value, self.effect)
    }

    fn phrase(&self, has: bool) -> String {
        format!("{} taint {}", if has { "has" } else { "does not have" }, self.text())
    }
}

#[async_trait::async_trait]
impl Fault for Taints {
    fn needs(&self) -> Vec<LeverKind> {
        vec![LeverKind::Api]
    }

    fn targets(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn undos(&self) -> Vec<Undo> {
        let nodes = self.nodes.iter().cloned();
        nodes
            .map(|node| Undo::RemoveTaint {
                node,
                key: self.key.clone(),
                value: self.value.clone(),
                effect: self.effect.clone(),
            })
            .collect()
    }

    /// Notes the other taints. A node that has this one already is an error: it would be removed
    /// at the end although it is not ours.
    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        for name in &self.nodes {
            let doing = format!("failed to taint node {name}");
            let path = api::node_path(name);
            let Some(node) = api::get(cx.endpoints, &path).await?.1 else {
                return Err(FaultError::Api { doing, why: "there is no such Node".to_owned() });
            };
            let taints = taints(&node);
            if taints.iter().any(|taint| self.is_ours(taint)) {
                return Err(FaultError::Api {
                    doing,
                    why: format!("it has {} already", self.text()),
                });
            }
            self.before.push((taints, version(&node)));
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.add(cx.endpoints).await
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let proof = proof(self.evidence(cx.endpoints, true).await?);
        self.is_shown |= proof.holds();
        Ok(proof)
    }

    fn is_momentary(&self) -> bool {
        false
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let ours = (&self.key, &self.value, &self.effect);
        for (name, (others, _)) in self.nodes.iter().zip(&mut self.before) {
            let node = api::get(cx.endpoints, &api::node_path(name)).await?.1.unwrap_or_default();
            *others = taints(&node);
            others.retain(|taint| !is(taint, ours));
        }
        self.take_away(cx.endpoints).await
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(self.evidence(cx.endpoints, false).await?))
    }
}

/// The taints that others had put there are still there. Those that Kubernetes itself puts on a
/// node come and go with its condition and say nothing about the fault.
fn untouched_taints(name: &str, before: &[Value], now: &[Value]) -> Evidence {
    let foreign = |taint: &&Value| {
        !taint["key"].as_str().is_some_and(|key| key.starts_with("node.kubernetes.io/"))
    };
    let lost = before.iter().filter(foreign).filter(|taint| !now.contains(taint)).count();
    let text = format!("{lost} of the other taints of {name} are gone");
    control(text, lost == 0, None)
}

fn is(taint: &Value, (key, value, effect): (&String, &String, &String)) -> bool {
    taint["key"] == key.as_str()
        && taint["value"].as_str().unwrap_or_default() == value
        && taint["effect"] == effect.as_str()
}

fn taints(node: &Value) -> Vec<Value> {
    node["spec"]["taints"].as_array().cloned().unwrap_or_default()
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}
