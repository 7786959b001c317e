//! Who a fault is done to: bound by role, not by name. Parsed while planning, resolved while running.
//!
//! A choice among several is seeded, and recorded by the runner as `Bound`.

use std::collections::BTreeSet;
use std::fmt;

use crate::json::Value;
use crate::lever::Component;
use crate::read::did_you_mean;
use crate::target::{Role, ZONE_LABEL};
use crate::world::World;
use rand::RngCore;
use serde::{Deserialize, Serialize};

/// A name, or a binding that stands for one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ref {
    /// `$victim`
    Binding(String),
    /// `web-0`
    Name(String),
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ref::Binding(name) => write!(f, "${name}"),
            Ref::Name(name) => f.write_str(name),
        }
    }
}

impl Ref {
    /// `$x` is a binding, everything else a name.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix('$') {
            Some(name) => Ref::Binding(name.to_string()),
            None => Ref::Name(text.to_string()),
        }
    }
}

/// A role in the cluster, or a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Who {
    /// `$victim`: whatever the name is bound to.
    Binding(String),
    /// `node worker-1`, `worker-1`.
    Node(Ref),
    /// `node of $bare`, `node of pod/web-0`.
    NodeOf(Ref),
    /// `any worker`, `any control plane`.
    Any(Role),
    /// `all workers`, `the control plane`.
    All(Role),
    /// `the other workers`: those that nothing else in the scenario speaks of.
    Others(Role),
    /// `workers of any zone`: all workers of one zone.
    AnyZone,
    /// `workers of zone-2`
    Zone(String),
    /// `leader of kube-scheduler`: the node of the leader.
    Leader(Component),
    /// `follower of etcd`: any but the leader.
    Follower,
    /// `the followers of etcd`: all but the leader.
    Followers,
    /// `the members of etcd`.
    Members,
    /// `a minority of etcd`: as many members as may fail.
    Minority,
    /// `a majority of etcd`.
    Majority,
    /// `the other members of etcd`: those that the step does not name otherwise.
    OtherMembers,
    /// `pod/web-0`
    Pod(String),
    /// `any pod of deployment/web`, `any pod of replicaset/web`
    AnyPodOf(Owner),
    /// `all pods of deployment/web`
    AllPodsOf(Owner),
}

/// Whose pods: `deployment/web`, `replicaset/web`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Deployment or ReplicaSet.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.to_ascii_lowercase(), self.name)
    }
}

/// Why a role means nothing, or nobody plays it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RoleError {
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub hint: String,
}

/// The roles, as they are written.
pub const ROLES: &[&str] = &[
    "any worker",
    "all workers",
    "the other workers",
    "workers of any zone",
    "workers of zone-1",
    "any control plane",
    "the control plane",
    "node worker-1",
    "node of $pod",
    "node of pod/web-0",
    "leader of etcd",
    "leader of kube-scheduler",
    "leader of kube-controller-manager",
    "follower of etcd",
    "the followers of etcd",
    "the members of etcd",
    "the other members of etcd",
    "a minority of etcd",
    "a majority of etcd",
    "pod/web-0",
    "any pod of deployment/web",
    "all pods of deployment/web",
    "any pod of replicaset/web",
    "all pods of replicaset/web",
];

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Binding(name) => write!(f, "${name}"),
            Who::Node(node) => write!(f, "node {node}"),
            Who::NodeOf(Ref::Binding(name)) => write!(f, "node of ${name}"),
            Who::NodeOf(Ref::Name(name)) => write!(f, "node of pod/{name}"),
            Who::Any(Role::Worker) => f.write_str("any worker"),
            Who::Any(Role::ControlPlane) => f.write_str("any control plane"),
            Who::All(Role::Worker) => f.write_str("all workers"),
            Who::All(Role::ControlPlane) => f.write_str("the control plane"),
            Who::Others(Role::Worker) => f.write_str("the other workers"),
            Who::Others(Role::ControlPlane) => f.write_str("the other control planes"),
            Who::AnyZone => f.write_str("workers of any zone"),
            Who::Zone(zone) => write!(f, "workers of {zone}"),
            Who::Leader(component) => write!(f, "leader of {component}"),
            Who::Follower => f.write_str("follower of etcd"),
            Who::Followers => f.write_str("the followers of etcd"),
            Who::Members => f.write_str("the members of etcd"),
            Who::Minority => f.write_str("a minority of etcd"),
            Who::Majority => f.write_str("a majority of etcd"),
            Who::OtherMembers => f.write_str("the other members of etcd"),
            Who::Pod(name) => write!(f, "pod/{name}"),
            Who::AnyPodOf(owner) => write!(f, "any pod of {owner}"),
            Who::AllPodsOf(owner) => write!(f, "all pods of {owner}"),
        }
    }
}

impl From<Who> for String {
    fn from(who: Who) -> String {
        who.to_string()
    }
}

impl TryFrom<String> for Who {
    type Error = RoleError;
    fn try_from(text: String) -> Result<Self, RoleError> {
        Who::parse(&text)
    }
}

impl Who {
    /// Reads a role as scenario files have it.
    pub fn parse(text: &str) -> Result<Self, RoleError> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(name) = text.strip_prefix('$') {
            return Ok(Who::Binding(name.to_string()));
        }
        let bare =
            ["the ", "an ", "a ", "any "].iter().find_map(|article| text.strip_prefix(article));
        let who = match bare.unwrap_or(&text) {
            "worker" => Who::Any(Role::Worker),
            "all workers" | "every worker" | "workers" => Who::All(Role::Worker),
            "other workers" => Who::Others(Role::Worker),
            "workers of any zone" | "workers of a zone" => Who::AnyZone,
            "control plane" if text.starts_with("the ") => Who::All(Role::ControlPlane),
            "control plane" => Who::Any(Role::ControlPlane),
            "all control planes" | "control planes" => Who::All(Role::ControlPlane),
            "other control planes" => Who::Others(Role::ControlPlane),
            "leader of etcd" => Who::Leader(Component::Etcd),
            "leader of kube-scheduler" => Who::Leader(Component::KubeScheduler),
            "leader of kube-controller-manager" => Who::Leader(Component::KubeControllerManager),
            "follower of etcd" => Who::Follower,
            "followers of etcd" => Who::Followers,
            "members of etcd" | "etcd" => Who::Members,
            "minority of etcd" => Who::Minority,
            "majority of etcd" => Who::Majority,
            "other members of etcd" => Who::OtherMembers,
            rest => return Self::parse_named(&text, rest),
        };
        Ok(who)
    }

    fn parse_named(text: &str, rest: &str) -> Result<Self, RoleError> {
        let name = |prefix: &str| {
            let name = rest.strip_prefix(prefix)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
            (!name.is_empty() && name.chars().all(plain)).then(|| name.to_string())
        };
        let owned = |prefix: &str| {
            ["Deployment", "ReplicaSet"].into_iter().find_map(|kind| {
                let name = name(&format!("{prefix}{}/", kind.to_ascii_lowercase()))?;
                Some(Owner { kind, name })
            })
        };
        if let Some(binding) = rest.strip_prefix("node of $") {
            return Ok(Who::NodeOf(Ref::Binding(binding.to_string())));
        }
        if let Some(binding) = rest.strip_prefix("node $") {
            return Ok(Who::Node(Ref::Binding(binding.to_string())));
        }
        let found = (name("node of pod/").map(|name| Who::NodeOf(Ref::Name(name))))
            .or_else(|| name("node ").map(|name| Who::Node(Ref::Name(name))))
            .or_else(|| name("workers of ").map(Who::Zone))
            .or_else(|| owned("all pods of ").map(Who::AllPodsOf))
            .or_else(|| owned("pod of ").map(Who::AnyPodOf))
            .or_else(|| name("pod/").map(Who::Pod));
        if let Some(found) = found {
            return Ok(found);
        }
        let is_node =
            |prefix: &str| rest.strip_prefix(prefix).is_some_and(|n| n.parse::<u32>().is_ok());
        if is_node("worker-") || is_node("cp-") {
            return Ok(Who::Node(Ref::Name(rest.to_string())));
        }
        Err(RoleError {
            message: format!("nobody has the role `{text}`"),
            hint: did_you_mean(text, ROLES),
        })
    }

    /// Whether it stands for pods rather than nodes; `None` if only the binding knows.
    pub fn is_pods(&self) -> Option<bool> {
        match self {
            Who::Binding(_) => None,
            Who::Pod(_) | Who::AnyPodOf(_) | Who::AllPodsOf(_) => Some(true),
            _ => Some(false),
        }
    }

    /// The binding that it uses, if any.
    pub fn binding(&self) -> Option<&str> {
        match self {
            Who::Binding(name)
            | Who::Node(Ref::Binding(name))
            | Who::NodeOf(Ref::Binding(name)) => Some(name),
            _ => None,
        }
    }

    /// Whether it can be resolved only after etcd's members were asked who leads.
    pub fn asks_etcd(&self) -> bool {
        matches!(self, Who::Leader(Component::Etcd) | Who::Follower | Who::Followers)
    }

    /// Who it is now: names of nodes, or `namespace/name` of pods. `taken` are those that the
    /// step, or the scenario so far, already speaks of.
    pub fn resolve(
        &self,
        world: &World,
        taken: &BTreeSet<String>,
        random: &mut dyn RngCore,
    ) -> Result<Vec<String>, RoleError> {
        let role = |role| world.cluster().map(|cluster| cluster.names(role)).unwrap_or_default();
        let members = || role(Role::ControlPlane);
        let free = |names: Vec<String>| -> Vec<String> {
            names.into_iter().filter(|name| !taken.contains(name)).collect()
        };
        let found = match self {
            Who::Binding(name) => bound(world, name)?,
            Who::Node(Ref::Binding(name)) => bound(world, name)?,
            Who::Node(Ref::Name(name)) => vec![known_node(world, name)?],
            Who::NodeOf(Ref::Binding(name)) => {
                let pods = bound(world, name)?;
                pods.iter().map(|pod| node_of(world, pod)).collect::<Result<_, _>>()?
            }
            Who::NodeOf(Ref::Name(name)) => vec![node_of(world, name)?],
            Who::Any(wanted) => one(prefer(role(*wanted), taken), random),
            Who::All(wanted) => role(*wanted),
            Who::Others(wanted) => free(role(*wanted)),
            Who::AnyZone => {
                let zones: BTreeSet<&str> =
                    world.objects("nodes").filter_map(|(_, node)| zone_of(node)).collect();
                let zones = zones.into_iter().map(str::to_owned).collect();
                match one(zones, random).first() {
                    Some(zone) => of_zone(world, zone, role(Role::Worker)),
                    None => Vec::new(),
                }
            }
            Who::Zone(zone) => of_zone(world, zone, role(Role::Worker)),
            Who::Leader(Component::Etcd) => vec![etcd_leader(world)?],
            Who::Leader(component) => world.leader(*component).into_iter().collect(),
            Who::Follower | Who::Followers => {
                let leader = etcd_leader(world)?;
                let followers = members().into_iter().filter(|node| *node != leader).collect();
                if *self == Who::Follower { one(followers, random) } else { followers }
            }
            Who::Members => members(),
            Who::Minority => some(members(), |count| (count - 1) / 2, random),
            Who::Majority => some(members(), |count| count / 2 + 1, random),
            Who::OtherMembers => free(members()),
            Who::Pod(name) => vec![format!("{}/{name}", world.namespace())],
            Who::AnyPodOf(owner) => one(pods_of(world, owner), random),
            Who::AllPodsOf(owner) => pods_of(world, owner),
        };
        if found.is_empty() {
            return Err(nobody(format!("nobody is `{self}` now"), ""));
        }
        Ok(found)
    }
}

fn nobody(message: impl Into<String>, hint: impl Into<String>) -> RoleError {
    RoleError { message: message.into(), hint: hint.into() }
}

fn bound(world: &World, name: &str) -> Result<Vec<String>, RoleError> {
    match world.bound(name) {
        Some(to) => Ok(to.to_vec()),
        None => {
            Err(nobody(format!("`${name}` is not bound yet"), "bind it in `bind:` or by `as:`"))
        }
    }
}

fn known_node(world: &World, name: &str) -> Result<String, RoleError> {
    let names: Vec<&str> = world
        .cluster()
        .map(|cluster| cluster.nodes.iter().map(|node| node.name.as_str()).collect())
        .unwrap_or_default();
    if names.contains(&name) {
        return Ok(name.to_string());
    }
    Err(nobody(format!("no node `{name}` in this cluster"), did_you_mean(name, &names)))
}

/// The node that a pod, `name` or `namespace/name`, is bound to.
fn node_of(world: &World, pod: &str) -> Result<String, RoleError> {
    let (namespace, name) = pod.split_once('/').unwrap_or((world.namespace(), pod));
    let node = world
        .object("pods", namespace, name)
        .and_then(|object| object.pointer("/spec/nodeName"))
        .and_then(Value::as_str)
        .filter(|node| !node.is_empty());
    match node {
        Some(node) => Ok(node.to_string()),
        None => Err(nobody(format!("pod {namespace}/{name} is on no node"), "")),
    }
}

/// The zone that a Node object says it is in.
fn zone_of(node: &Value) -> Option<&str> {
    node.get("metadata")?.get("labels")?.get(ZONE_LABEL)?.as_str()
}

/// Those of the workers that are in a zone.
fn of_zone(world: &World, zone: &str, mut workers: Vec<String>) -> Vec<String> {
    let is_there = |name: &String| world.object("nodes", "", name).and_then(zone_of) == Some(zone);
    workers.retain(is_there);
    workers
}

fn etcd_leader(world: &World) -> Result<String, RoleError> {
    match world.etcd_leader() {
        Some(node) => Ok(node.to_string()),
        None => Err(nobody("etcd has no leader now", "")),
    }
}

/// The pods of a Deployment or ReplicaSet of the scenario that are not being deleted.
fn pods_of(world: &World, wanted: &Owner) -> Vec<String> {
    let owner = |object: &Value, kind: &str| {
        let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner["kind"] == kind)?;
        Some(owner["name"].as_str()?.to_string())
    };
    let namespace = world.namespace();
    let is_of = |pod: &Value| {
        let set = owner(pod, "ReplicaSet")?;
        if wanted.kind == "ReplicaSet" {
            return Some(set == wanted.name);
        }
        let set = world.object("replicasets.apps", namespace, &set)?;
        Some(owner(set, "Deployment")? == wanted.name)
    };
    world
        .objects("pods")
        .filter(|((ns, _), pod)| {
            ns == namespace
                && pod.pointer("/metadata/deletionTimestamp").is_none()
                && is_of(pod) == Some(true)
        })
        .map(|((ns, name), _)| format!("{ns}/{name}"))
        .collect()
}

/// Those that are not taken, unless all are.
fn prefer(names: Vec<String>, taken: &BTreeSet<String>) -> Vec<String> {
    let free: Vec<String> = names.iter().filter(|name| !taken.contains(*name)).cloned().collect();
    if free.is_empty() { names } else { free }
}

fn one(names: Vec<String>, random: &mut dyn RngCore) -> Vec<String> {
    some(names, |_| 1, random)
}

/// So many of them, in their own order.
fn some(
    names: Vec<String>,
    count: impl Fn(usize) -> usize,
    random: &mut dyn RngCore,
) -> Vec<String> {
    let mut left: Vec<usize> = (0..names.len()).collect();
    let wanted = if names.is_empty() { 0 } else { count(names.len()).min(names.len()) };
    let mut chosen = BTreeSet::new();
    for _ in 0..wanted {
        let index = (random.next_u64() % left.len() as u64) as usize;
        chosen.insert(left.swap_remove(index));
    }
    chosen.into_iter().map(|index| names[index].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{ClusterFact, NodeFact, Parameters};
    use crate::timeline::{Change, Event, What};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use serde_json::json;

    fn world() -> World {
        let node = |name: &str, role| NodeFact { name: name.into(), role, address: String::new() };
        let mut nodes: Vec<NodeFact> =
            (1..=5).map(|n| node(&format!("cp-{n}"), Role::ControlPlane)).collect();
        nodes.extend((1..=3).map(|n| node(&format!("worker-{n}"), Role::Worker)));
        let object = |kind: &str, object: serde_json::Value| What::Object {
            change: Change::Added,
            kind: kind.into(),
            revision: 1,
            object: object.into(),
        };
        let owner = |kind: &str, name: &str| json!([{"kind": kind, "name": name}]);
        let pod = |name: &str, owners: serde_json::Value, node: &str| {
            object(
                "pods",
                json!({"metadata": {"namespace": "shop", "name": name, "ownerReferences": owners}, "spec": {"nodeName": node}}),
            )
        };
        let member = |n: u64, leader, term| What::EtcdMember {
            node: format!("cp-{n}"),
            member: n,
            leader,
            term,
            revision: 1,
        };
        let whats = vec![
            What::Cluster { cluster: ClusterFact { nodes, parameters: Parameters::default() } },
            What::Bound { name: "namespace".into(), to: vec!["shop".into()] },
            What::Bound { name: "bare".into(), to: vec!["shop/bare".into()] },
            pod("bare", json!([]), "worker-2"),
            object(
                "replicasets.apps",
                json!({"metadata": {"namespace": "shop", "name": "web-1", "ownerReferences": owner("Deployment", "web")}}),
            ),
            pod("web-1-a", owner("ReplicaSet", "web-1"), "worker-1"),
            pod("web-1-b", owner("ReplicaSet", "web-1"), "worker-3"),
            object(
                "leases.coordination.k8s.io",
                json!({"metadata": {"namespace": "kube-system", "name": "kube-scheduler"}, "spec": {"holderIdentity": "cp-4_x"}}),
            ),
            object(
                "nodes",
                json!({"metadata": {"name": "worker-1", "labels": {ZONE_LABEL: "zone-1"}}}),
            ),
            object(
                "nodes",
                json!({"metadata": {"name": "worker-2", "labels": {ZONE_LABEL: "zone-2"}}}),
            ),
            object(
                "nodes",
                json!({"metadata": {"name": "worker-3", "labels": {ZONE_LABEL: "zone-1"}}}),
            ),
            // A deposed leader still takes itself for the leader of an older term.
            member(1, 1, 3),
            member(2, 3, 4),
            member(3, 3, 4),
        ];
        let mut world = World::new();
        for (seq, what) in whats.into_iter().enumerate() {
            let seq = seq as u64;
            world.apply(&Event { seq, at_us: seq, error_us: 0, scenario: "s".into(), what });
        }
        world
    }

    fn who(role: &str, taken: &[&str], seed: u64) -> Result<Vec<String>, RoleError> {
        let taken = taken.iter().map(|name| name.to_string()).collect();
        Who::parse(role)?.resolve(&world(), &taken, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn roles_that_leave_no_choice() {
        for (role, taken, expected) in [
            ("node of $bare", &[][..], "worker-2"),
            ("node of pod/bare", &[], "worker-2"),
            ("$bare", &[], "shop/bare"),
            ("node worker-3", &[], "worker-3"),
            ("worker-3", &[], "worker-3"),
            ("the other workers", &["worker-2"], "worker-1 worker-3"),
            ("all workers", &["worker-2"], "worker-1 worker-2 worker-3"),
            ("any worker", &["worker-1", "worker-2"], "worker-3"),
            ("workers of zone-1", &[], "worker-1 worker-3"),
            ("the workers of zone-2", &[], "worker-2"),
            ("leader of etcd", &[], "cp-3"),
            ("the followers of etcd", &[], "cp-1 cp-2 cp-4 cp-5"),
            ("the other members of etcd", &["cp-3"], "cp-1 cp-2 cp-4 cp-5"),
            ("leader of kube-scheduler", &[], "cp-4"),
            ("the control plane", &[], "cp-1 cp-2 cp-3 cp-4 cp-5"),
            ("all pods of deployment/web", &[], "shop/web-1-a shop/web-1-b"),
            ("all pods of replicaset/web-1", &[], "shop/web-1-a shop/web-1-b"),
            ("pod/bare", &[], "shop/bare"),
        ] {
            assert_eq!(who(role, taken, 1).unwrap().join(" "), expected, "{role}");
        }
    }

    #[test]
    fn choices_are_the_seeds_and_of_the_right_size() {
        for (role, size) in [
            ("worker", 1),
            ("follower of etcd", 1),
            ("a minority of etcd", 2),
            ("a majority of etcd", 3),
            ("any pod of deployment/web", 1),
        ] {
            let choices: BTreeSet<Vec<String>> =
                (0..40).map(|seed| who(role, &[], seed).unwrap()).collect();
            assert!(choices.len() > 1, "{role} is always {choices:?}");
            for (seed, chosen) in (0..40).map(|seed| (seed, who(role, &[], seed).unwrap())) {
                assert_eq!(chosen.len(), size, "{role}");
                assert_eq!(chosen, who(role, &[], seed).unwrap(), "{role}");
                assert!(role != "follower of etcd" || chosen != ["cp-3"]);
            }
        }
    }

    #[test]
    fn any_zone_is_all_workers_of_one_zone() {
        let choices: BTreeSet<String> =
            (0..40).map(|seed| who("workers of any zone", &[], seed).unwrap().join(" ")).collect();
        let choices: Vec<_> = choices.into_iter().collect();
        assert_eq!(choices, ["worker-1 worker-3", "worker-2"]);
    }

    #[test]
    fn nobody_is_told() {
        for (role, message) in [
            ("$nobody", "not bound"),
            ("node of pod/none", "is on no node"),
            ("node worker-9", "no node `worker-9`"),
            ("leader of kube-controller-manager", "nobody is"),
            ("any pod of deployment/none", "nobody is"),
            ("workers of zone-3", "nobody is"),
            ("the other workers of etcd", "nobody has the role"),
        ] {
            let error = who(role, &[], 1).unwrap_err();
            assert!(error.message.contains(message), "{role}: {error}");
        }
    }

    #[test]
    fn every_role_is_read_back_as_it_is_shown() {
        for role in ROLES {
            let who = Who::parse(role).unwrap();
            assert_eq!(Who::parse(&who.to_string()).unwrap(), who, "{role}");
        }
    }
}
