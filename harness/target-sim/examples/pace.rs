//! How fast virtual time goes: a cluster of three control planes and three workers lives for an hour.
//!
//! `cargo run --example pace -p shakedown-target-sim [replicas]`

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::target::{ClusterSpec, Parameters, Target};
use shakedown_target_sim::{SimTarget, run};

fn main() {
    let replicas: u32 =
        std::env::args().nth(1).map_or(3, |count| count.parse().expect("a number of replicas"));
    run(1, hour(replicas));
}

async fn hour(replicas: u32) {
    let mut target = SimTarget::new(1);
    let spec = ClusterSpec {
        control_planes: 3,
        workers: 3,
        zones: 1,
        parameters: Parameters::default(),
        sabotages: Vec::new(),
    };
    let boot = Pace::start();
    target.boot(&spec, &|_| {}).await.expect("the cluster boots");
    boot.tell("boot");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "kubetm/app:v1"}]},
            },
        },
    });
    let request = http::Request::post("/apis/apps/v1/namespaces/default/deployments")
        .header("content-type", "application/json")
        .body(deployment.to_string().into_bytes())
        .expect("a fixed path makes a request");
    let client = target.endpoints()[0].client.clone();
    let start = Pace::start();
    client.request::<Value>(request).await.expect("the deployment is accepted");
    tokio::time::sleep(Duration::from_secs(60)).await;
    start.tell(&format!("a minute in which {replicas} pods start"));
    let idle = Pace::start();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    idle.tell("an hour");
    target.down().await.await.expect("nothing can go wrong");
}

/// The two clocks, as they were.
struct Pace {
    wall: std::time::Instant,
    virt: tokio::time::Instant,
}

impl Pace {
    fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the pace is measured against the machine")]
        let wall = std::time::Instant::now();
        Self { wall, virt: tokio::time::Instant::now() }
    }

    fn tell(&self, what: &str) {
        let (wall, virt) = (self.wall.elapsed(), self.virt.elapsed());
        let ratio = virt.as_secs_f64() / wall.as_secs_f64();
        println!("{what}: {virt:?} took {wall:?}, {ratio:.0} to 1");
    }
}
