//! Registration of the node, its status, and its Lease in kube-node-lease.
//!
//! Two tasks, because a slow status write must never delay the lease: the lease alone keeps a node
//! from being taken for dead.

use std::sync::Arc;
use std::time::Duration;

use apiclient::{ApiError, PatchKind};
use env::{Sabotage, Timestamp};
use machinery::kinds::{LEASE, NODE};
use machinery::{Object, ObjectKey};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Shared;
use crate::node::{has_changed, labels, node_object, node_status};

/// Where the leases of nodes live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// As often a lease is tried at once before the next period (upstream's maxUpdateRetries).
const LEASE_TRIES: u32 = 5;
const REGISTER_FIRST: Duration = Duration::from_millis(100);
const REGISTER_MOST: Duration = Duration::from_secs(7);

/// Registers the node, then reports its status for ever. `own` is the node as the watch has it.
pub(crate) async fn report_node(cx: Arc<Shared>, own: watch::Receiver<Option<Arc<Object>>>) {
    let mut newest = Arc::new(register(&cx).await);
    let mut reported = cx.env.instant();
    let mut was_ready: Option<bool> = None;
    loop {
        if let Some(seen) = own.borrow().clone()
            && seen.revision() > newest.revision()
            && !cx.env.sabotaged(Sabotage::NodeStatusNotRenewed)
        {
            newest = seen;
        }
        let old = newest.get("/status").cloned().unwrap_or_default();
        let now = (cx.env.now(), cx.env.instant());
        let status = node_status(&cx.config, &cx.node, now, &old);
        let changed = has_changed(&old, &status);
        let mut wait = cx.config.status_frequency;
        if changed || reported.elapsed() >= cx.config.status_report_frequency {
            let ready = is_ready(&status);
            let patch = json!({"status": status});
            let key = ObjectKey::new("", cx.config.node_name.as_str());
            match cx.client.patch(&NODE, &key, "status", (PatchKind::Merge, &patch)).await {
                Ok(object) => {
                    newest = Arc::new(object);
                    reported = cx.env.instant();
                    if was_ready != Some(ready) {
                        was_ready = Some(ready);
                        let reason = if ready { "NodeReady" } else { "NodeNotReady" };
                        let message =
                            format!("Node {} status is now: {reason}", cx.config.node_name);
                        cx.events.normal(&newest, reason, message);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "node status not written");
                    wait = wait.min(Duration::from_secs(1));
                }
            }
        }
        tokio::select! {
            biased;
            () = cx.node.changed.notified() => {}
            () = cx.env.sleep(wait) => {}
        }
    }
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Creates the Node object, or takes the one that is there; answers it.
async fn register(cx: &Arc<Shared>) -> Object {
    let mut backoff = cx.env.backoff("register", REGISTER_FIRST, REGISTER_MOST);
    loop {
        match try_register(cx).await {
            Ok(node) => {
                let about = Arc::new(node.clone());
                cx.events.normal(&about, "Starting", "Starting kubelet.".to_owned());
                return node;
            }
            Err(error) => tracing::debug!(%error, "node not registered"),
        }
        cx.env.sleep(backoff.next_wait()).await;
    }
}

async fn try_register(cx: &Arc<Shared>) -> Result<Object, ApiError> {
    let key = ObjectKey::new("", cx.config.node_name.as_str());
    let now = (cx.env.now(), cx.env.instant());
    let status = node_status(&cx.config, &cx.node, now, &Value::Null);
    match cx.client.create(&NODE, &node_object(&cx.config, status)).await {
        Err(error) if error.is_already_exists() => {}
        other => return other,
    }
    let old = cx.client.get(&NODE, &key).await?;
    let boot = old.text("/status/nodeInfo/bootID");
    if !boot.is_empty() && boot != cx.config.machine.boot_id {
        let message = format!(
            "Node {} has been rebooted, boot id: {}",
            cx.config.node_name, cx.config.machine.boot_id
        );
        cx.events.warning(&Arc::new(old.clone()), "Rebooted", message);
    }
    let wanted = labels(&cx.config);
    let has = |(key, value): (&String, &Value)| old.label(key) == value.as_str();
    if wanted.as_object().is_some_and(|wanted| wanted.iter().all(has)) {
        return Ok(old);
    }
    let patch = json!({"metadata": {"labels": wanted}});
    cx.client.patch(&NODE, &key, "", (PatchKind::Merge, &patch)).await
}

/// Renews the node's lease for ever.
pub(crate) async fn renew_lease(cx: Arc<Shared>) {
    let mut lease: Option<Object> = None;
    loop {
        let started = cx.env.instant();
        for _ in 0..LEASE_TRIES {
            match renew(&cx, lease.take()).await {
                Ok(renewed) => {
                    lease = Some(renewed);
                    break;
                }
                // Whoever changed or removed the lease: look again at once.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => {
                    tracing::debug!(%error, "lease not renewed");
                    cx.env.sleep(Duration::from_millis(200)).await;
                }
            }
        }
        let next = started + cx.config.heartbeat;
        tokio::time::sleep_until(next).await;
    }
}

async fn renew(cx: &Arc<Shared>, known: Option<Object>) -> Result<Object, ApiError> {
    let name = cx.config.node_name.as_str();
    let key = ObjectKey::new(LEASE_NAMESPACE, name);
    let current = match known {
        Some(lease) => Some(lease),
        None => match cx.client.get(&LEASE, &key).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let is_new = current.is_none();
    let mut lease = current
        .unwrap_or_else(|| Object::new("coordination.k8s.io/v1", "Lease", LEASE_NAMESPACE, name));
    lease.set("/spec/holderIdentity", name);
    lease.set("/spec/leaseDurationSeconds", (cx.config.heartbeat * 4).as_secs());
    lease.set("/spec/renewTime", micro_time(cx.env.now()));
    if lease.owners().is_empty()
        && let Ok(node) = cx.client.get(&NODE, &ObjectKey::new("", name)).await
    {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid()});
        lease.set("/metadata/ownerReferences", json!([owner]));
    }
    if is_new {
        cx.client.create(&LEASE, &lease).await
    } else {
        cx.client.update(&LEASE, &lease).await
    }
}

/// RFC 3339 with six decimals, as `MicroTime` is written.
fn micro_time(at: Timestamp) -> String {
    format!("{at:.6}")
}
