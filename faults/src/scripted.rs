//! A scripted cluster for the tests of faults: state, a target over it, and API servers over it.
//!
//! Each way in which a mechanism can be broken is a switch: inert, stuck, without a network. The
//! fault under test cannot tell it from a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use shakedown_core::lever::{
    Component, ContainerFact, Lever, LeverKind, NodeState, Probe, ProcessState, Reading, Traffic,
    Undo,
};
use shakedown_core::target::{
    ClusterFact, ClusterSpec, Endpoint, NodeFact, Observation, Parameters, Progress, Role, Target,
    TargetError,
};

use crate::scripted_levers::{Levers, Quirks};
pub(crate) use crate::scripted_life::{life, life_amid, life_of, rule_step, spec};

/// How the cluster misbehaves.
#[derive(Default, Clone, Copy)]
struct Defects {
    inert: bool,
    stuck: bool,
    deaf_network: bool,
    cuts_both_ways: bool,
    stops_everything: bool,
    deletes_every_pod: bool,
    blind_kubelet: bool,
}

#[derive(Clone)]
struct Process {
    state: ProcessState,
    generation: u64,
    ticks: u64,
}

#[derive(Clone)]
struct ActiveCut {
    from: Vec<String>,
    to: Vec<String>,
    traffic: Traffic,
    packets: u64,
}

#[derive(Default)]
struct Inner {
    defects: Defects,
    nodes: BTreeMap<String, (NodeState, u64)>,
    processes: BTreeMap<(String, Component), Process>,
    cuts: BTreeMap<String, ActiveCut>,
    containers: BTreeMap<String, Vec<ContainerFact>>,
    objects: BTreeMap<String, Value>,
    revision: u64,
    deaf: Vec<String>,
    logged: Vec<Undo>,
    levers: Levers,
}

/// The cluster.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inner>>);

impl World {
    /// Three control planes and three workers in which everything does what it should.
    pub(crate) fn working() -> Self {
        Self::over(&["cp-1", "cp-2", "cp-3", "worker-1", "worker-2", "worker-3"])
    }

    /// No lever and no write through the API has an effect.
    pub(crate) fn inert() -> Self {
        Self::working().with(|defects| defects.inert = true)
    }

    fn over(names: &[&str]) -> Self {
        let mut inner = Inner { revision: 1, ..Inner::default() };
        for name in names {
            inner.nodes.insert((*name).to_owned(), (NodeState::Running, 1));
            let components =
                if name.starts_with("cp") { &Component::ALL[..4] } else { &Component::ALL[4..] };
            for component in components {
                let process = Process { state: ProcessState::Running, generation: 1, ticks: 10 };
                inner.processes.insert(((*name).to_owned(), *component), process);
            }
            if name.starts_with("worker") {
                inner.put(
                    &format!("/api/v1/nodes/{name}"),
                    json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {}}),
                );
            }
        }
        inner.put("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop"}}));
        for pod in ["web-a", "web-b"] {
            inner.put(
                &format!("/api/v1/namespaces/shop/pods/{pod}"),
                json!({
                    "metadata": {"name": pod, "namespace": "shop", "uid": format!("uid-{pod}")},
                    "spec": {"nodeName": "worker-1", "containers": [{"name": "app"}]},
                    "status": {"containerStatuses": [
                        {"name": "app", "restartCount": 0, "state": {"running": {}}},
                    ]},
                }),
            );
            inner.containers.entry("worker-1".to_owned()).or_default().push(ContainerFact {
                id: format!("container-{pod}"),
                pod_uid: format!("uid-{pod}"),
                namespace: "shop".to_owned(),
                pod: pod.to_owned(),
                container: "app".to_owned(),
            });
        }
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The same with these nodes only.
    pub(crate) fn of_nodes(self, names: &[&str]) -> Self {
        self.lock().nodes.retain(|name, _| names.contains(&name.as_str()));
        self
    }

    /// Undos have no effect.
    pub(crate) fn stuck(self) -> Self {
        self.with(|defects| defects.stuck = true)
    }

    /// Nobody reaches anybody, once something was done.
    pub(crate) fn without_network(self) -> Self {
        self.with(|defects| defects.deaf_network = true).quirky(|quirks| quirks.deaf_members = true)
    }

    /// A cut drops what flows back, too.
    pub(crate) fn that_cuts_both_ways(self) -> Self {
        self.with(|defects| defects.cuts_both_ways = true)
    }

    /// Stopping one process stops all of them.
    pub(crate) fn that_stops_everything(self) -> Self {
        self.with(|defects| defects.stops_everything = true)
    }

    /// Deleting one pod deletes all of them.
    pub(crate) fn that_deletes_every_pod(self) -> Self {
        self.with(|defects| defects.deletes_every_pod = true)
    }

    /// No pod's status ever changes.
    pub(crate) fn with_blind_kubelet(self) -> Self {
        self.with(|defects| defects.blind_kubelet = true)
    }

    /// Weather counts, and does nothing.
    pub(crate) fn of_empty_weather(self) -> Self {
        self.quirky(|quirks| quirks.empty_weather = true)
    }

    /// What is done to links, connections and clocks is done to all of them.
    pub(crate) fn of_weather_everywhere(self) -> Self {
        self.quirky(|quirks| quirks.everywhere = true)
    }

    /// History and disks cannot be lost, and no rule kills.
    pub(crate) fn that_forgets_nothing(self) -> Self {
        self.quirky(|quirks| quirks.forgets_nothing = true)
    }

    /// No component stamps what its clock says.
    pub(crate) fn that_stamps_true_time(self) -> Self {
        self.quirky(|quirks| quirks.true_stamps = true)
    }

    /// Every rule is met at once.
    pub(crate) fn that_meets_every_rule(self) -> Self {
        self.quirky(|quirks| quirks.meets_rules = true)
    }

    fn quirky(self, change: impl FnOnce(&mut Quirks)) -> Self {
        change(&mut self.lock().levers.quirks);
        self
    }

    /// The API server of this node fails every request.
    pub(crate) fn with_deaf_api_server(self, node: &str) -> Self {
        self.lock().deaf.push(node.to_owned());
        self
    }

    /// The object at this path, or null.
    pub(crate) fn object(&self, path: &str) -> Value {
        self.lock().objects.get(path).cloned().unwrap_or_default()
    }

    /// Changes the object at this path.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.lock();
        let mut object = inner.objects[path].clone();
        change(&mut object);
        inner.put(path, object);
    }

    /// Somebody else kills this node.
    pub(crate) fn loses(&self, node: &str) {
        self.lock().nodes.entry(node.to_owned()).and_modify(|(state, _)| *state = NodeState::Dead);
    }

    fn with(self, change: impl FnOnce(&mut Defects)) -> Self {
        change(&mut self.lock().defects);
        self
    }

    /// These undos are in the log.
    pub(crate) fn logs(&self, undos: Vec<Undo>) {
        self.lock().logged = undos;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The cluster as a fault sees it.
    pub(crate) fn cluster(&self) -> ClusterFact {
        let names = self.lock().nodes.keys().cloned().collect::<Vec<_>>();
        let role = |name: &str| {
            if name.starts_with("cp") { Role::ControlPlane } else { Role::Worker }
        };
        ClusterFact {
            nodes: names
                .into_iter()
                .map(|name| NodeFact { role: role(&name), address: "192.0.2.1".to_owned(), name })
                .collect(),
            parameters: Parameters::default(),
        }
    }
}

impl Inner {
    fn put(&mut self, path: &str, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.objects.insert(path.to_owned(), object);
    }

    fn pull(&mut self, lever: &Lever) {
        assert!(
            lever.undo() == Undo::Nothing || self.logged.contains(&lever.undo()),
            "{lever:?} was pulled although its undo was not logged"
        );
        if self.defects.inert {
            return;
        }
        let defects = self.defects;
        match lever.clone() {
            Lever::KillNode { node } => self.nodes.get_mut(&node).unwrap().0 = NodeState::Dead,
            Lever::PauseNode { node } => self.nodes.get_mut(&node).unwrap().0 = NodeState::Paused,
            Lever::KillProcess { node, component, hold } => {
                let process = self.processes.get_mut(&(node, component)).unwrap();
                process.generation += 1;
                process.state = if hold { ProcessState::Absent } else { ProcessState::Running };
            }
            Lever::StopProcess { node, component } => {
                for (key, process) in &mut self.processes {
                    if defects.stops_everything || *key == (node.clone(), component) {
                        process.state = ProcessState::Stopped;
                    }
                }
            }
            Lever::Cut { id, from, to, traffic } => {
                if defects.cuts_both_ways {
                    let back =
                        ActiveCut { from: to.clone(), to: from.clone(), traffic, packets: 0 };
                    self.cuts.insert(id.replace("-to", "-from"), back);
                }
                self.cuts.insert(id, ActiveCut { from, to, traffic, packets: 0 });
            }
            Lever::KillContainer { node, pod_uid, container } => {
                let all = self.containers.get_mut(&node).unwrap();
                all.retain(|fact| fact.pod_uid != pod_uid || fact.container != container);
                self.kubelet_notices(&pod_uid);
            }
            Lever::Meddle { ref node, component, .. } => {
                if self.levers.pull(lever) {
                    let process = self.processes.get_mut(&(node.clone(), component)).unwrap();
                    process.generation += 1;
                }
            }
            other => drop(self.levers.pull(&other)),
        }
    }

    fn kubelet_notices(&mut self, pod_uid: &str) {
        if self.defects.blind_kubelet {
            return;
        }
        for object in self.objects.values_mut() {
            if object["metadata"]["uid"] == pod_uid {
                object["status"]["containerStatuses"][0]["restartCount"] = json!(1);
            }
        }
    }

    fn undo(&mut self, undo: &Undo) {
        if self.defects.stuck {
            return;
        }
        match undo.clone() {
            Undo::StartNode { node } => {
                let (state, started) = self.nodes.get_mut(&node).unwrap();
                if *state == NodeState::Dead {
                    (*state, *started) = (NodeState::Running, *started + 1);
                }
            }
            Undo::UnpauseNode { node } => self.nodes.get_mut(&node).unwrap().0 = NodeState::Running,
            Undo::ReleaseProcess { node, component } => {
                self.processes.get_mut(&(node, component)).unwrap().state = ProcessState::Running;
            }
            Undo::ContinueProcess { node, component } => {
                self.processes.get_mut(&(node, component)).unwrap().state = ProcessState::Running;
            }
            Undo::Mend { ref id, .. } if self.cuts.contains_key(id) => {
                self.cuts.remove(id);
            }
            Undo::RemoveTaint { .. } | Undo::Uncordon { .. } | Undo::Nothing => {}
            other => self.levers.undo(&other),
        }
    }

    fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        Ok(match probe {
            Probe::Node { node } => {
                let (state, started) = self.nodes[node];
                Reading::Node { state, started: started.to_string() }
            }
            Probe::Process { node, component } => self.process(node, *component)?,
            Probe::Health { node, component } => {
                let process = self.processes.get(&(node.clone(), *component));
                let runs = process.is_some_and(|process| process.state == ProcessState::Running);
                // Nothing answers on a node that stands still or is gone.
                let stands = |node: &(NodeState, _)| node.0 == NodeState::Running;
                answer(runs && self.nodes.get(node).is_some_and(stands))
            }
            Probe::Reach { from, to, traffic } => answer(self.reach(from, to, *traffic)),
            Probe::Dropped { id, .. } => match self.cuts.get(id) {
                Some(cut) => Reading::Dropped { in_place: true, packets: cut.packets },
                None => return Err(unknown("cut", id)),
            },
            Probe::Containers { node, .. } => Reading::Containers {
                running: self.containers.get(node).cloned().unwrap_or_default(),
            },
            other => match self.levers.probe(other) {
                Some(reading) => reading,
                None => return Err(unknown("thing", &format!("{other:?}"))),
            },
        })
    }

    fn process(&mut self, node: &str, component: Component) -> Result<Reading, TargetError> {
        let Some(process) = self.processes.get_mut(&(node.to_owned(), component)) else {
            return Err(unknown("process", component.name()));
        };
        if process.state == ProcessState::Running {
            process.ticks += 1;
        }
        let absent = process.state == ProcessState::Absent;
        let generation = process.generation;
        Ok(Reading::Process {
            state: process.state.clone(),
            identity: if absent {
                String::new()
            } else {
                format!("{node}/{component}/{generation}")
            },
            ticks: process.ticks,
        })
    }

    fn reach(&mut self, from: &str, to: &str, traffic: Traffic) -> bool {
        let touched = self.nodes.values().any(|(state, _)| *state != NodeState::Running)
            || !self.cuts.is_empty();
        if self.defects.deaf_network && touched {
            return false;
        }
        let listens = match traffic {
            Traffic::All => true,
            _ => to.starts_with("cp"),
        };
        let runs =
            |node: &str| self.nodes.get(node).is_some_and(|node| node.0 == NodeState::Running);
        let mut ok = listens && runs(from) && runs(to);
        // The request first; the answer flows only if the request arrived.
        for (sender, receiver) in [(from, to), (to, from)] {
            for cut in self.cuts.values_mut() {
                let hit = cut.traffic == Traffic::All || cut.traffic == traffic;
                let on_path = cut.from.iter().any(|node| node == sender)
                    && cut.to.iter().any(|node| node == receiver);
                if ok && hit && on_path {
                    cut.packets += 1;
                    ok = false;
                }
            }
        }
        ok
    }

    fn serve(&mut self, node: &str, asked: (&str, &str, &str), body: &Value) -> (u16, Value) {
        if self.deaf.iter().any(|deaf| deaf == node) {
            return (503, status(503, "ServiceUnavailable"));
        }
        let runs = self.nodes.iter().filter(|(_, (state, _))| *state == NodeState::Running);
        let workers: Vec<_> =
            runs.map(|(name, _)| name.clone()).filter(|name| name.starts_with("worker")).collect();
        if let Some(answer) = self.levers.serve(node, asked, &workers) {
            return answer;
        }
        let (method, path, _) = asked;
        if method == "GET" && (path.ends_with("/nodes") || path.ends_with("/pods")) {
            let prefix = format!("{path}/");
            let items: Vec<_> = self
                .objects
                .iter()
                .filter(|(path, _)| path.starts_with(&prefix))
                .map(|(_, object)| object.clone())
                .collect();
            return (200, json!({"items": items}));
        }
        let Some(object) = self.objects.get(path).cloned() else {
            return (404, status(404, "NotFound"));
        };
        match method {
            "PATCH" => self.patched(path, object, body),
            "DELETE" => self.deleted(path, object, body),
            _ => (200, object),
        }
    }

    fn patched(&mut self, path: &str, mut object: Value, body: &Value) -> (u16, Value) {
        let asked = &body["metadata"]["resourceVersion"];
        if !asked.is_null() && *asked != object["metadata"]["resourceVersion"] {
            return (409, status(409, "Conflict"));
        }
        let adds = body["spec"]["unschedulable"] == true
            || body["spec"]["taints"].as_array().map_or(0, Vec::len)
                > object["spec"]["taints"].as_array().map_or(0, Vec::len);
        if (self.defects.inert && adds) || (self.defects.stuck && !adds) {
            return (200, object);
        }
        json_patch::merge(&mut object, body);
        self.put(path, object);
        (200, self.objects[path].clone())
    }

    fn deleted(&mut self, path: &str, object: Value, body: &Value) -> (u16, Value) {
        assert_eq!(body["preconditions"]["uid"], object["metadata"]["uid"]);
        if self.defects.inert {
            return (200, object);
        }
        let all = self.defects.deletes_every_pod;
        let paths: Vec<_> = self
            .objects
            .keys()
            .filter(|known| *known == path || (all && known.contains("/pods/")))
            .cloned()
            .collect();
        let grace = body["gracePeriodSeconds"].as_u64().unwrap_or(30);
        for path in paths {
            let mut going = self.objects[&path].clone();
            going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            going["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            self.put(&path, going);
            if grace == 0 {
                self.objects.remove(&path);
            }
        }
        (200, object)
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": reason})
}

fn answer(ok: bool) -> Reading {
    let detail = if ok { "answered" } else { "no answer within 1 s" };
    Reading::Answer { ok, detail: detail.to_owned() }
}

fn unknown(what: &'static str, name: &str) -> TargetError {
    TargetError::Unknown { what, name: name.to_owned(), known: String::new() }
}

#[async_trait::async_trait]
impl Target for World {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn abilities(&self) -> BTreeSet<LeverKind> {
        crate::ALL.iter().flat_map(|kind| kind.needs).copied().collect()
    }

    async fn boot(&mut self, _: &ClusterSpec, _: Progress<'_>) -> Result<ClusterFact, TargetError> {
        Ok(self.cluster())
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        ["cp-1", "cp-2"].into_iter().map(|node| endpoint(self.clone(), node)).collect()
    }

    async fn pull(&mut self, lever: &Lever) -> Result<(), TargetError> {
        self.lock().pull(lever);
        Ok(())
    }

    async fn undo(&mut self, undo: &Undo) -> Result<(), TargetError> {
        self.lock().undo(undo);
        Ok(())
    }

    async fn probe(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        let reading = self.lock().probe(probe);
        if let Ok(Reading::RoundTrip { micros }) = &reading {
            let waited = micros.map_or(Duration::from_secs(1), Duration::from_micros);
            tokio::time::sleep(waited).await;
        }
        reading
    }

    fn observe(&mut self) -> BoxStream<'static, Observation> {
        futures::stream::empty().boxed()
    }

    async fn fingerprint(&mut self) -> Result<BTreeMap<String, String>, TargetError> {
        Ok(BTreeMap::new())
    }

    async fn down(&mut self) -> BoxFuture<'static, Result<(), TargetError>> {
        Box::pin(async { Ok(()) })
    }
}

fn endpoint(world: World, node: &'static str) -> Endpoint {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let world = world.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            let query = parts.uri.query().unwrap_or_default();
            let asked = (parts.method.as_str(), parts.uri.path(), query);
            let (code, answer) = world.lock().serve(node, asked, &body);
            http::Response::builder()
                .status(code)
                .body(Full::new(Bytes::from(answer.to_string())))
                .map_err(|error| error.to_string())
        }
    });
    Endpoint { node: node.to_owned(), client: kube::Client::new(service, "default") }
}
