//! Rolls a Deployment's template out through ReplicaSets.
//!
//! ```yaml
//! apiVersion: apps/v1
//! kind: Deployment
//! metadata: {name: web}
//! spec:
//!   replicas: 4
//!   selector: {matchLabels: {app: web}}
//!   strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}}
//!   template:
//!     metadata: {labels: {app: web}}
//!     spec: {containers: [{name: web, image: web}]}
//! ```
//!
//! One ReplicaSet per template, named `web-<hash>`. One step per decision; the next waits until the
//! view shows this one. Limit: a change of `replicas` in the middle of a rollout goes to the new
//! ReplicaSet within the same bounds; it is not spread over all in proportion, as upstream does.

use std::collections::BTreeMap;
use std::sync::Arc;

use apiclient::{Informed, PatchKind};
use env::Sabotage;
use machinery::kinds::{DEPLOYMENT, POD, REPLICA_SET};
use machinery::pod::is_finished;
use machinery::{Kind, Object, ObjectKey, View};
use serde_json::{Value, json};

use super::replica_set::{adopt, release};
use super::selects;
use crate::rollout::{Count, bounds, scale_new, scale_old, template_hash};
use crate::{Config, Controller, DecideCx, Decision, Index, Key, Note, Write};

mod progress;

/// The label that tells the pods of one template from those of another.
const HASH: &str = "pod-template-hash";
/// The annotation that counts templates.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The controller. It remembers nothing: the driver keeps it from deciding on a stale view.
#[derive(Default)]
pub struct DeploymentController {
    /// A planted defect: the last template of each deployment, and its number.
    numbers: BTreeMap<String, (String, i64)>,
}

impl DeploymentController {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self::default()
    }

    /// The number of a deployment's template, by this controller's memory alone.
    fn remembered(&mut self, deployment: &Object, hash: &str) -> i64 {
        let nothing = (String::new(), 0);
        let (known, number) =
            self.numbers.entry(deployment.uid().to_owned()).or_insert(nothing);
        if *known != hash {
            (*known, *number) = (hash.to_owned(), *number + 1);
        }
        *number
    }
}

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&DEPLOYMENT, &POD, &REPLICA_SET]
    }

    fn changed(&mut self, view: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        let namespace = &change.key.namespace;
        let mut keys = Vec::new();
        if change.kind.id == DEPLOYMENT.id {
            keys.push(Key::of(&DEPLOYMENT, change.key.clone()));
        } else if change.kind.id == REPLICA_SET.id {
            for set in [&change.old, &change.new].into_iter().flatten() {
                match set.controller() {
                    Some(owner) if owner.kind == DEPLOYMENT.kind => {
                        keys.push(Key::of(&DEPLOYMENT, ObjectKey::new(&**namespace, owner.name)));
                    }
                    Some(_) => {}
                    None => keys.extend(
                        view.in_namespace(&DEPLOYMENT, namespace)
                            .filter(|deployment| selects(deployment, set))
                            .map(|deployment| Key::of(&DEPLOYMENT, deployment.key())),
                    ),
                }
            }
        } else if change.kind.id == POD.id && change.new.is_none() {
            // Recreate waits for the last old pod to go.
            let set = change.old.as_ref().and_then(|pod| pod.controller());
            let set = set.map(|owner| ObjectKey::new(&**namespace, owner.name));
            let owner = set.and_then(|set| view.get(&REPLICA_SET, &set)?.controller());
            keys.extend(owner.map(|owner| {
                Key::of(&DEPLOYMENT, ObjectKey::new(&**namespace, owner.name))
            }));
        }
        keys.dedup();
        keys
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(deployment) = view.get(&DEPLOYMENT, &key.object) else {
            return Decision::settled();
        };
        let (sets, claims) = claim(view, deployment, cx.index);
        if !claims.is_empty() {
            return Decision { writes: claims, ..Decision::default() };
        }
        let mut rollout = Rollout::new(view, cx.index, deployment, sets);
        if cx.sabotaged(Sabotage::RevisionInMemory) {
            rollout.remembered = Some(self.remembered(deployment, &rollout.hash));
        }
        let mut decision = Decision::default();
        if !deployment.is_terminating() {
            decision.writes = rollout.step(cx);
        }
        // A change of the deployment itself would make the status write stale: that comes next time.
        let touches_deployment =
            decision.writes.iter().any(|write| matches!(write, Write::Patch { .. }));
        if !touches_deployment {
            rollout.report(cx, &mut decision);
        }
        decision
    }
}

/// The deployment's ReplicaSets, oldest first, and the writes that adopt and release.
fn claim(
    view: &View,
    deployment: &Arc<Object>,
    index: &Index,
) -> (Vec<Arc<Object>>, Vec<Write>) {
    let (mut owned, mut claims) = (Vec::new(), Vec::new());
    let terminating = deployment.is_terminating();
    let candidates = index.claimable(&REPLICA_SET, deployment.namespace(), deployment.uid());
    for set in candidates.into_iter().filter_map(|key| view.get(&REPLICA_SET, key)) {
        let matches = selects(deployment, set);
        match set.controller() {
            Some(owner) if owner.uid == deployment.uid() && matches => owned.push(set.clone()),
            Some(owner) if owner.uid == deployment.uid() && !terminating => {
                claims.push(release(&REPLICA_SET, set, deployment.uid()));
            }
            None if matches && !terminating && !set.is_terminating() => {
                claims.push(adopt(&REPLICA_SET, set, &DEPLOYMENT, deployment));
            }
            _ => {}
        }
    }
    owned.sort_by_key(|set| (set.created(), set.name().to_owned()));
    (owned, claims)
}

/// A deployment and its ReplicaSets.
struct Rollout<'v> {
    view: &'v View,
    index: &'v Index,
    deployment: &'v Arc<Object>,
    replicas: i64,
    hash: String,
    /// The set of the current template.
    new: Option<Arc<Object>>,
    /// The others, oldest first.
    old: Vec<Arc<Object>>,
    /// The number of the current template, if a planted defect remembers it.
    remembered: Option<i64>,
}

fn wanted(set: &Object) -> i64 {
    set.integer("/spec/replicas").unwrap_or(1)
}

fn count(set: &Object) -> Count {
    let available = set.integer("/status/availableReplicas").unwrap_or_default();
    Count { wanted: wanted(set), available }
}

fn revision(object: &Object) -> i64 {
    object.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl<'v> Rollout<'v> {
    fn new(
        view: &'v View,
        index: &'v Index,
        deployment: &'v Arc<Object>,
        mut sets: Vec<Arc<Object>>,
    ) -> Self {
        let template = deployment.get("/spec/template").cloned().unwrap_or_default();
        let collisions = deployment.integer("/status/collisionCount").unwrap_or_default();
        let hash = template_hash(&template, collisions);
        let new = sets
            .iter()
            .position(|set| is_of_template(set, &template))
            .map(|place| sets.remove(place));
        let replicas = deployment.integer("/spec/replicas").unwrap_or(1);
        Self { view, index, deployment, replicas, hash, new, old: sets, remembered: None }
    }

    /// The next writes towards the wanted state, status apart.
    fn step(&self, cx: &DecideCx<'_>) -> Vec<Write> {
        if self.deployment.flag("/spec/paused") && !cx.sabotaged(Sabotage::PausedIgnored) {
            return self.step_paused();
        }
        let recreates = self.deployment.text("/spec/strategy/type") == "Recreate";
        if recreates {
            let active: Vec<_> = self.old.iter().filter(|set| wanted(set) > 0).collect();
            if !active.is_empty() {
                return active.into_iter().flat_map(|set| self.scale(set, 0)).collect();
            }
            if self.old.iter().any(|set| self.has_pods(set)) {
                return Vec::new();
            }
        }
        let (mut surge, mut unavailable) = bounds(self.deployment, self.replicas);
        if cx.sabotaged(Sabotage::MaxSurgeIgnored) {
            surge = self.replicas;
        }
        if cx.sabotaged(Sabotage::MaxUnavailableIgnored) {
            unavailable = self.replicas;
        }
        let old: Vec<_> = self.old.iter().map(|set| count(set)).collect();
        let none = Count { wanted: 0, available: 0 };
        let current = self.new.as_deref().map_or(none, count);
        let target = if recreates {
            self.replicas
        } else {
            scale_new(current, &old, self.replicas, surge)
        };
        let Some(new) = &self.new else { return self.create(target) };
        let writes = self.number(new);
        if !writes.is_empty() {
            return writes;
        }
        if target != current.wanted {
            return self.scale(new, target);
        }
        if cx.sabotaged(Sabotage::OldReplicaSetsKept) {
            return Vec::new();
        }
        let targets = scale_old(current, &old, self.replicas, unavailable);
        let mut writes: Vec<_> = self
            .old
            .iter()
            .zip(targets)
            .filter(|(set, target)| wanted(set) != *target)
            .flat_map(|(set, target)| self.scale(set, target))
            .collect();
        if writes.is_empty() && self.is_complete() {
            writes = self.clean_up();
        }
        writes
    }

    /// A paused deployment rolls nothing out, but its size is kept.
    fn step_paused(&self) -> Vec<Write> {
        let all: i64 = self.sets().map(|set| wanted(set)).sum();
        let newest = self
            .sets()
            .filter(|set| wanted(set) > 0)
            .max_by_key(|set| set.created())
            .or(self.new.as_ref());
        match newest {
            Some(set) if all != self.replicas => {
                self.scale(set, (wanted(set) + self.replicas - all).max(0))
            }
            _ => Vec::new(),
        }
    }

    fn sets(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.old.iter().chain(&self.new)
    }

    fn next_revision(&self) -> i64 {
        let most = self.old.iter().map(|set| revision(set)).max().unwrap_or_default();
        self.remembered.unwrap_or(most + 1)
    }

    fn create(&self, replicas: i64) -> Vec<Write> {
        let name = format!("{}-{}", self.deployment.name(), self.hash);
        let key = ObjectKey::new(self.deployment.namespace(), &*name);
        if self.view.get(&REPLICA_SET, &key).is_some() {
            // Another template has these letters: the next try gets others.
            let mut object = Object::clone(self.deployment);
            let collisions = object.integer("/status/collisionCount").unwrap_or_default();
            object.set("/status/collisionCount", collisions + 1);
            return vec![Write::UpdateStatus { kind: &DEPLOYMENT, object }];
        }
        let mut set = Object::new("apps/v1", "ReplicaSet", &key.namespace, &name);
        let mut template = self.deployment.get("/spec/template").cloned().unwrap_or_default();
        template["metadata"]["labels"][HASH] = self.hash.as_str().into();
        set.set("/metadata/labels", template["metadata"]["labels"].clone());
        set.set("/metadata/annotations", self.annotations(self.next_revision()));
        set.set("/metadata/ownerReferences", json!([self.deployment.as_controller()]));
        set.set("/spec/replicas", replicas);
        if let Some(seconds) = self.deployment.integer("/spec/minReadySeconds") {
            set.set("/spec/minReadySeconds", seconds);
        }
        let mut selector = self.deployment.get("/spec/selector").cloned().unwrap_or_default();
        selector["matchLabels"][HASH] = self.hash.as_str().into();
        set.set("/spec/selector", selector);
        set.set("/spec/template", template);
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        let mut writes = vec![Write::Create { kind: &REPLICA_SET, object: set, note: None }];
        if replicas > 0 {
            let note = Note::normal(self.deployment, "ScalingReplicaSet", message);
            writes.push(Write::Event(note));
        }
        writes.extend(self.number_deployment(self.next_revision()));
        writes
    }

    /// Annotations that a ReplicaSet takes from its deployment, with its revision.
    fn annotations(&self, revision: i64) -> Value {
        let mut annotations = self.deployment.map("/metadata/annotations").cloned().unwrap_or_default();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        annotations.insert(REVISION.to_owned(), revision.to_string().into());
        let (surge, _) = bounds(self.deployment, self.replicas);
        let desired = "deployment.kubernetes.io/desired-replicas";
        annotations.insert(desired.to_owned(), self.replicas.to_string().into());
        let most = (self.replicas + surge).to_string();
        annotations.insert("deployment.kubernetes.io/max-replicas".to_owned(), most.into());
        Value::Object(annotations)
    }

    /// Gives the new set the highest revision, as after a rollback, and the deployment the same.
    fn number(&self, new: &Arc<Object>) -> Vec<Write> {
        let number = revision(new).max(self.next_revision());
        let mut writes = Vec::new();
        if revision(new) != number {
            let mut object = Object::clone(new);
            object.set("/metadata/annotations", self.annotations(number));
            writes.push(Write::Update { kind: &REPLICA_SET, object });
        }
        writes.extend(self.number_deployment(number));
        writes
    }

    fn number_deployment(&self, number: i64) -> Option<Write> {
        (revision(self.deployment) != number).then(|| Write::Patch {
            kind: &DEPLOYMENT,
            key: self.deployment.key(),
            // Through the status, as upstream does: a change of annotations by the main resource would raise
            // the generation, though nobody wished for anything else.
            subresource: "status",
            how: PatchKind::Merge,
            patch: json!({"metadata": {"annotations": {REVISION: number.to_string()}}}),
        })
    }

    fn scale(&self, set: &Arc<Object>, replicas: i64) -> Vec<Write> {
        let before = wanted(set);
        if before == replicas {
            return Vec::new();
        }
        let mut object = Object::clone(set);
        object.set("/spec/replicas", replicas);
        object.set("/metadata/annotations", self.annotations(revision(set)));
        let way = if replicas > before { "up" } else { "down" };
        let message =
            format!("Scaled {way} replica set {} from {before} to {replicas}", set.name());
        let note = Note::normal(self.deployment, "ScalingReplicaSet", message);
        vec![Write::Update { kind: &REPLICA_SET, object }, Write::Event(note)]
    }

    /// Whether pods of the set are left, terminating ones too.
    fn has_pods(&self, set: &Object) -> bool {
        let pods = self.index.owned(&POD, set.uid());
        pods.filter_map(|key| self.view.get(&POD, key)).any(|pod| {
            pod.controller().is_some_and(|owner| owner.uid == set.uid())
                && !is_finished(pod)
        })
    }

    fn is_complete(&self) -> bool {
        self.new.as_ref().is_some_and(|new| count(new).available == self.replicas)
            && self.old.iter().all(|set| wanted(set) == 0)
    }

    /// Deletes the oldest sets beyond `revisionHistoryLimit`.
    fn clean_up(&self) -> Vec<Write> {
        let limit = self.deployment.integer("/spec/revisionHistoryLimit").unwrap_or(10);
        let mut idle: Vec<_> = self
            .old
            .iter()
            .filter(|set| {
                wanted(set) == 0
                    && set.integer("/status/replicas").unwrap_or_default() == 0
                    && set.integer("/status/observedGeneration") >= set.integer("/metadata/generation")
                    && !set.is_terminating()
            })
            .collect();
        idle.sort_by_key(|set| revision(set));
        let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        idle.into_iter()
            .take(surplus)
            .map(|set| Write::Delete {
                kind: &REPLICA_SET,
                object: set.clone(),
                grace_s: None,
                propagation: "",
                note: None,
            })
            .collect()
    }
}

/// Whether the set was made from this template: they are equal but for the hash label.
fn is_of_template(set: &Object, template: &Value) -> bool {
    let mut own = set.get("/spec/template").cloned().unwrap_or_default();
    if let Some(labels) = own.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    without_nulls(&own) == without_nulls(template)
}

/// The value without fields that are null or empty maps: they mean the same as absent ones.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept: BTreeMap<_, _> = map
                .iter()
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .filter(|(_, value)| {
                    !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())
                })
                .collect();
            Value::Object(kept.into_iter().collect())
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    const WEB: &str = "deploy/web replicas=4 selects=app:web template=app:web \
        /spec/template/spec={\"v\":1} /metadata/generation=1";

    fn world(text: &str) -> World {
        World::new(|config| Box::new(DeploymentController::new(config)), text)
    }

    /// The log without the hash, status writes left out.
    fn steps(log: &str) -> String {
        let lines = log.lines().filter(|line| !line.contains(" status ")).map(|line| {
            let words = line.split_whitespace().skip(1);
            let words: Vec<_> = words.map(|word| word.split("web-").next().unwrap_or(word)).collect();
            words.join(" ")
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    /// Plays the ReplicaSet controller: all wanted pods exist, and are available if their template works.
    fn obey(world: &mut World) -> bool {
        let sets: Vec<_> = world.view.all(&REPLICA_SET).cloned().collect();
        let mut lines = String::new();
        for set in sets {
            let wanted = wanted(&set);
            let works = set.integer("/spec/template/spec/v") != Some(666);
            let available = if works { wanted } else { 0 };
            let status = json!({
                "replicas": wanted, "readyReplicas": available, "availableReplicas": available,
                "observedGeneration": set.integer("/metadata/generation"),
            });
            if set.get("/status") != Some(&status) {
                lines += &format!("rs/{} /status={status};", set.name());
            }
        }
        world.see(&lines);
        !lines.is_empty()
    }

    /// Runs until nothing moves; answers the replicas of every set after each round, old ones first.
    fn roll(world: &mut World) -> Vec<Vec<i64>> {
        let mut rounds = Vec::new();
        loop {
            world.run_to(0);
            let moved = obey(world);
            let mut sets: Vec<_> = world.view.all(&REPLICA_SET).collect();
            sets.sort_by_key(|set| revision(set));
            rounds.push(sets.into_iter().map(|set| wanted(set)).collect());
            if !moved {
                rounds.dedup();
                return rounds;
            }
            assert!(rounds.len() < 50, "it never settles: {rounds:?}");
        }
    }

    fn conditions(world: &World) -> String {
        let deployment = world.view.all(&DEPLOYMENT).next().unwrap();
        let conditions = deployment.list("/status/conditions").iter();
        let shown = conditions.map(|known| format!("{}={} {}", known["type"], known["status"], known["reason"]));
        shown.collect::<Vec<_>>().join(", ").replace('"', "")
    }

    #[test]
    fn a_new_deployment_gets_a_replica_set_with_its_hash() {
        let mut world = world(WEB);
        assert_eq!(
            steps(&world.run_to(0)),
            "create replicasets/ owner=deploy/web replicas=4; event ScalingReplicaSet web; \
             patch deployments/web {\"metadata\":{\"annotations\":{\"deployment.kubernetes.io/revision\":\"1\"}}}",
        );
        let set = world.view.all(&REPLICA_SET).next().unwrap().clone();
        let hash = set.name().strip_prefix("web-").unwrap().to_owned();
        for place in ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
            let labels = json!({"app": "web", "pod-template-hash": hash});
            assert_eq!(set.get(place), Some(&labels), "{place}");
        }
        assert_eq!(conditions(&world), "Available=False MinimumReplicasUnavailable, Progressing=True ReplicaSetUpdated");
        roll(&mut world);
        assert_eq!(conditions(&world), "Available=True MinimumReplicasAvailable, Progressing=True NewReplicaSetAvailable");
        world.see("deploy/web replicas=7");
        assert_eq!(steps(&world.run_to(0)), "update replicasets/ owner=deploy/web replicas=7; event ScalingReplicaSet web");
    }

    #[test]
    fn a_rolling_update_stays_in_bounds_and_a_rollback_takes_the_old_set() {
        let mut world = world(WEB);
        roll(&mut world);
        world.see("deploy/web /spec/template/spec={\"v\":2}");
        assert_eq!(roll(&mut world), [[3, 2], [1, 4], [0, 4]]);
        world.see("deploy/web /spec/template/spec={\"v\":1}");
        assert_eq!(roll(&mut world).last(), Some(&vec![0, 4]));
        assert_eq!(world.view.all(&REPLICA_SET).count(), 2, "the old set is used again");
        let deployment = world.view.all(&DEPLOYMENT).next().unwrap();
        assert_eq!(revision(deployment), 3);
    }

    #[test]
    fn a_broken_template_stops_the_rollout_and_is_told() {
        let mut world = world(WEB);
        roll(&mut world);
        world.see("deploy/web /spec/template/spec={\"v\":666}");
        let rounds = roll(&mut world);
        assert_eq!(rounds.last(), Some(&vec![3, 2]));
        assert!(conditions(&world).contains("Available=True"), "{}", conditions(&world));
        world.run_to(599);
        assert!(conditions(&world).contains("Progressing=True ReplicaSetUpdated"));
        world.run_to(610);
        assert!(conditions(&world).contains("Progressing=False ProgressDeadlineExceeded"));
        world.see("deploy/web /spec/template/spec={\"v\":1}");
        world.run_to(610);
        let sets: Vec<_> = world.view.all(&REPLICA_SET).map(|set| (revision(set), wanted(set))).collect();
        assert!(sets.contains(&(3, 4)) || sets.contains(&(3, 3)), "{sets:?}");
    }

    #[test]
    fn recreate_waits_until_the_last_old_pod_is_gone() {
        let mut world = world(&format!("{WEB} /spec/strategy/type=Recreate"));
        roll(&mut world);
        let old = world.view.all(&REPLICA_SET).next().unwrap().clone();
        world.see(&format!("pod/last owner=rs/{0}; pod/last /metadata/ownerReferences=[{{\"apiVersion\":\"apps/v1\",\"kind\":\"ReplicaSet\",\"name\":\"{0}\",\"uid\":\"{1}\",\"controller\":true}}]", old.name(), old.uid()));
        world.see("deploy/web /spec/template/spec={\"v\":2}");
        assert_eq!(roll(&mut world), [vec![0]]);
        world.see("-pod/last");
        assert_eq!(roll(&mut world), [vec![0, 4]]);
    }

    #[test]
    fn a_paused_deployment_keeps_its_size_and_its_template() {
        let mut world = world(WEB);
        roll(&mut world);
        world.see("deploy/web /spec/paused=true replicas=6 /spec/template/spec={\"v\":2}");
        assert_eq!(roll(&mut world), [vec![6]]);
        assert!(conditions(&world).contains("Progressing=Unknown DeploymentPaused"));
        world.see("deploy/web /spec/paused=false");
        assert_eq!(roll(&mut world).last(), Some(&vec![0, 6]));
    }

    #[test]
    fn old_sets_beyond_the_history_limit_are_deleted() {
        let mut world = world(&format!("{WEB} /spec/revisionHistoryLimit=1"));
        for template in 1..=4 {
            world.see(&format!("deploy/web /spec/template/spec={{\"v\":{template}}}"));
            roll(&mut world);
        }
        assert_eq!(world.view.all(&REPLICA_SET).count(), 2);
    }

    #[test]
    fn matching_sets_without_an_owner_are_adopted() {
        let mut world = world(&format!("{WEB}; rs/orphan replicas=1 label=app:web selects=app:web template=app:web /spec/template/spec={{\"v\":1}}"));
        let log = world.run_to(0);
        assert!(log.contains("update replicasets/orphan owner=deploy/web replicas=1"), "{log}");
        assert_eq!(world.view.all(&REPLICA_SET).count(), 1, "it has the template already");
    }
}
