//! Starting `orchestrator dev` for a test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that is killed at the end.
pub struct Cluster {
    pub process: Child,
    /// How long it took to be ready, as it says.
    pub ready_ms: u64,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a cluster and waits until it says that it is ready.
pub fn start(kubeconfig: &Path, more: &[&str]) -> Cluster {
    let mut process = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .arg("dev")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(more)
        .env("NO_COLOR", "1")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the orchestrator was built");
    let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
    let mut told = Vec::new();
    let ready_ms = loop {
        let line = lines.next().unwrap_or_else(|| panic!("it ended: {told:?}"));
        let line = line.expect("a pipe can be read");
        if let Some((_, rest)) = line.split_once("ready after ") {
            let ready_ms = rest.split(' ').next().and_then(|number| number.parse().ok());
            break ready_ms.expect("it says how many milliseconds");
        }
        told.push(line);
    };
    // Nobody reads on; a full pipe must not hold it up.
    let reading = std::thread::Builder::new().spawn(move || lines.for_each(drop));
    reading.expect("a thread can be made");
    Cluster { process, ready_ms }
}
