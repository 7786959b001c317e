//! A simulated process: tasks behind a gate, a supervisor that starts it again, an identity per life.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use env::{Env, Gate, Machine, Sabotage, Task};
use shakedown_core::lever::{Component, ProcessState};
use tokio::sync::watch;
use tokio::time::Instant;

/// As on a real node, the supervisor waits before it starts a dead process again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What a process does: given its surroundings, a future that ends when the process ends.
pub(crate) type Program = Arc<dyn Fn(Env) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Told of every change: the component, its state and its identity.
pub(crate) type OnChange = Arc<dyn Fn(Component, ProcessState, &str) + Send + Sync>;

struct State {
    gate: Gate,
    alive: bool,
    stopped: bool,
    paused: bool,
    held: bool,
    lives: u64,
    /// Time in which it could run, before `since`.
    used: Duration,
    since: Instant,
}

impl State {
    /// Keeps the books: call it before anything changes that decides whether the process can run.
    fn account(&mut self) {
        if self.alive && !self.stopped && !self.paused {
            self.used += self.since.elapsed();
        }
        self.since = Instant::now();
    }
}

struct Inner {
    component: Component,
    program: Program,
    machine: Arc<dyn Machine>,
    sabotages: Vec<Sabotage>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    on_change: OnChange,
    /// Something outside of the tasks that stands still with them (an etcd member, a runtime).
    freeze: Option<Box<dyn Fn(bool) + Send + Sync>>,
}

/// One process of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Process {
    inner: Arc<Inner>,
}

/// What a process is made from.
pub(crate) struct Parts {
    pub(crate) component: Component,
    pub(crate) program: Program,
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) sabotages: Vec<Sabotage>,
    pub(crate) on_change: OnChange,
    pub(crate) freeze: Option<Box<dyn Fn(bool) + Send + Sync>>,
}

impl Process {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { component, program, machine, sabotages, on_change, freeze } = parts;
        let state = State {
            gate: Gate::default(),
            alive: false,
            stopped: false,
            paused: false,
            held: false,
            lives: 0,
            used: Duration::ZERO,
            since: Instant::now(),
        };
        let changed = watch::Sender::new(0);
        let state = Mutex::new(state);
        let inner = Inner {
            component,
            program,
            machine,
            sabotages,
            state,
            changed,
            on_change,
            freeze,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts the process, and again whenever it has ended, until the task is dropped.
    pub(crate) fn supervise(&self, world: &Env) -> Task<()> {
        let process = self.clone();
        let world_env = world.clone();
        world.spawn(async move {
            loop {
                process.released().await;
                process.live(&world_env).await;
                process.wait_unpaused(RESTART_AFTER).await;
            }
        })
    }

    /// One life: from the start to the end of the program, or a kill.
    async fn live(&self, world: &Env) {
        let gate = Gate::default();
        let identity = {
            let mut state = self.lock();
            state.account();
            state.used = Duration::ZERO;
            state.gate = gate.clone();
            state.alive = true;
            state.stopped = false;
            state.lives += 1;
            if state.paused {
                gate.freeze();
            }
            format!("{}", state.lives)
        };
        self.tell(ProcessState::Running, &identity);
        let env = Env::new(self.inner.machine.clone(), Some(gate.clone()))
            .with_sabotages(&self.inner.sabotages);
        let program = (self.inner.program)(env);
        world.spawn(async move { gate.guard(program).await }).join().await;
        let mut state = self.lock();
        state.account();
        // Whatever the program left running dies with it.
        state.gate.kill();
        let was_alive = std::mem::replace(&mut state.alive, false);
        drop(state);
        if was_alive {
            self.tell(ProcessState::Absent, "");
        }
    }

    async fn released(&self) {
        let mut changed = self.inner.changed.subscribe();
        loop {
            {
                let state = self.lock();
                if !state.held && !state.paused {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn wait_unpaused(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.released().await;
    }

    /// SIGKILL; `hold` keeps the supervisor from starting it again.
    pub(crate) fn kill(&self, hold: bool) {
        let mut state = self.lock();
        state.account();
        state.held |= hold;
        state.stopped = false;
        state.gate.kill();
        let was_alive = std::mem::replace(&mut state.alive, false);
        drop(state);
        self.apply_freeze();
        if was_alive {
            self.tell(ProcessState::Absent, "");
        }
        self.touch();
    }

    /// Lets the supervisor start it again.
    pub(crate) fn release(&self) {
        self.lock().held = false;
        self.touch();
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn set_stopped(&self, stopped: bool) {
        let mut state = self.lock();
        if !state.alive || state.stopped == stopped {
            return;
        }
        state.account();
        state.stopped = stopped;
        let identity = format!("{}", state.lives);
        drop(state);
        self.apply_freeze();
        let now = if stopped { ProcessState::Stopped } else { ProcessState::Running };
        self.tell(now, &identity);
    }

    /// The whole node stands still, or goes on.
    pub(crate) fn set_paused(&self, paused: bool) {
        {
            let mut state = self.lock();
            state.account();
            state.paused = paused;
        }
        self.apply_freeze();
        self.touch();
    }

    /// The node was switched off: what the supervisor knew is gone with it.
    pub(crate) fn forget(&self) {
        self.kill(false);
        let mut state = self.lock();
        state.paused = false;
        state.held = false;
    }

    fn apply_freeze(&self) {
        let state = self.lock();
        let frozen = state.paused || state.stopped;
        let gate = state.gate.clone();
        drop(state);
        if frozen {
            gate.freeze();
        } else {
            gate.thaw();
        }
        if let Some(freeze) = &self.inner.freeze {
            freeze(frozen);
        }
    }

    /// What it is doing, and its identity: empty if there is none.
    pub(crate) fn state(&self) -> (ProcessState, String) {
        let state = self.lock();
        match (state.alive, state.stopped) {
            (false, _) => (ProcessState::Absent, String::new()),
            (true, true) => (ProcessState::Stopped, format!("{}", state.lives)),
            (true, false) => (ProcessState::Running, format!("{}", state.lives)),
        }
    }

    /// Whether it would answer: alive and not standing still.
    pub(crate) fn answers(&self) -> bool {
        let state = self.lock();
        state.alive && !state.stopped && !state.paused
    }

    /// Ticks of the processor used so far: a process uses them while it lives and does not stand still.
    pub(crate) fn ticks(&self) -> u64 {
        let state = self.lock();
        let mut used = state.used;
        if state.alive && !state.stopped && !state.paused {
            used += state.since.elapsed();
        }
        u64::try_from(used.as_millis() / 10).unwrap_or(u64::MAX)
    }

    /// Whether it is kept from starting.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().held
    }

    /// The gate of the present life.
    pub(crate) fn gate(&self) -> Gate {
        self.lock().gate.clone()
    }

    pub(crate) fn component(&self) -> Component {
        self.inner.component
    }

    fn tell(&self, state: ProcessState, identity: &str) {
        (self.inner.on_change)(self.inner.component, state, identity);
    }

    fn touch(&self) {
        self.inner.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().expect("no code panics while it holds the process")
    }
}
