//! The directory of a cluster: what is needed to attach to it, and the files that its nodes mount.
//!
//! ```text
//! <state>/<cluster>/cluster.json   this record
//!                   kubeconfig     the administrator's, for kubectl
//!                   pki/           the authority's certificate, the administrator's and etcd's client pairs
//!                   bin/           the binaries that the nodes run: a later build does not change them
//!                   nodes/<node>/  what the node mounts at /etc/orchestrator
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shakedown_core::target::{ClusterFact, NodeFact, Parameters, TargetError};

use crate::docker::failed;

/// The shape of [`Record`].
const FORMAT: u32 = 1;

/// A node of a recorded cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What the runner knows of it.
    pub fact: NodeFact,
    /// The name of its container.
    pub container: String,
    /// The addresses of its pods; empty for a control plane.
    pub pod_cidr: String,
}

/// What is needed to attach to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`]
    pub format: u32,
    /// The run that made it.
    pub run: String,
    /// Its name.
    pub cluster: String,
    /// Docker's name of its network.
    pub network: String,
    /// Its nodes, control plane first.
    pub nodes: Vec<NodeRecord>,
    /// Its timings.
    pub parameters: Parameters,
}

impl Record {
    /// A record of the present format.
    pub fn new(run: &str, cluster: &str, network: &str, parameters: Parameters) -> Self {
        Self {
            format: FORMAT,
            run: run.to_owned(),
            cluster: cluster.to_owned(),
            network: network.to_owned(),
            nodes: Vec::new(),
            parameters,
        }
    }

    /// The cluster as the runner knows it.
    pub fn fact(&self) -> ClusterFact {
        let nodes = self.nodes.iter().map(|node| node.fact.clone()).collect();
        ClusterFact { nodes, parameters: self.parameters }
    }
}

/// Where a cluster's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDir(PathBuf);

/// The directory with all clusters of this user: `$SHAKEDOWN_STATE`, else `~/.shakedown`.
pub fn default_state_dir() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".shakedown");
    std::env::var_os("SHAKEDOWN_STATE").map_or_else(home, PathBuf::from)
}

impl ClusterDir {
    /// The directory of a cluster.
    pub fn new(state: &Path, cluster: &str) -> Self {
        Self(state.join(cluster))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// Certificates and keys for use from outside.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The binaries that the nodes run.
    pub fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// What a node mounts.
    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }

    /// Makes a directory that only this user may read, with those above it.
    pub fn make(path: &Path) -> Result<(), TargetError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| failed(format!("making {}", path.display()), error, ""))
    }

    /// Writes the record.
    pub fn write(&self, record: &Record) -> Result<(), TargetError> {
        let text = serde_json::to_string_pretty(record).expect("plain data can be written as JSON");
        let path = self.0.join("cluster.json");
        // Written beside and renamed: whoever attaches never reads half of it.
        let beside = path.with_extension("new");
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|error| failed(format!("writing {}", path.display()), error, ""))
    }

    /// Reads the record.
    pub fn read(&self) -> Result<Record, TargetError> {
        let path = self.0.join("cluster.json");
        let what = || format!("reading {}", path.display());
        let hint = "`shakedown status` lists the clusters; `shakedown up` makes one";
        let text = fs::read(&path).map_err(|error| failed(what(), error, hint))?;
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| failed(what(), error, hint))?;
        if record.format == FORMAT {
            return Ok(record);
        }
        let why = format!("it has format {}, this shakedown reads {FORMAT}", record.format);
        Err(failed(what(), why, "remove the cluster with the shakedown that made it"))
    }

    /// Removes everything, if the cluster in it is the one of this run.
    pub fn remove(&self, run: &str) -> Result<(), TargetError> {
        if self.read().is_ok_and(|record| record.run != run) {
            return Ok(());
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(format!("removing {}", self.0.display()), error, ""))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file that only this user may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = fs::File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_removed_only_by_its_run() {
        let state = tempfile::tempdir().unwrap();
        let dir = ClusterDir::new(state.path(), "c");
        assert!(dir.read().unwrap_err().to_string().contains("cluster.json"));
        ClusterDir::make(dir.path()).unwrap();
        let record = Record::new("r", "c", "n", Parameters::default());
        dir.write(&record).unwrap();
        assert_eq!(dir.read().unwrap(), record);
        dir.remove("another").unwrap();
        assert!(dir.path().exists());
        dir.remove("r").unwrap();
        assert!(!dir.path().exists());
        dir.remove("r").unwrap();
    }

    #[test]
    fn a_later_format_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let dir = ClusterDir::new(state.path(), "c");
        ClusterDir::make(dir.path()).unwrap();
        let record =
            Record { format: FORMAT + 1, ..Record::new("r", "c", "n", Parameters::default()) };
        dir.write(&record).unwrap();
        assert!(dir.read().unwrap_err().to_string().contains("format"));
    }

    #[test]
    fn secrets_are_for_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_secret(&path, "x").unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
