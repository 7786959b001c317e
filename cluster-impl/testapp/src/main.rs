//! The workload image: one static binary that serves, crashes, sleeps and burns on demand.
//!
//! It runs in an image made from scratch: no shell, no C library, no name service. Under `/bin` it has
//! a few names of its own (`sleep`, `true`, `cat` ...), as busybox has. `commands.txt` lists what each
//! command line does; the kubelet's staged runtime is held to the same table.

mod applets;
mod archive;
mod command;
mod lookup;
mod serve;
mod whoami;

use std::process::ExitCode;

use command::Command;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match Command::of(&words) {
        Ok(command) => match applets::run(command).await {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
        // Help is no mistake; anything else is, and exits with 2.
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
