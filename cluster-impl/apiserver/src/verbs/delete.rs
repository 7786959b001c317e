//! delete: at once, after a grace period, or once nothing holds the object any more.
//!
//! Only pods are deleted with grace: the kubelet must have time to stop them. A second delete can
//! only shorten what the first allowed. Finalizers keep any object until their owners have let go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use env::Timestamp;
use machinery::conditions::seconds;
use machinery::{Kind, Object, ObjectKey, Status, pod};
use serde_json::{Value, json};

use crate::admission::{self, Operation, Review};
use crate::answer::{Answer, Content};
use crate::commit::{self, Decision, Written};
use crate::config::Config;
use crate::request::Request;
use crate::server::ApiServer;
use crate::{decode, meta, status};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose last state is the answer to their deletion; others answer with a `Status`.
const RETURNED: [&str; 2] = ["pods", "serviceaccounts"];

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
    admission::admit(Review {
        operation: Operation::Delete,
        kind,
        subresource: "",
        key,
        object: None,
        namespace: None,
        config: &server.config,
    })?;
    let now = server.env.now();
    commit::change(server, request, key, &mut |old: Option<&Arc<Object>>| {
        let Some(old) = old else { return Err(status::not_found(kind, key)) };
        check_preconditions(kind, old, options)?;
        Ok(if kind.id == "namespaces" { namespace(old, now) } else { decide(kind, old, options, now) })
    })
    .await
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
            && let Some(orphan) = request.query.optional_flag("orphanDependents")?
        {
            options.propagation = Some(Propagation::from_orphan(orphan));
        }
        // kubectl says it in the body.
        request.dry_run.fetch_or(options.dry_run, Ordering::Relaxed);
        Ok(options)
    }

    /// Reads DeleteOptions.
    pub(crate) fn from_value(body: &Value) -> Result<Self, Status> {
        if !body.is_null() && !body.is_object() {
            return Err(Status::bad_request("the body must be DeleteOptions"));
        }
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let grace_s = match &body["gracePeriodSeconds"] {
            Value::Null => None,
            value => Some(value.as_i64().ok_or_else(|| {
                Status::bad_request("gracePeriodSeconds must be an integer")
            })?),
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
            other => Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[machinery::Cause {
                reason: "FieldValueNotSupported".into(),
                message: format!(
                    "Unsupported value: \"{other}\": supported values: \"Background\", \
                     \"Foreground\", \"Orphan\""
                ),
                field: "propagationPolicy".into(),
            }])),
        }
    }

    fn from_orphan(orphan: bool) -> Self {
        if orphan { Self::Orphan } else { Self::Background }
    }
}

fn check_preconditions(kind: &Kind, old: &Object, options: &Options) -> Result<(), Status> {
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
        let is_free = old.list("/spec/finalizers").is_empty()
            && meta::finalizers(old).next().is_none();
        return if is_free { Decision::Remove(Box::new(old.clone())) } else { Decision::Keep };
    }
    let mut new = old.clone();
    new.set("/metadata/deletionTimestamp", seconds(now));
    new.set("/status/phase", "Terminating");
    if old.list("/spec/finalizers").is_empty() && meta::finalizers(old).next().is_none() {
        return Decision::Remove(Box::new(new));
    }
    Decision::Put(Box::new(new))
}

/// What comes of deleting an object of any other kind.
pub(crate) fn decide(kind: &Kind, old: &Object, options: &Options, now: Timestamp) -> Decision {
    let mut new = old.clone();
    let is_graceful = match grace(kind, old, options) {
        Grace::Pending => return Decision::Keep,
        Grace::Shortened(grace_s) => {
            let allowed_s = old.integer("/metadata/deletionGracePeriodSeconds").unwrap_or_default();
            let at = old.deletion_timestamp().unwrap_or(now);
            let at = at - jiff::SignedDuration::from_secs(allowed_s.saturating_sub(grace_s));
            mark(&mut new, at, grace_s);
            grace_s > 0
        }
        Grace::Granted(grace_s) => {
            mark(&mut new, now + jiff::SignedDuration::from_secs(grace_s), grace_s);
            meta::bump_generation(&mut new);
            grace_s > 0
        }
        Grace::None => false,
    };
    set_finalizers(&mut new, options);
    let is_held = meta::finalizers(&new).next().is_some();
    if is_held && !new.is_terminating() {
        mark(&mut new, now, 0);
        meta::bump_generation(&mut new);
    }
    if is_graceful || is_held {
        Decision::Put(Box::new(new))
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
fn set_finalizers(object: &mut Object, options: &Options) {
    let has = |name: &str| meta::finalizers(object).any(|known| known == name);
    let is_orphan = match options.propagation {
        Some(policy) => policy == Propagation::Orphan,
        None => has(ORPHAN),
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
