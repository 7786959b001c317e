//! The container runtime as the kubelet sees it: the Container Runtime Interface in plain data.
//!
//! Two bodies: `runtimes/cri.rs` talks CRI v1 to containerd, `runtimes/staged.rs` plays containers
//! from a table. Every call may be dropped half-way: what the runtime then really did is learnt from
//! its lists, never assumed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use env::Timestamp;

use crate::access::Access;

/// Label with the pod's name, on sandboxes and containers.
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// Label with the pod's namespace.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label with the pod's uid.
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Label with the container's name in its pod.
pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
/// Annotation with the hash of the container's specification.
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
/// Annotation with how often the container was restarted before.
pub const RESTART_COUNT_ANNOTATION: &str = "io.kubernetes.container.restartCount";

/// Why the runtime did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime does not answer.
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    /// There is no such image, sandbox or container.
    #[error("{0}")]
    NotFound(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// The container's configuration does not fit what is there.
    #[error("{0}")]
    Unfit(String),
}

/// What the runtime says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeVersion {
    /// Such as `containerd`.
    pub name: String,
    /// Such as `1.6.20`.
    pub version: String,
}

/// Whether the runtime can run pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeConditions {
    /// Why it cannot run containers; empty if it can.
    pub runtime_problem: String,
    /// Why it cannot give pods a network; empty if it can.
    pub network_problem: String,
}

/// Whose sandbox or container it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Identity.
    pub uid: String,
}

/// Which of the node's namespaces a pod shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostNamespaces {
    /// `spec.hostNetwork`
    pub network: bool,
    /// `spec.hostPID`
    pub pid: bool,
    /// `spec.hostIPC`
    pub ipc: bool,
    /// `spec.shareProcessNamespace`: the containers see each other's processes.
    pub shared_pid: bool,
}

/// How a pod resolves names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` domains.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// A port of the node that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// In the pod.
    pub container_port: i32,
    /// On the node.
    pub host_port: i32,
    /// The node's address it is bound to; empty for all.
    pub host_ip: String,
}

/// How the kernel shares and bounds what a container uses. Zero: not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinuxResources {
    /// CPU weight.
    pub cpu_shares: i64,
    /// Microseconds of CPU in each 100 ms.
    pub cpu_quota: i64,
    /// Bytes.
    pub memory_limit: i64,
    /// -997 (guaranteed) to 1000 (best effort).
    pub oom_score_adj: i64,
}

/// The basics of `securityContext`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// All capabilities and devices.
    pub privileged: bool,
    /// `runAsUser`
    pub user: Option<i64>,
    /// `runAsGroup`
    pub group: Option<i64>,
    /// `supplementalGroups` and `fsGroup`
    pub groups: Vec<i64>,
    /// `readOnlyRootFilesystem`
    pub readonly_root: bool,
    /// `allowPrivilegeEscalation: false`
    pub no_new_privileges: bool,
    /// `capabilities.add`
    pub add_capabilities: Vec<String>,
    /// `capabilities.drop`
    pub drop_capabilities: Vec<String>,
}

/// The sandbox that a pod needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxConfig {
    /// Whose it is.
    pub pod: PodId,
    /// Rises whenever the pod gets a new sandbox.
    pub attempt: u32,
    /// The pod's host name.
    pub hostname: String,
    /// More lines for `/etc/hosts`: address and names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// The runtime's default if absent.
    pub dns: Option<DnsConfig>,
    /// Ports of the node that lead into the pod.
    pub ports: Vec<PortMapping>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Shared namespaces.
    pub host: HostNamespaces,
    /// guaranteed, burstable or besteffort: names the pod's cgroup.
    pub qos: String,
    /// `spec.securityContext`
    pub security: Security,
    /// `spec.securityContext.sysctls`
    pub sysctls: BTreeMap<String, String>,
}

/// A sandbox that the runtime has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Whose it is.
    pub pod: PodId,
    /// Which of the pod's sandboxes.
    pub attempt: u32,
    /// Whether its pause process and network are there.
    pub ready: bool,
    /// When it was made.
    pub created: Timestamp,
    /// The pod's address; empty for the node's network, and in lists.
    pub ip: String,
}

/// Whose files a volume holds: names its folder, as upstream's plugins do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilesOf {
    /// A ConfigMap's; the only ones that are kept on disk.
    ConfigMap,
    /// The pod's own fields.
    DownwardApi,
    /// Several sources'.
    Projected,
    /// A Secret's.
    Secret,
}

/// One file that the kubelet writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// What it holds.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, if not root.
    pub user: Option<i64>,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeContent {
    /// A folder of the pod's own, empty at first: on disk, or in at most so many bytes of memory.
    Empty {
        /// Bytes, if it is in memory.
        memory_max: Option<u64>,
    },
    /// A path of the node and the hostPath's `type`.
    Host {
        /// The path.
        path: String,
        /// The type; may be empty.
        kind: String,
    },
    /// Files by their paths. They change all at once.
    Files {
        /// Whose.
        of: FilesOf,
        /// Which.
        files: BTreeMap<String, VolumeFile>,
    },
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodVolume {
    /// Its name in the pod.
    pub name: String,
    /// What it holds.
    pub content: VolumeContent,
    /// `fsGroup`: who may use it beside its owner.
    pub group: Option<i64>,
}

/// A volume, as a container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// What it shows.
    pub source: MountSource,
    /// The part of the volume that is shown; empty for all of it.
    pub sub_path: String,
    /// Whether writes are refused.
    pub readonly: bool,
    /// `mountPropagation`; empty for None.
    pub propagation: String,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// The pod's own empty folder.
    EmptyDir,
    /// Files that the kubelet writes.
    Files(FilesOf),
    /// A path of the node.
    HostPath(String),
}

/// The container that a pod needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerConfig {
    /// The name in the pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// The image, as the specification names it.
    pub image: String,
    /// Replaces the image's entry point, if not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments, if not empty.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Empty for the image's.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// Bounds.
    pub resources: LinuxResources,
    /// Rights.
    pub security: Security,
    /// The id of the container among whose processes its own are, if that is not itself.
    pub processes_of: Option<String>,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether it ends for good once the first who attached to it has gone.
    pub stdin_once: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
    /// The runtime has lost it.
    Unknown,
}

/// A container that the runtime has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The runtime's id.
    pub id: String,
    /// Where it lives.
    pub sandbox_id: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The name in the pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// Of the specification that it was made from.
    pub hash: String,
    /// The image's name.
    pub image: String,
    /// The image's digest or id.
    pub image_id: String,
    /// What it is doing.
    pub state: ContainerState,
    /// When it was made.
    pub created: Timestamp,
    /// When its process started.
    pub started: Option<Timestamp>,
    /// When its process ended.
    pub finished: Option<Timestamp>,
    /// Its exit code.
    pub exit_code: i32,
    /// Completed, Error, OOMKilled, StartError ...
    pub reason: String,
    /// For people.
    pub message: String,
}

/// An image that the runtime has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its names.
    pub tags: Vec<String>,
    /// Bytes.
    pub size: u64,
}

/// One sandbox or container in a cheap list: enough to see that something changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Brief {
    /// Whose it is.
    pub pod: PodId,
    /// The runtime's id.
    pub id: String,
    /// A container's name; empty for a sandbox.
    pub container: String,
    /// What it is doing; a sandbox runs, or has ended. Not only whether it runs: what was made at one
    /// look, and has run and ended before the next one, must look different.
    pub state: ContainerState,
}

impl Brief {
    /// Whether it is ready or running.
    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }
}

/// CRI's RuntimeService and ImageService, as far as the kubelet needs them.
#[async_trait]
pub trait ContainerRuntime: Access {
    /// Name and version.
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError>;
    /// Whether it can run pods.
    async fn conditions(&self) -> Result<RuntimeConditions, RuntimeError>;
    /// Tells the node's range of pod addresses; without one there is no pod network.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError>;
    /// Makes and starts a sandbox; answers its id.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, RuntimeError>;
    /// Stops a sandbox and all in it, and gives its address back.
    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// Removes a stopped sandbox and all containers in it.
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// The sandboxes of a pod, with addresses.
    async fn sandboxes(&self, pod_uid: &str) -> Result<Vec<Sandbox>, RuntimeError>;
    /// Puts a volume of a pod in place, or brings its files up to date.
    async fn set_up_volume(&self, pod: &PodId, volume: &PodVolume) -> Result<(), RuntimeError>;
    /// Makes a container; answers its id. Its volumes are in place.
    async fn create_container(
        &self,
        sandbox: &Sandbox,
        sandbox_config: &SandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, RuntimeError>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// SIGTERM, and SIGKILL after the grace. Returns when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    /// Removes an ended container.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// The containers of a pod.
    async fn containers(&self, pod_uid: &str) -> Result<Vec<ContainerStatus>, RuntimeError>;
    /// Everything of every pod, in brief and in order.
    async fn all(&self) -> Result<Vec<Brief>, RuntimeError>;
    /// The image of this name, if it is on the node.
    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError>;
    /// All images on the node.
    async fn images(&self) -> Result<Vec<Image>, RuntimeError>;
    /// Fetches an image; answers its id.
    async fn pull_image(&self, name: &str) -> Result<String, RuntimeError>;
    /// Removes what the runtime keeps on disk for a pod that is gone.
    async fn forget_pod(&self, pod: &PodId) -> Result<(), RuntimeError>;
    /// Removes the volumes of all pods but those of these uids: what an earlier kubelet left behind.
    async fn forget_others(&self, uids: &BTreeSet<String>) -> Result<(), RuntimeError>;
    /// Returns once something may have changed since `seen`, with the number to ask with next.
    async fn changed(&self, seen: u64) -> u64;
}

/// The full name of an image: registry, repository and tag or digest, as containerd writes it.
pub fn full_image_name(name: &str) -> String {
    let (path, digest) =
        name.split_once('@').map_or((name, None), |(path, digest)| (path, Some(digest)));
    let first = path.split('/').next().unwrap_or_default();
    let has_registry =
        path.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    let mut full = if has_registry {
        path.to_owned()
    } else if path.contains('/') {
        format!("docker.io/{path}")
    } else {
        format!("docker.io/library/{path}")
    };
    if let Some(digest) = digest {
        return format!("{full}@{digest}");
    }
    if !full.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        full.push_str(":latest");
    }
    full
}

/// Whether a text can name an image at all (the grammar of distribution/reference).
pub fn is_image_name(name: &str) -> bool {
    let (path, digest) =
        name.split_once('@').map_or((name, None), |(path, digest)| (path, Some(digest)));
    if let Some(digest) = digest {
        let Some((algorithm, hex)) = digest.split_once(':') else { return false };
        if algorithm.is_empty() || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return false;
        }
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    let last = parts.pop().unwrap_or_default();
    let (last, tag) = last.split_once(':').map_or((last, None), |(name, tag)| (name, Some(tag)));
    let is_tag = |tag: &str| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return false;
    }
    if let Some(first) = parts.first()
        && (first.contains(['.', ':']) || *first == "localhost")
    {
        let (host, port) = first.split_once(':').unwrap_or((first, "0"));
        let is_host = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
            && port.parse::<u16>().is_ok();
        if !is_host {
            return false;
        }
        parts.remove(0);
    }
    parts.push(last);
    parts.iter().all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            && !part.starts_with(['.', '_', '-'])
            && !part.ends_with(['.', '_', '-'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_become_full_as_in_containerd() {
        for (name, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.16", "docker.io/library/nginx:1.16"),
            ("kubetm/app:v1", "docker.io/kubetm/app:v1"),
            ("registry.k8s.io/pause:3.6", "registry.k8s.io/pause:3.6"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
        ] {
            assert_eq!(full_image_name(name), full);
        }
    }

    #[test]
    fn what_cannot_name_an_image_is_told_from_what_can() {
        for good in ["nginx", "kubetm/app:v1", "localhost:5000/a/b", "a.example/x-y_z:1.2.3"] {
            assert!(is_image_name(good), "{good}");
        }
        for bad in ["", "Nginx", "nginx:", "nginx:la test", "a//b", "dockerimage주소:태그", "x@y"]
        {
            assert!(!is_image_name(bad), "{bad}");
        }
    }
}
