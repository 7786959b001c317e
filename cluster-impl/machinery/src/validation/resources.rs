//! Validation of resources: their names, their amounts, and what a container asks of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, items, names, text};
use crate::Quantity;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What objects are counted by, beside `count/*`.
const OBJECTS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const HUGE_PAGES: &str = "hugepages-";
const WRONG_FORM: &str = "quantities must match the regular expression \
    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Whether a name counts huge pages.
pub fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Whether a resource is Kubernetes' own: without a prefix, or with one of kubernetes.io.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more of a resource may be promised than there is.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Whether a resource is an extended one, such as `example.com/gpu`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a quota can limit a resource of this name without a prefix.
pub fn is_standard_quota(name: &str) -> bool {
    QUOTA.contains(&name)
        || OBJECTS.contains(&name)
        || is_huge_pages(name)
        || name.starts_with("requests.hugepages-")
}

fn is_standard(name: &str) -> bool {
    name == "storage" || is_standard_quota(name)
}

fn is_standard_container(name: &str) -> bool {
    CONTAINER.contains(&name) || is_huge_pages(name)
}

/// Checks the name of a resource.
pub fn resource_name(causes: &mut Causes, name: &str, field: &str) {
    let wrong = names::qualified_name(name);
    for why in &wrong {
        causes.invalid(field, name, why);
    }
    if wrong.is_empty() && !name.contains('/') && !is_standard(name) {
        causes.invalid(field, name, "must be a standard resource type or fully qualified");
    }
}

/// Checks the name of a resource that a container can have.
pub fn container_resource_name(causes: &mut Causes, name: &str, field: &str) {
    resource_name(causes, name, field);
    if !name.contains('/') {
        if !is_standard_container(name) {
            causes.invalid(field, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        causes.invalid(field, name, "doesn't follow extended resource name standard");
    }
}

/// Checks an amount: not negative, and whole if the resource is counted.
pub fn amount(causes: &mut Causes, name: &str, amount: &Value, field: &str) {
    let Some(quantity) = Quantity::from_value(amount) else {
        causes.invalid(field, amount.clone(), WRONG_FORM);
        return;
    };
    if quantity.is_negative() {
        causes.invalid(field, quantity.to_string(), "must be greater than or equal to 0");
    }
    if (OBJECTS.contains(&name) || is_extended(name)) && !quantity.is_whole() {
        causes.invalid(field, quantity.to_string(), "must be an integer");
    }
}

/// Checks an amount that must be more than nothing.
pub fn positive_amount(causes: &mut Causes, amount: &Value, field: &str) {
    match Quantity::from_value(amount) {
        None => causes.invalid(field, amount.clone(), WRONG_FORM),
        Some(quantity) if quantity <= Quantity::ZERO => {
            causes.invalid(field, quantity.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
}

/// Checks the `resources` of a container at a field's path. `claims` are the names in the pod's
/// `resourceClaims`.
pub fn validate(causes: &mut Causes, resources: &Value, claims: &BTreeSet<&str>, field: &str) {
    let (mut huge, mut ordinary) = (false, false);
    for which in ["limits", "requests"] {
        for (name, value) in resources[which].as_object().into_iter().flatten() {
            let at = format!("{field}.{which}[{name}]");
            container_resource_name(causes, name, &at);
            amount(causes, name, value, &at);
            if which == "requests" {
                against_limit(causes, resources, name, field);
            }
            if is_huge_pages(name) {
                huge = true;
                huge_pages(causes, name, value, &at);
            }
            ordinary |= name == "cpu" || name == "memory";
        }
    }
    if huge && !ordinary {
        causes.forbidden(field, "HugePages require cpu or memory");
    }
    let mut seen = BTreeSet::new();
    for (index, claim) in items(&resources["claims"]) {
        let (at, name) = (format!("{field}.claims[{index}]"), text(&claim["name"]));
        if name.is_empty() {
            causes.required(&at, "");
            continue;
        }
        if !seen.insert(name) {
            causes.duplicate(&at, name);
        }
        if !claims.contains(name) {
            causes.not_found(&at, name);
        }
    }
}

fn against_limit(causes: &mut Causes, resources: &Value, name: &str, field: &str) {
    let Some(request) = Quantity::from_value(&resources["requests"][name]) else { return };
    let at = format!("{field}.requests");
    match Quantity::from_value(&resources["limits"][name]) {
        Some(limit) if !may_overcommit(name) && request != limit => causes.invalid(
            &at,
            request.to_string(),
            &format!("must be equal to {name} limit of {limit}"),
        ),
        Some(limit) if request > limit => causes.invalid(
            &at,
            request.to_string(),
            &format!("must be less than or equal to {name} limit of {limit}"),
        ),
        None if !may_overcommit(name) => causes.required(
            &format!("{field}.limits"),
            "Limit must be set for non overcommitable resources",
        ),
        _ => {}
    }
}

/// Huge pages come in whole pages.
fn huge_pages(causes: &mut Causes, name: &str, amount: &Value, field: &str) {
    let page = name.strip_prefix(HUGE_PAGES).and_then(|page| page.parse::<Quantity>().ok());
    let (Some(page), Some(amount)) = (page, Quantity::from_value(amount)) else { return };
    if page.value() <= 0 || amount.value() % page.value() != 0 || !amount.is_whole() {
        let why = format!("{amount} is not positive integer multiple of {name}");
        causes.invalid(field, amount.to_string(), &why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    /// Checks what is said of each of a list of resource requirements.
    fn check(cases: impl IntoIterator<Item = (Value, Vec<&'static str>)>) {
        for (resources, expected) in cases {
            let mut causes = Causes::new();
            validate(&mut causes, &resources, &BTreeSet::from(["gpu"]), "r");
            assert_eq!(lines(&causes.into_list()), expected, "{resources}");
        }
    }

    #[test]
    fn requests_and_limits() {
        check([
            (json!({}), vec![]),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1000m", "memory": "1Gi"}}),
                vec![],
            ),
            (
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                vec![
                    "Invalid r.requests: Invalid value: \"2\": must be less than or equal to cpu \
                     limit of 1",
                ],
            ),
            (
                json!({"requests": {"cpu": "-1"}}),
                vec![
                    "Invalid r.requests[cpu]: Invalid value: \"-1\": must be greater than or \
                     equal to 0",
                ],
            ),
            (
                json!({"limits": {"cpus": "1"}}),
                vec![
                    "Invalid r.limits[cpus]: Invalid value: \"cpus\": must be a standard resource \
                     type or fully qualified",
                    "Invalid r.limits[cpus]: Invalid value: \"cpus\": must be a standard resource \
                     for containers",
                ],
            ),
        ]);
    }

    #[test]
    fn extended_resources_and_claims() {
        check([
            (
                json!({"limits": {"example.com/gpu": "1"}, "requests": {"example.com/gpu": "1"}}),
                vec![],
            ),
            (
                json!({"limits": {"example.com/gpu": "500m"}}),
                vec![
                    "Invalid r.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                ],
            ),
            (
                json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
                vec![
                    "Invalid r.requests: Invalid value: \"1\": must be equal to example.com/gpu \
                     limit of 2",
                ],
            ),
            (
                json!({"requests": {"example.com/gpu": "1"}}),
                vec![
                    "Required r.limits: Required value: Limit must be set for non overcommitable \
                     resources",
                ],
            ),
            (
                json!({"limits": {"hugepages-2Mi": "3Mi"}}),
                vec![
                    "Invalid r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive \
                     integer multiple of hugepages-2Mi",
                    "Forbidden r: Forbidden: HugePages require cpu or memory",
                ],
            ),
            (
                json!({"claims": [{"name": "gpu"}, {"name": "gpu"}, {"name": "other"}, {}]}),
                vec![
                    "Duplicate r.claims[1]: Duplicate value: \"gpu\"",
                    "NotFound r.claims[2]: Not found: \"other\"",
                    "Required r.claims[3]: Required value",
                ],
            ),
        ]);
    }
}
