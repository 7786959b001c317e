//! Aggregation: groups and versions that another server serves, as APIServices say.
//!
//! For what this server serves itself there are APIServices too, as upstream makes them; they are always
//! available. The others are checked every few seconds: one that answers is listed in discovery and gets the
//! requests for its paths ([`proxy`]); one that does not is 503.
//! Limits: a group's version that this server serves itself is never delegated; protocols other than HTTP are
//! not passed on; the OpenAPI documents of other servers are not merged.

mod check;
mod local;
mod proxy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use env::Task;
use machinery::kinds::API_SERVICE;
use machinery::{Object, Status};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::picture::Picture;
use crate::server::ApiServer;

pub(crate) use proxy::{answer, split};

/// How often other servers are asked whether they are there.
const PERIOD: Duration = Duration::from_secs(10);

/// What this server knows of others.
#[derive(Default)]
pub(crate) struct Aggregation {
    remotes: Mutex<BTreeMap<(String, String), Remote>>,
    /// Wakes the one task that asks them.
    work: Arc<Notify>,
    task: Mutex<Option<Task<()>>>,
}

/// One group and version that another server serves.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) object: Arc<Object>,
    /// What it serves, as it said last; `None` while it is not available.
    pub(crate) resources: Option<Value>,
}

impl Aggregation {
    /// Begins to look after APIServices, unless that was begun before.
    pub(crate) fn start(&self, server: &ApiServer) {
        let mut task = self.task.lock().expect("no code panics while it holds the task");
        if task.is_none() {
            *task = Some(server.env.spawn(run(server.myself.clone())));
        }
    }

    /// Looks again at once.
    pub(crate) fn wake(&self) {
        self.work.notify_one();
    }

    /// Who serves a group and version.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<Remote> {
        self.lock().get(&(group.to_owned(), version.to_owned())).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Remote>> {
        self.remotes.lock().expect("no code panics while it holds the remotes")
    }

    /// Adds what others serve to `APIGroupList`.
    pub(crate) fn join_groups(&self, list: &mut Value) {
        for ((group, version), remote) in self.lock().iter() {
            if remote.resources.is_none() {
                continue;
            }
            let own = json!({"groupVersion": format!("{group}/{version}"), "version": version});
            let Some(groups) = list["groups"].as_array_mut() else { return };
            match groups.iter_mut().find(|one| one["name"] == group.as_str()) {
                Some(known) => {
                    if let Some(versions) = known["versions"].as_array_mut() {
                        versions.push(own);
                    }
                }
                None => groups.push(json!({"name": group, "versions": [own.clone()],
                    "preferredVersion": own})),
            }
        }
    }

    /// The `APIGroup` of a group that only others serve.
    pub(crate) fn group(&self, group: &str) -> Option<Value> {
        let mut list = json!({"groups": []});
        self.join_groups(&mut list);
        let groups = list["groups"].as_array()?;
        let mut found = groups.iter().find(|one| one["name"] == group)?.clone();
        found["kind"] = "APIGroup".into();
        found["apiVersion"] = "v1".into();
        Some(found)
    }

    /// Adds what others serve to the aggregated form.
    pub(crate) fn join_aggregated(&self, list: &mut Value) {
        for ((group, version), remote) in self.lock().iter() {
            let resources = remote.resources.as_ref().map(|list| aggregated(list, group, version));
            let freshness = if resources.is_some() { "Current" } else { "Stale" };
            let own = json!({"version": version, "freshness": freshness,
                "resources": resources.unwrap_or_default()});
            let Some(items) = list["items"].as_array_mut() else { return };
            match items.iter_mut().find(|one| one["metadata"]["name"] == group.as_str()) {
                Some(known) => {
                    if let Some(versions) = known["versions"].as_array_mut() {
                        versions.push(own);
                    }
                }
                None => items.push(json!({"metadata": {"name": group}, "versions": [own]})),
            }
        }
    }
}

/// The resources of an `APIResourceList` in the aggregated form.
fn aggregated(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let all = || list["resources"].as_array().into_iter().flatten();
    let name = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
    let of = |one: &Value, field: &str, otherwise: &str| -> String {
        let text = one[field].as_str().filter(|text| !text.is_empty());
        text.unwrap_or(otherwise).to_owned()
    };
    let kind = |one: &Value| {
        json!({"group": of(one, "group", group), "version": of(one, "version", version),
            "kind": one["kind"]})
    };
    let mut found = Vec::new();
    for one in all().filter(|one| !name(one).contains('/')) {
        let own = name(one);
        let subresources: Vec<Value> = all()
            .filter_map(|other| {
                let whole = name(other);
                let subresource = whole.strip_prefix(&format!("{own}/"))?;
                Some(json!({"subresource": subresource, "verbs": other["verbs"],
                    "responseKind": kind(other)}))
            })
            .collect();
        let scope = if one["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut value = json!({"resource": own, "singularResource": one["singularName"],
            "scope": scope, "verbs": one["verbs"], "responseKind": kind(one)});
        for field in ["shortNames", "categories"] {
            if one[field].is_array() {
                value[field] = one[field].clone();
            }
        }
        if !subresources.is_empty() {
            value["subresources"] = subresources.into();
        }
        found.push(value);
    }
    found
}

/// Looks after APIServices for as long as the server is there.
async fn run(server: Weak<ApiServer>) {
    loop {
        let Some(strong) = server.upgrade() else { return };
        if let Err(error) = look(&strong).await {
            tracing::debug!(%error, "the APIServices could not be looked after");
        }
        let (env, work) = (strong.env.clone(), strong.aggregation.work.clone());
        drop(strong);
        tokio::select! {
            biased;
            () = work.notified() => {}
            () = env.sleep(PERIOD) => {}
        }
    }
}

async fn look(server: &Arc<ApiServer>) -> Result<(), Status> {
    server.customs.ready(server).await?;
    let all = Picture::all(server, &API_SERVICE, "").await?;
    local::keep(server, &all).await?;
    let mut remotes = BTreeMap::new();
    for object in all {
        if object.map("/spec/service").is_none() {
            continue;
        }
        let (group, version) = (object.text("/spec/group"), object.text("/spec/version"));
        let at = (group.to_owned(), version.to_owned());
        let checked = check::check(server, &object).await;
        check::tell(server, &object, &checked).await?;
        remotes.insert(at, Remote { object, resources: checked.ok() });
    }
    *server.aggregation.lock() = remotes;
    Ok(())
}

#[cfg(test)]
mod tests;
