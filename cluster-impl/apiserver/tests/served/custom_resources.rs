//! Custom resources behind real sockets, as an operator written with kube-rs meets them.

use crate::loopback::Loopback;
use futures::TryStreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent};
use kube::{Client, Config};
use serde_json::json;

async fn admin(loopback: &Loopback) -> Client {
    let text = loopback.kubeconfig("kubernetes-admin", &["system:masters"]);
    let kubeconfig = Kubeconfig::from_yaml(&text).expect("a kubeconfig of our own");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("it is complete")).expect("it is usable")
}

#[tokio::test]
async fn a_kube_client_defines_and_uses_a_kind() {
    let loopback = Loopback::start().await;
    let client = admin(&loopback).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "gears.acme.io"},
        "spec": {"group": "acme.io", "scope": "Cluster",
            "names": {"plural": "gears", "kind": "Gear", "singular": "gear"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["teeth"], "properties": {
                        "teeth": {"type": "integer", "minimum": 3}}},
                    "status": {"type": "object", "properties": {"turns": {"type": "integer"}}}}}}}]},
    }))
    .expect("a definition");
    let params = WatchParams::default().fields("metadata.name=gears.acme.io");
    let mut events = std::pin::pin!(definitions.watch(&params, "0").await.expect("a watch"));
    definitions.create(&PostParams::default(), &definition).await.expect("created");
    loop {
        let event = events.try_next().await.expect("an event").expect("the watch goes on");
        let (WatchEvent::Added(seen) | WatchEvent::Modified(seen)) = event else { continue };
        let conditions = seen.status.and_then(|status| status.conditions).unwrap_or_default();
        if conditions.iter().any(|one| one.type_ == "Established" && one.status == "True") {
            break;
        }
    }
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("acme.io", "v1", "Gear"));
    let gears: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let gear =
        |teeth: i64| DynamicObject::new("a", &resource).data(json!({"spec": {"teeth": teeth}}));
    // What a server says of its own write, it serves: but its own picture may be a moment behind.
    let mut tries = 0;
    while let Err(error) = gears.list(&ListParams::default()).await {
        tries += 1;
        assert!(tries < 100, "{error}");
        tokio::task::yield_now().await;
    }
    let refused = gears.create(&PostParams::default(), &gear(1)).await.unwrap_err();
    assert!(refused.to_string().contains("should be greater than or equal to 3"), "{refused}");
    let made = gears.create(&PostParams::default(), &gear(8)).await.expect("created");
    assert_eq!(made.metadata.generation, Some(1));
    let apply = Patch::Apply(json!({"apiVersion": "acme.io/v1", "kind": "Gear",
        "metadata": {"name": "a"}, "spec": {"teeth": 9}}));
    let forced = PatchParams::apply("operator").force();
    let applied = gears.patch("a", &forced, &apply).await.expect("applied");
    assert_eq!(applied.data["spec"]["teeth"], 9);
    let status = Patch::Merge(json!({"status": {"turns": 1}}));
    let turned = gears.patch_status("a", &PatchParams::default(), &status).await.expect("patched");
    assert_eq!(
        (turned.data["status"]["turns"].as_i64(), turned.metadata.generation),
        (Some(1), Some(2))
    );
    let groups = kube::discovery::Discovery::new(client).run().await.expect("discovery");
    let (found, _) =
        groups.resolve_gvk(&GroupVersionKind::gvk("acme.io", "v1", "Gear")).expect("there");
    assert_eq!(found.plural, "gears");
    definitions.delete("gears.acme.io", &DeleteParams::default()).await.expect("deleted");
    loop {
        let event = events.try_next().await.expect("an event").expect("the watch goes on");
        if let WatchEvent::Deleted(_) = event {
            break;
        }
    }
    assert!(gears.list(&ListParams::default()).await.is_err(), "nobody serves it");
    loopback.server.shut_down();
    loopback.serving.join().await;
}
