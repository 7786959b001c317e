//! RoleBinding, and what ClusterRoleBinding shares with it.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, Kind, NAME, PLAIN, age, column};
use crate::defaulting::{each, inside, zero};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Role", "string", 0),
    AGE,
    column("Users", "string", 1),
    column("Groups", "string", 1),
    column("ServiceAccounts", "string", 1),
];

/// RoleBinding.
pub static ROLE_BINDING: Kind = Kind {
    id: "rolebindings.rbac.authorization.k8s.io",
    group: GROUP,
    kind: "RoleBinding",
    plural: "rolebindings",
    default,
    validate: |object, old| validate(object, old, true),
    columns: COLUMNS,
    cells,
    ..PLAIN
};

/// Fills in the group of the role and of users and groups.
pub(super) fn default(object: &mut Object) {
    if let Some(reference) = inside(&mut object.0, "roleRef") {
        zero(reference, "apiGroup", GROUP);
    }
    for subject in each(&mut object.0, "subjects") {
        if ["User", "Group"].contains(&text(&subject["kind"])) {
            zero(subject, "apiGroup", GROUP);
        }
    }
}

/// What is wrong with a binding.
pub(super) fn validate(object: &Object, old: Option<&Object>, namespaced: bool) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, namespaced, names::path_segment);
    let reference = &object.0["roleRef"];
    let group = text(&reference["apiGroup"]);
    if group != GROUP {
        causes.not_supported("roleRef.apiGroup", group, &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(&reference["kind"])) {
        causes.not_supported("roleRef.kind", text(&reference["kind"]), kinds);
    }
    causes.required_name("roleRef.name", text(&reference["name"]), names::path_segment);
    for (index, subject) in items(&object.0["subjects"]) {
        validate_subject(&mut causes, subject, &format!("subjects[{index}]"), namespaced);
    }
    if let Some(old) = old
        && old.0["roleRef"] != *reference
    {
        let part = |name: &str| format!("{:?}", text(&reference[name]));
        let value = format!(
            "rbac.RoleRef{{APIGroup:{}, Kind:{}, Name:{}}}",
            part("apiGroup"),
            part("kind"),
            part("name")
        );
        causes.invalid_as("roleRef", &value, "cannot change roleRef");
    }
    causes.into_list()
}

fn validate_subject(causes: &mut Causes, subject: &Value, field: &str, namespaced: bool) {
    let (name, group) = (text(&subject["name"]), text(&subject["apiGroup"]));
    if name.is_empty() {
        causes.required(&format!("{field}.name"), "");
    }
    let group_field = format!("{field}.apiGroup");
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                causes.name(&format!("{field}.name"), name, names::dns_subdomain);
            }
            if !group.is_empty() {
                causes.not_supported(&group_field, group, &[""]);
            }
            if !namespaced && text(&subject["namespace"]).is_empty() {
                causes.required(&format!("{field}.namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let why = format!("{} name cannot be empty", kind.to_lowercase());
                causes.invalid(&format!("{field}.name"), name, &why);
            }
            if group != GROUP {
                causes.not_supported(&group_field, group, &[GROUP]);
            }
        }
        other => {
            let supported = &["ServiceAccount", "User", "Group"];
            causes.not_supported(&format!("{field}.kind"), other, supported);
        }
    }
}

/// The cells of a binding's row.
pub(super) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let reference = &object.0["roleRef"];
    let of_kind = |kind: &str| {
        let subjects = object.list("/subjects").iter().filter(|subject| subject["kind"] == kind);
        let names = subjects.map(|subject| match (kind, text(&subject["namespace"])) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", text(&subject["name"])),
            _ => text(&subject["name"]).to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        object.name().into(),
        format!("{}/{}", text(&reference["kind"]), text(&reference["name"])).into(),
        age(object, now),
        of_kind("User"),
        of_kind("Group"),
        of_kind("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn binding(role: &str, subjects: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "b", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects,
        }));
        (ROLE_BINDING.default)(&mut object);
        object
    }

    #[test]
    fn subjects_are_filled_in_and_printed() {
        let object = binding(
            "view",
            json!([{"kind": "User", "name": "jane"}, {"kind": "Group", "name": "dev"},
                {"kind": "ServiceAccount", "name": "ci", "namespace": "build"}]),
        );
        assert_eq!(object.text("/roleRef/apiGroup"), GROUP);
        assert_eq!(object.text("/subjects/0/apiGroup"), GROUP);
        assert_eq!(object.get("/subjects/2/apiGroup"), None);
        assert_eq!(found(&ROLE_BINDING, &object, None), [""; 0]);
        assert_eq!(row(&ROLE_BINDING, &object, 5), "b|ClusterRole/view|5s|jane|dev|build/ci");
    }

    #[test]
    fn wrong_bindings_are_named() {
        let mut object = binding("", json!([{"kind": "Robot"}, {"kind": "User"}]));
        object.set("/roleRef/kind", "Pod");
        assert_eq!(
            found(&ROLE_BINDING, &object, None),
            [
                "NotSupported roleRef.kind: Unsupported value: \"Pod\": supported values: \
                 \"Role\", \"ClusterRole\"",
                "Required roleRef.name: Required value",
                "Required subjects[0].name: Required value",
                "NotSupported subjects[0].kind: Unsupported value: \"Robot\": supported values: \
                 \"ServiceAccount\", \"User\", \"Group\"",
                "Required subjects[1].name: Required value",
                "Invalid subjects[1].name: Invalid value: \"\": user name cannot be empty",
            ]
        );
    }

    #[test]
    fn the_role_stays() {
        let (old, new) = (binding("view", json!([])), binding("edit", json!([])));
        assert_eq!(
            found(&ROLE_BINDING, &new, Some(&old)),
            [
                "Invalid roleRef: Invalid value: rbac.RoleRef{APIGroup:\
                 \"rbac.authorization.k8s.io\", Kind:\"ClusterRole\", Name:\"edit\"}: cannot \
                 change roleRef"
            ]
        );
    }
}
