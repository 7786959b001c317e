//! The agent that the docker target runs inside a node container: hands for levers, eyes for proofs.
//!
//! It reads requests from its standard input and answers on its standard output, one JSON value a line
//! (`shakedown_core::agent`). When its input ends, or nothing came for [`SILENCE_MAX`], whoever started
//! it is dead: it ends, and with it every cut, which lives in an nft table that the kernel removes with
//! its owner. It keeps nothing on disk but the hold files that it was asked for.

mod audit;
mod containers;
mod network;
mod output;
mod processes;
mod requests;
mod watch;

use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;

use shakedown_core::agent::Request;

use crate::output::Output;
use crate::requests::Agent;

/// The target asks for the time every few seconds; after this silence it is taken for dead. Where the
/// Docker daemon closes the input of an orphan, which it does at once, this is never waited for.
const SILENCE_MAX: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let node = std::env::args().nth(1).unwrap_or_default();
    anyhow::ensure!(!node.is_empty(), "usage: shakedown-agent <name of this node>");
    let output = Output::to_stdout();
    let mut agent = Agent::new(node, output.clone());
    let (lines, requests) = mpsc::sync_channel(REQUESTS_MAX);
    let _reader = start("reader", move || read_lines(&lines))?;
    while let Ok(line) = requests.recv_timeout(SILENCE_MAX) {
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => agent.handle(request),
            Err(error) => output.complain(&format!("unreadable request: {error}")),
        }
    }
    // The cuts go with their owners, which die here.
    drop(agent);
    Ok(())
}

/// Requests that wait: the target waits for answers, so there are few.
const REQUESTS_MAX: usize = 256;

/// Reads until the input ends; the channel ends with it.
fn read_lines(lines: &mpsc::SyncSender<String>) {
    let stdin = std::io::stdin();
    let mut input = BufReader::new(stdin.lock());
    loop {
        let mut line = String::new();
        match input.read_line(&mut line) {
            Ok(1..) if lines.send(line).is_ok() => {}
            _ => return,
        }
    }
}

/// Starts a thread. The agent talks to a kernel, never to a simulation.
fn start(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Waits.
fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the agent is a real process on a real node")]
    std::thread::sleep(time);
}
