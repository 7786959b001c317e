//! What a run without faults tells of controllers: their writes, and the notifications that they could
//! have acted upon, in order, with all that says which belong together.
//!
//! A timeline has no log of reconcilers. Which controller wrote is told by what was written and by the
//! state before it; what a view held, by the order of revisions. Invariant: pure over the timeline.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::json::Value;
use shakedown_core::lever::Component;
use shakedown_core::plan::{Action, Plan, START};
use shakedown_core::timeline::{Change, Event, What};

/// A component whose states are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Which.
    pub component: Component,
    /// As whom it writes.
    pub user: &'static str,
    /// On whom a fault in its conversation is done.
    pub on: &'static str,
    /// The kinds that it watches; empty if it watches all.
    pub watches: &'static [&'static str],
}

/// Every component whose states are gone through.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        component: Component::KubeControllerManager,
        user: "system:kube-controller-manager",
        on: "leader of kube-controller-manager",
        watches: &[],
    },
    Subject {
        component: Component::KubeScheduler,
        user: "system:kube-scheduler",
        on: "leader of kube-scheduler",
        watches: &["nodes", "pods"],
    },
];

impl Subject {
    /// Whether it is told of this kind.
    pub fn watches(&self, kind: &str) -> bool {
        self.watches.is_empty() || self.watches.contains(&kind)
    }
}

/// An object, as far as it says what belongs to what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Plural and group.
    pub kind: String,
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The identities of its owners.
    pub owners: Vec<String>,
    /// The node of a pod.
    pub node: String,
}

impl About {
    fn of(kind: &str, object: &Value) -> Self {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or("").to_owned();
        let owners = object["metadata"]["ownerReferences"].as_array();
        let uid = |owner: &Value| owner["uid"].as_str().map(str::to_owned);
        Self {
            kind: kind.to_owned(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            owners: owners.into_iter().flatten().filter_map(uid).collect(),
            node: text("/spec/nodeName"),
        }
    }

    /// One that is known by its key alone.
    fn named(kind: &str, key: &str) -> Self {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { kind: kind.to_owned(), namespace, name, ..Self::default() }
    }
}

/// A change that every component which watches the kind was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its place in the timeline.
    pub seq: u64,
    /// When.
    pub at_us: u64,
    /// The revision of the change.
    pub revision: i64,
    /// Of which object.
    pub about: About,
    /// ADDED, MODIFIED or DELETED, and what changed.
    pub shape: String,
}

/// A write of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its place in the timeline.
    pub seq: u64,
    /// When it was answered.
    pub at_us: u64,
    /// As whom.
    pub user: String,
    /// Which controller, by what it wrote.
    pub controller: &'static str,
    /// create, update, patch, delete, with the subresource: `update/status`.
    pub verb: String,
    /// To which object.
    pub about: About,
    /// Its revision; 0 if nothing came of it.
    pub revision: i64,
    /// What it changed; empty if nothing.
    pub shape: String,
}

/// A place in a scenario at which a rule can be put in force without a change to what happens: its
/// beginning, and each action before which the run had come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Before which step.
    pub step: usize,
    /// What comes later in the timeline counts.
    pub seq: u64,
    /// When.
    pub at_us: u64,
}

/// What a run tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// In order.
    pub anchors: Vec<Anchor>,
    /// In order.
    pub notifications: Vec<Notification>,
    /// In order, of all subjects.
    pub writes: Vec<Write>,
}

impl Trace {
    /// Reads what happened after a scenario's first step and before its clean-up.
    pub fn of(plan: &Plan, events: &[Event]) -> Self {
        let mut trace = Self { anchors: anchors(plan, events), ..Self::default() };
        let Some(first) = trace.anchors.first().map(|anchor| anchor.seq) else { return trace };
        let last = ends(plan, events);
        let mut states = States::default();
        for event in events {
            if let What::Object { change, kind, revision, object } = &event.what {
                states.add(*change, kind, *revision, object);
            }
        }
        let own = events.iter().filter(|event| event.seq > first && event.seq < last);
        for event in own {
            match &event.what {
                What::Object { change, kind, revision, object } => {
                    let about = About::of(kind, object);
                    let before = states.before(kind, &key(&about), *revision);
                    let shape = shape(*change, before, object);
                    let (seq, at_us, revision) = (event.seq, event.at_us, *revision);
                    trace.notifications.push(Notification { seq, at_us, revision, about, shape });
                }
                What::Audit { user, .. } if SUBJECTS.iter().any(|known| known.user == user) => {
                    trace.writes.extend(write(event, &states));
                }
                _ => {}
            }
        }
        trace
    }

    /// The last place before something at which a rule can be put in force.
    pub fn anchor(&self, seq: u64) -> Option<Anchor> {
        self.anchors.iter().rev().find(|anchor| anchor.seq < seq).copied()
    }

    /// The how-manieth write of its kind a write is, from its anchor on. Refused ones count.
    pub fn nth_write(&self, write: &Write, anchor: Anchor) -> u32 {
        let alike = self.writes.iter().filter(|other| {
            other.user == write.user
                && other.about.kind == write.about.kind
                && other.seq > anchor.seq
                && other.seq <= write.seq
        });
        u32::try_from(alike.count()).unwrap_or(u32::MAX)
    }

    /// The how-manieth notification of its kind one is, from its anchor on.
    pub fn nth_notification(&self, notification: &Notification, anchor: Anchor) -> u32 {
        let alike = self.notifications.iter().filter(|other| {
            other.about.kind == notification.about.kind
                && other.seq > anchor.seq
                && other.seq <= notification.seq
        });
        u32::try_from(alike.count()).unwrap_or(u32::MAX)
    }
}

/// The scenario's beginning, and each action that comes after a wait or after something that was
/// waited for.
fn anchors(plan: &Plan, events: &[Event]) -> Vec<Anchor> {
    let began = events.iter().position(
        |event| matches!(&event.what, What::ScenarioBegan { id } if *id == plan.scenario),
    );
    let own = &events[began.unwrap_or(events.len())..];
    let moment = |wanted: &str| {
        let is = |event: &&Event| matches!(&event.what, What::Moment { name } if name == wanted);
        own.iter().find(is).map(|event| (event.seq, event.at_us))
    };
    let mut anchors = Vec::new();
    if let Some((seq, at_us)) = moment(START) {
        anchors.push(Anchor { step: 0, seq, at_us });
    }
    for pair in plan.steps.windows(2) {
        let rests = match &pair[0].action {
            Action::Wait { .. } => true,
            Action::Check(check) => check.word.blocks(),
            _ => false,
        };
        let acts = !matches!(pair[1].action, Action::Wait { .. } | Action::Check(_));
        if let Some((seq, at_us)) = moment(&pair[0].moment).filter(|_| rests && acts) {
            anchors.push(Anchor { step: pair[1].index, seq, at_us });
        }
    }
    anchors
}

/// Where the clean-up begins: etcd's members are asked what they hold, the scenario's namespace is deleted.
fn ends(plan: &Plan, events: &[Event]) -> u64 {
    let mut namespace = "";
    let mut is_own = false;
    for event in events {
        match &event.what {
            What::ScenarioBegan { id } => is_own = *id == plan.scenario,
            What::StoreHash { .. } if is_own => return event.seq,
            What::ScenarioEnded { id } if *id == plan.scenario => return event.seq,
            What::Bound { name, to } if is_own && name == "namespace" => {
                namespace = to.first().map_or("", String::as_str);
            }
            What::Object { kind, object, .. } if is_own && kind == "namespaces" => {
                let metadata = &object["metadata"];
                if metadata["name"] == namespace && metadata["deletionTimestamp"].is_string() {
                    return event.seq;
                }
            }
            _ => {}
        }
    }
    u64::MAX
}

fn key(about: &About) -> String {
    match about.namespace.as_str() {
        "" => about.name.clone(),
        namespace => format!("{namespace}/{}", about.name),
    }
}

/// An object at a revision; `None` if it was gone.
type Version<'e> = (i64, Option<&'e Value>);

/// Every version of every object.
#[derive(Default)]
struct States<'e> {
    versions: BTreeMap<(String, String), Vec<Version<'e>>>,
    /// The object of each change, by kind and revision.
    changes: BTreeMap<(String, i64), Vec<(Change, &'e Value)>>,
}

impl<'e> States<'e> {
    fn add(&mut self, change: Change, kind: &'e str, revision: i64, object: &'e Value) {
        let is_there = change != Change::Deleted;
        let versions =
            self.versions.entry((kind.to_owned(), key(&About::of(kind, object)))).or_default();
        versions.push((revision, is_there.then_some(object)));
        self.changes.entry((kind.to_owned(), revision)).or_default().push((change, object));
    }

    /// An object as it was before a revision.
    fn before(&self, kind: &str, key: &str, revision: i64) -> Option<&'e Value> {
        let versions = self.versions.get(&(kind.to_owned(), key.to_owned()))?;
        versions.iter().rev().find(|(at, _)| *at < revision).and_then(|(_, object)| *object)
    }

    /// Whether an object of this identity was there at a revision.
    fn has_uid(&self, uid: &str, revision: i64) -> bool {
        self.versions.values().any(|versions| {
            let last = versions.iter().rev().find(|(at, _)| *at < revision);
            last.and_then(|(_, object)| *object)
                .is_some_and(|object| object["metadata"]["uid"] == uid)
        })
    }
}

/// The write of a line of the audit log.
fn write(event: &Event, states: &States<'_>) -> Option<Write> {
    let What::Audit { user, verb, kind, key, code, revision, .. } = &event.what else {
        return None;
    };
    let is_namespaced = !["namespaces", "nodes"].contains(&kind.as_str());
    let parts: Vec<&str> = key.split('/').collect();
    let (plain, subresource) = match (is_namespaced, parts.as_slice()) {
        (true, [namespace, name, sub]) => (format!("{namespace}/{name}"), *sub),
        (false, [name, sub]) => ((*name).to_owned(), *sub),
        _ => (key.clone(), ""),
    };
    let is_done = (200..300).contains(code);
    let changes = states.changes.get(&(kind.clone(), *revision)).filter(|_| is_done);
    // A write of several objects, as of a list, has one revision for each.
    let change = changes.and_then(|all| {
        let own = |(_, object): &&(Change, &Value)| self::key(&About::of(kind, object)) == plain;
        all.iter().find(own).or(all.first()).copied()
    });
    let now = if *revision > 0 { *revision } else { i64::MAX };
    let before = states.before(kind, &plain, now);
    let about = match change.map(|(_, object)| object).or(before) {
        Some(object) => About::of(kind, object),
        None => About::named(kind, &plain),
    };
    let is_watched = states.versions.keys().any(|(of, _)| of == kind);
    let shape = match change {
        Some((change, object)) => {
            shape(change, states.before(kind, &self::key(&about), *revision), object)
        }
        // Of kinds that nobody watches only the audit log tells.
        None if is_done && *revision > 0 && !is_watched => verb.clone(),
        None => String::new(),
    };
    let verb = if subresource.is_empty() { verb.clone() } else { format!("{verb}/{subresource}") };
    let namespace = states.before("namespaces", &about.namespace, now);
    let node = states.before("nodes", &about.node, now);
    let taints = node.and_then(|node| node["spec"]["taints"].as_array());
    let circumstances = Circumstances {
        is_orphaned: !about.owners.is_empty()
            && !about.owners.iter().any(|uid| states.has_uid(uid, now)),
        namespace_goes: namespace.is_some_and(|it| it["metadata"]["deletionTimestamp"].is_string()),
        is_tainted: taints.into_iter().flatten().any(|taint| taint["effect"] == "NoExecute"),
    };
    let controller = controller(user, &verb, &about, &shape, &circumstances);
    Some(Write {
        seq: event.seq,
        at_us: event.at_us,
        user: user.clone(),
        controller,
        verb,
        about,
        revision: *revision,
        shape,
    })
}

/// What was around an object when it was written to.
struct Circumstances {
    /// None of its owners was there.
    is_orphaned: bool,
    /// Its namespace was being deleted.
    namespace_goes: bool,
    /// Its node had a taint with the effect NoExecute.
    is_tainted: bool,
}

/// Which controller writes this.
fn controller(
    user: &str,
    verb: &str,
    about: &About,
    shape: &str,
    circumstances: &Circumstances,
) -> &'static str {
    if user == "system:kube-scheduler" {
        return "scheduler";
    }
    match (about.kind.as_str(), verb) {
        ("namespaces", _) => "namespace-controller",
        (_, "delete") if circumstances.namespace_goes => "namespace-controller",
        (_, "delete") if circumstances.is_orphaned => "garbage-collector-controller",
        ("pods", "delete") if circumstances.is_tainted => "taint-eviction-controller",
        ("pods", "update/status") => "node-lifecycle-controller",
        ("pods", "patch/status") => "taint-eviction-controller",
        ("pods", _) | ("replicasets.apps", "update/status") => "replicaset-controller",
        ("replicasets.apps" | "deployments.apps", _) => "deployment-controller",
        ("nodes", _) if shape.contains("podCIDR") => "node-ipam-controller",
        ("nodes", _) => "node-lifecycle-controller",
        ("configmaps", _) => "root-ca-certificate-publisher-controller",
        ("serviceaccounts", _) => "serviceaccount-controller",
        ("leases.coordination.k8s.io", _) => "leader-election",
        ("events", _) => "events",
        _ => "other",
    }
}

/// What a change does, in words that are the same for changes that are alike: which fields, and of
/// numbers whether they grow, shrink or come to nothing.
fn shape(change: Change, before: Option<&Value>, after: &Value) -> String {
    let Some(before) = before.filter(|_| change != Change::Deleted) else {
        return if change == Change::Deleted { "deleted".to_owned() } else { "added".to_owned() };
    };
    let mut fields = BTreeSet::new();
    differences(before, after, String::new(), &mut fields);
    fields.into_iter().collect::<Vec<_>>().join(" ")
}

/// Fields that say nothing of what was meant.
const NOISE: &[&str] = &[
    "/metadata/generation",
    "/metadata/managedFields",
    "/metadata/resourceVersion",
    "/status/observedGeneration",
];

fn differences(before: &Value, after: &Value, at: String, found: &mut BTreeSet<String>) {
    let is_time = at.ends_with("Time") || at.ends_with("Timestamp") && !before.is_null();
    if before == after || is_time || NOISE.contains(&at.as_str()) {
        return;
    }
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&str> = one.keys().chain(other.keys()).collect();
            for name in names {
                let nothing = &Value::Null;
                let (one, other) = (one.get(name), other.get(name));
                let (one, other) = (one.unwrap_or(nothing), other.unwrap_or(nothing));
                differences(one, other, format!("{at}/{name}"), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other.iter()) {
                differences(one, other, format!("{at}/*"), found);
            }
        }
        _ => {
            let number = |value: &Value| match value {
                Value::Null => Some(0),
                other => other.as_i64(),
            };
            let sign = match (number(before), number(after)) {
                (Some(_), Some(0)) => "=0",
                (Some(one), Some(other)) if other > one => "+",
                (Some(_), Some(_)) => "-",
                _ => "",
            };
            found.insert(format!("{at}{sign}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use indexmap::IndexMap;
    use serde_json::{Value, json};
    use shakedown_core::plan::{Blast, FORMAT, Step};
    use shakedown_core::target::{ClusterSpec, Parameters};

    use super::*;

    const KCM: &str = "system:kube-controller-manager";

    fn plan(actions: Vec<Action>) -> Plan {
        let step = |(index, action)| Step {
            index,
            moment: format!("step-{index}"),
            source: String::new(),
            action,
        };
        Plan {
            format: FORMAT,
            scenario: "a/b".to_owned(),
            title: String::new(),
            proves: vec![],
            seed: 1,
            cluster: ClusterSpec {
                control_planes: 1,
                workers: 1,
                zones: 1,
                parameters: Parameters::default(),
                sabotages: vec![],
            },
            needs: vec![],
            blast: Blast::Namespace,
            given: vec![],
            bind: IndexMap::new(),
            workload: None,
            steps: actions.into_iter().enumerate().map(step).collect(),
            invariants: vec![],
            reaches: vec![],
        }
    }

    /// A timeline in the making: event n comes at n seconds.
    struct Tape(Vec<Event>);

    impl Tape {
        fn new() -> Self {
            let mut tape = Self(Vec::new());
            tape.see(What::ScenarioBegan { id: "a/b".to_owned() });
            tape.see(What::Bound { name: "namespace".to_owned(), to: vec!["ns".to_owned()] });
            tape
        }

        fn see(&mut self, what: What) {
            let seq = self.0.len() as u64;
            let at_us = seq * 1_000_000;
            self.0.push(Event { seq, at_us, error_us: 0, scenario: String::new(), what });
        }

        fn moment(&mut self, name: &str) {
            self.see(What::Moment { name: name.to_owned() });
        }

        fn object(&mut self, change: Change, kind: &str, revision: i64, object: Value) {
            let object = object.into();
            self.see(What::Object { change, kind: kind.to_owned(), revision, object });
        }

        fn audit(&mut self, verb: &str, (kind, key): (&str, &str), (code, revision): (u16, i64)) {
            self.see(What::Audit {
                node: "cp-1".to_owned(),
                user: KCM.to_owned(),
                verb: verb.to_owned(),
                kind: kind.to_owned(),
                key: key.to_owned(),
                code,
                revision,
                fence: String::new(),
            });
        }
    }

    fn set(replicas: u32) -> Value {
        json!({"metadata": {"name": "rs", "namespace": "ns", "uid": "u-rs"}, "status": {"replicas": replicas}})
    }

    fn pod(owner: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u-p", "ownerReferences": [{"uid": owner}]},
            "spec": {"nodeName": "n"}})
    }

    fn writes(tape: &Tape, plan: &Plan) -> Vec<(&'static str, String, String)> {
        let trace = Trace::of(plan, &tape.0);
        trace.writes.into_iter().map(|one| (one.controller, one.verb, one.shape)).collect()
    }

    fn waits() -> Action {
        Action::Wait { time: Duration::ZERO, until: None }
    }

    #[test]
    fn a_write_is_known_by_its_object_and_says_what_it_changed() {
        let mut tape = Tape::new();
        tape.object(Change::Added, "replicasets.apps", 1, set(0));
        tape.moment(START);
        tape.object(Change::Added, "pods", 2, pod("u-rs"));
        tape.audit("create", ("pods", "ns/p"), (201, 2));
        tape.object(Change::Modified, "replicasets.apps", 3, set(1));
        tape.audit("update", ("replicasets.apps", "ns/rs/status"), (200, 3));
        tape.audit("update", ("replicasets.apps", "ns/rs/status"), (409, 0));
        tape.audit("update", ("replicasets.apps", "ns/rs/status"), (200, 3));
        let seen = writes(&tape, &plan(vec![]));
        let shape = "/status/replicas+";
        let expected = [
            ("replicaset-controller", "create", "added"),
            ("replicaset-controller", "update/status", shape),
            ("replicaset-controller", "update/status", ""),
            ("replicaset-controller", "update/status", shape),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(who, verb, shape)| (*who, (*verb).to_owned(), (*shape).to_owned()))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn who_deletes_is_known_by_what_was_before() {
        let node = |taints: Value| json!({"metadata": {"name": "n", "uid": "u-n"}, "spec": {"taints": taints}});
        let namespace = |going: bool| {
            let mut it = json!({"metadata": {"name": "ns", "uid": "u-ns"}});
            if going {
                it["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            it
        };
        for (owner, tainted, going, who) in [
            ("u-rs", false, false, "replicaset-controller"),
            ("u-gone", false, false, "garbage-collector-controller"),
            ("u-rs", true, false, "taint-eviction-controller"),
            ("u-rs", false, true, "namespace-controller"),
        ] {
            let mut tape = Tape(Vec::new());
            tape.see(What::ScenarioBegan { id: "a/b".to_owned() });
            let taints =
                if tainted { json!([{"key": "k", "effect": "NoExecute"}]) } else { json!([]) };
            tape.object(Change::Added, "nodes", 1, node(taints));
            tape.object(Change::Added, "namespaces", 2, namespace(going));
            tape.object(Change::Added, "replicasets.apps", 3, set(1));
            tape.object(Change::Added, "pods", 4, pod(owner));
            tape.moment(START);
            tape.object(Change::Deleted, "pods", 5, pod(owner));
            tape.audit("delete", ("pods", "ns/p"), (200, 5));
            let expected = (who, "delete".to_owned(), "deleted".to_owned());
            assert_eq!(writes(&tape, &plan(vec![])), [expected], "{who}");
        }
    }

    #[test]
    fn rules_are_put_in_force_where_the_run_was_at_rest() {
        let fault = Action::Delete(shakedown_core::plan::ObjectRef {
            kind: "pods".to_owned(),
            namespace: None,
            name: "p".to_owned(),
            grace_seconds: None,
        });
        let plan = plan(vec![fault.clone(), fault.clone(), waits(), fault, waits()]);
        let mut tape = Tape::new();
        tape.object(Change::Added, "pods", 1, pod("u-rs"));
        tape.moment(START);
        tape.object(Change::Modified, "pods", 2, pod("u-rs"));
        for step in 0..2 {
            tape.moment(&format!("step-{step}"));
        }
        tape.object(Change::Modified, "pods", 3, pod("u-rs"));
        tape.moment("step-2");
        tape.object(Change::Modified, "pods", 4, pod("u-rs"));
        let trace = Trace::of(&plan, &tape.0);
        let steps: Vec<_> = trace.anchors.iter().map(|anchor| anchor.step).collect();
        assert_eq!(steps, [0, 3]);
        let nth: Vec<_> = trace
            .notifications
            .iter()
            .map(|seen| {
                let anchor = trace.anchor(seen.seq).expect("one is before it");
                (anchor.step, trace.nth_notification(seen, anchor))
            })
            .collect();
        assert_eq!(nth, [(0, 1), (0, 2), (3, 1)]);
    }

    #[test]
    fn the_clean_up_teaches_nothing() {
        let mut tape = Tape::new();
        tape.moment(START);
        let going = json!({"metadata": {"name": "ns", "uid": "u", "deletionTimestamp": "2024-01-01T00:00:00Z"}});
        tape.object(Change::Modified, "namespaces", 2, going);
        tape.object(Change::Deleted, "pods", 3, pod("u-rs"));
        tape.audit("delete", ("pods", "ns/p"), (200, 3));
        let trace = Trace::of(&plan(vec![]), &tape.0);
        assert!(trace.writes.is_empty() && trace.notifications.is_empty(), "{trace:?}");
    }

    #[test]
    fn a_shape_is_that_of_the_change_and_not_of_its_values() {
        for (before, after, expected) in [
            (json!({"a": 1}), json!({"a": 2}), "/a+"),
            (json!({"a": 2}), json!({"a": 1}), "/a-"),
            (json!({"a": 2}), json!({}), "/a=0"),
            (json!({}), json!({"a": 3}), "/a+"),
            (json!({"a": "x"}), json!({"a": "y"}), "/a"),
            (json!({"l": [{"s": "x"}]}), json!({"l": [{"s": "y"}]}), "/l/*/s"),
            (json!({"l": []}), json!({"l": [1]}), "/l"),
            (
                json!({"metadata": {"resourceVersion": "1"}}),
                json!({"metadata": {"resourceVersion": "2"}}),
                "",
            ),
            (json!({"startTime": "x"}), json!({"startTime": "y"}), ""),
        ] {
            let about = format!("{before} {after}");
            let found = shape(Change::Modified, Some(&before.into()), &after.into());
            assert_eq!(found, expected, "{about}");
        }
    }
}
