//! Large worlds: a cluster of so many nodes and pods, a rolling update of a part, the loss of a zone.
//!
//! ```sh
//! shakedown explore --nodes 1000 --pods 10000
//! ```
//!
//! The world is a scenario document, as storms are: `run` takes it as well. Its conditions are such that
//! asking them costs little however many pods there are: nothing here looks at every pod.
//! Invariant: a document follows from nodes, pods and seed.

mod run;

use serde_json::{Value, json};

use crate::document::Document;
pub use run::{Glance, Ran, phases, run};

/// The zones that the nodes are spread over; one of them is lost.
const ZONES: u32 = 3;
/// The least nodes: two for each zone.
pub const NODES_MIN: u32 = 6;
/// The least pods: some for every Deployment.
pub const PODS_MIN: u32 = 40;
/// Pods that a node takes; what an evicted one leaves must find room elsewhere.
pub const PODS_PER_NODE_MAX: u32 = 60;
/// The most Deployments: each is looked at whenever any changes.
const DEPLOYMENTS_MAX: u32 = 600;
/// The most Deployments that are rolled: each is a step.
const ROLLED_MAX: usize = 20;
/// How the pods are shared out among five Deployments in a row: some small, one large.
const SHARES: [u32; 5] = [1, 2, 3, 4, 10];
/// How long an impatient pod stays on a lost node.
const PATIENCE_S: u32 = 20;
/// Nodes of a fully lost zone get their NoExecute taint one after the other, ten seconds apart.
const TAINT_PERIOD_S: u32 = 10;
/// How many are tainted before the zone comes back.
const TAINTED: u32 = 4;

/// A world's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Workers, beside three control planes.
    pub nodes: u32,
    /// Pods.
    pub pods: u32,
}

impl Size {
    /// Whether such a world can be made, or why not.
    pub fn check(self) -> Result<(), String> {
        let Self { nodes, pods } = self;
        if nodes < NODES_MIN {
            return Err(format!(
                "{nodes} nodes are too few: a zone of three is lost; at least {NODES_MIN}"
            ));
        }
        if pods < PODS_MIN {
            return Err(format!(
                "{pods} pods are too few to be seen on lost nodes; at least {PODS_MIN}"
            ));
        }
        if u64::from(pods) > u64::from(nodes) * u64::from(PODS_PER_NODE_MAX) {
            let most = u64::from(nodes) * u64::from(PODS_PER_NODE_MAX);
            return Err(format!("{nodes} nodes have no room for {pods} pods; at most {most}"));
        }
        Ok(())
    }
}

/// One Deployment of the world.
struct App {
    name: String,
    replicas: u32,
    is_rolled: bool,
    is_impatient: bool,
}

/// The Deployments: together they have all the pods.
fn apps(pods: u32) -> Vec<App> {
    let count = (pods / 50).clamp(4, DEPLOYMENTS_MAX);
    let share = |at: u32| u64::from(SHARES[at as usize % SHARES.len()]);
    let whole: u64 = (0..count).map(share).sum();
    let (mut given, mut shares) = (0, 0);
    (0..count)
        .map(|at| {
            shares += share(at);
            // What is rounded away here comes with the next.
            let until = u64::from(pods) * shares / whole;
            let replicas = u32::try_from(until - given).expect("a share is less than the whole");
            given = until;
            let is_rolled = at % 5 == 3 && (at / 5) < ROLLED_MAX as u32;
            App { name: format!("app-{at:03}"), replicas, is_rolled, is_impatient: at % 3 != 0 }
        })
        .collect()
}

fn manifest(app: &App) -> Value {
    let App { name, replicas, .. } = app;
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "app", "image": "kubetm/app:v1",
            "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        }],
    });
    if app.is_impatient {
        let tolerates = |key: &str| {
            json!({
                "key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": PATIENCE_S,
            })
        };
        spec["tolerations"] = json!([tolerates("unreachable"), tolerates("not-ready")]);
    }
    let part = if app.is_rolled { "rolled" } else { "kept" };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"part": part}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

/// The document of a world. Which zone is lost is the seed's choice.
pub fn large(size: Size, seed: u64) -> Document {
    let Size { nodes, pods } = size;
    let zone = format!("zone-{}", 1 + seed % u64::from(ZONES));
    let name = format!("large-{nodes}-{pods}");
    let apps = apps(pods);
    let spec = json!({
        "title": format!("{pods} pods on {nodes} nodes: a part is rolled under load, then one zone of three is lost"),
        "proves": [],
        "cluster": {"controlPlanes": 3, "workers": nodes, "zones": ZONES},
        "blast": "cluster",
        "workload": {
            "clients": 4, "mix": {"create": 2, "update": 5, "delete": 1, "get": 4, "list": 1},
            "over": "configmaps", "keys": 20, "rate": "20/s",
        },
        "steps": steps(size, &zone, &apps),
        "reaches": ["node-went-unknown", "node-came-back", "pod-evicted", "pod-replaced", "rollout-completed"],
        "invariants": ["no-pod-bound-twice", "no-premature-eviction", "not-ready-window", "taint-and-eviction-window"],
    });
    Document {
        id: format!("large/{name}"),
        value: json!({
            "apiVersion": "shakedown.dev/v1", "kind": "Scenario",
            "metadata": {"name": name}, "spec": spec,
        }),
    }
}

fn steps(size: Size, zone: &str, apps: &[App]) -> Vec<Value> {
    let lost = lost(size.nodes, zone);
    let eventually = |cel: String, within: [String; 2], after: &str, name: &str| json!({"eventually": {"cel": cel}, "within": within, "after": after, "as": name});
    // A cluster takes as long as it is large: most is the API's, which answers one after the other.
    let pace = |base: u32| format!("{}s", base + size.nodes / 50 + size.pods / 100);
    let count = apps.len();
    let all = format!(
        "cluster.tally.deployments == {count} && cluster.tally.deploymentsSettled == {count}"
    );
    let mut steps = vec![json!({
        "apply": apps.iter().map(manifest).collect::<Vec<_>>(), "as": "applied",
    })];
    steps.push(eventually(all.clone(), ["0s".into(), pace(120)], "applied", "started"));
    steps.push(json!({"wait": "20s", "as": "rested"}));
    let rolled: Vec<_> = apps.iter().filter(|app| app.is_rolled).collect();
    for app in &rolled {
        let template = json!({"metadata": {"labels": {"turn": "2"}}});
        steps.push(json!({
            "patch": {"deployment": app.name, "spec": {"template": template}},
            "as": format!("patched-{}", app.name),
        }));
    }
    let last =
        rolled.last().map_or_else(|| "rested".to_owned(), |app| format!("patched-{}", app.name));
    let turned = format!("cluster.seen['rollout-completed'] >= {}", rolled.len());
    steps.push(eventually(turned, ["0s".into(), pace(120)], &last, "rolled"));
    steps.push(json!({"fault": "node-pause", "on": format!("workers of {zone}"), "as": "outage"}));
    // Thousands of nodes are not marked at once.
    let marking = format!("{}s", 2 + lost / 100);
    steps.push(eventually(
        format!("cluster.seen['node-went-unknown'] >= {lost}"),
        ["grace - heartbeat".into(), format!("grace + 2 * monitor + {marking}")],
        "outage",
        "noticed",
    ));
    let tainted = TAINTED.min(lost);
    let number = "cluster.tally.nodesNoExecute";
    let apart = TAINT_PERIOD_S * (tainted - 1);
    steps.push(eventually(
        format!("{number} >= {tainted}"),
        // The first one may have been tainted before the last one was noticed.
        [
            format!("{}s", apart.saturating_sub(TAINT_PERIOD_S)),
            // While only most of the zone is lost its rate may be 0; then it begins anew.
            format!("{}s + 2 * monitor + {marking}", apart + TAINT_PERIOD_S),
        ],
        "noticed",
        "tainted",
    ));
    // A zone that is lost as a whole is given up slowly, and no other node at all.
    let most = tainted + 2;
    steps.push(json!({
        "never": {"cel": format!("{number} > {most} || cluster.tally.nodesTainted > {lost}")},
        "within": ["0s", format!("{apart}s")], "after": "noticed",
    }));
    steps.push(eventually(
        "cluster.seen['pod-evicted'] >= 1 && cluster.seen['pod-replaced'] >= 1".to_owned(),
        ["0s".into(), format!("{}s + 2 * monitor + {marking}", PATIENCE_S + 2 * TAINT_PERIOD_S)],
        "noticed",
        "evicted",
    ));
    steps.push(json!({"heal": "outage", "as": "mended"}));
    let nodes = size.nodes;
    let ready = format!("cluster.tally.nodesReady == {nodes} && cluster.tally.nodesTainted == 0");
    steps.push(eventually(ready, ["0s".into(), pace(60)], "mended", "ready"));
    steps.push(json!({
        "settles": {"cel": all}, "within": ["0s", pace(120)], "after": "mended", "for": "2s", "as": "whole",
    }));
    steps
}

/// How many workers a zone has: they are dealt out in turn.
fn lost(nodes: u32, zone: &str) -> u32 {
    let place = zone.trim_start_matches("zone-").parse::<u32>().map_or(0, |number| number - 1);
    (nodes + ZONES - 1 - place) / ZONES
}

#[cfg(test)]
mod tests {
    use shakedown_core::plan::Action;

    use super::*;

    #[test]
    fn documents_follow_from_their_size_and_can_be_planned() {
        for (nodes, pods, seed, deployments, rolled) in [
            (6, 60, 1, 4, 1),
            (30, 200, 2, 4, 1),
            (60, 600, 3, 12, 2),
            (300, 6000, 4, 120, 20),
            (1000, 10_000, 1, 200, 20),
            (5000, 150_000, 1, 600, 20),
        ] {
            let size = Size { nodes, pods };
            assert_eq!(size.check(), Ok(()));
            let apps = apps(pods);
            assert_eq!(apps.len(), deployments);
            assert_eq!(apps.iter().map(|app| app.replicas).sum::<u32>(), pods);
            assert!(apps.iter().all(|app| app.replicas > 0));
            assert_eq!(apps.iter().filter(|app| app.is_rolled).count(), rolled);
            let document = large(size, seed);
            assert_eq!(document, large(size, seed));
            let plan = document.plan(seed, &[]).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!((plan.cluster.workers, plan.cluster.zones), (nodes, 3));
            let applied = plan.steps.iter().find_map(|step| match &step.action {
                Action::Apply(objects) => Some(objects.len()),
                _ => None,
            });
            assert_eq!(applied, Some(deployments));
            assert_eq!((plan.faults().count(), plan.checks().count()), (1, 8));
        }
    }

    #[test]
    fn a_zone_has_its_share_of_the_nodes() {
        for nodes in [6, 10, 11, 1000] {
            let zones = ["zone-1", "zone-2", "zone-3"].map(|zone| lost(nodes, zone));
            assert_eq!(zones.iter().sum::<u32>(), nodes);
            assert!(zones.is_sorted_by(|one, next| one >= next && one - next <= 1), "{zones:?}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        for (nodes, pods) in [(5, 100), (9, 39), (9, 541)] {
            assert!(Size { nodes, pods }.check().is_err());
        }
    }
}
