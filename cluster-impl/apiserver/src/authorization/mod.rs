//! Authorization: whether somebody may do what is asked for.
//!
//! The modes of `--authorization-mode` are asked in order; the first that allows decides. Members of
//! `system:masters` may do everything. RBAC answers from the server's own picture of roles and bindings,
//! which is as fresh as a watch; until it is there, only `system:masters` is served.

mod cache;
mod default_policy;
pub(crate) mod escalation;
pub(crate) mod impersonation;
pub(crate) mod node;
mod rbac;
mod rules;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use machinery::{ObjectKey, Status};
use serde_json::json;
use tokio::sync::Notify;

pub(crate) use cache::run;
pub(crate) use rbac::Policy;
pub(crate) use rules::Attributes;

use crate::config::{AuthorizationMode, User};
use crate::request::Request;
use crate::server::ApiServer;
use crate::status;

/// How long a request waits for the first picture of roles and bindings.
const POLICY_WAIT: Duration = Duration::from_secs(5);
/// Whoever is in this group may do everything.
const MASTERS: &str = "system:masters";

/// The present policy.
#[derive(Default)]
pub(crate) struct Authorizer {
    policy: Mutex<Option<Arc<Policy>>>,
    /// Wakes whoever waits for the first policy, in order: a `watch` would wake them in random order.
    first: Notify,
}

impl Authorizer {
    /// Whether there is a policy.
    pub(crate) fn is_ready(&self) -> bool {
        self.policy().is_some()
    }

    /// The policy, once there is one.
    pub(crate) fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.lock().expect("no code panics while it holds the policy").clone()
    }

    fn set(&self, policy: Policy) {
        *self.policy.lock().expect("no code panics while it holds the policy") =
            Some(Arc::new(policy));
        self.first.notify_waiters();
    }
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) is_allowed: bool,
    pub(crate) reason: String,
}

impl Verdict {
    fn allowed(reason: impl Into<String>) -> Self {
        Self { is_allowed: true, reason: reason.into() }
    }
}

/// Whether somebody is in the group that may do everything.
pub(crate) fn is_master(user: &User) -> bool {
    user.groups.iter().any(|group| group == MASTERS)
}

/// Decides, and says why.
pub(crate) async fn decide(
    server: &ApiServer,
    user: &User,
    asked: &Attributes<'_>,
) -> Result<Verdict, Status> {
    decide_with(server, user, asked, &|grant| grant.to_string()).await
}

/// Decides; `tell` says why something is allowed, which takes more time than to allow it.
async fn decide_with(
    server: &ApiServer,
    user: &User,
    asked: &Attributes<'_>,
    tell: &(dyn Fn(&rbac::Grant) -> String + Sync),
) -> Result<Verdict, Status> {
    if is_master(user) {
        return Ok(Verdict::allowed(""));
    }
    let mut reasons: Vec<String> = Vec::new();
    for mode in &server.config.authorization_modes {
        match mode {
            AuthorizationMode::AlwaysAllow => return Ok(Verdict::allowed("")),
            AuthorizationMode::Node => match node::decide(server, user, asked).await? {
                node::Opinion::Allowed => return Ok(Verdict::allowed("")),
                node::Opinion::None(reason) => reasons.push(reason),
            },
            AuthorizationMode::Rbac => match policy(server).await?.allows(user, asked) {
                rbac::Answer::Allowed(grant) => return Ok(Verdict::allowed(tell(grant))),
                rbac::Answer::Denied(lost) => reasons.push(match lost.as_slice() {
                    [] => String::new(),
                    [one] => format!("RBAC: {one}"),
                    all => format!("RBAC: [{}]", all.join(", ")),
                }),
            },
        }
    }
    reasons.retain(|reason| !reason.is_empty());
    Ok(Verdict { is_allowed: false, reason: reasons.join("\n") })
}

/// The policy; waits a little for the first one.
pub(crate) async fn policy(server: &ApiServer) -> Result<Arc<Policy>, Status> {
    if let Some(policy) = server.authorizer.policy() {
        return Ok(policy);
    }
    // Whoever waits from here on is woken, so a policy that comes before the second look is not missed.
    let first = server.authorizer.first.notified();
    if let Some(policy) = server.authorizer.policy() {
        return Ok(policy);
    }
    let _ = tokio::time::timeout(POLICY_WAIT, first).await;
    server.authorizer.policy().ok_or_else(|| {
        let why = "the server has not read its roles and bindings yet";
        status::retry(Status::new(503, "ServiceUnavailable", why), 1)
    })
}

/// Decides without waiting, for expressions: what is known of roles and bindings by now.
#[derive(Debug)]
pub(crate) struct Judge {
    modes: Vec<AuthorizationMode>,
    policy: Option<Arc<Policy>>,
}

/// Whoever decides without waiting from here on, about what this user asks.
pub(crate) async fn judge(server: &ApiServer, user: &User) -> Result<Judge, Status> {
    let modes = server.config.authorization_modes.clone();
    let policy = match modes.contains(&AuthorizationMode::Rbac) {
        true if is_master(user) => server.authorizer.policy(),
        true => Some(policy(server).await?),
        false => None,
    };
    Ok(Judge { modes, policy })
}

impl Judge {
    /// Decides; what a kubelet may do for the pods of its node is not known here.
    pub(crate) fn decide(&self, user: &User, asked: &Attributes<'_>) -> Verdict {
        if is_master(user) || self.modes.contains(&AuthorizationMode::AlwaysAllow) {
            return Verdict::allowed("");
        }
        match self.policy.as_ref().map(|policy| policy.allows(user, asked)) {
            Some(rbac::Answer::Allowed(grant)) => Verdict::allowed(grant.to_string()),
            Some(rbac::Answer::Denied(_)) | None => {
                Verdict { is_allowed: false, reason: String::new() }
            }
        }
    }
}

/// Refuses with 403 what is not allowed.
pub(crate) async fn authorize(
    server: &ApiServer,
    user: &User,
    asked: &Attributes<'_>,
) -> Result<(), Status> {
    // Most requests of a simulation's harness are of this kind. They are not counted, as upstream's
    // own loopback client is not.
    if is_master(user) {
        return Ok(());
    }
    let began = server.env.instant();
    let verdict = decide_with(server, user, asked, &|_| String::new()).await;
    let is_allowed = verdict.as_ref().ok().map(|verdict| verdict.is_allowed);
    server.metrics.authorized(is_allowed, began);
    let verdict = verdict?;
    if verdict.is_allowed { Ok(()) } else { Err(forbidden(user, asked, &verdict.reason)) }
}

/// What a request for objects asks for.
pub(crate) async fn authorize_request(server: &ApiServer, request: &Request) -> Result<(), Status> {
    if is_master(&request.user) {
        return Ok(());
    }
    let fields = request.query.text("fieldSelector");
    let fields = machinery::FieldSelector::parse(fields).unwrap_or_default();
    let narrowed = |field: &str| fields.required(field).unwrap_or_default();
    let (kind, key) = (request.kind, &request.key);
    let name = match key.name.as_str() {
        "" => narrowed("metadata.name"),
        name => name,
    };
    let is_collection = key.name.is_empty();
    let (resource, subresource) = match request.subresource.as_str() {
        // Posted to the collection `bindings`.
        "binding" if is_collection => ("bindings", ""),
        subresource => (kind.plural, subresource),
    };
    let namespace = if kind.id == "namespaces" { &key.name } else { &key.namespace };
    let asked = Attributes {
        subresource,
        namespace,
        name,
        of_node: narrowed("spec.nodeName"),
        ..Attributes::resource(request.verb.name(), kind.group, resource)
    };
    authorize(server, &request.user, &asked).await
}

/// 403, in upstream's words.
fn forbidden(user: &User, asked: &Attributes<'_>, reason: &str) -> Status {
    let Attributes { verb, group, resource, namespace, name, .. } = *asked;
    let user = &user.name;
    let mut why = if !asked.is_resource() {
        format!("User {user:?} cannot {verb} path {:?}", asked.path)
    } else {
        let whole = match asked.subresource {
            "" => resource.to_owned(),
            subresource => format!("{resource}/{subresource}"),
        };
        let place = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("User {user:?} cannot {verb} resource {whole:?} in API group {group:?} {place}")
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    refused(group, resource, name, &why)
}

/// 403 about a resource, or about a path if the resource is empty.
pub(crate) fn refused(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let qualified =
        if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let message = match (resource, name) {
        ("", _) => format!("forbidden: {why}"),
        (_, "") => format!("{qualified} is forbidden: {why}"),
        (_, name) => format!("{qualified} {name:?} is forbidden: {why}"),
    };
    let mut status = Status::new(403, "Forbidden", message);
    status.details = json!({});
    for (field, text) in [("name", name), ("group", group), ("kind", resource)] {
        if !text.is_empty() {
            status.details[field] = text.into();
        }
    }
    status
}

/// The service account that a user name stands for.
pub(crate) fn service_account(user: &str) -> Option<ObjectKey> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(ObjectKey::new(namespace, name))
}

#[cfg(test)]
mod tests;
