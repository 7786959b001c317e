//! Ephemeral containers of pods on a played node: they start once, and their pod is as it was.

use shakedown_kubelet::ContainerRuntime;

use super::*;

fn add(api: &FakeApi, containers: Value) {
    api.merge(POD, &json!({"spec": {"ephemeralContainers": containers}}));
}

fn look(args: &[&str]) -> Value {
    json!({"name": "look", "image": "kubetm/app:v1", "args": args})
}

/// The status of an ephemeral container.
fn told(api: &FakeApi, name: &str) -> Value {
    let all = pod(api)["status"]["ephemeralContainerStatuses"].as_array().cloned();
    let found = all.into_iter().flatten().find(|status| status["name"] == name);
    found.unwrap_or_default()
}

/// The pod's status but for its ephemeral containers.
fn rest(api: &FakeApi) -> Value {
    let mut status = pod(api)["status"].clone();
    status.as_object_mut().unwrap().remove("ephemeralContainerStatuses");
    status
}

fn starts_of(node: &Node, name: &str) -> usize {
    let lives = node.lives.lock().unwrap();
    lives.iter().filter(|(_, container, end)| container == name && end.is_none()).count()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_is_started_once_and_its_pod_is_as_it_was() {
    let api = FakeApi::new();
    let mut node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    let before = rest(&api);
    let mut container = look(&["crash", "--after", "5s", "--code", "3"]);
    container["targetContainerName"] = "app".into();
    add(&api, json!([container]));
    eventually("it runs", || told(&api, "look")["state"]["running"].is_object()).await;
    let status = told(&api, "look");
    assert_eq!((&status["ready"], &status["restartCount"]), (&json!(false), &json!(0)));
    assert_eq!(status.get("started"), None, "nobody probes it");
    assert_eq!(rest(&api), before);
    // Its end is told, and no restart policy applies.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let status = told(&api, "look");
    assert_eq!(status["state"]["terminated"]["exitCode"], 3, "{status}");
    assert_eq!((status["restartCount"].clone(), starts_of(&node, "look")), (json!(0), 1));
    assert_eq!(rest(&api), before);
    node.kill_kubelet();
    node.start_kubelet();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((told(&api, "look"), starts_of(&node, "look")), (status, 1));
    assert_eq!(rest(&api), before);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_cannot_be_made_holds_nobody_up() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    let mut spec = app(&[]);
    let args = ["sleep", "10m"];
    spec["initContainers"] = json!([{"name": "one", "image": "kubetm/app:v1", "args": args}]);
    put_pod(&api, spec);
    eventually("it initializes", || starts_of(&node, "one") == 1).await;
    let container = |name: &str, image: &str, target: &str| json!({"name": name, "image": image, "targetContainerName": target});
    add(
        &api,
        json!([
            container("none", "nobody/has:this", ""),
            container("early", "kubetm/app:v1", "app"),
            container("look", "kubetm/app:v1", "one"),
        ]),
    );
    eventually("it runs", || told(&api, "look")["state"]["running"].is_object()).await;
    assert_eq!(pod(&api)["status"]["phase"], "Pending", "init containers go on meanwhile");
    let reason = |name: &str| told(&api, name)["state"]["waiting"]["reason"].clone();
    eventually("it is told", || reason("none") == "ImagePullBackOff").await;
    let waiting = told(&api, "early")["state"]["waiting"].clone();
    assert_eq!(waiting["reason"], "CreateContainerConfigError", "{waiting}");
    assert_eq!(waiting["message"], "unable to find target container app");
    running(&api).await;
    eventually("its target has come", || told(&api, "early")["state"]["running"].is_object()).await;
    assert_eq!((starts_of(&node, "look"), starts_of(&node, "none")), (1, 0));
    assert_eq!(pod(&api)["status"]["phase"], "Running");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_new_sandbox_is_without_it() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    add(&api, json!([look(&[])]));
    eventually("it runs", || told(&api, "look")["state"]["running"].is_object()).await;
    let sandbox = node.runtime.sandboxes("pod-uid-1").await.unwrap().remove(0);
    assert!(node.runtime.kill_sandbox(&sandbox.id));
    eventually("the container is back", || starts_of(&node, "app") == 2).await;
    running(&api).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(told(&api, "look")["state"]["terminated"].is_object(), "{}", told(&api, "look"));
    assert_eq!(starts_of(&node, "look"), 1);
    // The end of the pod is theirs too.
    api.merge(
        POD,
        &json!({"spec": {"ephemeralContainers": [look(&[]), json!({"name": "more",
        "image": "kubetm/app:v1"})]}}),
    );
    eventually("it runs", || told(&api, "more")["state"]["running"].is_object()).await;
    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
    );
    eventually("the object is gone", || api.get(POD).is_none()).await;
    assert!(node.runtime.running().is_empty());
}
