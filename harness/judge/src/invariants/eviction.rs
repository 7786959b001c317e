//! The lives of pods, the NoExecute taints that threaten them, and who else may have deleted them.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::timeline::Change;

use super::silence::WORK_US;
use crate::scene::{
    CONTROLLER_MANAGER, Instant, NODES, PODS, REPLICA_SETS, Scene, Seen, condition, text,
};

/// Effects that end pods.
const NO_EXECUTE: &str = "NoExecute";
/// For how long notifications that were held may still come once they are held no longer.
const HELD_US: i64 = 10_000_000;

/// A pod from its first to its last change.
#[derive(Debug, Clone)]
pub(super) struct PodLife<'a> {
    /// `namespace/name`
    pub(super) key: &'a str,
    /// Its node, once it has one.
    pub(super) bound: Option<(Instant, &'a str)>,
    /// When it was first seen.
    pub(super) created: Instant,
    /// The revision at which it was first seen.
    pub(super) created_revision: i64,
    /// When it was first seen Ready.
    pub(super) ready: Option<Instant>,
    /// When its deletion became visible.
    pub(super) doomed: Option<(Instant, i64)>,
    /// The last object.
    pub(super) object: &'a Value,
}

impl<'a> PodLife<'a> {
    /// Kind, name and uid of the controller that owns it.
    pub(super) fn owner(&self) -> Option<(&'a str, &'a str, &'a str)> {
        let owners = self.object.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner["controller"] == true)?;
        Some((owner["kind"].as_str()?, owner["name"].as_str()?, owner["uid"].as_str()?))
    }

    /// Its namespace.
    pub(super) fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }
}

/// Every pod that was seen, by uid, and by the uid of its owner.
#[derive(Debug)]
pub(super) struct Pods<'a> {
    by_uid: BTreeMap<&'a str, PodLife<'a>>,
    by_owner: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Pods<'a> {
    /// All of them, in order of uid.
    pub(super) fn values(&self) -> impl Iterator<Item = &PodLife<'a>> {
        self.by_uid.values()
    }

    /// Those that have this owner, in order of uid.
    pub(super) fn owned(&self, owner: &str) -> impl Iterator<Item = &PodLife<'a>> {
        self.by_owner.get(owner).into_iter().flatten().filter_map(|uid| self.by_uid.get(uid))
    }
}

/// Every pod that was seen.
pub(super) fn pods<'a>(scene: &'a Scene<'_>) -> Pods<'a> {
    let mut pods: BTreeMap<&str, PodLife<'a>> = BTreeMap::new();
    for seen in scene.of_kind(PODS) {
        let uid = text(seen.object, "/metadata/uid");
        let pod = pods.entry(uid).or_insert(PodLife {
            key: &seen.key,
            bound: None,
            created: seen.when,
            created_revision: seen.revision,
            ready: None,
            doomed: None,
            object: seen.object,
        });
        pod.object = seen.object;
        let node = text(seen.object, "/spec/nodeName");
        if pod.bound.is_none() && !node.is_empty() {
            pod.bound = Some((seen.when, node));
        }
        if pod.ready.is_none() && condition(seen.object, "Ready") == "True" {
            pod.ready = Some(seen.when);
        }
        let going = seen.object["metadata"]["deletionTimestamp"].is_string();
        if pod.doomed.is_none() && (going || seen.change == Change::Deleted) {
            pod.doomed = Some((seen.when, seen.revision));
        }
    }
    let mut by_owner: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (uid, pod) in &pods {
        if let Some((_, _, owner)) = pod.owner() {
            by_owner.entry(owner).or_default().push(uid);
        }
    }
    Pods { by_uid: pods, by_owner }
}

/// A stretch of time in which the same NoExecute taints threaten a pod.
#[derive(Debug, Clone)]
pub(super) struct Threat {
    /// Since when.
    pub(super) since: Instant,
    /// Until when, if it ended.
    pub(super) until: Option<Instant>,
    /// The earliest time since when the node has had any such taint.
    pub(super) tainted_us: i64,
    /// How long the pod bears it; `None` for ever.
    pub(super) bears_us: Option<i64>,
}

/// What threatens a pod on its node, in order; stretches without taints are left out.
pub(super) fn threats<'a>(scene: &'a Scene<'_>, pod: &PodLife<'a>) -> Vec<Threat> {
    let Some((bound, node)) = pod.bound else { return Vec::new() };
    let tolerations = pod.object["spec"]["tolerations"].as_array().unwrap_or_default();
    let mut threats: Vec<Threat> = Vec::new();
    let mut last: Vec<&Value> = Vec::new();
    let mut tainted_us = None;
    for seen in scene.changes(NODES, node) {
        let taints = match seen.change {
            Change::Deleted => Vec::new(),
            _ => no_execute(seen.object),
        };
        if same(&taints, &last) {
            continue;
        }
        // A pod that came later is threatened since it came.
        let since = if seen.when.seq < bound.seq { bound } else { seen.when };
        if let Some(open) = threats.last_mut().filter(|threat| threat.until.is_none()) {
            open.until = Some(since);
        }
        if taints.is_empty() {
            tainted_us = None;
        } else {
            let tainted_us = *tainted_us.get_or_insert(since.earliest());
            let bears_us = bears(&taints, tolerations);
            threats.push(Threat { since, until: None, tainted_us, bears_us });
        }
        last = taints;
    }
    threats
}

/// The NoExecute taints of a node.
pub(super) fn no_execute(node: &Value) -> Vec<&Value> {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    taints.into_iter().flatten().filter(|taint| taint["effect"] == NO_EXECUTE).collect()
}

fn same(left: &[&Value], right: &[&Value]) -> bool {
    let names = |taints: &[&Value]| {
        let mut names: Vec<_> = taints
            .iter()
            .map(|taint| (taint["key"].to_string(), taint["value"].to_string()))
            .collect();
        names.sort();
        names
    };
    names(left) == names(right)
}

/// How long a pod bears all of these taints: not at all, until the shortest of the tolerations that
/// it needs has passed, or for ever.
fn bears(taints: &[&Value], tolerations: &[Value]) -> Option<i64> {
    let mut shortest = None;
    for taint in taints {
        let mut fitting =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if fitting.peek().is_none() {
            return Some(0);
        }
        for seconds in fitting.filter_map(|toleration| toleration["tolerationSeconds"].as_i64()) {
            let micros = seconds.max(0).saturating_mul(1_000_000);
            shortest = Some(shortest.map_or(micros, |known: i64| known.min(micros)));
        }
    }
    shortest
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let field = |name: &str| toleration[name].as_str().unwrap_or_default();
    let effect = field("effect").is_empty() || field("effect") == NO_EXECUTE;
    let key = field("key").is_empty() || toleration["key"] == taint["key"];
    let value = match field("operator") {
        "Exists" => true,
        _ => {
            !field("key").is_empty()
                && field("value") == taint["value"].as_str().unwrap_or_default()
        }
    };
    effect && key && value
}

/// The earliest time at which taints may have ended a pod whose deletion was seen then; `None` if
/// no taint threatened it.
pub(super) fn evictable_since(threats: &[Threat], doomed: Instant) -> Option<Option<i64>> {
    let standing = threats.iter().filter(|threat| {
        let ended = threat.until.is_some_and(|until| until.at_us + WORK_US < doomed.earliest());
        threat.since.earliest() <= doomed.at_us && !ended
    });
    let dues: Vec<_> =
        standing.map(|threat| threat.bears_us.map(|bears| threat.tainted_us + bears)).collect();
    if dues.is_empty() {
        return None;
    }
    Some(dues.into_iter().flatten().min())
}

/// Whether something other than an eviction may have deleted the pod, or nobody can tell.
pub(super) fn is_explained(scene: &Scene<'_>, pod: &PodLife<'_>, lives: &Pods<'_>) -> bool {
    let Some((doomed, revision)) = pod.doomed else { return true };
    let mut lines = scene.audit_of(PODS, pod.key);
    let by = lines.find(|line| line.verb == "delete" && line.revision == revision);
    if by.is_some_and(|line| line.user != CONTROLLER_MANAGER) {
        return true;
    }
    let asked = scene.faults.iter().any(|span| {
        span.fault == "pod-delete" && span.targets.iter().any(|target| target == pod.key)
    });
    let phase = text(pod.object, "/status/phase");
    let namespace = scene.object_at("namespaces", pod.namespace(), doomed.seq);
    let namespace_goes =
        namespace.is_some_and(|seen| seen.object["metadata"]["deletionTimestamp"].is_string());
    let node_gone =
        pod.bound.is_some_and(|(_, node)| scene.object_at(NODES, node, doomed.seq).is_none());
    if asked || namespace_goes || node_gone || ["Failed", "Succeeded"].contains(&phase) {
        return true;
    }
    match pod.owner() {
        // Without an audit log nobody can tell who deleted a pod that nobody owns.
        None => by.is_none(),
        Some(("ReplicaSet", ..)) if is_behind(scene, doomed) && !is_disrupted(pod) => true,
        Some((kind, name, uid)) => owner_wants_less(scene, pod, lives, (kind, name, uid), revision),
    }
}

/// Whether the controllers' view may be an older one, as a fault holds, freezes or turns it back: it shows
/// pods that are gone, and of a ReplicaSet that seems to have too many one more is deleted, as upstream
/// does. What was held may come for a while after the fault.
fn is_behind(scene: &Scene<'_>, at: Instant) -> bool {
    scene.faults.iter().any(|span| {
        ["freeze-view", "hold-events", "rewind"].contains(&span.fault)
            && span.targets.iter().any(|target| target.ends_with("/kube-controller-manager"))
            && span.began().is_some_and(|(from, _)| from <= at.at_us)
            && span.over().is_none_or(|over| over + HELD_US >= at.earliest())
    })
}

/// Whether the pod bears the condition that every eviction sets before it deletes.
fn is_disrupted(pod: &PodLife<'_>) -> bool {
    condition(pod.object, "DisruptionTarget") == "True"
}

/// Whether the owner is gone, going, or has more pods than it wants. Told by revisions: pods and
/// owners are seen on watches of their own, of which either may be behind the other.
fn owner_wants_less(
    scene: &Scene<'_>,
    pod: &PodLife<'_>,
    lives: &Pods<'_>,
    (kind, name, uid): (&str, &str, &str),
    revision: i64,
) -> bool {
    if kind != "ReplicaSet" {
        return true;
    }
    let key = format!("{}/{name}", pod.namespace());
    let mut before = scene.changes(REPLICA_SETS, &key).filter(|seen| seen.revision < revision);
    let is_it = |seen: &&Seen<'_>| {
        seen.change != Change::Deleted && text(seen.object, "/metadata/uid") == uid
    };
    // Another object of the same name is not the owner.
    let Some(owner) = before.next_back().filter(is_it) else { return true };
    let going = owner.object["metadata"]["deletionTimestamp"].is_string();
    let wanted = owner.object["spec"]["replicas"].as_u64().unwrap_or(1);
    let now = pod.doomed.map_or(i64::MAX, |(when, _)| when.earliest());
    let is_recent = |when: Instant| when.at_us + WORK_US >= now;
    let there = lives.owned(uid).filter(|pod| {
        pod.created_revision < revision
            && pod.doomed.is_none_or(|(when, doomed)| {
                // An eviction of the same moment was not seen by the owner's controller yet.
                doomed >= revision || is_disrupted(pod) && is_recent(when)
            })
            && !["Failed", "Succeeded"].contains(&text(pod.object, "/status/phase"))
    });
    going || there.count() as u64 > wanted
}

/// Whether a pod went because its owner wanted fewer: then nothing is to take its place.
pub(super) fn is_surplus(scene: &Scene<'_>, pod: &PodLife<'_>, lives: &Pods<'_>) -> bool {
    let (Some((_, revision)), Some(owner)) = (pod.doomed, pod.owner()) else { return false };
    owner_wants_less(scene, pod, lives, owner, revision)
}

/// How many pods of an owner were there, and not being deleted, at this place of the timeline.
pub(super) fn owned_at(lives: &Pods<'_>, owner: &str, seq: u64) -> u64 {
    let there = lives.owned(owner).filter(|pod| {
        pod.created.seq <= seq
            && pod.doomed.is_none_or(|(doomed, _)| doomed.seq > seq)
            && !["Failed", "Succeeded"].contains(&text(pod.object, "/status/phase"))
    });
    there.count() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_long_a_pod_bears_its_taints() {
        let unreachable = json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"});
        let custom = json!({"key": "c", "value": "v", "effect": "NoExecute"});
        let for_300 = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 300});
        let for_20 = json!({"key": "c", "value": "v", "tolerationSeconds": 20});
        let all = json!({"operator": "Exists"});
        let other = json!({"key": "c", "value": "w"});
        for (taints, tolerations, wanted) in [
            (vec![&unreachable], vec![], Some(0)),
            (vec![&unreachable], vec![for_300.clone()], Some(300_000_000)),
            (vec![&unreachable, &custom], vec![for_300.clone()], Some(0)),
            (vec![&unreachable, &custom], vec![for_300.clone(), for_20.clone()], Some(20_000_000)),
            (vec![&unreachable, &custom], vec![all.clone()], None),
            (vec![&unreachable], vec![all, for_300], Some(300_000_000)),
            (vec![&custom], vec![other], Some(0)),
        ] {
            let seen = |all: Vec<serde_json::Value>| all.into_iter().map(Value::from).collect();
            let taints: Vec<Value> = seen(taints.into_iter().cloned().collect());
            let (taints, tolerations): (Vec<_>, Vec<Value>) =
                (taints.iter().collect(), seen(tolerations));
            assert_eq!(bears(&taints, &tolerations), wanted, "{taints:?} {tolerations:?}");
        }
    }
}
