//! delete: at once, after a grace period, or once nothing holds the object any more.
//!
//! Only pods are deleted with grace: the kubelet must have time to stop them. A second delete can
//! only shorten what the first allowed. Finalizers keep any object until their owners have let go.

use std::sync::Arc;

use env::{Sabotage, Timestamp};
use futures::FutureExt;
use machinery::conditions::seconds;
use machinery::kinds::CUSTOM_RESOURCE_DEFINITION;
use machinery::{Kind, Object, ObjectKey, Status, pod};
use serde_json::{Value, json};

use crate::admission::{self, Operation, Review};
use crate::answer::{Answer, Content};
use crate::commit::{self, Along, Decision, Written};
use crate::config::Config;
use crate::request::Request;
use crate::server::ApiServer;
use crate::{custom, decode, meta, status};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose last state is the answer to their deletion; others answer with a `Status`.
const RETURNED: [&str; 6] = [
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
];

/// Kinds whose dependents stay if nobody says otherwise: they are older than garbage collection.
const ORPHANED: [&str; 2] = ["jobs.batch", "replicationcontrollers"];

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) grace_s: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Deletes one object.
pub(crate) async fn delete(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let options = Options::read(&server.config, request)?;
    let written = delete_object(server, request, &request.key, &options).await?;
    answer(request.kind, &written)
}

/// The answer to a deletion: the object while it stays, else what the kind answers.
pub(crate) fn answer(kind: &'static Kind, written: &Written) -> Result<Answer, Status> {
    if !written.is_removed || RETURNED.contains(&kind.id) {
        return Ok(Answer::new(200, Content::Object(kind, written.stored.clone())));
    }
    let object = written.stored.object()?;
    let mut details = json!({"name": object.name(), "kind": kind.plural, "uid": object.uid()});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    Ok(Answer::success(200, details))
}

/// Deletes an object, or marks it for deletion.
pub(crate) async fn delete_object(
    server: &ApiServer,
    request: &Request,
    key: &ObjectKey,
    options: &Options,
) -> Result<Written, Status> {
    let kind = request.kind;
    let now = server.env.now();
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let mut old = old.ok_or_else(|| status::not_found(kind, key))?;
            check_preconditions(kind, &old, options)?;
            let mut review = Review {
                key,
                subresource: "",
                old: Some(&old),
                ..Review::new(server, request, Operation::Delete)
            };
            admission::mutate(&mut review).await?;
            admission::validate(review).await?;
            let mut options = options.clone();
            if server.env.sabotaged(Sabotage::FinalizersIgnored) {
                Arc::make_mut(&mut old).remove("/metadata/finalizers");
            }
            if server.env.sabotaged(Sabotage::GraceIgnored) {
                options.grace_s = Some(0);
            }
            let (old, options) = (&old, &options);
            Ok(if kind.id == "namespaces" {
                namespace(old, now)
            } else {
                self::decide(kind, old, options, now)
            })
        }
        .boxed()
    };
    commit::change(server, request, key, &mut decide).await
}

impl Options {
    /// Reads DeleteOptions from the body, and from the query what the body leaves out.
    pub(crate) fn read(config: &Config, request: &Request) -> Result<Self, Status> {
        let body = decode::value(config, &request.content_type, &request.body)?;
        let mut options = Self::from_value(&body)?;
        if let Some(grace_s) = request.query.integer("gracePeriodSeconds")? {
            options.grace_s.get_or_insert(grace_s);
        }
        let policy = Propagation::read(request.query.text("propagationPolicy"))?;
        options.propagation = options.propagation.or(policy);
        if options.propagation.is_none()
            && let Some(orphan) = request.query.optional_flag("orphanDependents")
        {
            options.propagation = Some(Propagation::from_orphan(orphan));
        }
        // kubectl says it in the body.
        if options.dry_run {
            request.set_dry_run();
        }
        Ok(options)
    }

    /// Reads DeleteOptions.
    pub(crate) fn from_value(body: &Value) -> Result<Self, Status> {
        if !body.is_null() && !body.is_object() {
            return Err(Status::bad_request("the body must be DeleteOptions"));
        }
        let text =
            |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let grace_s = match &body["gracePeriodSeconds"] {
            Value::Null => None,
            value => Some(
                value
                    .as_i64()
                    .ok_or_else(|| Status::bad_request("gracePeriodSeconds must be an integer"))?,
            ),
        };
        let policy = Propagation::read(body["propagationPolicy"].as_str().unwrap_or_default())?;
        let orphan = body["orphanDependents"].as_bool().map(Propagation::from_orphan);
        Ok(Self {
            grace_s,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: policy.or(orphan),
            dry_run: body["dryRun"].as_array().is_some_and(|all| !all.is_empty()),
        })
    }
}

impl Propagation {
    fn read(text: &str) -> Result<Option<Self>, Status> {
        match text {
            "" => Ok(None),
            "Background" => Ok(Some(Self::Background)),
            "Foreground" => Ok(Some(Self::Foreground)),
            "Orphan" => Ok(Some(Self::Orphan)),
            other => Err(Status::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &[machinery::Cause {
                    reason: "FieldValueNotSupported".into(),
                    message: format!(
                        "Unsupported value: \"{other}\": supported values: \"Background\", \
                     \"Foreground\", \"Orphan\""
                    ),
                    field: "propagationPolicy".into(),
                }],
            )),
        }
    }

    fn from_orphan(orphan: bool) -> Self {
        if orphan { Self::Orphan } else { Self::Background }
    }
}

/// Refuses a delete that was meant for another object or for another state of it.
pub(crate) fn check_preconditions(
    kind: &Kind,
    old: &Object,
    options: &Options,
) -> Result<(), Status> {
    for (name, wanted, found) in [
        ("UID", &options.uid, old.uid()),
        ("ResourceVersion", &options.resource_version, old.resource_version()),
    ] {
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {found}"
            );
            return Err(status::conflict(kind, &old.key(), &why));
        }
    }
    Ok(())
}

/// A namespace only says that it goes: its content is taken away by a controller, which then
/// finalizes it.
fn namespace(old: &Object, now: Timestamp) -> Decision {
    if old.is_terminating() {
        let is_free =
            old.list("/spec/finalizers").is_empty() && meta::finalizers(old).next().is_none();
        return if is_free { Decision::Remove(Box::new(old.clone())) } else { Decision::Keep };
    }
    let mut new = old.clone();
    new.set("/metadata/deletionTimestamp", seconds(now));
    new.set("/status/phase", "Terminating");
    if old.list("/spec/finalizers").is_empty() && meta::finalizers(old).next().is_none() {
        return Decision::Remove(Box::new(new));
    }
    Decision::Put(Box::new(new), Along::default())
}

/// What comes of deleting an object of any other kind.
pub(crate) fn decide(kind: &Kind, old: &Object, options: &Options, now: Timestamp) -> Decision {
    let mut new = old.clone();
    if kind.id == CUSTOM_RESOURCE_DEFINITION.id {
        custom::mark_terminating(&mut new, now);
    }
    let is_graceful = match grace(kind, old, options) {
        Grace::Pending => return Decision::Keep,
        Grace::Shortened(grace_s) => {
            let allowed_s = old.integer("/metadata/deletionGracePeriodSeconds").unwrap_or_default();
            let at = old.deletion_timestamp().unwrap_or(now);
            let less = jiff::SignedDuration::from_secs(allowed_s.saturating_sub(grace_s));
            let at = at.checked_sub(less).unwrap_or(now);
            mark(&mut new, at, grace_s);
            grace_s > 0
        }
        Grace::Granted(grace_s) => {
            // The calendar ends before the numbers do.
            let at = now.checked_add(jiff::SignedDuration::from_secs(grace_s));
            mark(&mut new, at.unwrap_or(Timestamp::MAX), grace_s);
            meta::bump_generation(&mut new);
            grace_s > 0
        }
        Grace::None => false,
    };
    set_finalizers(kind, &mut new, options);
    let is_held = meta::finalizers(&new).next().is_some();
    if is_held && !new.is_terminating() {
        mark(&mut new, now, 0);
        meta::bump_generation(&mut new);
    }
    if is_graceful || is_held {
        Decision::Put(Box::new(new), Along::default())
    } else {
        Decision::Remove(Box::new(new))
    }
}

/// How much time an object gets.
enum Grace {
    /// It is going already, and this delete does not make it go sooner.
    Pending,
    /// It is going already, but has less time from now on.
    Shortened(i64),
    /// It has this much time from now on.
    Granted(i64),
    /// This kind gets no time.
    None,
}

fn grace(kind: &Kind, old: &Object, options: &Options) -> Grace {
    let wanted_s = options.grace_s.map(|grace_s| if grace_s < 0 { 1 } else { grace_s });
    if old.is_terminating() {
        return match (old.integer("/metadata/deletionGracePeriodSeconds"), wanted_s) {
            (None, _) => Grace::None,
            (Some(allowed_s), Some(wanted_s)) if wanted_s < allowed_s => Grace::Shortened(wanted_s),
            (Some(_), _) => Grace::Pending,
        };
    }
    if kind.id != "pods" {
        return Grace::None;
    }
    if pod::node_name(old).is_empty() || pod::is_finished(old) {
        return Grace::Granted(0);
    }
    let own_s = || old.integer("/spec/terminationGracePeriodSeconds").unwrap_or_default();
    match wanted_s.unwrap_or_else(own_s) {
        negative if negative < 0 => Grace::Granted(1),
        grace_s => Grace::Granted(grace_s),
    }
}

fn mark(object: &mut Object, at: Timestamp, grace_s: i64) {
    object.set("/metadata/deletionTimestamp", seconds(at));
    object.set("/metadata/deletionGracePeriodSeconds", grace_s);
}

/// The garbage collector's finalizers, as the propagation policy wants them.
fn set_finalizers(kind: &Kind, object: &mut Object, options: &Options) {
    let has = |name: &str| meta::finalizers(object).any(|known| known == name);
    let is_orphan = match options.propagation {
        Some(policy) => policy == Propagation::Orphan,
        None => has(ORPHAN) || ORPHANED.contains(&kind.id) && !has(FOREGROUND),
    };
    let is_foreground = match options.propagation {
        Some(policy) => policy == Propagation::Foreground,
        None => has(FOREGROUND),
    };
    let mut wanted: Vec<String> = meta::finalizers(object)
        .filter(|name| *name != ORPHAN && *name != FOREGROUND)
        .map(str::to_owned)
        .collect();
    wanted.extend(is_orphan.then(|| ORPHAN.to_owned()));
    wanted.extend(is_foreground.then(|| FOREGROUND.to_owned()));
    if wanted.is_empty() {
        object.remove("/metadata/finalizers");
    } else {
        object.set("/metadata/finalizers", json!(wanted));
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::testing::{MAPS, PODS, World, config_map, named, pod as pod_body, text};
    use machinery::kinds::{CONFIG_MAP, POD};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What comes of it, as `put <grace> <deletionTimestamp> <finalizers>`, `remove` or `keep`.
    fn told(decision: Decision) -> String {
        match decision {
            Decision::Keep => "keep".to_owned(),
            Decision::Remove(_) => "remove".to_owned(),
            Decision::Put(new, _) => format!(
                "put {} {} {}",
                new.integer("/metadata/deletionGracePeriodSeconds").unwrap_or(-1),
                new.deletion_timestamp().map_or(-1, Timestamp::as_second),
                meta::finalizers(&new).collect::<Vec<_>>().join(","),
            ),
        }
    }

    #[test]
    fn pods_are_given_time() {
        let running = json!({
            "metadata": {"name": "a"},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"},
        });
        let mut waiting = running.clone();
        waiting["spec"]["nodeName"] = "".into();
        let mut finished = running.clone();
        finished["status"]["phase"] = "Failed".into();
        let mut going = running.clone();
        going["metadata"]["deletionTimestamp"] = seconds(at(100)).into();
        going["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        let mut endless = running.clone();
        endless["spec"]["terminationGracePeriodSeconds"] = i64::MAX.into();
        let mut going_endlessly = running.clone();
        going_endlessly["metadata"]["deletionTimestamp"] = seconds(at(100)).into();
        going_endlessly["metadata"]["deletionGracePeriodSeconds"] = i64::MAX.into();
        let mut held = running.clone();
        held["metadata"]["finalizers"] = json!(["a.b/c"]);
        let mut held_at_end = held.clone();
        held_at_end["metadata"]["deletionTimestamp"] = seconds(at(100)).into();
        held_at_end["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        for (body, grace_s, expected) in [
            (&running, None, "put 30 1030 "),
            (&running, Some(5), "put 5 1005 "),
            (&running, Some(0), "remove"),
            (&running, Some(-3), "put 1 1001 "),
            (&running, Some(i64::MAX), "put 9223372036854775807 253402207200 "),
            (&waiting, None, "remove"),
            (&finished, Some(60), "remove"),
            (&going, None, "keep"),
            (&going, Some(30), "keep"),
            (&going, Some(60), "keep"),
            (&going, Some(10), "put 10 80 "),
            (&going, Some(0), "remove"),
            (&endless, None, "put 9223372036854775807 253402207200 "),
            (&endless, Some(5), "put 5 1005 "),
            (&going_endlessly, Some(5), "put 5 1000 "),
            (&held, None, "put 30 1030 a.b/c"),
            (&held, Some(0), "put 0 1000 a.b/c"),
            (&held_at_end, Some(0), "keep"),
        ] {
            let options = Options { grace_s, ..Options::default() };
            let found = told(decide(&POD, &Object(body.clone()), &options, at(1000)));
            assert_eq!(found, expected, "{grace_s:?} {body}");
        }
    }

    #[test]
    fn propagation_becomes_finalizers() {
        let plain = json!({"metadata": {"name": "a"}});
        let held = json!({"metadata": {"name": "a", "finalizers": ["a.b/c", "orphan"]}});
        for (body, propagation, expected) in [
            (&plain, None, "remove"),
            (&plain, Some(Propagation::Background), "remove"),
            (&plain, Some(Propagation::Foreground), "put 0 1000 foregroundDeletion"),
            (&plain, Some(Propagation::Orphan), "put 0 1000 orphan"),
            (&held, None, "put 0 1000 a.b/c,orphan"),
            (&held, Some(Propagation::Background), "put 0 1000 a.b/c"),
            (&held, Some(Propagation::Foreground), "put 0 1000 a.b/c,foregroundDeletion"),
        ] {
            let options = Options { propagation, ..Options::default() };
            let found = told(decide(&CONFIG_MAP, &Object(body.clone()), &options, at(1000)));
            assert_eq!(found, expected, "{propagation:?} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_deleted_is_gone() {
        let world = World::new().await;
        let map = world.create(MAPS, config_map("a", "1")).await;
        let path = format!("{MAPS}/a");
        let answer = world.delete(&path).await;
        assert_eq!(answer["status"], "Success");
        assert_eq!(answer["details"]["uid"], map["metadata"]["uid"]);
        let (code, status) = world.call(Method::DELETE, &path, &Value::Null).await;
        assert_eq!((code, text(&status["reason"])), (404, "NotFound"));
        assert_eq!(text(&status["message"]), "configmaps \"a\" not found");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_pod_goes_in_two_steps() {
        let world = World::new().await;
        world.create(PODS, pod_body("a")).await;
        let path = format!("{PODS}/a");
        let target = json!({"target": {"kind": "Node", "name": "worker-1"}});
        world.create(&format!("{path}/binding"), target).await;
        let going = world.delete(&path).await;
        assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
        let asked = world.delete(&path).await;
        assert_eq!(asked, going, "a second delete changes nothing");
        // The kubelet confirms that the containers are gone.
        let uid = going["metadata"]["uid"].clone();
        let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
        assert_eq!(world.call(Method::DELETE, &path, &wrong).await.0, 409);
        let right = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        assert_eq!(world.call(Method::DELETE, &path, &right).await.0, 200);
        assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, 404);
    }

    #[tokio::test(start_paused = true)]
    async fn options_come_from_the_body_or_the_query() {
        let world = World::new().await;
        let map = world.create(MAPS, config_map("a", "1")).await;
        let path = format!("{MAPS}/a");
        let stale = json!({"preconditions": {"resourceVersion": "1"}});
        for (query, body, code) in [
            ("?propagationPolicy=Sideways", json!({}), 422),
            ("?gracePeriodSeconds=x", json!({}), 400),
            ("", json!([]), 400),
            ("", json!({"gracePeriodSeconds": "5"}), 400),
            ("", stale, 409),
            ("?dryRun=All", json!({}), 200),
            ("", json!({"dryRun": ["All"]}), 200),
        ] {
            let found = world.call(Method::DELETE, &format!("{path}{query}"), &body).await;
            assert_eq!(found.0, code, "{query} {body}: {}", found.1);
        }
        assert_eq!(world.get(&path).await, map);
        let held = world.delete(&format!("{path}?propagationPolicy=Foreground")).await;
        assert_eq!(held["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_waits_until_it_is_finalized() {
        let world = World::new().await;
        let path = "/api/v1/namespaces/a";
        world.create("/api/v1/namespaces", named("v1", "Namespace", "a")).await;
        let going = world.delete(path).await;
        assert_eq!(going["status"]["phase"], "Terminating");
        assert_eq!(going["spec"]["finalizers"], json!(["kubernetes"]));
        let mut free = world.get(path).await;
        free["spec"]["finalizers"] = json!([]);
        let still = world.update(path, &free).await;
        assert_eq!(still["spec"]["finalizers"], json!(["kubernetes"]), "only /finalize lets go");
        free["metadata"]["resourceVersion"] = still["metadata"]["resourceVersion"].clone();
        world.update(&format!("{path}/finalize"), &free).await;
        assert_eq!(world.call(Method::GET, path, &Value::Null).await.0, 404);
        let kept = world.call(Method::DELETE, "/api/v1/namespaces/default", &Value::Null).await;
        assert_eq!(kept.0, 403);
        assert_eq!(
            text(&kept.1["message"]),
            "namespaces \"default\" is forbidden: this namespace may not be deleted"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_collection_is_deleted_by_selector() {
        let world = World::new().await;
        for (name, app) in [("a", "web"), ("b", "api"), ("c", "web")] {
            let mut map = config_map(name, "1");
            map["metadata"]["labels"] = json!({"app": app});
            world.create(MAPS, map).await;
        }
        world.audit();
        let deleted = world.delete(&format!("{MAPS}?labelSelector=app%3Dweb")).await;
        assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
        let left = world.get(MAPS).await;
        assert_eq!(left["items"][0]["metadata"]["name"], "b");
        assert_eq!(left["items"].as_array().unwrap().len(), 1);
        let audit = world.audit();
        let names: Vec<_> = audit.iter().map(|line| line.key.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert!(audit[0].revision > 0 && audit[1].revision > audit[0].revision);
    }
}
