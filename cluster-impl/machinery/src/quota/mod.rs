//! Quotas: what objects use of them, which quotas they count against, and whether there is room.
//!
//! Pure: the API server admits by these rules, and the controller counts by them.
//! Limits: no quotas on VolumeAttributesClasses or on resource claims.

mod usage;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::pod::{self, Resources};
use crate::validation::{items, text};
use crate::{Kind, LabelSelector, Object, kinds};

pub use usage::{tracks, usage};

/// What containers must all speak of where a quota limits it: an old mistake of upstream's, which
/// nobody can take back.
const DEMANDED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What is written, as far as quotas are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The kind of the object.
    pub kind: &'a Kind,
    /// What was there, if anything was.
    pub old: Option<&'a Object>,
    /// What is to be there.
    pub new: &'a Object,
    /// The time by which a pod may be past its grace.
    pub now: Timestamp,
}

/// Whether a write can change what is counted. Most updates cannot.
pub fn may_count(kind: &Kind, subresource: &str, is_update: bool) -> bool {
    match (kind.id, subresource, is_update) {
        ("events" | "events.events.k8s.io", ..) => false,
        ("pods", "resize", true) | (_, "", false) => kind.namespaced,
        ("services" | "persistentvolumeclaims", "", true) => true,
        _ => false,
    }
}

/// Charges a change to the quotas of its namespace. Answers which of them are used more or less than
/// before, or why the change is refused. Quotas count by their status, as upstream: one that no
/// controller has looked at yet limits nothing.
pub fn charge(quotas: &mut [Object], change: Change<'_>) -> Result<Vec<usize>, String> {
    let Change { kind, old, new, now } = change;
    let mut concerned = Vec::new();
    for (at, quota) in quotas.iter().enumerate() {
        let tracked = tracked(quota, "/status/hard", kind);
        if tracked.is_empty() || !selects(quota, kind, new) {
            continue;
        }
        let name = quota.name();
        if let Some(missing) = missing(kind, &tracked, new) {
            return Err(format!("failed quota: {name}: must specify {missing}"));
        }
        if !tracked.iter().all(|one| quota.0["status"]["used"].get(*one).is_some()) {
            let resources = tracked.join(",");
            return Err(format!("status unknown for quota: {name}, resources: {resources}"));
        }
        concerned.push(at);
    }
    if concerned.is_empty() {
        return Ok(concerned);
    }
    let mut more = usage(kind, new, now);
    let negative: Vec<_> =
        more.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| &**name).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    for (name, amount) in old.map(|old| usage(kind, old, now)).unwrap_or_default() {
        *more.entry(name).or_default() -= amount;
    }
    more.retain(|_, amount| !amount.is_zero());
    let mut changed = Vec::new();
    for at in concerned {
        if raise(&mut quotas[at], &more)? {
            changed.push(at);
        }
    }
    Ok(changed)
}

/// Adds what a change takes to what is used of a quota.
fn raise(quota: &mut Object, more: &Resources) -> Result<bool, String> {
    let hard = amounts(quota, "/status/hard");
    let mut used = amounts(quota, "/status/used");
    let before = used.clone();
    let mut exceeded = Vec::new();
    for (name, amount) in more.iter().filter(|(name, _)| hard.contains_key(*name)) {
        let entry = used.entry(name.clone()).or_default();
        *entry += *amount;
        // Who gives something back is let through, however much is used.
        if *entry > hard[name] && !amount.is_negative() {
            exceeded.push(name.as_str());
        }
    }
    if !exceeded.is_empty() {
        let shown = |of: &Resources| {
            let amount = |name: &&str| of.get(*name).copied().unwrap_or_default();
            let parts: Vec<_> =
                exceeded.iter().map(|name| format!("{name}={}", amount(name))).collect();
            parts.join(",")
        };
        return Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            quota.name(),
            shown(more),
            shown(&before),
            shown(&hard)
        ));
    }
    if used == before {
        return Ok(false);
    }
    quota.set("/status/used", to_value(&used));
    Ok(true)
}

/// The kinds whose objects a quota counts, among those that every cluster has and these custom ones.
pub fn counted(quota: &Object, customs: &[&'static Kind]) -> Vec<&'static Kind> {
    let all = kinds::ALL.iter().chain(customs).copied();
    let namespaced = all.filter(|kind| kind.namespaced);
    namespaced.filter(|kind| !tracked(quota, "/spec/hard", kind).is_empty()).collect()
}

/// What the status of a quota should be, from all objects of the kinds that it counts.
pub fn status<'o>(
    quota: &Object,
    counted: &[&'static Kind],
    objects: impl IntoIterator<Item = (&'o Kind, &'o Object)>,
    now: Timestamp,
) -> Value {
    let hard = amounts(quota, "/spec/hard");
    // What nobody counts stays as it was told.
    let mut used = amounts(quota, "/status/used");
    used.retain(|name, _| hard.contains_key(name));
    let mut tracked_of = BTreeMap::new();
    for kind in counted {
        let tracked: Vec<_> =
            tracked(quota, "/spec/hard", kind).into_iter().map(str::to_owned).collect();
        used.extend(tracked.iter().map(|name| (name.clone(), crate::Quantity::ZERO)));
        tracked_of.insert(kind.id, tracked);
    }
    for (kind, object) in objects {
        let Some(tracked) = tracked_of.get(kind.id).filter(|_| selects(quota, kind, object)) else {
            continue;
        };
        let mut own = usage(kind, object, now);
        own.retain(|name, _| tracked.contains(name));
        pod::add(&mut used, &own);
    }
    json!({"hard": to_value(&hard), "used": to_value(&used)})
}

/// Whether two statuses of a quota say the same, however they write it.
pub fn is_same_status(one: &Value, other: &Value) -> bool {
    ["hard", "used"].iter().all(|part| {
        let (one, other) = (&one[*part], &other[*part]);
        one.is_object() == other.is_object() && pod::resources(one) == pod::resources(other)
    })
}

fn amounts(quota: &Object, pointer: &str) -> Resources {
    quota.get(pointer).map(pod::resources).unwrap_or_default()
}

fn to_value(amounts: &Resources) -> Value {
    let amounts = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
    Value::Object(amounts.collect::<Map<_, _>>())
}

/// What the quota limits, of all that objects of the kind use; in order of name.
fn tracked<'q>(quota: &'q Object, hard: &str, kind: &Kind) -> Vec<&'q str> {
    let names = quota.map(hard).into_iter().flatten().map(|(name, _)| name.as_str());
    let mut tracked: Vec<_> = names.filter(|name| tracks(kind, name)).collect();
    tracked.sort_unstable();
    tracked
}

/// Whether the scopes of a quota hold for an object.
fn selects(quota: &Object, kind: &Kind, object: &Object) -> bool {
    let scopes = items(&quota.0["spec"]["scopes"]).map(|(_, scope)| (text(scope), &Value::Null));
    let expressions = items(&quota.0["spec"]["scopeSelector"]["matchExpressions"]);
    let selected = expressions.map(|(_, one)| (text(&one["scopeName"]), one));
    scopes.chain(selected).all(|(scope, expression)| in_scope(scope, expression, kind, object))
}

fn in_scope(scope: &str, expression: &Value, kind: &Kind, object: &Object) -> bool {
    if kind.id != "pods" {
        // Only pods have scopes: a quota with one counts nothing else.
        return false;
    }
    let is_terminating = || object.integer("/spec/activeDeadlineSeconds").is_some_and(|s| s >= 0);
    let is_best_effort = || pod::qos_class(object) == "BestEffort";
    match scope {
        "Terminating" => is_terminating(),
        "NotTerminating" => !is_terminating(),
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "PriorityClass" => has_class(expression, object.text("/spec/priorityClassName")),
        "CrossNamespacePodAffinity" => looks_elsewhere(object),
        _ => false,
    }
}

fn has_class(expression: &Value, class: &str) -> bool {
    let operator = match text(&expression["operator"]) {
        "" => "Exists",
        operator => operator,
    };
    let mut requirement = json!({"key": "class", "operator": operator});
    if !expression["values"].is_null() {
        requirement["values"] = expression["values"].clone();
    }
    let selector = json!({"matchExpressions": [requirement]});
    let labels = json!({"class": class});
    let labels = labels.as_object().filter(|_| !class.is_empty());
    LabelSelector::from_value(Some(&selector)).is_ok_and(|selector| selector.matches(labels))
}

/// Whether a pod's affinity looks into other namespaces.
fn looks_elsewhere(pod: &Object) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|which| {
        let affinity = &pod.0["spec"]["affinity"][*which];
        let required = items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = preferred.map(|(_, one)| &one["podAffinityTerm"]);
        required.map(|(_, one)| one).chain(preferred).any(|term| {
            items(&term["namespaces"]).next().is_some() || !term["namespaceSelector"].is_null()
        })
    })
}

/// What containers of a pod do not say although a quota demands it: `cpu for: main`.
fn missing(kind: &Kind, tracked: &[&str], object: &Object) -> Option<String> {
    if kind.id != "pods" {
        return None;
    }
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for list in ["/spec/containers", "/spec/initContainers"] {
        for container in object.list(list) {
            let own = usage::of_container(container);
            for name in tracked.iter().filter(|name| DEMANDED.contains(name)) {
                if !own.contains_key(*name) {
                    missing.entry(name).or_default().push(text(&container["name"]));
                }
            }
        }
    }
    let parts = missing.into_iter().map(|(name, mut containers)| {
        containers.sort_unstable();
        containers.dedup();
        format!("{name} for: {}", containers.join(","))
    });
    let parts: Vec<_> = parts.collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{CONFIG_MAP, PERSISTENT_VOLUME_CLAIM, POD, SERVICE};

    fn now() -> Timestamp {
        Timestamp::from_second(1000).unwrap()
    }

    fn quota(spec: Value, used: Value) -> Object {
        let status = json!({"hard": spec["hard"], "used": used});
        Object(json!({"metadata": {"name": "q"}, "spec": spec, "status": status}))
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "main", "resources": {"requests": requests, "limits": limits}})
    }

    fn pod(requests: Value, limits: Value) -> Object {
        Object(json!({"spec": {"containers": [container(requests, limits)]}}))
    }

    /// What is used afterwards, or the refusal.
    fn charged(quota: Object, kind: &Kind, old: Option<&Object>, new: &Object) -> String {
        let mut quotas = [quota];
        match charge(&mut quotas, Change { kind, old, new, now: now() }) {
            Err(why) => why,
            Ok(changed) if changed.is_empty() => "unchanged".to_owned(),
            Ok(_) => quotas[0].0["status"]["used"].to_string(),
        }
    }

    #[test]
    fn pods_are_charged_until_there_is_no_room() {
        let cpu = |hard: &str, used: &str| {
            quota(json!({"hard": {"requests.cpu": hard}}), json!({"requests.cpu": used}))
        };
        let half = pod(json!({"cpu": "500m"}), json!({}));
        for (quota, pod, expected) in [
            (cpu("1", "500m"), half.clone(), r#"{"requests.cpu":"1"}"#),
            (
                cpu("1", "600m"),
                half.clone(),
                "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, \
                 limited: requests.cpu=1",
            ),
            (
                cpu("1", "0"),
                pod(json!({}), json!({})),
                "failed quota: q: must specify requests.cpu for: main",
            ),
            (
                quota(json!({"hard": {"pods": "1", "cpu": "2"}}), json!({"pods": "1", "cpu": "2"})),
                half.clone(),
                "exceeded quota: q, requested: cpu=500m,pods=1, used: cpu=2,pods=1, limited: \
                 cpu=2,pods=1",
            ),
            (
                quota(json!({"hard": {"pods": "1", "limits.memory": "1Gi"}}), json!({"pods": "0"})),
                pod(json!({}), json!({"memory": "1Mi"})),
                "status unknown for quota: q, resources: limits.memory,pods",
            ),
            (
                quota(
                    json!({"hard": {"requests.example.com/gpu": "3", "hugepages-2Mi": "4Mi"}}),
                    json!({"requests.example.com/gpu": "1", "hugepages-2Mi": "0"}),
                ),
                pod(json!({"example.com/gpu": "2", "hugepages-2Mi": "4Mi"}), json!({})),
                r#"{"hugepages-2Mi":"4Mi","requests.example.com/gpu":"3"}"#,
            ),
            (
                quota(json!({"hard": {"configmaps": "1"}}), json!({"configmaps": "1"})),
                half,
                "unchanged",
            ),
        ] {
            assert_eq!(charged(quota, &POD, None, &pod), expected);
        }
    }

    #[test]
    fn an_update_is_charged_by_the_difference() {
        let hard = json!({"hard": {"services.loadbalancers": "1", "services.nodeports": "2", "services": "1"}});
        let used = |lb: &str, ports: &str| json!({"services.loadbalancers": lb, "services.nodeports": ports, "services": "1"});
        let service = |kind: &str| {
            Object(
                json!({"spec": {"type": kind, "ports": [{"port": 80, "nodePort": 30000}, {"port": 81}]}}),
            )
        };
        let (plain, balanced) = (service("ClusterIP"), service("LoadBalancer"));
        assert_eq!(
            charged(quota(hard.clone(), used("0", "0")), &SERVICE, Some(&plain), &balanced),
            r#"{"services":"1","services.loadbalancers":"1","services.nodeports":"2"}"#
        );
        assert_eq!(
            charged(quota(hard.clone(), used("1", "0")), &SERVICE, Some(&plain), &balanced),
            "exceeded quota: q, requested: services.loadbalancers=1, used: \
             services.loadbalancers=1, limited: services.loadbalancers=1"
        );
        assert_eq!(
            charged(quota(hard.clone(), used("5", "5")), &SERVICE, Some(&balanced), &plain),
            r#"{"services":"1","services.loadbalancers":"4","services.nodeports":"3"}"#,
            "what is given back is taken, however much is used"
        );
        assert_eq!(
            charged(quota(hard, used("1", "2")), &SERVICE, Some(&plain), &plain),
            "unchanged"
        );
        let claim = |size: &str| {
            Object(
                json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": size}}}}),
            )
        };
        let hard = json!({"hard": {"fast.storageclass.storage.k8s.io/requests.storage": "10Gi"}});
        let used = json!({"fast.storageclass.storage.k8s.io/requests.storage": "8Gi"});
        let kind = &PERSISTENT_VOLUME_CLAIM;
        assert_eq!(
            charged(quota(hard.clone(), used.clone()), kind, Some(&claim("8Gi")), &claim("10Gi")),
            r#"{"fast.storageclass.storage.k8s.io/requests.storage":"10Gi"}"#
        );
        assert!(charged(quota(hard, used), kind, Some(&claim("8Gi")), &claim("11Gi")).starts_with(
            "exceeded quota: q, requested: fast.storageclass.storage.k8s.io/requests.storage=3Gi"
        ));
    }

    #[test]
    fn scopes_narrow_what_is_counted() {
        let idle = pod(json!({}), json!({}));
        let busy = pod(json!({"cpu": "1"}), json!({}));
        let with = |pod: &Object, pointer: &str, value: Value| {
            let mut pod = pod.clone();
            pod.set(pointer, value);
            pod
        };
        let short = with(&idle, "/spec/activeDeadlineSeconds", 5.into());
        let high = with(&idle, "/spec/priorityClassName", "high".into());
        let term = json!([{"topologyKey": "a", "namespaces": ["b"]}]);
        let far = "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        let far = with(&idle, far, term);
        let scopes = |name: &str| json!({"scopes": [name]});
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        for (spec, counted, passed_over) in [
            (scopes("Terminating"), &short, &idle),
            (scopes("NotTerminating"), &idle, &short),
            (scopes("BestEffort"), &idle, &busy),
            (scopes("NotBestEffort"), &busy, &idle),
            (scopes("PriorityClass"), &high, &idle),
            (scopes("CrossNamespacePodAffinity"), &far, &idle),
            (class("In", json!(["high", "low"])), &high, &idle),
            (class("NotIn", json!(["high"])), &idle, &high),
            (class("Exists", Value::Null), &high, &idle),
            (class("DoesNotExist", Value::Null), &idle, &high),
        ] {
            let mut spec = spec;
            spec["hard"] = json!({"pods": "5"});
            let quota = || quota(spec.clone(), json!({"pods": "0"}));
            assert_eq!(charged(quota(), &POD, None, counted), r#"{"pods":"1"}"#, "{spec}");
            assert_eq!(charged(quota(), &POD, None, passed_over), "unchanged", "{spec}");
        }
    }

    #[test]
    fn the_status_is_counted_from_what_there_is() {
        let hard = json!({"hard": {"pods": "5", "requests.cpu": "4", "count/pods": "9",
            "configmaps": "3", "count/configmaps": "3", "count/widgets.example.com": "1"}});
        let quota = quota(hard, json!({"pods": "77", "gone": "1"}));
        let counted = counted(&quota, &[]);
        let names: Vec<_> = counted.iter().map(|kind| kind.id).collect();
        assert_eq!(names, ["configmaps", "pods"]);
        let busy = pod(json!({"cpu": "1500m"}), json!({}));
        let mut done = busy.clone();
        done.set("/status/phase", "Succeeded");
        let mut lost = busy.clone();
        lost.set("/metadata/deletionTimestamp", "1970-01-01T00:00:10Z");
        lost.set("/metadata/deletionGracePeriodSeconds", 30);
        let map = Object(json!({}));
        let objects =
            [(&POD, &busy), (&POD, &busy), (&POD, &done), (&POD, &lost), (&CONFIG_MAP, &map)];
        let status = status(&quota, &counted, objects, now());
        assert_eq!(
            status["used"],
            json!({"pods": "2", "requests.cpu": "3", "count/pods": "4", "configmaps": "1",
                "count/configmaps": "1"})
        );
        assert_eq!(status["hard"], quota.0["spec"]["hard"]);
        assert!(is_same_status(&status, &status));
        assert!(!is_same_status(&status, &quota.0["status"]));
    }

    #[test]
    fn most_writes_are_not_counted() {
        for (kind, subresource, is_update, expected) in [
            (&POD, "", false, true),
            (&POD, "", true, false),
            (&POD, "resize", true, true),
            (&POD, "status", true, false),
            (&SERVICE, "", true, true),
            (&SERVICE, "status", true, false),
            (&CONFIG_MAP, "", false, true),
            (&CONFIG_MAP, "", true, false),
            (&kinds::NODE, "", false, false),
            (&kinds::EVENT, "", false, false),
        ] {
            assert_eq!(may_count(kind, subresource, is_update), expected, "{}", kind.id);
        }
    }
}
