//! RBAC: which rules somebody has, from Roles, ClusterRoles and their bindings.
//!
//! Pure. A ClusterRole with an aggregation rule has, beside its own rules, those of every ClusterRole
//! that its selectors match, whatever its object says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use machinery::kinds::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
use machinery::{LabelSelector, Object, ObjectKey, View};
use serde_json::Value;

use super::rules::{Attributes, Rule};
use crate::User;

/// A binding's role: the kind, and the name with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RoleRef {
    is_cluster_role: bool,
    key: ObjectKey,
}

impl RoleRef {
    /// A ClusterRole by name.
    pub(crate) fn cluster_role(name: &str) -> Self {
        Self { is_cluster_role: true, key: ObjectKey::new("", name) }
    }

    /// The role that a binding names; `namespace` is the binding's.
    pub(crate) fn read(binding: &Object, namespace: &str) -> Self {
        let is_cluster_role = binding.text("/roleRef/kind") == "ClusterRole";
        let namespace = if is_cluster_role { "" } else { namespace };
        Self { is_cluster_role, key: ObjectKey::new(namespace, binding.text("/roleRef/name")) }
    }

    /// The plural of the role's kind.
    pub(crate) fn plural(&self) -> &'static str {
        if self.is_cluster_role { "clusterroles" } else { "roles" }
    }

    /// Namespace and name.
    pub(crate) fn key(&self) -> &ObjectKey {
        &self.key
    }
}

/// Everything that decides who may do what, made ready for questions.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    roles: BTreeMap<RoleRef, Arc<[Rule]>>,
    /// By namespace, which is empty for ClusterRoleBindings.
    bindings: BTreeMap<String, Bound>,
}

/// The bindings of one namespace, or of the whole cluster, by whom they name.
#[derive(Debug, Default)]
struct Bound {
    users: BTreeMap<String, Vec<Grant>>,
    groups: BTreeMap<String, Vec<Grant>>,
}

/// One subject of one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    role: RoleRef,
    binding: ObjectKey,
    subject: String,
}

impl fmt::Display for Grant {
    /// As upstream tells why something is allowed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.role.is_cluster_role { "ClusterRole" } else { "Role" };
        let (binding, name) = (&self.binding, &self.role.key.name);
        let binding = match binding.namespace.as_str() {
            "" => format!("ClusterRoleBinding {:?}", binding.name),
            namespace => format!("RoleBinding {:?}", format!("{}/{namespace}", binding.name)),
        };
        write!(f, "RBAC: allowed by {binding} of {kind} {name:?} to {}", self.subject)
    }
}

/// What somebody's rules say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'p> {
    /// This allows it.
    Allowed(&'p Grant),
    /// Nothing allows it; some bindings name roles that do not exist.
    Denied(Vec<String>),
}

impl Policy {
    /// The policy that a view's objects make.
    pub(crate) fn new(view: &View) -> Self {
        let mut policy = Self::default();
        for role in view.all(&ROLE) {
            let reference = RoleRef { is_cluster_role: false, key: role.key() };
            policy.roles.insert(reference, Rule::read(role).into());
        }
        for role in view.all(&CLUSTER_ROLE) {
            let mut rules = Vec::new();
            collect(view, role, &mut BTreeSet::new(), &mut rules);
            let reference = RoleRef { is_cluster_role: true, key: role.key() };
            policy.roles.insert(reference, rules.into());
        }
        for binding in view.all(&CLUSTER_ROLE_BINDING).chain(view.all(&ROLE_BINDING)) {
            let place = policy.bindings.entry(binding.namespace().to_owned()).or_default();
            for subject in binding.list("/subjects") {
                place.add(binding, subject);
            }
        }
        policy
    }

    /// The rules of a role, if it exists.
    pub(crate) fn rules_of(&self, role: &RoleRef) -> Option<&Arc<[Rule]>> {
        self.roles.get(role)
    }

    /// Whether somebody's rules allow what is asked for.
    pub(crate) fn allows(&self, user: &User, asked: &Attributes<'_>) -> Answer<'_> {
        let mut lost = Vec::new();
        for grant in self.grants(user, asked.namespace) {
            match self.roles.get(&grant.role) {
                Some(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Answer::Allowed(grant);
                }
                Some(_) => {}
                None => {
                    let kind = grant.role.plural().trim_end_matches('s');
                    let name = &grant.role.key.name;
                    let line = format!("{kind}.rbac.authorization.k8s.io {name:?} not found");
                    if !lost.contains(&line) {
                        lost.push(line);
                    }
                }
            }
        }
        Answer::Denied(lost)
    }

    /// All rules that somebody has in a namespace.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let roles = self.grants(user, namespace);
        let rules = roles.filter_map(|grant| self.roles.get(&grant.role));
        rules.flat_map(|rules| rules.iter().cloned()).collect()
    }

    /// What binds somebody: in the whole cluster, then in the namespace.
    fn grants<'p>(&'p self, user: &User, namespace: &str) -> impl Iterator<Item = &'p Grant> {
        let cluster = self.bindings.get("");
        let inside = self.bindings.get(namespace).filter(|_| !namespace.is_empty());
        cluster.into_iter().chain(inside).flat_map(move |bound| {
            let own = bound.users.get(&user.name).into_iter();
            own.chain(user.groups.iter().filter_map(|group| bound.groups.get(group))).flatten()
        })
    }
}

impl Bound {
    fn add(&mut self, binding: &Object, subject: &Value) {
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let namespace = match text("namespace") {
            "" => binding.namespace(),
            namespace => namespace,
        };
        let (place, called, shown) = match kind {
            "User" => (&mut self.users, name.to_owned(), name.to_owned()),
            "Group" => (&mut self.groups, name.to_owned(), name.to_owned()),
            "ServiceAccount" => {
                let user = format!("system:serviceaccount:{namespace}:{name}");
                (&mut self.users, user, format!("{name}/{namespace}"))
            }
            _ => return,
        };
        place.entry(called).or_default().push(Grant {
            role: RoleRef::read(binding, binding.namespace()),
            binding: binding.key(),
            subject: format!("{kind} {shown:?}"),
        });
    }
}

/// The rules of a ClusterRole and of those that it aggregates.
fn collect(view: &View, role: &Object, seen: &mut BTreeSet<String>, rules: &mut Vec<Rule>) {
    if !seen.insert(role.name().to_owned()) {
        return;
    }
    for rule in Rule::read(role) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let selectors: Vec<LabelSelector> = role
        .list("/aggregationRule/clusterRoleSelectors")
        .iter()
        .filter_map(|selector| LabelSelector::from_value(Some(selector)).ok())
        .collect();
    if selectors.is_empty() {
        return;
    }
    for other in view.all(&CLUSTER_ROLE) {
        let labels = other.map("/metadata/labels");
        if selectors.iter().any(|selector| selector.matches(labels)) {
            collect(view, other, seen, rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let mut view = View::default();
        let mut put = |kind: &machinery::Kind, value: Value| {
            view.put(kind, Arc::new(Object(value)));
        };
        let read = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        put(
            &CLUSTER_ROLE,
            json!({"metadata": {"name": "reader", "labels": {"to": "view"}},
            "rules": [read]}),
        );
        put(
            &CLUSTER_ROLE,
            json!({"metadata": {"name": "view", "labels": {"to": "edit"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}),
        );
        put(
            &CLUSTER_ROLE,
            json!({"metadata": {"name": "edit", "labels": {"to": "view"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "edit"}}]}}),
        );
        put(
            &ROLE,
            json!({"metadata": {"name": "writer", "namespace": "dev"}, "rules": [
            {"verbs": ["create"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        put(
            &CLUSTER_ROLE_BINDING,
            json!({"metadata": {"name": "a"},
            "roleRef": {"kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "Group", "name": "staff"}]}),
        );
        put(
            &ROLE_BINDING,
            json!({"metadata": {"name": "b", "namespace": "dev"},
            "roleRef": {"kind": "Role", "name": "writer"},
            "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "ci"}]}),
        );
        put(
            &ROLE_BINDING,
            json!({"metadata": {"name": "c", "namespace": "dev"},
            "roleRef": {"kind": "ClusterRole", "name": "gone"},
            "subjects": [{"kind": "User", "name": "jane"}]}),
        );
        Policy::new(&view)
    }

    fn asked<'a>(verb: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes { namespace, ..Attributes::resource(verb, "", "pods") }
    }

    #[test]
    fn bindings_reach_their_place_and_no_further() {
        let policy = policy();
        for (user, groups, verb, namespace, allowed) in [
            ("joe", vec!["staff"], "get", "dev", true),
            ("joe", vec!["staff"], "get", "", true),
            ("joe", vec!["staff"], "create", "dev", false),
            ("joe", vec![], "get", "dev", false),
            ("jane", vec![], "create", "dev", true),
            ("jane", vec![], "create", "prod", false),
            ("jane", vec![], "create", "", false),
            ("system:serviceaccount:dev:ci", vec![], "create", "dev", true),
            ("system:serviceaccount:prod:ci", vec![], "create", "dev", false),
        ] {
            let user = User::new(user, &groups);
            let answer = policy.allows(&user, &asked(verb, namespace));
            let is_allowed = matches!(answer, Answer::Allowed(_));
            assert_eq!(is_allowed, allowed, "{user:?} {verb} {namespace}");
        }
    }

    #[test]
    fn why_something_is_allowed_is_told() {
        let policy = policy();
        for (user, groups, verb, told) in [
            (
                "joe",
                vec!["staff"],
                "get",
                r#"RBAC: allowed by ClusterRoleBinding "a" of ClusterRole "edit" to Group "staff""#,
            ),
            (
                "system:serviceaccount:dev:ci",
                vec![],
                "create",
                r#"RBAC: allowed by RoleBinding "b/dev" of Role "writer" to ServiceAccount "ci/dev""#,
            ),
        ] {
            let user = User::new(user, &groups);
            match policy.allows(&user, &asked(verb, "dev")) {
                Answer::Allowed(grant) => assert_eq!(grant.to_string(), told),
                Answer::Denied(_) => panic!("{user:?} may"),
            }
        }
    }

    #[test]
    fn a_role_that_does_not_exist_is_told() {
        let (policy, jane) = (policy(), User::new("jane", &[]));
        let answer = policy.allows(&jane, &asked("delete", "dev"));
        let line = "clusterrole.rbac.authorization.k8s.io \"gone\" not found";
        assert_eq!(answer, Answer::Denied(vec![line.to_owned()]));
    }

    #[test]
    fn aggregation_follows_labels_and_ends() {
        let policy = policy();
        for name in ["view", "edit"] {
            let role = RoleRef { is_cluster_role: true, key: ObjectKey::new("", name) };
            assert_eq!(policy.rules_of(&role).unwrap().len(), 1, "{name}");
        }
    }
}
