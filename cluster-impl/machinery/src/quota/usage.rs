//! What one object uses, by the names under which quotas limit it.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::pod::{self, Resources};
use crate::quantity::Format;
use crate::validation::resources::is_extended;
use crate::{Kind, Object, Quantity};

const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What follows the name of a StorageClass.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Kinds that are counted under an old name too.
const ALIASES: [(&str, &str); 4] = [
    ("configmaps", "configmaps"),
    ("replicationcontrollers", "replicationcontrollers"),
    ("resourcequotas", "resourcequotas"),
    ("secrets", "secrets"),
];

/// Whether objects of the kind can use something that a quota limits under this name.
pub fn tracks(kind: &Kind, name: &str) -> bool {
    let is_count = name.strip_prefix("count/").is_some_and(|rest| {
        rest.split_once('.').unwrap_or((rest, "")) == (kind.plural, kind.group)
    });
    if is_count {
        return true;
    }
    match kind.id {
        "pods" => {
            let (bare, is_request) = match name.strip_prefix(REQUESTS) {
                Some(bare) => (bare, true),
                None => (name, false),
            };
            name == "pods"
                || COMPUTE.contains(&bare)
                || name.strip_prefix("limits.").is_some_and(|bare| COMPUTE.contains(&bare))
                || bare.starts_with(HUGE_PAGES)
                || is_request && is_extended(bare)
        }
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            let rest = name.split_once(OF_CLASS).map_or(name, |(_, rest)| rest);
            matches!(rest, "persistentvolumeclaims" | "requests.storage")
        }
        id => ALIASES.contains(&(id, name)),
    }
}

/// What an object uses.
pub fn usage(kind: &Kind, object: &Object, now: Timestamp) -> Resources {
    let one = || Quantity::from_units(1, Format::DecimalSi);
    let mut usage = Resources::new();
    let qualified = match kind.group {
        "" => format!("count/{}", kind.plural),
        group => format!("count/{}.{group}", kind.plural),
    };
    usage.insert(qualified, one());
    match kind.id {
        "pods" if is_live(object, now) => {
            usage.insert("pods".to_owned(), one());
            usage.extend(amounts(&pod::requests(object), &pod::limits(object)));
        }
        "services" => of_service(object, &mut usage),
        "persistentvolumeclaims" => of_claim(object, &mut usage),
        id => {
            let alias = ALIASES.iter().find(|(known, _)| *known == id);
            usage.extend(alias.map(|(_, alias)| ((*alias).to_owned(), one())));
        }
    }
    usage
}

/// What one container asks for itself.
pub(super) fn of_container(container: &Value) -> Resources {
    let own = |which: &str| pod::resources(&container["resources"][which]);
    amounts(&own("requests"), &own("limits"))
}

/// Requests and limits under the names that quotas have for them.
fn amounts(requests: &Resources, limits: &Resources) -> Resources {
    let mut usage = Resources::new();
    for (name, amount) in requests {
        let is_compute = COMPUTE.contains(&name.as_str()) || name.starts_with(HUGE_PAGES);
        if is_compute {
            usage.insert(name.clone(), *amount);
        }
        if is_compute || is_extended(name) {
            usage.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        usage.insert(format!("limits.{name}"), *amount);
    }
    usage
}

/// Whether a pod still takes anything: it has not ended, and is not held by a node past its grace.
fn is_live(pod: &Object, now: Timestamp) -> bool {
    if pod::is_finished(pod) {
        return false;
    }
    let (at, grace_s) =
        (pod.deletion_timestamp(), pod.integer("/metadata/deletionGracePeriodSeconds"));
    match (at, grace_s) {
        (Some(at), Some(grace_s)) => {
            at.checked_add(SignedDuration::from_secs(grace_s)).map_or(true, |end| now <= end)
        }
        _ => true,
    }
}

fn of_service(service: &Object, usage: &mut Resources) {
    let ports = service.list("/spec/ports");
    let (mut node_ports, mut balancers) = (0, 0);
    match service.text("/spec/type") {
        "NodePort" => node_ports = ports.len(),
        "LoadBalancer" => {
            balancers = 1;
            let is_spared =
                service.get("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
            let has_one = |port: &&Value| port["nodePort"].as_i64().is_some_and(|port| port != 0);
            node_ports = if is_spared { ports.iter().filter(has_one).count() } else { ports.len() };
        }
        _ => {}
    }
    for (name, count) in
        [("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)]
    {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        usage.insert(name.to_owned(), Quantity::from_units(count, Format::DecimalSi));
    }
}

fn of_claim(claim: &Object, usage: &mut Resources) {
    let class = match claim.annotation("volume.beta.kubernetes.io/storage-class") {
        Some(class) => class,
        None => claim.text("/spec/storageClassName"),
    };
    let asked = Quantity::from_value(&claim.0["spec"]["resources"]["requests"]["storage"]);
    // What a resize was begun with counts until it is known to have failed.
    let granted = Quantity::from_value(&claim.0["status"]["allocatedResources"]["storage"]);
    let mut amounts = vec![("persistentvolumeclaims", Quantity::from_units(1, Format::DecimalSi))];
    amounts.extend(asked.max(granted).map(|size| ("requests.storage", size)));
    for (name, amount) in amounts {
        usage.insert(name.to_owned(), amount);
        if !class.is_empty() {
            usage.insert(format!("{class}{OF_CLASS}{name}"), amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{CONFIG_MAP, DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, POD, SECRET, SERVICE};

    #[test]
    fn every_kind_uses_what_it_is_counted_by() {
        let pod = json!({"spec": {"overhead": {"cpu": "1m", "memory": "1Mi"}, "containers": [
            {"resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}}}]}});
        let service = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"nodePort": 30000}, {"port": 1}]}});
        let claim = json!({"spec": {"storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}});
        for (kind, object, expected) in [
            (
                &POD,
                pod,
                "count/pods=1 cpu=1001m ephemeral-storage=1Gi limits.cpu=2001m memory=1Mi pods=1 \
                 requests.cpu=1001m requests.ephemeral-storage=1Gi requests.memory=1Mi",
            ),
            (
                &SERVICE,
                service,
                "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1",
            ),
            (
                &PERSISTENT_VOLUME_CLAIM,
                claim,
                "count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=1Gi \
                 s.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
                 s.storageclass.storage.k8s.io/requests.storage=1Gi",
            ),
            (&SECRET, json!({}), "count/secrets=1 secrets=1"),
            (&CONFIG_MAP, json!({}), "configmaps=1 count/configmaps=1"),
            (&DEPLOYMENT, json!({}), "count/deployments.apps=1"),
        ] {
            let usage = usage(kind, &Object(object), Timestamp::UNIX_EPOCH);
            let told: Vec<_> = usage.iter().map(|(name, one)| format!("{name}={one}")).collect();
            assert_eq!(told.join(" "), expected);
            assert!(usage.keys().all(|name| tracks(kind, name)), "{}", kind.id);
        }
    }

    #[test]
    fn names_belong_to_kinds() {
        for (kind, name, expected) in [
            (&POD, "requests.example.com/gpu", true),
            (&POD, "example.com/gpu", false),
            (&POD, "requests.storage", false),
            (&POD, "requests.hugepages-1Gi", true),
            (&POD, "count/pods", true),
            (&POD, "count/pods.apps", false),
            (&DEPLOYMENT, "count/deployments.apps", true),
            (&DEPLOYMENT, "count/deployments", false),
            (&DEPLOYMENT, "deployments", false),
            (&SECRET, "count/secrets", true),
        ] {
            assert_eq!(tracks(kind, name), expected, "{} {name}", kind.id);
        }
    }
}
