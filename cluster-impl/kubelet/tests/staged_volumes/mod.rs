//! Volumes of pods on a played node: when files come, change, and go.

use super::*;

const CONFIG_MAP: &str = "/api/v1/namespaces/default/configmaps/paint";

fn paint(colour: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {}, "data": {"colour": colour}})
}

/// A pod with one volume at `/etc/v`.
fn with_volume(args: &[&str], source: Value) -> Value {
    let mut spec = app(args);
    let mut volume = source;
    volume["name"] = "v".into();
    spec["volumes"] = json!([volume]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/etc/v"}]);
    spec
}

/// What the running container finds in a file of the volume.
fn file(node: &Node, name: &str) -> String {
    let running = node.runtime.running();
    let files = running.first().map(|container| node.runtime.files(&container.id));
    let content = files.unwrap_or_default().remove(&format!("/etc/v/{name}")).unwrap_or_default();
    String::from_utf8(content).unwrap()
}

fn messages(api: &FakeApi, reason: &str) -> Vec<(String, i64)> {
    let events = api.list("/api/v1/namespaces/default/events");
    let meant = events.iter().filter(|event| event["reason"] == reason);
    let told = |event: &Value| {
        (event["message"].as_str().unwrap().to_owned(), event["count"].as_i64().unwrap())
    };
    meant.map(told).collect()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pod_waits_for_its_config_map_and_starts_as_soon_as_it_is_there() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, with_volume(&[], json!({"configMap": {"name": "paint"}})));
    let expected = "MountVolume.SetUp failed for volume \"v\" : configmap \"paint\" not found";
    eventually("it is told", || !messages(&api, "FailedMount").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(first(&api)["state"]["waiting"]["reason"], "ContainerCreating");
    // After 0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 and 63.5 s.
    assert_eq!(messages(&api, "FailedMount"), [(expected.to_owned(), 8)]);
    assert!(node.starts().is_empty());
    let put = Instant::now();
    api.put(CONFIG_MAP, paint("red"));
    eventually("it runs", || !node.starts().is_empty()).await;
    assert!(node.starts()[0] - put < Duration::from_secs(2), "{:?}", node.starts()[0] - put);
    assert_eq!(file(&node, "colour"), "red");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pod_that_never_ran_leaves_no_volumes() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    let mut spec = with_volume(&[], json!({"configMap": {"name": "paint"}}));
    spec["volumes"].as_array_mut().unwrap().push(json!({"name": "w", "emptyDir": {}}));
    put_pod(&api, spec);
    eventually("it is told", || !messages(&api, "FailedMount").is_empty()).await;
    assert_eq!(node.runtime.pods_with_volumes(), ["pod-uid-1"]);
    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
    );
    eventually("the object is gone", || api.get(POD).is_none()).await;
    eventually("so are its volumes", || node.runtime.pods_with_volumes().is_empty()).await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_change_reaches_a_running_pod_within_a_minute_and_a_half() {
    let api = FakeApi::new();
    let mut node = Node::ready(&api).await;
    api.put(CONFIG_MAP, paint("red"));
    put_pod(&api, with_volume(&[], json!({"configMap": {"name": "paint"}})));
    running(&api).await;
    let mut waits_s = Vec::new();
    for round in 0..12 {
        // A kubelet that starts anew keeps the files of pods that run up to date.
        if round == 6 {
            node.kill_kubelet();
            node.start_kubelet();
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        let colour = format!("colour-{round}");
        let put = Instant::now();
        api.put(CONFIG_MAP, paint(&colour));
        eventually("it changes", || file(&node, "colour") == colour).await;
        waits_s.push(put.elapsed().as_secs_f64());
    }
    assert!(waits_s.iter().all(|wait| *wait < 90.5), "{waits_s:?}");
    assert!(waits_s.iter().any(|wait| *wait > 20.0), "as late as upstream's: {waits_s:?}");
    assert_eq!(node.starts().len(), 1, "no restart");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_the_pod_says_of_itself_changes_at_once() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    let item = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    put_pod(&api, with_volume(&[], json!({"downwardAPI": {"items": [item]}})));
    running(&api).await;
    assert_eq!(file(&node, "labels"), "");
    api.merge(POD, &json!({"metadata": {"labels": {"app": "web"}}}));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(file(&node, "labels"), "app=\"web\"");
}

fn token() -> Value {
    let source = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}});
    json!({"projected": {"sources": [source]}})
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_token_is_renewed_after_four_fifths_of_its_life() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, with_volume(&[], token()));
    running(&api).await;
    assert_eq!(file(&node, "token"), "token-1");
    let mut last = node.starts()[0];
    for number in 2..5 {
        let name = format!("token-{number}");
        tokio::time::sleep(Duration::from_secs(2800)).await;
        eventually("it is renewed", || file(&node, "token") == name).await;
        let age = last.elapsed().as_secs_f64();
        assert!((2874.0..2887.0).contains(&age), "{age}");
        last = Instant::now();
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_renewal_that_finds_no_server_holds_nothing_up() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, with_volume(&[], token()));
    running(&api).await;
    tokio::time::sleep(Duration::from_secs(2860)).await;
    api.set_cut(true);
    // It has been trying for a while, and a try takes ten seconds.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let id = node.runtime.running()[0].id.clone();
    let killed = Instant::now();
    assert!(node.runtime.kill_container(&id));
    eventually("it is restarted", || node.starts().len() == 2).await;
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    assert_eq!(file(&node, "token"), "token-1", "the old one is good for ten minutes more");
    api.set_cut(false);
    eventually("it is renewed", || file(&node, "token") != "token-1").await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_that_waits_for_a_file_ends_when_it_comes() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    api.put(CONFIG_MAP, paint("red"));
    let args = ["until", "/etc/v/colour", "blue"];
    let mut spec = with_volume(&args, json!({"configMap": {"name": "paint"}}));
    spec["restartPolicy"] = "Never".into();
    put_pod(&api, spec);
    running(&api).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(pod(&api)["status"]["phase"], "Running");
    api.put(CONFIG_MAP, paint("blue"));
    eventually("it ends", || pod(&api)["status"]["phase"] == "Succeeded").await;
    assert_eq!(node.lives.lock().unwrap().last().unwrap().2, Some(0));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn volumes_that_cannot_be_had_and_parts_that_make_no_sense_are_told() {
    for (source, message) in [
        (
            json!({"persistentVolumeClaim": {"claimName": "x"}}),
            "volumes of type persistentVolumeClaim are not supported by this kubelet",
        ),
        (json!({"emptyDir": {"medium": "Stone"}}), "unknown storage medium \"Stone\""),
        (json!({"secret": {"secretName": "key"}}), "secret \"key\" not found"),
    ] {
        let api = FakeApi::new();
        let _node = Node::ready(&api).await;
        put_pod(&api, with_volume(&[], source));
        eventually("it is told", || !messages(&api, "FailedMount").is_empty()).await;
        let expected = format!("MountVolume.SetUp failed for volume \"v\" : {message}");
        assert_eq!(messages(&api, "FailedMount")[0].0, expected);
    }
    let api = FakeApi::new();
    let _node = Node::ready(&api).await;
    let mut spec = with_volume(&[], json!({"emptyDir": {}}));
    spec["containers"][0]["volumeMounts"][0]["subPathExpr"] = "$(NOBODY)".into();
    put_pod(&api, spec);
    let waiting = || first(&api)["state"]["waiting"].clone();
    eventually("it waits", || waiting()["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting()["message"], "missing value for \"NOBODY\"");
}
