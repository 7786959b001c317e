//! One scenario of a timeline, indexed: what its checks and invariants look things up in.
//!
//! Times are microseconds since the run began. An event seen at `at` happened in `[at - error, at]`.
//! Whoever compares times takes, for each end, the bound that lets the promise off.

use std::collections::BTreeMap;

use shakedown_core::json::Value;
use shakedown_core::kinds::Kind;
use shakedown_core::lever::Undo;
use shakedown_core::plan::{Plan, START};
use shakedown_core::sabotage::Sabotage;
use shakedown_core::target::{ClusterFact, Parameters, Role};
use shakedown_core::timeline::{Change, Event, FaultPhase, What};

use crate::history::History;

/// Pods, in timelines.
pub const PODS: &str = "pods";
/// Nodes, in timelines.
pub const NODES: &str = "nodes";
/// Leases, in timelines.
pub const LEASES: &str = "leases.coordination.k8s.io";
/// ReplicaSets, in timelines.
pub const REPLICA_SETS: &str = "replicasets.apps";
/// Deployments, in timelines.
pub const DEPLOYMENTS: &str = "deployments.apps";
/// ConfigMaps, in timelines: what workload clients write.
pub const CONFIG_MAPS: &str = "configmaps";
/// The user of the controllers.
pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// When something was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    /// The event's place in the timeline.
    pub seq: u64,
    /// Not later than this.
    pub at_us: i64,
    /// So much earlier at most.
    pub error_us: i64,
}

impl Instant {
    /// The event's.
    pub fn of(event: &Event) -> Self {
        let bounded = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
        Self { seq: event.seq, at_us: bounded(event.at_us), error_us: bounded(event.error_us) }
    }

    /// The earliest time at which it may have happened.
    pub fn earliest(self) -> i64 {
        self.at_us - self.error_us
    }
}

/// One change of an object, as the witness saw it.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// When.
    pub when: Instant,
    /// How.
    pub change: Change,
    /// `namespace/name`, or the name alone.
    pub key: String,
    /// The revision.
    pub revision: i64,
    /// The object after it.
    pub object: &'a Value,
    /// Whether it comes from a list, so that earlier changes of the object may not have been seen.
    pub is_listed: bool,
}

/// One fault's life.
#[derive(Debug, Clone)]
pub struct FaultSpan<'a> {
    /// The step's name.
    pub name: &'a str,
    /// The kind of fault.
    pub fault: &'a str,
    /// What it was done to.
    pub targets: &'a [String],
    /// What takes it back.
    pub undo: &'a [Undo],
    /// What the undo log held before it was done.
    pub logged: &'a [Undo],
    /// Where it stood when, and what was shown.
    pub phases: Vec<(FaultPhase, Instant)>,
}

impl FaultSpan<'_> {
    /// When it first came to this phase.
    pub fn first(&self, phase: FaultPhase) -> Option<Instant> {
        self.phases.iter().find(|(known, _)| *known == phase).map(|(_, when)| *when)
    }

    /// When it was last in this phase.
    pub fn last(&self, phase: FaultPhase) -> Option<Instant> {
        self.phases.iter().rev().find(|(known, _)| *known == phase).map(|(_, when)| *when)
    }

    /// The bounds of the time at which it took effect: the error of its application is the time
    /// that the pull took.
    pub fn began(&self) -> Option<(i64, i64)> {
        let applied = self.first(FaultPhase::Applied)?;
        Some((applied.earliest(), applied.at_us))
    }

    /// The earliest time at which it may have ended; `None` if it never was taken back.
    pub fn lifted(&self) -> Option<i64> {
        let removed = self.first(FaultPhase::Removed)?;
        let shown = [FaultPhase::Sustained, FaultPhase::Proven, FaultPhase::Applied]
            .iter()
            .filter_map(|phase| self.last(*phase))
            .map(Instant::earliest)
            .max();
        Some(shown.unwrap_or(removed.earliest()))
    }

    /// When its end was shown, or, of a fault with nothing to take back, when it was proven.
    pub fn over(&self) -> Option<i64> {
        if let Some(healed) = self.last(FaultPhase::HealProven) {
            return Some(healed.at_us);
        }
        let momentary = self.undo.iter().all(|undo| *undo == Undo::Nothing);
        self.first(FaultPhase::Proven).filter(|_| momentary).map(|proven| proven.at_us)
    }
}

/// A write that an API server answered.
#[derive(Debug, Clone, Copy)]
pub struct AuditLine<'a> {
    /// When.
    pub when: Instant,
    /// Who wrote.
    pub user: &'a str,
    /// create, update, patch, delete.
    pub verb: &'a str,
    /// Plural and group.
    pub kind: &'a str,
    /// Namespace and name, and the subresource.
    pub key: &'a str,
    /// HTTP status.
    pub code: u16,
    /// The revision of the write.
    pub revision: i64,
    /// The leader's fence.
    pub fence: &'a str,
}

/// One scenario.
pub struct Scene<'a> {
    /// What was to be done.
    pub plan: &'a Plan,
    /// The whole timeline.
    pub timeline: &'a [Event],
    /// From the scenario's cluster to the scenario's end.
    pub events: &'a [Event],
    /// The place in `events` of the scenario's beginning.
    pub began: usize,
    /// Whether its end was seen.
    pub has_ended: bool,
    /// Where its steps ended and clean-up began, and why it was given up, if it was.
    pub steps_over: Option<(Instant, &'a str)>,
    /// The cluster.
    pub cluster: Option<&'a ClusterFact>,
    /// The changes of the objects of each kind, in order.
    pub objects: BTreeMap<&'a str, Vec<Seen<'a>>>,
    /// The places in `objects` of the changes of each object.
    histories: BTreeMap<(&'a str, String), Vec<usize>>,
    /// The faults, in order of their first event.
    pub faults: Vec<FaultSpan<'a>>,
    /// Interruptions of the witness: when, and of which kind.
    pub gaps: Vec<(Instant, &'a str)>,
    /// What the harness failed at: when, what and why.
    pub troubles: Vec<(Instant, &'a str, &'a str)>,
    /// The audit log.
    pub audit: Vec<AuditLine<'a>>,
    /// The places in `audit` of the writes to each object, by kind and key without the subresource.
    audit_of: BTreeMap<&'a str, BTreeMap<&'a str, Vec<usize>>>,
    /// What the workload did.
    history: Option<History<'a>>,
}

impl<'a> Scene<'a> {
    /// Indexes; `None` if the timeline has no such scenario.
    pub fn of(plan: &'a Plan, timeline: &'a [Event]) -> Option<Self> {
        let began = timeline.iter().position(
            |event| matches!(&event.what, What::ScenarioBegan { id } if *id == plan.scenario),
        )?;
        let ended = timeline[began..].iter().position(
            |event| matches!(&event.what, What::ScenarioEnded { id } if *id == plan.scenario),
        );
        let end = ended.map_or(timeline.len(), |ended| began + ended + 1);
        let is_cluster = |event: &Event| matches!(event.what, What::Cluster { .. });
        let own_cluster = timeline[began..end].iter().any(is_cluster);
        let first = match timeline[..began].iter().rposition(is_cluster) {
            Some(first) if !own_cluster => first,
            _ => began,
        };
        let mut scene = Self {
            plan,
            timeline,
            events: &timeline[first..end],
            began: began - first,
            has_ended: ended.is_some(),
            steps_over: None,
            cluster: None,
            objects: BTreeMap::new(),
            histories: BTreeMap::new(),
            faults: Vec::new(),
            gaps: Vec::new(),
            troubles: Vec::new(),
            audit: Vec::new(),
            audit_of: BTreeMap::new(),
            history: None,
        };
        scene.index();
        scene.history = Some(History::of(&scene));
        Some(scene)
    }

    fn index(&mut self) {
        let mut relisted: BTreeMap<&str, u64> = BTreeMap::new();
        // The witness's first lists are over when the given objects are ready.
        let mut has_started = false;
        for (at, event) in self.events.iter().enumerate() {
            if let What::Cluster { cluster } = &event.what {
                self.cluster = Some(cluster);
            }
            if at < self.began {
                continue;
            }
            let when = Instant::of(event);
            match &event.what {
                What::Moment { name } => has_started |= name == START,
                What::WitnessGap { .. } if self.plan.sabotaged(Sabotage::JudgeIgnoresGaps) => {}
                What::WitnessGap { kind, .. } => {
                    self.gaps.push((when, kind));
                    relisted.insert(kind, when.seq);
                }
                What::Object { change, kind, revision, object } => {
                    let (change, revision, is_listed) = (*change, *revision, !has_started);
                    let seen = Seen { when, change, key: key(object), revision, object, is_listed };
                    self.add(kind, seen, relisted.get(kind.as_str()).copied());
                }
                What::Fault { name, fault, phase, targets, undo, .. } => {
                    let known = self.faults.iter().position(|span| span.name == name);
                    let at = known.unwrap_or_else(|| {
                        self.faults.push(FaultSpan {
                            name,
                            fault,
                            targets,
                            undo,
                            logged: &[],
                            phases: vec![],
                        });
                        self.faults.len() - 1
                    });
                    let span = &mut self.faults[at];
                    span.phases.push((*phase, when));
                    if *phase == FaultPhase::UndoLogged {
                        span.logged = undo;
                    }
                    if !undo.is_empty() {
                        span.undo = undo;
                    }
                    if !targets.is_empty() {
                        span.targets = targets;
                    }
                }
                What::Trouble { doing, why } => self.troubles.push((when, doing, why)),
                What::StepsOver { why } => {
                    self.steps_over.get_or_insert((when, why));
                }
                What::Audit { user, verb, kind, key, code, revision, fence, .. } => {
                    let (code, revision) = (*code, *revision);
                    let of_kind = self.audit_of.entry(kind).or_default();
                    of_kind.entry(written(kind, key)).or_default().push(self.audit.len());
                    self.audit.push(AuditLine {
                        when,
                        user,
                        verb,
                        kind,
                        key,
                        code,
                        revision,
                        fence,
                    });
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, kind: &'a str, mut seen: Seen<'a>, gap: Option<u64>) {
        let all = self.objects.entry(kind).or_default();
        let history = self.histories.entry((kind, seen.key.clone())).or_default();
        let last = history.last().map(|at| &all[*at]);
        // A list after a gap shows again what is known.
        if last.is_some_and(|last| last.revision == seen.revision && last.change == Change::Deleted)
        {
            return;
        }
        if last.is_some_and(|last| last.revision == seen.revision) && seen.change != Change::Deleted
        {
            return;
        }
        seen.is_listed = match (last, gap) {
            (None, gap) => seen.is_listed || gap.is_some(),
            (Some(last), Some(gap)) => last.when.seq < gap,
            (Some(_), None) => false,
        };
        history.push(all.len());
        all.push(seen);
    }

    /// The lines of the audit log about one object and its subresources.
    pub fn audit_of<'s>(
        &'s self,
        kind: &str,
        key: &str,
    ) -> impl Iterator<Item = &'s AuditLine<'a>> + use<'s, 'a> {
        let places = self.audit_of.get(kind).and_then(|of_kind| of_kind.get(key));
        places.into_iter().flatten().map(|at| &self.audit[*at])
    }

    /// What the workload did, and the witness's log of it.
    pub fn history(&self) -> &History<'a> {
        self.history.as_ref().expect("a scene is made with its history")
    }

    /// The timings in force.
    pub fn parameters(&self) -> Parameters {
        self.cluster.map_or(self.plan.cluster.parameters, |cluster| cluster.parameters)
    }

    /// The names of the nodes of one role.
    pub fn names(&self, role: Role) -> Vec<String> {
        self.cluster.map(|cluster| cluster.names(role)).unwrap_or_default()
    }

    /// The time of the last event.
    pub fn end_us(&self) -> i64 {
        self.events.last().map_or(0, |event| Instant::of(event).at_us)
    }

    /// The time up to which what the scenario expects is judged: clean-up begins there.
    pub fn steps_end_us(&self) -> i64 {
        self.steps_over.map_or_else(|| self.end_us(), |(when, _)| when.at_us)
    }

    /// The shape that the timeline says it was written in.
    pub fn format(&self) -> Option<u32> {
        match self.timeline.first().map(|event| &event.what) {
            Some(What::Run { format, .. }) => Some(*format),
            _ => None,
        }
    }

    /// The events since the scenario began.
    pub fn own(&self) -> &'a [Event] {
        &self.events[self.began..]
    }

    /// The changes of the objects of a kind.
    pub fn of_kind(&self, kind: &str) -> &[Seen<'a>] {
        self.objects.get(kind).map_or(&[], Vec::as_slice)
    }

    /// The changes of one object.
    pub fn changes(&self, kind: &'a str, key: &str) -> impl DoubleEndedIterator<Item = &Seen<'a>> {
        let all = self.of_kind(kind);
        let places = self.histories.get(&(kind, key.to_owned()));
        places.into_iter().flatten().map(move |at| &all[*at])
    }

    /// An object as it was last seen not after `seq`; `None` if there was none.
    pub fn object_at(&self, kind: &'a str, key: &str, seq: u64) -> Option<&Seen<'a>> {
        let places = self.histories.get(&(kind, key.to_owned()))?;
        let all = self.of_kind(kind);
        let after = places.partition_point(|at| all[*at].when.seq <= seq);
        let last = &all[places[after.checked_sub(1)?]];
        (last.change != Change::Deleted).then_some(last)
    }

    /// The keys of every object of a kind that was ever seen.
    pub fn keys(&self, kind: &'a str) -> impl Iterator<Item = &str> {
        self.histories
            .range((kind, String::new())..)
            .take_while(move |((of, _), _)| *of == kind)
            .map(|((_, key), _)| key.as_str())
    }

    /// Whether the witness of a kind was interrupted in this time, or the harness was in trouble.
    pub fn blind(&self, kinds: &[&str], from_us: i64, to_us: i64) -> bool {
        let inside = |when: Instant| when.at_us >= from_us && when.earliest() <= to_us;
        let gap = self
            .gaps
            .iter()
            .any(|(when, kind)| inside(*when) && (kinds.is_empty() || kinds.contains(kind)));
        gap || self.troubles.iter().any(|(when, ..)| inside(*when))
    }

    /// Whether no fault at all was in effect at any time in the interval: controllers have the time of
    /// an election and of a heartbeat after the end of each.
    pub fn is_calm(&self, from_us: i64, to_us: i64) -> bool {
        let parameters = self.parameters();
        let after = parameters.lease
            + 2 * parameters.retry
            + parameters.heartbeat
            + 4 * parameters.election
            + parameters.monitor;
        self.is_calm_after(i64::try_from(after.as_micros()).unwrap_or(i64::MAX / 4), from_us, to_us)
    }

    /// As [`Scene::is_calm`], with so much time after the end of each fault.
    pub fn is_calm_after(&self, after_us: i64, from_us: i64, to_us: i64) -> bool {
        let began = self.faults.iter().filter_map(|span| Some((span.began()?.0, span.over())));
        let is_broken = began.into_iter().any(|(began, over)| {
            began <= to_us && over.is_none_or(|over| over.saturating_add(after_us) >= from_us)
        });
        !is_broken && !self.troubles.iter().any(|(when, ..)| when.at_us <= to_us)
    }

    /// Whether a fault of this kind was ever done.
    pub fn had_fault(&self, word: &str) -> bool {
        self.faults.iter().any(|span| span.fault.contains(word) && span.began().is_some())
    }

    /// An object as it was at a revision; `None` if there was none, or it is not known.
    pub fn object_at_revision(&self, kind: &'a str, key: &str, revision: i64) -> Option<&Seen<'a>> {
        let last = self.changes(kind, key).rfind(|seen| seen.revision <= revision)?;
        (last.change != Change::Deleted).then_some(last)
    }

    /// Whether a fault other than `except` disturbs the control plane at some time in the interval:
    /// promises of controllers in time do not count then. Each is given the time of an election
    /// after its end.
    pub fn is_disturbed(&self, from_us: i64, to_us: i64, except: &str) -> bool {
        let parameters = self.parameters();
        let election = parameters.lease + 2 * parameters.retry + parameters.monitor;
        let election = i64::try_from(election.as_micros()).unwrap_or(i64::MAX / 4);
        let masters = self.names(Role::ControlPlane);
        self.faults
            .iter()
            // A wrong wall clock is no excuse: see `invariants/silence.rs`.
            .filter(|span| span.name != except && span.fault != "clock-skew")
            .filter(|span| touches(span, &masters))
            .filter_map(|span| Some((span.began()?.0, span.over())))
            .any(|(began, over)| {
                began <= to_us && over.is_none_or(|over| over + election >= from_us)
            })
    }
}

/// Whether a fault hits control planes themselves, and not only paths to them.
fn touches(span: &FaultSpan<'_>, masters: &[String]) -> bool {
    let names = |text: &str| masters.iter().any(|master| word_in(text, master));
    span.targets.iter().any(|target| match target.split_once(" -> ") {
        Some((from, to)) => names(from) && names(to),
        None => names(target.split('/').next().unwrap_or(target)),
    })
}

/// The key of what was written, without the subresource.
fn written<'a>(kind: &str, key: &'a str) -> &'a str {
    let is_namespaced = Kind::of_id(kind).is_none_or(|kind| kind.is_namespaced);
    let parts = if is_namespaced { 2 } else { 1 };
    let end = key.match_indices('/').nth(parts - 1).map_or(key.len(), |(at, _)| at);
    &key[..end]
}

fn word_in(text: &str, name: &str) -> bool {
    text.split([',', ' ']).any(|word| word == name)
}

/// `namespace/name`, or the name alone.
pub fn key(object: &Value) -> String {
    let name = text(object, "/metadata/name");
    match text(object, "/metadata/namespace") {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// The text at a JSON pointer; empty if there is none.
pub fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The status of a condition, such as `Ready`; empty if there is none.
pub fn condition<'v>(object: &'v Value, kind: &str) -> &'v str {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .and_then(|all| all.iter().find(|condition| condition["type"] == kind))
        .map_or("", |condition| condition["status"].as_str().unwrap_or_default())
}

/// Seconds, for people.
pub fn seconds(micros: i64) -> String {
    format!("{:.2} s", micros as f64 / 1e6)
}

/// Milliseconds, for verdicts.
pub fn millis(micros: i64) -> f64 {
    micros as f64 / 1e3
}
