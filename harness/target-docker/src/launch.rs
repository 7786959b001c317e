//! Launches node containers through testcontainers, with an explicit list of capabilities.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::models::{HostConfig, HostConfigCgroupnsModeEnum, VolumeCreateRequest};
use shakedown_core::target::{Role, TargetError};
use testcontainers::core::{AccessMode, Mount};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

use crate::docker::failed;
use crate::labels;
use crate::network::fix_address;
use crate::node_files::{AGENT, IMAGES, NODE_DIR, ORCHESTRATOR};
use crate::record::ClusterDir;

/// What containerd, runc, CNI and the pods need. Not SYS_RESOURCE, SYS_TIME, SYS_MODULE or SYS_BOOT:
/// a node can neither raise limits, nor set the clock of the machine, nor load anything into its kernel.
pub const CAPABILITIES: &[&str] = &[
    // What Docker gives every container: pods are given these, or fewer.
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    // Links, addresses, nftables of the node's own network namespace.
    "NET_ADMIN",
    // Mounts, namespaces and cgroups of the node's containers.
    "SYS_ADMIN",
    // runc and the agent look into processes of the node.
    "SYS_PTRACE",
];

/// A node to launch.
pub(crate) struct Launch<'a> {
    pub docker: &'a Docker,
    pub dir: &'a ClusterDir,
    pub labels: &'a BTreeMap<String, String>,
    pub network: &'a str,
    pub image_tag: &'a str,
    pub container: String,
    pub node: String,
    pub role: Role,
    pub address: Ipv4Addr,
}

impl Launch<'_> {
    /// Makes the node's volumes, starts its container and gives it its address.
    pub async fn run(&self) -> Result<(), TargetError> {
        let what = || format!("launching {}", self.node);
        let mut labels = self.labels.clone();
        labels.insert(labels::NODE.to_owned(), self.node.clone());
        let mut mounts = self.mounts();
        let paths: &[&str] = match self.role {
            Role::ControlPlane => &["/var/lib/etcd"],
            Role::Worker => &["/var/lib/containerd", "/var/lib/kubelet"],
        };
        for path in paths {
            let name = format!("{}{}", self.container, path.replace('/', "-"));
            let request = VolumeCreateRequest {
                name: Some(name.clone()),
                labels: Some(labels.clone().into_iter().collect()),
                ..Default::default()
            };
            let made = self.docker.create_volume(request).await;
            made.map_err(|error| failed(what(), error, "is Docker's disk full?"))?;
            mounts.push(Mount::volume_mount(name, *path));
        }
        let image = GenericImage::new(crate::image::REPOSITORY, self.image_tag)
            .with_entrypoint(ORCHESTRATOR);
        let network = self.network.to_owned();
        let mut request = image
            .with_container_name(&self.container)
            .with_hostname(&self.node)
            .with_labels(labels)
            .with_cmd(["supervise", "--config", &format!("{NODE_DIR}/node.json")])
            .with_host_config_modifier(move |config| restrict(config, &network));
        for mount in mounts {
            request = request.with_mount(mount);
        }
        let container = request.start().await.map_err(|error| {
            failed(what(), error, "see `shakedown doctor`; `shakedown clean` removes leftovers")
        })?;
        // Dropped, it would remove the container. Ours are removed by label: by `down`, by the reaper
        // when this process is killed, or by the next sweep; and `up` keeps them.
        std::mem::forget(container);
        fix_address(self.docker, self.network, &self.container, self.address).await
    }

    fn mounts(&self) -> Vec<Mount> {
        let mount = |host: PathBuf, node: &str| {
            Mount::bind_mount(path_text(&host), node).with_access_mode(AccessMode::ReadOnly)
        };
        let bin = self.dir.bin();
        let mut mounts = vec![
            mount(self.dir.node(&self.node), NODE_DIR),
            mount(bin.join("orchestrator"), ORCHESTRATOR),
            mount(bin.join("shakedown-agent"), AGENT),
        ];
        if self.role == Role::Worker {
            mounts.push(mount(bin.join("images.tar"), IMAGES));
        }
        mounts
    }
}

fn path_text(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).to_string_lossy().into_owned()
}

/// Least privilege: the listed capabilities instead of `privileged`. The default seccomp and AppArmor
/// profiles forbid mounts, which a container runtime makes; `/proc` must be writable for sysctls of
/// the node's network namespace, and unmasked, or a nested `/proc` cannot be mounted.
pub(crate) fn restrict(config: &mut HostConfig, network: &str) {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    config.privileged = Some(false);
    config.cap_drop = words(&["ALL"]);
    config.cap_add = words(CAPABILITIES);
    config.security_opt = words(&["seccomp=unconfined", "apparmor=unconfined"]);
    config.masked_paths = Some(Vec::new());
    config.readonly_paths = Some(Vec::new());
    // The node's cgroups begin at its own root, as on a machine of its own.
    config.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
    config.network_mode = Some(network.to_owned());
    config.publish_all_ports = Some(false);
    let tmpfs = [("/run", "exec,nosuid,nodev,mode=755"), ("/tmp", "exec,nosuid,nodev,mode=1777")];
    config.tmpfs = Some(tmpfs.map(|(path, how)| (path.to_owned(), how.to_owned())).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_never_privileged_and_never_get_what_reaches_beyond_them() {
        let mut config = HostConfig { privileged: Some(true), ..Default::default() };
        restrict(&mut config, "net");
        assert_eq!(config.privileged, Some(false));
        assert_eq!(config.cap_drop.unwrap(), ["ALL"]);
        let added = config.cap_add.unwrap();
        for beyond in ["SYS_RESOURCE", "SYS_TIME", "SYS_MODULE", "SYS_BOOT", "SYS_RAWIO", "ALL"] {
            assert!(!added.iter().any(|word| word == beyond), "{beyond}");
        }
        assert!(CAPABILITIES[..14].is_sorted());
    }
}
