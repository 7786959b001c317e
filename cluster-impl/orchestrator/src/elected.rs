//! What components that stand for election have in common: their flags and their health check.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use apiclient::ElectorConfig;
use env::Env;

use crate::process::{Common, duration};

/// The flags, with upstream's names and defaults.
#[derive(Debug, clap::Args)]
pub struct Elected {
    #[command(flatten)]
    pub common: Common,
    /// How to reach the API servers, and as whom.
    #[arg(long)]
    pub kubeconfig: PathBuf,
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
    pub bind_address: IpAddr,
}

impl Elected {
    /// Standing for election to the lease `lock`, under a name of this process alone.
    pub fn elector(&self, lock: &str, env: &Env) -> ElectorConfig {
        ElectorConfig {
            lock: lock.to_owned(),
            identity: self.common.identity(env),
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        }
    }
}
