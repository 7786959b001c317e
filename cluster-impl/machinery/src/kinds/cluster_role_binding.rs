//! ClusterRoleBinding.

use super::{Kind, PLAIN, role_binding};

/// ClusterRoleBinding.
pub static CLUSTER_ROLE_BINDING: Kind = Kind {
    id: "clusterrolebindings.rbac.authorization.k8s.io",
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    namespaced: false,
    default: role_binding::default,
    validate: |object, old| role_binding::validate(object, old, false),
    columns: role_binding::COLUMNS,
    cells: role_binding::cells,
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::found;
    use super::*;
    use crate::Object;

    #[test]
    fn a_service_account_needs_its_namespace_and_the_role_is_a_cluster_role() {
        let mut object = Object(json!({
            "metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "a"},
            "subjects": [{"kind": "ServiceAccount", "name": "ci"}],
        }));
        (CLUSTER_ROLE_BINDING.default)(&mut object);
        assert_eq!(
            found(&CLUSTER_ROLE_BINDING, &object, None),
            [
                "NotSupported roleRef.kind: Unsupported value: \"Role\": supported values: \
                 \"ClusterRole\"",
                "Required subjects[0].namespace: Required value",
            ]
        );
    }
}
