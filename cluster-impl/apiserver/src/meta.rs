//! `metadata`: what the server sets, and what a writer may not touch.

use env::Env;
use machinery::conditions::seconds;
use machinery::{Kind, Object};
use serde_json::Value;

/// Members that only the server sets.
const SERVER_OWNED: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// Fills in a new object's identity.
pub(crate) fn stamp_new(env: &Env, kind: &Kind, object: &mut Object) {
    for member in SERVER_OWNED {
        object.remove(&format!("/metadata/{member}"));
    }
    drop_bookkeeping(object);
    object.set("/metadata/uid", env.uid());
    object.set("/metadata/creationTimestamp", seconds(env.now()));
    if kind.has_generation {
        object.set("/metadata/generation", 1);
    }
    if kind.namespaced {
        return;
    }
    object.remove("/metadata/namespace");
}

/// Carries over what a writer may not change.
pub(crate) fn carry_over(old: &Object, new: &mut Object) {
    for member in SERVER_OWNED {
        let pointer = format!("/metadata/{member}");
        match old.get(&pointer) {
            Some(value) => new.set(&pointer, value.clone()),
            None => {
                new.remove(&pointer);
            }
        }
    }
    drop_bookkeeping(new);
}

/// Raises `metadata.generation` if what it counts has changed.
pub(crate) fn count_generation(kind: &Kind, old: &Object, new: &mut Object) {
    if !kind.has_generation {
        return;
    }
    if kind.custom.is_some() && !kind.has_status {
        if wanted(old).ne(wanted(new)) || old.get("/status") != new.get("/status") {
            bump_generation(new);
        }
        return;
    }
    // As upstream: a Deployment's annotations count too, for they are copied to its ReplicaSets, and an
    // EndpointSlice's labels, for they name its Service.
    let also = match kind.id {
        "deployments.apps" => "/metadata/annotations",
        "endpointslices.discovery.k8s.io" => "/metadata/labels",
        _ => "/spec",
    };
    let is_changed = old.get(also) != new.get(also) || wanted(old).ne(wanted(new));
    if is_changed {
        bump_generation(new);
    }
}

/// What its users want of an object: all but what is said about it.
fn wanted(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
    const ABOUT: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];
    let members = object.map("").into_iter().flatten();
    members.filter(|(name, _)| !ABOUT.contains(&name.as_str()))
}

/// Raises `metadata.generation` if the object has one.
pub(crate) fn bump_generation(object: &mut Object) {
    if let Some(generation) = object.integer("/metadata/generation") {
        object.set("/metadata/generation", generation + 1);
    }
}

/// The finalizers.
pub(crate) fn finalizers(object: &Object) -> impl Iterator<Item = &str> {
    object.list("/metadata/finalizers").iter().filter_map(Value::as_str)
}

/// Whether nothing holds an object any more that was asked to go.
pub(crate) fn is_released(kind: &Kind, old: &Object, new: &Object) -> bool {
    old.is_terminating()
        && old.integer("/metadata/deletionGracePeriodSeconds").unwrap_or_default() == 0
        && finalizers(new).next().is_none()
        && (kind.id != "namespaces" || new.list("/spec/finalizers").is_empty())
}

/// Drops what this server does not keep, and empty maps and lists that upstream would not store.
fn drop_bookkeeping(object: &mut Object) {
    for member in ["selfLink", "clusterName"] {
        object.remove(&format!("/metadata/{member}"));
    }
    for member in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let pointer = format!("/metadata/{member}");
        let is_empty = match object.get(&pointer) {
            None => false,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(other) => other.is_null(),
        };
        if is_empty {
            object.remove(&pointer);
        }
    }
}
