//! What CRI leaves to the kubelet on disk, and our plain configurations in CRI's words.

use std::path::{Path, PathBuf};

use k8s_cri::v1 as cri;

use crate::runtime::{
    ContainerConfig, HostNamespaces, LinuxResources, Mount, PodId, RuntimeError, Sandbox,
    SandboxConfig, full_image_name,
};

/// One CPU for 100 ms.
const CPU_PERIOD: i64 = 100_000;

/// What containers must not see of the node, and what they must not change (upstream's defaults).
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where things are on this node.
pub(super) struct Places {
    pub(super) root_dir: PathBuf,
    pub(super) log_dir: PathBuf,
    pub(super) cgroup_root: String,
}

impl Places {
    fn pod_dir(&self, pod: &PodId) -> PathBuf {
        self.root_dir.join("pods").join(&pod.uid)
    }

    fn pod_logs(&self, pod: &PodId) -> PathBuf {
        self.log_dir.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    /// Where a container's standard output and error go.
    pub(super) fn log(&self, pod: &PodId, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(pod).join(log_path(container, attempt))
    }

    fn cgroup_parent(&self, qos: &str, uid: &str) -> String {
        match qos {
            "guaranteed" => format!("{}/pod{uid}", self.cgroup_root),
            qos => format!("{}/{qos}/pod{uid}", self.cgroup_root),
        }
    }

    pub(super) async fn prepare_pod(&self, pod: &PodId) -> Result<(), RuntimeError> {
        make_dir(&self.pod_dir(pod)).await?;
        make_dir(&self.pod_logs(pod)).await
    }

    pub(super) async fn prepare_container(
        &self,
        pod: &PodId,
        config: &ContainerConfig,
    ) -> Result<(), RuntimeError> {
        make_dir(&self.pod_logs(pod).join(&config.name)).await
    }

    /// The pod's `/etc/hosts`; `None` if it has the node's network and with it the node's file.
    pub(super) async fn write_hosts(
        &self,
        sandbox: &Sandbox,
        config: &SandboxConfig,
    ) -> Result<Option<PathBuf>, RuntimeError> {
        if config.host.network {
            return Ok(None);
        }
        let path = self.pod_dir(&sandbox.pod).join("etc-hosts");
        let written = tokio::fs::write(&path, hosts(&sandbox.ip, config)).await;
        written.map_err(|error| cannot("write", &path, &error))?;
        Ok(Some(path))
    }

    /// Removes logs, volumes and cgroups of a pod that is gone. What is not there is fine.
    pub(super) async fn forget_pod(&self, pod: &PodId) {
        let _ = tokio::fs::remove_dir_all(self.pod_logs(pod)).await;
        self.remove_pod_dir(&pod.uid);
        let Ok(mut controllers) = tokio::fs::read_dir("/sys/fs/cgroup").await else { return };
        while let Ok(Some(controller)) = controllers.next_entry().await {
            for qos in ["guaranteed", "burstable", "besteffort"] {
                let parent = self.cgroup_parent(qos, &pod.uid);
                let dir = controller.path().join(parent.trim_start_matches('/'));
                let _ = tokio::fs::remove_dir(dir).await;
            }
        }
    }
}

async fn make_dir(dir: &Path) -> Result<(), RuntimeError> {
    tokio::fs::create_dir_all(dir).await.map_err(|error| cannot("make", dir, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> RuntimeError {
    RuntimeError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

/// Below the folder of the pod's logs.
fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

fn hosts(ip: &str, config: &SandboxConfig) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n"
        .to_owned();
    text.push_str(&format!("{ip}\t{}\n", config.hostname));
    for (ip, names) in &config.host_aliases {
        text.push_str(&format!("{ip}\t{}\n", names.join("\t")));
    }
    text
}

pub(super) fn sandbox_config(places: &Places, config: &SandboxConfig) -> cri::PodSandboxConfig {
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(config.host)),
        run_as_user: config.security.user.map(number),
        run_as_group: config.security.group.map(number),
        supplemental_groups: config.security.groups.clone(),
        privileged: config.security.privileged,
        seccomp: Some(unconfined()),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: config.pod.name.clone(),
            uid: config.pod.uid.clone(),
            namespace: config.pod.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: if config.host.network { String::new() } else { config.hostname.clone() },
        log_directory: places.pod_logs(&config.pod).display().to_string(),
        dns_config: config.dns.clone().map(|dns| cri::DnsConfig {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        }),
        port_mappings: config.ports.iter().map(port_mapping).collect(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: places.cgroup_parent(&config.qos, &config.pod.uid),
            security_context: Some(security),
            sysctls: config.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        windows: None,
    }
}

pub(super) fn container_config(
    places: &Places,
    sandbox: &SandboxConfig,
    config: &ContainerConfig,
    hosts: Option<PathBuf>,
) -> Result<cri::ContainerConfig, RuntimeError> {
    let has_own_hosts = config.mounts.iter().any(|mount| mount.container_path == "/etc/hosts");
    let hosts = hosts.filter(|_| !has_own_hosts).map(|hosts| cri::Mount {
        container_path: "/etc/hosts".to_owned(),
        host_path: hosts.display().to_string(),
        ..Default::default()
    });
    let mounts = config.mounts.iter().map(|mount| {
        let path = places.shown(&sandbox.pod, &config.name, mount)?;
        Ok(mount_of(mount, &path))
    });
    let mounts: Vec<cri::Mount> = mounts.collect::<Result<_, RuntimeError>>()?;
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: config.name.clone(),
            attempt: config.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: full_image_name(&config.image),
            user_specified_image: config.image.clone(),
            ..Default::default()
        }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone(),
        envs: config
            .env
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: mounts.into_iter().chain(hosts).collect(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        log_path: log_path(&config.name, config.attempt),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(config.resources)),
            security_context: Some(security_context(config, sandbox.host)),
        }),
        ..Default::default()
    })
}

fn mount_of(mount: &Mount, host_path: &Path) -> cri::Mount {
    let propagation = match mount.propagation.as_str() {
        "Bidirectional" => cri::MountPropagation::PropagationBidirectional,
        "HostToContainer" => cri::MountPropagation::PropagationHostToContainer,
        _ => cri::MountPropagation::PropagationPrivate,
    };
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: host_path.display().to_string(),
        readonly: mount.readonly,
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn port_mapping(port: &crate::runtime::PortMapping) -> cri::PortMapping {
    let protocol = match port.protocol.as_str() {
        "UDP" => cri::Protocol::Udp,
        "SCTP" => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    };
    cri::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip.clone(),
    }
}

fn namespaces(host: HostNamespaces) -> cri::NamespaceOption {
    use cri::NamespaceMode::{Container, Node, Pod};
    let pick = |shared: bool, own: cri::NamespaceMode| if shared { Node } else { own };
    let pid = if host.shared_pid { Pod } else { Container };
    cri::NamespaceOption {
        network: pick(host.network, Pod).into(),
        pid: pick(host.pid, pid).into(),
        ipc: pick(host.ipc, Pod).into(),
        ..Default::default()
    }
}

fn resources(bounds: LinuxResources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: if bounds.cpu_quota > 0 { CPU_PERIOD } else { 0 },
        cpu_quota: bounds.cpu_quota,
        cpu_shares: bounds.cpu_shares,
        memory_limit_in_bytes: bounds.memory_limit,
        oom_score_adj: bounds.oom_score_adj,
        ..Default::default()
    }
}

fn security_context(
    config: &ContainerConfig,
    host: HostNamespaces,
) -> cri::LinuxContainerSecurityContext {
    let security = &config.security;
    let mut namespaces = namespaces(host);
    // Where processes are shared with more than one container, the target's are among them already.
    if let Some(target) = &config.processes_of
        && namespaces.pid() == cri::NamespaceMode::Container
    {
        namespaces.set_pid(cri::NamespaceMode::Target);
        namespaces.target_id.clone_from(target);
    }
    let paths = |list: &[&str]| -> Vec<String> {
        if security.privileged {
            return Vec::new();
        }
        list.iter().map(|path| (*path).to_owned()).collect()
    };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces),
        run_as_user: security.user.map(number),
        run_as_group: security.group.map(number),
        readonly_rootfs: security.readonly_root,
        supplemental_groups: security.groups.clone(),
        no_new_privs: security.no_new_privileges,
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(unconfined()),
        ..Default::default()
    }
}

fn unconfined() -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::Unconfined.into(),
        ..Default::default()
    }
}

fn number(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let config = SandboxConfig {
            hostname: "web".to_owned(),
            host_aliases: vec![("10.1.2.3".to_owned(), vec!["a".to_owned(), "b".to_owned()])],
            ..SandboxConfig::default()
        };
        let text = hosts("10.244.1.2", &config);
        assert!(text.ends_with("10.244.1.2\tweb\n10.1.2.3\ta\tb\n"), "{text}");
    }

    #[test]
    fn a_debugger_sees_its_target_unless_it_sees_all() {
        let told = |target: Option<&str>, host: HostNamespaces| {
            let config = ContainerConfig {
                processes_of: target.map(str::to_owned),
                ..ContainerConfig::default()
            };
            let options = security_context(&config, host).namespace_options.unwrap();
            (options.pid(), options.target_id)
        };
        let own = HostNamespaces::default();
        assert_eq!(told(None, own), (cri::NamespaceMode::Container, String::new()));
        assert_eq!(told(Some("c1"), own), (cri::NamespaceMode::Target, "c1".to_owned()));
        for (host, mode) in [
            (HostNamespaces { pid: true, ..own }, cri::NamespaceMode::Node),
            (HostNamespaces { shared_pid: true, ..own }, cri::NamespaceMode::Pod),
        ] {
            assert_eq!(told(Some("c1"), host), (mode, String::new()));
        }
    }

    #[test]
    fn cgroups_are_named_by_the_quality_of_service() {
        let places = Places {
            root_dir: PathBuf::new(),
            log_dir: PathBuf::new(),
            cgroup_root: "/kubepods".to_owned(),
        };
        assert_eq!(places.cgroup_parent("guaranteed", "u"), "/kubepods/podu");
        assert_eq!(places.cgroup_parent("besteffort", "u"), "/kubepods/besteffort/podu");
    }
}
