//! The target `sim`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apiserver::User;
use env::{Sabotage, Task};
use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;
use shakedown_core::lever::{Component, Lever, LeverKind, Probe, ProcessState, Reading, Undo};
use shakedown_core::target::{
    ClusterFact, ClusterSpec, Endpoint, Observation, Progress, Role, Target, TargetError,
};

use crate::levers;
use crate::node::Node;
use crate::operator::Operator;
use crate::probes;
use crate::supervisor::supervise;
use crate::world::{Blueprint, World};

/// The target's name.
pub(crate) const NAME: &str = "sim";

/// Whom the harness asks as: a name that is no node's, so that no cut concerns it.
const OBSERVER: &str = "observer";
/// How long a boot may take, in virtual time.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How often a boot is looked at.
const BOOT_PERIOD: Duration = Duration::from_millis(500);

/// The orchestrator under virtual time. Only inside [`crate::run`].
pub struct SimTarget {
    seed: u64,
    operator: Option<Operator>,
    world: Option<Arc<World>>,
    endpoints: Vec<Endpoint>,
    /// The world's own tasks: supervisors and observers.
    tasks: Vec<Task<()>>,
}

impl SimTarget {
    /// A target whose every choice follows from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, operator: None, world: None, endpoints: Vec::new(), tasks: Vec::new() }
    }

    /// Lets a controller under test run on the first worker, as the component `operator`.
    pub fn with_operator(mut self, operator: Operator) -> Self {
        self.operator = Some(operator);
        self
    }

    /// The node whose etcd member leads with a quorum behind it, if there is one.
    pub fn leader(&self) -> Option<&str> {
        let world = self.world.as_ref()?;
        let leader = world.etcd.leader()?;
        let is_it = |node: &&Arc<Node>| node.has(Component::Etcd) && node.index == leader;
        world.nodes.values().find(is_it).map(|node| node.name())
    }

    /// How many requests API servers have been sent so far.
    pub fn requests(&self) -> u64 {
        self.world.as_ref().map_or(0, |world| world.meter.requests())
    }

    pub(crate) fn world(&self) -> Result<&Arc<World>, TargetError> {
        self.world.as_ref().ok_or_else(|| failed("asking the cluster", "it was not booted"))
    }

    /// Waits until every worker is Ready.
    async fn ready(&self, workers: usize, progress: Progress<'_>) -> Result<(), TargetError> {
        let mut seen = 0;
        let waiting = async {
            loop {
                let ready = self.ready_workers().await;
                if ready != seen {
                    seen = ready;
                    progress(&format!("{ready} of {workers} workers are Ready"));
                }
                if ready >= workers {
                    return;
                }
                tokio::time::sleep(BOOT_PERIOD).await;
            }
        };
        match tokio::time::timeout(BOOT_LIMIT, waiting).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let limit_s = BOOT_LIMIT.as_secs();
                let why = format!("{seen} of {workers} workers were Ready after {limit_s} s");
                Err(failed("booting the cluster", &why))
            }
        }
    }

    async fn ready_workers(&self) -> usize {
        let Some(endpoint) = self.endpoints.first() else { return 0 };
        let request = http::Request::get("/api/v1/nodes").body(Vec::new());
        let request = request.expect("a path alone makes a request");
        let Ok(list) = endpoint.client.request::<Value>(request).await else { return 0 };
        let is_ready = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        list["items"].as_array().into_iter().flatten().filter(is_ready).count()
    }

    fn kill_container(&self, node: &Node, uid: &str, container: &str) -> Result<(), TargetError> {
        let runtime = node.runtime.as_ref();
        let running = runtime.map(|runtime| runtime.running()).unwrap_or_default();
        let found = running.iter().find(|one| one.pod.uid == uid && one.container == container);
        let Some((runtime, found)) = runtime.zip(found) else {
            let known = running.iter().map(|one| format!("{} of {}", one.container, one.pod.uid));
            return Err(TargetError::Unknown {
                what: "running container",
                name: format!("{container} of {uid}"),
                known: known.collect::<Vec<_>>().join(", "),
            });
        };
        runtime.kill_container(&found.id);
        Ok(())
    }
}

pub(crate) fn failed(what: &str, why: &str) -> TargetError {
    TargetError::Failed { what: what.to_owned(), why: why.to_owned(), hint: String::new() }
}

/// The node of this name.
pub(crate) fn of_node<'w>(world: &'w World, name: &str) -> Result<&'w Arc<Node>, TargetError> {
    world.node(name).ok_or_else(|| TargetError::Unknown {
        what: "node",
        name: name.to_owned(),
        known: world.nodes.keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

/// What a component's process is doing, if the node has such a component.
pub(crate) fn known(
    node: &Node,
    component: Component,
) -> Result<(ProcessState, String, u64), TargetError> {
    if node.has(component) {
        return Ok(node.process(component));
    }
    let there = node.components().iter().map(|component| component.name());
    Err(TargetError::Unknown {
        what: "component",
        name: format!("{component} on {}", node.name()),
        known: there.collect::<Vec<_>>().join(", "),
    })
}

/// Every planted defect of the orchestrator: its name, and what it breaks.
pub fn sabotages() -> impl Iterator<Item = (&'static str, &'static str)> {
    Sabotage::ALL.iter().map(|sabotage| (sabotage.name(), sabotage.breaks()))
}

/// The planted defects of these names.
fn planted(names: &[String]) -> Result<Vec<Sabotage>, TargetError> {
    let parsed: Result<Vec<Sabotage>, String> = names.iter().map(|name| name.parse()).collect();
    parsed.map_err(|why| failed("planting defects", &why))
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
            LeverKind::Slow,
            LeverKind::Reset,
            LeverKind::Skew,
            LeverKind::LoseDisk,
            LeverKind::EtcdAdmin,
            LeverKind::Meddle,
            LeverKind::Api,
        ])
    }

    async fn boot(
        &mut self,
        spec: &ClusterSpec,
        progress: Progress<'_>,
    ) -> Result<ClusterFact, TargetError> {
        if spec.control_planes == 0 {
            return Err(failed("booting the cluster", "it needs a control plane"));
        }
        if self.operator.is_some() && spec.workers == 0 {
            return Err(failed("booting the cluster", "an operator needs a worker to run on"));
        }
        let world = World::new(&Blueprint {
            seed: self.seed,
            control_planes: spec.control_planes,
            workers: spec.workers,
            zones: spec.zones,
            parameters: spec.parameters,
            sabotages: &planted(&spec.sabotages_of_orchestrator())?,
            operator: self.operator.clone(),
        });
        world.meter.allow_for(u64::from(spec.control_planes + spec.workers));
        self.tasks = vec![world.env.spawn(world.clone().watch_members())];
        let control_planes = world.names(Role::ControlPlane);
        let workers = world.names(Role::Worker);
        for name in control_planes.iter().chain(&workers) {
            let node = of_node(&world, name)?;
            for component in node.components() {
                let supervisor = supervise(world.clone(), node.clone(), *component);
                self.tasks.push(world.env.spawn(supervisor));
            }
        }
        let admin = User::new("kubernetes-admin", &["system:masters"]);
        self.endpoints = control_planes
            .iter()
            .map(|node| Endpoint {
                node: node.clone(),
                client: world.kube_client(OBSERVER, node, &admin),
            })
            .collect();
        let nodes = control_planes.iter().chain(&workers);
        let nodes = nodes.map(|name| world.nodes[name].fact.clone()).collect();
        self.world = Some(world);
        self.ready(workers.len(), progress).await?;
        Ok(ClusterFact { nodes, parameters: spec.parameters })
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    async fn pull(&mut self, lever: &Lever) -> Result<(), TargetError> {
        let world = self.world()?;
        match lever {
            Lever::KillNode { node } => world.power_off(of_node(world, node)?),
            Lever::PauseNode { node } => world.pause(of_node(world, node)?, true),
            Lever::KillProcess { node, component, hold } => {
                let node = of_node(world, node)?;
                known(node, *component)?;
                if *hold {
                    world.hold(node, *component, true);
                }
                // What is killed does not stay stopped: the next process is a new one.
                world.stop(node, *component, false);
                world.end(node, *component);
            }
            Lever::StopProcess { node, component } => {
                let node = of_node(world, node)?;
                known(node, *component)?;
                world.stop(node, *component, true);
            }
            Lever::Cut { id, from, to, traffic } => {
                for name in from.iter().chain(to) {
                    of_node(world, name)?;
                }
                world.net.cut(id, from, to, *traffic);
                world.join_members();
            }
            Lever::KillContainer { node, pod_uid, container } => {
                self.kill_container(of_node(world, node)?, pod_uid, container)?;
            }
            Lever::Slow { id, from, to, traffic, weather } => {
                levers::slow(world, id, (from, to), (*traffic, *weather))?;
            }
            Lever::Reset { from, to, traffic } => levers::reset(world, from, to, *traffic)?,
            Lever::Skew { node, offset_us, rate_ppm } => {
                levers::skew(world, of_node(world, node)?, *offset_us, *rate_ppm);
            }
            Lever::LoseDisk { node } => levers::lose_disk(world, of_node(world, node)?)?,
            Lever::Compact => levers::compact(world).await?,
            Lever::MoveLeader { node } => levers::move_leader(world, of_node(world, node)?)?,
            Lever::Meddle { id, node, component, rule } => {
                let node = of_node(world, node)?;
                known(node, *component)?;
                levers::meddle(world, id, (node, *component), rule)?;
            }
        }
        Ok(())
    }

    async fn undo(&mut self, undo: &Undo) -> Result<(), TargetError> {
        let world = self.world()?;
        match undo {
            Undo::StartNode { node } => world.power_on(of_node(world, node)?),
            Undo::UnpauseNode { node } => world.pause(of_node(world, node)?, false),
            Undo::ReleaseProcess { node, component } => {
                let node = of_node(world, node)?;
                known(node, *component)?;
                world.hold(node, *component, false);
            }
            Undo::ContinueProcess { node, component } => {
                let node = of_node(world, node)?;
                known(node, *component)?;
                world.stop(node, *component, false);
            }
            Undo::Mend { id, nodes } => {
                world.net.mend(id, nodes);
                world.join_members();
            }
            Undo::Unskew { node } => levers::skew(world, of_node(world, node)?, 0, 0),
            Undo::Unmeddle { id } => world.meddling.lift(id),
            Undo::Nothing => {}
            Undo::RemoveTaint { .. } | Undo::Uncordon { .. } => {
                let what = "undo writes to the API".to_owned();
                return Err(TargetError::Unsupported { target: NAME, what });
            }
        }
        Ok(())
    }

    async fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        probes::answer(self.world()?, &self.endpoints, probe).await
    }

    async fn probe_all(&mut self, probes: &[Probe]) -> Vec<Result<Reading, TargetError>> {
        let world = match self.world() {
            Ok(world) => world,
            Err(why) => {
                return probes.iter().map(|_| Err(failed("asking", &why.to_string()))).collect();
            }
        };
        let answers = probes.iter().map(|probe| probes::answer(world, &self.endpoints, probe));
        futures::future::join_all(answers).await
    }

    fn observe(&mut self) -> BoxStream<'static, Observation> {
        let Some(world) = &self.world else { return futures::stream::pending().boxed() };
        let seen = world.observers.open(world.present());
        let seen = futures::stream::unfold(seen, |mut seen| async move {
            let observation = seen.recv().await?;
            Some((observation, seen))
        });
        seen.boxed()
    }

    async fn fingerprint(&mut self) -> Result<BTreeMap<String, String>, TargetError> {
        Ok(self.world()?.leftovers())
    }

    async fn down(&mut self) -> BoxFuture<'static, Result<(), TargetError>> {
        self.tasks.clear();
        self.endpoints.clear();
        if let Some(world) = self.world.take() {
            world.end_all();
        }
        async { Ok(()) }.boxed()
    }
}
