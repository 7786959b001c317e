//! The Node object: what the kubelet registers and keeps reporting. Pure functions and the shared
//! state that they are computed from.

use std::sync::Mutex;
use std::time::Duration;

use env::Timestamp;
use machinery::quantity::Format;
use machinery::{Object, Quantity};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Config;
use crate::runtime::RuntimeVersion;
use crate::status::time_text;

/// What the machine is.
#[derive(Debug, Clone)]
pub struct MachineFacts {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of disk for images and logs.
    pub ephemeral_storage: i64,
    /// How many pods fit.
    pub pods: i64,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// Such as `6.1.0`.
    pub kernel_version: String,
    /// In Go's words: `amd64`.
    pub architecture: String,
    /// Of the installation.
    pub machine_id: String,
    /// Changes with every boot.
    pub boot_id: String,
}

impl MachineFacts {
    /// A made-up machine for simulations; `boot` counts its boots.
    pub fn simulated(name: &str, boot: u32) -> Self {
        Self {
            cpu_milli: 4000,
            memory: 8 << 30,
            ephemeral_storage: 100 << 30,
            pods: 110,
            os_image: "Shakedown simulated node".to_owned(),
            kernel_version: "0.0.0-simulated".to_owned(),
            architecture: "amd64".to_owned(),
            machine_id: format!("machine-{name}"),
            boot_id: format!("boot-{name}-{boot}"),
        }
    }

    /// Reads this machine's `/proc` and `/etc`. What cannot be read stays zero or empty.
    pub fn read() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory_kib = file("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok())
            .unwrap_or_default();
        let os_image = file("/etc/os-release")
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .unwrap_or_else(|| "Linux".to_owned());
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory: memory_kib * 1024,
            ephemeral_storage: 50 << 30,
            pods: 110,
            os_image,
            kernel_version: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64".to_owned(),
                "aarch64" => "arm64".to_owned(),
                other => other.to_owned(),
            },
            machine_id: file("/etc/machine-id").trim().to_owned(),
            boot_id: file("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        }
    }

    fn capacity(&self) -> Value {
        json!({
            "cpu": Quantity::from_millis(self.cpu_milli).to_string(),
            "ephemeral-storage": Quantity::from_units(self.ephemeral_storage, Format::BinarySi).to_string(),
            "memory": Quantity::from_units(self.memory, Format::BinarySi).to_string(),
            "pods": self.pods.to_string(),
        })
    }
}

#[derive(Debug)]
struct Facts {
    /// Since when the runtime does not answer; `None` while it does.
    runtime_silent_since: Option<Instant>,
    has_answered: bool,
    network_problem: String,
    version: RuntimeVersion,
    pod_cidr: String,
}

/// What the parts of the kubelet know of the node's fitness.
pub(crate) struct NodeState {
    facts: Mutex<Facts>,
    /// Wakes whoever reports the node.
    pub(crate) changed: Notify,
    /// Wakes whoever prepares the pod network.
    pub(crate) pod_cidr_known: Notify,
}

impl NodeState {
    pub(crate) fn new() -> Self {
        Self {
            facts: Mutex::new(Facts {
                runtime_silent_since: None,
                has_answered: false,
                network_problem: "cni plugin not initialized".to_owned(),
                version: RuntimeVersion::default(),
                pod_cidr: String::new(),
            }),
            changed: Notify::new(),
            pod_cidr_known: Notify::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().expect("no code panics while it holds the facts")
    }

    /// Why pods cannot have a network; empty if they can.
    pub(crate) fn network_problem(&self) -> String {
        self.lock().network_problem.clone()
    }

    /// The node's range of pod addresses; empty while unknown.
    pub(crate) fn pod_cidr(&self) -> String {
        self.lock().pod_cidr.clone()
    }

    pub(crate) fn set_pod_cidr(&self, cidr: &str) {
        let mut facts = self.lock();
        if facts.pod_cidr != cidr {
            facts.pod_cidr = cidr.to_owned();
            self.pod_cidr_known.notify_one();
        }
    }

    /// The runtime has answered.
    pub(crate) fn runtime_answered(&self, version: RuntimeVersion, network_problem: String) {
        let mut facts = self.lock();
        let was = (facts.has_answered, facts.runtime_silent_since.is_some());
        let same_network = facts.network_problem == network_problem;
        facts.runtime_silent_since = None;
        facts.has_answered = true;
        facts.network_problem = network_problem;
        facts.version = version;
        if was != (true, false) || !same_network {
            self.changed.notify_one();
        }
    }

    /// The runtime has not answered.
    pub(crate) fn runtime_silent(&self, now: Instant) {
        self.lock().runtime_silent_since.get_or_insert(now);
    }

    /// Since when the runtime has been silent.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.lock().runtime_silent_since
    }

    /// Why the node is not ready; empty if it is.
    pub(crate) fn problem(&self, now: Instant, runtime_grace: Duration) -> String {
        let facts = self.lock();
        let mut problems = Vec::new();
        if !facts.has_answered {
            problems.push("container runtime status check may not have completed yet".to_owned());
        } else if facts.runtime_silent_since.is_some_and(|since| now - since >= runtime_grace) {
            problems.push("container runtime is down".to_owned());
        }
        if !facts.network_problem.is_empty() {
            problems.push(format!(
                "container runtime network not ready: NetworkReady=false \
                 reason:NetworkPluginNotReady message:{}",
                facts.network_problem
            ));
        }
        match problems.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }
    }

    fn runtime_version(&self) -> String {
        let facts = self.lock();
        match facts.version.name.as_str() {
            "" => String::new(),
            name => format!("{name}://{}", facts.version.version),
        }
    }
}

/// The Node object for registration.
pub(crate) fn node_object(config: &Config, status: Value) -> Object {
    let mut node = Object::new("v1", "Node", "", &config.node_name);
    node.set("/metadata/labels", labels(config));
    node.set("/spec", json!({}));
    node.set("/status", status);
    node
}

/// The labels that a kubelet keeps on its node.
pub(crate) fn labels(config: &Config) -> Value {
    let mut labels = Map::new();
    for prefix in ["beta.kubernetes.io", "kubernetes.io"] {
        labels.insert(format!("{prefix}/arch"), config.machine.architecture.as_str().into());
        labels.insert(format!("{prefix}/os"), "linux".into());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), config.hostname.as_str().into());
    for (key, value) in &config.node_labels {
        labels.insert(key.clone(), value.as_str().into());
    }
    labels.into()
}

/// The status to report; `old` is the one in the API, for transition times and foreign conditions.
pub(crate) fn node_status(
    config: &Config,
    state: &NodeState,
    times: (Timestamp, Instant),
    old: &Value,
) -> Value {
    let machine = &config.machine;
    let problem = state.problem(times.1, config.runtime_grace);
    let ready = if problem.is_empty() {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("Ready", "False", "KubeletNotReady", problem)
    };
    let truths = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available".to_owned(),
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure".to_owned(),
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available".to_owned(),
        ),
        ready,
    ];
    json!({
        "addresses": [
            {"type": "InternalIP", "address": config.node_ip},
            {"type": "Hostname", "address": config.hostname},
        ],
        "capacity": machine.capacity(),
        "allocatable": machine.capacity(),
        "conditions": conditions(&truths, &time_text(times.0), old),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": state.runtime_version(),
            "kernelVersion": machine.kernel_version,
            "kubeProxyVersion": "",
            "kubeletVersion": config.kubelet_version,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.machine_id,
        },
    })
}

fn conditions(truths: &[(&str, &str, &str, String)], now: &str, old: &Value) -> Value {
    let before = old["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let foreign =
        before.iter().filter(|old| !truths.iter().any(|truth| old["type"] == truth.0)).cloned();
    let own = truths.iter().map(|(name, status, reason, message)| {
        let same = before.iter().find(|old| old["type"] == *name && old["status"] == *status);
        let since = same.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": name, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since,
        })
    });
    foreign.chain(own).collect::<Vec<_>>().into()
}

/// Whether two statuses differ in more than the heartbeat times.
pub(crate) fn has_changed(old: &Value, new: &Value) -> bool {
    let conditions = |status: &Value| -> Vec<Value> {
        let list = status["conditions"].as_array().cloned().unwrap_or_default();
        let mut kept: Vec<_> = list
            .into_iter()
            .map(|c| json!([c["type"], c["status"], c["reason"], c["message"]]))
            .collect();
        kept.sort_by_key(|condition| condition[0].to_string());
        kept
    };
    ["addresses", "capacity", "allocatable", "daemonEndpoints", "nodeInfo"]
        .iter()
        .any(|key| old[key] != new[key])
        || conditions(old) != conditions(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &NodeState, at_s: i64, old: &Value) -> Value {
        let config = Config::new("worker-1", "10.0.0.1", MachineFacts::simulated("worker-1", 1));
        let now = Timestamp::from_second(at_s).unwrap();
        node_status(&config, state, (now, Instant::now()), old)
    }

    fn ready(status: &Value) -> Value {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == "Ready").unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_ready_once_runtime_and_network_are() {
        let state = NodeState::new();
        let first = status(&state, 0, &Value::Null);
        assert_eq!(ready(&first)["status"], "False");
        state.runtime_answered(RuntimeVersion::default(), "no podCIDR".to_owned());
        let second = status(&state, 10, &first);
        assert_eq!(
            ready(&second)["message"],
            "container runtime network not ready: NetworkReady=false \
             reason:NetworkPluginNotReady message:no podCIDR"
        );
        assert_eq!(ready(&second)["lastTransitionTime"], "1970-01-01T00:00:00Z");
        state.runtime_answered(RuntimeVersion::default(), String::new());
        let third = status(&state, 20, &second);
        assert_eq!(ready(&third)["status"], "True");
        assert_eq!(ready(&third)["lastTransitionTime"], "1970-01-01T00:00:20Z");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_runtime_makes_the_node_unready_after_its_grace() {
        let state = NodeState::new();
        state.runtime_answered(RuntimeVersion::default(), String::new());
        state.runtime_silent(Instant::now());
        assert_eq!(ready(&status(&state, 0, &Value::Null))["status"], "True");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(
            ready(&status(&state, 30, &Value::Null))["message"],
            "container runtime is down"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_alone_are_no_change_but_a_foreign_unknown_is() {
        let state = NodeState::new();
        let first = status(&state, 0, &Value::Null);
        let second = status(&state, 10, &first);
        assert_ne!(first, second);
        assert!(!has_changed(&first, &second));
        let mut unknown = second.clone();
        unknown["conditions"][3]["status"] = "Unknown".into();
        assert!(has_changed(&unknown, &status(&state, 20, &unknown)));
    }
}
