//! The simulated world: etcd members, nodes, the network, and what can be done to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiclient::Heard;
use apiserver::Decoded;
use env::{Env, Gate, Sabotage, SimMachine, Timestamp};
use futures::StreamExt;
use kubelet::runtimes::staged::{Answers, StagedRuntime};
use shakedown_core::lever::{Component, ProcessState, Traffic};
use shakedown_core::target::{NodeFact, Parameters, Role};
use shakedown_core::timeline::What;
use storage::memory::{LinkWeather, MemoryCluster, MemoryConfig};
use tokio::sync::Notify;

use crate::limits::Meter;
use crate::meddle::Meddling;
use crate::net::Net;
use crate::node::{Life, Node};
use crate::observe::{self, MembersSeen, Observers};
use crate::operator::Operator;
use crate::wire::Wires;

/// When every simulation begins: 2025-01-01T00:00:00Z.
const EPOCH_S: i64 = 1_735_689_600;

/// What a world is made of.
pub(crate) struct Blueprint<'a> {
    pub(crate) seed: u64,
    pub(crate) control_planes: u32,
    pub(crate) workers: u32,
    pub(crate) zones: u32,
    pub(crate) parameters: Parameters,
    pub(crate) sabotages: &'a [Sabotage],
    /// The controller under test, if there is one: it runs on the first worker.
    pub(crate) operator: Option<Operator>,
}

/// The simulated world.
pub(crate) struct World {
    /// The world's own surroundings: behind no gate.
    pub(crate) env: Env,
    pub(crate) parameters: Parameters,
    /// Over how many zones the workers are spread.
    pub(crate) zones: u32,
    pub(crate) sabotages: Vec<Sabotage>,
    pub(crate) operator: Option<Operator>,
    /// The machine under each process: its clock and its randomness go on when the process restarts.
    pub(crate) machines: BTreeMap<(String, Component), Arc<SimMachine>>,
    pub(crate) etcd: MemoryCluster,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    pub(crate) net: Net,
    pub(crate) wires: Wires,
    pub(crate) meddling: Meddling,
    pub(crate) observers: Arc<Observers>,
    pub(crate) meter: Arc<Meter>,
    /// What components were told by watches, read once for all of them.
    pub(crate) heard: Arc<Heard>,
    /// What API servers found in the store, decoded once for all of them.
    pub(crate) decoded: Arc<Decoded>,
}

/// The nodes, control plane first.
fn facts(blueprint: &Blueprint<'_>) -> Vec<NodeFact> {
    let of = |role: Role, word: &'static str, count: u32, subnet: u32| {
        (1..=count).map(move |number| NodeFact {
            name: format!("{word}-{number}"),
            role,
            address: format!("10.0.{}.{}", subnet + (number - 1) / 250, (number - 1) % 250 + 1),
        })
    };
    of(Role::ControlPlane, "cp", blueprint.control_planes, 1)
        .chain(of(Role::Worker, "worker", blueprint.workers, 2))
        .collect()
}

impl World {
    /// A world whose nodes have power and run nothing yet.
    pub(crate) fn new(blueprint: &Blueprint<'_>) -> Arc<Self> {
        let epoch = Timestamp::from_second(EPOCH_S).expect("2025 is a year");
        let machine = |name: &str| Arc::new(SimMachine::new(blueprint.seed, name, epoch));
        let env = Env::new(machine("world"), None).with_sabotages(blueprint.sabotages);
        let facts = facts(blueprint);
        let members = usize::try_from(blueprint.control_planes).expect("a handful");
        let config =
            MemoryConfig { election: blueprint.parameters.election, ..MemoryConfig::default() };
        let etcd = MemoryCluster::with_config(env.clone(), members, config);
        (0..members).for_each(|member| etcd.set_up(member, false));
        let observers = Arc::new(Observers::default());
        let mut machines = BTreeMap::new();
        let mut counts = BTreeMap::new();
        let nodes: BTreeMap<String, Arc<Node>> = facts
            .into_iter()
            .map(|fact| {
                let index = counts.entry(fact.role).or_insert(0_usize);
                let gate = Gate::default();
                let name = fact.name.clone();
                let of = |part: Component| machine(&format!("{name}/{part}"));
                let containerd = (fact.role == Role::Worker).then(|| of(Component::Containerd));
                let runtime = containerd.clone().map(|machine| {
                    runtime(&name, Env::new(machine, Some(gate.clone())), &observers)
                });
                let has_operator =
                    blueprint.operator.is_some() && fact.role == Role::Worker && *index == 0;
                let node = Arc::new(Node::new(fact, *index, gate, runtime, has_operator));
                for part in node.components() {
                    let shared = containerd.clone().filter(|_| *part == Component::Containerd);
                    machines.insert((name.clone(), *part), shared.unwrap_or_else(|| of(*part)));
                }
                *index += 1;
                (node.name().to_owned(), node)
            })
            .collect();
        Arc::new(Self {
            net: Net::new(env.entropy("network")),
            wires: Wires::default(),
            meddling: Meddling::default(),
            env,
            parameters: blueprint.parameters,
            zones: blueprint.zones,
            sabotages: blueprint.sabotages.to_vec(),
            operator: blueprint.operator.clone(),
            machines,
            etcd,
            nodes,
            observers,
            meter: Meter::current(),
            heard: Arc::default(),
            decoded: Arc::default(),
        })
    }

    /// A node.
    pub(crate) fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// The names of the nodes of one role, in order.
    pub(crate) fn names(&self, role: Role) -> Vec<String> {
        let mut nodes: Vec<_> = self.nodes.values().filter(|node| node.fact.role == role).collect();
        nodes.sort_by_key(|node| node.index);
        nodes.into_iter().map(|node| node.name().to_owned()).collect()
    }

    /// Starts a component; what is answered is told when it is over.
    pub(crate) fn start(self: &Arc<Self>, node: &Arc<Node>, component: Component) -> Arc<Notify> {
        let pid = node.change(|inner| {
            inner.pids += 1;
            inner.pids
        });
        let identity = format!("{pid}@{}", self.env.now().as_microsecond());
        let life = self.launch(node, component, identity.clone());
        let ended = life.ended.clone();
        node.change(|inner| {
            inner.processes.get_mut(&component).expect("a node's own component").life = Some(life);
        });
        self.tell_process(node, component);
        ended
    }

    /// Ends a component's process, if there is one.
    pub(crate) fn end(&self, node: &Node, component: Component) {
        let life: Option<Life> =
            node.change(|inner| inner.processes.get_mut(&component)?.life.take());
        let Some(life) = life else { return };
        life.gate.kill();
        match component {
            Component::Etcd => self.etcd.set_up(node.index, false),
            Component::Containerd => {
                if let Some(runtime) = &node.runtime {
                    runtime.set_answers(Answers::Refused);
                }
            }
            _ => {}
        }
        self.tell_process(node, component);
        life.ended.notify_one();
    }

    /// Holds a component down, or lets it be started again.
    pub(crate) fn hold(&self, node: &Node, component: Component, is_held: bool) {
        node.change(|inner| process(inner, component).is_held = is_held);
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn stop(&self, node: &Node, component: Component, is_stopped: bool) {
        // A signal is lost on a process that is not there.
        let is_changed = node.change(|inner| {
            let process = process(inner, component);
            let takes = process.life.is_some() && process.is_stopped != is_stopped;
            if takes {
                process.is_stopped = is_stopped;
            }
            takes
        });
        if is_changed {
            self.settle(node);
            self.tell_process(node, component);
        }
    }

    /// Freezes or thaws everything on a node.
    pub(crate) fn pause(&self, node: &Node, is_paused: bool) {
        node.change(|inner| inner.is_paused = is_paused && inner.is_on);
        self.settle(node);
        for component in node.components() {
            if node.process(*component).0 != ProcessState::Absent {
                self.tell_process(node, *component);
            }
        }
    }

    /// Takes the node's power: all on it ends at once; its disk stays.
    pub(crate) fn power_off(&self, node: &Node) {
        if !node.change(|inner| std::mem::replace(&mut inner.is_on, false)) {
            return;
        }
        if let Some(runtime) = &node.runtime {
            runtime.power_off();
        }
        for component in node.components() {
            node.change(|inner| {
                inner.is_paused = false;
                let process = process(inner, *component);
                (process.is_stopped, process.is_held) = (false, false);
            });
            self.end(node, *component);
        }
        node.lock().gate.kill();
        self.net.forget(node.name());
        self.join_members();
    }

    /// Gives the node its power back.
    pub(crate) fn power_on(&self, node: &Node) {
        if node.lock().is_on {
            return;
        }
        let gate = Gate::default();
        if let Some(runtime) = &node.runtime {
            runtime.power_on(self.env(node.name(), Component::Containerd, Some(gate.clone())));
            // Until containerd has been started.
            runtime.set_answers(Answers::Refused);
        }
        node.change(|inner| {
            inner.is_on = true;
            inner.boots += 1;
            inner.started = tokio::time::Instant::now();
            inner.gate = gate;
        });
    }

    /// Freezes and thaws what no gate is in front of.
    fn settle(&self, node: &Node) {
        match node.fact.role {
            Role::ControlPlane => {
                let is_frozen = node.lock().is_frozen(Component::Etcd);
                self.etcd.set_frozen(node.index, is_frozen);
            }
            Role::Worker => {
                let Some(runtime) = &node.runtime else { return };
                let inner = node.lock();
                if inner.processes[&Component::Containerd].life.is_some() {
                    let is_frozen = inner.is_frozen(Component::Containerd);
                    drop(inner);
                    runtime.set_answers(match is_frozen {
                        true => Answers::Never,
                        false => Answers::Normally,
                    });
                }
            }
        }
    }

    /// Opens, cuts and slows the ways between etcd members as the network has it.
    pub(crate) fn join_members(&self) {
        let names = self.names(Role::ControlPlane);
        for (at, from) in names.iter().enumerate() {
            for (to_at, to) in names.iter().enumerate().filter(|(_, to)| *to != from) {
                let is_open = self.net.is_open(from, to, Traffic::EtcdPeer);
                self.etcd.set_link(at, to_at, is_open);
                let weather = self.net.weather(from, to, Traffic::EtcdPeer);
                // Between two members there is one connection each way: nothing to overtake.
                let weather = LinkWeather {
                    latency: Duration::from_micros(weather.latency_us),
                    jitter: Duration::from_micros(weather.jitter_us),
                    loss: weather.loss,
                };
                self.etcd.set_weather(at, to_at, weather);
            }
        }
    }

    fn tell_process(&self, node: &Node, component: Component) {
        self.observers.tell(self.process_fact(node, component));
    }

    fn process_fact(&self, node: &Node, component: Component) -> What {
        let (state, identity, _) = node.process(component);
        What::Process { node: node.name().to_owned(), component, state, identity }
    }

    /// What an observer is told first: everything as it is.
    pub(crate) fn present(&self) -> Vec<What> {
        let mut present = Vec::new();
        for node in self.nodes.values() {
            for component in node.components() {
                present.push(self.process_fact(node, *component));
            }
            let running = node.runtime.iter().flat_map(|runtime| runtime.running());
            present.extend(running.map(|change| What::Container {
                node: node.name().to_owned(),
                running: true,
                container: observe::fact(&change),
            }));
            if node.fact.role == Role::ControlPlane
                && let Some(status) = self.etcd.status(node.index)
            {
                present.push(observe::member(node.name(), &status));
            }
        }
        present
    }

    /// Tells of every change among the etcd members, for ever.
    pub(crate) async fn watch_members(self: Arc<Self>) {
        let mut changes = self.etcd.changes();
        let mut seen = MembersSeen::default();
        let names = self.names(Role::ControlPlane);
        while changes.next().await.is_some() {
            for (index, name) in names.iter().enumerate() {
                if let Some(what) = seen.news(name, self.etcd.status(index)) {
                    self.observers.tell(what);
                }
            }
        }
    }

    /// What a run may leave behind; nothing when all is healed.
    pub(crate) fn leftovers(&self) -> BTreeMap<String, String> {
        let cuts = self.net.cuts().into_iter().map(|(id, cut)| {
            let (from, to) = (cut.from.join(", "), cut.to.join(", "));
            (format!("cut {id}"), format!("{from} -> {to} ({:?})", cut.traffic))
        });
        let storms = self.net.storms().into_iter().map(|(id, storm)| {
            let (from, to) = (storm.from.join(", "), storm.to.join(", "));
            let told = format!("{from} -> {to} ({:?}, {:?})", storm.traffic, storm.weather);
            (format!("weather {id}"), told)
        });
        let off = self.machines.iter().filter(|(_, machine)| !machine.is_right());
        let clocks: BTreeMap<String, String> = off
            .map(|((node, _), machine)| {
                (format!("{node}: clock"), format!("{} us ahead", machine.skew_us()))
            })
            .collect();
        let rules = self.meddling.in_force().into_iter();
        let rules = rules.map(|(id, about)| (format!("rule {id}"), about));
        let nodes = self.nodes.values().flat_map(|node| node.leftovers());
        nodes.chain(cuts).chain(storms).chain(clocks).chain(rules).collect()
    }

    /// Ends every process.
    pub(crate) fn end_all(&self) {
        for node in self.nodes.values() {
            self.power_off(node);
        }
    }
}

fn process(inner: &mut crate::node::Inner, component: Component) -> &mut crate::node::Process {
    inner.processes.get_mut(&component).expect("asked only for a node's own components")
}

/// A worker's container runtime, whose changes are observed.
fn runtime(node: &str, env: Env, observers: &Arc<Observers>) -> Arc<StagedRuntime> {
    let runtime = StagedRuntime::new(env);
    let (node, observers) = (node.to_owned(), observers.clone());
    runtime.on_change(move |change| {
        observers.tell(What::Container {
            node: node.clone(),
            running: change.exit_code.is_none(),
            container: observe::fact(change),
        });
    });
    runtime
}
