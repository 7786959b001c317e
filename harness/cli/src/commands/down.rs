//! `shakedown down`: removes a cluster that `up` made.

use shakedown_target_docker as docker;

use crate::failure::Failure;
use crate::pipeline::unusable;

/// What `down` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The cluster's name.
    #[arg(long, default_value = "shakedown")]
    cluster: String,
}

/// Removes containers, network, volumes and files of the cluster.
pub fn run(args: &Args) -> Result<u8, Failure> {
    super::block_on(async {
        let removed =
            docker::sweep(&docker::Sweep::Cluster(args.cluster.clone())).await.map_err(unusable)?;
        if removed.is_empty() {
            return Err(Failure::usage(
                format!("there is no cluster `{}`", args.cluster),
                "`shakedown heal --check` lists what there is",
            ));
        }
        for left in removed {
            println!("removed {} {}", left.kind, left.name);
        }
        Ok(0)
    })
}
