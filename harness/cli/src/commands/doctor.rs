//! `shakedown doctor`: what this machine can and cannot do, with advice.

use shakedown_core::verdict::Verdict;
use shakedown_target_docker::{State, doctor};

use crate::failure::Failure;

/// What `doctor` takes: nothing.
#[derive(clap::Args)]
pub struct Args {}

/// Prints a line a finding; fails if the docker target cannot work.
pub fn run(_args: &Args) -> Result<u8, Failure> {
    super::block_on(async {
        println!("ok       {:22} needs nothing but this program", "target sim");
        let mut missing = false;
        for finding in doctor().await {
            let word = match finding.state {
                State::Ok => "ok",
                State::Weak => "weak",
                State::Missing => "MISSING",
            };
            println!("{word:8} {:22} {}", finding.name, finding.found);
            if !finding.advice.is_empty() {
                println!("         {:22} hint: {}", "", finding.advice);
            }
            missing |= finding.state == State::Missing;
        }
        Ok(if missing { Verdict::NotRun.exit_code() } else { 0 })
    })
}
