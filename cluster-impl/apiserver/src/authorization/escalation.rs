//! Nobody gives more than they have: whoever writes a role must hold its rules, whoever binds one must
//! hold them or have the verb `bind` on it.
//!
//! Whoever has the verb `escalate` on a role may write any rules into it.

use machinery::kinds::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
use machinery::{Kind, Object, Status};

use super::rbac::{Answer, RoleRef};
use super::rules::{self, Attributes, Rule};
use super::{Policy, is_master, refused};
use crate::config::{AuthorizationMode, User};
use crate::server::ApiServer;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a role or binding by which somebody would grant what they do not have.
pub(crate) fn check(
    server: &ApiServer,
    user: &User,
    kind: &Kind,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let is_role = [ROLE.id, CLUSTER_ROLE.id].contains(&kind.id);
    let is_binding = [ROLE_BINDING.id, CLUSTER_ROLE_BINDING.id].contains(&kind.id);
    let is_checked = server.config.authorization_modes.contains(&AuthorizationMode::Rbac);
    if !(is_role || is_binding) || !is_checked || is_master(user) {
        return Ok(());
    }
    let is_same = |part: &str| old.is_some_and(|old| old.get(part) == object.get(part));
    let policy = server.authorizer.policy().unwrap_or_default();
    if is_role {
        if is_same("/rules") && is_same("/aggregationRule") {
            return Ok(());
        }
        return check_role(&policy, user, kind, object);
    }
    if is_same("/subjects") && is_same("/roleRef") {
        return Ok(());
    }
    check_binding(&policy, user, kind, object)
}

fn may(policy: &Policy, user: &User, asked: &Attributes<'_>) -> bool {
    matches!(policy.allows(user, asked), Answer::Allowed(_))
}

fn check_role(policy: &Policy, user: &User, kind: &Kind, role: &Object) -> Result<(), Status> {
    let (namespace, name) = (role.namespace(), role.name());
    let escalate =
        Attributes { namespace, name, ..Attributes::resource("escalate", GROUP, kind.plural) };
    if may(policy, user, &escalate) {
        return Ok(());
    }
    let own = policy.rules(user, namespace);
    if role.map("/aggregationRule").is_some() {
        let all = || vec!["*".to_owned()];
        let (groups, resources, verbs) = (all(), all(), all());
        let whole = [
            Rule { groups, resources, verbs, ..Rule::default() },
            Rule { urls: all(), verbs: all(), ..Rule::default() },
        ];
        if !rules::missing(&own, &whole).is_empty() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(refused(GROUP, kind.plural, name, why));
        }
    }
    holds(user, &own, &Rule::read(role)).map_err(|why| refused(GROUP, kind.plural, name, &why))
}

fn check_binding(
    policy: &Policy,
    user: &User,
    kind: &Kind,
    binding: &Object,
) -> Result<(), Status> {
    let namespace = binding.namespace();
    let role = RoleRef::read(binding, namespace);
    let bind = Attributes {
        namespace,
        name: &role.key().name,
        ..Attributes::resource("bind", GROUP, role.plural())
    };
    if may(policy, user, &bind) {
        return Ok(());
    }
    let Some(wanted) = policy.rules_of(&role) else {
        return Err(Status::not_found(GROUP, role.plural(), &role.key().name));
    };
    let own = policy.rules(user, namespace);
    holds(user, &own, wanted).map_err(|why| refused(GROUP, kind.plural, binding.name(), &why))
}

fn holds(user: &User, own: &[Rule], wanted: &[Rule]) -> Result<(), String> {
    let missing = rules::missing(own, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<_> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    Err(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        missing.join("\n")
    ))
}
