//! The store's errors, and what else this server refuses, as `Status`.
//!
//! Invariant: a write whose outcome is unknown answers 504 Timeout, never a success and never a
//! refusal that a client could take for "nothing happened".

use machinery::{Kind, ObjectKey, Status};
use serde_json::json;
use storage::StoreError;

/// What a client is told of a store that failed.
pub(crate) fn from_store(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { asked, oldest } => Status::expired(format!(
            "The resourceVersion for the provided list is too old: {asked} ({oldest})"
        )),
        StoreError::FutureRevision { asked } => {
            Status::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}"))
        }
        StoreError::Unavailable(why) => retry(
            Status::new(503, "ServiceUnavailable", format!("etcdserver: no leader ({why})")),
            1,
        ),
        StoreError::Unknown(why) => {
            Status::new(504, "Timeout", format!("Timeout: etcdserver: request timed out ({why})"))
        }
        StoreError::NoLease(lease) => {
            Status::internal(format!("etcdserver: requested lease not found: {lease}"))
        }
        StoreError::Invalid(why) => Status::internal(why),
        StoreError::NoSpace => Status::internal("etcdserver: mvcc: database space exceeded"),
    }
}

/// Tells the client to come back after so many seconds.
pub(crate) fn retry(mut status: Status, after_s: u32) -> Status {
    if status.details.is_null() {
        status.details = json!({});
    }
    status.details["retryAfterSeconds"] = after_s.into();
    status
}

/// 504: the client knows of a revision that has not happened here.
pub(crate) fn too_large_revision(asked: i64, current: i64) -> Status {
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    let mut status = retry(Status::new(504, "Timeout", message), 1);
    status.details["causes"] = json!([{
        "reason": "ResourceVersionTooLarge", "message": "Too large resource version",
    }]);
    status
}

/// 504: the request took longer than the server allows.
pub(crate) fn timed_out() -> Status {
    let message = "Timeout: request did not complete within the allotted timeout";
    Status::new(504, "Timeout", message)
}

/// 403, said of one object.
pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
    let resource = qualified(kind);
    let mut status =
        Status::new(403, "Forbidden", format!("{resource} \"{name}\" is forbidden: {why}"));
    status.details = json!({"name": name, "kind": kind.plural});
    if !kind.group.is_empty() {
        status.details["group"] = kind.group.into();
    }
    status
}

/// 404, said of one object.
pub(crate) fn not_found(kind: &Kind, key: &ObjectKey) -> Status {
    Status::not_found(kind.group, kind.plural, &key.name)
}

/// 409, said of one object.
pub(crate) fn conflict(kind: &Kind, key: &ObjectKey, why: &str) -> Status {
    Status::conflict(kind.group, kind.plural, &key.name, why)
}

/// 409, the writer's copy is old.
pub(crate) fn stale(kind: &Kind, key: &ObjectKey) -> Status {
    let why = "the object has been modified; please apply your changes to the latest version and \
               try again";
    conflict(kind, key, why)
}

/// 404 for a path that names nothing.
pub(crate) fn no_such_path() -> Status {
    let mut status =
        Status::new(404, "NotFound", "the server could not find the requested resource");
    status.details = json!({});
    status
}

/// 405.
pub(crate) fn method_not_allowed() -> Status {
    let message = "the server does not allow this method on the requested resource";
    Status::new(405, "MethodNotAllowed", message)
}

/// 401.
pub(crate) fn unauthorized() -> Status {
    Status::new(401, "Unauthorized", "Unauthorized")
}

/// 415.
pub(crate) fn unsupported_media_type(accepted: &str) -> Status {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    );
    Status::new(415, "UnsupportedMediaType", message)
}

/// 406.
pub(crate) fn not_acceptable() -> Status {
    let message = "only the following media types are accepted: application/json, application/yaml, \
                   application/vnd.kubernetes.protobuf";
    Status::new(406, "NotAcceptable", message)
}

/// 413.
pub(crate) fn body_too_large(bytes_max: usize) -> Status {
    let message = format!("Request entity too large: limit is {bytes_max}");
    Status::new(413, "RequestEntityTooLarge", message)
}

fn qualified(kind: &Kind) -> String {
    if kind.group.is_empty() {
        kind.plural.to_owned()
    } else {
        format!("{}.{}", kind.plural, kind.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_errors_have_upstreams_codes() {
        for (error, code, reason) in [
            (StoreError::Compacted { asked: 1, oldest: 5 }, 410, "Expired"),
            (StoreError::FutureRevision { asked: 9 }, 504, "Timeout"),
            (StoreError::Unavailable("no quorum".into()), 503, "ServiceUnavailable"),
            (StoreError::Unknown("cut".into()), 504, "Timeout"),
            (StoreError::NoLease(3), 500, "InternalError"),
            (StoreError::NoSpace, 500, "InternalError"),
        ] {
            let status = from_store(error.clone());
            assert_eq!((status.code, status.reason.as_str()), (code, reason), "{error:?}");
        }
    }
}
