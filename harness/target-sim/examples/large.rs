//! How large a cluster one thread can hold: heartbeats, a rolling update, the loss of a zone.
//!
//! `cargo run --release --example large -p shakedown-target-sim [nodes] [pods]`
//!
//! The cluster alone, without the harness around it: what is measured is the orchestrator. It ends with
//! an error if a phase does not come to its end, so that no figure is of a cluster that did nothing.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::lever::{Lever, Traffic};
use shakedown_core::target::{ClusterSpec, Role, Target};
use shakedown_target_sim::{RunLimits, SimTarget, run_within};

/// The pods of one Deployment.
const REPLICAS: usize = 100;
const ZONES: u32 = 3;
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn main() {
    let mut args = std::env::args().skip(1).map(|count| count.parse().expect("a number"));
    let nodes: u32 = args.next().unwrap_or(60);
    let pods = args.next().map_or(nodes as usize * 10, |pods: u32| pods as usize);
    let limits = RunLimits {
        wall_time: Duration::from_secs(3 * 3600),
        requests_at_once: 10_000_000,
        requests: u64::MAX,
        ..RunLimits::default()
    };
    run_within(1, limits, life(nodes, pods)).expect("no limit is reached");
}

async fn life(nodes: u32, pods: usize) {
    let mut target = SimTarget::new(1);
    let spec =
        ClusterSpec { control_planes: 3, workers: nodes, zones: ZONES, ..ClusterSpec::default() };
    let whole = Pace::start();
    let pace = Pace::start();
    let cluster = target.boot(&spec, &|_| {}).await.expect("the cluster boots");
    pace.tell(&format!("boot of {nodes} nodes"));
    let client = target.endpoints()[0].client.clone();

    let pace = Pace::start();
    let deployments = pods.div_ceil(REPLICAS);
    for at in 0..deployments {
        let replicas = REPLICAS.min(pods - at * REPLICAS);
        post(&client, DEPLOYMENTS, &deployment(at, replicas)).await;
    }
    until(&client, Duration::from_secs(3600), |sets| ready(sets) == pods).await;
    pace.tell(&format!("start of {pods} pods"));

    let pace = Pace::start();
    tokio::time::sleep(Duration::from_secs(120)).await;
    pace.tell("two quiet minutes");

    let pace = Pace::start();
    let path = format!("{DEPLOYMENTS}/web-0");
    let template = json!({"spec": {"template": {"metadata": {"annotations": {"turn": "2"}}}}});
    patch(&client, &path, &template).await;
    let is_updated = |sets: &[Value]| {
        ready(sets) == pods && {
            let set = &sets.iter().find(|set| set["metadata"]["name"] == "web-0").expect("made");
            let (status, wanted) = (&set["status"], &set["spec"]["replicas"]);
            status["observedGeneration"] == set["metadata"]["generation"]
                && status["updatedReplicas"] == *wanted
                && status["replicas"] == *wanted
        }
    };
    until(&client, Duration::from_secs(1800), is_updated).await;
    pace.tell("a rolling update");

    let workers = cluster.names(Role::Worker);
    let zone: Vec<String> = workers.iter().step_by(ZONES as usize).cloned().collect();
    let planes = cluster.names(Role::ControlPlane);
    let cuts = [("to", zone.clone(), planes.clone()), ("from", planes, zone.clone())];
    let cuts = cuts.map(|(id, from, to)| Lever::Cut {
        id: id.to_owned(),
        from,
        to,
        traffic: Traffic::All,
    });
    let pace = Pace::start();
    for cut in &cuts {
        target.pull(cut).await.expect("the zone can be cut off");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let unknown = count(&client, "Unknown").await;
    assert_eq!(unknown, zone.len(), "exactly the nodes of the zone are not ready");
    pace.tell(&format!("the loss of {} nodes", zone.len()));

    let pace = Pace::start();
    for cut in &cuts {
        target.undo(&cut.undo()).await.expect("the cuts can be mended");
    }
    let began = tokio::time::Instant::now();
    while count(&client, "True").await < workers.len() {
        assert!(began.elapsed() < Duration::from_secs(300), "the zone comes back");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    until(&client, Duration::from_secs(1800), |sets| ready(sets) == pods).await;
    pace.tell("the heal");
    target.down().await.await.expect("nothing can go wrong");
    whole.tell("all of it");
}

fn deployment(at: usize, replicas: usize) -> Value {
    let name = format!("web-{at}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "web", "image": "kubetm/app:v1"}],
                },
            },
        },
    })
}

fn ready(sets: &[Value]) -> usize {
    let of = |set: &Value| set["status"]["readyReplicas"].as_u64().unwrap_or_default();
    sets.iter().map(of).sum::<u64>().try_into().expect("a count of pods")
}

async fn post(client: &kube::Client, path: &str, object: &Value) {
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(object.to_string().into_bytes()).expect("a fixed path");
    client.request::<Value>(request).await.expect("the object is accepted");
}

async fn patch(client: &kube::Client, path: &str, change: &Value) {
    let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
    let request = request.body(change.to_string().into_bytes()).expect("a fixed path");
    client.request::<Value>(request).await.expect("the change is accepted");
}

async fn list(client: &kube::Client, path: &str) -> Vec<Value> {
    let request = http::Request::get(path).body(Vec::new()).expect("a fixed path");
    let mut list = client.request::<Value>(request).await.expect("the list is answered");
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

async fn until(client: &kube::Client, limit: Duration, is_so: impl Fn(&[Value]) -> bool) {
    let began = tokio::time::Instant::now();
    loop {
        let sets = list(client, DEPLOYMENTS).await;
        if is_so(&sets) {
            return;
        }
        let ready = ready(&sets);
        assert!(began.elapsed() < limit, "{ready} pods were ready after {limit:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

async fn count(client: &kube::Client, status: &str) -> usize {
    let is_so = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|known| known["type"] == "Ready" && known["status"] == status)
    };
    list(client, "/api/v1/nodes").await.iter().filter(is_so).count()
}

/// The two clocks, as they were.
struct Pace {
    wall: std::time::Instant,
    cpu: f64,
    virt: tokio::time::Instant,
}

impl Pace {
    fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the pace is measured against the machine")]
        let wall = std::time::Instant::now();
        Self { wall, cpu: cpu_s(), virt: tokio::time::Instant::now() }
    }

    fn tell(&self, what: &str) {
        let (wall, virt) = (self.wall.elapsed(), self.virt.elapsed());
        let cpu = cpu_s() - self.cpu;
        let ratio = virt.as_secs_f64() / cpu;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?");
        println!(
            "{what}: {:.1} s took {cpu:.1} s of CPU, {:.1} s in all, {ratio:.1} to 1; peak memory {}",
            virt.as_secs_f64(),
            wall.as_secs_f64(),
            peak.trim()
        );
    }
}

/// How long this thread has run: on a busy machine the clock on the wall tells less.
fn cpu_s() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok());
    nanos.unwrap_or_default() / 1e9
}
