//! update: an object replaced, whole or only its status.
//!
//! What a writer may not touch is carried over from the old object: identity and deletion always,
//! the status by a write of the object, everything else by a write of the status.

use std::sync::Arc;

use env::Sabotage;
use futures::FutureExt;
use machinery::conditions::seconds;
use machinery::{Cause, Kind, Object, ObjectKey, Status, managed_fields, versions};

use crate::admission::{self, Operation, Review};
use crate::answer::{Answer, Content};
use crate::authorization::escalation;
use crate::commit::{self, Decision, Written};
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::create::{self, Owners};
use crate::{allocation, decode, meta, signing, status};

/// Kinds that must be replaced with a revision: their writers compete.
const CONDITIONAL: [&str; 3] =
    ["leases.coordination.k8s.io", "poddisruptionbudgets.policy", "serviceaccounts"];
/// Kinds that a replacement creates if they are not there.
const CREATED: [&str; 5] =
    ["endpoints", "events", "leases.coordination.k8s.io", "limitranges", "services"];

/// Replaces an object or its status with what the body holds.
pub(crate) async fn update(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object(&server.config, request)?;
    let written = update_object(server, request, body).await?;
    let code = if written.is_created { 201 } else { 200 };
    Ok(Answer::new(code, Content::Object(request.kind, written.stored)))
}

async fn update_object(
    server: &ApiServer,
    request: &Request,
    body: Object,
) -> Result<Written, Status> {
    check_names(&request.key, &body)?;
    let kind = request.kind;
    let is_created = request.subresource.is_empty() && CREATED.contains(&kind.id);
    let wanted = &body;
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(kind, &request.key))?;
            if !server.env.sabotaged(Sabotage::PreconditionIgnored) {
                check_preconditions(kind, &old, wanted)?;
            }
            replace(server, request, &old, wanted.clone(), Owners::Noted).await
        }
        .boxed()
    };
    let written = commit::change(server, request, &request.key, &mut decide).await;
    match written {
        Err(missing) if is_created && missing.code == 404 && body.resource_version().is_empty() => {
            create::create_object(server, request, body, Owners::Noted).await
        }
        written => written,
    }
}

/// What comes of replacing `old` by `new`, as far as the request's subresource reaches.
pub(crate) async fn replace(
    server: &ApiServer,
    request: &Request,
    old: &Arc<Object>,
    mut new: Object,
    owners: Owners,
) -> Result<Decision, Status> {
    let kind = request.kind;
    let note = |new: &mut Object| {
        if owners == Owners::Noted {
            let time = seconds(server.env.now());
            managed_fields::update(versions::stored(kind), request.writer(&time), Some(old), new);
        }
    };
    if new.name().is_empty() {
        new.set("/metadata/name", old.name());
    }
    check_names(&old.key(), &new)?;
    if kind.namespaced {
        new.set("/metadata/namespace", old.namespace());
    }
    meta::carry_over(old, &mut new);
    kind.set_defaults(&mut new);
    match request.subresource.as_str() {
        "status" => {
            let given = new.remove("/metadata/managedFields");
            kind.prepare_status_update(&mut new, old);
            match (owners, given) {
                (Owners::Noted, _) => note(&mut new),
                (Owners::Given, Some(given)) => new.set("/metadata/managedFields", given),
                (Owners::Given, None) => {}
            }
        }
        "approval" => {
            signing::approve(&server.env, &mut new, old);
            note(&mut new);
        }
        // Finalizing reaches what a write of the namespace itself may not touch.
        "finalize" => note(&mut new),
        _ => {
            // As upstream, before the server changes anything on its own account.
            note(&mut new);
            kind.prepare_replaced(&mut new, old);
            if !server.env.sabotaged(Sabotage::GenerationNotCounted) {
                meta::count_generation(kind, old, &mut new);
            }
        }
    }
    if let Some(taken) = request.taken.get() {
        let range = &server.config.service_cluster_ip_range;
        allocation::assign(&server.env, range, taken, &mut new, Some(old))?;
    }
    let mut review = Review {
        object: Some(&mut new),
        old: Some(old),
        ..Review::new(server, request, Operation::Update)
    };
    admission::mutate(&mut review).await?;
    let mut causes = kind.problems(&new, Some(old));
    causes.extend(signing::validate(kind, &request.subresource, &new, old));
    if !causes.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, new.name(), &causes));
    }
    escalation::check(server, &request.user, kind, &new, Some(old))?;
    let review = Review {
        object: Some(&mut new),
        old: Some(old),
        ..Review::new(server, request, Operation::Update)
    };
    let along = admission::validate(review).await?;
    if meta::is_released(kind, old, &new) {
        return Ok(Decision::Remove(Box::new(new)));
    }
    managed_fields::keep_times(old, &mut new);
    Ok(Decision::Put(Box::new(new), along))
}

/// Refuses a body that was made for another object or for another state of it.
pub(crate) fn check_preconditions(kind: &Kind, old: &Object, new: &Object) -> Result<(), Status> {
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new.uid(),
            old.uid()
        );
        return Err(status::conflict(kind, &old.key(), &why));
    }
    match new.resource_version() {
        "" | "0" if CONDITIONAL.contains(&kind.id) => {
            let cause = Cause {
                reason: "FieldValueInvalid".into(),
                message: "Invalid value: 0x0: must be specified for an update".into(),
                field: "metadata.resourceVersion".into(),
            };
            Err(Status::invalid(kind.group, kind.kind, old.name(), &[cause]))
        }
        "" | "0" => Ok(()),
        revision if revision == old.resource_version() => Ok(()),
        _ => Err(status::stale(kind, &old.key())),
    }
}

/// Refuses a body that names another object than the URL does.
pub(crate) fn check_names(key: &ObjectKey, object: &Object) -> Result<(), Status> {
    if object.name() != key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            key.name
        )));
    }
    if !object.namespace().is_empty() && object.namespace() != key.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the URL ({})",
            object.namespace(),
            key.namespace
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use http::Method;
    use serde_json::{Value, json};

    use crate::testing::{
        DEPLOYMENTS, MAPS, PODS, World, config_map, deployment, named, pod, text,
    };

    fn path(collection: &str, name: &str) -> String {
        format!("{collection}/{name}")
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_replaces_and_a_no_op_does_not_write() {
        let world = World::new().await;
        let mut map = world.create(MAPS, config_map("a", "1")).await;
        let uid = map["metadata"]["uid"].clone();
        world.audit();
        map["data"] = json!({"other": "2"});
        map["metadata"]["creationTimestamp"] = "2000-01-01T00:00:00Z".into();
        let updated = world.update(&path(MAPS, "a"), &map).await;
        assert_eq!(updated["data"], json!({"other": "2"}));
        assert_eq!(updated["metadata"]["uid"], uid);
        assert!(text(&updated["metadata"]["creationTimestamp"]).starts_with("2026"));
        assert_ne!(updated["metadata"]["resourceVersion"], map["metadata"]["resourceVersion"]);
        let same = world.update(&path(MAPS, "a"), &updated).await;
        assert_eq!(same, updated);
        let audit = world.audit();
        assert!(audit[0].revision > 0);
        assert_eq!((audit[1].code, audit[1].revision), (200, 0), "nothing was written");
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_updates_are_refused_and_change_nothing() {
        let world = World::new().await;
        let old = world.create(MAPS, config_map("a", "1")).await;
        let now = world.patch(&path(MAPS, "a"), json!({"data": {"key": "2"}})).await;
        let mut other_uid = now.clone();
        other_uid["metadata"]["uid"] = "b".into();
        let mut renamed = now.clone();
        renamed["metadata"]["name"] = "b".into();
        for (name, body, code, message) in [
            (
                "a",
                &old,
                409,
                "Operation cannot be fulfilled on configmaps \"a\": the object has been \
                modified; please apply your changes to the latest version and try again",
            ),
            ("a", &other_uid, 409, ""),
            (
                "a",
                &renamed,
                400,
                "the name of the object (b) does not match the name on the URL (a)",
            ),
            ("b", &renamed, 404, "configmaps \"b\" not found"),
        ] {
            let (found, answer) = world.call(Method::PUT, &path(MAPS, name), body).await;
            assert_eq!(found, code, "{answer}");
            if !message.is_empty() {
                assert_eq!(text(&answer["message"]), message);
            }
        }
        assert_eq!(world.get(&path(MAPS, "a")).await, now);
    }

    #[tokio::test(start_paused = true)]
    async fn some_kinds_must_name_a_revision_and_some_are_created() {
        let world = World::new().await;
        let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
        let lease = named("coordination.k8s.io/v1", "Lease", "a");
        let (code, _) = world.call(Method::PUT, &path(leases, "a"), &lease).await;
        assert_eq!(code, 201, "a missing lease is created");
        let (code, answer) = world.call(Method::PUT, &path(leases, "a"), &lease).await;
        assert_eq!(code, 422, "{answer}");
        assert_eq!(answer["details"]["causes"][0]["field"], "metadata.resourceVersion");
        world.create(MAPS, config_map("a", "1")).await;
        let updated = world.update(&path(MAPS, "a"), &config_map("a", "2")).await;
        assert_eq!(updated["data"]["key"], "2", "a map may be replaced unconditionally");
    }

    #[tokio::test(start_paused = true)]
    async fn status_and_spec_do_not_reach_each_other() {
        let world = World::new().await;
        let created = world.create(PODS, pod("web")).await;
        let mut body = created.clone();
        body["status"]["phase"] = "Running".into();
        body["spec"]["containers"][0]["image"] = "web:2".into();
        let after = world.update(&path(PODS, "web"), &body).await;
        assert_eq!(after["status"]["phase"], "Pending");
        assert_eq!(after["spec"]["containers"][0]["image"], "web:2");
        body["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"].clone();
        body["spec"]["containers"][0]["image"] = "web:3".into();
        let after = world.update(&format!("{PODS}/web/status"), &body).await;
        assert_eq!(after["status"]["phase"], "Running");
        assert_eq!(after["spec"]["containers"][0]["image"], "web:2");
        let (code, _) = world.call(Method::GET, &format!("{MAPS}/a/status"), &Value::Null).await;
        assert_eq!(code, 404, "a ConfigMap has no status");
    }

    #[tokio::test(start_paused = true)]
    async fn generation_counts_what_is_wanted() {
        let world = World::new().await;
        let created = world.create(DEPLOYMENTS, deployment("web")).await;
        assert_eq!(created["metadata"]["generation"], 1);
        let at = path(DEPLOYMENTS, "web");
        for (subresource, patch, expected) in [
            ("", json!({"metadata": {"labels": {"a": "b"}}}), 1),
            ("", json!({"spec": {"replicas": 3}}), 2),
            ("", json!({"metadata": {"generation": 9}}), 2),
            ("/status", json!({"status": {"observedGeneration": 2}}), 2),
            ("", json!({"metadata": {"annotations": {"a": "b"}}}), 3),
        ] {
            let after = world.patch(&format!("{at}{subresource}"), patch.clone()).await;
            assert_eq!(after["metadata"]["generation"], expected, "{patch}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_writers_with_one_revision_exactly_one_wins() {
        let world = World::new().await;
        let mut current = world.create(MAPS, config_map("a", "0")).await;
        for round in 0..5 {
            let writers = (0..8).map(|writer| {
                let mut body = current.clone();
                body["data"]["key"] = format!("{round}-{writer}").into();
                let world = &world;
                async move { world.call(Method::PUT, &path(MAPS, "a"), &body).await }
            });
            let answers = join_all(writers).await;
            let winners: Vec<_> = answers.iter().filter(|(code, _)| *code == 200).collect();
            assert_eq!(winners.len(), 1, "{answers:?}");
            assert!(answers.iter().all(|(code, _)| matches!(code, 200 | 409)));
            current = world.get(&path(MAPS, "a")).await;
            assert_eq!(current, winners[0].1, "what was acknowledged is what is there");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writers_without_a_revision_all_get_through() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", "0")).await;
        let writers = (0..8).map(|writer| {
            let world = &world;
            let patch = json!({"data": {format!("writer-{writer}"): "1"}});
            async move { world.patch(&path(MAPS, "a"), patch).await }
        });
        join_all(writers).await;
        let map = world.get(&path(MAPS, "a")).await;
        assert_eq!(map["data"].as_object().unwrap().len(), 9, "no patch was lost: {map}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_finalizer_lets_go() {
        let world = World::new().await;
        let mut body = config_map("a", "1");
        body["metadata"]["finalizers"] = json!(["example.com/hold"]);
        world.create(MAPS, body).await;
        let held = world.delete(&path(MAPS, "a")).await;
        assert!(held["metadata"]["deletionTimestamp"].is_string());
        let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
        let (code, _) = world.call(Method::PATCH, &path(MAPS, "a"), &more).await;
        assert_eq!(code, 422, "no finalizer is added to what goes");
        world.patch(&path(MAPS, "a"), json!({"metadata": {"finalizers": null}})).await;
        let (code, _) = world.call(Method::GET, &path(MAPS, "a"), &Value::Null).await;
        assert_eq!(code, 404);
    }
}
