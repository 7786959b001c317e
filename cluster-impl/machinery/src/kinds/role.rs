//! Role, and the checks of rules that ClusterRole shares.

use serde_json::Value;

use super::{CREATED_AT, Kind, NAME, PLAIN, created_at};
use crate::validation::{Causes, go_strings, items, metadata, names};
use crate::{Cause, Object};

/// Role.
pub static ROLE: Kind = Kind {
    id: "roles.rbac.authorization.k8s.io",
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    validate,
    columns: &[NAME, CREATED_AT],
    cells: |object, _| vec![object.name().into(), created_at(object)],
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::path_segment);
    rules(&mut causes, &object.0["rules"], true);
    causes.into_list()
}

/// Checks the rules of a role.
pub(super) fn rules(causes: &mut Causes, rules: &Value, namespaced: bool) {
    for (index, rule) in items(rules) {
        let field = format!("rules[{index}]");
        let is_empty = |part: &str| items(&rule[part]).next().is_none();
        if is_empty("verbs") {
            causes.required(&format!("{field}.verbs"), "verbs must contain at least one value");
        }
        if !is_empty("nonResourceURLs") {
            let (field, urls) =
                (format!("{field}.nonResourceURLs"), go_strings(&rule["nonResourceURLs"]));
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                causes.invalid_as(&field, &urls, why);
            }
            if !["apiGroups", "resources", "resourceNames"].into_iter().all(is_empty) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                causes.invalid_as(&field, &urls, why);
            }
            continue;
        }
        if is_empty("apiGroups") {
            let why = "resource rules must supply at least one api group";
            causes.required(&format!("{field}.apiGroups"), why);
        }
        if is_empty("resources") {
            let why = "resource rules must supply at least one resource";
            causes.required(&format!("{field}.resources"), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn role(rule: Value) -> Object {
        let mut role = Object::new("rbac.authorization.k8s.io/v1", "Role", "default", "x:y");
        role.set("/rules", json!([rule]));
        role
    }

    #[test]
    fn rules_are_checked() {
        for (rule, expected) in [
            (json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "nodes"],
                "resourceNames": ["a"]}), vec![]),
            (json!({}), vec![
                "Required rules[0].verbs: Required value: verbs must contain at least one value",
                "Required rules[0].apiGroups: Required value: resource rules must supply at least \
                 one api group",
                "Required rules[0].resources: Required value: resource rules must supply at least \
                 one resource",
            ]),
            (json!({"verbs": ["get"], "nonResourceURLs": ["/a", "/b"]}), vec![
                "Invalid rules[0].nonResourceURLs: Invalid value: []string{\"/a\", \"/b\"}: \
                 namespaced rules cannot apply to non-resource URLs",
            ]),
        ] {
            assert_eq!(found(&ROLE, &role(rule.clone()), None), expected, "{rule}");
        }
    }

    #[test]
    fn prints_when_it_was_created() {
        let mut role = role(json!({}));
        role.set("/metadata/creationTimestamp", at(0).to_string());
        assert_eq!(row(&ROLE, &role, 5), "x:y|1970-01-01T00:00:00Z");
    }
}
