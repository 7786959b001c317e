use shakedown_core::lever::*;
use shakedown_core::target::*;
use shakedown_target_docker::*;
use futures::StreamExt;
#[tokio::main]
async fn main() {
    let t0 = tokio::time::Instant::now();
    let say = move |text: &str| println!("{:7.3} {text}", t0.elapsed().as_secs_f64());
    for f in doctor().await { println!("{f:?}"); }
    let options = Options { state: "/tmp/b/state".into(), cluster: "trial".into(), run: "run1".into(), keep: false, binaries: Binaries::find().unwrap() };
    let mut t = DockerTarget::new(options).await.unwrap();
    let spec = ClusterSpec { control_planes: 3, workers: 3, parameters: Parameters::default(), sabotages: vec![] };
    let r = t.boot(&spec, &say).await;
    say(&format!("boot: {}", match r { Ok(_) => "ok".into(), Err(TargetError::Failed{what,why,hint}) => format!("{what}: {why} [{hint}]"), Err(e) => e.to_string() }));
    let mut seen = t.observe();
    let printer = tokio::spawn(async move { while let Some(o) = seen.next().await { println!("{:7.3} SEEN -{:?} {:?}", (o.at - t0).as_secs_f64(), o.error, o.what); } });
    macro_rules! probe { ($p:expr) => { let p = $p; let r = t.probe(&p).await; say(&format!("{p:?} => {r:?}")); } }
    macro_rules! pull { ($p:expr) => { let p = $p; let r = t.pull(&p).await; say(&format!("PULL {p:?} => {r:?}")); } }
    macro_rules! undo { ($p:expr) => { let p = $p; let r = t.undo(&p).await; say(&format!("UNDO {p:?} => {r:?}")); } }
    let n = |s: &str| s.to_string();
    let wait = |ms| tokio::time::sleep(std::time::Duration::from_millis(ms));
    for i in 1..=3 { probe!(Probe::EtcdMember{node: format!("cp-{i}")}); }
    probe!(Probe::Health{node:n("cp-1"),component:Component::Etcd});
    probe!(Probe::Health{node:n("worker-1"),component:Component::Containerd});
    probe!(Probe::Reach{from:n("cp-2"),to:n("cp-1"),traffic:Traffic::All});
    let cut = Lever::Cut{id:n("step-1"),from:vec![n("cp-2"),n("cp-3"),n("worker-1")],to:vec![n("cp-1")],traffic:Traffic::All};
    println!("{:?}", t.fingerprint().await);
    pull!(cut.clone());
    probe!(Probe::Reach{from:n("cp-2"),to:n("cp-1"),traffic:Traffic::All});
    probe!(Probe::Reach{from:n("cp-3"),to:n("cp-2"),traffic:Traffic::EtcdPeer});
    wait(2500).await;
    probe!(Probe::Dropped{id:n("step-1"),node:n("cp-1")});
    for i in 1..=3 { probe!(Probe::EtcdMember{node: format!("cp-{i}")}); }
    println!("{:?}", t.fingerprint().await);
    undo!(cut.undo());
    undo!(cut.undo());
    probe!(Probe::Dropped{id:n("step-1"),node:n("cp-1")});
    probe!(Probe::Reach{from:n("cp-2"),to:n("cp-1"),traffic:Traffic::All});
    let l = Lever::StopProcess{node:n("worker-1"),component:Component::Containerd};
    pull!(l.clone()); probe!(Probe::Process{node:n("worker-1"),component:Component::Containerd}); probe!(Probe::Health{node:n("worker-1"),component:Component::Containerd});
    undo!(l.undo()); probe!(Probe::Process{node:n("worker-1"),component:Component::Containerd});
    let l = Lever::KillProcess{node:n("cp-3"),component:Component::Etcd,hold:true};
    pull!(l.clone()); wait(1500).await; probe!(Probe::Process{node:n("cp-3"),component:Component::Etcd}); probe!(Probe::Health{node:n("cp-3"),component:Component::Etcd});
    undo!(l.undo()); wait(700).await; probe!(Probe::Process{node:n("cp-3"),component:Component::Etcd});
    let l = Lever::PauseNode{node:n("worker-2")};
    pull!(l.clone()); probe!(Probe::Node{node:n("worker-2")}); probe!(Probe::Process{node:n("worker-2"),component:Component::Containerd}); undo!(l.undo()); probe!(Probe::Node{node:n("worker-2")}); probe!(Probe::Process{node:n("worker-2"),component:Component::Containerd});
    let l = Lever::KillNode{node:n("cp-2")};
    pull!(l.clone()); probe!(Probe::Node{node:n("cp-2")}); probe!(Probe::Reach{from:n("cp-1"),to:n("cp-2"),traffic:Traffic::All}); wait(300).await; undo!(l.undo()); probe!(Probe::Node{node:n("cp-2")});
    wait(1500).await; probe!(Probe::EtcdMember{node:n("cp-2")});
    pull!(cut.clone());
    println!("{:?}", t.fingerprint().await);
    if std::env::args().nth(1).is_some() { say("HANG"); wait(1_000_000).await; }
    printer.abort();
    let down = t.down().await; say(&format!("down {:?}", down.await));
    println!("{:?}", list_leftovers().await);
}
