//! `metrics.k8s.io/v1beta1`: what nodes and pods use, as `kubectl top` and autoscalers ask for it.
//!
//! Upstream a metrics-server of its own answers this, behind the aggregation layer. Here the API server does:
//! it has the way to every kubelet already, and a cluster without registry could not run the other.
//! An APIService `v1beta1.metrics.k8s.io` that names a Service takes its place.
//! The figures are asked of the kubelets (`/stats/summary`) at the moment of the question. CPU is a rate:
//! since an earlier look at a container that is long enough ago, else since its start; `window` says over
//! how long. Of what a kubelet says nothing, nothing is told, as metrics-server leaves it out.
//! Limits: no OpenAPI document; nodes use what their pods use, as their kubelets say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use env::Timestamp;
use futures::StreamExt;
use http::{Method, header};
use http_body_util::{BodyExt, Limited};
use machinery::conditions::seconds;
use machinery::kinds::{NODE, POD};
use machinery::{FieldSelector, Kind, LabelSelector, Object, ObjectKey, Status};
use serde_json::{Value, json};
use storage::{KeyRange, RangeRequest};

use crate::accept::{Accept, Form};
use crate::answer::Answer;
use crate::authorization::{self, Attributes};
use crate::config::User;
use crate::connect::kubelet;
use crate::query::Query;
use crate::route::Usage;
use crate::server::ApiServer;
use crate::{status, storage_key};

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "metrics.k8s.io/v1beta1";
/// A kubelet that takes longer is left out; metrics-server's default.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(10);
/// So many kubelets are asked at once.
const KUBELETS_MAX: usize = 32;
/// The largest summary that is read: 500 pods of some containers each.
const SUMMARY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A rate over less than this says little.
const WINDOW_MIN_NS: i128 = 10_000_000_000;

/// What containers had used of CPU when they were looked at: by node, then by container.
#[derive(Default)]
pub(crate) struct Samples(Mutex<BTreeMap<String, BTreeMap<String, Looks>>>);

/// One look at a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at_ns: i128,
    cpu_ns: u64,
}

/// The last two looks at a container that are far enough apart; the newer one first.
type Looks = [Option<Sample>; 2];

/// What one container uses.
#[derive(Debug, Clone, PartialEq)]
struct Figures {
    name: String,
    at_ns: i128,
    window_ns: i128,
    nano_cores: u64,
    memory_bytes: u64,
}

/// What the pods of one node use, by key.
type OfNode = BTreeMap<ObjectKey, Vec<Figures>>;

/// Answers a question about what is used.
pub(super) async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    asked: &Usage,
    request: &http::Request<Bytes>,
) -> Result<Answer, Status> {
    let verb = if asked.name.is_empty() { "list" } else { "get" };
    let attributes = Attributes {
        namespace: &asked.namespace,
        name: &asked.name,
        ..Attributes::resource(verb, GROUP, asked.plural)
    };
    authorization::authorize(server, user, &attributes).await?;
    if request.method() != Method::GET {
        return Err(status::method_not_allowed());
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accept = Accept::read(accept.unwrap_or_default(), "")?.without_protobuf()?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let kind: &'static Kind = if asked.plural == "nodes" { &NODE } else { &POD };
    let objects = selected(server, kind, asked, &query).await?;
    let items = match kind.id == NODE.id {
        true => of_nodes(server, objects).await?,
        false => of_pods(server, objects).await?,
    };
    let item_kind = if kind.id == NODE.id { "NodeMetrics" } else { "PodMetrics" };
    if asked.name.is_empty() {
        return Ok(Answer::value(match accept.form {
            Form::Table(version) => table(&items, version),
            _ => json!({"kind": format!("{item_kind}List"), "apiVersion": VERSION,
                "metadata": {}, "items": items}),
        }));
    }
    let Some(mut item) = items.into_iter().next() else {
        let name = match asked.namespace.as_str() {
            "" => asked.name.clone(),
            namespace => format!("{namespace}/{}", asked.name),
        };
        return Err(Status::not_found(GROUP, &item_kind.to_lowercase(), &name));
    };
    Ok(Answer::value(match accept.form {
        Form::Table(version) => table(&[item], version),
        _ => {
            item["kind"] = item_kind.into();
            item["apiVersion"] = VERSION.into();
            item
        }
    }))
}

/// The nodes or pods that are asked about, as they are stored.
async fn selected(
    server: &ApiServer,
    kind: &'static Kind,
    asked: &Usage,
    query: &Query,
) -> Result<Vec<Arc<Object>>, Status> {
    let wrong = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let labels =
        LabelSelector::parse(query.text("labelSelector")).map_err(|error| wrong(&error))?;
    let fields = FieldSelector::parse(query.text("fieldSelector"))
        .and_then(|fields| fields.check(kind).map(|()| fields))
        .map_err(|error| wrong(&error))?;
    let range = match asked.name.as_str() {
        "" => storage_key::range(kind, &asked.namespace),
        name => {
            let key = ObjectKey::new(asked.namespace.as_str(), name);
            KeyRange::key(storage_key::key(kind, &key))
        }
    };
    let found = server.store.range(RangeRequest::latest(range)).await;
    let mut objects = Vec::new();
    for kv in found.map_err(status::from_store)?.kvs {
        let object = server.decoded.object(&kv)?;
        if labels.matches_object(&object) && fields.matches(kind, &object) {
            objects.push(object);
        }
    }
    Ok(objects)
}

async fn of_nodes(server: &ApiServer, nodes: Vec<Arc<Object>>) -> Result<Vec<Value>, Status> {
    let used = ask_all(server, &nodes).await;
    let now = seconds(server.env.now());
    let items = nodes.iter().zip(used).filter_map(|(node, used)| {
        let used = used?;
        let all: Vec<&Figures> = used.values().flatten().collect();
        let window_ns = all.iter().map(|one| one.window_ns).max().unwrap_or_default();
        Some(json!({
            "metadata": metadata(node, &now), "timestamp": now, "window": window(window_ns),
            "usage": usage(
                all.iter().map(|one| one.nano_cores).sum(),
                all.iter().map(|one| one.memory_bytes).sum(),
            ),
        }))
    });
    Ok(items.collect())
}

async fn of_pods(server: &ApiServer, pods: Vec<Arc<Object>>) -> Result<Vec<Value>, Status> {
    let mut names: Vec<&str> = pods.iter().map(|pod| pod.text("/spec/nodeName")).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    let mut nodes = Vec::new();
    for name in names {
        let range = KeyRange::key(storage_key::key(&NODE, &ObjectKey::new("", name)));
        let found = server.store.range(RangeRequest::latest(range)).await;
        for kv in found.map_err(status::from_store)?.kvs {
            nodes.push(server.decoded.object(&kv)?);
        }
    }
    let used: OfNode = ask_all(server, &nodes).await.into_iter().flatten().flatten().collect();
    let items = pods.iter().filter_map(|pod| {
        let containers = used.get(&pod.key()).filter(|containers| !containers.is_empty())?;
        let at_ns = containers.iter().map(|one| one.at_ns).min()?;
        let window_ns = containers.iter().map(|one| one.window_ns).max()?;
        let at = seconds(Timestamp::from_nanosecond(at_ns).ok()?);
        let shown = containers
            .iter()
            .map(|one| json!({"name": one.name, "usage": usage(one.nano_cores, one.memory_bytes)}));
        Some(json!({
            "metadata": metadata(pod, &seconds(server.env.now())), "timestamp": at,
            "window": window(window_ns), "containers": shown.collect::<Vec<_>>(),
        }))
    });
    Ok(items.collect())
}

fn metadata(object: &Object, now: &str) -> Value {
    let mut metadata = json!({"name": object.name(), "creationTimestamp": now});
    if !object.namespace().is_empty() {
        metadata["namespace"] = object.namespace().into();
    }
    if let Some(labels) = object.get("/metadata/labels") {
        metadata["labels"] = labels.clone();
    }
    metadata
}

/// As metrics-server writes it: nanocores and kibibytes.
fn usage(nano_cores: u64, memory_bytes: u64) -> Value {
    let with = |amount: u64, unit: &str| {
        let text = format!("{amount}{unit}");
        // As short as it can be, as every quantity is told.
        text.parse::<machinery::Quantity>().map_or(text, |amount| amount.to_string())
    };
    json!({"cpu": with(nano_cores, "n"), "memory": with(memory_bytes / 1024, "Ki")})
}

/// A duration as Go writes it, to a millisecond.
fn window(ns: i128) -> String {
    let ms = ns / 1_000_000;
    let (minutes, ms) = (ms / 60_000, ms % 60_000);
    let mut seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
    while seconds.ends_with(['0', '.']) && seconds.contains('.') {
        seconds.pop();
    }
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn table(items: &[Value], version: &str) -> Value {
    let column = |name: &str, format: &str| json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    let total = |item: &Value, resource: &str| -> String {
        let of = |one: &Value| one["usage"][resource].as_str().unwrap_or("0").to_owned();
        match item["containers"].as_array() {
            None => of(item),
            Some(containers) => {
                let amounts = containers.iter().filter_map(|one| of(one).parse().ok());
                let sum = amounts
                    .fold(machinery::Quantity::ZERO, |sum, one: machinery::Quantity| sum + one);
                sum.to_string()
            }
        }
    };
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            json!({
                "cells": [item["metadata"]["name"], total(item, "cpu"), total(item, "memory"),
                    item["window"]],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": item["metadata"]},
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "columnDefinitions":
            [column("Name", "name"), column("cpu", ""), column("memory", ""), column("window", "")],
        "rows": rows,
    })
}

/// Asks the kubelets of these nodes, in order; `None` for one that does not answer.
async fn ask_all(server: &ApiServer, nodes: &[Arc<Object>]) -> Vec<Option<OfNode>> {
    let answers = nodes.iter().map(|node| async {
        let asked = tokio::time::timeout(KUBELET_TIMEOUT, ask(server, node)).await;
        match asked.unwrap_or_else(|_| Err("it takes too long".to_owned())) {
            Ok(used) => Some(used),
            Err(why) => {
                tracing::debug!(node = node.name(), why, "a kubelet says nothing of its usage");
                None
            }
        }
    });
    let answers: Vec<_> = answers.collect();
    futures::stream::iter(answers).buffered(KUBELETS_MAX).collect().await
}

async fn ask(server: &ApiServer, node: &Object) -> Result<OfNode, String> {
    let peer = kubelet::peer(server, node).map_err(|status| status.message)?;
    let request = http::Request::get("/stats/summary").body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = server.config.outbound.call(&peer, request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), SUMMARY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    let summary: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let now_ns = server.env.now().as_nanosecond();
    Ok(server.usage.take(node.name(), &summary, now_ns))
}

impl Samples {
    /// What a summary tells of the pods of a node. Pods of which a container is not known are left out.
    fn take(&self, node: &str, summary: &Value, now_ns: i128) -> OfNode {
        let mut all = self.0.lock().expect("no code panics while it holds the samples");
        let before = all.entry(node.to_owned()).or_default();
        let mut after = BTreeMap::new();
        let mut pods = OfNode::new();
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let text = |member: &str| pod["podRef"][member].as_str().unwrap_or_default();
            let containers = pod["containers"].as_array().into_iter().flatten();
            let mut look = |container: &Value| {
                let name = container["name"].as_str()?;
                let key = format!("{}/{name}", text("uid"));
                let looks = before.get(&key).copied().unwrap_or_default();
                let (figures, looks) = read(container, looks, now_ns)?;
                after.insert(key, looks);
                Some(figures)
            };
            let figures: Option<Vec<Figures>> = containers.map(&mut look).collect();
            if let Some(figures) = figures {
                pods.insert(ObjectKey::new(text("namespace"), text("name")), figures);
            }
        }
        *before = after;
        pods
    }
}

/// What one container uses, and what the next look is to be compared with.
fn read(container: &Value, looks: Looks, now_ns: i128) -> Option<(Figures, Looks)> {
    let time = |text: &Value| -> Option<i128> {
        Some(text.as_str()?.parse::<Timestamp>().ok()?.as_nanosecond())
    };
    let memory_bytes = container["memory"]["workingSetBytes"].as_u64()?;
    let cpu_ns = container["cpu"]["usageCoreNanoSeconds"].as_u64()?;
    let at_ns = time(&container["cpu"]["time"]).unwrap_or(now_ns);
    // A container that was started anew has used less than before.
    let [newer, older] =
        looks.map(|look| look.filter(|look| look.cpu_ns <= cpu_ns && look.at_ns <= at_ns));
    let settled = newer.filter(|look| at_ns - look.at_ns >= WINDOW_MIN_NS);
    let started = || Some(Sample { at_ns: time(&container["startTime"])?, cpu_ns: 0 });
    let from = settled.or(older).or_else(started)?;
    let window_ns = (at_ns - from.at_ns).max(1);
    let nano_cores = i128::from(cpu_ns - from.cpu_ns) * 1_000_000_000 / window_ns;
    let figures = Figures {
        name: container["name"].as_str()?.to_owned(),
        at_ns,
        window_ns,
        nano_cores: u64::try_from(nano_cores).ok()?,
        memory_bytes,
    };
    let looks = match newer {
        Some(_) if settled.is_none() => [newer, older],
        _ => [Some(Sample { at_ns, cpu_ns }), settled],
    };
    Some((figures, looks))
}

#[cfg(test)]
mod tests;
