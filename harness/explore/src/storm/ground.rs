//! What a storm goes over: the cluster's size and timings, the objects, the workload.
//!
//! Timings are drawn as a swarm: in most storms they are so short that a node is given up and its pods
//! are evicted within half a minute, in some they are the documented ones. Every relation between
//! them that the components demand is kept.

use serde_json::{Map, Value, json};
use shakedown_core::scenario::{CHANGES, VERBS};

use crate::draw::Draw;

/// Whole milliseconds.
type Millis = u64;

/// The Deployments that a storm may have.
pub(super) const DEPLOYMENTS: [&str; 2] = ["web", "shop"];

/// The cluster and what is on it.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    /// How many control planes.
    pub control_planes: u64,
    /// How many workers.
    pub workers: u64,
    /// `cluster.parameters`; empty for the documented ones.
    pub parameters: Map<String, Value>,
    /// From the loss of a node until its pods are evicted, at most.
    pub evicted_after: Millis,
    /// From the loss of a node until it is noticed, at most.
    pub noticed_after: Millis,
    /// The time of an election of a component.
    pub lease: Millis,
    /// Deployments, and how many replicas they want now.
    pub deployments: Vec<(String, u64)>,
    /// The entries of `given:`.
    pub given: Vec<Value>,
    /// `workload:`, if there is one.
    pub workload: Option<Value>,
}

impl Ground {
    /// Draws it.
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed, "cluster");
        let control_planes = *draw.one(&[1, 1, 3, 3, 3, 3, 3, 3, 3, 5]);
        // A fault is proven only beside a node that it does not touch.
        let fewest = if control_planes == 1 { 2 } else { 1 };
        let workers = (*draw.one(&[1, 2, 2, 3, 3, 3, 4, 5])).max(fewest);
        let mut ground = Self {
            control_planes,
            workers,
            parameters: Map::new(),
            evicted_after: 345_000,
            noticed_after: 45_000,
            lease: 15_000,
            deployments: Vec::new(),
            given: Vec::new(),
            workload: None,
        };
        ground.timings(&mut Draw::new(seed, "timings"));
        ground.objects(&mut Draw::new(seed, "objects"));
        ground.work(&mut Draw::new(seed, "workload"));
        ground
    }

    fn timings(&mut self, draw: &mut Draw) {
        if draw.chance(12) {
            return;
        }
        let monitor = *draw.one(&[500, 1000, 2000]);
        let heartbeat = *draw.one(&[1000, 2000]);
        let grace = heartbeat * 2 + draw.between(1, 4) * 1000;
        let lease = draw.between(4, 7) * 1000;
        let toleration = *draw.one(&[1000, 3000, 5000, 10_000, 15_000]);
        let times = [
            ("monitor", monitor),
            ("heartbeat", heartbeat),
            ("grace", grace),
            ("lease", lease),
            ("renew", lease - 2000),
            ("retry", *draw.one(&[500, 1000])),
            ("T", toleration),
            ("election", *draw.one(&[500, 1000])),
        ];
        self.parameters =
            times.into_iter().map(|(name, time)| (name.to_owned(), shown(time).into())).collect();
        self.noticed_after = grace + monitor;
        self.evicted_after = grace + 2 * monitor + toleration;
        self.lease = lease;
    }

    fn objects(&mut self, draw: &mut Draw) {
        let count = *draw.one(&[1, 1, 1, 2]);
        for name in &DEPLOYMENTS[..count] {
            let replicas = draw.between(1, self.workers + 3);
            let mut spec = json!({
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{"name": name, "image": "kubetm/app:v1"}],
                    },
                },
            });
            if draw.chance(50) {
                let (surge, unavailable) = *draw.one(&[(1, 0), (0, 1), (2, 1), (1, 1)]);
                spec["strategy"] =
                    json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
            }
            self.given.push(json!({"manifest": {
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec,
            }}));
            self.deployments.push(((*name).to_owned(), replicas));
        }
        for number in 1..=*draw.one(&[0, 0, 1, 2]) {
            let mut pod = json!({"pod": format!("bare-{number}"), "on": "any worker"});
            let tolerations = draw.below(3);
            if tolerations == 1 {
                pod["tolerations"] = json!([{"operator": "Exists", "effect": "NoExecute"}]);
            } else if tolerations == 2 {
                let seconds = draw.between(1, 12);
                pod["tolerations"] = json!([
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds},
                ]);
            }
            self.given.push(pod);
        }
    }

    fn work(&mut self, draw: &mut Draw) {
        if draw.chance(10) {
            return;
        }
        let mut mix = Map::new();
        for verb in draw.some(VERBS, 70) {
            // Reads show most of what a lagging member does.
            let most = if ["get", "list"].contains(&verb) { 8 } else { 5 };
            mix.insert(verb.to_owned(), draw.between(1, most).into());
        }
        // Without objects there is nothing to read; once all are there only an update can succeed.
        mix.entry("create").or_insert_with(|| draw.between(1, 5).into());
        mix.entry("update").or_insert_with(|| draw.between(2, 5).into());
        if draw.chance(30) {
            for change in draw.some(CHANGES, 60) {
                mix.insert(change.to_owned(), 1.into());
            }
        }
        // Slower ones tell too little of a short storm.
        let rate = *draw.one(&[4, 5, 6, 8]);
        self.workload = Some(json!({
            "clients": draw.between(2, 5), "mix": mix, "over": "configmaps",
            "keys": draw.between(2, 10), "rate": format!("{rate}/s"),
        }));
    }

    /// Whether clients write.
    pub fn writes(&self) -> bool {
        self.workload.is_some()
    }

    /// Whether clients change the Deployments, so that nobody knows beforehand what is wanted at the end.
    pub fn changes(&self) -> bool {
        let mix = self.workload.as_ref().map(|workload| &workload["mix"]);
        mix.is_some_and(|mix| CHANGES.iter().any(|change| mix.get(*change).is_some()))
    }

    /// `cluster:`
    pub fn cluster(&self) -> Value {
        let mut cluster = json!({"controlPlanes": self.control_planes, "workers": self.workers});
        if !self.parameters.is_empty() {
            cluster["parameters"] = Value::Object(self.parameters.clone());
        }
        cluster
    }
}

/// A time as scenario files have it.
pub(crate) fn shown(millis: Millis) -> String {
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}
