//! A world: nodes, their network, their etcd, and what an observer sees of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use apiclient::ApiClient;
use apiserver::{AuditLine, User};
use env::{Env, Machine as _, Sabotage, SimMachine, Task, Timestamp};
use futures::StreamExt;
use kubelet::runtimes::staged::{Answers, ContainerChange};
use shakedown_core::lever::{Component, ContainerFact, NodeState, ProcessState, Traffic};
use shakedown_core::target::{Observation, Parameters, Role};
use shakedown_core::timeline::What;
use storage::memory::MemoryCluster;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::components;
use crate::link::{Link, Meter};
use crate::machine::{Machine, Plate};
use crate::network::Network;
use crate::process::{OnChange, Parts, Process, Program};

/// Midnight at the start of 2025, when every simulated world begins.
const EPOCH_S: i64 = 1_735_689_600;

/// Who watches, if anybody.
type Eye = Arc<Mutex<Option<mpsc::UnboundedSender<Observation>>>>;

/// One simulated cluster.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) parameters: Parameters,
    pub(crate) network: Network,
    pub(crate) meter: Arc<Meter>,
    pub(crate) etcd: MemoryCluster,
    pub(crate) machines: BTreeMap<String, Arc<Machine>>,
    order: Vec<String>,
    eye: Eye,
    _watch: Task<()>,
}

/// What a world is made from.
pub(crate) struct Size {
    pub(crate) control_planes: u32,
    pub(crate) workers: u32,
}

impl World {
    /// A world whose nodes are switched on.
    pub(crate) fn new(
        seed: u64,
        size: &Size,
        parameters: Parameters,
        sabotages: &[Sabotage],
    ) -> Arc<Self> {
        let epoch = Timestamp::from_second(EPOCH_S).expect("2025 can be written");
        let machine = |name: &str| Arc::new(SimMachine::new(seed, name, epoch));
        let env = Env::new(machine("world"), None).with_sabotages(sabotages);
        let etcd = MemoryCluster::new(env.clone(), size.control_planes as usize);
        let eye: Eye = Arc::default();
        let mut machines = BTreeMap::new();
        let mut order = Vec::new();
        let nodes = (1..=size.control_planes)
            .map(|number| (Role::ControlPlane, format!("cp-{number}"), number))
            .chain((1..=size.workers).map(|n| (Role::Worker, format!("worker-{n}"), 100 + n)));
        for (role, name, number) in nodes {
            let plate = Plate {
                name: name.clone(),
                role,
                address: format!("10.0.{}.{}", number / 250, number % 250 + 1),
                clock: machine(&name),
                sabotages: sabotages.to_vec(),
            };
            order.push(name.clone());
            machines.insert(name, Machine::new(plate));
        }
        let network = Network::new(env.entropy("network"));
        let names: Vec<String> = order.iter().take(size.control_planes as usize).cloned().collect();
        let watch = env.spawn(watch_etcd(etcd.clone(), names, eye.clone()));
        let world = Arc::new_cyclic(|this: &Weak<World>| {
            for (index, name) in order.iter().enumerate() {
                furnish(this, &machines[name], (&etcd, index), sabotages, &eye);
            }
            Self {
                env,
                parameters,
                network,
                meter: Arc::default(),
                etcd,
                machines,
                order,
                eye,
                _watch: watch,
            }
        });
        for machine in world.nodes() {
            machine.power_on(&world.env);
        }
        world
    }

    /// Every node, control plane first.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.order.iter().map(|name| &self.machines[name])
    }

    pub(crate) fn control_planes(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.nodes().filter(|machine| machine.role == Role::ControlPlane)
    }

    /// A node's way to the API servers.
    pub(crate) fn client(&self, from: &str, user: &User) -> ApiClient {
        components::client(self, from, user)
    }

    /// The observer's own way to one API server, as administrator.
    pub(crate) fn observer(&self, to: &Arc<Machine>) -> kube::Client {
        let link = Link {
            from: String::new(),
            to: to.clone(),
            user: User::new("kubernetes-admin", &["system:masters"]),
            network: self.network.clone(),
            meter: self.meter.clone(),
        };
        link.client()
    }

    /// Opens and cuts the links between etcd members as the network has it now.
    pub(crate) fn apply_cuts(&self) {
        let members: Vec<&Arc<Machine>> = self.control_planes().collect();
        for (from, sender) in members.iter().enumerate() {
            for (to, receiver) in members.iter().enumerate().filter(|(to, _)| *to != from) {
                let open = self.network.is_open(&sender.name, &receiver.name, Traffic::EtcdPeer);
                self.etcd.set_link(from, to, open);
            }
        }
    }

    /// The control planes whose etcd members run.
    pub(crate) fn peers_up(&self) -> BTreeSet<String> {
        self.control_planes()
            .filter(|machine| {
                machine.power() == NodeState::Running
                    && machine.process(Component::Etcd).is_some_and(|etcd| etcd.answers())
            })
            .map(|machine| machine.name.clone())
            .collect()
    }

    pub(crate) fn audit_sink(&self, node: &str) -> Arc<dyn Fn(AuditLine) + Send + Sync> {
        let (eye, node) = (self.eye.clone(), node.to_owned());
        Arc::new(move |line| see(&eye, audited(&node, line)))
    }

    /// Follows everything from now on, beginning with how it is.
    pub(crate) fn open_eye(&self) -> mpsc::UnboundedReceiver<Observation> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.eye.lock().expect("no code panics while it holds the eye") = Some(sender);
        for machine in self.nodes() {
            for process in machine.processes() {
                let (state, identity) = process.state();
                let (node, component) = (machine.name.clone(), process.component());
                see(&self.eye, What::Process { node, component, state, identity });
            }
            for change in machine.runtime.iter().flat_map(|runtime| runtime.running()) {
                see(&self.eye, container(&machine.name, &change));
            }
        }
        for (index, machine) in self.control_planes().enumerate() {
            if let Some(what) = member(&self.etcd, index, &machine.name) {
                see(&self.eye, what);
            }
        }
        receiver
    }
}

fn see(eye: &Eye, what: What) {
    let eye = eye.lock().expect("no code panics while it holds the eye");
    if let Some(sender) = &*eye {
        // Nobody looks between two scenarios.
        let _ = sender.send(Observation { at: Instant::now(), error: Duration::ZERO, what });
    }
}

fn audited(node: &str, line: AuditLine) -> What {
    let mut key = line.key.to_string();
    if !line.subresource.is_empty() {
        key = format!("{key}/{}", line.subresource);
    }
    What::Audit {
        node: node.to_owned(),
        user: line.user,
        verb: line.verb.to_owned(),
        kind: line.kind,
        key,
        code: line.code,
        revision: line.revision,
        fence: line.fence.unwrap_or_default(),
    }
}

fn container(node: &str, change: &ContainerChange) -> What {
    What::Container {
        node: node.to_owned(),
        running: change.exit_code.is_none(),
        container: ContainerFact {
            id: change.id.clone(),
            pod_uid: change.pod.uid.clone(),
            namespace: change.pod.namespace.clone(),
            pod: change.pod.name.clone(),
            container: change.container.clone(),
        },
    }
}

fn member(etcd: &MemoryCluster, index: usize, node: &str) -> Option<What> {
    let status = etcd.status(index)?;
    Some(What::EtcdMember {
        node: node.to_owned(),
        member: status.member,
        leader: status.leader,
        term: status.term,
        revision: status.revision,
    })
}

/// Tells of every change of what a member takes for the leader and the term.
async fn watch_etcd(etcd: MemoryCluster, names: Vec<String>, eye: Eye) {
    let mut changes = etcd.changes();
    let mut known = BTreeMap::new();
    while changes.next().await.is_some() {
        for (index, name) in names.iter().enumerate() {
            let now = etcd.status(index).map(|status| (status.leader, status.term));
            if known.insert(index, now) != Some(now)
                && let Some(what) = member(&etcd, index, name)
            {
                see(&eye, what);
            }
        }
    }
}

/// Puts a node's processes onto it.
fn furnish(
    world: &Weak<World>,
    machine: &Arc<Machine>,
    member: (&MemoryCluster, usize),
    sabotages: &[Sabotage],
    eye: &Eye,
) {
    let (etcd, index) = (member.0.clone(), member.1);
    let add = |component, program: Program, freeze: Option<Box<dyn Fn(bool) + Send + Sync>>| {
        let on_change: OnChange = {
            let (eye, node) = (eye.clone(), machine.name.clone());
            Arc::new(move |component, state: ProcessState, identity: &str| {
                let (node, identity) = (node.clone(), identity.to_owned());
                see(&eye, What::Process { node, component, state, identity });
            })
        };
        machine.add(Process::new(Parts {
            component,
            program,
            machine: machine.clock.clone(),
            sabotages: sabotages.to_vec(),
            on_change,
            freeze,
        }));
    };
    let name = &machine.name;
    match machine.role {
        Role::ControlPlane => {
            // Until its process has started, a member is down.
            etcd.set_up(index, false);
            let frozen = Box::new(move |frozen| etcd.set_frozen(index, frozen));
            add(Component::Etcd, components::etcd(world, index), Some(frozen));
            let apiserver = components::apiserver(world, machine, index);
            add(Component::KubeApiserver, apiserver, None);
            let manager = components::controller_manager(world, name);
            add(Component::KubeControllerManager, manager, None);
            add(Component::KubeScheduler, components::scheduler(world, name), None);
        }
        Role::Worker => {
            if let Some(runtime) = &machine.runtime {
                let (eye, node) = (eye.clone(), name.clone());
                runtime.on_change(move |change| see(&eye, container(&node, change)));
            }
            let here = Arc::downgrade(machine);
            let frozen = Box::new(move |frozen| {
                let Some(machine) = here.upgrade() else { return };
                let alive = machine
                    .process(Component::Containerd)
                    .is_some_and(|process| process.state().0 != ProcessState::Absent);
                if let (Some(runtime), true) = (&machine.runtime, alive) {
                    runtime.set_answers(if frozen { Answers::Never } else { Answers::Normally });
                }
            });
            add(Component::Containerd, components::containerd(machine), Some(frozen));
            add(Component::Kubelet, components::kubelet(world, machine), None);
        }
    }
    debug_assert!(machine.clock.now() >= Timestamp::UNIX_EPOCH);
}
