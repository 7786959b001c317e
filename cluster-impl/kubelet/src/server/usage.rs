//! `/stats/summary`: what the node's pods use, and the node itself.
//!
//! Rates of CPU need two looks: the first answer has none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use env::Timestamp;
use http::Response;
use serde_json::{Value, json};

use super::{Body, KubeletServer, Refusal, json_answer};
use crate::access::Usage;
use crate::runtime::PodId;

/// The last look at each container: when, and how much CPU until then.
pub(super) type Samples = Mutex<BTreeMap<(PodId, String), (i64, u64)>>;

pub(super) async fn summary(server: &Arc<KubeletServer>) -> Result<Response<Body>, Refusal> {
    let usage = server.runtime.usage().await?;
    let rates = rates(&server.usage, &usage);
    let started = |pod: &PodId| {
        let known = server.config.pods.named(&pod.namespace, &pod.name);
        known.map(|pod| pod.text("/status/startTime").to_owned()).unwrap_or_default()
    };
    let mut pods: BTreeMap<PodId, Vec<Value>> = BTreeMap::new();
    let mut totals: BTreeMap<PodId, (u64, u64, u64, u64)> = BTreeMap::new();
    for (one, rate) in usage.iter().zip(&rates) {
        let at = time(one.at_ns);
        let container = json!({
            "name": one.container, "startTime": start(server, one),
            "cpu": cpu(&at, *rate, one.cpu_ns),
            "memory": memory(&at, one.memory_bytes, one.working_set_bytes),
            "rootfs": {"time": at, "usedBytes": one.disk_bytes, "inodesUsed": one.inodes},
        });
        let total = totals.entry(one.pod.clone()).or_default();
        total.0 += rate.unwrap_or_default();
        total.1 += one.cpu_ns.unwrap_or_default();
        total.2 += one.memory_bytes.unwrap_or_default();
        total.3 += one.working_set_bytes.unwrap_or_default();
        pods.entry(one.pod.clone()).or_default().push(container);
    }
    let now = server.env.now().to_string();
    let all = totals.values().fold((0, 0, 0, 0), |sum, one| {
        (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2, sum.3 + one.3)
    });
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|(pod, containers)| {
            let (rate, cpu_ns, bytes, working_set) = totals[&pod];
            json!({
                "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": started(&pod),
                "containers": containers,
                "cpu": cpu(&now, Some(rate), Some(cpu_ns)),
                "memory": memory(&now, Some(bytes), Some(working_set)),
            })
        })
        .collect();
    // What the node uses is what its pods use: the kubelet looks at nothing else of it.
    Ok(json_answer(&json!({
        "node": {
            "nodeName": server.config.node_name,
            "cpu": cpu(&now, Some(all.0), Some(all.1)),
            "memory": memory(&now, Some(all.2), Some(all.3)),
        },
        "pods": pods,
    })))
}

/// When a container started: as the runtime says, or as the pod's status does; else when its pod did.
pub(super) fn start(server: &KubeletServer, usage: &Usage) -> String {
    if let Some(started_ns) = usage.started_ns {
        return time(started_ns);
    }
    let pod = server.config.pods.named(&usage.pod.namespace, &usage.pod.name);
    let Some(pod) = pod else { return String::new() };
    let own = crate::status::reported(&pod, &usage.container);
    let started = own.and_then(|status| status["state"]["running"]["startedAt"].as_str());
    started.unwrap_or_else(|| pod.text("/status/startTime")).to_owned()
}

fn cpu(at: &str, rate: Option<u64>, total: Option<u64>) -> Value {
    let mut cpu = json!({"time": at});
    for (name, value) in [("usageNanoCores", rate), ("usageCoreNanoSeconds", total)] {
        if let Some(value) = value {
            cpu[name] = value.into();
        }
    }
    cpu
}

fn memory(at: &str, bytes: Option<u64>, working_set: Option<u64>) -> Value {
    let mut memory = json!({"time": at});
    for (name, value) in [("usageBytes", bytes), ("workingSetBytes", working_set)] {
        if let Some(value) = value {
            memory[name] = value.into();
        }
    }
    memory
}

fn time(at_ns: i64) -> String {
    let at = Timestamp::from_nanosecond(i128::from(at_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_string()
}

/// Nanoseconds of CPU in each second since the last look.
fn rates(samples: &Samples, usage: &[Usage]) -> Vec<Option<u64>> {
    let mut samples = samples.lock().expect("no code panics while it holds the samples");
    let before = std::mem::take(&mut *samples);
    usage
        .iter()
        .map(|one| {
            let key = (one.pod.clone(), one.container.clone());
            let cpu_ns = one.cpu_ns?;
            samples.insert(key.clone(), (one.at_ns, cpu_ns));
            let (then_ns, used_ns) = before.get(&key)?;
            let passed_ns = u64::try_from(one.at_ns.checked_sub(*then_ns)?).ok()?;
            let rate = u128::from(cpu_ns.checked_sub(*used_ns)?) * 1_000_000_000
                / u128::from(passed_ns.max(1));
            u64::try_from(rate).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_used_between_two_looks() {
        let samples = Samples::default();
        let look = |at_s: i64, cpu_ns: u64| Usage {
            container: "app".to_owned(),
            at_ns: at_s * 1_000_000_000,
            cpu_ns: Some(cpu_ns),
            ..Usage::default()
        };
        assert_eq!(rates(&samples, &[look(10, 5_000)]), [None]);
        assert_eq!(rates(&samples, &[look(20, 25_000)]), [Some(2_000)]);
        // A container that was started anew has used less than before.
        assert_eq!(rates(&samples, &[look(30, 1_000)]), [None]);
        assert_eq!(rates(&samples, &[]), [None; 0]);
        assert_eq!(rates(&samples, &[look(40, 2_000)]), [None]);
    }
}
