//! What a node mounts at `/etc/orchestrator`: the supervisor's list, keys, kubeconfigs, containerd's settings.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use shakedown_core::lever::Component;
use shakedown_core::target::{ClusterSpec, NodeFact, Parameters, Role, TargetError, ZONE_LABEL};

use crate::docker::failed;
use crate::pki::{Authority, Pair, service_account_key};
use crate::record::{ClusterDir, write_secret};

/// Where a node finds its files.
pub const NODE_DIR: &str = "/etc/orchestrator";
/// Where a node finds the orchestrator.
pub const ORCHESTRATOR: &str = "/usr/local/bin/orchestrator";
/// Where a node finds the agent.
pub const AGENT: &str = "/usr/local/bin/shakedown-agent";
/// Where a node finds the images of the workloads.
pub const IMAGES: &str = "/opt/images/images.tar";
/// Who is named as the maker of service accounts' tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where an API server writes its audit log.
pub const AUDIT_LOG: &str = "/var/log/audit.log";
/// The addresses of all pods.
const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// A component's log is moved aside when it is longer.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// The socket of containerd.
const RUNTIME: &str = "/run/containerd/containerd.sock";
/// As whom API servers ask kubelets.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// Left by the supervisor when the images have been loaded.
const IMAGES_LOADED: &str = "/run/orchestrator/done/images";

/// Everything that the files of a cluster are made from.
pub struct Files<'a> {
    /// Where they go.
    pub dir: &'a ClusterDir,
    /// The cluster's name.
    pub cluster: &'a str,
    /// What was asked for.
    pub spec: &'a ClusterSpec,
    /// The nodes with their addresses.
    pub nodes: &'a [NodeFact],
}

impl Files<'_> {
    /// Writes the files of all nodes, and those for use from outside.
    pub fn write(&self) -> Result<(), TargetError> {
        if !(self.spec.parameters.heartbeat * 4).as_millis().is_multiple_of(1000) {
            let why = "a kubelet renews its Lease four times in a whole number of seconds";
            let hint = "choose a `heartbeat` of whole quarters of a second, such as 2s or 2500ms";
            return Err(failed("configuring the cluster", why, hint));
        }
        let authority = Authority::new()?;
        let tokens = service_account_key()?;
        self.write_outside(&authority)?;
        for node in self.nodes {
            let dir = self.dir.node(&node.name);
            ClusterDir::make(&dir.join("pki"))?;
            let written = match node.role {
                Role::ControlPlane => self.write_control_plane(node, &dir, &authority, &tokens),
                Role::Worker => self.write_worker(node, &dir, &authority),
            };
            written?;
        }
        Ok(())
    }

    fn control_planes(&self) -> impl Iterator<Item = &NodeFact> {
        self.nodes.iter().filter(|node| node.role == Role::ControlPlane)
    }

    fn write_outside(&self, authority: &Authority) -> Result<(), TargetError> {
        let pki = self.dir.pki();
        ClusterDir::make(&pki)?;
        let admin = authority.client("kubernetes-admin", "system:masters")?;
        let etcd = authority.client("shakedown", "")?;
        let kubeconfig = self.kubeconfig(authority, &admin, "");
        wrote(
            std::fs::write(pki.join("ca.crt"), &authority.certificate)
                .and_then(|()| admin.write(&pki, "admin"))
                .and_then(|()| etcd.write(&pki, "etcd-client"))
                .and_then(|()| write_secret(&self.dir.kubeconfig(), &pretty(&kubeconfig))),
        )
    }

    /// A kubeconfig with every API server, the one of the node `first` first.
    fn kubeconfig(&self, authority: &Authority, user: &Pair, first: &str) -> Value {
        let encode = |pem: &str| BASE64_STANDARD.encode(pem);
        let mut servers: Vec<&NodeFact> = self.control_planes().collect();
        servers.sort_by_key(|node| node.name != first);
        let name = |node: &NodeFact| format!("{}-{}", self.cluster, node.name);
        let cluster = |node: &&NodeFact| {
            let server = format!("https://{}:6443", node.address);
            let authority = encode(&authority.certificate);
            let cluster = json!({"server": server, "certificate-authority-data": authority});
            json!({"name": name(node), "cluster": cluster})
        };
        let context = |node: &&NodeFact| json!({"name": name(node), "context": {"cluster": name(node), "user": "user"}});
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": servers.iter().map(cluster).collect::<Vec<_>>(),
            "contexts": servers.iter().map(context).collect::<Vec<_>>(),
            "current-context": servers.first().map(|node| name(node)),
            "users": [{"name": "user", "user": {
                "client-certificate-data": encode(&user.certificate),
                "client-key-data": encode(&user.key),
            }}],
        })
    }

    fn write_control_plane(
        &self,
        node: &NodeFact,
        dir: &Path,
        authority: &Authority,
        tokens: &Pair,
    ) -> Result<(), TargetError> {
        let address = parse(&node.address)?;
        let pki = dir.join("pki");
        let pairs = [
            ("etcd", authority.etcd(&node.name, IpAddr::V4(address))?),
            ("apiserver", authority.apiserver(&node.name, IpAddr::V4(address))?),
            ("apiserver-etcd-client", authority.client("system:apiserver", "")?),
            ("apiserver-kubelet-client", authority.client(KUBELET_CLIENT, "")?),
            ("service-account", tokens.clone()),
            ("ca", authority.pair()),
        ];
        for (name, pair) in &pairs {
            wrote(pair.write(&pki, name))?;
        }
        for user in ["kube-controller-manager", "kube-scheduler"] {
            let pair = authority.client(&format!("system:{user}"), "")?;
            let kubeconfig = self.kubeconfig(authority, &pair, &node.name);
            let path = dir.join(format!("{user}.kubeconfig"));
            wrote(write_secret(&path, &pretty(&kubeconfig)))?;
        }
        wrote(std::fs::write(pki.join("ca.crt"), &authority.certificate))?;
        let processes = json!([
            {"name": Component::Etcd, "command": self.etcd(node)},
            {"name": Component::KubeApiserver, "command": self.apiserver(node)},
            {"name": Component::KubeControllerManager, "command": self.controller_manager(node)},
            {"name": Component::KubeScheduler, "command": self.scheduler(node)},
        ]);
        self.write_list(dir, address, &processes)
    }

    fn write_worker(
        &self,
        node: &NodeFact,
        dir: &Path,
        authority: &Authority,
    ) -> Result<(), TargetError> {
        let user = authority.client(&format!("system:node:{}", node.name), "system:nodes")?;
        let kubeconfig = self.kubeconfig(authority, &user, "");
        wrote(write_secret(&dir.join("kubelet.kubeconfig"), &pretty(&kubeconfig)))?;
        wrote(std::fs::write(dir.join("pki/ca.crt"), &authority.certificate))?;
        let address = IpAddr::V4(parse(&node.address)?);
        wrote(authority.kubelet(&node.name, address)?.write(&dir.join("pki"), "kubelet"))?;
        wrote(std::fs::write(dir.join("containerd.toml"), CONTAINERD))?;
        let load = ["/usr/bin/ctr", "--namespace", "k8s.io", "images", "import", IMAGES];
        let processes = json!([
            {
                "name": Component::Containerd,
                "command": ["/usr/bin/containerd", "--config", format!("{NODE_DIR}/containerd.toml")],
            },
            {"name": "images", "command": load, "after": RUNTIME, "once": true},
            {"name": Component::Kubelet, "command": self.kubelet(node), "after": IMAGES_LOADED},
        ]);
        self.write_list(dir, parse(&node.address)?, &processes)
    }

    fn write_list(
        &self,
        dir: &Path,
        address: Ipv4Addr,
        processes: &Value,
    ) -> Result<(), TargetError> {
        let list = json!({
            "address": address,
            "sysctls": {"net.ipv4.ip_forward": "1"},
            "logBytesMax": LOG_BYTES_MAX,
            "processes": processes,
        });
        wrote(std::fs::write(dir.join("node.json"), pretty(&list)))
    }

    fn etcd(&self, node: &NodeFact) -> Vec<String> {
        let peer = |node: &NodeFact| format!("https://{}:2380", node.address);
        let client = format!("https://{}:2379", node.address);
        let members: Vec<String> =
            self.control_planes().map(|node| format!("{}={}", node.name, peer(node))).collect();
        let pki = |file: &str| format!("{NODE_DIR}/pki/{file}");
        let election_ms = self.spec.parameters.election.as_millis();
        let flags = [
            ("name", node.name.clone()),
            ("data-dir", "/var/lib/etcd/data".to_owned()),
            ("listen-peer-urls", peer(node)),
            ("initial-advertise-peer-urls", peer(node)),
            ("listen-client-urls", format!("{client},https://127.0.0.1:2379")),
            ("advertise-client-urls", client),
            ("initial-cluster", members.join(",")),
            ("initial-cluster-token", self.cluster.to_owned()),
            ("initial-cluster-state", "new".to_owned()),
            ("election-timeout", election_ms.to_string()),
            // A tenth, as etcd's documentation advises.
            ("heartbeat-interval", (election_ms / 10).max(1).to_string()),
            ("trusted-ca-file", pki("ca.crt")),
            ("cert-file", pki("etcd.crt")),
            ("key-file", pki("etcd.key")),
            ("client-cert-auth", "true".to_owned()),
            ("peer-trusted-ca-file", pki("ca.crt")),
            ("peer-cert-file", pki("etcd.crt")),
            ("peer-key-file", pki("etcd.key")),
            ("peer-client-cert-auth", "true".to_owned()),
            ("logger", "zap".to_owned()),
            ("log-outputs", "stderr".to_owned()),
        ];
        // With `=`, or etcd takes the value of a boolean flag for an argument.
        let flags = flags.map(|(flag, value)| format!("--{flag}={value}"));
        std::iter::once("/usr/bin/etcd".to_owned()).chain(flags).collect()
    }

    fn apiserver(&self, node: &NodeFact) -> Vec<String> {
        let pki = |file: &str| format!("{NODE_DIR}/pki/{file}");
        let toleration = self.spec.parameters.toleration.as_secs().to_string();
        self.component(
            "apiserver",
            &[
                ("node", node.name.clone()),
                ("bind-address", "0.0.0.0".to_owned()),
                ("secure-port", "6443".to_owned()),
                ("etcd-servers", "https://127.0.0.1:2379".to_owned()),
                ("etcd-cafile", pki("ca.crt")),
                ("etcd-certfile", pki("apiserver-etcd-client.crt")),
                ("etcd-keyfile", pki("apiserver-etcd-client.key")),
                ("client-ca-file", pki("ca.crt")),
                ("tls-cert-file", pki("apiserver.crt")),
                ("tls-private-key-file", pki("apiserver.key")),
                ("service-account-signing-key-file", pki("service-account.key")),
                ("service-account-key-file", pki("service-account.crt")),
                ("service-account-issuer", ISSUER.to_owned()),
                ("kubelet-client-certificate", pki("apiserver-kubelet-client.crt")),
                ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
                ("kubelet-certificate-authority", pki("ca.crt")),
                ("audit-log-path", AUDIT_LOG.to_owned()),
                ("default-not-ready-toleration-seconds", toleration.clone()),
                ("default-unreachable-toleration-seconds", toleration),
            ],
        )
    }

    fn election(&self, name: &str, node: &NodeFact, port: &str) -> Vec<(&'static str, String)> {
        let Parameters { lease, renew, retry, .. } = self.spec.parameters;
        vec![
            ("kubeconfig", format!("{NODE_DIR}/{name}.kubeconfig")),
            ("node", node.name.clone()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_owned()),
            ("leader-elect-lease-duration", duration(lease)),
            ("leader-elect-renew-deadline", duration(renew)),
            ("leader-elect-retry-period", duration(retry)),
        ]
    }

    fn controller_manager(&self, node: &NodeFact) -> Vec<String> {
        let mut flags = self.election("kube-controller-manager", node, "10257");
        let Parameters { monitor, grace, .. } = self.spec.parameters;
        flags.push(("node-monitor-period", duration(monitor)));
        flags.push(("node-monitor-grace-period", duration(grace)));
        flags.push(("cluster-cidr", CLUSTER_CIDR.to_owned()));
        let pki = |file: &str| format!("{NODE_DIR}/pki/{file}");
        flags.push(("cluster-signing-cert-file", pki("ca.crt")));
        flags.push(("cluster-signing-key-file", pki("ca.key")));
        flags.push(("service-account-private-key-file", pki("service-account.key")));
        flags.push(("root-ca-file", pki("ca.crt")));
        self.component("controller-manager", &flags)
    }

    fn scheduler(&self, node: &NodeFact) -> Vec<String> {
        self.component("scheduler", &self.election("kube-scheduler", node, "10259"))
    }

    fn kubelet(&self, node: &NodeFact) -> Vec<String> {
        let mut flags = vec![
            ("kubeconfig", format!("{NODE_DIR}/kubelet.kubeconfig")),
            ("hostname-override", node.name.clone()),
            ("node-ip", node.address.clone()),
            ("container-runtime-endpoint", format!("unix://{RUNTIME}")),
            ("healthz-port", "10248".to_owned()),
            ("tls-cert-file", format!("{NODE_DIR}/pki/kubelet.crt")),
            ("tls-private-key-file", format!("{NODE_DIR}/pki/kubelet.key")),
            ("client-ca-file", format!("{NODE_DIR}/pki/ca.crt")),
        ];
        let mut workers = self.nodes.iter().filter(|other| other.role == Role::Worker);
        let place = workers.position(|other| other.name == node.name);
        let heartbeat = self.spec.parameters.heartbeat;
        if heartbeat != Parameters::default().heartbeat {
            let seconds = (heartbeat * 4).as_secs();
            flags.push(("node-lease-duration-seconds", seconds.to_string()));
        }
        if let Some(zone) = place.and_then(|place| self.spec.zone_of(place)) {
            flags.push(("node-labels", format!("{ZONE_LABEL}={zone}")));
        }
        self.component("kubelet", &flags)
    }

    /// A subcommand of the orchestrator with its flags and the planted defects of the run.
    fn component(&self, name: &str, flags: &[(&str, String)]) -> Vec<String> {
        let mut command = vec![ORCHESTRATOR.to_owned(), name.to_owned()];
        for (flag, value) in flags {
            command.extend([format!("--{flag}"), value.clone()]);
        }
        for sabotage in &self.spec.sabotages_of_orchestrator() {
            command.extend(["--sabotage".to_owned(), sabotage.clone()]);
        }
        command
    }
}

fn wrote(outcome: std::io::Result<()>) -> Result<(), TargetError> {
    outcome.map_err(|error| failed("writing the files of the nodes", error, "is the disk full?"))
}

fn parse(address: &str) -> Result<Ipv4Addr, TargetError> {
    address.parse().map_err(|error| failed(format!("reading the address `{address}`"), error, ""))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// As Kubernetes' flags write durations.
fn duration(time: std::time::Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// Settings of containerd: images of ours only, no need for rights that a node does not have.
const CONTAINERD: &str = r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.6"
  disable_apparmor = true
  # Lowering a score needs CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    # The kubelet writes the configuration there once it knows the node's pod CIDR.
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, role: Role, address: &str) -> NodeFact {
        NodeFact { name: name.to_owned(), role, address: address.to_owned() }
    }

    fn spec() -> ClusterSpec {
        ClusterSpec {
            control_planes: 2,
            workers: 1,
            zones: 1,
            parameters: Parameters::default(),
            sabotages: vec!["double-bind".to_owned()],
        }
    }

    fn nodes() -> [NodeFact; 3] {
        [
            node("cp-1", Role::ControlPlane, "10.201.0.11"),
            node("cp-2", Role::ControlPlane, "10.201.0.12"),
            node("worker-1", Role::Worker, "10.201.0.21"),
        ]
    }

    #[test]
    fn every_node_has_its_list_and_its_own_server_first() {
        let state = tempfile::tempdir().unwrap();
        let dir = ClusterDir::new(state.path(), "c");
        let (spec, nodes) = (spec(), nodes());
        Files { dir: &dir, cluster: "c", spec: &spec, nodes: &nodes }.write().unwrap();
        let read = |path: &str| -> Value {
            let text = std::fs::read(dir.path().join(path)).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let names = |list: &Value| -> Vec<String> {
            let processes = list["processes"].as_array().unwrap();
            processes.iter().map(|each| each["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            names(&read("nodes/cp-1/node.json")),
            ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        );
        assert_eq!(names(&read("nodes/worker-1/node.json")), ["containerd", "images", "kubelet"]);
        let own = read("nodes/cp-2/kube-scheduler.kubeconfig");
        assert_eq!(own["clusters"][0]["cluster"]["server"], "https://10.201.0.12:6443");
        assert_eq!(own["clusters"][1]["cluster"]["server"], "https://10.201.0.11:6443");
        let list = read("nodes/cp-1/node.json").to_string();
        assert!(list.contains("--sabotage") && list.contains("double-bind"), "{list}");
    }

    #[test]
    fn the_commands_are_those_that_the_orchestrator_takes() {
        let state = tempfile::tempdir().unwrap();
        let dir = ClusterDir::new(state.path(), "c");
        let spec = ClusterSpec { sabotages: Vec::new(), ..spec() };
        let nodes = nodes();
        let files = Files { dir: &dir, cluster: "c", spec: &spec, nodes: &nodes };
        insta::assert_snapshot!(files.controller_manager(&nodes[0]).join(" "), @"/usr/local/bin/orchestrator controller-manager --kubeconfig /etc/orchestrator/kube-controller-manager.kubeconfig --node cp-1 --bind-address 127.0.0.1 --secure-port 10257 --leader-elect-lease-duration 15000ms --leader-elect-renew-deadline 10000ms --leader-elect-retry-period 2000ms --node-monitor-period 5000ms --node-monitor-grace-period 40000ms --cluster-cidr 10.244.0.0/16 --cluster-signing-cert-file /etc/orchestrator/pki/ca.crt --cluster-signing-key-file /etc/orchestrator/pki/ca.key --service-account-private-key-file /etc/orchestrator/pki/service-account.key --root-ca-file /etc/orchestrator/pki/ca.crt");
        insta::assert_snapshot!(files.kubelet(&nodes[2]).join(" "), @"/usr/local/bin/orchestrator kubelet --kubeconfig /etc/orchestrator/kubelet.kubeconfig --hostname-override worker-1 --node-ip 10.201.0.21 --container-runtime-endpoint unix:///run/containerd/containerd.sock --healthz-port 10248 --tls-cert-file /etc/orchestrator/pki/kubelet.crt --tls-private-key-file /etc/orchestrator/pki/kubelet.key --client-ca-file /etc/orchestrator/pki/ca.crt");
        let zoned = ClusterSpec { zones: 3, ..spec.clone() };
        let files = Files { spec: &zoned, ..files };
        let kubelet = files.kubelet(&nodes[2]).join(" ");
        assert!(kubelet.ends_with("--node-labels topology.kubernetes.io/zone=zone-1"), "{kubelet}");
        let etcd = files.etcd(&nodes[1]).join(" ");
        assert!(
            etcd.contains(
                "--initial-cluster=cp-1=https://10.201.0.11:2380,cp-2=https://10.201.0.12:2380"
            ),
            "{etcd}"
        );
    }

    #[test]
    fn a_heartbeat_that_cannot_be_set_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let dir = ClusterDir::new(state.path(), "c");
        let mut spec = spec();
        spec.parameters.heartbeat = std::time::Duration::from_millis(1100);
        let nodes = nodes();
        let files = Files { dir: &dir, cluster: "c", spec: &spec, nodes: &nodes };
        assert!(files.write().unwrap_err().to_string().contains("whole number of seconds"));
        spec.parameters.heartbeat = std::time::Duration::from_millis(2500);
        let files = Files { dir: &dir, cluster: "c", spec: &spec, nodes: &nodes };
        let kubelet = files.kubelet(&nodes[2]).join(" ");
        assert!(kubelet.contains("--node-lease-duration-seconds 10 "), "{kubelet}");
    }
}
