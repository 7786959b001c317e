//! `container-kill`: SIGKILL to the main process of one container of a pod; `container` names it, the
//! first one unless said. Node and uid of the pod are asked of the API.
//!
//! ```yaml
//! fault: container-kill
//! on: pod/web-0
//! container: app
//! ```
//!
//! Proven: the runtime of the node no longer runs that very container; the pod's status, which the
//! kubelet writes, no longer says that it runs, or counts one restart more; other containers of the
//! node, or the node itself, are as before.
//! It is over by itself: nothing is healed.

use serde_json::Value;
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{ContainerFact, Lever, LeverKind, NodeState, Probe, Reading, Undo};
use shakedown_core::timeline::Evidence;

use crate::api;
use crate::evidence::{behaviour, control, counter, node, proof};
use crate::nodes::word;
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "container-kill",
    summary: "SIGKILL to one container of a pod",
    fields: &["container"],
    needs: &[LeverKind::KillContainer],
    sample: "fault: container-kill\non: pod/web-0\ncontainer: app\n",
    build,
};

/// One container, as it was before.
struct Before {
    pod: String,
    node: String,
    started: String,
    container: ContainerFact,
    restarts: u64,
    /// Ids of the other containers of the node.
    others: Vec<String>,
}

struct ContainerKill {
    pods: Vec<String>,
    container: Option<String>,
    before: Vec<Before>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let container = fields.text("container")?;
    Ok(Box::new(ContainerKill { pods: spec::on(spec, "pods")?, container, before: Vec::new() }))
}

impl ContainerKill {
    async fn look(&self, cx: &mut FaultCx<'_>, pod: &str) -> Result<Before, FaultError> {
        let failed = |why: &str| FaultError::Api {
            doing: format!("failed to find pod {pod}"),
            why: why.to_owned(),
        };
        let Some(object) = api::get(cx.endpoints, &api::pod_path(pod)).await?.1 else {
            return Err(failed("there is no such pod"));
        };
        let Some(on) = object["spec"]["nodeName"].as_str() else {
            return Err(failed("it is not bound to a node"));
        };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let first = object["spec"]["containers"][0]["name"].as_str();
        let Some(name) = self.container.as_deref().or(first) else {
            return Err(failed("it has no containers"));
        };
        let running = containers(cx, on, "").await?;
        let mine = |fact: &&ContainerFact| fact.pod_uid == uid && fact.container == name;
        let Some(container) = running.iter().find(mine).cloned() else {
            return Err(failed(&format!("container `{name}` does not run on {on}")));
        };
        let others = running.iter().map(|fact| fact.id.clone()).filter(|id| *id != container.id);
        Ok(Before {
            pod: pod.to_owned(),
            node: on.to_owned(),
            started: node(cx, on).await?.1,
            restarts: status(&object, name)["restartCount"].as_u64().unwrap_or(0),
            others: others.collect(),
            container,
        })
    }

    async fn prove_one(
        &self,
        cx: &mut FaultCx<'_>,
        before: &Before,
    ) -> Result<Vec<Evidence>, FaultError> {
        let name = &before.container.container;
        let running = containers(cx, &before.node, "").await?;
        let runs = running.iter().any(|fact| fact.id == before.container.id);
        let word = if runs { "still runs" } else { "does not run any more" };
        let text = format!("container {} of {} {word}", before.container.id, before.pod);
        let mut evidence = vec![counter(text, !runs, None)];

        let object = api::get_elsewhere(cx.endpoints, &api::pod_path(&before.pod))
            .await?
            .1
            .unwrap_or_default();
        let status = status(&object, name);
        let restarts = status["restartCount"].as_u64().unwrap_or(0);
        let gone = object["metadata"]["uid"] != before.container.pod_uid.as_str();
        let noticed = gone || restarts > before.restarts || status["state"]["running"].is_null();
        let text = format!(
            "the kubelet says of {name} of {}: {restarts} restarts, {}",
            before.pod,
            if noticed { "ended" } else { "running all the time" }
        );
        evidence.push(behaviour(text, noticed, None));
        evidence.push(peer(cx, before, &running).await?);
        Ok(evidence)
    }
}

async fn peer(
    cx: &mut FaultCx<'_>,
    before: &Before,
    running: &[ContainerFact],
) -> Result<Evidence, FaultError> {
    if before.others.is_empty() {
        let (state, started, reading) = node(cx, &before.node).await?;
        let same = state == NodeState::Running && started == before.started;
        let text = format!("node {} is {}", before.node, word(state));
        return Ok(control(text, same, Some(reading)));
    }
    let same = before.others.iter().filter(|id| running.iter().any(|fact| fact.id == **id)).count();
    let text = format!(
        "{same} of {} other containers on {} are as before",
        before.others.len(),
        before.node
    );
    Ok(control(text, same > 0, None))
}

#[async_trait::async_trait]
impl Fault for ContainerKill {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.pods.clone()
    }

    fn undos(&self) -> Vec<Undo> {
        Vec::new()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        for pod in self.pods.clone() {
            let before = self.look(cx, &pod).await?;
            self.before.push(before);
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for before in &self.before {
            cx.target
                .pull(&Lever::KillContainer {
                    node: before.node.clone(),
                    pod_uid: before.container.pod_uid.clone(),
                    container: before.container.container.clone(),
                })
                .await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        for before in &self.before {
            evidence.extend(self.prove_one(cx, before).await?);
        }
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        true
    }

    async fn remove(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }

    /// The container that was killed never comes back: what is shown is that it is still so.
    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        self.prove(cx).await
    }
}

async fn containers(
    cx: &mut FaultCx<'_>,
    node: &str,
    pod_uid: &str,
) -> Result<Vec<ContainerFact>, FaultError> {
    let probe = Probe::Containers { node: node.to_owned(), pod_uid: pod_uid.to_owned() };
    match cx.target.probe(&probe).await? {
        Reading::Containers { running } => Ok(running),
        other => Err(FaultError::Api {
            doing: format!("failed to list the containers on {node}"),
            why: format!("the target answered {other:?}"),
        }),
    }
}

fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses
        .and_then(|all| all.iter().find(|status| status["name"] == container))
        .unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scripted::{World, life, life_of, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven() {
        let life = life("container-kill", &["shop/web-a"], World::working()).await;
        assert!(life.momentary);
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("container-kill", &["shop/web-a"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_kubelet_never_notices_it_is_not_proven() {
        let world = World::working().with_blind_kubelet();
        life("container-kill", &["shop/web-a"], world).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_does_not_run_is_an_error() {
        let mut step = spec("container-kill", &["shop/web-a"]);
        step.fields.insert("container".to_owned(), json!("sidecar"));
        let why = life_of(&step, World::working()).await.failed();
        assert!(why.contains("container `sidecar` does not run on worker-1"), "{why}");
    }
}
