//! The tables of the staged runtime: what containerd and the kernel of one node would know.

use std::collections::{BTreeMap, BTreeSet};

use env::{Task, Timestamp};

use super::script::{self, Script};
use super::staged_names::{Answers, ContainerChange, free_address};
use super::staged_volumes::{self, Shown, Volumes};
use crate::runtime::{ContainerState, ContainerStatus, PodId, RuntimeError, Sandbox};

/// A container.
pub(super) struct Container {
    pub(super) status: ContainerStatus,
    pub(super) pod: PodId,
    pub(super) command_line: Vec<String>,
    pub(super) mounts: Vec<Shown>,
    pub(super) script: Option<Script>,
    /// What it writes at its start.
    pub(super) says: Option<String>,
    /// What it has written.
    pub(super) log: Vec<(Timestamp, String)>,
    /// Whether it was asked to end.
    pub(super) terminated: bool,
    /// What will end it by itself; dropped with it.
    pub(super) life: Option<Task<()>>,
}

/// The tables.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) answers: Answers,
    pub(super) powered_off: bool,
    pub(super) pod_network: Option<(u32, u32)>,
    pub(super) next_address: u32,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    /// By pod uid and name.
    pub(super) volumes: BTreeMap<String, Volumes>,
    pub(super) pulled: BTreeSet<String>,
}

impl Inner {
    pub(super) fn address(&mut self) -> Result<String, RuntimeError> {
        let ready = self.sandboxes.values().filter(|sandbox| sandbox.ready);
        let used = ready.map(|sandbox| sandbox.ip.as_str()).collect();
        free_address(self.pod_network, &mut self.next_address, &used)
    }

    /// Processes are shared only with one who runs in the same sandbox.
    pub(super) fn check_target(&self, id: &str, sandbox: &str) -> Result<(), RuntimeError> {
        let found = self.containers.get(id).map(|container| &container.status);
        let is_fit = found.is_some_and(|status| {
            status.state == ContainerState::Running && status.sandbox_id == sandbox
        });
        let why = || format!("invalid target container: {id:?} does not run in this sandbox");
        if is_fit { Ok(()) } else { Err(RuntimeError::Failed(why())) }
    }

    /// A container that shows files writes those of its volumes.
    pub(super) fn read_files(&mut self, id: &str, now: Timestamp) {
        let Some(container) = self.containers.get(id) else { return };
        let files = self.files(container);
        let shown = script::shows(&container.command_line);
        let texts = shown.iter().filter_map(|path| files.get(path));
        let lines: Vec<String> = texts
            .flat_map(|text| {
                String::from_utf8_lossy(text).lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        let lines = lines.into_iter().map(|line| (now, line));
        if let Some(container) = self.containers.get_mut(id) {
            container.log.extend(lines);
        }
    }

    /// The containers of a pod that have waited for what is now in a file; each says what it found.
    pub(super) fn those_who_waited(&mut self, pod_uid: &str, now: Timestamp) -> Vec<String> {
        let found = |container: &Container| {
            let is_meant =
                container.pod.uid == pod_uid && container.status.state == ContainerState::Running;
            let (path, text) = script::waits_for(&container.command_line).filter(|_| is_meant)?;
            staged_volumes::holds(&self.files(container), &path, &text)
                .then(|| (container.status.id.clone(), format!("{path} holds {text}")))
        };
        let found: Vec<_> = self.containers.values().filter_map(found).collect();
        for (id, line) in &found {
            if let Some(container) = self.containers.get_mut(id) {
                container.log.push((now, line.clone()));
            }
        }
        found.into_iter().map(|(id, _)| id).collect()
    }

    /// The files that a container sees of its volumes, by path.
    pub(super) fn files(&self, container: &Container) -> BTreeMap<String, Vec<u8>> {
        staged_volumes::tree(self.volumes.get(&container.pod.uid), &container.mounts)
    }
}

/// What is told of a container.
pub(super) fn change(container: &Container, exit_code: Option<i32>) -> ContainerChange {
    ContainerChange {
        pod: container.pod.clone(),
        container: container.status.name.clone(),
        id: container.status.id.clone(),
        attempt: container.status.attempt,
        started: container.status.started,
        exit_code,
    }
}
