//! Deletes the pods that do not tolerate a NoExecute taint of their node, when their time is over.
//!
//! ```yaml
//! # With this toleration a pod stays 30 s after the taint hw=gpu:NoExecute came, then it is deleted.
//! tolerations:
//! - {key: hw, value: gpu, effect: NoExecute, tolerationSeconds: 30}
//! ```
//!
//! The time runs from the taint's arrival (or the pod's, if that is later): as seen here, or, for what
//! was there already when this controller started, as `timeAdded` and the pod's conditions say. Of
//! several tolerations that match a taint, and of several taints, the shortest time counts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use apiclient::{Informed, PatchKind};
use env::{Sabotage, Timestamp};
use machinery::kinds::{NODE, POD};
use machinery::{Kind, Object, ObjectKey, Taint, Toleration, View};
use serde_json::json;

use crate::{Config, Controller, DecideCx, Decision, Key, Note, Write, taints};

/// When something arrived, on the driver's clock; negative if before it began.
type Arrival = i128;

/// A taint of a node: node, key, value.
type TaintKey = (String, String, String);

/// The controller. It remembers when each NoExecute taint and each pod on a node arrived, and which
/// pods it will delete.
pub struct TaintEviction {
    taints: BTreeMap<TaintKey, Arrival>,
    pods: BTreeMap<ObjectKey, (String, Arrival)>,
    /// Identity of each pod whose deletion was put off, and until when.
    put_off: BTreeMap<ObjectKey, (String, Arrival)>,
}

impl TaintEviction {
    /// A controller that has seen nothing.
    pub fn new(_: &Config) -> Self {
        Self { taints: BTreeMap::new(), pods: BTreeMap::new(), put_off: BTreeMap::new() }
    }

    fn node_changed(&mut self, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        let name = &change.key.name;
        let current = change.new.as_ref().map(|node| taints::no_execute(node)).unwrap_or_default();
        let known: Vec<_> = self
            .taints
            .range((name.clone(), String::new(), String::new())..)
            .take_while(|((node, _, _), _)| node == name)
            .map(|(key, _)| key.clone())
            .collect();
        let mut is_changed = change.new.is_none();
        for key in known {
            if !current.iter().any(|taint| taint.key == key.1 && taint.value == key.2) {
                self.taints.remove(&key);
                is_changed = true;
            }
        }
        for taint in &current {
            let key = (name.clone(), taint.key.clone(), taint.value.clone());
            if let Entry::Vacant(unknown) = self.taints.entry(key) {
                unknown.insert(arrival(taint.time_added, cx));
                is_changed = true;
            }
        }
        if !is_changed {
            return Vec::new();
        }
        cx.index.pods_on(name).map(|pod| Key::of(&POD, pod.clone())).collect()
    }

    fn pod_changed(&mut self, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        let Some(pod) = change.new.as_ref().filter(|pod| !pod.text("/spec/nodeName").is_empty())
        else {
            self.pods.remove(&change.key);
            self.put_off.remove(&change.key);
            return Vec::new();
        };
        let is_known = self.pods.get(&change.key).is_some_and(|(uid, _)| uid == pod.uid());
        if !is_known {
            let scheduled = pod
                .condition("PodScheduled")
                .and_then(|condition| condition["lastTransitionTime"].as_str()?.parse().ok());
            let arrived = arrival(scheduled.or_else(|| pod.created()), cx);
            self.pods.insert(change.key.clone(), (pod.uid().to_owned(), arrived));
        } else if change.old.as_ref().is_some_and(|old| {
            old.get("/spec/tolerations") == pod.get("/spec/tolerations")
                && old.is_terminating() == pod.is_terminating()
        }) {
            return Vec::new();
        }
        vec![Key::of(&POD, change.key.clone())]
    }

    /// When the pod is to be deleted: `None` for never.
    fn due(&self, pod: &Object, node: &Object, cx: &DecideCx<'_>) -> Option<Arrival> {
        let tolerations = pod.tolerations();
        let on_node = self.pods.get(&pod.key()).map_or(0, |(_, arrived)| *arrived);
        taints::no_execute(node)
            .iter()
            .filter_map(|taint| {
                let key = (node.name().to_owned(), taint.key.clone(), taint.value.clone());
                let since = self.taints.get(&key).map_or(on_node, |taint| *taint.max(&on_node));
                match tolerated(&tolerations, taint, cx.sabotaged(Sabotage::LongestTolerationCounts)) {
                    Tolerated::ForEver if cx.sabotaged(Sabotage::ToleratingPodsEvicted) => Some(since),
                    Tolerated::ForEver => None,
                    Tolerated::Not => Some(since),
                    Tolerated::For(_) if cx.sabotaged(Sabotage::TolerationSecondsIgnored) => {
                        Some(since)
                    }
                    Tolerated::For(seconds) => Some(since + i128::from(seconds) * 1_000_000_000),
                }
            })
            .min()
    }

    fn put_back(&mut self, pod: &Arc<Object>) -> Decision {
        let mut decision = Decision::settled();
        if self.put_off.remove(&pod.key()).is_some_and(|(uid, _)| uid == pod.uid()) {
            let message = format!("Cancelling deletion of Pod {}", pod.key());
            decision.writes.push(Write::Event(Note::normal(pod, "TaintManagerEviction", message)));
        }
        decision
    }
}

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&NODE, &POD]
    }

    fn changed(&mut self, _: &View, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == NODE.id {
            self.node_changed(change, cx)
        } else if change.kind.id == POD.id {
            self.pod_changed(change, cx)
        } else {
            Vec::new()
        }
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(pod) = view.get(&POD, &key.object) else { return Decision::settled() };
        let is_marked = pod.condition_status("DisruptionTarget") == "True";
        if pod.is_terminating() || is_marked && cx.sabotaged(Sabotage::MarkedPodLeft) {
            self.put_off.remove(&key.object);
            return Decision::settled();
        }
        let node = view.get(&NODE, &ObjectKey::new("", pod.text("/spec/nodeName")));
        let mut due = node.and_then(|node| self.due(pod, node, cx));
        if cx.sabotaged(Sabotage::EvictionNotCancelled) {
            due = due.or(self.put_off.get(&key.object).map(|(_, due)| *due));
        }
        let Some(due) = due else {
            return self.put_back(pod);
        };
        let now = nanoseconds(cx.elapsed);
        if due > now {
            self.put_off.insert(key.object.clone(), (pod.uid().to_owned(), due));
            let mut decision = Decision::settled();
            let wait = u64::try_from(due - now).unwrap_or(u64::MAX);
            decision.again(Duration::from_nanos(wait));
            return decision;
        }
        self.put_off.remove(&key.object);
        evict(pod, cx)
    }
}

fn evict(pod: &Arc<Object>, cx: &DecideCx<'_>) -> Decision {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": cx.now_text(),
    });
    let message = format!("Marking for deletion Pod {}", pod.key());
    let writes = vec![
        Write::Patch {
            kind: &POD,
            key: pod.key(),
            subresource: "status",
            how: PatchKind::Strategic,
            patch: json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}),
        },
        Write::Delete {
            kind: &POD,
            object: pod.clone(),
            grace_s: None,
            propagation: "",
            note: Some(Note::normal(pod, "TaintManagerEviction", message)),
        },
    ];
    Decision { writes, ..Decision::default() }
}

/// How long a taint is tolerated.
#[derive(Debug, PartialEq)]
enum Tolerated {
    Not,
    For(i64),
    ForEver,
}

/// Of several tolerations the shortest counts; `longest` takes the longest: a planted defect.
fn tolerated(tolerations: &[Toleration], taint: &Taint, longest: bool) -> Tolerated {
    let mut matching = tolerations.iter().filter(|toleration| toleration.tolerates(taint)).peekable();
    if matching.peek().is_none() {
        return Tolerated::Not;
    }
    let seconds = matching.filter_map(|toleration| toleration.toleration_seconds);
    let decisive = if longest { seconds.max() } else { seconds.min() };
    decisive.map_or(Tolerated::ForEver, |seconds| Tolerated::For(seconds.max(0)))
}

/// The step of the times in objects: what has one of them may have happened so much later.
const STAMP_STEP: Arrival = 1_000_000_000;

/// When something arrived that is seen now: now, unless it was there from the start and says since
/// when. A time in the future is another machine's mistake.
/// A pod is never deleted before its time, so a stamp counts as the latest time that it may stand for.
fn arrival(since: Option<Timestamp>, cx: &DecideCx<'_>) -> Arrival {
    let now = nanoseconds(cx.elapsed);
    match since {
        Some(since) if cx.first_sight && since <= cx.now => {
            now.min(now - cx.now.duration_since(since).as_nanos() + STAMP_STEP)
        }
        _ => now,
    }
}

fn nanoseconds(elapsed: Duration) -> Arrival {
    i128::try_from(elapsed.as_nanos()).expect("no process runs for longer than 2^127 ns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world(text: &str) -> World {
        World::new(|config| Box::new(TaintEviction::new(config)), text)
    }

    /// The seconds at which pods are deleted, when at second 100 the world changes as `then` says and
    /// at second 110 as `later` says.
    fn deletions(start: &str, then: &str, later: &str) -> Vec<String> {
        let mut world = world(start);
        let mut log = world.run_to(100);
        world.see(then);
        log += &world.run_to(110);
        world.see(later);
        log += &world.run_to(1000);
        log.lines().filter(|line| line.contains("delete")).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn a_pod_goes_when_its_toleration_ends() {
        for (pod, taint, later, expected) in [
            ("", "taint=hw:NoExecute", "", &["100 delete pods/p"][..]),
            ("", "taint=hw:NoSchedule", "", &[]),
            ("tolerate=hw:30", "taint=hw:NoExecute", "", &["130 delete pods/p"]),
            ("tolerate=hw:0", "taint=hw:NoExecute", "", &["100 delete pods/p"]),
            ("tolerate=hw", "taint=hw:NoExecute", "", &[]),
            ("tolerate=other", "taint=hw:NoExecute", "", &["100 delete pods/p"]),
            ("tolerate=hw:30 tolerate=hw:60", "taint=hw:NoExecute", "", &["130 delete pods/p"]),
            ("tolerate=hw:30", "taint=hw:NoExecute", "node/a untaint", &[]),
            ("tolerate=hw:30", "taint=hw:NoExecute", "-node/a", &[]),
            // A second taint that is tolerated for a shorter time counts from its own arrival.
            ("tolerate=hw:60 tolerate=sw:20", "taint=hw:NoExecute", "node/a taint=sw:NoExecute",
             &["130 delete pods/p"]),
            ("tolerate=hw:60", "taint=hw:NoExecute", "node/a taint=sw:NoExecute", &["110 delete pods/p"]),
            // Another's clock is not believed when the taint is seen to arrive.
            ("tolerate=hw:30", "taint=hw:NoExecute@-25s", "", &["130 delete pods/p"]),
        ] {
            let start = format!("node/a; pod/p node=a {pod}");
            let seen = deletions(&start, &format!("node/a {taint}"), later);
            assert_eq!(seen, expected, "{pod} / {taint} / {later}");
        }
    }

    #[test]
    fn a_restart_does_not_begin_anew() {
        for (taint, pod, expected) in [
            // A second more than the stamps say: they are cut off at whole seconds.
            ("taint=hw:NoExecute@-20s", "", "11"),
            ("taint=hw:NoExecute@-200s", "", "0"),
            ("taint=hw:NoExecute", "", "30"),
            // A pod that came after the taint has its own time.
            ("taint=hw:NoExecute@-200s", r#"/status/conditions=[{"type":"PodScheduled","lastTransitionTime":"2023-12-31T23:59:55Z"}]"#, "26"),
            // A time in the future is another clock's mistake.
            ("/spec/taints=[{\"key\":\"hw\",\"effect\":\"NoExecute\",\"timeAdded\":\"2025-01-01T00:00:00Z\"}]", "", "30"),
        ] {
            let seen = deletions(&format!("node/a {taint}; pod/p node=a created=@-500s tolerate=hw:30 {pod}"), "", "");
            assert_eq!(seen, [format!("{expected} delete pods/p")], "{taint} {pod}");
        }
    }

    #[test]
    fn a_pod_on_its_way_out_is_left_alone_and_a_new_pod_is_not() {
        assert_eq!(deletions("node/a; pod/p node=a deleted", "node/a taint=hw:NoExecute", ""), [""; 0]);
        assert_eq!(
            deletions("node/a taint=hw:NoExecute", "", "pod/p tolerate=hw:5; pod/p node=a"),
            ["115 delete pods/p"],
        );
    }

    #[test]
    fn an_eviction_is_told_and_so_is_its_end() {
        let mut world = world("node/a taint=hw:NoExecute; pod/p node=a tolerate=hw:30");
        world.run_to(10);
        world.see("node/a untaint");
        insta::assert_snapshot!(world.run_to(100), @"10 event TaintManagerEviction p");
        world.see("pod/q node=b; node/b taint=hw:NoExecute");
        insta::assert_snapshot!(world.run_to(100), @r#"
        100 patch pods/q {"metadata":{"uid":"pod/q"},"status":{"conditions":[{"lastTransitionTime":"2024-01-01T00:01:40Z","message":"Taint manager: deleting due to NoExecute taint","reason":"DeletionByTaintManager","status":"True","type":"DisruptionTarget"}]}}
        100 delete pods/q
        "#);
    }

    #[test]
    fn the_planted_defect_evicts_at_once() {
        let mut world = world("node/a; pod/p node=a tolerate=hw:30; pod/q node=a tolerate=hw");
        world.sabotages = vec![Sabotage::TolerationSecondsIgnored];
        world.see("node/a taint=hw:NoExecute");
        let log = world.run_to(1);
        assert!(log.contains("0 delete pods/p") && !log.contains("delete pods/q"), "{log}");
    }
}
