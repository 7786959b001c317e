//! The pod network of a real node: a bridge for its own pods, routes to those of the other nodes.
//!
//! Pods reach pods of other nodes without address translation; what leaves the cluster's range is
//! masqueraded by the bridge plugin. Routes are made by `ip route replace`, so repeating them does
//! no harm.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use serde_json::{Value, json};

/// Why the pod network could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A command failed.
    #[error("`{command}` failed: {why}")]
    Command {
        /// The command.
        command: String,
        /// What it said.
        why: String,
    },
}

/// Lays the pod network of one node.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Gives the node's pods addresses out of this range.
    async fn set_own_range(&self, pod_cidr: &str) -> Result<(), NetworkError>;
    /// Leads packets for the other nodes' ranges to those nodes: range to address.
    async fn set_routes(&self, routes: &BTreeMap<String, String>) -> Result<(), NetworkError>;
}

/// CNI's bridge plugin and the kernel's routes.
#[derive(Debug, Clone)]
pub struct BridgeNetwork {
    /// Where the runtime looks for CNI configurations, such as `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Where the plugins are: portmap is used only if it is there.
    pub plugin_dirs: Vec<PathBuf>,
    /// The range of all pods: packets to it keep their sender.
    pub cluster_cidr: String,
}

impl BridgeNetwork {
    /// The CNI configuration for a range of pod addresses.
    pub fn conflist(&self, pod_cidr: &str) -> Value {
        let has = |plugin: &str| self.plugin_dirs.iter().any(|dir| dir.join(plugin).exists());
        let mut plugins = vec![json!({
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "isDefaultGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_cidr}]]},
        })];
        if has("portmap") {
            plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        }
        json!({"cniVersion": "0.4.0", "name": "shakedown", "plugins": plugins})
    }
}

#[async_trait]
impl PodNetwork for BridgeNetwork {
    async fn set_own_range(&self, pod_cidr: &str) -> Result<(), NetworkError> {
        write("/proc/sys/net/ipv4/ip_forward".into(), "1").await?;
        let text = self.conflist(pod_cidr).to_string();
        // Written beside and renamed: the runtime watches the folder and must not read half a file.
        let file = self.conf_dir.join("10-shakedown.conflist");
        let draft = self.conf_dir.join(".10-shakedown.draft");
        tokio::fs::create_dir_all(&self.conf_dir)
            .await
            .map_err(|source| NetworkError::Write { path: self.conf_dir.clone(), source })?;
        write(draft.clone(), &text).await?;
        tokio::fs::rename(&draft, &file)
            .await
            .map_err(|source| NetworkError::Write { path: file, source })?;
        // Optional: without iptables pods simply cannot leave the cluster.
        let masquerade =
            format!("POSTROUTING -s {pod_cidr} ! -d {} -j MASQUERADE", self.cluster_cidr);
        if run(&format!("iptables -w -t nat -C {masquerade}")).await.is_err()
            && let Err(error) = run(&format!("iptables -w -t nat -A {masquerade}")).await
        {
            tracing::debug!(%error, "pods cannot leave the cluster");
        }
        Ok(())
    }

    async fn set_routes(&self, routes: &BTreeMap<String, String>) -> Result<(), NetworkError> {
        for (range, via) in routes {
            run(&format!("ip route replace {range} via {via}")).await?;
        }
        Ok(())
    }
}

async fn write(path: PathBuf, text: &str) -> Result<(), NetworkError> {
    tokio::fs::write(&path, text).await.map_err(|source| NetworkError::Write { path, source })
}

async fn run(command: &str) -> Result<(), NetworkError> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let failed = |why: String| NetworkError::Command { command: command.to_owned(), why };
    let output = tokio::process::Command::new(program)
        .args(words)
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portmap_is_used_only_where_it_is() {
        let plugins = |dirs: Vec<PathBuf>| -> Vec<Value> {
            let network = BridgeNetwork {
                conf_dir: PathBuf::new(),
                plugin_dirs: dirs,
                cluster_cidr: "10.244.0.0/16".to_owned(),
            };
            let list = network.conflist("10.244.1.0/24");
            let plugins = list["plugins"].as_array().expect("a list of plugins");
            plugins.iter().map(|plugin| plugin["type"].clone()).collect()
        };
        assert_eq!(plugins(Vec::new()), ["bridge"]);
        let here = tempfile::tempdir().expect("a folder for the test");
        std::fs::write(here.path().join("portmap"), "").expect("a file for the test");
        assert_eq!(plugins(vec![here.path().to_owned()]), ["bridge", "portmap"]);
    }
}
