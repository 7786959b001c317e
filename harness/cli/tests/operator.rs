//! The library as its users use it: a controller of their own, with a bug and without, under storms.

#[path = "../examples/operator/exploration.rs"]
mod exploration;
#[path = "../examples/operator/operator.rs"]
mod operator;

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use shakedown::sim::lever::{Component, Lever, Undo};
use shakedown::sim::{Operator, RunLimits, Simulation, Verdict, explore, replay};

#[test]
fn a_controller_that_forgets_is_found_and_shrunk_and_the_careful_one_passes_the_same() {
    let (forgetful, careful) =
        (Operator::new(operator::forgetful), Operator::new(operator::careful));
    let summary = explore(&exploration::exploration(20), &forgetful).unwrap();
    let found = summary.found.expect("twenty storms do not overlook a child too many");
    assert!(found.steps.1 < found.steps.0, "{found:?}");
    assert!(found.scenario.contains("component: operator"), "{}", found.scenario);
    assert_eq!(replay(&found.scenario, found.seed, &forgetful).unwrap(), found.reasons);
    assert!(replay(&found.scenario, found.seed, &careful).unwrap().is_empty(), "{found:?}");
}

#[test]
fn a_careful_controller_raises_no_alarm() {
    let careful = Operator::new(operator::careful);
    let summary = explore(&exploration::exploration(20), &careful).unwrap();
    assert!(summary.found.is_none(), "{summary:?}");
    assert_eq!(summary.runs, 20);
    assert!(summary.count(Verdict::Pass) >= 10, "little was told: {summary:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bytes = || {
        let scenario = include_str!("operator.yaml");
        let one =
            shakedown::sim::scenario(scenario, 5, &Operator::new(operator::forgetful)).unwrap();
        assert_eq!(one.verdict.verdict, Verdict::Fail, "{:?}", one.verdict);
        one.events.iter().map(|event| serde_json::to_string(event).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_test_does_by_itself_what_it_likes() {
    let counts = Simulation::new(3).operator(operator::careful).run(async |cluster| {
        let client = cluster.client();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let pods: Api<Pod> = Api::namespaced(client, "default");
        let count = async || pods.list(&ListParams::default()).await.unwrap().items.len();
        let map = |name: &str| -> ConfigMap {
            let metadata = json!({"name": name, "labels": {"app": "greeter"}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let minute = Duration::from_secs(60);
        maps.create(&PostParams::default(), &map("hello")).await.unwrap();
        assert!(cluster.wait_until(minute, async || count().await == 1).await);

        let (node, component) = ("worker-1".to_owned(), Component::Operator);
        let kill = Lever::KillProcess { node: node.clone(), component, hold: true };
        cluster.pull(kill).await.unwrap();
        maps.create(&PostParams::default(), &map("hola")).await.unwrap();
        assert!(!cluster.wait_until(minute, async || count().await == 2).await, "nobody is there");

        cluster.undo(Undo::ReleaseProcess { node, component }).await.unwrap();
        assert!(cluster.wait_until(minute, async || count().await == 2).await);
        count().await
    });
    assert_eq!(counts.unwrap(), 2);
}

#[test]
fn a_controller_goes_on_with_another_api_server_when_its_own_is_gone() {
    let simulation = Simulation::new(4).control_planes(3).operator(operator::careful);
    let came = simulation.run(async |cluster| {
        // The first worker asks the first control plane first.
        let component = Component::KubeApiserver;
        let kill = Lever::KillProcess { node: "cp-1".to_owned(), component, hold: true };
        cluster.pull(kill).await.unwrap();
        let client = cluster.client_of("cp-2").unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let pods: Api<Pod> = Api::namespaced(client, "default");
        let map = json!({"metadata": {"name": "hello", "labels": {"app": "greeter"}}});
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        let count = async || pods.list(&ListParams::default()).await.unwrap().items.len();
        cluster.wait_until(Duration::from_secs(60), async || count().await == 1).await
    });
    assert!(came.unwrap());
}

#[test]
fn a_limit_is_reported_with_the_seed() {
    let limits = RunLimits { virtual_time: Duration::from_secs(60), ..RunLimits::default() };
    let endless = Simulation::new(11).limits(limits);
    let ended = endless.run(async |_| std::future::pending::<()>().await);
    let text = ended.expect_err("it never ends").to_string();
    assert!(text.contains("seed 11"), "{text}");
}

#[test]
fn an_operator_needs_a_worker() {
    let ended = Simulation::new(1).workers(0).operator(operator::careful).run(async |_| ());
    assert!(ended.expect_err("there is none").to_string().contains("worker"));
}
