//! What the agent is asked, and how it answers.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shakedown_core::agent::{Answer, Ask, Request};
use shakedown_core::lever::{Component, ProcessState, Reading};

use crate::containers::Containers;
use crate::network::{self, Cut, CutSpec, Cuts};
use crate::output::Output;
use crate::processes;
use crate::watch::Watch;

/// What the agent holds.
pub struct Agent {
    node: String,
    output: Output,
    cuts: Cuts,
    /// Rises with each request to observe: only the watch of the last one goes on.
    generation: Arc<AtomicU64>,
}

impl Agent {
    /// An agent that holds nothing yet.
    pub fn new(node: String, output: Output) -> Self {
        Self { node, output, cuts: Cuts::new(), generation: Arc::default() }
    }

    /// Does what is asked and answers. What may take long is done by a thread of its own.
    pub fn handle(&mut self, request: Request) {
        let Request { id, ask } = request;
        let slow: Box<dyn FnOnce() -> Reading + Send> = match ask {
            Ask::Reach { address, port, within_ms } => Box::new(move || {
                answer(network::reach(&address, port, Duration::from_millis(within_ms)))
            }),
            Ask::Health { component, within_ms } => {
                Box::new(move || answer(health(component, Duration::from_millis(within_ms))))
            }
            quick => {
                let answer = self.answer(quick);
                self.output
                    .reply(id, answer.unwrap_or_else(|e| Answer::Failed { why: format!("{e:#}") }));
                return;
            }
        };
        let output = self.output.clone();
        let work = move || output.reply(id, Answer::Reading { reading: slow() });
        if let Err(error) = crate::start("probe", work) {
            self.output.reply(id, Answer::Failed { why: error.to_string() });
        }
    }

    fn answer(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        match ask {
            Ask::Process { component } => {
                return Ok(Answer::Reading { reading: processes::reading(component) });
            }
            Ask::Containers { pod_uid } => return Ok(running(&pod_uid)),
            Ask::Dropped { id } => return self.dropped(&id),
            Ask::Fingerprint => return Ok(Answer::Things { things: fingerprint()? }),
            Ask::Kill { component, hold } => {
                if hold {
                    processes::hold(component)?;
                }
                processes::signal(component, Signal::SIGKILL)?;
            }
            Ask::Stop { component } => processes::signal(component, Signal::SIGSTOP)?,
            Ask::Continue { component } => processes::resume(component)?,
            Ask::Release { component } => processes::release(component)?,
            Ask::KillContainer { pod_uid, container } => {
                kill_container(&pod_uid, &container)?;
            }
            Ask::Cut { id, address, sources, traffic } => {
                let spec = CutSpec { id: &id, address: &address, sources: &sources, traffic };
                if !self.cuts.contains_key(&id) {
                    self.cuts.insert(id.clone(), Cut::make(&spec)?);
                }
            }
            Ask::Mend { id } => {
                if let Some(cut) = self.cuts.remove(&id) {
                    cut.mend()?;
                }
            }
            Ask::Observe { audit_log } => self.observe(&audit_log)?,
            Ask::Now | Ask::Reach { .. } | Ask::Health { .. } => {}
        }
        Ok(Answer::Done)
    }

    fn dropped(&self, id: &str) -> anyhow::Result<Answer> {
        let dropped = match self.cuts.get(id) {
            Some(cut) => cut.dropped()?,
            None => None,
        };
        let reading =
            Reading::Dropped { in_place: dropped.is_some(), packets: dropped.unwrap_or(0) };
        Ok(Answer::Reading { reading })
    }

    fn observe(&self, audit_log: &str) -> anyhow::Result<()> {
        let mine = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = Arc::clone(&self.generation);
        let watch = Watch::new(self.node.clone(), self.output.clone(), audit_log);
        crate::start("watch", move || watch.run(&generation, mine))?;
        Ok(())
    }
}

/// Looks by itself, beside the watch: neither takes news from the other.
fn running(pod_uid: &str) -> Answer {
    let mut containers = Containers::default();
    containers.look();
    let running = containers.of_pod(pod_uid).map(|running| running.fact.clone()).collect();
    Answer::Reading { reading: Reading::Containers { running } }
}

fn kill_container(pod_uid: &str, container: &str) -> anyhow::Result<()> {
    let mut containers = Containers::default();
    containers.look();
    let found = containers
        .of_pod(pod_uid)
        .find(|running| running.fact.container == container)
        .with_context(|| format!("no container {container} of pod {pod_uid} runs here"))?;
    kill(Pid::from_raw(found.pid), Signal::SIGKILL)
        .with_context(|| format!("failed to kill process {}", found.pid))
}

fn answer((ok, detail): (bool, String)) -> Reading {
    Reading::Answer { ok, detail }
}

/// Asks a component how it is. etcd and the API server are asked from outside, where the keys are.
fn health(component: Component, within: Duration) -> (bool, String) {
    let port = match component {
        Component::KubeControllerManager => 10257,
        Component::KubeScheduler => 10259,
        Component::Kubelet => 10248,
        Component::Containerd => return containerd_health(within),
        Component::Etcd => return network::reach("127.0.0.1", 2379, within),
        Component::KubeApiserver => return network::reach("127.0.0.1", 6443, within),
        Component::Operator => return (false, "there is none on nodes in containers".to_owned()),
    };
    network::http_health(port, "/healthz", within)
}

fn containerd_health(within: Duration) -> (bool, String) {
    let timeout = format!("{}ms", within.as_millis());
    let output = Command::new("ctr")
        .args(["--connect-timeout", &timeout, "--timeout", &timeout, "version"])
        .output();
    match output {
        Ok(output) if output.status.success() => (true, "containerd told its version".to_owned()),
        Ok(output) => (false, String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => (false, format!("failed to run ctr: {error}")),
    }
}

/// What a run may leave behind on the node: our nft tables, queueing disciplines of the uplink, processes that were
/// stopped or are held down.
fn fingerprint() -> anyhow::Result<BTreeMap<String, String>> {
    let mut things = BTreeMap::new();
    let tables = run("nft", &["list", "tables"])?;
    let ours: Vec<&str> = tables.lines().filter(|line| line.contains(" shk_")).collect();
    things.insert("nft tables of cuts".to_owned(), ours.join(", "));
    let qdiscs = run("tc", &["qdisc", "show"])?;
    let uplink = |line: &&str| line.contains(" dev eth");
    // Docker names the uplink anew when the node starts; what it does must stay.
    let plain = |line: &str| line.split(" dev ").next().unwrap_or_default().to_owned();
    let qdiscs: Vec<String> = qdiscs.lines().filter(uplink).map(plain).collect();
    things.insert("queueing disciplines".to_owned(), without_handles(&qdiscs));
    for component in Component::ALL {
        if processes::is_held(*component) {
            things.insert(format!("{component} held down"), "yes".to_owned());
        }
        if let Reading::Process { state: ProcessState::Stopped, .. } =
            processes::reading(*component)
        {
            things.insert(format!("{component} stopped"), "yes".to_owned());
        }
    }
    Ok(things)
}

/// `qdisc <kind> <handle>:` without the handle, which the kernel draws.
fn without_handles(qdiscs: &[String]) -> String {
    let kinds: Vec<&str> =
        qdiscs.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    kinds.join(", ")
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("failed to run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
