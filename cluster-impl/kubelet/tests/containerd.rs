//! The CRI runtime over a real containerd. Without one the tests are listed as ignored, and say why.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "the staged tests use the rest")]
mod fake_api;
#[expect(dead_code, reason = "the orchestrator's tests use the rest")]
mod private_containerd;
#[path = "containerd_volumes/mod.rs"]
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use env::Env;
use fake_api::FakeApi;
use libtest_mimic::{Arguments, Trial};
use private_containerd::Containerd;
use serde_json::{Value, json};
use shakedown_kubelet::network::BridgeNetwork;
use shakedown_kubelet::runtime::{
    CONTAINER_NAME_LABEL, ContainerConfig, ContainerRuntime, ContainerState, ContainerStatus,
    POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL, PodId, RESTART_COUNT_ANNOTATION,
    RuntimeError, Sandbox, SandboxConfig,
};
use shakedown_kubelet::runtimes::cri::CriRuntime;
use shakedown_kubelet::{Config, MachineFacts};

fn main() {
    let arguments = Arguments::from_args();
    let missing = private_containerd::missing();
    if let Some(why) = &missing {
        eprintln!("the tests with a real containerd are ignored: {why}");
    }
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(missing.is_some())
    };
    let trials = vec![
        trial("containers_live_and_end_as_cri_tells", || block_on(containers_live_and_end())),
        trial("a_debugger_sees_its_target_s_processes", || block_on(debugger_sees_target())),
        trial("a_kubelet_runs_pods_on_containerd", || block_on(kubelet_runs_pods())),
        trial(
            "volumes_are_files_that_change_at_once",
            || block_on(volumes::files_change_at_once()),
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the test").block_on(test);
}

/// Waits for something that another process does; the limit is for a test that fails.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

fn lay_network(containerd: &Containerd) {
    let network = BridgeNetwork {
        conf_dir: containerd.folder("net.d"),
        plugin_dirs: Vec::new(),
        cluster_cidr: "10.244.0.0/16".to_owned(),
    };
    let file = containerd.folder("net.d").join("10-shakedown.conflist");
    std::fs::write(file, network.conflist("10.244.1.0/24").to_string()).expect("a file");
}

struct Pod {
    config: SandboxConfig,
    sandbox: Sandbox,
}

impl Pod {
    async fn start(runtime: &CriRuntime) -> Self {
        let pod = PodId { namespace: "default".into(), name: "web".into(), uid: "uid-1".into() };
        let labels = [
            (POD_NAME_LABEL, &pod.name),
            (POD_NAMESPACE_LABEL, &pod.namespace),
            (POD_UID_LABEL, &pod.uid),
        ];
        let config = SandboxConfig {
            labels: labels.map(|(key, value)| (key.to_owned(), value.clone())).into(),
            hostname: "web".to_owned(),
            qos: "besteffort".to_owned(),
            pod,
            ..SandboxConfig::default()
        };
        runtime.run_sandbox(&config).await.expect("a sandbox");
        let sandbox = runtime.sandboxes("uid-1").await.expect("a list").remove(0);
        Self { config, sandbox }
    }

    async fn run(
        &self,
        runtime: &CriRuntime,
        name: &str,
        line: &[&str],
    ) -> Result<String, RuntimeError> {
        self.run_with(runtime, self.plan(name, line)).await
    }

    fn plan(&self, name: &str, line: &[&str]) -> ContainerConfig {
        let mut labels = self.config.labels.clone();
        labels.insert(CONTAINER_NAME_LABEL.to_owned(), name.to_owned());
        ContainerConfig {
            name: name.to_owned(),
            image: "kubetm/app:v1".to_owned(),
            command: line.iter().map(|word| (*word).to_owned()).collect(),
            env: vec![("VERSION".to_owned(), "v9".to_owned())],
            annotations: BTreeMap::from([(RESTART_COUNT_ANNOTATION.to_owned(), "4".to_owned())]),
            labels,
            ..ContainerConfig::default()
        }
    }

    async fn run_with(
        &self,
        runtime: &CriRuntime,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let id = runtime.create_container(&self.sandbox, &self.config, &config).await?;
        runtime.start_container(&id).await.map(|()| id)
    }
}

async fn status(runtime: &CriRuntime, name: &str) -> ContainerStatus {
    let containers = runtime.containers("uid-1").await.expect("a list");
    containers.into_iter().find(|container| container.name == name).expect("it was made")
}

async fn containers_live_and_end() {
    let containerd = Containerd::start().await;
    let runtime = CriRuntime::new(Env::os(), containerd.config());
    assert_eq!(runtime.version().await.expect("a version").name, "containerd");
    let conditions = runtime.conditions().await.expect("conditions");
    assert_eq!(conditions.runtime_problem, "");
    assert_ne!(conditions.network_problem, "", "there is no CNI configuration yet");
    lay_network(&containerd);
    eventually("the network is noticed", || async {
        runtime.conditions().await.is_ok_and(|c| c.network_problem.is_empty())
    })
    .await;
    assert!(runtime.image("kubetm/app:v1").await.expect("an answer").is_some());
    assert!(matches!(runtime.pull_image("none:v1").await, Err(RuntimeError::NotFound(_))));

    let pod = Pod::start(&runtime).await;
    assert!(pod.sandbox.ready);
    assert!(pod.sandbox.ip.starts_with("10.244.1."), "{}", pod.sandbox.ip);
    let id = pod.run(&runtime, "app", &["/testapp", "serve"]).await.expect("it starts");
    let app = status(&runtime, "app").await;
    assert_eq!(
        (app.id.as_str(), app.state, app.attempt),
        (id.as_str(), ContainerState::Running, 4)
    );
    assert_eq!(app.image, "docker.io/kubetm/app:v1");
    // The log's name and the environment come from the configuration.
    let log = containerd.folder("pods").join("default_web_uid-1/app/0.log");
    eventually("the log is written", || async {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("web v9 serves on 0.0.0.0:8080"))
    })
    .await;
    pod.run(&runtime, "hosts", &["cat", "/etc/hosts"]).await.expect("it starts");
    let hosts = containerd.folder("pods").join("default_web_uid-1/hosts/0.log");
    eventually("the hosts file is read", || async {
        std::fs::read_to_string(&hosts)
            .is_ok_and(|log| log.contains(&format!("{}\tweb", pod.sandbox.ip)))
    })
    .await;

    pod.run(&runtime, "crash", &["/testapp", "crash", "--code", "3"]).await.expect("it starts");
    eventually("it crashes", || async {
        status(&runtime, "crash").await.state == ContainerState::Exited
    })
    .await;
    let crash = status(&runtime, "crash").await;
    assert_eq!((crash.exit_code, crash.reason.as_str()), (3, "Error"));
    assert!(crash.finished >= crash.started);
    assert!(pod.run(&runtime, "shell", &["sh"]).await.is_err());
    let shell = status(&runtime, "shell").await;
    assert_eq!(
        (shell.state, shell.exit_code, shell.reason.as_str()),
        (ContainerState::Exited, 128, "StartError")
    );

    let again = CriRuntime::new(Env::os(), containerd.config());
    assert_eq!(status(&again, "app").await.id, id, "found again by its labels");
    runtime.stop_container(&id, Duration::from_secs(30)).await.expect("it stops");
    assert_eq!(status(&runtime, "app").await.exit_code, 0, "it ended by itself on SIGTERM");
    runtime.stop_sandbox(&pod.sandbox.id).await.expect("it stops");
    assert!(!runtime.sandboxes("uid-1").await.expect("a list")[0].ready);
    runtime.remove_sandbox(&pod.sandbox.id).await.expect("it goes");
    assert!(
        !containerd.pod_cgroups().is_empty(),
        "the pod's own cgroup is the kubelet's to remove"
    );
    runtime.forget_pod(&pod.config.pod).await.expect("it is forgotten");
    assert_eq!(runtime.all().await.expect("a list"), []);
    assert_eq!(containerd.pod_cgroups(), Vec::<std::path::PathBuf>::new());
    assert!(!log.exists());
}

async fn debugger_sees_target() {
    let containerd = Containerd::start().await;
    lay_network(&containerd);
    let runtime = CriRuntime::new(Env::os(), containerd.config());
    eventually("the network is noticed", || async {
        runtime.conditions().await.is_ok_and(|c| c.network_problem.is_empty())
    })
    .await;
    let pod = Pod::start(&runtime).await;
    let app = pod.run(&runtime, "app", &["/testapp", "serve"]).await.expect("it starts");
    let first_process = |name: &'static str| {
        let log = containerd.folder("pods").join(format!("default_web_uid-1/{name}/0.log"));
        async move {
            eventually("it has looked", || async {
                std::fs::read_to_string(&log).is_ok_and(|log| log.contains("stdout"))
            })
            .await;
            std::fs::read_to_string(&log).expect("it was there")
        }
    };
    let line = ["cat", "/proc/1/cmdline"];
    pod.run(&runtime, "alone", &line).await.expect("it starts");
    let seen = first_process("alone").await;
    assert!(seen.contains("cmdline") && !seen.contains("serve"), "{seen}");
    let config = ContainerConfig { processes_of: Some(app.clone()), ..pod.plan("look", &line) };
    pod.run_with(&runtime, config).await.expect("it starts");
    let seen = first_process("look").await;
    assert!(seen.contains("serve") && !seen.contains("cmdline"), "{seen}");
    runtime.stop_container(&app, Duration::from_secs(30)).await.expect("it stops");
    let late = ContainerConfig { processes_of: Some(app), ..pod.plan("late", &line) };
    let refused = pod.run_with(&runtime, late).await.expect_err("nobody is there");
    assert!(refused.to_string().contains("target container"), "{refused}");
    runtime.remove_sandbox(&pod.sandbox.id).await.expect("it goes");
    runtime.forget_pod(&pod.config.pod).await.expect("it is forgotten");
}

const NODE: &str = "/api/v1/nodes/worker-1";
const POD: &str = "/api/v1/namespaces/default/pods/web";

async fn kubelet_runs_pods() {
    let containerd = Containerd::start().await;
    lay_network(&containerd);
    let api = FakeApi::new();
    api.put(NODE, json!({"metadata": {"name": "worker-1"}, "spec": {"podCIDR": "10.244.1.0/24"}}));
    let runtime = Arc::new(CriRuntime::new(Env::os(), containerd.config()));
    let foreign = Pod::start(&runtime).await;
    let run = || {
        let config = Config::new("worker-1", "10.0.0.1", MachineFacts::read());
        let env = Env::os();
        env.spawn(shakedown_kubelet::run(env.clone(), api.client(), runtime.clone(), config))
    };
    let kubelet = run();
    api.put(
        POD,
        json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Pending"},
            "metadata": {"name": "web", "namespace": "default", "uid": "uid-2"},
            "spec": {"nodeName": "worker-1", "containers": [
                {"name": "app", "image": "kubetm/app:v1",
                 "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]}}),
    );
    let pod = || api.get(POD).unwrap_or_default();
    let first = || pod()["status"]["containerStatuses"][0].clone();
    eventually("the pod runs", || async { pod()["status"]["phase"] == "Running" }).await;
    eventually("the foreign sandbox is removed", || async {
        runtime.sandboxes(&foreign.config.pod.uid).await.is_ok_and(|list| list.is_empty())
    })
    .await;
    assert_eq!(pod()["status"]["qosClass"], "Guaranteed");
    let before = first();

    drop(kubelet);
    let kubelet = run();
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/worker-1";
    let renewed = || api.get(lease).unwrap_or_default()["spec"]["renewTime"].clone();
    let seen: Value = renewed();
    eventually("the new kubelet is at work", || async { renewed() != seen }).await;
    assert_eq!(first(), before, "the container runs on");

    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
    );
    eventually("the object is gone", || async { api.get(POD).is_none() }).await;
    eventually("everything is gone", || async {
        runtime.all().await.is_ok_and(|all| all.is_empty())
    })
    .await;
    eventually("its cgroups too", || async { containerd.pod_cgroups().is_empty() }).await;
    drop(kubelet);
}
