//! The one helper of the table tests: a world in text, a clock that is set by hand, a log in text.
//!
//! A world is a line per object: `pod/web-1 node=a owner=rs/web label=app:web ready=True@-30s`; a line
//! that begins with `-` takes an object away. [`World`] plays the API server and the driver: it applies
//! what a controller decides, at once, and shows it the changes. Times are whole seconds; a time
//! `@-30s` is that long before now.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use apiclient::Informed;
use env::{Sabotage, Timestamp};
use machinery::kinds::{self, NODE, POD};
use machinery::{Kind, Object, ObjectKey, View, quota};
use serde_json::{Value, json};

use crate::queue::Queue;
use crate::{Config, Controller, DecideCx, Guard, Index, Key, Write};

/// One controller in a world of its own.
pub struct World {
    controller: Box<dyn Controller>,
    pub config: Config,
    pub sabotages: Vec<Sabotage>,
    pub view: View,
    /// Why creations fail; they do not if it is empty.
    pub refusal: &'static str,
    index: Index,
    queue: Queue,
    elapsed: Duration,
    revision: i64,
    log: String,
    changes: VecDeque<Informed>,
}

impl World {
    /// A controller that starts at second 0 in this world.
    pub fn new(make: impl FnOnce(&Config) -> Box<dyn Controller>, text: &str) -> Self {
        let config = Config::new("cp-1_test");
        let mut world = Self {
            controller: make(&config),
            config,
            sabotages: Vec::new(),
            view: View::default(),
            refusal: "",
            index: Index::default(),
            queue: Queue::default(),
            elapsed: Duration::ZERO,
            revision: 0,
            log: String::new(),
            changes: VecDeque::new(),
        };
        world.put_all(text);
        world.settle(true);
        for key in world.controller.start() {
            world.queue.add((0, key), Duration::ZERO);
        }
        world
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        let start: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        start + self.elapsed
    }

    /// Changes the world from outside, as seen now.
    pub fn see(&mut self, text: &str) {
        self.put_all(text);
        self.settle(false);
    }

    /// Puts an object there, as seen now.
    pub fn see_object(&mut self, kind: &'static Kind, object: Object) {
        self.put(kind, object);
        self.settle(false);
    }

    /// Takes an object of any namespace away, as seen now.
    pub fn gone(&mut self, kind: &'static Kind, key: &ObjectKey) {
        self.take(kind, key);
        self.settle(false);
    }

    /// Runs until this second (what is due then included); answers what was written, line by line.
    pub fn run_to(&mut self, second: u64) -> String {
        let end = Duration::from_secs(second);
        let mut decisions = 0;
        while let Some(due) = self.queue.next_due().filter(|due| *due <= end) {
            self.elapsed = self.elapsed.max(due);
            let (_, key) = self.queue.pop(self.elapsed).unwrap();
            self.decide(&key);
            decisions += 1;
            assert!(decisions < 10_000, "a hot loop about {key}");
        }
        self.elapsed = end;
        std::mem::take(&mut self.log)
    }

    fn decide(&mut self, key: &Key) {
        let cx = DecideCx {
            now: self.now(),
            elapsed: self.elapsed,
            index: &self.index,
            config: &self.config,
            sabotages: &self.sabotages,
            first_sight: false,
        };
        let decision = self.controller.decide(&self.view, key, &cx);
        for key in decision.wake {
            self.queue.add((0, key), self.elapsed);
        }
        if let Some(after) = decision.again_after {
            assert!(after > Duration::ZERO, "a hot loop about {key}");
            self.queue.add((0, key.clone()), self.elapsed + after);
        }
        for write in decision.writes {
            self.apply(write);
        }
        self.settle(false);
    }

    fn settle(&mut self, first_sight: bool) {
        if first_sight {
            self.changes.iter().for_each(|change| self.index.apply(change));
        }
        while let Some(change) = self.changes.pop_front() {
            self.index.apply(&change);
            let cx = DecideCx {
                now: self.now(),
                elapsed: self.elapsed,
                index: &self.index,
                config: &self.config,
                sabotages: &self.sabotages,
                first_sight,
            };
            for key in self.controller.changed(&self.view, &change, &cx) {
                self.queue.add((0, key), self.elapsed);
            }
        }
    }

    fn put_all(&mut self, text: &str) {
        for line in text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix('-') {
                let (kind, key) = named(name);
                self.take(kind, &key);
            } else {
                self.read(line);
            }
        }
    }

    /// Reads one object; what the line does not say stays as it was.
    fn read(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let words: Vec<_> = words.collect();
        let (kind, mut key) = named(name);
        if let Some(namespace) = words.iter().find_map(|word| word.strip_prefix("ns=")) {
            key.namespace = namespace.to_owned();
        }
        let known = self.view.get(kind, &key).map(|known| Object::clone(known));
        let mut object = known.unwrap_or_else(|| {
            let mut object = Object::new(&kind.api_version(), kind.kind, &key.namespace, &key.name);
            object.set("/metadata/uid", name);
            object.set("/metadata/creationTimestamp", self.text_of("0s"));
            object
        });
        for word in words {
            self.read_word(&mut object, word);
        }
        self.put(kind, object);
    }

    fn read_word(&self, object: &mut Object, word: &str) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let (value, at) = value.split_once('@').unwrap_or((value, "0s"));
        let at = self.text_of(at);
        let push = |object: &mut Object, pointer: &str, entry: Value| {
            let mut list = object.list(pointer).to_vec();
            list.retain(|known| known.get("type").is_none() || known["type"] != entry["type"]);
            list.push(entry);
            object.set(pointer, list);
        };
        match name {
            "ns" => {}
            "node" => object.set("/spec/nodeName", value),
            "phase" => object.set("/status/phase", value),
            "replicas" => object.set("/spec/replicas", value.parse::<i64>().unwrap()),
            "deleted" => object.set("/metadata/deletionTimestamp", at),
            "created" => object.set("/metadata/creationTimestamp", at),
            "finalizer" => object.set("/metadata/finalizers", json!([value])),
            "label" | "selects" | "template" => {
                let (key, value) = value.split_once(':').unwrap();
                let at = match name {
                    "label" => "/metadata/labels",
                    "selects" => "/spec/selector/matchLabels",
                    _ => "/spec/template/metadata/labels",
                };
                object.set(&format!("{at}/{}", key.replace('/', "~1")), value);
            }
            "owner" => {
                let (kind, key) = named(value);
                let mut owner = Object::new(&kind.api_version(), kind.kind, "", &key.name);
                owner.set("/metadata/uid", value);
                push(object, "/metadata/ownerReferences", json!(owner.as_controller()));
            }
            "ready" => {
                let entry = json!({
                    "type": "Ready", "status": value, "lastTransitionTime": at,
                    "lastHeartbeatTime": self.text_of("0s"),
                });
                push(object, "/status/conditions", entry);
            }
            "taint" => {
                let (key, effect) = value.split_once(':').unwrap();
                let mut taint = json!({"key": key, "effect": effect});
                if word.contains('@') {
                    taint["timeAdded"] = at.into();
                }
                push(object, "/spec/taints", taint);
            }
            "untaint" => object.set("/spec/taints", json!([])),
            "tolerate" => {
                let (key, seconds) = value.split_once(':').unwrap_or((value, ""));
                let mut toleration =
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
                if let Ok(seconds) = seconds.parse::<i64>() {
                    toleration["tolerationSeconds"] = seconds.into();
                }
                push(object, "/spec/tolerations", toleration);
            }
            pointer => {
                let parsed = serde_json::from_str::<Value>(value);
                let value = parsed.unwrap_or_else(|_| value.into());
                object.set(pointer, value);
            }
        }
    }

    /// A time so long before now, as objects carry it.
    fn text_of(&self, ago: &str) -> String {
        let seconds: i64 = ago.trim_start_matches('-').trim_end_matches('s').parse().unwrap();
        let at = self.now() - Duration::from_secs(seconds.unsigned_abs());
        machinery::conditions::seconds(at)
    }

    fn put(&mut self, kind: &'static Kind, mut object: Object) {
        self.revision += 1;
        object.set("/metadata/resourceVersion", self.revision.to_string());
        let (key, new) = (object.key(), Arc::new(object));
        let old = self.view.put(kind, new.clone());
        self.changes.push_back(Informed { kind, key, old, new: Some(new) });
    }

    fn take(&mut self, kind: &'static Kind, key: &ObjectKey) {
        if let Some(old) = self.view.take(kind, key) {
            let key = key.clone();
            self.changes.push_back(Informed { kind, key, old: Some(old), new: None });
        }
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.log, "{} {text}", self.elapsed.as_secs_f64());
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Apart(groups) => groups.into_iter().flatten().for_each(|one| self.apply(one)),
            write @ Write::Managed { .. } => self.manage(write),
            Write::Create { kind, mut object, .. } => {
                if object.name().is_empty() {
                    let name =
                        format!("{}{}", object.text("/metadata/generateName"), self.revision);
                    object.set("/metadata/name", name);
                }
                let uid = format!("{}/{}", kind.plural, object.name());
                self.line(&format!("create {uid} {}", facts(kind, &object)));
                object.set("/metadata/uid", uid);
                object.set("/metadata/creationTimestamp", self.text_of("0s"));
                object.set("/metadata/generation", 1);
                self.put(kind, object);
            }
            Write::Update { kind, object } => self.update(kind, object),
            Write::UpdateStatus { kind, object } => {
                let mut known = self.current(kind, &object);
                self.line(&format!("status {} {}", name(kind, &object), state(kind, &object)));
                known.set("/status", object.get("/status").cloned().unwrap_or_default());
                self.put(kind, known);
            }
            Write::Patch { kind, key, patch, .. } => {
                self.line(&format!("patch {}/{} {patch}", kind.plural, key.name));
                let mut known = Object::clone(self.view.get(kind, &key).unwrap());
                merge(&mut known.0, &patch);
                self.put(kind, known);
            }
            Write::Delete { kind, object, grace_s, propagation, .. } => {
                let force = if grace_s == Some(0) { " force" } else { "" };
                self.line(&format!("delete {}{force} {propagation}", name(kind, &object)));
                let mut known = Object::clone(self.view.get(kind, &object.key()).unwrap());
                let waits = kind.id == POD.id && !known.text("/spec/nodeName").is_empty();
                if (waits && force.is_empty()) || !known.list("/metadata/finalizers").is_empty() {
                    known.set("/metadata/deletionTimestamp", self.text_of("0s"));
                    self.put(kind, known);
                } else {
                    self.take(kind, &known.key());
                }
            }
            Write::If { guards, write } => {
                if guards.iter().all(|guard| self.holds(guard)) {
                    self.apply(*write);
                } else {
                    self.line("guarded");
                }
            }
            Write::UpdatePart { kind, object, subresource } => {
                let mut known = self.current(kind, &object);
                self.line(&format!("{subresource} {}", name(kind, &object)));
                known.set("/status", object.get("/status").cloned().unwrap_or_default());
                self.put(kind, known);
            }
            Write::IfAllowed { question, write } => {
                let asked = |member: &str| question["resourceAttributes"][member].as_str();
                let (resource, part) = (asked("resource"), asked("subresource"));
                self.line(&format!("if allowed {}/{}", resource.unwrap(), part.unwrap()));
                self.apply(*write);
            }
            Write::Finalize { namespace } => {
                self.line(&format!("finalize {}", namespace.name()));
                self.take(&kinds::NAMESPACE, &namespace.key());
            }
            Write::Recount { quota, now } => self.recount(&quota, now),
            Write::Event(note) => {
                self.line(&format!("event {} {}", note.reason, note.about.name()))
            }
        }
    }

    fn manage(&mut self, write: Write) {
        let Write::Managed { writes, kind, before, object, reason, now } = write else { return };
        let is_create = |write: &Write| matches!(write, Write::Create { .. });
        let failure = match self.refusal {
            why if !why.is_empty() && writes.iter().any(is_create) => Some((reason, why)),
            _ => {
                writes.into_iter().for_each(|write| self.apply(write));
                None
            }
        };
        if let Some(object) = crate::controller::managed(&before, object, failure, now) {
            self.apply(Write::UpdateStatus { kind, object });
        }
    }

    fn recount(&mut self, key: &ObjectKey, now: Timestamp) {
        let found = self.view.get(&kinds::RESOURCE_QUOTA, key).expect("the quota exists");
        let mut found = Object::clone(found);
        let counted = quota::counted(&found, &machinery::custom::of_view(&self.view));
        let objects = counted.iter().copied().flat_map(|kind| {
            self.view.in_namespace(kind, &key.namespace).map(move |object| (kind, &**object))
        });
        let status = quota::status(&found, &counted, objects, now);
        if found.get("/status").is_some_and(|known| quota::is_same_status(known, &status)) {
            self.line(&format!("counted {key}"));
        } else {
            self.line(&format!("count {key} {}", status["used"]));
            found.set("/status", status);
            self.put(&kinds::RESOURCE_QUOTA, found);
        }
    }

    fn update(&mut self, kind: &'static Kind, mut object: Object) {
        let known = self.current(kind, &object);
        self.line(&format!("update {} {}", name(kind, &object), facts(kind, &object)));
        if let Some(status) = known.get("/status") {
            object.set("/status", status.clone());
        }
        if known.get("/spec") != object.get("/spec") {
            let generation = known.integer("/metadata/generation").unwrap_or_default();
            object.set("/metadata/generation", generation + 1);
        }
        if object.is_terminating() && object.list("/metadata/finalizers").is_empty() {
            self.take(kind, &object.key());
        } else {
            self.put(kind, object);
        }
    }

    fn holds(&self, guard: &Guard) -> bool {
        let found = self.view.get(guard.kind, &guard.key);
        let is_there = found.is_some_and(|found| guard.uid.is_empty() || found.uid() == guard.uid);
        is_there == guard.present
    }

    /// The object as it is; a write that is based on an older state is a bug in the controller here,
    /// where the view never lags.
    fn current(&self, kind: &'static Kind, object: &Object) -> Object {
        let known = self.view.get(kind, &object.key()).expect("the object exists");
        assert_eq!(known.revision(), object.revision(), "a stale write to {}", name(kind, object));
        Object::clone(known)
    }
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// `rs/web` as kind and key; namespaced ones are in `default`.
fn named(name: &str) -> (&'static Kind, ObjectKey) {
    let (short, name) = name.split_once('/').expect("kind/name");
    let kind = kinds::ALL
        .iter()
        .copied()
        .find(|kind| kind.kind.to_lowercase() == short || kind.short_names.contains(&short))
        .unwrap_or_else(|| panic!("no kind {short}"));
    (kind, ObjectKey::new(if kind.namespaced { "default" } else { "" }, name))
}

fn name(kind: &Kind, object: &Object) -> String {
    format!("{}/{}", kind.plural, object.name())
}

/// What matters of an object's spec.
fn facts(kind: &Kind, object: &Object) -> String {
    if kind.id == NODE.id {
        let taints = object.taints().into_iter();
        let taints: Vec<_> = taints
            .map(|taint| {
                format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)
            })
            .collect();
        return format!("[{}]", taints.join(" "));
    }
    let mut facts: Vec<_> =
        object.owners().iter().map(|owner| format!("owner={}", owner.uid)).collect();
    if let Some(replicas) = object.integer("/spec/replicas") {
        facts.push(format!("replicas={replicas}"));
    }
    facts.join(" ")
}

/// What matters of an object's status.
fn state(kind: &Kind, object: &Object) -> String {
    if kind.id == NODE.id || kind.id == POD.id {
        return format!(
            "Ready={} {}",
            object.condition_status("Ready"),
            object.text("/status/phase")
        );
    }
    let Some(status) = object.map("/status") else { return String::new() };
    let mut parts: Vec<_> = status
        .iter()
        .filter_map(|(name, value)| {
            Some(format!("{}={}", name.strip_suffix("Replicas").unwrap_or(name), value.as_i64()?))
        })
        .collect();
    parts.sort();
    let conditions = object.list("/status/conditions").iter();
    parts.extend(
        conditions.map(|condition| format!("{}={}", condition["type"], condition["reason"])),
    );
    parts.join(" ").replace('"', "")
}
