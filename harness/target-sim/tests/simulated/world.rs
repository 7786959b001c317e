//! The whole orchestrator in a simulated world: pods are replaced, the same seed gives the same bytes.

use std::time::Duration;

use futures::{AsyncBufReadExt, Stream, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use shakedown_core::lever::{Component, Lever, Traffic};
use shakedown_core::target::{ClusterSpec, Endpoint, Parameters, Target};
use shakedown_target_sim::{RunLimits, SimTarget, run_within};
use tokio::time::Instant;

const LIMITS: RunLimits = RunLimits {
    virtual_time: Duration::from_secs(3600),
    wall_time: Duration::from_secs(300),
    requests: 1_000_000,
    requests_at_once: 2000,
};

fn spec() -> ClusterSpec {
    ClusterSpec {
        control_planes: 3,
        workers: 3,
        zones: 1,
        parameters: Parameters::default(),
        sabotages: Vec::new(),
    }
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "kubetm/app:v1"}]},
            },
        },
    })
}

async fn call(endpoint: &Endpoint, method: &str, path: &str, body: &Value) -> Value {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(bytes)
        .unwrap();
    endpoint.client.request(request).await.unwrap()
}

/// The pods that run and are to stay: node and name.
async fn running(endpoint: &Endpoint) -> Vec<(String, String)> {
    let list = call(endpoint, "GET", "/api/v1/namespaces/default/pods", &Value::Null).await;
    let pods = list["items"].as_array().unwrap().iter();
    let live = pods.filter(|pod| {
        pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    live.map(|pod| (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["name"]))).collect()
}

async fn until(what: &str, limit_s: u64, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed().as_secs() < limit_s, "{what}: not within {limit_s} s");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Follows all pods; every line with its instant.
async fn witness(endpoint: &Endpoint, began: Instant) -> impl Stream<Item = String> + use<> {
    let request = http::Request::get("/api/v1/pods?watch=true").body(Vec::new()).unwrap();
    let lines = endpoint.client.request_stream(request).await.unwrap().lines();
    lines.map_ok(move |line| format!("{:?} {line}", began.elapsed())).map(Result::unwrap)
}

/// Does something to a cluster that runs three pods, and tells all that was seen meanwhile.
async fn history(seed: u64, act: impl AsyncFnOnce(&mut SimTarget, &Endpoint)) -> Vec<String> {
    let began = Instant::now();
    let mut target = SimTarget::new(seed);
    target.boot(&spec(), &|_| {}).await.unwrap();
    let endpoint = target.endpoints()[0].clone();
    let seen = target.observe().map(move |seen| format!("{:?} {:?}", seen.at - began, seen.what));
    let told = witness(&endpoint, began).await;
    let everything = futures::stream::select(seen, told);
    let work = async {
        call(&endpoint, "POST", "/apis/apps/v1/namespaces/default/deployments", &deployment())
            .await;
        until("three pods run", 60, async || running(&endpoint).await.len() == 3).await;
        act(&mut target, &endpoint).await;
    };
    let mut history: Vec<String> = everything.take_until(Box::pin(work)).collect().await;
    history.push(format!("{:?}", began.elapsed()));
    target.down().await.await.unwrap();
    history
}

/// A worker is killed; its pods are replaced elsewhere.
async fn a_worker_dies(target: &mut SimTarget, endpoint: &Endpoint) {
    let (victim, _) = running(endpoint).await[0].clone();
    target.pull(&Lever::KillNode { node: victim.clone() }).await.unwrap();
    until("the pods are replaced", 500, async || {
        let pods = running(endpoint).await;
        pods.len() == 3 && pods.iter().all(|(node, _)| *node != victim)
    })
    .await;
}

/// One lever after the other, each taken back after a while; the witness's API server is spared.
async fn a_storm(target: &mut SimTarget, endpoint: &Endpoint) {
    let (from, to) = (vec!["worker-1".to_owned()], vec!["cp-1".to_owned(), "cp-2".to_owned()]);
    let members = (vec!["cp-3".to_owned()], vec!["cp-1".to_owned(), "cp-2".to_owned()]);
    let kill =
        |node: &str, component| Lever::KillProcess { node: node.to_owned(), component, hold: true };
    let stop = |node: &str, component| Lever::StopProcess { node: node.to_owned(), component };
    let levers = [
        Lever::Cut { id: "api".to_owned(), from, to, traffic: Traffic::Api },
        Lever::Cut {
            id: "peers".to_owned(),
            from: members.0,
            to: members.1,
            traffic: Traffic::EtcdPeer,
        },
        kill("cp-2", Component::Etcd),
        stop("cp-2", Component::KubeControllerManager),
        kill("cp-3", Component::KubeScheduler),
        stop("worker-2", Component::Containerd),
        kill("worker-3", Component::Kubelet),
        Lever::PauseNode { node: "cp-3".to_owned() },
        Lever::PauseNode { node: "worker-3".to_owned() },
        Lever::KillNode { node: "cp-2".to_owned() },
    ];
    for lever in &levers {
        target.pull(lever).await.unwrap();
        tokio::time::sleep(Duration::from_secs(25)).await;
        target.undo(&lever.undo()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    until("three pods run", 600, async || running(endpoint).await.len() == 3).await;
}

/// Fails at the first line in which two histories differ.
fn same(first: &[String], again: &[String]) {
    for (line, (one, other)) in first.iter().zip(again).enumerate() {
        assert_eq!(one, other, "line {line}");
    }
    assert_eq!(first.len(), again.len());
}

#[test]
fn one_seed_gives_one_history_and_another_seed_another() {
    #[expect(clippy::disallowed_methods, reason = "how fast virtual time goes is told to people")]
    let wall = std::time::Instant::now();
    let first = run_within(1, LIMITS, history(1, a_worker_dies)).unwrap();
    let took = wall.elapsed();
    println!("{} lines, the last {}, in {took:?}", first.len(), first[first.len() - 1]);
    assert!(first.len() > 200, "only {} lines", first.len());
    same(&first, &run_within(1, LIMITS, history(1, a_worker_dies)).unwrap());
    let other = run_within(2, LIMITS, history(2, a_worker_dies)).unwrap();
    assert_ne!(first, other);
}

#[test]
fn faults_too_give_the_same_history_for_the_same_seed() {
    for seed in 1..=3 {
        let first = run_within(seed, LIMITS, history(seed, a_storm)).unwrap();
        assert!(first.len() > 400, "only {} lines", first.len());
        same(&first, &run_within(seed, LIMITS, history(seed, a_storm)).unwrap());
    }
}
