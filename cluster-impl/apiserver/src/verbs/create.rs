//! create: a new object, under a name that nobody has.

use machinery::conditions::seconds;
use machinery::kinds::{NAMESPACE, SERVICE};
use machinery::{Kind, Object, ObjectKey, Status, managed_fields, versions};
use storage::{KeyRange, RangeRequest};

use crate::admission::{self, Namespace, Operation, Review};
use crate::answer::{Answer, Content};
use crate::authorization::escalation;
use crate::codec::{Stored, encode};
use crate::commit::{self, Attempt, Tried, Written};
use crate::request::Request;
use crate::server::ApiServer;
use crate::{allocation, custom, decode, meta, signing, status, storage_key};

/// How often a taken name is generated anew, as upstream.
const NAMES_MAX: usize = 8;
/// How often a namespace, or what is written along with the object, may change under a create. Creates that
/// count against one quota wait for one another in a server, so only those of other servers get in between.
const ATTEMPTS_MAX: usize = 64;
/// Letters that are put behind `generateName`, and how long that may be before them.
const SUFFIX_LETTERS: usize = 5;
const GENERATE_NAME_MAX: usize = 63 - SUFFIX_LETTERS;

/// Creates what the body holds.
pub(crate) async fn create(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let object = decode::object(&server.config, request)?;
    let written = create_object(server, request, object, Owners::Noted).await?;
    Ok(Answer::new(201, Content::Object(request.kind, written.stored)))
}

/// Who owns the fields of an object that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// The writer owns what it changes.
    Noted,
    /// They stand in the object already.
    Given,
}

/// Creates an object.
pub(crate) async fn create_object(
    server: &ApiServer,
    request: &Request,
    mut object: Object,
    owners: Owners,
) -> Result<Written, Status> {
    let kind = request.kind;
    check_namespace(kind, &request.key, &mut object)?;
    if !object.resource_version().is_empty() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let prefix = object.text("/metadata/generateName").to_owned();
    let is_generated = object.name().is_empty() && !prefix.is_empty();
    meta::stamp_new(&server.env, kind, &mut object);
    for _ in 0..NAMES_MAX {
        if is_generated {
            object.set("/metadata/name", generate_name(server, &prefix));
        }
        request.trace_key(&object.key());
        match try_name(server, request, &object, owners).await {
            Err(taken) if is_generated && taken.reason == "AlreadyExists" => {}
            result => return result,
        }
    }
    Err(Status::already_exists(kind.group, kind.plural, object.name()))
}

async fn try_name(
    server: &ApiServer,
    request: &Request,
    object: &Object,
    owners: Owners,
) -> Result<Written, Status> {
    let kind = request.kind;
    let key = object.key();
    for _ in 0..ATTEMPTS_MAX {
        let namespace = match kind.namespaced {
            true => admission::namespace(server, &key.namespace).await?,
            false => None,
        };
        let mut object = object.clone();
        kind.set_defaults(&mut object);
        if owners == Owners::Noted {
            let time = seconds(server.env.now());
            let (stored, writer) = (versions::stored(kind), request.writer(&time));
            managed_fields::update(stored, writer, None, &mut object);
        }
        let mut first = review((server, request), &key, namespace.as_ref(), &mut object);
        admission::mutate(&mut first).await?;
        kind.prepare_new(&mut object);
        signing::stamp(&request.user, kind, &mut object);
        if kind.id == SERVICE.id {
            let taken = allocation::taken(server).await?;
            let range = &server.config.service_cluster_ip_range;
            allocation::assign(&server.env, range, &taken, &mut object, None)?;
        }
        let causes = kind.problems(&object, None);
        if !causes.is_empty() {
            return Err(Status::invalid(kind.group, kind.kind, object.name(), &causes));
        }
        escalation::check(server, &request.user, kind, &object, None)?;
        let last = review((server, request), &key, namespace.as_ref(), &mut object);
        let mut along = admission::validate(last).await?;
        let put = custom::outgoing(server, kind, &object).await?;
        let value = if kind.custom.is_some() { encode(&object) } else { put.clone() };
        if request.is_dry_run() {
            return match commit::read(server, request, &key).await? {
                Some(_) => Err(Status::already_exists(kind.group, kind.plural, &key.name)),
                None => Ok(written(Stored { value, revision: 0 })),
            };
        }
        along.guards.extend(namespace.map(|namespace| (namespace.key, namespace.revision)));
        let change = (None, Some(&object));
        let attempt = Attempt { key: &key, expected: 0, put: Some(put), along, change };
        match commit::attempt(server, request, attempt).await? {
            Tried::Done(revision) => {
                let stored = Stored { value, revision };
                commit::remember(server, request, &key, object, &stored);
                return Ok(written(stored));
            }
            Tried::Stale(Some(_)) => {
                return Err(Status::already_exists(kind.group, kind.plural, &key.name));
            }
            Tried::Stale(None) => server.namespaces.forget(&key.namespace),
        }
    }
    Err(status::conflict(&NAMESPACE, &ObjectKey::new("", key.namespace), "it keeps changing"))
}

/// A creation, as admission sees it.
fn review<'r>(
    (server, request): (&'r ApiServer, &'r Request),
    key: &'r ObjectKey,
    namespace: Option<&'r Namespace>,
    object: &'r mut Object,
) -> Review<'r> {
    Review {
        subresource: "",
        key,
        object: Some(object),
        namespace,
        ..Review::new(server, request, Operation::Create)
    }
}

fn written(stored: Stored) -> Written {
    Written { stored, is_created: true, is_removed: false }
}

/// The namespace of a path, written into the object; refused if the object names another.
fn check_namespace(kind: &Kind, path: &ObjectKey, object: &mut Object) -> Result<(), Status> {
    if !kind.namespaced {
        return Ok(());
    }
    if object.namespace().is_empty() {
        object.set("/metadata/namespace", path.namespace.as_str());
    }
    if object.namespace() != path.namespace || path.namespace.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn generate_name(server: &ApiServer, prefix: &str) -> String {
    let end = prefix.char_indices().nth(GENERATE_NAME_MAX).map_or(prefix.len(), |(at, _)| at);
    format!("{}{}", &prefix[..end], server.env.suffix(SUFFIX_LETTERS))
}

/// Reads a namespace's key.
pub(crate) async fn read_namespace(
    server: &ApiServer,
    name: &str,
) -> Result<Option<storage::KeyValue>, Status> {
    let key = storage_key::key(&NAMESPACE, &ObjectKey::new("", name));
    let asked = RangeRequest::latest(KeyRange::key(key));
    Ok(server.store.range(asked).await.map_err(status::from_store)?.kvs.pop())
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use crate::testing::{MAPS, PODS, World, config_map, named, pod, text};

    #[tokio::test(start_paused = true)]
    async fn a_new_object_gets_an_identity() {
        let world = World::new().await;
        let mut body = config_map("a", "1");
        body["metadata"]["uid"] = "mine".into();
        body["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
        body["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        let created = world.create(MAPS, body).await;
        let metadata = &created["metadata"];
        assert_eq!(text(&metadata["uid"]).len(), 36);
        assert_eq!(text(&metadata["namespace"]), "default");
        assert!(text(&metadata["creationTimestamp"]).starts_with("2026-01-01T00:00:1"));
        assert_eq!(metadata.get("deletionTimestamp"), None);
        let owner = &metadata["managedFields"][0];
        assert_eq!((text(&owner["manager"]), text(&owner["operation"])), ("unknown", "Update"));
        assert_eq!(owner["fieldsV1"], json!({"f:data": {".": {}, "f:key": {}}}));
        assert_eq!(world.get(&format!("{MAPS}/a")).await, created);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_created_is_refused() {
        let world = World::new().await;
        world.create(MAPS, config_map("taken", "1")).await;
        let with = |pointer: &str, value: Value| {
            let mut body = config_map("a", "1");
            *body.pointer_mut("/metadata").unwrap() = json!({"name": "a"});
            body["metadata"][pointer] = value;
            body
        };
        let elsewhere = "/api/v1/namespaces/nowhere/configmaps";
        for (path, body, code, reason) in [
            (MAPS, config_map("taken", "2"), 409, "AlreadyExists"),
            (elsewhere, config_map("a", "1"), 404, "NotFound"),
            (MAPS, with("namespace", "other".into()), 400, "BadRequest"),
            (MAPS, with("resourceVersion", "5".into()), 400, "BadRequest"),
            (MAPS, with("labels", json!("x")), 400, "BadRequest"),
            (MAPS, with("labels", json!({"a": 1})), 400, "BadRequest"),
            (MAPS, with("name", Value::Null), 422, "Invalid"),
            (MAPS, with("name", "Not_A_Name".into()), 422, "Invalid"),
            (MAPS, pod("a"), 400, "BadRequest"),
            (MAPS, named("v2", "ConfigMap", "a"), 400, "BadRequest"),
            (MAPS, json!([]), 400, "BadRequest"),
            (MAPS, Value::Null, 400, "BadRequest"),
            ("/api/v1/configmaps", config_map("a", "1"), 400, "BadRequest"),
        ] {
            let (found, answer) = world.call(Method::POST, path, &body).await;
            assert_eq!((found, text(&answer["reason"])), (code, reason), "{path} {body}: {answer}");
            assert_eq!(text(&answer["status"]), "Failure");
        }
        let (_, answer) = world.call(Method::POST, MAPS, &config_map("taken", "2")).await;
        assert_eq!(text(&answer["message"]), "configmaps \"taken\" already exists");
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_generated() {
        let world = World::new().await;
        let body = json!({"metadata": {"generateName": "web-"}});
        let first = world.create(MAPS, body.clone()).await;
        let second = world.create(MAPS, body).await;
        let name = text(&first["metadata"]["name"]);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_ne!(name, text(&second["metadata"]["name"]));
        assert_eq!(world.audit()[0].key.name, name);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_decides_but_writes_nothing() {
        let world = World::new().await;
        let created = world.create(&format!("{MAPS}?dryRun=All"), config_map("a", "1")).await;
        assert_eq!(text(&created["metadata"]["name"]), "a");
        let (code, _) = world.call(Method::GET, &format!("{MAPS}/a"), &Value::Null).await;
        assert_eq!(code, 404);
        world.create(MAPS, config_map("a", "1")).await;
        let dry = format!("{MAPS}?dryRun=All");
        assert_eq!(world.call(Method::POST, &dry, &config_map("a", "1")).await.0, 409);
        let odd = format!("{MAPS}?dryRun=Some");
        assert_eq!(world.call(Method::POST, &odd, &config_map("b", "1")).await.0, 422);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_passes_through_admission() {
        let world = World::new().await;
        let mut body = pod("web");
        body["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
        let created = world.create(PODS, body).await;
        assert_eq!(created["status"]["phase"], "Pending");
        assert_eq!(created["status"]["qosClass"], "BestEffort");
        assert_eq!(created["status"].get("podIP"), None);
        assert_eq!(created["spec"]["serviceAccountName"], "default");
        assert_eq!(created["spec"]["priority"], 0);
        assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(created["spec"]["terminationGracePeriodSeconds"], 30);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_created_in_a_namespace_that_goes() {
        let world = World::new().await;
        world.create("/api/v1/namespaces", named("v1", "Namespace", "a")).await;
        let maps = "/api/v1/namespaces/a/configmaps";
        // The server has seen the namespace Active by now, and must notice that it no longer is.
        world.create(maps, config_map("before", "1")).await;
        world.delete("/api/v1/namespaces/a").await;
        let (code, answer) = world.call(Method::POST, maps, &config_map("after", "1")).await;
        assert_eq!(code, 403, "{answer}");
        assert_eq!(answer["details"]["causes"][0]["reason"], "NamespaceTerminating");
    }
}
