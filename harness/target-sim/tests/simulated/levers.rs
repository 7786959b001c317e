//! Every lever does what it says, can be seen to do so, and leaves nothing behind when undone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde_json::Value;
use shakedown_core::lever::{
    Component, Lever, NodeState, Probe, ProcessState, Reading, Traffic, Undo,
};
use shakedown_core::target::{ClusterSpec, Parameters, Target, TargetError};
use shakedown_core::timeline::What;
use shakedown_target_sim::{Operator, SimTarget, run};

async fn booted(control_planes: u32, workers: u32) -> SimTarget {
    let idle = Operator::new(|_| std::future::pending());
    let mut target = SimTarget::new(5).with_operator(idle);
    let spec = ClusterSpec {
        control_planes,
        workers,
        zones: 1,
        parameters: Parameters::default(),
        sabotages: Vec::new(),
    };
    target.boot(&spec, &|_| {}).await.unwrap();
    target
}

async fn sleep_s(s: u64) {
    tokio::time::sleep(Duration::from_secs(s)).await;
}

async fn node(target: &mut SimTarget, node: &str) -> (NodeState, String) {
    match target.probe(&Probe::Node { node: node.to_owned() }).await.unwrap() {
        Reading::Node { state, started } => (state, started),
        other => panic!("{other:?}"),
    }
}

async fn process(
    target: &mut SimTarget,
    node: &str,
    component: Component,
) -> (ProcessState, String, u64) {
    match target.probe(&Probe::Process { node: node.to_owned(), component }).await.unwrap() {
        Reading::Process { state, identity, ticks } => (state, identity, ticks),
        other => panic!("{other:?}"),
    }
}

async fn answers(target: &mut SimTarget, probe: Probe) -> bool {
    match target.probe(&probe).await.unwrap() {
        Reading::Answer { ok, .. } => ok,
        other => panic!("{other:?}"),
    }
}

async fn healthy(target: &mut SimTarget, node: &str, component: Component) -> bool {
    answers(target, Probe::Health { node: node.to_owned(), component }).await
}

async fn reaches(target: &mut SimTarget, from: &str, to: &str, traffic: Traffic) -> bool {
    answers(target, Probe::Reach { from: from.to_owned(), to: to.to_owned(), traffic }).await
}

async fn ready(target: &SimTarget, through: usize, name: &str) -> String {
    let request = http::Request::get(format!("/api/v1/nodes/{name}")).body(Vec::new()).unwrap();
    let node: Value = target.endpoints()[through].client.request(request).await.unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
    ready["status"].as_str().unwrap().to_owned()
}

async fn write(target: &SimTarget, through: usize, name: &str) -> Result<(), String> {
    let body =
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
    let request = http::Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/json")
        .body(body.into_bytes())
        .unwrap();
    let client = target.endpoints()[through].client.clone();
    let answer = client.request::<Value>(request);
    match tokio::time::timeout(Duration::from_secs(20), answer).await {
        Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn each_component_is_restarted_when_killed_and_stays_down_when_held() {
    run(1, async {
        let mut target = booted(1, 1).await;
        let clean = target.fingerprint().await.unwrap();
        assert_eq!(clean, BTreeMap::new());
        for component in Component::ALL {
            let on = match component {
                Component::Kubelet | Component::Containerd | Component::Operator => "worker-1",
                _ => "cp-1",
            };
            let (state, before, _) = process(&mut target, on, *component).await;
            assert_eq!(state, ProcessState::Running);
            assert!(healthy(&mut target, on, *component).await, "{component}");
            let kill =
                |hold| Lever::KillProcess { node: on.to_owned(), component: *component, hold };
            target.pull(&kill(false)).await.unwrap();
            assert_eq!(process(&mut target, on, *component).await.0, ProcessState::Absent);
            assert!(!healthy(&mut target, on, *component).await, "{component}");
            sleep_s(5).await;
            let (state, after, _) = process(&mut target, on, *component).await;
            assert_eq!(state, ProcessState::Running, "{component}");
            assert_ne!(before, after, "{component}");

            target.pull(&kill(true)).await.unwrap();
            sleep_s(60).await;
            assert_eq!(process(&mut target, on, *component).await.0, ProcessState::Absent);
            assert_ne!(target.fingerprint().await.unwrap(), clean);
            target.undo(&kill(true).undo()).await.unwrap();
            sleep_s(30).await;
            assert_eq!(process(&mut target, on, *component).await.0, ProcessState::Running);
            assert!(healthy(&mut target, on, *component).await, "{component}");
            assert_eq!(target.fingerprint().await.unwrap(), clean);
        }
    });
}

#[test]
fn each_component_stands_still_when_stopped() {
    run(1, async {
        let mut target = booted(1, 1).await;
        for component in Component::ALL {
            let on = match component {
                Component::Kubelet | Component::Containerd | Component::Operator => "worker-1",
                _ => "cp-1",
            };
            let (_, before, _) = process(&mut target, on, *component).await;
            let stop = Lever::StopProcess { node: on.to_owned(), component: *component };
            target.pull(&stop).await.unwrap();
            let (state, identity, ticks) = process(&mut target, on, *component).await;
            assert_eq!((state, &identity), (ProcessState::Stopped, &before));
            assert!(!healthy(&mut target, on, *component).await, "{component}");
            sleep_s(5).await;
            assert_eq!(process(&mut target, on, *component).await.2, ticks);
            assert_ne!(target.fingerprint().await.unwrap(), BTreeMap::new());
            target.undo(&stop.undo()).await.unwrap();
            sleep_s(10).await;
            let (state, _, later) = process(&mut target, on, *component).await;
            assert_eq!(state, ProcessState::Running, "{component}");
            assert!(later > ticks);
            assert!(healthy(&mut target, on, *component).await, "{component}");
            assert_eq!(target.fingerprint().await.unwrap(), BTreeMap::new());
        }
    });
}

#[test]
fn a_worker_that_is_killed_or_paused_is_unknown_after_the_grace_period_and_comes_back() {
    run(1, async {
        let mut target = booted(1, 2).await;
        let worker = "worker-1".to_owned();
        for (lever, wanted) in [
            (Lever::KillNode { node: worker.clone() }, NodeState::Dead),
            (Lever::PauseNode { node: worker.clone() }, NodeState::Paused),
        ] {
            let (_, before) = node(&mut target, "worker-1").await;
            assert!(reaches(&mut target, "worker-2", "worker-1", Traffic::All).await);
            target.pull(&lever).await.unwrap();
            assert_eq!(node(&mut target, "worker-1").await.0, wanted);
            assert!(!reaches(&mut target, "worker-2", "worker-1", Traffic::All).await);
            assert!(reaches(&mut target, "worker-2", "cp-1", Traffic::All).await);
            sleep_s(25).await;
            assert_eq!(ready(&target, 0, "worker-1").await, "True", "within the grace period");
            sleep_s(25).await;
            assert_eq!(ready(&target, 0, "worker-1").await, "Unknown");
            assert_ne!(target.fingerprint().await.unwrap(), BTreeMap::new());
            target.undo(&lever.undo()).await.unwrap();
            sleep_s(30).await;
            assert_eq!(ready(&target, 0, "worker-1").await, "True");
            let (state, after) = node(&mut target, "worker-1").await;
            assert_eq!(state, NodeState::Running);
            assert_eq!(before != after, wanted == NodeState::Dead, "only a killed node boots");
            assert_eq!(target.fingerprint().await.unwrap(), BTreeMap::new());
        }
    });
}

#[test]
fn a_partition_is_counted_and_isolates_an_etcd_leader() {
    run(1, async {
        let mut target = booted(3, 1).await;
        let leader_of = async |target: &mut SimTarget, name: &str| {
            let probe = Probe::EtcdMember { node: name.to_owned() };
            match target.probe(&probe).await.unwrap() {
                Reading::EtcdMember { leader, term, .. } => (leader, term),
                other => panic!("{other:?}"),
            }
        };
        let (leader, term) = leader_of(&mut target, "cp-1").await;
        let all = ["cp-1", "cp-2", "cp-3"];
        let at = usize::try_from(leader - 1).unwrap();
        let others: Vec<&str> = all.into_iter().filter(|name| *name != all[at]).collect();
        let (alone, rest) = (names(&[all[at]]), names(&others));
        let cuts = [("to", &alone, &rest), ("from", &rest, &alone)].map(|(id, from, to)| {
            let (from, to) = (from.clone(), to.clone());
            Lever::Cut { id: id.to_owned(), from, to, traffic: Traffic::EtcdPeer }
        });
        for cut in &cuts {
            target.pull(cut).await.unwrap();
        }
        assert!(!reaches(&mut target, all[at], others[0], Traffic::EtcdPeer).await);
        assert!(reaches(&mut target, all[at], others[0], Traffic::Api).await);
        let probe = Probe::Dropped { id: "to".to_owned(), node: others[0].to_owned() };
        let dropped = target.probe(&probe).await.unwrap();
        assert_eq!(dropped, Reading::Dropped { in_place: true, packets: 1 });
        sleep_s(5).await;
        assert_eq!(leader_of(&mut target, all[at]).await.0, 0, "the cut off member has no leader");
        let (new, higher) = leader_of(&mut target, others[0]).await;
        assert!(new != leader && new != 0 && higher > term);
        let through = |name: &str| all.iter().position(|one| *one == name).unwrap();
        assert_eq!(write(&target, through(others[0]), "kept").await, Ok(()));
        let lost = write(&target, at, "lost").await;
        assert!(lost.is_err(), "{lost:?}");
        for cut in &cuts {
            target.undo(&cut.undo()).await.unwrap();
        }
        sleep_s(10).await;
        assert_eq!(write(&target, at, "after").await, Ok(()));
        assert_eq!(target.fingerprint().await.unwrap(), BTreeMap::new());
    });
}

#[test]
fn observers_are_told_what_is_and_what_changes() {
    run(1, async {
        let mut target = booted(1, 1).await;
        let mut seen = target.observe();
        let mut present = 0;
        while let Some(Some(_)) = seen.next().now_or_never() {
            present += 1;
        }
        assert_eq!(present, 8, "seven processes and an etcd member");
        let kill = Lever::KillProcess {
            node: "cp-1".to_owned(),
            component: Component::KubeScheduler,
            hold: false,
        };
        target.pull(&kill).await.unwrap();
        assert_eq!(write(&target, 0, "audited").await, Ok(()));
        sleep_s(5).await;
        let (mut states, mut audited) = (Vec::new(), 0);
        while let Some(Some(observation)) = seen.next().now_or_never() {
            match observation.what {
                What::Process { component: Component::KubeScheduler, state, .. } => {
                    states.push(state);
                }
                What::Audit { key, user, revision, .. } if key == "default/audited" => {
                    assert_eq!(user, "kubernetes-admin");
                    assert!(revision > 0);
                    audited += 1;
                }
                _ => {}
            }
        }
        assert_eq!(states, [ProcessState::Absent, ProcessState::Running]);
        assert_eq!(audited, 1);
    });
}

#[test]
fn what_does_not_exist_is_said_to_be_unknown_and_api_undos_are_not_the_targets() {
    run(1, async {
        let mut target = booted(1, 1).await;
        let nowhere = target.pull(&Lever::KillNode { node: "moon".to_owned() }).await;
        assert!(matches!(nowhere, Err(TargetError::Unknown { what: "node", .. })));
        let misplaced = Probe::Process { node: "cp-1".to_owned(), component: Component::Kubelet };
        let misplaced = target.probe(&misplaced).await;
        assert!(matches!(misplaced, Err(TargetError::Unknown { what: "component", .. })));
        let api = target.undo(&Undo::Uncordon { node: "worker-1".to_owned() }).await;
        assert!(matches!(api, Err(TargetError::Unsupported { .. })));
        assert!(target.undo(&Undo::StartNode { node: "worker-1".to_owned() }).await.is_ok());
    });
}

#[test]
fn planted_defects_are_switched_on_by_name_and_unknown_ones_are_refused() {
    run(1, async {
        let plant = async |sabotage: &str| {
            let mut target = SimTarget::new(1);
            let spec = ClusterSpec {
                control_planes: 1,
                workers: 1,
                zones: 1,
                parameters: Parameters::default(),
                sabotages: names(&[sabotage]),
            };
            let booted = target.boot(&spec, &|_| {}).await;
            booted.map(|_| target)
        };
        let target = plant("acked-write-lost").await.unwrap();
        for number in 0..85 {
            assert_eq!(write(&target, 0, &format!("m{number}")).await, Ok(()));
        }
        let request = http::Request::get("/api/v1/namespaces/default/configmaps");
        let request = request.body(Vec::new()).unwrap();
        let list: Value = target.endpoints()[0].client.request(request).await.unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let kept = items.filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with('m'));
        assert!((80..85).contains(&kept.count()), "an acknowledged write is gone");
        let unknown = plant("nonsense").await.err().unwrap().to_string();
        assert!(unknown.contains("unknown sabotage `nonsense`"), "{unknown}");
    });
}
