//! `orchestrator kubelet`: the pods of one node on a CRI runtime.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kubelet::network::BridgeNetwork;
use kubelet::runtimes::cri::{CriConfig, CriRuntime, ImageSource};
use kubelet::server::{AuthorizationMode, KubeletServer, ServerConfig};

use crate::process::Common;
use crate::{health, kubeconfig, serving};

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
    /// The address that the kubelet's server listens on.
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::UNSPECIFIED))]
    address: IpAddr,
    /// The port of the kubelet's server.
    #[arg(long, default_value_t = kubelet::server::PORT)]
    port: u16,
    /// A port without any check of who asks. There is none: only 0 is taken.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=0))]
    read_only_port: u16,
    /// The certificate to show to clients; without one there is no server.
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// The authority that vouches for clients.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Whether who shows neither certificate nor token is somebody: system:anonymous.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    anonymous_auth: bool,
    /// Who decides whether a request is allowed: AlwaysAllow, or the API server (Webhook).
    #[arg(long, default_value = "Webhook")]
    authorization_mode: AuthorizationMode,
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
    let runtime = Arc::new(CriRuntime::new(env.clone(), cri));
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
    config.port = args.port;
    let server = ServerConfig {
        node_name: args.hostname_override.clone(),
        allows_anonymous: args.anonymous_auth,
        authorization: args.authorization_mode,
        health: config.health.clone(),
        pods: config.pods.clone(),
    };
    let server = KubeletServer::new(env.clone(), client.clone(), runtime.clone(), server);
    let _server = match (&args.tls_cert_file, &args.tls_private_key_file) {
        (Some(certificate), Some(key)) => {
            let tls = serving::tls(args.client_ca_file.as_deref(), certificate, key)?;
            let address = SocketAddr::from((args.address, args.port));
            let listener = tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("failed to listen on {address}"))?;
            Some(env.spawn(async move {
                if let Err(error) = kubelet::server::serve(server, tls, listener).await {
                    tracing::error!(%error, "the kubelet's server ended");
                }
            }))
        }
        _ => {
            tracing::warn!("no --tls-cert-file: no logs, exec or port-forward from this node");
            None
        }
    };
    kubelet::run(env, client, runtime, config).await;
    anyhow::bail!("the kubelet ended by itself")
}
