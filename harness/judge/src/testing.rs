//! Timelines for tests, written in short words.

use std::collections::BTreeMap;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Value, json};
use shakedown_core::condition::Condition;
use shakedown_core::lever::{ContainerFact, Undo};
use shakedown_core::partial::Partial;
use shakedown_core::plan::{
    Action, Blast, Check, Ends, FORMAT, FaultStep, Plan, START, Step, Word,
};
use shakedown_core::seal::Seal;
use shakedown_core::target::{ClusterFact, ClusterSpec, NodeFact, Parameters, Role};
use shakedown_core::timeline::{
    Change, Event, Evidence, FORMAT as TIMELINE_FORMAT, FaultPhase, Operation, Outcome, Reads, What,
};
use shakedown_core::verdict::CheckVerdict;
use shakedown_core::window::{Window, evaluate};

const SCENARIO: &str = "test/scenario";
const NAMESPACE: &str = "shop";

fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        format: FORMAT,
        scenario: SCENARIO.to_owned(),
        title: "A test".to_owned(),
        proves: vec!["node-controller/a".to_owned()],
        seed: 7,
        cluster: ClusterSpec {
            control_planes: 3,
            workers: 3,
            zones: 1,
            parameters: Parameters::default(),
            sabotages: vec![],
        },
        needs: vec![],
        blast: Blast::Cluster,
        given: vec![],
        bind: IndexMap::new(),
        workload: None,
        steps,
        invariants: vec![],
        reaches: vec![],
    }
}

/// A plan whose one step kills a node.
pub(crate) fn kill() -> Plan {
    let fault = FaultStep {
        fault: "node-kill".to_owned(),
        on: vec![],
        sides: vec![],
        fields: BTreeMap::new(),
        ends: Ends::WithScenario,
    };
    plan(vec![Step {
        index: 0,
        moment: "kill".to_owned(),
        source: "test.yaml:1".to_owned(),
        action: Action::Fault(fault),
    }])
}

/// A plan whose one step checks that an object, such as `pod a`, exists, after `kill`.
pub(crate) fn check(word: &str, object: &str, low: &str, high: &str) -> Plan {
    let parameters = Parameters::default();
    let (_, name) = object.split_once(' ').expect("a kind and a name");
    let word = *Word::ALL.iter().find(|known| known.name() == word).expect("one of the words");
    let condition = Condition {
        object: Some(Partial {
            kind: "pods".to_owned(),
            namespace: None,
            name: name.to_owned(),
            exists: true,
            fields: json!({}),
        }),
        cel: None,
    };
    let hold = if word == Word::Settles { Duration::from_secs(5) } else { Duration::ZERO };
    let check = Check {
        id: format!("step-0/{word}"),
        word,
        condition,
        window: Window {
            low: evaluate(low, &parameters).expect("a duration"),
            high: evaluate(high, &parameters).expect("a duration"),
        },
        after: "kill".to_owned(),
        hold,
    };
    plan(vec![Step {
        index: 0,
        moment: "step-0".to_owned(),
        source: "test.yaml:1".to_owned(),
        action: Action::Check(check),
    }])
}

/// A timeline in the making.
#[derive(Clone)]
pub(crate) struct Tape {
    plan: Plan,
    events: Vec<Event>,
    now_us: u64,
    error_us: u64,
    revision: i64,
    known: BTreeMap<(String, String), Value>,
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

impl Tape {
    /// A run with a cluster of three and three, in which the scenario has just started.
    pub(crate) fn new(plan: Plan) -> Self {
        let mut tape = Self {
            plan,
            events: vec![],
            now_us: 0,
            error_us: 0,
            revision: 1000,
            known: BTreeMap::new(),
        };
        let nodes = (1..=3)
            .map(|at| (format!("cp-{at}"), Role::ControlPlane))
            .chain((1..=3).map(|at| (format!("worker-{at}"), Role::Worker)))
            .map(|(name, role)| NodeFact { name, role, address: String::new() });
        let cluster = ClusterFact { nodes: nodes.collect(), parameters: Parameters::default() };
        tape.see(What::Run { format: TIMELINE_FORMAT, target: "sim".to_owned(), seed: 7 });
        tape.see(What::Cluster { cluster });
        tape.see(What::ScenarioBegan { id: SCENARIO.to_owned() });
        tape.see(What::Bound { name: "namespace".to_owned(), to: vec![NAMESPACE.to_owned()] });
        tape.moment(START);
        tape
    }

    fn see(&mut self, what: What) {
        let seq = self.events.len() as u64;
        let (at_us, error_us) = (self.now_us, std::mem::take(&mut self.error_us));
        self.events.push(Event { seq, at_us, error_us, scenario: SCENARIO.to_owned(), what });
    }

    /// What follows happens at this time.
    pub(crate) fn at(&mut self, seconds: f64) -> &mut Self {
        self.now_us = micros(seconds);
        self
    }

    /// The next event may have happened so much earlier.
    pub(crate) fn error(&mut self, seconds: f64) -> &mut Self {
        self.error_us = micros(seconds);
        self
    }

    /// The last revision.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn moment(&mut self, name: &str) {
        self.see(What::Moment { name: name.to_owned() });
    }

    pub(crate) fn gap(&mut self, kind: &str) {
        self.see(What::WitnessGap { kind: kind.to_owned(), why: "too old".to_owned() });
    }

    pub(crate) fn trouble(&mut self, doing: &str) {
        self.see(What::Trouble { doing: doing.to_owned(), why: "it failed".to_owned() });
    }

    /// What follows is clean-up.
    pub(crate) fn steps_over(&mut self, why: &str) {
        self.see(What::StepsOver { why: why.to_owned() });
    }

    pub(crate) fn not_run(&mut self, why: &str) {
        self.see(What::NotRun { why: why.to_owned() });
    }

    fn object(&mut self, change: Change, kind: &str, revision: i64, object: Value) {
        let key = key_of(&object);
        self.known.insert((kind.to_owned(), key), object.clone());
        let object = object.into();
        self.see(What::Object { change, kind: kind.to_owned(), revision, object });
    }

    fn put(&mut self, kind: &str, object: Value) {
        let key = (kind.to_owned(), key_of(&object));
        let known = self.known.contains_key(&key);
        self.revision += 1;
        let change = if known { Change::Modified } else { Change::Added };
        self.object(change, kind, self.revision, object);
    }

    /// A pod of the scenario's namespace.
    pub(crate) fn pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        self.pod_of(name, &format!("uid-{name}"), change);
    }

    /// A pod with this uid.
    pub(crate) fn pod_of(&mut self, name: &str, uid: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {"namespace": NAMESPACE, "name": name, "uid": uid}, "spec": {}, "status": {},
        });
        change(&mut pod);
        self.put("pods", pod);
    }

    /// The last known object is deleted.
    pub(crate) fn gone(&mut self, kind: &str, key: &str) {
        let object =
            self.known.remove(&(kind.to_owned(), key.to_owned())).expect("it was there before");
        self.revision += 1;
        let revision = self.revision;
        let (change, object) = (Change::Deleted, object.into());
        self.see(What::Object { change, kind: kind.to_owned(), revision, object });
    }

    /// A Node with this Ready condition and these taints: key, value, effect.
    pub(crate) fn node(&mut self, name: &str, ready: &str, taints: &[(&str, &str, &str)]) {
        let taints: Vec<_> = taints
            .iter()
            .map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
            .collect();
        self.put(
            "nodes",
            json!({
                "metadata": {"name": name}, "spec": {"taints": taints},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }),
        );
    }

    /// A Node of a zone.
    pub(crate) fn node_in(&mut self, name: &str, ready: &str, zone: &str) {
        self.put_node(json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            "spec": {}, "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }));
    }

    /// A Node, as it stands here.
    pub(crate) fn put_node(&mut self, node: Value) {
        self.put("nodes", node);
    }

    /// The cluster has these workers and no others.
    pub(crate) fn workers(&mut self, names: &[String]) {
        for event in &mut self.events {
            let What::Cluster { cluster } = &mut event.what else { continue };
            cluster.nodes.retain(|node| node.role == Role::ControlPlane);
            cluster.nodes.extend(names.iter().map(|name| NodeFact {
                name: name.clone(),
                role: Role::Worker,
                address: String::new(),
            }));
        }
    }

    /// A ReplicaSet with uid `uid-<name>`, whose status says that all is well.
    pub(crate) fn replica_set(&mut self, name: &str, replicas: u32) {
        self.replica_set_of(name, &format!("uid-{name}"), replicas);
    }

    /// A new ReplicaSet by the name of one that is gone.
    pub(crate) fn replica_set_again(&mut self, name: &str, replicas: u32) {
        self.replica_set_of(name, &format!("uid-{name}-again"), replicas);
    }

    fn replica_set_of(&mut self, name: &str, uid: &str, replicas: u32) {
        self.put(
            "replicasets.apps",
            json!({
                "metadata": {"namespace": NAMESPACE, "name": name, "uid": uid, "generation": 1},
                "spec": {"replicas": replicas},
                "status": {"observedGeneration": 1, "replicas": replicas, "readyReplicas": replicas},
            }),
        );
    }

    /// A Lease in kube-system.
    pub(crate) fn lease(&mut self, lock: &str, holder: &str, transitions: i64, revision: i64) {
        let lease = json!({
            "metadata": {"namespace": "kube-system", "name": lock},
            "spec": {"holderIdentity": holder, "leaseTransitions": transitions},
        });
        self.object(Change::Modified, "leases.coordination.k8s.io", revision, lease);
    }

    /// A ConfigMap of the workload, as the witness sees it; without a value it is deleted.
    pub(crate) fn config_map(&mut self, name: &str, revision: i64, value: Option<&str>) {
        let kind = "configmaps".to_owned();
        let key = (kind.clone(), format!("{NAMESPACE}/{name}"));
        let change = match (value, self.known.contains_key(&key)) {
            (None, _) => Change::Deleted,
            (Some(_), true) => Change::Modified,
            (Some(_), false) => Change::Added,
        };
        let last = self.known.remove(&key).unwrap_or_default();
        let value = value.map_or(last["data"]["value"].clone(), Value::from);
        let object = json!({
            "metadata": {"namespace": NAMESPACE, "name": name}, "data": {"value": value},
        });
        if change != Change::Deleted {
            self.known.insert(key, object.clone());
        }
        let object = object.into();
        self.see(What::Object { change, kind, revision, object });
    }

    fn operation(
        &mut self,
        verb: &str,
        name: &str,
        value: Option<&str>,
        call: f64,
        outcome: Outcome,
    ) {
        self.see(What::Operation(Operation {
            client: 1,
            server: "cp-1".to_owned(),
            verb: verb.to_owned(),
            key: format!("{NAMESPACE}/{name}"),
            value: value.map(str::to_owned),
            expected: None,
            reads: Reads::Latest,
            listed: None,
            call_us: micros(call),
            outcome,
        }));
    }

    /// An acknowledged write, sent at a time, done at a revision.
    pub(crate) fn op(
        &mut self,
        verb: &str,
        name: &str,
        value: Option<&str>,
        (call, revision): (f64, i64),
    ) {
        let outcome = Outcome::Ok { revision, value: value.map(str::to_owned) };
        self.operation(verb, name, value, call, outcome);
    }

    /// As [`Tape::op`], on condition of a resourceVersion.
    pub(crate) fn op_on(
        &mut self,
        verb: &str,
        name: &str,
        value: Option<&str>,
        answer: (f64, i64),
        expected: i64,
    ) {
        self.op(verb, name, value, answer);
        self.change_op(|op| op.expected = Some(expected));
    }

    /// A read.
    pub(crate) fn read(&mut self, name: &str, value: Option<&str>, (call, revision): (f64, i64)) {
        let outcome = Outcome::Ok { revision, value: value.map(str::to_owned) };
        self.operation("get", name, None, call, outcome);
    }

    /// A read that asks for a state.
    pub(crate) fn read_as(
        &mut self,
        name: &str,
        reads: Reads,
        value: Option<&str>,
        answer: (f64, i64),
    ) {
        self.read(name, value, answer);
        self.change_op(|op| op.reads = reads);
    }

    /// A list of the namespace, as it was answered.
    pub(crate) fn list(
        &mut self,
        reads: Reads,
        (call, revision): (f64, i64),
        listed: &[(&str, i64)],
    ) {
        let outcome = Outcome::Ok { revision, value: None };
        self.operation("list", "", None, call, outcome);
        let listed = listed.iter().map(|(name, at)| (format!("{NAMESPACE}/{name}"), *at)).collect();
        self.change_op(|op| (op.reads, op.listed) = (reads, Some(listed)));
    }

    /// Changes the last operation.
    pub(crate) fn change_op(&mut self, change: impl FnOnce(&mut Operation)) {
        if let Some(Event { what: What::Operation(op), .. }) = self.events.last_mut() {
            change(op);
        }
    }

    /// Any object, as the witness sees it.
    pub(crate) fn thing(&mut self, kind: &str, object: Value) {
        self.put(kind, object);
    }

    /// What an etcd member says, with its revision.
    pub(crate) fn etcd_at(&mut self, node: &str, member: u64, revision: i64) {
        let node = node.to_owned();
        self.see(What::EtcdMember { node, member, leader: 1, term: 2, revision });
    }

    /// What a member's store holds.
    pub(crate) fn hash(&mut self, node: &str, hash: u64, revision: i64) {
        self.see(What::StoreHash { node: node.to_owned(), hash, revision, compacted: 0 });
    }

    /// A write without an answer.
    pub(crate) fn unknown(&mut self, verb: &str, name: &str, value: &str, call: f64) {
        let outcome = Outcome::Unknown { why: "timed out".to_owned() };
        self.operation(verb, name, Some(value), call, outcome);
    }

    /// A refused write.
    pub(crate) fn refused(
        &mut self,
        verb: &str,
        name: &str,
        value: &str,
        (call, code): (f64, u16),
    ) {
        let outcome = Outcome::Refused { code, reason: "Conflict".to_owned() };
        self.operation(verb, name, Some(value), call, outcome);
    }

    /// A watch of the workload began or ended.
    pub(crate) fn stream(
        &mut self,
        client: u32,
        stream: u32,
        revision: i64,
        state: &str,
        listed: Option<&[(&str, i64)]>,
    ) {
        let listed = listed
            .map(|all| all.iter().map(|(name, at)| (format!("{NAMESPACE}/{name}"), *at)).collect());
        let (server, state) = ("cp-1".to_owned(), state.to_owned());
        self.see(What::WatchStream { client, stream, server, revision, state, listed });
    }

    /// A watch of the workload delivered a change.
    pub(crate) fn delivered(
        &mut self,
        client: u32,
        stream: u32,
        (change, name, revision): (Change, &str, i64),
        value: Option<&str>,
    ) {
        let (key, value) = (format!("{NAMESPACE}/{name}"), value.map(str::to_owned));
        self.see(What::Delivered { client, stream, change, key, revision, value });
    }

    /// A container of a pod (name and uid) starts or ends.
    pub(crate) fn container(
        &mut self,
        node: &str,
        id: &str,
        (pod, uid): (&str, &str),
        running: bool,
    ) {
        let container = ContainerFact {
            id: id.to_owned(),
            pod_uid: uid.to_owned(),
            namespace: NAMESPACE.to_owned(),
            pod: pod.to_owned(),
            container: "app".to_owned(),
        };
        self.see(What::Container { node: node.to_owned(), running, container });
    }

    /// An audit line about an object (kind and key).
    pub(crate) fn audit(
        &mut self,
        user: &str,
        verb: &str,
        (kind, key): (&str, &str),
        revision: i64,
        fence: &str,
    ) {
        self.see(What::Audit {
            node: "cp-1".to_owned(),
            user: user.to_owned(),
            verb: verb.to_owned(),
            kind: kind.to_owned(),
            key: key.to_owned(),
            code: 200,
            revision,
            fence: fence.to_owned(),
        });
    }

    pub(crate) fn etcd(&mut self, member: u64, leader: u64, term: u64) {
        let node = format!("cp-{member}");
        self.see(What::EtcdMember { node, member, leader, term, revision: 1 });
    }

    pub(crate) fn fingerprint(&mut self, when: &str, things: &[(&str, &str)]) {
        let things = things.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        self.see(What::Fingerprint { when: when.to_owned(), things: things.collect() });
    }

    fn phase(&mut self, name: &str, fault: &str, phase: FaultPhase, targets: &[&str], holds: bool) {
        let targets: Vec<_> = targets.iter().map(|target| (*target).to_owned()).collect();
        let undo = targets.iter().map(|node| Undo::StartNode { node: node.clone() }).collect();
        let text = "a probe".to_owned();
        let evidence = vec![Evidence { kind: "counter".to_owned(), text, holds, reading: None }];
        let (name, fault) = (name.to_owned(), fault.to_owned());
        self.see(What::Fault { name, fault, phase, targets, undo, evidence });
    }

    /// A fault that must be taken back moves on in its life.
    pub(crate) fn fault(&mut self, name: &str, fault: &str, phase: FaultPhase, targets: &[&str]) {
        self.phase(name, fault, phase, targets, true);
    }

    /// As [`Tape::fault`], with evidence that does not hold.
    pub(crate) fn unshown_fault(
        &mut self,
        name: &str,
        fault: &str,
        phase: FaultPhase,
        targets: &[&str],
    ) {
        self.phase(name, fault, phase, targets, false);
    }

    /// A fault with nothing to take back moves on in its life.
    pub(crate) fn momentary(
        &mut self,
        name: &str,
        fault: &str,
        phase: FaultPhase,
        targets: &[&str],
    ) {
        self.phase(name, fault, phase, targets, true);
        if let Some(Event { what: What::Fault { undo, .. }, .. }) = self.events.last_mut() {
            undo.clear();
        }
    }

    /// The plan, and the timeline up to the scenario's end, which is now.
    pub(crate) fn finish(&mut self) -> (Plan, Vec<Event>) {
        self.seal();
        self.see(What::ScenarioEnded { id: SCENARIO.to_owned() });
        (self.plan.clone(), self.events.clone())
    }

    /// Notes what was to be recorded, as the runner does.
    fn seal(&mut self) {
        let mut seal = Seal::default();
        let began = |event: &&Event| !matches!(event.what, What::ScenarioBegan { .. });
        for event in self.events.iter().skip_while(began) {
            seal.count(&event.what);
            seal.chain(event.at_us, event.error_us, &event.what);
        }
        let digest = seal.digest();
        self.see(What::Sealed { counts: seal.counts, digest });
    }

    fn all(&mut self) -> Vec<CheckVerdict> {
        let (plan, timeline) = self.finish();
        crate::judge(&plan, &timeline).checks
    }

    /// The check of this id, when the scenario ends now.
    pub(crate) fn judged(&mut self, id: &str) -> CheckVerdict {
        let all = self.all();
        let found = all.iter().find(|check| check.id == id).cloned();
        found.unwrap_or_else(|| panic!("no check {id} among {all:#?}"))
    }

    /// Its verdict.
    pub(crate) fn verdict(&mut self, id: &str) -> String {
        self.judged(id).verdict.word().to_owned()
    }

    /// The ids of all checks.
    pub(crate) fn checks(&mut self) -> Vec<String> {
        self.all().into_iter().map(|check| check.id).collect()
    }

    /// How many checks have this id: none if there was nothing to judge.
    pub(crate) fn checks_with(&mut self, id: &str) -> usize {
        self.all().iter().filter(|check| check.id == id).count()
    }
}

/// `namespace/name`, or the name alone.
fn key_of(object: &Value) -> String {
    crate::scene::key(&object.clone().into())
}
