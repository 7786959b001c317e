//! The text of `/metrics`: what was counted, and what is looked up at the moment of the question.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use machinery::exposition::Family;
use machinery::exposition::Shape::Gauge;
use storage::{KeyRange, RangeRequest};

use crate::endpoints::version;
use crate::server::ApiServer;
use crate::storage_key;

/// A store that takes longer than this to count is not waited for.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// All families.
pub(crate) async fn text(server: &Arc<ApiServer>) -> String {
    let metrics = &server.metrics;
    let mut text = String::new();
    for family in metrics.families() {
        family.write(&mut text);
    }
    inflight(server).write(&mut text);
    objects(server).await.write(&mut text);
    revisions(server).write(&mut text);
    build_info().write(&mut text);
    if let Some(more) = &server.config.process_metrics {
        text.push_str(&more());
    }
    text
}

pub(super) fn inflight(server: &ApiServer) -> Family {
    let family = Family::new(
        "apiserver_current_inflight_requests",
        Gauge,
        &["request_kind"],
        "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
    );
    for (kind, is_write) in [("mutating", true), ("readOnly", false)] {
        family.set(&[kind], server.metrics.pool(is_write).load(Ordering::Relaxed) as f64);
    }
    family
}

/// How many objects of each kind are stored; -1 if the store does not say.
pub(super) async fn objects(server: &Arc<ApiServer>) -> Family {
    let family = Family::new(
        "apiserver_storage_objects",
        Gauge,
        &["resource"],
        "[STABLE] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
    );
    let kinds = machinery::kinds::ALL.iter().copied().chain(server.customs.all());
    let counts = kinds.map(|kind| async move {
        let range = KeyRange::prefix(storage_key::prefix(kind).into_bytes());
        // The nearest member will do, and one key: the count comes with it.
        let asked = RangeRequest { serializable: true, limit: 1, ..RangeRequest::latest(range) };
        let answer = tokio::time::timeout(COUNT_TIMEOUT, server.store.range(asked)).await;
        let count = answer.ok().and_then(Result::ok).map_or(-1.0, |found| found.count as f64);
        (kind.id, count)
    });
    for (id, count) in join_all(counts).await {
        family.set(&[id], count);
    }
    family
}

/// How far each hub is.
pub(super) fn revisions(server: &ApiServer) -> Family {
    let family = Family::new(
        "apiserver_watch_cache_resource_version",
        Gauge,
        &["resource"],
        "[ALPHA] Current resource version of watch cache broken by resource type.",
    );
    for (id, revision) in server.hubs.revisions() {
        family.set(&[id], revision as f64);
    }
    family
}

pub(super) fn build_info() -> Family {
    let family = Family::new(
        "kubernetes_build_info",
        Gauge,
        &[
            "build_date",
            "compiler",
            "git_commit",
            "git_tree_state",
            "git_version",
            "go_version",
            "major",
            "minor",
            "platform",
        ],
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
    );
    let version = version::version();
    let told = |member: &str| version[member].as_str().unwrap_or_default();
    let values = [
        "buildDate",
        "compiler",
        "gitCommit",
        "gitTreeState",
        "gitVersion",
        "goVersion",
        "major",
        "minor",
        "platform",
    ];
    family.set(&values.map(told), 1.0);
    family
}
