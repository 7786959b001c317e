//! The target `sim`: levers, probes and observations of a simulated world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use env::Sabotage;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use machinery::kinds::NODE;
use shakedown_core::lever::{
    Component, ContainerFact, Lever, LeverKind, NodeState, Probe, ProcessState, Reading, Traffic,
    Undo,
};
use shakedown_core::target::{
    ClusterFact, ClusterSpec, Endpoint, NodeFact, Observation, Progress, Role, Target, TargetError,
};

use crate::machine::Machine;
use crate::process::Process;
use crate::world::{Size, World};

const NAME: &str = "sim";
/// A simulated cluster that is not ready after this much virtual time never will be.
const BOOT_MAX: Duration = Duration::from_secs(120);
const BOOT_LOOK: Duration = Duration::from_millis(500);

/// The target `sim`. It must be used inside of [`crate::run`].
pub struct SimTarget {
    seed: u64,
    world: Option<Arc<World>>,
}

impl SimTarget {
    /// A target without a cluster yet; `seed` decides everything that is left to chance.
    pub fn new(seed: u64) -> Self {
        Self { seed, world: None }
    }

    /// How many requests the API servers of this world have been sent.
    pub fn requests(&self) -> u64 {
        self.world.as_ref().map_or(0, |world| world.meter.total())
    }

    fn world(&self) -> Result<&Arc<World>, TargetError> {
        self.world.as_ref().ok_or_else(|| failed("use the cluster", "there is none: boot comes first"))
    }

    fn machine(&self, name: &str) -> Result<&Arc<Machine>, TargetError> {
        let world = self.world()?;
        world.machines.get(name).ok_or_else(|| TargetError::Unknown {
            what: "node",
            name: name.to_owned(),
            known: world.nodes().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn process(&self, node: &str, component: Component) -> Result<Process, TargetError> {
        let machine = self.machine(node)?;
        machine.process(component).ok_or_else(|| TargetError::Unknown {
            what: "component",
            name: format!("{component} on {node}"),
            known: machine
                .processes()
                .iter()
                .map(|process| process.component().name())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    async fn all_ready(&self, spec: &ClusterSpec) -> Result<bool, TargetError> {
        for endpoint in self.endpoints() {
            let request = http::Request::get(NODE.path("", "")).body(Vec::new());
            let request = request.map_err(|error| failed("list the nodes", error))?;
            let Ok(list) = endpoint.client.request::<serde_json::Value>(request).await else {
                return Ok(false);
            };
            let ready = list["items"].as_array().into_iter().flatten().filter(|node| {
                let conditions = node["status"]["conditions"].as_array();
                conditions.into_iter().flatten().any(|condition| {
                    condition["type"] == "Ready" && condition["status"] == "True"
                })
            });
            if ready.count() < spec.workers as usize {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a node would get an answer from another one's port.
    fn reach(&self, from: &str, to: &str, traffic: Traffic) -> Result<Reading, TargetError> {
        let (world, asker, asked) = (self.world()?, self.machine(from)?, self.machine(to)?);
        let answer = |ok, detail: &str| Reading::Answer { ok, detail: detail.to_owned() };
        if asker.power() != NodeState::Running {
            return Ok(answer(false, "the asking node does not run"));
        }
        if !world.network.passes(from, to, traffic) {
            return Ok(answer(false, "timed out: the request did not arrive"));
        }
        if asked.power() != NodeState::Running {
            return Ok(answer(false, "timed out: the node does not run"));
        }
        let listener = match traffic {
            Traffic::All => None,
            Traffic::EtcdPeer | Traffic::EtcdClient => Some(Component::Etcd),
            Traffic::Api => Some(Component::KubeApiserver),
        };
        if let Some(component) = listener {
            // A stopped process still has the kernel accept connections for it.
            let listens = asked
                .process(component)
                .is_some_and(|process| process.state().0 != ProcessState::Absent);
            if !listens {
                return Ok(answer(false, "connection refused"));
            }
        }
        if !world.network.passes(to, from, traffic) {
            return Ok(answer(false, "timed out: the answer did not arrive"));
        }
        Ok(answer(true, "answered"))
    }

    fn health(&self, node: &str, component: Component) -> Result<Reading, TargetError> {
        let process = self.process(node, component)?;
        let machine = self.machine(node)?;
        let (ok, detail) = match (machine.power(), process.state().0) {
            (NodeState::Dead, _) => (false, "timed out: the node is gone"),
            (NodeState::Paused, _) => (false, "timed out: the node stands still"),
            (_, ProcessState::Absent) => (false, "connection refused"),
            (_, ProcessState::Stopped) => (false, "timed out: the process stands still"),
            (_, ProcessState::Running) => match component {
                Component::KubeApiserver if machine.apiserver().is_none() => {
                    (false, "connection refused: not listening yet")
                }
                Component::Etcd if self.etcd_status(node)?.is_none() => {
                    (false, "connection refused: not listening yet")
                }
                _ => (true, "ok"),
            },
        };
        Ok(Reading::Answer { ok, detail: detail.to_owned() })
    }

    fn etcd_status(&self, node: &str) -> Result<Option<storage::MemberStatus>, TargetError> {
        let world = self.world()?;
        let index = world.control_planes().position(|machine| machine.name == node);
        let index = index.ok_or_else(|| TargetError::Unknown {
            what: "etcd member on node",
            name: node.to_owned(),
            known: world.control_planes().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        Ok(world.etcd.status(index))
    }

    fn containers(&self, node: &str, pod_uid: &str) -> Result<Vec<ContainerFact>, TargetError> {
        let machine = self.machine(node)?;
        let running = machine.runtime.iter().flat_map(|runtime| runtime.running());
        let facts = running.map(|change| ContainerFact {
            id: change.id,
            pod_uid: change.pod.uid,
            namespace: change.pod.namespace,
            pod: change.pod.name,
            container: change.container,
        });
        Ok(facts.filter(|fact| pod_uid.is_empty() || fact.pod_uid == pod_uid).collect())
    }
}

fn failed(what: &str, why: impl ToString) -> TargetError {
    TargetError::Failed { what: what.to_owned(), why: why.to_string(), hint: String::new() }
}

#[async_trait::async_trait]
impl Target for SimTarget {
    fn name(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> BTreeSet<LeverKind> {
        BTreeSet::from([
            LeverKind::KillNode,
            LeverKind::PauseNode,
            LeverKind::KillProcess,
            LeverKind::StopProcess,
            LeverKind::Cut,
            LeverKind::KillContainer,
            LeverKind::Api,
        ])
    }

    async fn boot(
        &mut self,
        spec: &ClusterSpec,
        _progress: Progress<'_>,
    ) -> Result<ClusterFact, TargetError> {
        let sabotages: Vec<Sabotage> = spec
            .sabotages
            .iter()
            .map(|name| name.parse().map_err(|error: String| failed("switch on a sabotage", error)))
            .collect::<Result<_, _>>()?;
        let size = Size { control_planes: spec.control_planes, workers: spec.workers };
        let world = World::new(self.seed, &size, spec.parameters, &sabotages);
        let nodes = world.nodes().map(|machine| NodeFact {
            name: machine.name.clone(),
            role: machine.role,
            address: machine.address.clone(),
        });
        let fact = ClusterFact { nodes: nodes.collect(), parameters: spec.parameters };
        self.world = Some(world);
        let ready = async {
            while !self.all_ready(spec).await? {
                tokio::time::sleep(BOOT_LOOK).await;
            }
            Ok::<_, TargetError>(())
        };
        match tokio::time::timeout(BOOT_MAX, ready).await {
            Ok(outcome) => outcome.map(|()| fact),
            Err(_) => Err(failed(
                "boot the simulated cluster",
                format!("not every worker was Ready after {} virtual seconds", BOOT_MAX.as_secs()),
            )),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let Some(world) = &self.world else { return Vec::new() };
        let endpoint = |machine: &Arc<Machine>| Endpoint {
            node: machine.name.clone(),
            client: world.observer(machine),
        };
        world.control_planes().map(endpoint).collect()
    }

    async fn pull(&mut self, lever: &Lever) -> Result<(), TargetError> {
        match lever {
            Lever::KillNode { node } => self.machine(node)?.power_off(),
            Lever::PauseNode { node } => self.machine(node)?.set_paused(true),
            Lever::KillProcess { node, component, hold } => {
                self.process(node, *component)?.kill(*hold);
            }
            Lever::StopProcess { node, component } => {
                self.process(node, *component)?.set_stopped(true);
            }
            Lever::Cut { id, from, to, traffic } => {
                for node in from.iter().chain(to) {
                    self.machine(node)?;
                }
                self.world()?.network.cut(id, from, to, *traffic);
                self.world()?.apply_cuts();
            }
            Lever::KillContainer { node, pod_uid, container } => {
                let facts = self.containers(node, pod_uid)?;
                let fact = facts.iter().find(|fact| fact.container == *container);
                let killed = fact.is_some_and(|fact| {
                    let machine = self.machine(node).ok();
                    let runtime = machine.and_then(|machine| machine.runtime.clone());
                    runtime.is_some_and(|runtime| runtime.kill_container(&fact.id))
                });
                if !killed {
                    return Err(failed(
                        &format!("kill container {container} of pod {pod_uid} on {node}"),
                        "it does not run there",
                    ));
                }
            }
        }
        Ok(())
    }

    async fn undo(&mut self, undo: &Undo) -> Result<(), TargetError> {
        match undo {
            Undo::StartNode { node } => self.machine(node)?.power_on(&self.world()?.env),
            Undo::UnpauseNode { node } => self.machine(node)?.set_paused(false),
            Undo::ReleaseProcess { node, component } => self.process(node, *component)?.release(),
            Undo::ContinueProcess { node, component } => {
                self.process(node, *component)?.set_stopped(false);
            }
            Undo::Mend { id, .. } => {
                self.world()?.network.mend(id);
                self.world()?.apply_cuts();
            }
            Undo::RemoveTaint { .. } | Undo::Uncordon { .. } | Undo::Nothing => {}
        }
        Ok(())
    }

    async fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        Ok(match probe {
            Probe::Node { node } => {
                let machine = self.machine(node)?;
                let started = format!("boot-{}", machine.boots());
                Reading::Node { state: machine.power(), started }
            }
            Probe::Process { node, component } => {
                let process = self.process(node, *component)?;
                let (state, identity) = process.state();
                // A simulated process that may run uses the processor all the time.
                let ticks = process.ticks();
                Reading::Process { state, identity, ticks }
            }
            Probe::Health { node, component } => self.health(node, *component)?,
            Probe::Reach { from, to, traffic } => self.reach(from, to, *traffic)?,
            Probe::Dropped { id, node } => {
                self.machine(node)?;
                let world = self.world()?;
                let packets = world.network.dropped(id, node, &world.peers_up());
                Reading::Dropped {
                    in_place: packets.is_some(),
                    packets: packets.unwrap_or_default(),
                }
            }
            Probe::Containers { node, pod_uid } => {
                Reading::Containers { running: self.containers(node, pod_uid)? }
            }
            Probe::EtcdMember { node } => match self.etcd_status(node)? {
                Some(status) => Reading::EtcdMember {
                    member: status.member,
                    leader: status.leader,
                    term: status.term,
                    revision: status.revision,
                },
                None => Reading::Answer { ok: false, detail: "no answer".to_owned() },
            },
        })
    }

    fn observe(&mut self) -> BoxStream<'static, Observation> {
        let Some(world) = &self.world else { return futures::stream::empty().boxed() };
        let receiver = world.open_eye();
        let next = |mut receiver: tokio::sync::mpsc::UnboundedReceiver<Observation>| async move {
            let observation = receiver.recv().await?;
            Some((observation, receiver))
        };
        futures::stream::unfold(receiver, next).boxed()
    }

    async fn fingerprint(&mut self) -> Result<BTreeMap<String, String>, TargetError> {
        let world = self.world()?;
        let mut things: BTreeMap<String, String> = world
            .network
            .cuts()
            .into_iter()
            .map(|(id, cut)| (format!("cut {id}"), cut))
            .collect();
        for machine in world.nodes() {
            things.insert(format!("node {}", machine.name), format!("{:?}", machine.power()));
            for process in machine.processes() {
                let what = format!("process {} on {}", process.component(), machine.name);
                if process.is_held() {
                    things.insert(what, "held down".to_owned());
                } else if process.state().0 == ProcessState::Stopped {
                    things.insert(what, "stopped".to_owned());
                }
            }
        }
        things.insert(
            "nodes".to_owned(),
            format!(
                "{} control planes, {} workers",
                world.control_planes().count(),
                world.nodes().filter(|machine| machine.role == Role::Worker).count()
            ),
        );
        Ok(things)
    }

    async fn down(&mut self) -> BoxFuture<'static, Result<(), TargetError>> {
        if let Some(world) = self.world.take() {
            for machine in world.nodes() {
                machine.power_off();
            }
        }
        async { Ok(()) }.boxed()
    }
}
