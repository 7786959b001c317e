//! `orchestrator kubelet`: the pods of one node on a CRI runtime.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kubelet::network::BridgeNetwork;
use kubelet::runtimes::cri::{CriConfig, CriRuntime, ImageSource};

use crate::process::Common;
use crate::{health, kubeconfig};

/// What it writes is owned under this name.
const AGENT: &str = "kubelet";

/// The flags, with upstream's names.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of this node, also of its Node object.
    #[arg(long)]
    hostname_override: String,
    /// How to reach the API servers, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// This node's address.
    #[arg(long)]
    node_ip: IpAddr,
    /// The socket of the container runtime.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
    /// The port of /healthz on the loopback address.
    #[arg(long, default_value_t = 10248)]
    healthz_port: u16,
    /// Where the pod network's configuration is written.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where the network's plugins are. Repeatable.
    #[arg(long, default_values = ["/opt/cni/bin", "/usr/lib/cni"])]
    cni_bin_dir: Vec<PathBuf>,
    /// The range of all pods' addresses.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: String,
    /// Labels to keep on this node, such as `topology.kubernetes.io/zone=zone-1`. Repeatable.
    #[arg(long, value_parser = label, value_delimiter = ',', value_name = "KEY=VALUE")]
    node_labels: Vec<(String, String)>,
    /// How long this node's Lease is good for, as `nodeLeaseDurationSeconds`; it is renewed four times
    /// in that time.
    #[arg(long, default_value_t = 40, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..))]
    node_lease_duration_seconds: u32,
    /// Pull images from their registries; otherwise they must have been imported.
    #[arg(long)]
    registry: bool,
    /// A planted defect, for testing the tester. Repeatable.
    #[arg(long = "sabotage", value_name = "NAME", hide = true)]
    sabotages: Vec<env::Sabotage>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no label: write KEY=VALUE")),
    }
}

/// Runs until the process is asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let common = Common { node: args.hostname_override.clone(), sabotages: args.sabotages };
    let env = common.env();
    let client = kubeconfig::client(&args.kubeconfig).await?.named(AGENT);
    let socket = args.container_runtime_endpoint.trim_start_matches("unix://");
    let mut cri = CriConfig::new(socket);
    cri.images = if args.registry { ImageSource::Registry } else { ImageSource::Imported };
    let runtime = CriRuntime::new(env.clone(), cri);
    let mut config = kubelet::Config::new(
        &args.hostname_override,
        &args.node_ip.to_string(),
        kubelet::MachineFacts::read(),
    );
    config.network = Some(Arc::new(BridgeNetwork {
        conf_dir: args.cni_conf_dir,
        plugin_dirs: args.cni_bin_dir,
        cluster_cidr: args.cluster_cidr,
    }));
    config.node_labels = args.node_labels.into_iter().collect();
    config.heartbeat = Duration::from_secs(args.node_lease_duration_seconds.into()) / 4;
    let health = config.health.clone();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.healthz_port));
    let _health = health::serve(&env, address, Arc::new(move || health.is_healthy())).await?;
    kubelet::run(env, client, Arc::new(runtime), config).await;
    anyhow::bail!("the kubelet ended by itself")
}
