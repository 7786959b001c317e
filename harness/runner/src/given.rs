//! What is there before the first step: the scenario's namespace, the given objects, the bound names.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::json;
use shakedown_core::kinds::Kind;
use shakedown_core::timeline::What;
use shakedown_core::world::{NAMESPACE, World};
use tokio::time::Instant;

use crate::api::{ApiError, Call, call};
use crate::event_loop::EventLoop;
use crate::run::{Session, Stop};

/// How long the given pods may take to be Ready.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// How long a request through all servers may take.
const CALL_LIMIT: Duration = Duration::from_secs(90);
/// How often an object is read anew because somebody else changed it.
const CONFLICTS_MAX: usize = 10;

/// An object that has to be ready: kind, namespace, name.
type Wanted = (&'static Kind, String, String);

impl Session<'_> {
    /// Asks the API while the timeline goes on.
    pub(crate) async fn ask(&mut self, request: Call) -> Result<Value, ApiError> {
        let endpoints = self.endpoints.clone();
        let what = request.what();
        let silent = |why: String| ApiError::Silent { what, why };
        match self.events.drive(CALL_LIMIT, call(&endpoints, &request)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(silent("it took too long".into())),
            Err(error) => Err(silent(error.to_string())),
        }
    }

    /// Merges fields into an object that nobody changed since it was read; reads it anew otherwise.
    ///
    /// Without that condition a try that nobody answered could happen long after it was tried again
    /// elsewhere, and take back what was asked for since.
    pub(crate) async fn change(&mut self, path: &str, fields: &Value) -> Result<Value, ApiError> {
        let mut last = None;
        for _ in 0..CONFLICTS_MAX {
            let found = self.ask(Call::get(path)).await?;
            let mut body = fields.clone();
            if body.pointer("/metadata/resourceVersion").is_none() {
                body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
            }
            match self.ask(Call::patch(path, body)).await {
                Err(error) if error.code() == Some(409) => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.expect("every round ended in a conflict"))
    }

    /// Deletes the object that bears this name now, and no later one.
    pub(crate) async fn delete_this(
        &mut self,
        path: &str,
        mut options: Value,
    ) -> Result<(), ApiError> {
        let found = self.ask(Call::get(path)).await?;
        options["preconditions"] = json!({"uid": found["metadata"]["uid"]});
        match self.ask(Call::delete(path, options)).await {
            // An earlier try was heard after all.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    /// Makes the scenario's namespace.
    pub(crate) async fn make_namespace(&mut self) -> Result<(), Stop> {
        let base: String =
            self.plan.scenario.rsplit('/').next().unwrap_or("scenario").chars().take(50).collect();
        let path = Kind::of_word("namespace").expect("namespaces are a kind").path("", "");
        loop {
            let name = format!("{base}-{}", self.suffix());
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            match self.ask(Call::create(&path, object)).await {
                // An earlier run with this seed left it, or an unanswered request made it.
                Err(error) if error.code() == Some(409) => continue,
                answer => answer?,
            };
            self.namespace = name.clone();
            self.events.note(What::Bound { name: NAMESPACE.into(), to: vec![name] })?;
            return Ok(());
        }
    }

    /// Makes the given objects, and waits until they are ready.
    pub(crate) async fn give(&mut self) -> Result<(), Stop> {
        let mut wanted = Vec::new();
        let plan = self.plan;
        for given in &plan.given {
            let mut object = given.object.clone();
            if let Some(who) = &given.on {
                let nodes = self.resolve(std::slice::from_ref(who)).await?;
                object["spec"]["nodeName"] = json!(nodes.first());
            }
            let (kind, namespace, name) = self.create(object).await?;
            if let Some(bound_as) = &given.bound_as {
                let to =
                    if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
                self.events.note(What::Bound { name: bound_as.clone(), to: vec![to] })?;
                // Later objects may be put where this one is: it must have been seen before.
                let patience = Instant::now() + READY_LIMIT;
                let is_seen = |events: &EventLoop<'_>| {
                    let seen = events.world().object(kind.id, &namespace, &name);
                    let placed = |object: &json::Value| {
                        kind.word != "pod"
                            || object["spec"]["nodeName"]
                                .as_str()
                                .is_some_and(|node| !node.is_empty())
                    };
                    seen.is_some_and(placed)
                };
                self.wait(patience, is_seen).await?;
            }
            wanted.push((kind, namespace, name));
        }
        let time = Instant::now() + READY_LIMIT;
        let all_ready =
            |events: &EventLoop<'_>| wanted.iter().all(|it| is_ready(events.world(), it));
        if self.wait(time, all_ready).await? {
            return Ok(());
        }
        let late: Vec<String> = wanted
            .iter()
            .filter(|it| !is_ready(self.events.world(), it))
            .map(|(kind, _, name)| format!("{} {name}", kind.word))
            .collect();
        let why = format!("not ready within {READY_LIMIT:?}: {}", late.join(", "));
        Err(Stop::failed("making what is given", why))
    }

    /// Creates an object, in the scenario's namespace if it names none; one that is there is changed.
    pub(crate) async fn create(&mut self, mut object: Value) -> Result<Wanted, Stop> {
        let text = |pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string()
        };
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let named = text("/metadata/namespace");
        let kind = Kind::of_manifest(&version, &kind).ok_or_else(|| {
            Stop::failed(format!("creating {kind} {name}"), "no such kind is known")
        })?;
        let namespace = match (kind.is_namespaced, named.is_empty()) {
            (false, _) => String::new(),
            (true, true) => self.namespace.clone(),
            (true, false) => named,
        };
        if kind.is_namespaced {
            object["metadata"]["namespace"] = json!(namespace);
        }
        match self.ask(Call::create(kind.path(&namespace, ""), object.clone())).await {
            Err(error) if error.code() == Some(409) => {
                self.change(&kind.path(&namespace, &name), &object).await?;
            }
            answer => {
                answer?;
                if namespace != self.namespace {
                    self.made.push((kind.id.to_string(), kind.path(&namespace, &name)));
                }
            }
        }
        Ok((kind, namespace, name))
    }

    /// Binds the plan's names.
    pub(crate) async fn bind(&mut self) -> Result<(), Stop> {
        let plan = self.plan;
        for (name, roles) in &plan.bind {
            let to = self.resolve(roles).await?;
            self.taken.extend(to.iter().cloned());
            self.events.note(What::Bound { name: name.clone(), to })?;
        }
        Ok(())
    }
}

/// Whether an object does what it is there for.
fn is_ready(world: &World, (kind, namespace, name): &Wanted) -> bool {
    if !kind.is_watched {
        return true;
    }
    let Some(object) = world.object(kind.id, namespace, name) else { return false };
    let number = |pointer: &str| object.pointer(pointer)?.as_i64();
    match kind.word {
        "pod" => is_pod_ready(object),
        "deployment" | "replicaset" => {
            let seen = number("/status/observedGeneration").unwrap_or(0);
            seen >= number("/metadata/generation").unwrap_or(0)
                && number("/status/readyReplicas").unwrap_or(0)
                    == number("/spec/replicas").unwrap_or(1)
        }
        _ => true,
    }
}

fn is_pod_ready(pod: &json::Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(json::Value::as_array);
    let is_true =
        |condition: &json::Value| condition["type"] == "Ready" && condition["status"] == "True";
    let phase = pod.pointer("/status/phase").and_then(json::Value::as_str);
    phase == Some("Succeeded") || conditions.is_some_and(|all| all.iter().any(is_true))
}
