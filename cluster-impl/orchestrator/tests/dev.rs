//! `orchestrator dev` as its users run it: started, asked, killed, started again.

#![expect(clippy::unwrap_used, reason = "a test ends where one of its helpers fails")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::start;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

async fn client(kubeconfig: &Path) -> kube::Client {
    let file = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "1"}})).unwrap()
}

#[tokio::test]
async fn a_cluster_is_ready_at_once_and_runs_pods_of_any_image() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let cluster = start(&kubeconfig, &["--nodes", "2"]);
    // Far above what it takes (0.1 s), as the machine may be busy.
    assert!(cluster.ready_ms < 10_000, "ready after {} ms", cluster.ready_ms);
    let client = client(&kubeconfig).await;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    assert_eq!(nodes.items.len(), 2);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "web", "image": "registry.example/nginx:1.27"}]},
    }))
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let only = WatchParams::default().fields("metadata.name=web");
    let mut events = pods.watch(&only, "0").await.unwrap().boxed();
    let running = async {
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event.unwrap()
                && pod.status.and_then(|status| status.phase).as_deref() == Some("Running")
            {
                return true;
            }
        }
        false
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), running).await, Ok(true));
    // What `kubectl top` asks for.
    let ask = async |path: &str| -> serde_json::Value {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        client.request(request).await.unwrap()
    };
    let of_pods = ask("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods").await;
    let item = &of_pods["items"][0];
    assert_eq!(item["metadata"]["name"], "web", "{of_pods}");
    let used = json!([{"name": "web", "usage": {"cpu": "0", "memory": "0"}}]);
    assert_eq!(item["containers"], used, "a played container uses nothing");
    let of_nodes = ask("/apis/metrics.k8s.io/v1beta1/nodes").await;
    assert_eq!(of_nodes["items"].as_array().map(Vec::len), Some(2), "{of_nodes}");
}

#[tokio::test]
async fn a_killed_cluster_has_lost_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (data, kubeconfig) = (dir.path().join("data"), dir.path().join("kubeconfig"));
    let more = ["--data", data.to_str().unwrap(), "--nodes", "0"];
    let mut cluster = start(&kubeconfig, &more);
    let maps: Api<ConfigMap> = Api::namespaced(client(&kubeconfig).await, "default");
    let mut acknowledged = Vec::new();
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..200 {
        let maps = maps.clone();
        let write = async move {
            let name = format!("map-{number}");
            maps.create(&PostParams::default(), &config_map(&name)).await.map(|_| name)
        };
        writes.spawn(write);
    }
    while let Some(written) = writes.join_next().await {
        if let Ok(Ok(name)) = written {
            acknowledged.push(name);
        }
        if acknowledged.len() == 100 {
            cluster.process.kill().unwrap();
            cluster.process.wait().unwrap();
        }
    }
    let _again = start(&kubeconfig, &more);
    // The same certificates and the same port: the old client is still good.
    let found = maps.list(&ListParams::default()).await.unwrap();
    let names: Vec<String> = found.items.into_iter().filter_map(|map| map.metadata.name).collect();
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
    for name in acknowledged {
        assert!(names.contains(&name), "{name} was acknowledged");
    }
}

#[tokio::test]
async fn an_api_alone_takes_pods_though_nobody_makes_accounts() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let _cluster = start(&kubeconfig, &["--api-only"]);
    let pods: Api<Pod> = Api::namespaced(client(&kubeconfig).await, "default");
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "x"}]},
    }));
    pods.create(&PostParams::default(), &pod.unwrap()).await.unwrap();
}

#[test]
fn what_cannot_be_used_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .args(["dev", "--data"])
        .arg(&file)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(told.contains("failed to use --data"), "{told}");
}
