//! `orchestrator scheduler`: stands for election and works while it leads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiclient::ElectorConfig;

use crate::process::{Common, duration};
use crate::{health, kubeconfig};

/// The flags, with upstream's names and defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// How to reach the API servers, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// How long a lease that is not renewed stays valid.
    #[arg(long, default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s", value_parser = duration)]
    leader_elect_renew_deadline: Duration,
    /// How long to wait between tries.
    #[arg(long, default_value = "2s", value_parser = duration)]
    leader_elect_retry_period: Duration,
    /// The address of /healthz.
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::LOCALHOST))]
    bind_address: IpAddr,
    /// The port of /healthz (plain HTTP).
    #[arg(long, default_value_t = 10259)]
    secure_port: u16,
}

/// Runs until leadership is lost; the process then ends, and its supervisor starts it anew.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = args.common.env();
    let client = kubeconfig::client(&args.kubeconfig).await?;
    let elector = ElectorConfig {
        lock: "kube-scheduler".to_owned(),
        identity: args.common.identity(&env),
        lease_duration: args.leader_elect_lease_duration,
        renew_deadline: args.leader_elect_renew_deadline,
        retry_period: args.leader_elect_retry_period,
    };
    let mut config = scheduler::Config::new(&elector.identity);
    config.elector = elector;
    let address = SocketAddr::from((args.bind_address, args.secure_port));
    let _health = health::serve(&env, address, Arc::new(|| true)).await?;
    scheduler::run(env, client, config).await;
    anyhow::bail!("lost the lease kube-scheduler")
}
