//! ClusterRole.

use super::{CREATED_AT, Kind, NAME, PLAIN, created_at, role};
use crate::validation::{Causes, items, metadata, names, selector};
use crate::{Cause, Object};

/// ClusterRole.
pub static CLUSTER_ROLE: Kind = Kind {
    id: "clusterroles.rbac.authorization.k8s.io",
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    namespaced: false,
    validate,
    columns: &[NAME, CREATED_AT],
    cells: |object, _| vec![object.name().into(), created_at(object)],
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::path_segment);
    role::rules(&mut causes, &object.0["rules"], false);
    if object.map("/aggregationRule").is_some() {
        let field = "aggregationRule.clusterRoleSelectors";
        let selectors = &object.0["aggregationRule"]["clusterRoleSelectors"];
        if items(selectors).next().is_none() {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            causes.required(field, why);
        }
        for (index, one) in items(selectors) {
            selector::validate(&mut causes, one, &format!("{field}[{index}]"));
        }
    }
    causes.into_list()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::found;
    use super::*;

    #[test]
    fn rules_and_selectors_are_checked() {
        for (role, expected) in [
            (json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/a"]}]}), vec![]),
            (
                json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/a"], "apiGroups": [""]}]}),
                vec![
                    "Invalid rules[0].nonResourceURLs: Invalid value: []string{\"/a\"}: rules \
                     cannot apply to both regular resources and non-resource URLs",
                ],
            ),
            (
                json!({"aggregationRule": {}}),
                vec![
                    "Required aggregationRule.clusterRoleSelectors: Required value: at least one \
                     clusterRoleSelector required if aggregationRule is non-nil",
                ],
            ),
            (
                json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}),
                vec![],
            ),
        ] {
            let mut object = Object(role);
            object.set("/metadata/name", "view");
            assert_eq!(found(&CLUSTER_ROLE, &object, None), expected);
        }
    }
}
