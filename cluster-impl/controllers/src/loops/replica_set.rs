//! Keeps as many pods of a ReplicaSet as it asks for.
//!
//! ```yaml
//! apiVersion: apps/v1
//! kind: ReplicaSet
//! metadata: {name: web}
//! spec:
//!   replicas: 2
//!   selector: {matchLabels: {app: web}}
//!   template:
//!     metadata: {labels: {app: web}}
//!     spec: {containers: [{name: web, image: web}]}
//! ```
//!
//! Pods that are terminating, Succeeded or Failed do not count. A pod that matches and has no
//! controller is adopted; one that no longer matches is released.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiclient::Informed;
use env::{Sabotage, Timestamp};
use machinery::kinds::{POD, REPLICA_SET};
use machinery::pod::{from_template, is_active, is_ready};
use machinery::{Kind, Object, ObjectKey, View};
use serde_json::{Value, json};

use super::selects;
use crate::controller::managed;
use crate::{Config, Controller, DecideCx, Decision, Guard, Index, Key, Note, Write};

/// At most so many pods are created or deleted by one decision: upstream's BurstReplicas.
const BURST: usize = 500;

/// The controller. It remembers nothing: the driver keeps it from deciding on a stale view.
pub struct ReplicaSetController;

impl ReplicaSetController {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&POD, &REPLICA_SET]
    }

    fn changed(&mut self, view: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == REPLICA_SET.id {
            return vec![Key::of(&REPLICA_SET, change.key.clone())];
        }
        if change.kind.id != POD.id {
            return Vec::new();
        }
        let mut keys = Vec::new();
        for pod in [&change.old, &change.new].into_iter().flatten() {
            if let Some(owner) = pod.controller() {
                if owner.kind == REPLICA_SET.kind {
                    let key = ObjectKey::new(pod.namespace(), owner.name);
                    keys.push(Key::of(&REPLICA_SET, key));
                }
            } else if !pod.is_terminating() {
                let sets = view.in_namespace(&REPLICA_SET, pod.namespace());
                let matching = sets.filter(|set| selects(set, pod));
                keys.extend(matching.map(|set| Key::of(&REPLICA_SET, set.key())));
            }
        }
        keys.dedup();
        keys
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(set) = view.get(&REPLICA_SET, &key.object) else { return Decision::settled() };
        let (pods, claims) = claim(view, set, cx);
        if !claims.is_empty() {
            // The claims come back as changes; then the pods can be counted.
            return Decision { writes: claims, ..Decision::default() };
        }
        let mut decision = Decision::default();
        if !set.is_terminating() {
            manage(view, set, &pods, cx, &mut decision);
        }
        let mut object = Object::clone(set);
        object.set("/status", status(set, &pods, cx, &mut decision));
        let writes = std::mem::take(&mut decision.writes);
        let is_creation = |write: &Write| matches!(write, Write::Create { .. });
        if writes.is_empty() {
            let changed = managed(set, object, None, cx.now);
            let told = changed.map(|object| Write::UpdateStatus { kind: &REPLICA_SET, object });
            decision.writes.extend(told);
        } else {
            let reason =
                if writes.iter().any(is_creation) { "FailedCreate" } else { "FailedDelete" };
            let (kind, before, now) = (&REPLICA_SET, set.clone(), cx.now);
            decision.writes.push(Write::Managed { writes, kind, before, object, reason, now });
        }
        decision
    }
}

/// The set's active pods, and the writes that adopt and release.
fn claim<'v>(
    view: &'v View,
    set: &'v Arc<Object>,
    cx: &DecideCx<'_>,
) -> (Vec<&'v Arc<Object>>, Vec<Write>) {
    let takes_any = cx.sabotaged(Sabotage::ForeignPodsCounted);
    let (mut owned, mut claims) = (Vec::new(), Vec::new());
    let candidates = cx.index.claimable(&POD, set.namespace(), set.uid());
    let pods: Vec<_> = match takes_any {
        true => view.in_namespace(&POD, set.namespace()).collect(),
        false => candidates.into_iter().filter_map(|key| view.get(&POD, key)).collect(),
    };
    for pod in pods.into_iter().filter(|pod| is_active(pod)) {
        let matches = selects(set, pod);
        match pod.controller() {
            Some(owner) if (owner.uid == set.uid() || takes_any) && matches => owned.push(pod),
            Some(owner) if owner.uid == set.uid() && !set.is_terminating() => {
                claims.push(release(&POD, pod, set.uid()));
            }
            None if matches && !set.is_terminating() => claims.push(adopt(&POD, pod, &REPLICA_SET, set)),
            _ => {}
        }
    }
    (owned, claims)
}

/// Makes `owner` the controller of an object that has none, if the owner still lives.
pub(super) fn adopt(
    kind: &'static Kind,
    object: &Arc<Object>,
    owner_kind: &'static Kind,
    owner: &Arc<Object>,
) -> Write {
    let mut owners = object.list("/metadata/ownerReferences").to_vec();
    owners.push(json!(owner.as_controller()));
    let mut object = Object::clone(object);
    object.set("/metadata/ownerReferences", owners);
    let guard =
        Guard { kind: owner_kind, key: owner.key(), uid: owner.uid().to_owned(), present: true };
    Write::If { guards: vec![guard], write: Box::new(Write::Update { kind, object }) }
}

/// Takes an owner away from an object.
pub(super) fn release(kind: &'static Kind, object: &Arc<Object>, owner_uid: &str) -> Write {
    let mut owners = object.list("/metadata/ownerReferences").to_vec();
    owners.retain(|owner| owner["uid"] != owner_uid);
    let mut object = Object::clone(object);
    if owners.is_empty() {
        object.remove("/metadata/ownerReferences");
    } else {
        object.set("/metadata/ownerReferences", owners);
    }
    Write::Update { kind, object }
}

fn manage(
    view: &View,
    set: &Arc<Object>,
    pods: &[&Arc<Object>],
    cx: &DecideCx<'_>,
    decision: &mut Decision,
) {
    let mut wanted = usize::try_from(set.integer("/spec/replicas").unwrap_or(1)).unwrap_or_default();
    if cx.sabotaged(Sabotage::ReplicaSetOffByOne) {
        wanted += 1;
    }
    let missing = wanted.saturating_sub(pods.len()).min(BURST);
    decision.writes.extend((0..missing).map(|_| Write::Create {
        kind: &POD,
        object: new_pod(set),
        note: Some(Note::normal(set, "SuccessfulCreate", "Created pod: {}")),
    }));
    let mut surplus = pods.len().saturating_sub(wanted).min(BURST);
    if cx.sabotaged(Sabotage::SurplusKept) {
        surplus = 0;
    }
    if surplus > 0 {
        let crowds = crowds(view, set, cx.index);
        let mut ranked = pods.to_vec();
        ranked.sort_by_cached_key(|pod| rank(pod, &crowds));
        if cx.sabotaged(Sabotage::ReadyPodsDeletedFirst) {
            ranked.reverse();
        }
        decision.writes.extend(ranked.into_iter().take(surplus).map(|pod| Write::Delete {
            kind: &POD,
            object: pod.clone(),
            grace_s: None,
            propagation: "",
            note: Some(Note::normal(
                set,
                "SuccessfulDelete",
                format!("Deleted pod: {}", pod.name()),
            )),
        }));
    }
}

fn new_pod(set: &Object) -> Object {
    let mut pod = from_template(set.get("/spec/template").unwrap_or(&Value::Null));
    pod.set("/metadata/namespace", set.namespace());
    pod.set("/metadata/generateName", format!("{}-", set.name()));
    pod.set("/metadata/ownerReferences", json!([set.as_controller()]));
    pod
}

/// How many active pods of this set and of its siblings (the other sets of its owner) each node has.
fn crowds(view: &View, set: &Object, index: &Index) -> BTreeMap<String, usize> {
    let owner = set.controller().map(|owner| owner.uid);
    let siblings = owner.iter().flat_map(|owner| index.owned(&REPLICA_SET, owner));
    let siblings = siblings
        .filter_map(|key| view.get(&REPLICA_SET, key))
        .filter(|other| other.controller().map(|owner| owner.uid) == owner)
        .map(|other| other.uid())
        .filter(|uid| *uid != set.uid());
    let mut crowds = BTreeMap::new();
    for uid in siblings.chain([set.uid()]) {
        let pods = index.owned(&POD, uid).filter_map(|key| view.get(&POD, key));
        for pod in pods.filter(|pod| is_active(pod)) {
            if pod.controller().is_some_and(|owner| owner.uid == uid) {
                *crowds.entry(pod.text("/spec/nodeName").to_owned()).or_default() += 1;
            }
        }
    }
    crowds
}

type Rank = (bool, u8, bool, i64, Reverse<usize>, Reverse<Option<Timestamp>>, Reverse<i64>, Reverse<Option<Timestamp>>, String);

/// The pods that rank lowest go first: unassigned, pending, not ready, cheap to delete, on a crowded
/// node, ready for a shorter time, restarted more often, younger.
fn rank(pod: &Object, crowds: &BTreeMap<String, usize>) -> Rank {
    let node = pod.text("/spec/nodeName");
    let phase = match pod.text("/status/phase") {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = pod.annotation("controller.kubernetes.io/pod-deletion-cost");
    let restarts = pod
        .list("/status/containerStatuses")
        .iter()
        .filter_map(|status| status.get("restartCount")?.as_i64())
        .max();
    (
        !node.is_empty(),
        phase,
        is_ready(pod),
        cost.and_then(|cost| cost.parse().ok()).unwrap_or_default(),
        Reverse(crowds.get(node).copied().unwrap_or_default()),
        Reverse(ready_since(pod)),
        Reverse(restarts.unwrap_or_default()),
        Reverse(pod.created()),
        pod.name().to_owned(),
    )
}

fn ready_since(pod: &Object) -> Option<Timestamp> {
    let ready = pod.condition("Ready").filter(|condition| condition["status"] == "True")?;
    ready["lastTransitionTime"].as_str()?.parse().ok()
}

/// The status as it should be; asks again when a pod will have been ready for long enough.
fn status(
    set: &Object,
    pods: &[&Arc<Object>],
    cx: &DecideCx<'_>,
    decision: &mut Decision,
) -> Value {
    let min_ready = set.integer("/spec/minReadySeconds").unwrap_or_default();
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    for pod in pods {
        let labels = set.map("/spec/template/metadata/labels");
        if labels.into_iter().flatten().all(|(key, value)| pod.label(key) == value.as_str()) {
            labelled += 1;
        }
        let Some(since) = ready_since(pod) else { continue };
        ready += 1;
        let left = min_ready - cx.now.duration_since(since).as_secs();
        if min_ready == 0 || left <= 0 {
            available += 1;
        } else {
            decision.again(Duration::from_secs(left.unsigned_abs()));
        }
    }
    let mut status = json!({
        "replicas": pods.len(),
        "observedGeneration": set.integer("/metadata/generation").unwrap_or_default(),
    });
    for (name, count) in [
        ("fullyLabeledReplicas", labelled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ] {
        if count > 0 {
            status[name] = count.into();
        }
    }
    if let Some(conditions) = set.get("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    const SET: &str = "rs/web replicas=2 selects=app:web template=app:web /spec/template/spec={}";

    fn world(text: &str) -> World {
        World::new(|config| Box::new(ReplicaSetController::new(config)), text)
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let log = world(text).run_to(0);
        let lines: Vec<_> = log.lines().map(|line| line[2..].trim()).collect();
        assert_eq!(lines.join("; "), expected, "{text}");
    }

    #[test]
    fn pods_are_created_adopted_released_and_deleted() {
        check(
            SET,
            "create pods/web-1 owner=rs/web; create pods/web-2 owner=rs/web; \
             status replicasets/web observedGeneration=0 replicas=0; \
             status replicasets/web fullyLabeled=2 observedGeneration=0 replicas=2",
        );
        check(
            &format!("{SET}; pod/bare label=app:web; pod/other label=app:db"),
            "update pods/bare owner=rs/web; create pods/web-4 owner=rs/web; \
             status replicasets/web fullyLabeled=1 observedGeneration=0 replicas=1; \
             status replicasets/web fullyLabeled=2 observedGeneration=0 replicas=2",
        );
        check(
            &format!("{SET}; pod/a label=app:web owner=rs/web; pod/b label=app:gone owner=rs/web"),
            "update pods/b; create pods/web-4 owner=rs/web; \
             status replicasets/web fullyLabeled=1 observedGeneration=0 replicas=1; \
             status replicasets/web fullyLabeled=2 observedGeneration=0 replicas=2",
        );
        check(
            "rs/web replicas=0 selects=app:web template=app:web; pod/a label=app:web owner=rs/web",
            "delete pods/a; status replicasets/web fullyLabeled=1 observedGeneration=0 replicas=1; \
             status replicasets/web observedGeneration=0 replicas=0",
        );
    }

    #[test]
    fn ended_and_terminating_pods_are_replaced_and_others_pods_are_left_alone() {
        let log = world(&format!(
            "{SET}; pod/a label=app:web owner=rs/web phase=Failed; \
             pod/b label=app:web owner=rs/web node=n deleted; pod/c label=app:web owner=rs/other"
        ))
        .run_to(0);
        assert_eq!(log.matches("create").count(), 2, "{log}");
        assert!(!log.contains("update"), "{log}");
        let log = world(&format!("{SET} deleted finalizer=foregroundDeletion; pod/a label=app:web")).run_to(0);
        assert!(!log.contains("create") && !log.contains("update"), "a set on its way out: {log}");
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let start = "rs/web replicas=0 selects=app:web template=app:web";
        for (pods, goes) in [
            ("pod/a node=n phase=Running ready=True; pod/b", "b"),
            ("pod/a node=n phase=Running; pod/b node=n phase=Pending", "b"),
            ("pod/a node=n phase=Running ready=True; pod/b node=n phase=Running ready=False", "b"),
            ("pod/a node=n phase=Running ready=True; pod/b node=m phase=Running ready=True; \
              pod/c node=m phase=Running ready=True", "b"),
            ("pod/a node=n phase=Running ready=True@-90s; pod/b node=m phase=Running ready=True@-10s", "b"),
            ("pod/a node=n created=@-90s; pod/b node=m created=@-10s", "b"),
            ("pod/a node=n; pod/b node=m /metadata/annotations/controller.kubernetes.io~1pod-deletion-cost=\"-5\"", "b"),
        ] {
            let count = pods.matches("pod/").count();
            let pods = pods.replace(';', " label=app:web owner=rs/web;") + " label=app:web owner=rs/web";
            let set = start.replace("replicas=0", &format!("replicas={}", count - 1));
            let log = world(&format!("{set}; {pods}")).run_to(0);
            assert!(log.contains(&format!("delete pods/{goes}")), "{pods}: {log}");
        }
    }

    #[test]
    fn a_pod_is_available_after_min_ready_seconds() {
        let pods = "pod/a label=app:web owner=rs/web ready=True@-4s; pod/b label=app:web owner=rs/web";
        let mut world = world(&format!("{SET} /spec/minReadySeconds=10; {pods}"));
        insta::assert_snapshot!(world.run_to(60), @r"
        0 status replicasets/web fullyLabeled=2 observedGeneration=0 ready=1 replicas=2
        6 status replicasets/web available=1 fullyLabeled=2 observedGeneration=0 ready=1 replicas=2
        ");
    }

    #[test]
    fn refused_pods_are_told_until_none_is_refused() {
        let failure = |world: &World| -> Option<Value> {
            let sets = world.view.all(&REPLICA_SET).next().unwrap();
            sets.condition("ReplicaFailure").cloned()
        };
        let mut world = world(SET);
        world.refusal = "pods \"web-1\" is forbidden: exceeded quota";
        let log = world.run_to(0);
        assert!(!log.contains("create"), "{log}");
        let told = failure(&world).unwrap();
        assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("FailedCreate")));
        assert_eq!(told["message"], world.refusal);
        world.refusal = "another reason";
        world.see("pod/other label=app:web owner=rs/web");
        world.run_to(5);
        assert_eq!(failure(&world).unwrap()["message"], told["message"], "the first one stays");
        world.refusal = "";
        world.see("pod/more label=app:db; -pod/other");
        let log = world.run_to(10);
        assert!(log.contains("create pods/"), "{log}");
        assert_eq!(failure(&world), None);
        assert!(world.view.all(&REPLICA_SET).next().unwrap().get("/status/conditions").is_none());
    }

    #[test]
    fn the_planted_defect_keeps_one_too_many() {
        let mut world = world(SET);
        world.sabotages = vec![Sabotage::ReplicaSetOffByOne];
        assert_eq!(world.run_to(0).matches("create").count(), 3);
    }
}
