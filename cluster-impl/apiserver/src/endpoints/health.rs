//! `/livez`, `/readyz`, `/healthz`: upstream's named checks, open to everybody.
//!
//! A live server answers, reaches its store, and has done what it does after its start; a ready one has
//! also read the kinds that it follows and is not about to go. Checks stand for what exists here; each has
//! the name under which upstream has the same.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use storage::{KeyRange, RangeRequest};

use crate::answer::{Answer, Content};
use crate::config::AuthorizationMode;
use crate::query::Query;
use crate::server::ApiServer;

/// A store that takes longer than this counts as unreachable; upstream's timeout.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

const TEXT: &str = "text/plain; charset=utf-8";

/// All checks of a probe, in upstream's order.
async fn checks(server: &ApiServer, probe: &str) -> Vec<(&'static str, bool)> {
    let is_ready = probe == "readyz";
    let has_store = has_store(server).await;
    let modes = &server.config.authorization_modes;
    let has_roles = !modes.contains(&AuthorizationMode::Rbac) || server.authorizer.is_ready();
    // A line of the log is written when it is made: nothing can be held up as it can be upstream.
    let mut checks = vec![("ping", true), ("log", true), ("etcd", has_store)];
    if is_ready {
        checks.push(("etcd-readiness", has_store));
        // Other kinds are followed from the first question on, which waits for them by itself.
        checks.push(("informer-sync", server.customs.is_read() && has_roles));
    }
    let is_started = server.is_bootstrapped.load(Ordering::Relaxed);
    checks.extend([
        ("poststarthook/crd-informer-synced", server.customs.is_read()),
        ("poststarthook/start-system-namespaces-controller", is_started),
        ("poststarthook/bootstrap-controller", is_started),
        ("poststarthook/rbac/bootstrap-roles", has_roles),
        ("poststarthook/scheduling/bootstrap-system-priority-classes", is_started),
    ]);
    if is_ready {
        checks.push(("shutdown", !*server.closing.borrow()));
    }
    checks
}

/// Answers a probe, or one of its checks.
pub(crate) async fn answer(server: &ApiServer, probe: &str, only: &str, query: &Query) -> Answer {
    let checks = checks(server, probe).await;
    for (name, is_well) in &checks {
        let status = if *is_well { "success" } else { "error" };
        server.metrics.health.set(&[name, probe], f64::from(u8::from(*is_well)));
        server.metrics.health_checks.add(&[name, status, probe], 1.0);
    }
    if !only.is_empty() {
        return match checks.iter().find(|(name, _)| *name == only) {
            None => raw(404, "404 page not found\n".to_owned()),
            Some((_, true)) => raw(200, "ok".to_owned()),
            Some((_, false)) => raw(500, "internal server error: reason withheld\n".to_owned()),
        };
    }
    let mut excluded: BTreeSet<&str> = query.all("exclude").collect();
    let mut text = String::new();
    let mut is_well = true;
    for (name, is_good) in &checks {
        text.push_str(&match (excluded.remove(name), is_good) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => {
                is_well = false;
                format!("[-]{name} failed: reason withheld\n")
            }
        });
    }
    if !excluded.is_empty() {
        let unknown: Vec<_> = excluded.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(", ")
        ));
    }
    if !is_well {
        return raw(500, format!("{text}{probe} check failed\n"));
    }
    match query.find("verbose") {
        Some(_) => raw(200, format!("{text}{probe} check passed\n")),
        None => raw(200, "ok".to_owned()),
    }
}

async fn has_store(server: &ApiServer) -> bool {
    let asked = RangeRequest::latest(KeyRange::key("/registry/health"));
    let answer = tokio::time::timeout(STORE_TIMEOUT, server.store.range(asked)).await;
    matches!(answer, Ok(Ok(_)))
}

fn raw(code: u16, text: String) -> Answer {
    let mut answer = Answer::new(code, Content::Raw(TEXT.to_owned(), Bytes::from(text)));
    answer.headers.push((header::CACHE_CONTROL, "no-cache, private".to_owned()));
    answer.headers.push((header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()));
    answer
}

#[cfg(test)]
mod tests {
    use http::Method;
    use http_body_util::BodyExt;

    use crate::testing::World;

    async fn asked(world: &World, path: &str) -> (u16, String) {
        let response = world.send(Method::GET, path, &[], Default::default()).await;
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    const HOOKS: &str = "[+]poststarthook/crd-informer-synced ok\n\
        [+]poststarthook/start-system-namespaces-controller ok\n\
        [+]poststarthook/bootstrap-controller ok\n\
        [+]poststarthook/rbac/bootstrap-roles ok\n\
        [+]poststarthook/scheduling/bootstrap-system-priority-classes ok\n";

    #[tokio::test(start_paused = true)]
    async fn probes_answer_as_upstreams() {
        let world = World::new().await;
        world.keep(world.env.spawn(world.server.clone().run()));
        world.env.sleep(std::time::Duration::from_secs(5)).await;
        for probe in ["livez", "healthz", "readyz"] {
            assert_eq!(asked(&world, &format!("/{probe}")).await, (200, "ok".to_owned()));
        }
        let (_, told) = asked(&world, "/livez?verbose").await;
        let first = "[+]ping ok\n[+]log ok\n[+]etcd ok\n";
        assert_eq!(told, format!("{first}{HOOKS}livez check passed\n"));
        let (_, told) = asked(&world, "/readyz?verbose=true").await;
        assert_eq!(
            told,
            format!(
                "{first}[+]etcd-readiness ok\n[+]informer-sync ok\n{HOOKS}[+]shutdown ok\n\
                 readyz check passed\n"
            )
        );
        for (path, answer) in [
            ("/livez/ping", (200, "ok")),
            ("/readyz/poststarthook/rbac/bootstrap-roles", (200, "ok")),
            ("/livez/shutdown", (404, "404 page not found\n")),
        ] {
            let (code, told) = asked(&world, path).await;
            assert_eq!((code, told.as_str()), answer, "{path}");
        }
        let (_, told) = asked(&world, "/livez?verbose&exclude=log&exclude=none").await;
        assert!(told.contains("[+]log excluded: ok\n"), "{told}");
        let warning = "warn: some health checks cannot be excluded: no matches for \"none\"\nlivez check passed\n";
        assert!(told.ends_with(warning), "{told}");
        world.cluster.set_up(0, false);
        let (code, told) = asked(&world, "/livez").await;
        assert_eq!(code, 500);
        assert_eq!(
            told,
            format!(
                "[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\n{HOOKS}livez check failed\n"
            )
        );
        assert_eq!(
            asked(&world, "/livez/etcd").await,
            (500, "internal server error: reason withheld\n".to_owned())
        );
        assert_eq!(asked(&world, "/livez?exclude=etcd").await, (200, "ok".to_owned()));
        world.cluster.set_up(0, true);
        world.server.shut_down();
        let (code, told) = asked(&world, "/readyz").await;
        assert!(code == 500 && told.contains("[-]shutdown failed: reason withheld\n"), "{told}");
        assert_eq!(asked(&world, "/livez").await.0, 200, "it is alive until it has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_not_started_says_what_it_waits_for() {
        let world = World::new().await;
        let (code, told) = asked(&world, "/livez").await;
        assert_eq!(code, 500);
        let waits = "[-]poststarthook/start-system-namespaces-controller failed: reason withheld\n";
        assert!(told.contains(waits), "{told}");
    }
}
