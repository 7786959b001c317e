//! The server over the staged runtime, asked in process.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use env::{SimMachine, Timestamp};
use http_body_util::BodyExt;

use super::*;
use crate::runtime::{ContainerConfig, PodId, SandboxConfig};
use crate::runtimes::staged::StagedRuntime;

/// What the API server was asked, and what it answers.
type Asked = Arc<Mutex<Vec<String>>>;

/// An API server that knows one token, and lets `api` do everything and `scraper` read metrics.
fn client(asked: &Asked) -> ApiClient {
    let asked = asked.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let asked = asked.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let spec = review["spec"].clone();
            if review["kind"] == "TokenReview" {
                asked.lock().unwrap().push(format!("token {}", spec["token"]));
                review["status"] = json!({"authenticated": spec["token"] == "good",
                    "user": {"username": "scraper", "groups": ["system:authenticated"]}});
            } else {
                let right = &spec["resourceAttributes"];
                let line = format!("{} {} {}", spec["user"], right["verb"], right["subresource"]);
                let line = line.replace('"', "");
                let is_allowed = line.starts_with("api ") || line == "scraper get metrics";
                asked.lock().unwrap().push(line);
                review["status"] = json!({"allowed": is_allowed});
            }
            Ok::<_, Infallible>(Response::new(kube::client::Body::from(
                review.to_string().into_bytes(),
            )))
        }
    });
    ApiClient::new(vec![kube::Client::new(service, "default")])
}

struct Node {
    server: Arc<KubeletServer>,
    runtime: Arc<StagedRuntime>,
    asked: Asked,
    sandbox: SandboxConfig,
}

fn pod_id() -> PodId {
    PodId { namespace: "default".into(), name: "web".into(), uid: "uid-1".into() }
}

impl Node {
    async fn new() -> Self {
        let machine = Arc::new(SimMachine::new(7, "worker-1", Timestamp::UNIX_EPOCH));
        let env = Env::new(machine, None);
        let runtime = StagedRuntime::new(env.clone());
        runtime.set_pod_cidr("10.244.1.0/24").await.unwrap();
        let asked = Asked::default();
        let config = ServerConfig { node_name: "worker-1".into(), ..ServerConfig::default() };
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/metadata/uid", "uid-1");
        pod.set("/spec/containers", json!([{"name": "app"}, {"name": "new"}]));
        config.pods.insert(&Arc::new(pod));
        let server = KubeletServer::new(env, client(&asked), runtime.clone(), config);
        let sandbox =
            SandboxConfig { pod: pod_id(), hostname: "web".into(), ..SandboxConfig::default() };
        runtime.run_sandbox(&sandbox).await.unwrap();
        Self { server, runtime, asked, sandbox }
    }

    async fn start(&self, attempt: u32, args: &[&str]) -> String {
        let config = ContainerConfig {
            name: "app".into(),
            attempt,
            image: "kubetm/app:v1".into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..ContainerConfig::default()
        };
        let sandbox = self.runtime.sandboxes("uid-1").await.unwrap().remove(0);
        let id = self.runtime.create_container(&sandbox, &self.sandbox, &config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    async fn ask(&self, user: &str, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        let user = User::certified(user, Vec::new());
        let response = self.server.clone().handle(user, request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("api", Method::GET, path).await
    }
}

#[tokio::test(start_paused = true)]
async fn rights_are_asked_for_once_and_the_finer_ones_first() {
    let node = Node::new().await;
    assert_eq!(node.ask("scraper", Method::GET, "/metrics").await.0, 200);
    assert_eq!(node.ask("scraper", Method::GET, "/metrics/resource").await.0, 200);
    let (code, why) = node.ask("scraper", Method::GET, "/pods").await;
    assert_eq!(
        (code, why.as_str()),
        (403, "Forbidden (user=scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])\n")
    );
    let exec = "/exec/default/web/app?command=ls&output=1";
    assert_eq!(node.ask("scraper", Method::POST, exec).await.0, 403);
    let expected =
        ["scraper get metrics", "scraper get pods", "scraper get proxy", "scraper create proxy"];
    assert_eq!(*node.asked.lock().unwrap(), expected);
    // A refusal is soon asked for again, a right is not.
    node.server.env.sleep(Duration::from_secs(60)).await;
    assert_eq!(node.ask("scraper", Method::GET, "/metrics").await.0, 200);
    assert_eq!(node.ask("scraper", Method::GET, "/pods").await.0, 403);
    assert_eq!(node.asked.lock().unwrap().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_reviewed_and_remembered() {
    let node = Node::new().await;
    for _ in 0..3 {
        let user = review::user_of(&node.server, "good").await.unwrap().unwrap();
        assert_eq!(user.name, "scraper");
    }
    assert_eq!(node.asked.lock().unwrap().len(), 1);
    assert_eq!(review::user_of(&node.server, "bad").await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn logs_are_those_of_the_container_s_lives() {
    let node = Node::new().await;
    let path = "/containerLogs/default/web/app";
    let (code, why) = node.get(path).await;
    let waiting = "container \"app\" in pod \"web\" is waiting to start: ContainerCreating";
    assert_eq!((code, why.as_str()), (400, waiting));
    let first = node.start(0, &["crash", "--after", "1h"]).await;
    assert_eq!(node.get(path).await, (200, "crashing with code 1 in 3600s\n".to_owned()));
    assert!(node.runtime.kill_container(&first));
    node.start(1, &["serve"]).await;
    assert_eq!(node.get(path).await.1, "web v1 serves on 0.0.0.0:8080\n");
    let previous = node.get(&format!("{path}?previous=true")).await;
    assert_eq!(previous, (200, "crashing with code 1 in 3600s\n".to_owned()));
    let timed = node.get(&format!("{path}?timestamps=true")).await.1;
    assert!(timed.starts_with("1970-01-01T00:00:0") && timed.contains("Z web v1"), "{timed}");
    for (path, code) in [
        ("/containerLogs/default/nope/app", 404),
        ("/containerLogs/default/web/nope", 404),
        ("/containerLogs/default/web/app?tailLines=x", 400),
        ("/containerLogs/default/web", 404),
        ("/nowhere", 404),
        ("/containerLogs/../../etc/passwd", 404),
    ] {
        assert_eq!(node.get(path).await.0, code, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_ends_with_its_container() {
    let node = Node::new().await;
    let id = node.start(0, &["serve", "--term-delay", "3s"]).await;
    let follow = async {
        let began = tokio::time::Instant::now();
        let (_, text) = node.get("/containerLogs/default/web/app?follow=true").await;
        (text, began.elapsed().as_secs())
    };
    let stop = async {
        node.server.env.sleep(Duration::from_secs(10)).await;
        node.runtime.stop_container(&id, Duration::from_secs(30)).await.unwrap();
    };
    let ((text, after_s), ()) = tokio::join!(follow, stop);
    assert_eq!(text, "web v1 serves on 0.0.0.0:8080\nSIGTERM: ending in 3s\n");
    assert!((13..16).contains(&after_s), "{after_s}");
}

#[tokio::test(start_paused = true)]
async fn a_simulated_container_says_that_it_has_no_streams() {
    let node = Node::new().await;
    let exec = "/exec/default/web/app?command=ls&output=1";
    let (code, why) = node.ask("api", Method::POST, exec).await;
    assert_eq!((code, why.as_str()), (500, "container not found (\"app\")"));
    node.start(0, &["serve"]).await;
    let (code, why) = node.ask("api", Method::POST, exec).await;
    assert!(code == 500 && why.contains("simulated container"), "{why}");
    let (code, why) = node.ask("api", Method::POST, "/exec/default/web/app?command=ls").await;
    let none = "you must specify at least 1 of stdin, stdout, stderr";
    assert_eq!((code, why.as_str()), (400, none));
    assert_eq!(node.ask("api", Method::POST, "/run/default/web/app?cmd=ls").await.0, 500);
    assert_eq!(node.ask("api", Method::POST, "/portForward/default/web?port=x").await.0, 400);
    assert_eq!(node.ask("api", Method::DELETE, "/exec/default/web/app").await.0, 405);
}

#[tokio::test(start_paused = true)]
async fn pods_and_usage_are_told() {
    let node = Node::new().await;
    node.start(0, &["serve"]).await;
    let json = async |path: &str| {
        let (code, text) = node.get(path).await;
        assert_eq!(code, 200, "{path}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(json("/pods").await["items"][0]["metadata"]["name"], "web");
    let running = json("/runningpods/").await;
    assert_eq!(running["items"][0]["spec"]["containers"][0]["name"], "app");
    let summary = json("/stats/summary").await;
    assert_eq!(summary["node"]["nodeName"], "worker-1");
    let container = &summary["pods"][0]["containers"][0];
    assert_eq!(container["cpu"]["usageCoreNanoSeconds"], 0, "a simulated container uses nothing");
    assert!(
        container["startTime"].as_str().unwrap().starts_with("1970-01-01T00:00:"),
        "{container}"
    );
    let resource = node.get("/metrics/resource").await.1;
    for line in [
        "container_cpu_usage_seconds_total{container=\"app\",namespace=\"default\",pod=\"web\"} 0.000000000 ",
        "container_start_time_seconds{container=\"app\",namespace=\"default\",pod=\"web\"} ",
        "node_memory_working_set_bytes 0 ",
        "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 0 ",
        "resource_scrape_error 0",
    ] {
        assert!(resource.lines().any(|one| one.starts_with(line)), "{line}\n{resource}");
    }
    let metrics = node.get("/metrics").await.1;
    assert!(metrics.contains("\nkubelet_running_pods 1\n"), "{metrics}");
    assert_eq!(node.get("/healthz").await, (500, "unhealthy".to_owned()));
    node.server.config.health.set(None);
    assert_eq!(node.get("/healthz").await, (200, "ok".to_owned()));
}
