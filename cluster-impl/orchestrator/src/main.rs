//! The orchestrator: every Kubernetes component in one binary.
//!
//! One subcommand a component, each in its own file; `supervise` is what runs them on a node.

mod apiserver;
mod audit;
mod authentication;
mod controller_manager;
mod dev;
mod elected;
mod health;
mod kubeconfig;
mod kubelet;
mod process;
mod process_metrics;
mod scheduler;
mod serving;
mod supervise;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A small Kubernetes: API server, controllers, scheduler and kubelet.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the API over TLS, from etcd.
    Apiserver(Box<apiserver::Args>),
    /// Runs the controllers, if elected.
    ControllerManager(controller_manager::Args),
    /// Binds pods to nodes, if elected.
    Scheduler(scheduler::Args),
    /// Runs the pods of one node on a container runtime.
    Kubelet(kubelet::Args),
    /// A whole cluster in this process: API server, controllers, scheduler and simulated nodes.
    Dev(dev::Args),
    /// Runs the components of one node as process 1 of its container.
    Supervise {
        /// What to run, as YAML.
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ORCHESTRATOR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Apiserver(args) => process::run(apiserver::run(*args)),
        Command::ControllerManager(args) => process::run(controller_manager::run(args)),
        Command::Scheduler(args) => process::run(scheduler::run(args)),
        Command::Kubelet(args) => process::run(kubelet::run(args)),
        Command::Dev(args) => process::run(dev::run(args)),
        Command::Supervise { config } => supervise::run(&config),
    }
}
