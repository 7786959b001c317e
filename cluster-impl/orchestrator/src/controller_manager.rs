//! `orchestrator controller-manager`: stands for election and works while it leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::elected::Elected;
use crate::process::duration;
use crate::{health, kubeconfig};

/// What it writes is owned under this name.
const AGENT: &str = "kube-controller-manager";

/// The flags, with upstream's names and defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    elected: Elected,
    /// How often the health of nodes is looked at.
    #[arg(long, default_value = "5s", value_parser = duration)]
    node_monitor_period: Duration,
    /// How long a node may be silent before it is Unknown.
    #[arg(long, default_value = "40s", value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// Where the pod address ranges of nodes come from.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: String,
    /// The port of /healthz (plain HTTP).
    #[arg(long, default_value_t = 10257)]
    secure_port: u16,
}

/// Runs until leadership is lost; the process then ends, and its supervisor starts it anew.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = args.elected.common.env();
    let client = kubeconfig::client(&args.elected.kubeconfig).await?.named(AGENT);
    let elector = args.elected.elector("kube-controller-manager", &env);
    let mut config = controllers::Config::new(&elector.identity);
    config.elector = elector;
    config.node_monitor_period = args.node_monitor_period;
    config.node_monitor_grace_period = args.node_monitor_grace_period;
    config.cluster_cidr = args.cluster_cidr;
    let address = SocketAddr::from((args.elected.bind_address, args.secure_port));
    let _health = health::serve(&env, address, Arc::new(|| true)).await?;
    controllers::run(env, client, config).await;
    anyhow::bail!("lost the lease kube-controller-manager")
}
