//! One simulated node: its power, its processes, what holds them down or still.
//!
//! Invariant: whether a process stands still is computed in one place, from the node's pause and the
//! process's own stop, so that undoing one of the two never undoes the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use apiserver::ApiServer;
use env::{Env, Gate, Signal, Task};
use kubelet::runtimes::staged::StagedRuntime;
use kubelet::server::KubeletServer;
use shakedown_core::lever::{Component, NodeState, ProcessState};
use shakedown_core::target::{NodeFact, Role};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A running component.
pub(crate) struct Life {
    pub(crate) identity: String,
    pub(crate) gate: Gate,
    pub(crate) env: Env,
    /// Of an API server.
    pub(crate) server: Option<Arc<ApiServer>>,
    /// Of a kubelet: its own server.
    pub(crate) kubelet: Option<Arc<KubeletServer>>,
    /// Of a kubelet.
    pub(crate) health: Option<kubelet::Health>,
    /// Everything that runs in the process; dropped with it.
    pub(crate) tasks: Vec<Task<()>>,
    /// Finished tasks are cleared away when there are so many.
    tasks_max: usize,
    /// Told when the process is over.
    pub(crate) ended: Arc<Notify>,
    /// How long it has run and not stood still, up to `since`.
    ran: Duration,
    since: Option<Instant>,
}

/// How many finished tasks of a process may wait to be cleared away.
const FINISHED_TASKS_MAX: usize = 64;

impl Life {
    pub(crate) fn new(identity: String, gate: Gate, env: Env) -> Self {
        Self {
            identity,
            gate,
            env,
            server: None,
            kubelet: None,
            health: None,
            tasks: Vec::new(),
            tasks_max: FINISHED_TASKS_MAX,
            ended: Arc::new(Notify::new()),
            ran: Duration::ZERO,
            since: Some(Instant::now()),
        }
    }

    /// Runs a task in the process.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if self.tasks.len() >= self.tasks_max {
            self.tasks.retain(|task| !task.is_finished());
            // So that thousands which are under way are not looked at with every new one.
            self.tasks_max = (2 * self.tasks.len()).max(FINISHED_TASKS_MAX);
        }
        self.tasks.push(self.env.spawn(work));
    }

    fn set_frozen(&mut self, is_frozen: bool) {
        match (is_frozen, self.since) {
            (true, Some(since)) => {
                self.ran += since.elapsed();
                self.since = None;
                self.gate.freeze();
            }
            (false, None) => {
                self.since = Some(Instant::now());
                self.gate.thaw();
            }
            _ => {}
        }
    }

    /// CPU ticks of 10 ms, as if it were always busy.
    fn ticks(&self) -> u64 {
        let ran = self.ran + self.since.map_or(Duration::ZERO, |since| since.elapsed());
        u64::try_from(ran.as_millis() / 10).unwrap_or(u64::MAX)
    }
}

/// One component of a node, whether it runs or not.
#[derive(Default)]
pub(crate) struct Process {
    /// The supervisor must not start it.
    pub(crate) is_held: bool,
    /// SIGSTOP.
    pub(crate) is_stopped: bool,
    pub(crate) life: Option<Life>,
}

/// What changes about a node.
pub(crate) struct Inner {
    pub(crate) is_on: bool,
    pub(crate) is_paused: bool,
    pub(crate) boots: u32,
    /// How many disks it has had.
    pub(crate) disks: u32,
    pub(crate) started: Instant,
    pub(crate) pids: u32,
    /// In front of the containers of this boot.
    pub(crate) gate: Gate,
    pub(crate) processes: BTreeMap<Component, Process>,
}

impl Inner {
    /// Whether the supervisor may start a component now.
    fn may_start(&self, component: Component) -> bool {
        let process = &self.processes[&component];
        self.is_on && !self.is_paused && !process.is_held && process.life.is_none()
    }

    /// Whether a component stands still.
    pub(crate) fn is_frozen(&self, component: Component) -> bool {
        self.is_paused || self.processes[&component].is_stopped
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) fact: NodeFact,
    /// Its place among the nodes of its role, from 0.
    pub(crate) index: usize,
    /// The container runtime of a worker.
    pub(crate) runtime: Option<Arc<StagedRuntime>>,
    components: Vec<Component>,
    inner: Mutex<Inner>,
    changes: Signal,
}

/// The components of a role, in the order they are started.
fn components(role: Role) -> &'static [Component] {
    match role {
        Role::ControlPlane => &[
            Component::Etcd,
            Component::KubeApiserver,
            Component::KubeControllerManager,
            Component::KubeScheduler,
        ],
        Role::Worker => &[Component::Containerd, Component::Kubelet],
    }
}

impl Node {
    pub(crate) fn new(
        fact: NodeFact,
        index: usize,
        gate: Gate,
        runtime: Option<Arc<StagedRuntime>>,
        has_operator: bool,
    ) -> Self {
        let operator = has_operator.then_some(Component::Operator);
        let components: Vec<Component> =
            components(fact.role).iter().copied().chain(operator).collect();
        let processes =
            components.iter().map(|component| (*component, Process::default())).collect();
        let inner = Inner {
            is_on: true,
            is_paused: false,
            boots: 1,
            disks: 1,
            started: Instant::now(),
            pids: 0,
            gate,
            processes,
        };
        let (inner, changes) = (Mutex::new(inner), Signal::default());
        Self { fact, index, runtime, components, inner, changes }
    }

    pub(crate) fn name(&self) -> &str {
        &self.fact.name
    }

    /// Whether the node has such a component.
    pub(crate) fn has(&self, component: Component) -> bool {
        self.components.contains(&component)
    }

    /// Its components, in the order they are started.
    pub(crate) fn components(&self) -> &[Component] {
        &self.components
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds a node")
    }

    /// Changes the node, then freezes and thaws what follows from it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let frozen: Vec<(Component, bool)> = inner
            .processes
            .keys()
            .map(|component| (*component, inner.is_frozen(*component)))
            .collect();
        for (component, is_frozen) in frozen {
            if let Some(life) = &mut inner.processes.get_mut(&component).expect("listed").life {
                life.set_frozen(is_frozen);
            }
        }
        match inner.is_paused {
            true => inner.gate.freeze(),
            false => inner.gate.thaw(),
        }
        drop(inner);
        self.changes.raise();
        result
    }

    /// Waits until something holds of the node.
    async fn until(&self, holds: impl Fn(&Inner) -> bool) {
        loop {
            let seen = self.changes.count();
            if holds(&self.lock()) {
                return;
            }
            self.changes.after(seen).await;
        }
    }

    /// Waits until the supervisor may start a component.
    pub(crate) async fn startable(&self, component: Component) {
        self.until(|inner| inner.may_start(component)).await;
    }

    /// Waits until the node has power.
    pub(crate) async fn powered(&self) {
        self.until(|inner| inner.is_on).await;
    }

    /// What the node is doing, and what changes whenever it starts.
    pub(crate) fn state(&self) -> (NodeState, String) {
        let inner = self.lock();
        let state = match (inner.is_on, inner.is_paused) {
            (false, _) => NodeState::Dead,
            (true, true) => NodeState::Paused,
            (true, false) => NodeState::Running,
        };
        (state, format!("boot-{}", inner.boots))
    }

    /// What a component's process is doing: state, identity, ticks.
    pub(crate) fn process(&self, component: Component) -> (ProcessState, String, u64) {
        let inner = self.lock();
        let is_frozen = inner.is_frozen(component);
        match &inner.processes[&component].life {
            None => (ProcessState::Absent, String::new(), 0),
            Some(life) => {
                let state = if is_frozen { ProcessState::Stopped } else { ProcessState::Running };
                (state, life.identity.clone(), life.ticks())
            }
        }
    }

    /// What holds the node or its processes down or still, by name: nothing when all is healed.
    pub(crate) fn leftovers(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let name = self.name();
        let mut left = Vec::new();
        if !inner.is_on {
            left.push((format!("{name}: power"), "off".to_owned()));
        }
        if inner.is_paused {
            left.push((format!("{name}: freezer"), "frozen".to_owned()));
        }
        for (component, process) in &inner.processes {
            if process.is_held {
                left.push((format!("{name}: {component}"), "held down".to_owned()));
            }
            if process.is_stopped {
                left.push((format!("{name}: {component} signal"), "stopped".to_owned()));
            }
        }
        left
    }
}
