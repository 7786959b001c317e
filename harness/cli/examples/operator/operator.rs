//! A small controller: for each ConfigMap labelled `app: greeter` one pod that greets.
//!
//! Custom resources are not served by the simulated API server, so that ConfigMaps stand in for them.
//! It is written twice: as such controllers are often written, and as they should be.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

/// What the ConfigMaps are found by.
const SELECTOR: &str = "app=greeter";
/// Where the forgetful one notes that there is a child.
const CHILD: &str = "greeter/child";
/// How long it rests after an error.
const REST: Duration = Duration::from_secs(1);

/// Gives the child a name that the server draws, then notes that name on the ConfigMap. Whoever dies
/// between the two writes has forgotten the child when it comes back, and makes another.
pub async fn forgetful(client: Client) {
    run(client, true).await;
}

/// Gives the child a name that follows from the ConfigMap's: a second one cannot be made.
pub async fn careful(client: Client) {
    run(client, false).await;
}

async fn run(client: Client, is_forgetful: bool) {
    loop {
        // Whatever came to nothing, listing anew puts it right.
        if follow(&client, is_forgetful).await.is_err() {
            tokio::time::sleep(REST).await;
        }
    }
}

/// Lists, then watches until the watch ends.
async fn follow(client: &Client, is_forgetful: bool) -> Result<(), kube::Error> {
    let maps: Api<ConfigMap> = Api::all(client.clone());
    let list = maps.list(&ListParams::default().labels(SELECTOR)).await?;
    for map in &list.items {
        reconcile(client, map, is_forgetful).await?;
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    let events = maps.watch(&WatchParams::default().labels(SELECTOR), &version).await?;
    let mut events = events.boxed();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(map) | WatchEvent::Modified(map) => {
                reconcile(client, &map, is_forgetful).await?;
            }
            WatchEvent::Error(_) => return Ok(()),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
        }
    }
    Ok(())
}

async fn reconcile(
    client: &Client,
    map: &ConfigMap,
    is_forgetful: bool,
) -> Result<(), kube::Error> {
    let namespace = map.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": {"greets": map.name_any()}},
        "spec": {"containers": [{"name": "greeter", "image": "kubetm/app:v1"}]},
    });
    if is_forgetful {
        if map.annotations().contains_key(CHILD) {
            return Ok(());
        }
        pod["metadata"]["generateName"] = json!("greeter-");
        let made = pods.create(&PostParams::default(), &parsed(pod)).await?;
        let note = json!({"metadata": {"annotations": {CHILD: made.name_any()}}});
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        maps.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(note)).await?;
        return Ok(());
    }
    pod["metadata"]["name"] = json!(format!("greeter-{}", map.name_any()));
    match pods.create(&PostParams::default(), &parsed(pod)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => made.map(|_| ()),
    }
}

fn parsed(pod: serde_json::Value) -> Pod {
    serde_json::from_value(pod).expect("written above, and a pod")
}
