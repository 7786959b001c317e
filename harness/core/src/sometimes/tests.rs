//! Each event once as it counts, and once as it nearly is but does not.

use serde_json::{Value, json};

use super::*;
use crate::lever::{Component, Undo};
use crate::target::{ClusterFact, NodeFact, Parameters, Role};
use crate::timeline::{Evidence, Operation, Outcome, Reads};

/// What is seen, and at which second.
type Tape = Vec<(u64, What)>;

fn count(tape: &Tape) -> BTreeMap<&'static str, u64> {
    let nodes = ["cp-1", "cp-2", "cp-3", "worker-1", "worker-2"].map(|name| NodeFact {
        name: name.into(),
        role: if name.starts_with("cp") { Role::ControlPlane } else { Role::Worker },
        address: String::new(),
    });
    let cluster = ClusterFact { nodes: nodes.into(), parameters: Parameters::default() };
    let begin = [What::Cluster { cluster }, What::ScenarioBegan { id: "s".into() }];
    let all = begin.into_iter().map(|what| (0, what)).chain(tape.iter().cloned());
    let events: Vec<Event> = all
        .enumerate()
        .map(|(seq, (at, what))| Event {
            seq: seq as u64,
            at_us: at * 1_000_000,
            error_us: 0,
            scenario: "s".into(),
            what,
        })
        .collect();
    Sometimes::count(&events)
}

fn object(kind: &str, object: Value) -> What {
    What::Object { change: Change::Modified, kind: kind.into(), revision: 1, object: object.into() }
}

fn node(name: &str, ready: &str, taints: Value) -> What {
    let conditions = json!([{"type": "Ready", "status": ready}]);
    let node = json!({
        "metadata": {"name": name}, "spec": {"taints": taints}, "status": {"conditions": conditions},
    });
    object("nodes", node)
}

fn no_execute() -> Value {
    json!([{"key": "gone", "effect": "NoExecute"}])
}

fn pod(name: &str, change: impl Fn(&mut Value)) -> What {
    let mut pod = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}"),
            "ownerReferences": [{"controller": true, "uid": "set"}]},
        "spec": {"nodeName": "worker-1", "tolerations": [
            {"key": "gone", "operator": "Exists", "tolerationSeconds": 300}]},
        "status": {"containerStatuses": [{"name": "app", "restartCount": 0}]},
    });
    change(&mut pod);
    object("pods", pod)
}

fn going(pod: &mut Value) {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
}

fn forever(pod: &mut Value) {
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
}

fn deployment(replicas: u64, image: &str, updated: u64) -> What {
    object(
        "deployments.apps",
        json!({
            "metadata": {"namespace": "ns", "name": "web", "uid": "web", "generation": 1},
            "spec": {"replicas": replicas, "template": {"image": image}},
            "status": {"observedGeneration": 1, "replicas": replicas, "availableReplicas": replicas,
                "updatedReplicas": updated},
        }),
    )
}

fn lease(namespace: &str, holder: &str) -> What {
    object(
        "leases.coordination.k8s.io",
        json!({
            "metadata": {"namespace": namespace, "name": "kube-scheduler"},
            "spec": {"holderIdentity": holder},
        }),
    )
}

fn process(component: Component, state: ProcessState, identity: &str) -> What {
    What::Process { node: "cp-1".into(), component, state, identity: identity.into() }
}

fn member(node: &str, leader: u64, term: u64) -> What {
    What::EtcdMember { node: node.into(), member: 1, leader, term, revision: 1 }
}

/// Two of three members say who leads.
fn majority(leader: u64, term: u64) -> [What; 2] {
    [member("cp-1", leader, term), member("cp-2", leader, term)]
}

fn operation(verb: &str, call: u64, reads: Reads, outcome: Outcome) -> What {
    What::Operation(Operation {
        client: 1,
        server: "cp-1".into(),
        verb: verb.into(),
        key: "ns/a".into(),
        value: (!matches!(verb, "get" | "list")).then(|| "v".into()),
        expected: None,
        reads,
        listed: None,
        call_us: call * 1_000_000,
        outcome,
    })
}

fn ok(revision: i64) -> Outcome {
    Outcome::Ok { revision, value: Some("v".into()) }
}

fn refused(code: u16, reason: &str) -> Outcome {
    Outcome::Refused { code, reason: reason.into() }
}

fn unknown(why: &str) -> Outcome {
    Outcome::Unknown { why: why.into() }
}

fn stream(state: &str, listed: bool) -> What {
    What::WatchStream {
        client: 1,
        stream: 1,
        server: "cp-1".into(),
        revision: 5,
        state: state.into(),
        listed: listed.then(BTreeMap::new),
    }
}

fn fault(name: &str, fault: &str, phase: FaultPhase, reading: Option<Reading>) -> What {
    let evidence = Evidence { kind: "counter".into(), text: String::new(), holds: true, reading };
    What::Fault {
        name: name.into(),
        fault: fault.into(),
        phase,
        targets: vec![],
        undo: vec![Undo::Unskew { node: "cp-1".into() }],
        evidence: vec![evidence],
    }
}

fn config_map(value: &str) -> What {
    let metadata = json!({"namespace": "ns", "name": "a"});
    object("configmaps", json!({"metadata": metadata, "data": {"value": value}}))
}

/// One second after the other.
fn seconds(whats: impl IntoIterator<Item = What>) -> Tape {
    (1..).zip(whats).collect()
}

fn restart(component: Component, second: &str) -> Tape {
    use ProcessState::{Absent, Running};
    seconds([
        process(component, Running, "1"),
        process(component, Absent, ""),
        process(component, Running, second),
    ])
}

fn quorum(until: u64, back: bool) -> Tape {
    let mut tape: Tape = majority(1, 2).map(|what| (1, what)).into();
    tape.push((2, process(Component::Etcd, ProcessState::Absent, "")));
    if back {
        tape.push((until, process(Component::Etcd, ProcessState::Running, "2")));
    }
    tape.push((until + 1, What::Note { text: String::new() }));
    tape
}

/// The name, what counts once, and what does not.
#[expect(clippy::too_many_lines, reason = "a table: one line for each event")]
fn cases() -> Vec<(&'static str, Tape, Tape)> {
    let tainted = |first, last, with: fn(&mut Value)| {
        seconds([node("worker-1", "True", first), pod("a", with), node("worker-1", "True", last)])
    };
    let as_is: fn(&mut Value) = |_| {};
    let applied = FaultPhase::Applied;
    let hits = |hits| Some(Reading::Meddled { in_place: true, hits });
    let resets = |connections| Some(Reading::Resets { connections });
    let met = |reading| seconds([fault("f", "crash-at-write", FaultPhase::Proven, reading)]);
    let reset = |reading| seconds([fault("f", "reset", FaultPhase::Proven, reading)]);
    let overlap = |between| {
        let first = fault("f", "skew", applied, None);
        seconds([first, between, fault("g", "skew", applied, None)])
    };
    let workers = |second: &str| {
        let ready = |name, ready| node(name, ready, json!([]));
        let before = [ready("worker-1", "True"), ready("worker-2", "True")];
        seconds(before.into_iter().chain([ready("worker-1", "Unknown"), ready("worker-2", second)]))
    };
    let ready = |before, after| {
        seconds([node("worker-1", before, json!([])), node("worker-1", after, json!([]))])
    };
    let restarts = |count: u64| {
        let later = pod("a", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] = json!(count);
        });
        seconds([pod("a", as_is), later])
    };
    let evicted =
        |taints| seconds([node("worker-1", "True", taints), pod("a", as_is), pod("a", going)]);
    let one = |what| seconds([what]);
    let get = |call, reads| {
        let read = operation("get", call, reads, ok(8));
        vec![(5, operation("update", 4, Reads::Latest, ok(9))), (7, read)]
    };
    let without = |until: u64| {
        let mut tape = quorum(until, false);
        let write = operation("update", 3, Reads::Latest, unknown("503"));
        tape.push((until + 2, write));
        tape
    };
    let leaders = |term, leader| seconds([member("cp-1", 7, 2), member("cp-1", leader, term)]);
    let lost = || operation("update", 1, Reads::Latest, unknown("no answer"));
    let write = |outcome| one(operation("update", 1, Reads::Latest, outcome));
    let unread = one(operation("get", 1, Reads::Latest, unknown("no answer")));
    let old = |code| one(operation("list", 1, Reads::Exact(3), refused(code, "Expired")));
    let gap = What::WitnessGap { kind: "pods".into(), why: "410".into() };
    let removed = fault("f", "skew", FaultPhase::Removed, None);
    let none = || What::Note { text: String::new() };
    vec![
        ("all-workers-lost", workers("Unknown"), workers("True")),
        (
            "apiserver-restarted",
            restart(Component::KubeApiserver, "2"),
            restart(Component::KubeApiserver, "1"),
        ),
        ("compaction-hit", old(410), old(404)),
        ("connection-reset", reset(resets(2)), reset(resets(0))),
        ("container-restarted", restarts(1), restarts(0)),
        (
            "controller-manager-restarted",
            restart(Component::KubeControllerManager, "2"),
            restart(Component::KubeControllerManager, "1"),
        ),
        ("crash-at-write-met", met(hits(1)), met(hits(0))),
        (
            "eviction-cancelled",
            tainted(no_execute(), json!([]), as_is),
            tainted(no_execute(), json!([]), going),
        ),
        (
            "eviction-started",
            tainted(json!([]), no_execute(), as_is),
            tainted(json!([]), no_execute(), forever),
        ),
        ("fault-overlapped", overlap(none()), overlap(removed)),
        ("kubelet-restarted", restart(Component::Kubelet, "2"), restart(Component::Kubelet, "1")),
        ("leader-changed", leaders(3, 8), leaders(3, 7)),
        (
            "lease-changed-hands",
            seconds(["a", "", "b"].map(|holder| lease("kube-system", holder))),
            seconds(["a", "", "a"].map(|holder| lease("kube-system", holder))),
        ),
        ("member-restarted", restart(Component::Etcd, "2"), restart(Component::Etcd, "1")),
        ("node-came-back", ready("Unknown", "True"), ready("True", "True")),
        ("node-went-unknown", ready("True", "Unknown"), ready("Unknown", "Unknown")),
        ("pod-evicted", evicted(no_execute()), evicted(json!([]))),
        (
            "pod-replaced",
            seconds([pod("a", as_is), pod("a", going), pod("b", as_is)]),
            seconds([pod("a", as_is), pod("b", as_is)]),
        ),
        ("quorum-lost", quorum(9, false), quorum(3, true)),
        ("quorum-regained", quorum(9, true), quorum(9, false)),
        (
            "rollout-completed",
            seconds([deployment(2, "a", 2), deployment(2, "b", 1), deployment(2, "b", 2)]),
            seconds([deployment(2, "a", 2), deployment(2, "b", 1), deployment(2, "b", 1)]),
        ),
        (
            "scaled-down",
            seconds([deployment(3, "a", 3), deployment(2, "a", 2)]),
            seconds([deployment(2, "a", 2), deployment(3, "a", 3)]),
        ),
        (
            "scaled-up",
            seconds([deployment(2, "a", 2), deployment(3, "a", 3)]),
            seconds([deployment(3, "a", 3), deployment(2, "a", 2)]),
        ),
        (
            "scheduler-restarted",
            restart(Component::KubeScheduler, "2"),
            restart(Component::KubeScheduler, "1"),
        ),
        // The read of the second case began before the write was answered.
        ("stale-read", get(6, Reads::Any), get(4, Reads::Any)),
        ("taint-added", tainted(json!([]), no_execute(), as_is), evicted(no_execute())),
        (
            "unknown-write-happened",
            seconds([lost(), config_map("v")]),
            seconds([lost(), config_map("other")]),
        ),
        ("watch-broken", one(stream("ended by the server", false)), one(stream("closed", false))),
        ("watch-expired", one(gap), one(stream("404 gone", false))),
        ("watch-resumed", one(stream("began", false)), one(stream("began", true))),
        ("write-conflicted", write(refused(409, "Conflict")), write(refused(409, "AlreadyExists"))),
        ("write-outcome-unknown", write(unknown("no answer")), unread),
        ("write-refused-without-quorum", without(9), without(2)),
    ]
}

#[test]
fn each_event_is_counted_when_it_happens_and_not_when_it_nearly_does() {
    let cases = cases();
    let names: Vec<&str> = cases.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, super::names().collect::<Vec<_>>(), "every event has a case, in order");
    for (name, happens, does_not) in cases {
        assert_eq!(count(&happens)[name], 1, "{name} happens");
        assert_eq!(count(&does_not)[name], 0, "{name} does not happen");
    }
}

#[test]
fn a_strong_read_is_not_counted_as_stale_and_a_write_seen_before_its_answer_is() {
    let strong = vec![
        (5, operation("update", 4, Reads::Latest, ok(9))),
        (7, operation("get", 6, Reads::Latest, ok(8))),
    ];
    assert_eq!(count(&strong)["stale-read"], 0);
    let seen_first = seconds([
        config_map("v"),
        operation("update", 1, Reads::Latest, unknown("connection reset by peer")),
    ]);
    let counts = count(&seen_first);
    assert_eq!((counts["unknown-write-happened"], counts["connection-reset"]), (1, 1));
}

#[test]
fn a_scenario_begins_at_zero_but_knows_who_led() {
    let mut tape = seconds([member("cp-1", 7, 2), member("cp-1", 8, 3)]);
    tape.push((3, What::ScenarioBegan { id: "next".into() }));
    assert_eq!(count(&tape)["leader-changed"], 0);
    tape.push((4, member("cp-1", 7, 4)));
    assert_eq!(count(&tape)["leader-changed"], 1);
}

#[test]
fn the_list_is_sorted() {
    assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
}
