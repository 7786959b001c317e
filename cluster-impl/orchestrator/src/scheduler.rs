//! `orchestrator scheduler`: stands for election and works while it leads.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::elected::Elected;
use crate::{health, kubeconfig};

/// What it writes is owned under this name.
const AGENT: &str = "kube-scheduler";

/// The flags, with upstream's names and defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    elected: Elected,
    /// The port of /healthz (plain HTTP).
    #[arg(long, default_value_t = 10259)]
    secure_port: u16,
}

/// Runs until leadership is lost; the process then ends, and its supervisor starts it anew.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = args.elected.common.env();
    let client = kubeconfig::client(&args.elected.kubeconfig).await?.named(AGENT);
    let elector = args.elected.elector("kube-scheduler", &env);
    let mut config = scheduler::Config::new(&elector.identity);
    config.elector = elector;
    let address = SocketAddr::from((args.elected.bind_address, args.secure_port));
    let _health = health::serve(&env, address, Arc::new(|| true)).await?;
    scheduler::run(env, client, config).await;
    anyhow::bail!("lost the lease kube-scheduler")
}
