//! The whole kubelet over the staged runtime and a minute API server, under virtual time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "staged_ephemeral/mod.rs"]
mod ephemeral;
mod fake_api;
#[path = "staged_volumes/mod.rs"]
mod volumes;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use env::{Env, Gate, SimMachine, Task, Timestamp};
use fake_api::FakeApi;

use serde_json::{Value, json};
use shakedown_kubelet::runtimes::staged::{Answers, StagedRuntime};
use shakedown_kubelet::{Config, MachineFacts};
use tokio::time::Instant;

/// When, which container, and its exit code if it ended.
type Life = (Instant, String, Option<i32>);

struct Node {
    api: FakeApi,
    runtime: Arc<StagedRuntime>,
    machine: Arc<SimMachine>,
    gate: Gate,
    boot: u32,
    _kubelet: Option<Task<()>>,
    lives: Arc<Mutex<Vec<Life>>>,
}

impl Node {
    fn new(api: &FakeApi) -> Self {
        let machine = Arc::new(SimMachine::new(7, "worker-1", Timestamp::UNIX_EPOCH));
        let runtime = StagedRuntime::new(Env::new(machine.clone(), None));
        let lives = Arc::new(Mutex::new(Vec::new()));
        let log = lives.clone();
        runtime.on_change(move |change| {
            let life = (Instant::now(), change.container.clone(), change.exit_code);
            log.lock().unwrap().push(life);
        });
        let (api, gate) = (api.clone(), Gate::default());
        let mut node = Self { api, runtime, machine, gate, boot: 1, _kubelet: None, lives };
        node.start_kubelet();
        node
    }

    fn start_kubelet(&mut self) {
        self.gate = Gate::default();
        let env = Env::new(self.machine.clone(), Some(self.gate.clone()));
        let facts = MachineFacts::simulated("worker-1", self.boot);
        let config = Config::new("worker-1", "10.0.0.1", facts);
        let run =
            shakedown_kubelet::run(env.clone(), self.api.client(), self.runtime.clone(), config);
        self._kubelet = Some(env.spawn(run));
    }

    fn kill_kubelet(&mut self) {
        self.gate.kill();
        self._kubelet = None;
    }

    /// A node with a range of addresses, Ready.
    async fn ready(api: &FakeApi) -> Self {
        let node = Self::new(api);
        eventually("the node is registered", || api.get(NODE).is_some()).await;
        api.merge(NODE, &json!({"spec": {"podCIDR": "10.244.1.0/24"}}));
        eventually("the node is ready", || node_ready(api) == "True").await;
        node
    }

    fn starts(&self) -> Vec<Instant> {
        let lives = self.lives.lock().unwrap();
        lives.iter().filter(|(_, _, end)| end.is_none()).map(|(at, _, _)| *at).collect()
    }

    /// The gaps between each end of a container and the next start.
    fn gaps_s(&self) -> Vec<f64> {
        let lives = self.lives.lock().unwrap();
        let pairs = lives.windows(2);
        pairs
            .filter(|pair| pair[0].2.is_some() && pair[1].2.is_none())
            .map(|pair| (pair[1].0 - pair[0].0).as_secs_f64())
            .collect()
    }
}

const NODE: &str = "/api/v1/nodes/worker-1";
const POD: &str = "/api/v1/namespaces/default/pods/web";

fn node_ready(api: &FakeApi) -> String {
    let node = api.get(NODE).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    ready.map_or_else(String::new, |ready| ready["status"].as_str().unwrap().to_owned())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn put_pod(api: &FakeApi, mut spec: Value) {
    spec["nodeName"] = "worker-1".into();
    api.put(
        POD,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "status": {"phase": "Pending"},
            "metadata": {"name": "web", "namespace": "default", "uid": "pod-uid-1"}}),
    );
}

fn app(args: &[&str]) -> Value {
    json!({"containers": [{"name": "app", "image": "kubetm/app:v1", "args": args}]})
}

fn pod(api: &FakeApi) -> Value {
    api.get(POD).unwrap_or_default()
}

fn first(api: &FakeApi) -> Value {
    pod(api)["status"]["containerStatuses"][0].clone()
}

fn condition(api: &FakeApi, name: &str) -> String {
    let conditions = pod(api)["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == name);
    found.map_or_else(String::new, |found| found["status"].as_str().unwrap().to_owned())
}

async fn running(api: &FakeApi) {
    eventually("the pod is ready", || condition(api, "Ready") == "True").await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pod_is_started_reported_and_taken_away() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    let status = pod(&api)["status"].clone();
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.244.1.2");
    assert_eq!(status["hostIP"], "10.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    assert!(first(&api)["containerID"].as_str().unwrap().starts_with("containerd://"));
    let reasons: Vec<_> = api
        .list("/api/v1/namespaces/default/events")
        .iter()
        .filter(|event| event["involvedObject"]["kind"] == "Pod")
        .map(|event| (event["metadata"]["resourceVersion"].clone(), event["reason"].clone()))
        .collect();
    let mut reasons: Vec<_> = reasons
        .iter()
        .map(|(rv, reason)| {
            (rv.as_str().unwrap().parse::<i64>().unwrap(), reason.as_str().unwrap())
        })
        .collect();
    reasons.sort_unstable();
    let reasons: Vec<_> = reasons.into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, ["Pulled", "Created", "Started"]);
    assert_eq!(
        node.runtime.serving("10.244.1.2", 8080).map(|line| line[0].clone()),
        Some("/testapp".into())
    );

    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
    );
    eventually("the object is gone", || api.get(POD).is_none()).await;
    assert!(node.runtime.running().is_empty());
    assert_eq!(node.lives.lock().unwrap().last().unwrap().2, Some(0), "it ended by SIGTERM");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn restarts_back_off_to_the_cap() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&["crash", "--after", "1s"]));
    eventually("ten starts", || node.starts().len() == 10).await;
    let gaps = node.gaps_s();
    for (gap, expected) in
        gaps.iter().zip([0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0])
    {
        assert!((expected..expected + 0.5).contains(gap), "{gaps:?}");
    }
    eventually("it waits again", || first(&api)["state"].get("waiting").is_some()).await;
    let status = first(&api);
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(status["restartCount"], 9);
    assert_eq!(pod(&api)["status"]["phase"], "Running");
    assert_eq!(condition(&api, "ContainersReady"), "False");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn ten_minutes_of_running_reset_the_back_off() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&["crash", "--after", "11m"]));
    tokio::time::sleep(Duration::from_secs(50 * 60)).await;
    assert!(node.starts().len() >= 4, "{:?}", node.gaps_s());
    assert!(node.gaps_s().iter().all(|gap| *gap < 1.0), "{:?}", node.gaps_s());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn jobs_end_in_their_phase() {
    for (args, policy, phase, reason) in [
        (vec!["sleep", "2s"], "Never", "Succeeded", "Completed"),
        (vec!["crash", "--code", "3"], "Never", "Failed", "Error"),
        (vec!["sleep", "2s"], "OnFailure", "Succeeded", "Completed"),
    ] {
        let api = FakeApi::new();
        let node = Node::ready(&api).await;
        let mut spec = app(&args);
        spec["restartPolicy"] = policy.into();
        put_pod(&api, spec);
        eventually("it ends", || pod(&api)["status"]["phase"] == phase).await;
        assert_eq!(first(&api)["state"]["terminated"]["reason"], reason);
        assert_eq!(condition(&api, "Ready"), "False");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(node.starts().len(), 1, "{policy} does not start it again");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn init_containers_go_first_and_one_by_one() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    let mut spec = app(&[]);
    spec["initContainers"] = json!([
        {"name": "one", "image": "kubetm/app:v1", "args": ["sleep", "5s"]},
        {"name": "two", "image": "kubetm/app:v1", "args": ["sleep", "5s"]},
    ]);
    put_pod(&api, spec);
    eventually("the first runs", || node.starts().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pod(&api)["status"]["phase"], "Pending");
    assert_eq!(first(&api)["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&api, "Initialized"), "False");
    running(&api).await;
    assert_eq!(condition(&api, "Initialized"), "True");
    let order: Vec<_> = node.lives.lock().unwrap().iter().map(|life| life.1.clone()).collect();
    assert_eq!(order, ["one", "one", "two", "two", "app"]);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn images_that_cannot_be_had_are_waited_for() {
    for (image, policy, reasons) in [
        ("example.com/none:v1", "IfNotPresent", ["ErrImagePull", "ImagePullBackOff"]),
        ("example.com/none:v1", "Never", ["ErrImageNeverPull", "ErrImageNeverPull"]),
        ("Not An Image", "IfNotPresent", ["InvalidImageName", "InvalidImageName"]),
    ] {
        let api = FakeApi::new();
        let _node = Node::ready(&api).await;
        put_pod(
            &api,
            json!({"containers": [{"name": "app", "image": image, "imagePullPolicy": policy}]}),
        );
        for reason in reasons {
            eventually(reason, || first(&api)["state"]["waiting"]["reason"] == reason).await;
        }
        assert_eq!(pod(&api)["status"]["phase"], "Pending");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_missing_config_map_is_told_and_its_arrival_noticed() {
    let api = FakeApi::new();
    let _node = Node::ready(&api).await;
    let mut spec = app(&[]);
    spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "paint"}}]);
    put_pod(&api, spec);
    let waiting = || first(&api)["state"]["waiting"].clone();
    eventually("it waits", || waiting()["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting()["message"], "configmap \"paint\" not found");
    api.put("/api/v1/namespaces/default/configmaps/paint", json!({"metadata": {}, "data": {}}));
    running(&api).await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_new_kubelet_adopts_what_runs() {
    let api = FakeApi::new();
    let mut node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    let before = first(&api);
    node.kill_kubelet();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node.runtime.running().len(), 1, "containers outlive their kubelet");
    node.start_kubelet();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node.starts().len(), 1);
    assert_eq!(first(&api), before, "same container, no restart");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_kubelet_without_an_api_server_stops_nothing() {
    let api = FakeApi::new();
    let mut node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    api.set_cut(true);
    node.kill_kubelet();
    node.start_kubelet();
    // Behind the cut the pod is deleted by force.
    api.remove(POD);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(node.runtime.running().len(), 1);
    api.set_cut(false);
    eventually("the pod nobody knows is removed", || node.runtime.running().is_empty()).await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn after_a_reboot_the_pod_gets_a_new_sandbox() {
    let api = FakeApi::new();
    let mut node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    node.kill_kubelet();
    node.runtime.power_off();
    assert!(node.runtime.running().is_empty());
    tokio::time::sleep(Duration::from_secs(60)).await;
    node.runtime.power_on(Env::new(node.machine.clone(), None));
    node.boot += 1;
    node.start_kubelet();
    eventually("it runs again", || {
        first(&api)["restartCount"] == 1 && condition(&api, "Ready") == "True"
    })
    .await;
    let last = first(&api)["lastState"]["terminated"].clone();
    assert_eq!((last["exitCode"].clone(), last["reason"].clone()), (255.into(), "Unknown".into()));
    let events = api.list("/api/v1/namespaces/default/events");
    assert!(events.iter().any(|event| event["reason"] == "Rebooted"));
    assert_eq!(node.starts().len(), 2);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_killed_container_comes_back_in_the_same_sandbox() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    let ip = pod(&api)["status"]["podIP"].clone();
    let id = node.runtime.running()[0].id.clone();
    assert!(node.runtime.kill_container(&id));
    eventually("it is restarted", || first(&api)["restartCount"] == 1).await;
    running(&api).await;
    assert_eq!(pod(&api)["status"]["podIP"], ip);
    assert_eq!(first(&api)["lastState"]["terminated"]["exitCode"], 137);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_that_ignores_sigterm_is_killed_after_its_grace() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&["serve", "--ignore-term"]));
    running(&api).await;
    let asked = Instant::now();
    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 10}}),
    );
    eventually("the object is gone", || api.get(POD).is_none()).await;
    let took = asked.elapsed().as_secs_f64();
    assert!((10.0..11.0).contains(&took), "{took}");
    assert_eq!(node.lives.lock().unwrap().last().unwrap().2, Some(137));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_shorter_grace_holds_at_once() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&["serve", "--ignore-term"]));
    running(&api).await;
    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 300}}),
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = Instant::now();
    api.merge(POD, &json!({"metadata": {"deletionGracePeriodSeconds": 3}}));
    eventually("it is killed", || node.runtime.running().is_empty()).await;
    assert!(asked.elapsed() < Duration::from_secs(4));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_dead_runtime_makes_the_node_unready_and_leaves_containers_alone() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    node.runtime.set_answers(Answers::Refused);
    let died = Instant::now();
    eventually("the node is not ready", || node_ready(&api) == "False").await;
    let took = died.elapsed().as_secs_f64();
    assert!((30.0..42.0).contains(&took), "{took}");
    assert_eq!(node.runtime.running().len(), 1);
    node.runtime.set_answers(Answers::Normally);
    eventually("the node is ready again", || node_ready(&api) == "True").await;
    assert_eq!(node.starts().len(), 1);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_lease_is_renewed_every_ten_seconds_and_idling_costs_nothing_else() {
    let api = FakeApi::new();
    let _node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    let lease =
        || api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/worker-1");
    let renewed = || -> Timestamp {
        lease().unwrap()["spec"]["renewTime"].as_str().unwrap().parse().unwrap()
    };
    assert_eq!(lease().unwrap()["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease().unwrap()["metadata"]["ownerReferences"][0]["kind"], "Node");
    let (before, requests) = (renewed(), api.requests());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(renewed().duration_since(before).as_secs(), 600);
    let requests = api.requests() - requests;
    // Sixty leases, two node statuses, and watches that are opened anew after silence, as this server
    // sends no bookmarks: of pods and of the node, and whenever one of these two is, of services.
    assert!((60..=180).contains(&requests), "{requests}");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn somebody_else_s_word_on_readiness_is_corrected_once() {
    let api = FakeApi::new();
    let _node = Node::ready(&api).await;
    put_pod(&api, app(&[]));
    running(&api).await;
    let mut conditions = pod(&api)["status"]["conditions"].clone();
    for condition in conditions.as_array_mut().unwrap() {
        if condition["type"] == "Ready" {
            condition["status"] = "False".into();
        }
    }
    api.merge(POD, &json!({"status": {"conditions": conditions}}));
    running(&api).await;
    let before = pod(&api);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pod(&api), before, "no write without a reason");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pod_too_large_for_the_node_fails_at_once() {
    let api = FakeApi::new();
    let node = Node::ready(&api).await;
    let mut spec = app(&[]);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "100"}});
    put_pod(&api, spec);
    eventually("it fails", || pod(&api)["status"]["phase"] == "Failed").await;
    assert_eq!(pod(&api)["status"]["reason"], "OutOfcpu");
    assert!(node.starts().is_empty());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_seed_gives_one_history() {
    async fn history() -> String {
        let api = FakeApi::new();
        let node = Node::ready(&api).await;
        let begin = Instant::now();
        put_pod(&api, app(&["crash", "--after", "3s"]));
        eventually("five starts", || node.starts().len() == 5).await;
        let lives = node.lives.lock().unwrap();
        let lives: Vec<_> = lives.iter().map(|(at, name, end)| (*at - begin, name, end)).collect();
        format!("{lives:?} {}", pod(&api))
    }
    assert_eq!(history().await, history().await);
}
