//! The end of a scenario: everything is healed, what was made is deleted, the cluster is calm again.
//!
//! Every part is tried whatever became of the others; what fails is told and closes the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::json;
use shakedown_core::kinds::KINDS;
use shakedown_core::sabotage::Sabotage;
use shakedown_core::target::Role;
use shakedown_core::timeline::What;
use shakedown_core::world::World;
use tokio::time::{Instant, sleep};

use crate::api::{Answer, Call, ask};
use crate::event_loop::EventLoop;
use crate::run::{Session, Stop};
use crate::undo::undo_all;

/// How long what was made may take to go: pods have 30 s by default.
const GONE_LIMIT: Duration = Duration::from_secs(180);
/// And how much longer for each pod: its events go one by one.
const GONE_EACH: Duration = Duration::from_millis(100);
/// How long the cluster may take to be as before.
const CALM_LIMIT: Duration = Duration::from_secs(180);
/// How long all undos may take together.
const UNDO_LIMIT: Duration = Duration::from_secs(300);
/// How much longer than its limit a scenario may take to be cleaned up.
const EXTRA: Duration = Duration::from_secs(1800);

impl Session<'_> {
    /// Heals, cleans up and ends the scenario.
    pub(crate) async fn finish(&mut self) {
        self.events.goal = None;
        self.events.awaited = None;
        self.events.untils.clear();
        self.events.deadline = Instant::now() + EXTRA;
        let forgets = self.plan.sabotaged(Sabotage::FaultNeverRemoved);
        if forgets {
            self.active.clear();
        }
        while let Some(active) = self.take_newest() {
            let healed = self.remove(active, None).await;
            self.tell("healing", healed);
        }
        if !forgets {
            let healed = self.see_healed().await;
            self.tell("healing", healed);
            let undone = self.undo_the_rest().await;
            self.tell("undoing", undone);
        }
        let stopped = self.stop_working().await;
        self.tell("stopping the workload", stopped);
        let rested = self.come_to_rest().await;
        self.tell("waiting until the Deployments are at rest", rested);
        let hashed = self.hash_stores().await;
        self.tell("asking etcd what it holds", hashed);
        let deleted = self.delete_all().await;
        self.tell("deleting what was made", deleted);
        let calm = self.calm().await;
        self.tell("waiting until the cluster is calm", calm);
        let fingerprint = self.fingerprint("after").await;
        self.tell("taking the fingerprint", fingerprint);
        self.tasks.abort_all();
        self.workers.abort_all();
        let ended = self
            .events
            .drain()
            .and_then(|()| self.events.seal())
            .and_then(|()| self.events.note(What::ScenarioEnded { id: self.plan.scenario.clone() }))
            .and_then(|()| self.events.recorder.flush());
        self.tell("ending", ended.map_err(Stop::from));
    }

    /// Notes what failed. A cluster that could not be cleaned up is closed.
    fn tell(&mut self, part: &str, outcome: Result<(), Stop>) {
        let Err(stop) = outcome else { return };
        self.is_quarantined = true;
        let (doing, why) = match stop {
            Stop::Failed { doing, why } => (doing, why),
            other => (part.to_string(), format!("{other:?}")),
        };
        (self.progress)(&format!("{doing}: {why}"));
        if let Err(error) = self.events.note(What::Trouble { doing, why }) {
            (self.progress)(&error.to_string());
        }
    }

    /// Undos that a fault left in the log: of an injection that failed half-way, or of a removal that did.
    async fn undo_the_rest(&mut self) -> Result<(), Stop> {
        if self.undo_log.pending().is_empty() {
            return Ok(());
        }
        let endpoints = self.endpoints.clone();
        let work = undo_all(&mut *self.target, &endpoints, self.undo_log);
        let failed = self.events.drive(UNDO_LIMIT, work).await?;
        let failed = failed.ok_or_else(|| Stop::failed("undoing", "it took too long"))?;
        match failed.first() {
            None => Ok(()),
            Some((logged, why)) => Err(Stop::failed(format!("undoing {:?}", logged.undo), why)),
        }
    }

    async fn stop_working(&mut self) -> Result<(), Stop> {
        if self.workers.is_empty() {
            return Ok(());
        }
        self.stop_work.set(true);
        let mut workers = std::mem::take(&mut self.workers);
        let all = async move { while workers.join_next().await.is_some() {} };
        if self.events.drive(Duration::from_secs(60), all).await?.is_none() {
            return Err(Stop::failed("stopping the workload", "a client hangs"));
        }
        self.read_all().await
    }

    /// Deletes the scenario's objects, then its namespace; waits until they are gone.
    async fn delete_all(&mut self) -> Result<(), Stop> {
        let made: Vec<String> = self.made.drain(..).rev().map(|(_, path)| path).collect();
        for path in made {
            self.delete(path).await?;
        }
        if self.namespace.is_empty() {
            return Ok(());
        }
        let namespace = self.namespace.clone();
        let pods = self.events.world().objects("pods").count();
        let limit = GONE_LIMIT + GONE_EACH * u32::try_from(pods).unwrap_or(u32::MAX);
        // Owners first, so that nothing is made again.
        for kind in ["deployments.apps", "replicasets.apps", "pods"] {
            let kind = KINDS.iter().find(|known| known.id == kind).expect("these are kinds");
            let names: Vec<String> = self
                .events
                .world()
                .objects(kind.id)
                .filter(|((ns, _), _)| *ns == namespace)
                .map(|((_, name), _)| name.clone())
                .collect();
            for name in names {
                self.delete(kind.path(&namespace, &name)).await?;
            }
        }
        let path =
            KINDS.iter().find(|kind| kind.word == "namespace").expect("namespaces are a kind");
        self.delete(path.path("", &namespace)).await?;
        let is_gone = |events: &EventLoop<'_>| is_gone(events.world(), &namespace);
        let time = Instant::now() + limit;
        if self.wait(time, is_gone).await? {
            return Ok(());
        }
        let left = left(self.events.world(), &namespace).join(", ");
        Err(Stop::failed("deleting what was made", format!("still there: {left}")))
    }

    async fn delete(&mut self, path: String) -> Result<(), Stop> {
        match self.ask(Call::delete(path, json!({"propagationPolicy": "Background"}))).await {
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            answer => Ok(answer.map(|_| ())?),
        }
    }

    /// What of the nodes must be afterwards as it was before.
    pub(crate) fn nodes_now(&self) -> BTreeMap<String, Value> {
        self.events
            .world()
            .objects("nodes")
            .map(|((_, name), node)| (name.clone(), marks(node)))
            .collect()
    }

    /// Waits until every node is Ready and without foreign taints, and every API server answers.
    async fn calm(&mut self) -> Result<(), Stop> {
        let time = Instant::now() + CALM_LIMIT;
        let workers = self.cluster.names(Role::Worker);
        let before = self.nodes_before.clone();
        let is_calm = |world: &World, name: &str| {
            let node = world.object("nodes", "", name);
            node.is_some_and(|node| {
                is_ready(node) && before.get(name).is_none_or(|was| *was == marks(node))
            })
        };
        let are_calm = |world: &World| workers.iter().all(|name| is_calm(world, name));
        if !self.wait(time, |events| are_calm(events.world())).await? {
            let world = self.events.world();
            let restless: Vec<&str> =
                workers.iter().map(String::as_str).filter(|name| !is_calm(world, name)).collect();
            let nodes = restless.join(", ");
            return Err(Stop::failed(
                "waiting until the cluster is calm",
                format!("not as before: {nodes}"),
            ));
        }
        let endpoints = self.endpoints.clone();
        let read = Call::get("/api/v1/namespaces/kube-system");
        for endpoint in &endpoints {
            let answers = async {
                while let Answer::Unknown(_) = ask(endpoint, &read, Duration::from_secs(2)).await {
                    sleep(Duration::from_millis(500)).await;
                }
            };
            if self.events.drive(CALM_LIMIT, answers).await?.is_none() {
                let why = format!("the API server on {} does not answer", endpoint.node);
                return Err(Stop::failed("waiting until the cluster is calm", why));
            }
        }
        Ok(())
    }
}

/// Whether nothing of a namespace is left. Asked after every event, so it looks at no pod.
fn is_gone(world: &World, namespace: &str) -> bool {
    !world.has_any("pods", namespace) && world.object("namespaces", "", namespace).is_none()
}

/// What of a namespace is left, as the witness sees it.
fn left(world: &World, namespace: &str) -> Vec<String> {
    let mut left: Vec<String> = world
        .objects("pods")
        .filter(|((ns, _), _)| ns == namespace)
        .map(|((_, name), _)| format!("pod {name}"))
        .collect();
    if world.object("namespaces", "", namespace).is_some() {
        left.push(format!("namespace {namespace}"));
    }
    left
}

fn is_ready(node: &json::Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(json::Value::as_array);
    conditions.is_some_and(|all| {
        all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// Taints, in an order of their own and without their times, and whether it is cordoned.
fn marks(node: &json::Value) -> Value {
    let taints = node.pointer("/spec/taints").and_then(json::Value::as_array);
    let mut taints: Vec<String> = taints
        .into_iter()
        .flatten()
        .map(|taint| format!("{}={}:{}", taint["key"], taint["value"], taint["effect"]))
        .collect();
    taints.sort();
    let cordoned =
        node.pointer("/spec/unschedulable").and_then(json::Value::as_bool).unwrap_or(false);
    json!({"taints": taints, "unschedulable": cordoned})
}
