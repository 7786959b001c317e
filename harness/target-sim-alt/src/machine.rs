//! A simulated node: power, processes, a container runtime on a worker, a disk that survives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use apiserver::ApiServer;
use env::{Env, Gate, Sabotage, SimMachine, Task};
use kubelet::runtimes::staged::StagedRuntime;
use shakedown_core::lever::{Component, NodeState};
use shakedown_core::target::Role;
use tokio::sync::watch;

use crate::process::Process;

struct State {
    power: NodeState,
    boots: u32,
    /// The API server of the present life of its process.
    apiserver: Option<Arc<ApiServer>>,
    /// Behind this the containers live: it is a new one with every boot.
    containers: Gate,
    supervisors: Vec<Task<()>>,
}

/// One node.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: String,
    pub(crate) clock: Arc<SimMachine>,
    pub(crate) runtime: Option<Arc<StagedRuntime>>,
    sabotages: Vec<Sabotage>,
    processes: Mutex<BTreeMap<Component, Process>>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// What a machine is made from.
pub(crate) struct Plate {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: String,
    pub(crate) clock: Arc<SimMachine>,
    pub(crate) sabotages: Vec<Sabotage>,
}

impl Machine {
    /// A machine that is switched off.
    pub(crate) fn new(plate: Plate) -> Arc<Self> {
        let Plate { name, role, address, clock, sabotages } = plate;
        let containers = Gate::default();
        let runtime = (role == Role::Worker).then(|| {
            let env = Env::new(clock.clone(), Some(containers.clone())).with_sabotages(&sabotages);
            StagedRuntime::new(env)
        });
        Arc::new(Self {
            name,
            role,
            address,
            clock,
            runtime,
            sabotages,
            processes: Mutex::default(),
            state: Mutex::new(State {
                power: NodeState::Dead,
                boots: 0,
                apiserver: None,
                containers,
                supervisors: Vec::new(),
            }),
            changed: watch::Sender::new(0),
        })
    }

    pub(crate) fn add(&self, process: Process) {
        self.processes
            .lock()
            .expect("no code panics while it holds the processes")
            .insert(process.component(), process);
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        let processes = self.processes.lock().expect("no code panics while it holds the processes");
        processes.values().cloned().collect()
    }

    pub(crate) fn process(&self, component: Component) -> Option<Process> {
        let processes = self.processes.lock().expect("no code panics while it holds the processes");
        processes.get(&component).cloned()
    }

    /// Switches the machine on; does nothing if it is on.
    pub(crate) fn power_on(&self, world: &Env) {
        {
            let mut state = self.lock();
            if state.power != NodeState::Dead {
                return;
            }
            state.power = NodeState::Running;
            state.boots += 1;
            if state.boots > 1
                && let Some(runtime) = &self.runtime
            {
                state.containers = Gate::default();
                let env = Env::new(self.clock.clone(), Some(state.containers.clone()));
                runtime.power_on(env.with_sabotages(&self.sabotages));
            }
        }
        let supervisors = self.processes().iter().map(|process| process.supervise(world)).collect();
        self.lock().supervisors = supervisors;
        self.touch();
    }

    /// Takes the power away: everything that runs is gone at once; the disk stays.
    pub(crate) fn power_off(&self) {
        {
            let mut state = self.lock();
            state.power = NodeState::Dead;
            state.supervisors.clear();
            state.apiserver = None;
        }
        for process in self.processes() {
            process.forget();
        }
        if let Some(runtime) = &self.runtime {
            runtime.power_off();
        }
        self.lock().containers.kill();
        self.touch();
    }

    /// Makes everything on the machine stand still, or go on.
    pub(crate) fn set_paused(&self, paused: bool) {
        {
            let mut state = self.lock();
            if state.power == NodeState::Dead {
                return;
            }
            state.power = if paused { NodeState::Paused } else { NodeState::Running };
            if paused {
                state.containers.freeze();
            } else {
                state.containers.thaw();
            }
        }
        for process in self.processes() {
            process.set_paused(paused);
        }
        self.touch();
    }

    pub(crate) fn power(&self) -> NodeState {
        self.lock().power
    }

    pub(crate) fn boots(&self) -> u32 {
        self.lock().boots
    }

    /// Waits until the machine has power.
    pub(crate) async fn powered(&self) {
        let mut changed = self.changed.subscribe();
        while self.power() == NodeState::Dead {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    pub(crate) fn set_apiserver(&self, server: Option<Arc<ApiServer>>) {
        self.lock().apiserver = server;
    }

    /// The API server that takes connections now, with the gate of its process.
    pub(crate) fn apiserver(&self) -> Option<(Arc<ApiServer>, Gate)> {
        let server = self.lock().apiserver.clone()?;
        let gate = self.process(Component::KubeApiserver)?.gate();
        (!gate.is_killed()).then_some((server, gate))
    }

    fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the machine")
    }
}
