//! `orchestrator kubelet`: the pods of one node on a CRI runtime.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::process::Common;
use crate::{health, kubeconfig};

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
    /// A planted defect, for testing the tester. Repeatable.
    #[arg(long = "sabotage", value_name = "NAME", hide = true)]
    sabotages: Vec<env::Sabotage>,
}

/// Runs until the process is asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let common = Common { node: args.hostname_override.clone(), sabotages: args.sabotages };
    let env = common.env();
    let client = kubeconfig::client(&args.kubeconfig).await?;
    let runtime = kubelet::CriRuntime::connect(&args.container_runtime_endpoint, env.clone())?;
    let config = kubelet::Config::new(&args.hostname_override, args.node_ip);
    let health = config.health.clone();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.healthz_port));
    let _health =
        health::serve(&env, address, Arc::new(move || health.is_healthy())).await?;
    kubelet::run(env, client, Arc::new(runtime), config).await;
    anyhow::bail!("the kubelet ended by itself")
}
