//! Usage over a whole server, with kubelets that answer in process.

use async_trait::async_trait;
use http::Response;

use super::*;
use crate::outbound::{Outbound, OutboundError, Peer, Upgraded};
use crate::testing::{PODS, World, named, pod, text};
use crate::{Body, Config};

/// Kubelets by address; each container uses so many nanoseconds more at every look.
struct Kubelets;

#[async_trait]
impl Outbound for Kubelets {
    async fn call(
        &self,
        peer: &Peer,
        request: http::Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        assert_eq!(request.uri().path(), "/stats/summary");
        assert!(peer.is_identified);
        if peer.host != "10.0.0.1" {
            let why = "connect: connection refused".to_owned();
            return Err(OutboundError::Unreachable(peer.host.clone(), why));
        }
        let container = |name: &str, cpu_ns: u64, bytes: u64| {
            json!({"name": name, "startTime": "2026-01-01T00:00:00Z",
                "cpu": {"time": "2026-01-01T00:01:40Z", "usageCoreNanoSeconds": cpu_ns},
                "memory": {"workingSetBytes": bytes}})
        };
        let summary = json!({"pods": [
            {"podRef": {"name": "web", "namespace": "default", "uid": "1"}, "containers":
                [container("main", 5_000_000_000, 10 * 1024), container("side", 0, 0)]},
            {"podRef": {"name": "odd", "namespace": "default", "uid": "2"}, "containers":
                [{"name": "main", "cpu": {}, "memory": {}}]},
        ]});
        Ok(Response::new(Body::whole(summary.to_string())))
    }

    async fn upgrade(&self, _: &Peer, _: http::Request<Bytes>) -> Result<Upgraded, OutboundError> {
        Err(OutboundError::Broken("nothing is streamed".to_owned()))
    }
}

async fn world() -> World {
    let config = Config { outbound: Arc::new(Kubelets), ..Config::default() };
    let world = World::with(&[], config).await;
    for (name, address) in [("n-1", "10.0.0.1"), ("n-2", "10.0.0.2")] {
        world.create("/api/v1/nodes", named("v1", "Node", name)).await;
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        world.patch(&format!("/api/v1/nodes/{name}/status"), status).await;
    }
    for (name, node) in [("web", "n-1"), ("odd", "n-1"), ("far", "n-2")] {
        let mut body = pod(name);
        body["spec"]["nodeName"] = node.into();
        world.create(PODS, body).await;
    }
    world.create(PODS, pod("waiting")).await;
    world
}

const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const OF_PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";

#[tokio::test(start_paused = true)]
async fn what_kubelets_know_is_told_and_nothing_else() {
    let world = world().await;
    let list = world.get(OF_PODS).await;
    assert_eq!((text(&list["kind"]), text(&list["apiVersion"])), ("PodMetricsList", VERSION));
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{list}");
    assert_eq!(
        items[0]["containers"],
        json!([{"name": "main", "usage": {"cpu": "50m", "memory": "10Ki"}},
            {"name": "side", "usage": {"cpu": "0", "memory": "0"}}])
    );
    assert_eq!(
        (text(&items[0]["window"]), text(&items[0]["timestamp"])),
        ("1m40s", "2026-01-01T00:01:40Z")
    );
    assert_eq!(items[0]["metadata"]["labels"]["app"], "web");
    let one = world.get(&format!("{OF_PODS}/web")).await;
    assert_eq!((text(&one["kind"]), &one["containers"]), ("PodMetrics", &items[0]["containers"]));
    let (code, answer) = world.call(Method::GET, &format!("{OF_PODS}/odd"), &Value::Null).await;
    assert_eq!(code, 404);
    assert_eq!(text(&answer["message"]), "podmetrics.metrics.k8s.io \"default/odd\" not found");
    let none = world.get(&format!("{OF_PODS}?labelSelector=app%3Dother")).await;
    assert_eq!(none["items"], json!([]));
    let all = world.get("/apis/metrics.k8s.io/v1beta1/pods").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    let elsewhere = "/apis/metrics.k8s.io/v1beta1/namespaces/kube-system/pods";
    assert_eq!(world.get(elsewhere).await["items"], json!([]));
    let nodes = world.get(NODES).await;
    assert_eq!(nodes["kind"], "NodeMetricsList");
    let items = nodes["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "who does not answer is left out: {nodes}");
    assert_eq!(items[0]["usage"]["memory"], "10Ki");
    assert_eq!(world.call(Method::GET, &format!("{NODES}/n-2"), &Value::Null).await.0, 404);
    assert_eq!(world.call(Method::POST, NODES, &json!({})).await.0, 405);
}

#[tokio::test(start_paused = true)]
async fn it_is_discovered_printed_and_allowed_by_roles() {
    let world = world().await;
    let list = world.get("/apis/metrics.k8s.io/v1beta1").await;
    let names: Vec<_> =
        list["resources"].as_array().unwrap().iter().map(|one| text(&one["name"])).collect();
    assert_eq!(names, ["nodes", "pods"]);
    let groups = world.get("/apis").await;
    let mut groups = groups["groups"].as_array().unwrap().iter();
    let group = groups.find(|one| one["name"] == GROUP).unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1beta1");
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let (_, table) = world.call_with(Method::GET, OF_PODS, &accept, &Value::Null).await;
    assert_eq!(table["kind"], "Table");
    let heads: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| text(&one["name"]))
        .collect();
    assert_eq!(heads, ["Name", "cpu", "memory", "window"]);
    assert_eq!(table["rows"][0]["cells"], json!(["web", "50m", "10Ki", "1m40s"]));
    world.keep(world.env.spawn(authorization::run(world.server.clone())));
    world.env.sleep(Duration::from_secs(2)).await;
    let jane = User::new("jane", &[]);
    let (code, answer) = world.call_as(&jane, Method::GET, OF_PODS, &Value::Null).await;
    assert_eq!(code, 403);
    assert!(
        text(&answer["message"]).contains(
            "cannot list resource \"pods\" in API group \"metrics.k8s.io\" in the namespace"
        ),
        "{answer}"
    );
}

#[test]
fn a_rate_is_over_what_was_seen() {
    let samples = Samples::default();
    let look = |second: i64, cpu_ns: u64| {
        let at = Timestamp::from_second(second).unwrap();
        let summary = json!({"pods": [{"podRef": {"name": "a", "namespace": "b", "uid": "1"},
            "containers": [{"name": "c", "startTime": "1970-01-01T00:00:00Z",
                "cpu": {"time": at.to_string(), "usageCoreNanoSeconds": cpu_ns},
                "memory": {"workingSetBytes": 1}}]}]});
        let used = samples.take("n", &summary, at.as_nanosecond());
        let one = &used[&ObjectKey::new("b", "a")][0];
        (one.nano_cores, window(one.window_ns))
    };
    assert_eq!(look(100, 1000), (10, "1m40s".to_owned()), "since its start");
    assert_eq!(look(105, 2100), (20, "1m45s".to_owned()), "the first look is too near");
    assert_eq!(look(110, 3000), (200, "10s".to_owned()), "since the first look");
    assert_eq!(look(115, 4000), (200, "15s".to_owned()), "the second one is too near");
    assert_eq!(look(120, 4000), (100, "10s".to_owned()), "since the second look");
    assert_eq!(look(120, 4000), (100, "10s".to_owned()), "a look at the same moment says the same");
    assert_eq!(look(130, 520), (4, "2m10s".to_owned()), "it was started anew");
}

#[test]
fn windows_are_written_as_go_writes_durations() {
    for (ms, text) in
        [(0, "0s"), (10_000, "10s"), (15_012, "15.012s"), (61_500, "1m1.5s"), (3_600_000, "1h0m0s")]
    {
        assert_eq!(window(ms * 1_000_000), text);
    }
}
