//! create: a new object, under a name that nobody has.

use machinery::kinds::NAMESPACE;
use machinery::{Cause, Kind, Object, ObjectKey, Status, pod};
use serde_json::json;
use storage::{KeyRange, RangeRequest};

use crate::admission::{self, Operation, Review};
use crate::answer::{Answer, Content};
use crate::codec::{Stored, encode};
use crate::commit::{self, Attempt, Tried, Written};
use crate::request::Request;
use crate::server::ApiServer;
use crate::{decode, fence, meta, status, storage_key};

/// How often a taken name is generated anew, as upstream.
const NAMES_MAX: usize = 8;
/// How often a namespace may change under a create.
const NAMESPACES_MAX: usize = 8;
/// Letters that are put behind `generateName`, and how long that may be before them.
const SUFFIX_LETTERS: usize = 5;
const GENERATE_NAME_MAX: usize = 63 - SUFFIX_LETTERS;

/// Creates what the body holds.
pub(crate) async fn create(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let object = decode::object(&server.config, request)?;
    let written = create_object(server, request, object).await?;
    Ok(Answer::new(201, Content::Object(request.kind, written.stored)))
}

/// Creates an object.
pub(crate) async fn create_object(
    server: &ApiServer,
    request: &Request,
    mut object: Object,
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
    reset_status(kind, &mut object);
    for _ in 0..NAMES_MAX {
        if is_generated {
            object.set("/metadata/name", generate_name(server, &prefix));
        }
        request.trace_key(&object.key());
        match try_name(server, request, &object).await {
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
) -> Result<Written, Status> {
    let kind = request.kind;
    let key = object.key();
    for _ in 0..NAMESPACES_MAX {
        let namespace = match kind.namespaced {
            true => admission::namespace(server, &key.namespace).await?,
            false => None,
        };
        let mut object = object.clone();
        (kind.default)(&mut object);
        admission::admit(Review {
            operation: Operation::Create,
            kind,
            subresource: "",
            key: &key,
            object: Some(&mut object),
            namespace: namespace.as_ref(),
            config: &server.config,
        })?;
        set_initial_status(kind, &mut object);
        check(kind, &object)?;
        let value = encode(&object);
        if request.is_dry_run() {
            return match commit::read(server, request, &key).await? {
                Some(_) => Err(Status::already_exists(kind.group, kind.plural, &key.name)),
                None => Ok(written(Stored { value, revision: 0 })),
            };
        }
        let guard = namespace.map(|namespace| (namespace.key, namespace.revision));
        let along = fence::handover(kind, &key, None, Some(&object));
        let put = Some(value.clone());
        let attempt = Attempt { key: &key, expected: 0, put, guard, along };
        match commit::attempt(server, request, attempt).await? {
            Tried::Done(revision) => {
                commit::remember(server, request, &key, object, revision);
                return Ok(written(Stored { value, revision }));
            }
            Tried::Stale(Some(_)) => {
                return Err(Status::already_exists(kind.group, kind.plural, &key.name));
            }
            Tried::Stale(None) => server.namespaces.forget(&key.namespace),
        }
    }
    Err(status::conflict(&NAMESPACE, &ObjectKey::new("", key.namespace), "it keeps changing"))
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

/// A new object has no history. Nodes keep what they say: the kubelet registers with a status.
fn reset_status(kind: &Kind, object: &mut Object) {
    if kind.has_status && kind.id != "nodes" {
        object.set("/status", json!({}));
    }
}

/// What upstream's strategies put into a new object beside the defaults.
fn set_initial_status(kind: &Kind, object: &mut Object) {
    match kind.id {
        "pods" => {
            object.set("/status/phase", "Pending");
            object.set("/status/qosClass", pod::qos_class(object));
        }
        "namespaces" => {
            object.set("/status/phase", "Active");
            object.set("/spec/finalizers", json!(["kubernetes"]));
        }
        _ => {}
    }
}

fn check(kind: &Kind, object: &Object) -> Result<(), Status> {
    let mut causes = Vec::new();
    if object.name().is_empty() {
        causes.push(Cause {
            reason: "FieldValueRequired".into(),
            message: "Required value: name or generateName is required".into(),
            field: "metadata.name".into(),
        });
    } else {
        causes = (kind.validate)(object, None);
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(kind.group, kind.kind, object.name(), &causes))
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
