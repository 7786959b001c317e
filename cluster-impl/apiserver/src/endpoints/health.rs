//! `/livez`, `/readyz`, `/healthz`: named checks, open to everybody.
//!
//! A live server answers; a ready one also reaches its store and has made the cluster's namespaces.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use storage::{KeyRange, RangeRequest};

use crate::answer::{Answer, Content};
use crate::config::AuthorizationMode;
use crate::server::ApiServer;

/// A store that takes longer than this counts as unreachable; upstream's timeout.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers a probe, or one of its checks.
pub(crate) async fn answer(
    server: &ApiServer,
    probe: &str,
    only: &str,
    is_verbose: bool,
) -> Answer {
    let mut checks = vec![("ping", true), ("etcd", has_store(server).await)];
    if probe == "readyz" {
        let is_started = server.is_bootstrapped.load(Ordering::Relaxed);
        checks.push(("poststarthook/start-system-namespaces-controller", is_started));
        let modes = &server.config.authorization_modes;
        let has_roles = !modes.contains(&AuthorizationMode::Rbac) || server.authorizer.is_ready();
        checks.push(("poststarthook/rbac/bootstrap-roles", has_roles));
        checks.push(("shutdown", !*server.closing.borrow()));
    }
    if !only.is_empty() {
        checks.retain(|(name, _)| *name == only);
        if checks.is_empty() {
            return raw(404, "404 page not found\n".to_owned());
        }
    }
    let is_well = checks.iter().all(|(_, is_well)| *is_well);
    if is_well && !is_verbose {
        return raw(200, "ok".to_owned());
    }
    let mut text = String::new();
    for (name, is_well) in &checks {
        text.push_str(&match is_well {
            true => format!("[+]{name} ok\n"),
            false => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    text.push_str(&format!("{probe} check {}\n", if is_well { "passed" } else { "failed" }));
    raw(if is_well { 200 } else { 500 }, text)
}

async fn has_store(server: &ApiServer) -> bool {
    let asked = RangeRequest::latest(KeyRange::key("/registry/health"));
    let answer = tokio::time::timeout(STORE_TIMEOUT, server.store.range(asked)).await;
    matches!(answer, Ok(Ok(_)))
}

fn raw(code: u16, text: String) -> Answer {
    let mut answer = Answer::new(code, Content::Raw(TEXT.to_owned(), Bytes::from(text)));
    answer.headers.push((http::header::CACHE_CONTROL, "no-cache, private".to_owned()));
    answer
}
