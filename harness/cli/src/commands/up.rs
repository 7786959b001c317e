//! `shakedown up`: makes a cluster of containers and leaves it running.

use shakedown_core::target::{ClusterSpec, Parameters, Target};
use shakedown_target_docker as docker;

use crate::failure::Failure;
use crate::pipeline::unusable;

/// What `up` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The cluster's name.
    #[arg(long, default_value = "shakedown")]
    cluster: String,
    /// Its size, control planes + workers.
    #[arg(long, default_value = "3+3", value_parser = super::nodes)]
    nodes: (u32, u32),
}

/// Boots; prints the kubeconfig's path on standard output.
pub fn run(args: &Args) -> Result<u8, Failure> {
    super::block_on(async {
        let state = docker::default_state_dir();
        let run = format!("up-{}-{:x}", args.cluster, jiff::Timestamp::now().as_microsecond());
        let mut target = docker::DockerTarget::new(docker::Options {
            state,
            cluster: args.cluster.clone(),
            run,
            keep: true,
            binaries: docker::Binaries::find().map_err(unusable)?,
        })
        .await
        .map_err(unusable)?;
        let spec = ClusterSpec {
            control_planes: args.nodes.0,
            workers: args.nodes.1,
            zones: 1,
            parameters: Parameters::default(),
            sabotages: Vec::new(),
        };
        let booted = target.boot(&spec, &|line| eprintln!("· {line}")).await;
        if let Err(error) = booted {
            target.down().await.await.map_err(unusable)?;
            return Err(unusable(error));
        }
        let kubeconfig = target.kubeconfig();
        eprintln!(
            "cluster `{}` is ready; remove it with: shakedown down --cluster {}",
            args.cluster, args.cluster
        );
        eprintln!("use it with: export KUBECONFIG={}", kubeconfig.display());
        println!("{}", kubeconfig.display());
        Ok(0)
    })
}
