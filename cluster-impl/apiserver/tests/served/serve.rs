//! The server behind real sockets: certificates name users, both versions of HTTP, limits, shutdown.

use std::collections::BTreeMap;

use crate::loopback::Loopback;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config};

async fn client(loopback: &Loopback, name: &str, groups: &[&str]) -> Client {
    let text = loopback.kubeconfig(name, groups);
    let kubeconfig = Kubeconfig::from_yaml(&text).expect("a kubeconfig of our own");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.expect("it is complete")).expect("it is usable")
}

async fn admin(loopback: &Loopback) -> Client {
    let client = client(loopback, "kubernetes-admin", &["system:masters"]).await;
    // Started servers make their namespaces in the background: wait for them as a client would.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut events = std::pin::pin!(
        namespaces.watch(&kube::api::WatchParams::default(), "0").await.expect("a watch")
    );
    while let Some(event) = events.try_next().await.expect("an event") {
        if let WatchEvent::Added(namespace) = event
            && namespace.metadata.name.as_deref() == Some("kube-node-lease")
        {
            break;
        }
    }
    client
}

#[tokio::test]
async fn a_kube_client_creates_follows_and_deletes() {
    let loopback = Loopback::start().await;
    let client = admin(&loopback).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut map = ConfigMap {
        data: Some(BTreeMap::from([("key".to_owned(), "1".to_owned())])),
        ..ConfigMap::default()
    };
    map.metadata.name = Some("a".to_owned());
    let revision = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version;
    let created = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(created.metadata.uid.is_some());
    let patch = Patch::Merge(serde_json::json!({"data": {"key": "2"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let params = kube::api::WatchParams::default();
    let mut events = std::pin::pin!(maps.watch(&params, &revision.unwrap()).await.unwrap());
    for expected in ["ADDED 1", "MODIFIED 2", "DELETED 2"] {
        let (name, map) = match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => ("ADDED", map),
            WatchEvent::Modified(map) => ("MODIFIED", map),
            WatchEvent::Deleted(map) => ("DELETED", map),
            other => panic!("{other:?}"),
        };
        assert_eq!(format!("{name} {}", map.data.unwrap()["key"]), expected);
    }
    let missing = maps.get("a").await.unwrap_err();
    assert!(matches!(missing, kube::Error::Api(status) if status.code == 404));
}

#[tokio::test]
async fn without_a_certificate_only_health_is_told() {
    let loopback = Loopback::start().await;
    let client = client(&loopback, "", &[]).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let refused = maps.get("a").await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 401), "{refused:?}");
    let request = http::Request::get("/livez").body(Vec::new()).unwrap();
    assert_eq!(client.request_text(request).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused() {
    let loopback = Loopback::start().await;
    let client = admin(&loopback).await;
    let request = http::Request::post("/api/v1/namespaces/default/configmaps")
        .body(vec![b' '; 4 * 1024 * 1024])
        .unwrap();
    let refused = client.request_text(request).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 413), "{refused:?}");
}

#[tokio::test]
async fn a_shutdown_ends_watches_and_then_the_server() {
    let loopback = Loopback::start().await;
    let client = admin(&loopback).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let params = kube::api::WatchParams::default();
    let mut events = std::pin::pin!(maps.watch(&params, "0").await.unwrap());
    loopback.server.shut_down();
    assert!(events.try_next().await.unwrap().is_none(), "the stream ends cleanly");
    loopback.serving.join().await.expect("nobody killed it");
}
