//! Custom resources as this server serves them: which there are, by the definitions that it follows.
//!
//! The definitions are followed from the first question on, or from the server's start. A definition that
//! changes makes new kinds; who watches by the old ones is sent away and comes back, as upstream.
//! Invariants: no question is answered before the definitions were listed once; what several servers do to
//! a definition's status is decided from its latest state and compared in the write, so that it does not
//! matter who is first.

mod convert;
mod definitions;
mod names;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use env::Task;
use futures::StreamExt;
use machinery::kinds::CUSTOM_RESOURCE_DEFINITION;
use machinery::openapi::Document;
use machinery::{Kind, Object, ObjectKey, Status, custom, openapi, openapi_v2};
use serde_json::Value;
use tokio::sync::Notify;

use crate::query::Query;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::list;
use crate::{hub, status};

pub(crate) use convert::{in_version, incoming, incoming_one, outgoing};
pub(crate) use definitions::mark_terminating;

/// How long a question waits for the first list of definitions.
const WAIT: Duration = Duration::from_secs(5);

/// The custom kinds of one server.
#[derive(Default)]
pub(crate) struct Customs {
    state: Mutex<State>,
    /// Wakes whoever waits for the first list, in order.
    first: Notify,
    /// Wakes the one task that looks after definitions.
    work: Arc<Notify>,
    tasks: Mutex<Vec<Task<()>>>,
}

#[derive(Default)]
struct State {
    is_read: bool,
    definitions: BTreeMap<String, Arc<Definition>>,
    /// Documents of the kinds as they are now, once somebody asked.
    third: Option<Arc<BTreeMap<String, Document>>>,
    second: Option<Arc<openapi_v2::Both>>,
}

/// A definition and the kinds that it makes.
pub(crate) struct Definition {
    pub(crate) object: Arc<Object>,
    /// The kinds of all versions, with whether they are served.
    kinds: Vec<(&'static Kind, bool)>,
    /// The kind in whose form objects are stored.
    pub(crate) storage: Option<&'static Kind>,
}

impl Definition {
    fn read(object: Arc<Object>) -> Self {
        let mut kinds = Vec::new();
        let mut storage = None;
        for version in object.list("/spec/versions") {
            let name = version["name"].as_str().unwrap_or_default();
            match custom::kind(&object.0, name) {
                Ok(Some(kind)) => {
                    kinds.push((kind, version["served"] == true));
                    if version["storage"] == true {
                        storage = Some(kind);
                    }
                }
                Ok(None) => {}
                Err(why) => tracing::error!(definition = object.name(), why, "not served"),
            }
        }
        Self { object, kinds, storage }
    }

    fn is_established(&self) -> bool {
        self.object.condition_status("Established") == "True"
    }

    /// The kinds that clients see.
    fn served(&self) -> impl Iterator<Item = &'static Kind> {
        let is_established = self.is_established();
        self.kinds
            .iter()
            .filter(move |(_, served)| *served && is_established)
            .map(|(kind, _)| *kind)
    }

    /// The kind of a version, served or not.
    pub(crate) fn of_version(&self, version: &str) -> Option<&'static Kind> {
        self.kinds.iter().map(|(kind, _)| *kind).find(|kind| kind.version == version)
    }
}

impl Customs {
    /// Begins to follow the definitions, unless that was begun before.
    pub(crate) fn start(&self, server: &ApiServer) {
        let mut tasks = self.tasks.lock().expect("no code panics while it holds the tasks");
        if tasks.is_empty() {
            tasks.push(server.env.spawn(run(server.myself.clone())));
            tasks.push(server.env.spawn(definitions::run(server.myself.clone())));
        }
    }

    /// Whether the definitions are known.
    pub(crate) fn is_read(&self) -> bool {
        self.lock().is_read
    }

    /// Returns once the definitions are known.
    pub(crate) async fn ready(&self, server: &ApiServer) -> Result<(), Status> {
        self.start(server);
        if self.lock().is_read {
            return Ok(());
        }
        let first = self.first.notified();
        if self.lock().is_read {
            return Ok(());
        }
        let _ = tokio::time::timeout(WAIT, first).await;
        if self.lock().is_read {
            return Ok(());
        }
        let why = "the server has not read its custom resource definitions yet";
        Err(status::retry(Status::new(503, "ServiceUnavailable", why), 1))
    }

    /// The kind that is served under a group, version and plural.
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        let state = self.lock();
        let definition = state.definitions.get(&format!("{plural}.{group}"))?;
        definition.served().find(|kind| kind.version == version)
    }

    /// The kind that is served under this `apiVersion` and name.
    pub(crate) fn named(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        self.all().into_iter().find(|one| one.kind == kind && one.api_version() == api_version)
    }

    /// The versions in which a kind is served.
    pub(crate) fn versions(&self, id: &str) -> Vec<&'static Kind> {
        self.definition(id).map(|known| known.served().collect()).unwrap_or_default()
    }

    /// All kinds that are served, in order of their definitions' names.
    pub(crate) fn all(&self) -> Vec<&'static Kind> {
        self.lock().definitions.values().flat_map(|one| one.served()).collect()
    }

    /// The definition of a kind.
    pub(crate) fn definition(&self, id: &str) -> Option<Arc<Definition>> {
        self.lock().definitions.get(id).cloned()
    }

    /// Whether a kind is as its definition says now.
    pub(crate) fn is_current(&self, kind: &'static Kind) -> bool {
        let known = self.definition(kind.id).and_then(|one| one.of_version(kind.version));
        known.is_some_and(|known| std::ptr::eq(known, kind))
    }

    /// The OpenAPI v3 documents, by path.
    pub(crate) fn documents(&self) -> Arc<BTreeMap<String, Document>> {
        let kinds = self.all();
        let mut state = self.lock();
        let made = state.third.get_or_insert_with(|| Arc::new(openapi::custom_documents(&kinds)));
        made.clone()
    }

    /// The OpenAPI v2 document; `None` if there is no custom kind.
    pub(crate) fn second(&self) -> Option<Arc<openapi_v2::Both>> {
        let kinds = self.all();
        if kinds.is_empty() {
            return None;
        }
        let mut state = self.lock();
        let made = state.second.get_or_insert_with(|| Arc::new(openapi_v2::with_custom(&kinds)));
        Some(made.clone())
    }

    fn objects(&self) -> Vec<Arc<Object>> {
        self.lock().definitions.values().map(|one| one.object.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the definitions")
    }

    /// Takes a definition in, or out; tells whether what it defines is another now.
    fn put(&self, name: &str, object: Option<Arc<Object>>) -> bool {
        let new = object.map(|object| Arc::new(Definition::read(object)));
        let mut state = self.lock();
        let is_same = |old: &Definition, new: &Definition| {
            let part = |one: &Definition| -> Option<Value> { one.object.get("/spec").cloned() };
            let names = |one: &Definition| one.object.get("/status/acceptedNames").cloned();
            old.is_established() == new.is_established()
                && part(old) == part(new)
                && names(old) == names(new)
        };
        let old = match new.clone() {
            Some(new) => state.definitions.insert(name.to_owned(), new),
            None => state.definitions.remove(name),
        };
        let is_changed = match (&old, &new) {
            (Some(old), Some(new)) => !is_same(old, new),
            (None, None) => false,
            _ => true,
        };
        if is_changed {
            (state.third, state.second) = (None, None);
        }
        is_changed
    }
}

/// Follows the definitions for as long as their server is there.
async fn run(server: Weak<ApiServer>) {
    let Some(env) = server.upgrade().map(|server| server.env.clone()) else { return };
    let mut backoff =
        env.backoff("definitions", Duration::from_millis(100), Duration::from_secs(5));
    while server.strong_count() > 0 {
        match follow(&server).await {
            Ok(()) => backoff.reset(),
            Err(error) => tracing::debug!(%error, "the definitions cannot be followed"),
        }
        // What was known stays known: to serve nothing would be worse than to serve what was.
        env.sleep(backoff.next_wait()).await;
    }
}

async fn follow(server: &Weak<ApiServer>) -> Result<(), Status> {
    let kind = &CUSTOM_RESOURCE_DEFINITION;
    let Some(strong) = server.upgrade() else { return Ok(()) };
    let selection = Selection::read(kind, &ObjectKey::new("", ""), &Query::parse(""))?;
    let found = list::everything(&strong, &selection, None).await?;
    let mut gone: Vec<String> = strong.customs.lock().definitions.keys().cloned().collect();
    for kv in &found.kvs {
        let object = strong.decoded.object(kv)?;
        gone.retain(|name| name != object.name());
        change(&strong, object.name(), Some(object.clone()));
    }
    for name in gone {
        change(&strong, &name, None);
    }
    let following = hub::follow(&strong, kind, &selection, found.revision + 1).await;
    let mut events = following.map_err(status::from_store)?.events;
    strong.customs.lock().is_read = true;
    strong.customs.first.notify_waiters();
    strong.customs.work.notify_one();
    drop(strong);
    while let Some(Ok(batch)) = events.next().await {
        let Some(strong) = server.upgrade() else { break };
        for event in batch.events {
            let Some(key) = crate::storage_key::parse(kind, &event.kv.key) else { continue };
            let object = match event.is_delete {
                true => None,
                false => Some(strong.decoded.object(&event.kv)?),
            };
            change(&strong, &key.name, object);
        }
        strong.customs.work.notify_one();
    }
    Ok(())
}

fn change(server: &ApiServer, name: &str, object: Option<Arc<Object>>) {
    if server.customs.put(name, object) {
        server.hubs.end(name);
    }
}

/// Refuses to make more of what is about to go.
pub(crate) fn check_create(server: &ApiServer, kind: &Kind) -> Result<(), Status> {
    let Some(definition) = server.customs.definition(kind.id) else { return Ok(()) };
    if definition.object.condition_status("Terminating") != "True" {
        return Ok(());
    }
    let message = "create not allowed while custom resource definition is terminating";
    Err(Status::new(405, "MethodNotAllowed", message))
}

#[cfg(test)]
mod admitted;
#[cfg(test)]
mod tests;
