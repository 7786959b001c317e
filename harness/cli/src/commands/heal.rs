//! `shakedown heal`: takes back what killed runs left behind, and lists what is left.

use std::path::PathBuf;

use shakedown_core::verdict::Verdict;
use shakedown_target_docker as docker;

use crate::failure::Failure;
use crate::pipeline::{self, unusable};

/// What `heal` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing: list what is left, and fail if anything is that nobody wants.
    #[arg(long)]
    check: bool,
    /// A cluster of `up` to heal.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// The folder of the run that was killed: its undo log says what to take back.
    #[arg(long, value_name = "DIR", requires = "cluster")]
    run: Option<PathBuf>,
}

/// Heals or lists.
pub fn run(args: &Args) -> Result<u8, Failure> {
    super::block_on(async {
        if args.check {
            return check().await;
        }
        let mut code = 0;
        if let Some(cluster) = &args.cluster {
            let undos = match &args.run {
                Some(dir) => pipeline::pending_undos(&dir.join("undo.ndjson"))?,
                None => Vec::new(),
            };
            let state = docker::default_state_dir();
            let healed = docker::heal(&state, cluster, &undos).await.map_err(unusable)?;
            for done in healed.done {
                println!("{done}");
            }
            for failed in healed.failed {
                eprintln!("error: {failed}");
                code = Verdict::Harness.exit_code();
            }
        }
        for left in docker::sweep(&docker::Sweep::Dead).await.map_err(unusable)? {
            println!("removed {} {} of run {}", left.kind, left.name, left.run);
        }
        Ok(code)
    })
}

async fn check() -> Result<u8, Failure> {
    let mut unwanted = 0;
    for left in docker::list_leftovers().await.map_err(unusable)? {
        println!(
            "{:10} {:45} cluster {:20} {}{}",
            left.kind,
            left.name,
            left.cluster,
            left.state,
            if left.wanted { "" } else { "  LEFT BEHIND" }
        );
        unwanted += usize::from(!left.wanted);
    }
    if unwanted == 0 {
        println!("nothing is left behind");
        return Ok(0);
    }
    eprintln!("error: {unwanted} things are left behind\nhint: shakedown heal");
    Ok(Verdict::Harness.exit_code())
}
