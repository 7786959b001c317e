//! The docker target on real containers: etcd, containerd, supervisor and agents, without the orchestrator's part.
//!
//! Needs Docker and the built binaries; the profile `docker` of nextest runs it.

use std::path::Path;
use std::time::Duration;

use shakedown_core::lever::{
    Component, Lever, NodeState, Probe, ProcessState, Reading, Traffic, Undo,
};
use shakedown_core::target::{ClusterSpec, Parameters, Target};
use shakedown_target_docker::{
    Binaries, DockerTarget, Options, State, Sweep, doctor, heal, list_leftovers, sweep,
};
use tokio::time::Instant;

/// Nothing that is waited for here takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

async fn launched(state: &Path, name: &str, nodes: (u32, u32)) -> DockerTarget {
    let options = Options {
        state: state.to_path_buf(),
        cluster: name.to_owned(),
        run: format!("test-{name}-{}", std::process::id()),
        keep: false,
        binaries: Binaries::find().expect("the binaries are built"),
    };
    let mut target = DockerTarget::new(options).await.expect("Docker answers");
    let spec = ClusterSpec {
        control_planes: nodes.0,
        workers: nodes.1,
        zones: 1,
        parameters: Parameters::default(),
        sabotages: Vec::new(),
    };
    target.launch(&spec, &|_| {}).await.expect("the nodes start");
    target
}

async fn remove(mut target: DockerTarget) {
    let run = target.run().to_owned();
    let gone = target.down().await;
    gone.await.expect("everything can be removed");
    let left = list_leftovers().await.expect("Docker answers");
    assert!(left.iter().all(|left| left.run != run), "{left:?}");
}

async fn until(target: &mut DockerTarget, probe: &Probe, wanted: impl Fn(&Reading) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reading = target.probe(probe).await;
        if reading.as_ref().is_ok_and(&wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{probe:?}: {reading:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn answers(reading: &Reading) -> bool {
    matches!(reading, Reading::Answer { ok: true, .. })
}

fn identity(reading: &Reading) -> String {
    match reading {
        Reading::Process { identity, state: ProcessState::Running, .. } => identity.clone(),
        other => panic!("not a running process: {other:?}"),
    }
}

#[tokio::test]
async fn a_cut_is_one_way_is_counted_and_dies_with_its_holder() {
    let state = tempfile::tempdir().unwrap();
    let mut target = launched(state.path(), "cut", (3, 0)).await;
    let cut = Lever::Cut {
        id: "c".to_owned(),
        from: vec!["cp-2".to_owned()],
        to: vec!["cp-1".to_owned()],
        traffic: Traffic::EtcdPeer,
    };
    let reach = |from: &str, to: &str, traffic| Probe::Reach {
        from: from.to_owned(),
        to: to.to_owned(),
        traffic,
    };
    let before = target.fingerprint().await.unwrap();
    target.pull(&cut).await.unwrap();
    let blocked = target.probe(&reach("cp-2", "cp-1", Traffic::EtcdPeer)).await.unwrap();
    assert!(!answers(&blocked), "{blocked:?}");
    for open in [
        reach("cp-2", "cp-1", Traffic::EtcdClient),
        reach("cp-3", "cp-1", Traffic::EtcdPeer),
        reach("cp-2", "cp-3", Traffic::All),
    ] {
        let reading = target.probe(&open).await.unwrap();
        assert!(answers(&reading), "{open:?}: {reading:?}");
    }
    let dropped = Probe::Dropped { id: "c".to_owned(), node: "cp-1".to_owned() };
    let reading = target.probe(&dropped).await.unwrap();
    assert!(matches!(reading, Reading::Dropped { in_place: true, packets: 1.. }), "{reading:?}");
    assert_ne!(target.fingerprint().await.unwrap(), before);

    // Nobody mends it: who holds it is gone.
    drop(target);
    let mut target = DockerTarget::attach(state.path(), "cut").await.unwrap();
    until(&mut target, &reach("cp-2", "cp-1", Traffic::EtcdPeer), answers).await;
    assert_eq!(target.fingerprint().await.unwrap(), before);
    remove(target).await;
}

#[tokio::test]
async fn etcd_moves_its_leader_and_compacts_when_it_is_told_to() {
    let state = tempfile::tempdir().unwrap();
    let mut target = launched(state.path(), "etcd", (3, 0)).await;
    let probe = |node: &str| Probe::EtcdMember { node: node.to_owned() };
    let (mut leads, mut to) = (0, (String::new(), 0));
    for node in ["cp-1", "cp-2", "cp-3"] {
        match target.probe(&probe(node)).await.unwrap() {
            Reading::EtcdMember { member, leader, .. } if member != leader => {
                (leads, to) = (leader, (node.to_owned(), member));
            }
            _ => {}
        }
    }
    target.pull(&Lever::MoveLeader { node: to.0.clone() }).await.unwrap();
    let is_led = |reading: &Reading| matches!(reading, Reading::EtcdMember { leader, .. } if *leader == to.1);
    assert_ne!(leads, to.1);
    until(&mut target, &probe("cp-1"), is_led).await;

    let compacted = |node: &str| Probe::Compacted { node: node.to_owned() };
    let before = target.probe(&compacted("cp-2")).await.unwrap();
    target.pull(&Lever::Compact).await.unwrap();
    let is_more = |reading: &Reading| *reading != before;
    for node in ["cp-1", "cp-2", "cp-3"] {
        until(&mut target, &compacted(node), is_more).await;
    }
    remove(target).await;
}

#[tokio::test]
async fn processes_and_nodes_die_and_come_back_as_others() {
    let state = tempfile::tempdir().unwrap();
    let mut target = launched(state.path(), "levers", (1, 1)).await;
    let component = Component::Containerd;
    let node = "worker-1".to_owned();
    let process = Probe::Process { node: node.clone(), component };
    let health = Probe::Health { node: node.clone(), component };
    until(&mut target, &health, answers).await;
    let first = identity(&target.probe(&process).await.unwrap());

    let stop = Lever::StopProcess { node: node.clone(), component };
    target.pull(&stop).await.unwrap();
    until(&mut target, &process, |reading| {
        matches!(reading, Reading::Process { state: ProcessState::Stopped, .. })
    })
    .await;
    assert!(!answers(&target.probe(&health).await.unwrap()));
    target.undo(&stop.undo()).await.unwrap();
    until(&mut target, &health, answers).await;
    assert_eq!(identity(&target.probe(&process).await.unwrap()), first);

    let kill = Lever::KillProcess { node: node.clone(), component, hold: true };
    target.pull(&kill).await.unwrap();
    let gone =
        |reading: &Reading| matches!(reading, Reading::Process { state: ProcessState::Absent, .. });
    until(&mut target, &process, gone).await;
    // Held: longer than the supervisor takes to start it again.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(gone(&target.probe(&process).await.unwrap()));
    target.undo(&kill.undo()).await.unwrap();
    until(&mut target, &health, answers).await;
    let second = identity(&target.probe(&process).await.unwrap());
    assert_ne!(first, second);

    let kill = Lever::KillNode { node: node.clone() };
    target.pull(&kill).await.unwrap();
    let probe = Probe::Node { node: node.clone() };
    let is = |wanted: NodeState| move |reading: &Reading| matches!(reading, Reading::Node { state, .. } if *state == wanted);
    until(&mut target, &probe, is(NodeState::Dead)).await;
    assert!(gone(&target.probe(&process).await.unwrap()));
    target.undo(&kill.undo()).await.unwrap();
    target.undo(&kill.undo()).await.unwrap();
    until(&mut target, &probe, is(NodeState::Running)).await;
    until(&mut target, &health, answers).await;
    remove(target).await;
}

#[tokio::test]
async fn what_a_dead_harness_left_is_healed_from_its_undo_log() {
    let state = tempfile::tempdir().unwrap();
    let mut target = launched(state.path(), "heal", (1, 2)).await;
    let before = target.fingerprint().await.unwrap();
    let node = |name: &str| name.to_owned();
    let component = Component::Containerd;
    let levers = [
        Lever::StopProcess { node: node("worker-1"), component },
        Lever::KillProcess { node: node("cp-1"), component: Component::Etcd, hold: true },
        Lever::PauseNode { node: node("worker-1") },
        Lever::KillNode { node: node("worker-2") },
    ];
    let mut undos: Vec<Undo> = levers.iter().map(Lever::undo).collect();
    undos.push(Undo::Mend { id: "never-made".to_owned(), nodes: vec![node("cp-1")] });
    for lever in &levers {
        target.pull(lever).await.unwrap();
    }
    drop(target);
    for _ in 0..2 {
        let healed = heal(state.path(), "heal", &undos).await.unwrap();
        assert_eq!(healed.failed, Vec::<String>::new());
    }
    let mut target = DockerTarget::attach(state.path(), "heal").await.unwrap();
    for name in ["worker-1", "worker-2"] {
        let probe = Probe::Health { node: node(name), component };
        until(&mut target, &probe, answers).await;
    }
    until(&mut target, &Probe::EtcdMember { node: node("cp-1") }, |_| true).await;
    assert_eq!(target.fingerprint().await.unwrap(), before);
    let run = target.run().to_owned();
    drop(target);
    let removed = sweep(&Sweep::Run(run)).await.unwrap();
    assert!(removed.iter().any(|left| left.kind == "network"), "{removed:?}");
    assert!(!state.path().join("heal").exists());
}

#[tokio::test]
async fn this_machine_has_what_the_target_needs() {
    let findings = doctor().await;
    let missing: Vec<_> =
        findings.iter().filter(|finding| finding.state == State::Missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(findings.iter().any(|finding| finding.name == "docker"), "{findings:?}");
}
