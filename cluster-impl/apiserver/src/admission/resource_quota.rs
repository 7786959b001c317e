//! ResourceQuota: nobody takes more than the quotas of a namespace leave.
//!
//! What is used is raised in the transaction that writes the object, and only if the quotas are still
//! as they were read: so not one object too many is stored, however many are created at once and
//! through however many API servers. Those that go through the same server wait for one another, for
//! they would only make one another fail.
//! Limits: no `limitedResources` of an admission configuration; a quota counts from when a controller
//! has filled in its status and the server has seen it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use env::Sabotage;
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::conditions::seconds;
use machinery::kinds::RESOURCE_QUOTA;
use machinery::managed_fields::{self, Writer};
use machinery::quota::{self, Change};
use machinery::{Object, Status};
use storage::{Op, RangeRequest};
use tokio::sync::OwnedMutexGuard;

use super::{Operation, Plugin, Review, Step, nothing_to_do};
use crate::codec::encode;
use crate::picture::Picture;
use crate::server::ApiServer;
use crate::{status, storage_key};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ResourceQuota",
    stage: 34,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

/// So many namespaces' turns are kept before those that nobody waits for are dropped.
const TURNS_MAX: usize = 64;

/// Whose turn it is to write in a namespace that has quotas.
#[derive(Default)]
pub(crate) struct Turns {
    namespaces: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to write; others wait until every copy is dropped.
pub(crate) type Turn = Arc<OwnedMutexGuard<()>>;

impl Turns {
    /// Waits in order of arrival.
    async fn take(&self, namespace: &str) -> Turn {
        let turns = {
            let mut all = self.namespaces.lock().expect("no code panics while it holds the turns");
            if all.len() >= TURNS_MAX {
                all.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            all.entry(namespace.to_owned()).or_default().clone()
        };
        Arc::new(turns.lock_owned().await)
    }
}

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let is_update = match review.operation {
        Operation::Create => false,
        Operation::Update => true,
        Operation::Connect | Operation::Delete => return nothing_to_do(),
    };
    if quota::may_count(review.kind, review.subresource, is_update) {
        return charge(review).boxed();
    }
    nothing_to_do()
}

async fn charge(review: &mut Review<'_>) -> Result<(), Status> {
    let (server, namespace) = (review.server, review.key.namespace.as_str());
    if Picture::all(server, &RESOURCE_QUOTA, namespace).await?.is_empty() {
        return Ok(());
    }
    let is_unguarded = server.env.sabotaged(Sabotage::QuotaNotGuarded);
    let turn = match is_unguarded {
        true => None,
        false => Some(server.turns.take(namespace).await),
    };
    let before = read(server, namespace).await?;
    let mut quotas: Vec<Object> = before.iter().map(|(_, quota)| Object::clone(quota)).collect();
    let Some(new) = review.object.as_deref() else { return Ok(()) };
    let change = Change { kind: review.kind, old: review.old, new, now: server.env.now() };
    let changed = quota::charge(&mut quotas, change).map_err(|why| review.refusal(&why))?;
    if changed.is_empty() {
        return Ok(());
    }
    for at in changed {
        let (key, old) = &before[at];
        let new = &mut quotas[at];
        let time = seconds(server.env.now());
        let writer = Writer { manager: "kube-apiserver", subresource: "status", time: &time };
        managed_fields::update(&RESOURCE_QUOTA, writer, Some(old), new);
        if !is_unguarded {
            review.along.guards.push((key.clone(), old.revision()));
        }
        review.along.ops.push(Op::Put(key.clone(), encode(new), 0));
    }
    review.along.turn = turn;
    Ok(())
}

/// The quotas of a namespace as they are now, with their keys.
async fn read(server: &ApiServer, namespace: &str) -> Result<Vec<(Vec<u8>, Arc<Object>)>, Status> {
    let range = RangeRequest::latest(storage_key::range(&RESOURCE_QUOTA, namespace));
    let found = server.store.range(range).await.map_err(status::from_store)?;
    let quotas = found.kvs.iter().map(|kv| Ok((kv.key.to_vec(), server.decoded.object(kv)?)));
    quotas.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::future::join_all;
    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{MAPS, PODS, World, config_map, named, pod, text};
    use crate::{Config, User};

    const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

    /// A quota that a controller has looked at, in a world whose server follows quotas.
    async fn limit(world: &World, hard: Value) {
        let mut quota = named("v1", "ResourceQuota", "q");
        quota["spec"] = json!({"hard": hard});
        world.create(QUOTAS, quota).await;
        let used: serde_json::Map<_, _> =
            hard.as_object().unwrap().keys().map(|name| (name.clone(), "0".into())).collect();
        let status = json!({"status": {"hard": hard, "used": used}});
        world.patch(&format!("{QUOTAS}/q/status"), status).await;
        // The server follows quotas from the first write on that could count.
        let path = "/api/v1/namespaces/kube-system/configmaps?dryRun=All";
        world.create(path, config_map("first", "1")).await;
        world.env.sleep(Duration::from_secs(1)).await;
    }

    async fn used(world: &World, name: &str) -> String {
        let quota = world.get(&format!("{QUOTAS}/q")).await;
        text(&quota["status"]["used"][name]).to_owned()
    }

    /// Creates ConfigMaps at once, in turn through these servers; answers how many were stored.
    async fn storm(world: &World, servers: &[Arc<ApiServer>], count: usize) -> usize {
        let user = User::new("kubernetes-admin", &["system:masters"]);
        let creates = (0..count).map(|at| {
            let body = config_map(&format!("m-{at}"), "1").to_string();
            let request = http::Request::post(MAPS)
                .header("content-type", "application/json")
                .body(Bytes::from(body))
                .unwrap();
            servers[at % servers.len()].handle(user.clone(), request)
        });
        let codes: Vec<_> =
            join_all(creates).await.iter().map(|answer| answer.status().as_u16()).collect();
        assert!(codes.iter().all(|code| [201, 403].contains(code)), "{codes:?}");
        let stored = world.get(MAPS).await["items"].as_array().unwrap().len();
        assert_eq!(stored, codes.iter().filter(|code| **code == 201).count());
        stored
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_creates_at_once_exactly_as_many_as_fit_are_stored() {
        for servers in [1, 2, 3] {
            // A store of three members: every request takes its time, so that they overlap.
            let world = World::replicated().await;
            limit(&world, json!({"configmaps": "50"})).await;
            let mut all = vec![world.server.clone()];
            for _ in 1..servers {
                all.push(world.another().await);
            }
            assert_eq!(storm(&world, &all, 200).await, 50, "{servers} servers");
            assert_eq!(used(&world, "configmaps").await, "50", "{servers} servers");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sabotage_lets_more_through() {
        let world = World::replicated_with(&[Sabotage::QuotaNotGuarded], Config::default()).await;
        limit(&world, json!({"configmaps": "50"})).await;
        assert!(storm(&world, std::slice::from_ref(&world.server), 200).await > 50);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_refused_and_takes_nothing() {
        let world = World::new().await;
        limit(&world, json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"})).await;
        let with = |name: &str, cpu: &str| {
            let mut body = pod(name);
            body["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
            body
        };
        // A dry run looks, and takes nothing.
        world.create(&format!("{PODS}?dryRun=All"), with("a", "600m")).await;
        assert_eq!(used(&world, "pods").await, "0");
        world.create(PODS, with("a", "600m")).await;
        for (body, why) in [
            (
                with("b", "500m"),
                "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: \
                 requests.cpu=1",
            ),
            (pod("b"), "failed quota: q: must specify requests.cpu for: main"),
        ] {
            for path in [PODS.to_owned(), format!("{PODS}?dryRun=All")] {
                let (code, answer) = world.call(Method::POST, &path, &body).await;
                assert_eq!(code, 403);
                assert_eq!(text(&answer["message"]), format!("pods \"b\" is forbidden: {why}"));
            }
        }
        assert_eq!(
            (&*used(&world, "pods").await, &*used(&world, "requests.cpu").await),
            ("1", "600m")
        );
        // A write that fails for another reason takes nothing either.
        assert_eq!(world.call(Method::POST, PODS, &with("a", "100m")).await.0, 409);
        assert_eq!(used(&world, "pods").await, "1");
        // The quota changes at the revision of the object.
        let made = world.create(MAPS, config_map("m", "1")).await;
        let quota = world.get(&format!("{QUOTAS}/q")).await;
        assert_eq!(quota["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
        assert_eq!(world.call(Method::POST, MAPS, &config_map("n", "1")).await.0, 403);
        world.patch(&format!("{MAPS}/m"), json!({"data": {"key": "2"}})).await;
        let elsewhere = "/api/v1/namespaces/kube-system/configmaps";
        world.create(elsewhere, config_map("n", "1")).await;
        assert_eq!(used(&world, "count/configmaps").await, "1");
    }

    #[tokio::test(start_paused = true)]
    async fn updates_that_take_more_are_charged() {
        let world = World::new().await;
        limit(
            &world,
            json!({"services.nodeports": "1", "requests.cpu": "1", "requests.storage": "3Gi"}),
        )
        .await;
        let services = "/api/v1/namespaces/default/services";
        for name in ["a", "b"] {
            let mut service = named("v1", "Service", name);
            service["spec"] = json!({"ports": [{"port": 80}]});
            world.create(services, service).await;
        }
        let open = json!({"spec": {"type": "NodePort"}});
        world.patch(&format!("{services}/a"), open.clone()).await;
        let (code, answer) = world.call(Method::PATCH, &format!("{services}/b"), &open).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            "services \"b\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: \
             services.nodeports=1, limited: services.nodeports=1"
        );
        let close =
            json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}});
        let headers = [("content-type", "application/strategic-merge-patch+json")];
        world.call_with(Method::PATCH, &format!("{services}/a"), &headers, &close).await;
        assert_eq!(used(&world, "services.nodeports").await, "0", "what is given back is free");
        let mut body = pod("p");
        body["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "4"}});
        world.create(PODS, body).await;
        let resize = |cpu: &str| json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]}});
        let path = format!("{PODS}/p/resize");
        let grown = world.call_with(Method::PATCH, &path, &headers, &resize("900m")).await;
        assert_eq!((grown.0, &*used(&world, "requests.cpu").await), (200, "900m"), "{}", grown.1);
        let too_much = world.call_with(Method::PATCH, &path, &headers, &resize("2")).await;
        assert_eq!(too_much.0, 403, "{}", too_much.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_that_nobody_has_looked_at_limits_nothing() {
        let world = World::with(&[], Config::default()).await;
        let mut quota = named("v1", "ResourceQuota", "q");
        quota["spec"] = json!({"hard": {"configmaps": "0"}});
        world.create(QUOTAS, quota).await;
        for at in 0..3 {
            world.create(MAPS, config_map(&format!("m-{at}"), "1")).await;
            world.env.sleep(Duration::from_secs(1)).await;
        }
    }
}
