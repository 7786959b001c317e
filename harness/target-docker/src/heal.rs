//! Healing after whoever broke things is dead: every undo of its log once more, and all nodes running.
//!
//! Nothing here needs the process that pulled the levers, nor its agents. Cuts went with them.

use std::path::Path;

use bollard::Docker;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use shakedown_core::lever::{Component, Undo};
use shakedown_core::target::TargetError;

use crate::docker::{self, Found, containers, exec, failed};
use crate::labels::{CLUSTER, NODE};
use crate::record::ClusterDir;

/// What healing did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healed {
    /// What was taken back, for people.
    pub done: Vec<String>,
    /// What could not be.
    pub failed: Vec<String>,
}

impl Healed {
    fn note(&mut self, what: String, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.done.push(what),
            Err(why) => self.failed.push(format!("{what}: {why}")),
        }
    }
}

/// Lets every node of a cluster run again and takes back every undo, the last first. Never stops at
/// the first one that fails. Doing it twice does no harm.
pub async fn heal(state: &Path, cluster: &str, undos: &[Undo]) -> Result<Healed, TargetError> {
    let docker = docker::connect().await?;
    let found = containers(&docker, &[format!("{CLUSTER}={cluster}")]).await;
    let nodes = found.map_err(|error| failed("listing the nodes", error, ""))?;
    let mut healed = Healed::default();
    for node in &nodes {
        revive(&docker, node, &mut healed).await;
    }
    for undo in undos.iter().rev() {
        let outcome = match undo {
            Undo::ReleaseProcess { node, component } => {
                let script = format!("rm -f /run/orchestrator/hold/{component}");
                Some(run(&docker, &nodes, node, &script).await)
            }
            Undo::ContinueProcess { node, component } => {
                Some(run(&docker, &nodes, node, &resume_script(*component)).await)
            }
            Undo::RemoveTaint { .. } | Undo::Uncordon { .. } => {
                Some(undo_write(state, cluster, undo).await)
            }
            // Done for all nodes above; cuts went with their owner.
            Undo::StartNode { .. }
            | Undo::UnpauseNode { .. }
            | Undo::Mend { .. }
            | Undo::Unskew { .. }
            | Undo::Unmeddle { .. }
            | Undo::Nothing => None,
        };
        if let Some(outcome) = outcome {
            healed.note(format!("{undo:?}"), outcome);
        }
    }
    Ok(healed)
}

/// Unpauses a paused node and starts a dead one.
async fn revive(docker: &Docker, node: &Found, healed: &mut Healed) {
    let outcome = match node.state.as_str() {
        "paused" => docker.unpause_container(&node.name).await,
        "exited" | "created" | "dead" => docker.start_container(&node.name, None).await,
        _ => return,
    };
    let what = format!("{} was {}", node.name, node.state);
    healed.note(what, outcome.map_err(|error| error.to_string()));
}

fn resume_script(component: Component) -> String {
    format!("pid=/run/orchestrator/{component}.pid; [ ! -e $pid ] || kill -CONT $(cat $pid)")
}

async fn run(docker: &Docker, nodes: &[Found], node: &str, script: &str) -> Result<(), String> {
    let is_it = |found: &&Found| found.labels.get(NODE).is_some_and(|name| name == node);
    let found = nodes.iter().find(is_it).ok_or("no such node")?;
    match exec(docker, &found.name, &["sh", "-c", script]).await {
        Ok((0, _)) => Ok(()),
        Ok((code, text)) => Err(format!("status {code}: {}", text.trim())),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes back a write to a Node, through the first API server that answers.
async fn undo_write(state: &Path, cluster: &str, undo: &Undo) -> Result<(), String> {
    let kubeconfig = ClusterDir::new(state, cluster).kubeconfig();
    let file = Kubeconfig::read_from(&kubeconfig).map_err(|error| error.to_string())?;
    let mut last = "the kubeconfig has no context".to_owned();
    for context in &file.contexts {
        let options =
            KubeConfigOptions { context: Some(context.name.clone()), ..Default::default() };
        let config = kube::Config::from_custom_kubeconfig(file.clone(), &options).await;
        let client = config
            .map_err(|error| error.to_string())
            .and_then(|config| kube::Client::try_from(config).map_err(|error| error.to_string()))?;
        match patch_node(&Api::all(client), undo).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn patch_node(api: &Api<Node>, undo: &Undo) -> Result<(), kube::Error> {
    let (name, patch) = match undo {
        Undo::Uncordon { node } => (node, json!({"spec": {"unschedulable": null}})),
        Undo::RemoveTaint { node, key, value, effect } => {
            let Some(found) = api.get_opt(node).await? else { return Ok(()) };
            let found = serde_json::to_value(found).map_err(kube::Error::SerdeError)?;
            let Some(taints) = without_taint(&found, key, value, effect) else { return Ok(()) };
            // The version: a taint that was added since must not be lost.
            let version = &found["metadata"]["resourceVersion"];
            (node, json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}}))
        }
        _ => return Ok(()),
    };
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// The node's taints without this one; nothing if it is not there.
fn without_taint(node: &Value, key: &str, value: &str, effect: &str) -> Option<Vec<Value>> {
    let taints = node["spec"]["taints"].as_array()?;
    let is_it = |taint: &&Value| {
        taint["key"] == key
            && taint["value"].as_str().unwrap_or_default() == value
            && taint["effect"] == effect
    };
    taints.iter().find(is_it)?;
    Some(taints.iter().filter(|taint| !is_it(taint)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_taint_is_removed() {
        let node = json!({"spec": {"taints": [
            {"key": "k", "value": "a", "effect": "NoExecute"},
            {"key": "k", "value": "b", "effect": "NoExecute"},
            {"key": "k", "effect": "NoSchedule"},
        ]}});
        assert_eq!(without_taint(&node, "k", "b", "NoExecute").unwrap().len(), 2);
        assert_eq!(without_taint(&node, "k", "", "NoSchedule").unwrap().len(), 2);
        assert_eq!(without_taint(&node, "k", "c", "NoExecute"), None);
        assert_eq!(without_taint(&json!({"spec": {}}), "k", "", "NoExecute"), None);
    }
}
