//! The examples of the scenario language can be read and planned, and mistakes in them are told with their places.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{LeverKind, Undo};
use shakedown_core::plan::{Action, Blast, Ends, Plan, Word};
use shakedown_core::planner::Planner;
use shakedown_core::scenario;
use shakedown_core::target::Parameters;
use shakedown_core::yaml::Problems;

const NODE_KILLED: &str = include_str!("node-killed.yaml");
const LEADER_ISOLATED: &str = include_str!("etcd-leader-isolated.yaml");
const WEB: &str = include_str!("web.yaml");

struct Nothing;

#[async_trait]
impl Fault for Nothing {
    fn needs(&self) -> Vec<LeverKind> {
        Vec::new()
    }
    fn targets(&self) -> Vec<String> {
        Vec::new()
    }
    fn undos(&self) -> Vec<Undo> {
        Vec::new()
    }
    async fn baseline(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }
    async fn inject(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }
    async fn prove(&mut self, _: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(Proof::default())
    }
    fn is_momentary(&self) -> bool {
        true
    }
    async fn remove(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }
    async fn prove_healed(&mut self, _: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(Proof::default())
    }
}

fn node_fault(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    match spec.on.as_slice() {
        [node] if !node.contains('/') => Ok(Box::new(Nothing)),
        [_] => Err(wrong("on", "a pod is no node", "write `node of $pod`")),
        _ => Err(wrong("on", "one node is killed", "name one")),
    }
}

fn two_sided(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    if spec.sides.len() != 2 {
        return Err(wrong("", "two sides are cut apart", "write `between: [a, b]`"));
    }
    Ok(Box::new(Nothing))
}

fn wrong(field: &str, message: &str, hint: &str) -> SpecError {
    SpecError { field: field.into(), message: message.into(), hint: hint.into() }
}

const REGISTRY: &[FaultKind] = &[
    FaultKind {
        name: "node-kill",
        summary: "",
        fields: &[],
        needs: &[LeverKind::KillNode],
        sample: "",
        build: node_fault,
    },
    FaultKind {
        name: "partition",
        summary: "",
        fields: &["direction"],
        needs: &[LeverKind::Cut],
        sample: "",
        build: two_sided,
    },
];

fn plan(text: &str) -> Result<Plan, Problems> {
    let behaviours: BTreeSet<String> = [
        "node-controller/unreachable-after-grace",
        "node-controller/unreachable-taints",
        "node-controller/evict-after-5m",
        "node-controller/node-removed-after-5m",
        "node-controller/pods-moved-to-healthy-nodes",
        "etcd/leader-failover",
        "etcd/minority-loss-tolerated",
        "etcd/minority-partition-never-commits",
    ]
    .map(String::from)
    .into();
    let files = |path: &str| match path {
        "manifests/web.yaml" => Ok(WEB.to_string()),
        _ => Err("no such file".to_string()),
    };
    let planner = Planner {
        registry: REGISTRY,
        behaviours: Some(&behaviours),
        invariants: None,
        files: &files,
        parameters: Parameters::default(),
        sabotages: &[],
    };
    let scenarios = scenario::parse("x.yaml", text)?;
    planner.plan(&format!("resilience/{}", scenarios[0].name), &scenarios[0], 7)
}

#[test]
fn the_killed_node_is_planned() {
    let plan = plan(NODE_KILLED).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(plan.scenario, "resilience/node-killed");
    assert_eq!((plan.cluster.control_planes, plan.cluster.workers), (3, 3));
    assert_eq!(plan.needs, [LeverKind::KillNode]);
    assert_eq!(plan.blast, Blast::Cluster);
    assert_eq!(plan.given.len(), 2);
    assert_eq!(plan.given[1].on.as_ref().map(ToString::to_string).as_deref(), Some("any worker"));
    let moments: Vec<&str> = plan.steps.iter().map(|step| step.moment.as_str()).collect();
    assert_eq!(
        moments,
        ["kill", "step-1", "tainted", "step-3", "evicted", "step-5", "heal", "step-7"]
    );
    let windows: Vec<String> = plan
        .checks()
        .map(|(_, check)| format!("{} {} after {}", check.id, check.window, check.after))
        .collect();
    assert_eq!(
        windows,
        [
            "step-1/eventually [30s, 45s] after kill",
            "step-2/eventually [30s, 50s] after kill",
            "step-3/never [0s, 300s] after tainted",
            "step-4/eventually [300s, 305s] after tainted",
            "step-5/settles [0s, 20s] after evicted",
            "step-7/settles [0s, 30s] after heal",
        ]
    );
    assert_eq!(plan.steps[0].source, "x.yaml:17");
    let (_, last) = plan.checks().last().unwrap();
    assert_eq!((last.word, last.hold), (Word::Settles, Duration::from_secs(5)));
}

#[test]
fn the_isolated_leader_is_planned() {
    let plan = plan(LEADER_ISOLATED).unwrap_or_else(|problems| panic!("{problems}"));
    let workload = plan.workload.as_ref().unwrap();
    assert_eq!((workload.clients, workload.rate, workload.mix["update"]), (8, 200.0, 5));
    let Action::Fault(fault) = &plan.steps[0].action else { panic!("{:?}", plan.steps[0]) };
    assert_eq!(fault.ends, Ends::After(Duration::from_secs(30)));
    let sides: Vec<String> = fault.sides.iter().map(|side| side[0].to_string()).collect();
    assert_eq!(sides, ["leader of etcd", "the other members of etcd"]);
    let (_, check) = plan.checks().next().unwrap();
    assert_eq!(check.window.to_string(), "[0s, 4s]");
    assert_eq!(plan.invariants.len(), 4);
}

#[test]
fn a_plan_survives_its_file() {
    for text in [NODE_KILLED, LEADER_ISOLATED] {
        let plan = plan(text).unwrap();
        let yaml = plan.to_yaml().unwrap();
        assert_eq!(Plan::from_yaml(&yaml).unwrap(), plan, "{yaml}");
        let older = yaml.replacen("format: 1", "format: 0", 1);
        assert!(Plan::from_yaml(&older).unwrap_err().contains("format 0"));
    }
}

/// Replaces a text of an example, and tells the problems.
fn problem(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    let Err(Problems(problems)) = plan(&text.replacen(from, to, 1)) else {
        panic!("no problem with `{to}`")
    };
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn mistakes_are_told_with_place_and_hint() {
    let cases = [
        ("kind: Scenario", "kind: Exam", "2:1: exams cannot be run yet"),
        ("shakedown.dev/v1", "shakedown.dev/v2", "1:1: this program reads"),
        ("  title:", "  titel:", "did you mean `title`?"),
        ("fault: node-kill", "fault: node-kil", "did you mean `node-kill`?"),
        ("eventually: {node", "eventualy: {node", "did you mean `eventually`?"),
        (
            "grace - heartbeat, grace + monitor",
            "grace + monitor, grace",
            "[45s, 40s] can never be met",
        ),
        ("grace - heartbeat, grace + monitor", "grase, grace", "did you mean `grace`?"),
        ("after: kill", "after: kil", "did you mean `kill`?"),
        ("heal: kill", "heal: kll", "did you mean `kill`?"),
        ("on: $victim", "on: $victin", "`victin` is not bound"),
        ("on: $victim", "on: $bare", "a pod is no node"),
        ("on: $victim", "on: leader of etdc", "did you mean `leader of etcd`?"),
        ("on: $victim", "on: node worker-4", "the cluster has no node `worker-4`"),
        ("manifests/web.yaml", "manifests/wep.yaml", "cannot read `manifests/wep.yaml`"),
        ("    as: bare\n", "    as: bear\n", "is not bound"),
        (
            "unreachable-taints",
            "unreachable-tains",
            "did you mean `node-controller/unreachable-taints`?",
        ),
        ("objects.pods.exists", "objects.podz.exists", "did you mean `pods`?"),
        ("spec.nodeName == victim &&", "spec.nodeName == victin &&", "did you mean `victim`?"),
        ("status: \"True\"", "status: True", "quote it"),
        ("workers: 3", "workers: 3, worker: 1", "did you mean `workers`?"),
        ("  - heal: kill", "  - heal: kill\n    on: $victim", "`on` means nothing here"),
        ("within: [0s, 300s]", "within: [0, 300]", "no unit"),
        (
            "  - heal: kill",
            "  - heal: kill\n  - {wait: 3s, until: kill}",
            "until something is true",
        ),
        (
            "  - heal: kill",
            "  - heal: kill\n  - {wait: 3s, until: {cel: \"cluster.seen['leader-changd'] > 0\"}}",
            "did you mean `leader-changed`?",
        ),
        ("  steps:", "  reaches: [leader-chnged]\n  steps:", "did you mean `leader-changed`?"),
        ("  steps:", "  reaches: [sunshine]\n  steps:", "`shakedown list events` has them all"),
        (
            "  steps:",
            "  workload: {clients: 1, mix: {create: 1, scal: 1}, rate: 1/s}\n  steps:",
            "did you mean `scale`?",
        ),
    ];
    for (from, to, expected) in cases {
        let told = problem(NODE_KILLED, from, to);
        assert!(told.contains(expected), "`{to}`:\n{told}");
        assert!(told.starts_with("x.yaml:"), "{told}");
    }
}

#[test]
fn a_wait_may_end_early_and_a_scenario_may_demand_events() {
    let text = "
apiVersion: shakedown.dev/v1
kind: Scenario
metadata: {name: waits}
spec:
  title: Waits and demands
  proves: []
  cluster: {controlPlanes: 1, workers: 1}
  reaches: [leader-changed, scaled-up]
  workload: {clients: 1, mix: {create: 1, scale: 1}, rate: 1/s}
  steps:
  - {wait: 30s, until: {pod: web-0, status: {phase: Running}}, as: up}
  - {wait: 30s, until: {cel: \"cluster.seen['lease-changed-hands'] > 0\"}}
  - wait: 2s
";
    let told = plan(text).unwrap_err().to_string();
    assert!(told.contains("there is no Deployment to scale"), "{told}");
    let plan =
        plan(&text.replace("scale: 1", "list: 1")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(plan.reaches, ["leader-changed", "scaled-up"]);
    let untils: Vec<Option<String>> = plan
        .steps
        .iter()
        .map(|step| match &step.action {
            Action::Wait { until, .. } => until.as_ref().map(ToString::to_string),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(untils[0].as_deref().unwrap().contains("web-0"), "{untils:?}");
    assert_eq!(untils[1].as_deref(), Some("cluster.seen['lease-changed-hands'] > 0"));
    assert_eq!(untils[2], None);
    assert_eq!(Plan::from_yaml(&plan.to_yaml().unwrap()).unwrap(), plan);
}

#[test]
fn places_are_exact() {
    let told = problem(
        NODE_KILLED,
        "    after: kill\n    as: tainted",
        "    after: kill\n    within_: x\n    as: tainted",
    );
    assert!(told.starts_with("x.yaml:26:5: `within_` means nothing here"), "{told}");
    let unused = problem(
        NODE_KILLED,
        "    victim: node of $bare",
        "    victim: node of $bare\n    spare: any worker",
    );
    assert!(unused.starts_with("x.yaml:16:5: `spare` is bound but never used"), "{unused}");
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = NODE_KILLED.replacen("fault: node-kill", "fault: nodekill", 1).replacen(
        "heal: kill",
        "heal: kull",
        1,
    );
    let Problems(problems) = plan(&text).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn steps_speak_of_objects_as_people_do() {
    let text = "
apiVersion: shakedown.dev/v1
kind: Scenario
metadata: {name: steps}
spec:
  title: Every way to name an object
  proves: []
  cluster: {controlPlanes: 1, workers: 1}
  steps:
  - patch: {lease: kube-scheduler, namespace: kube-system, spec: {holderIdentity: nobody}}
  - patch: {lease: kube-system/kube-scheduler, spec: {holderIdentity: nobody}}
  - delete: {pod: web-0, graceSeconds: 0}
  - scale: {deployment: web, replicas: 3}
  - apply: {file: manifests/web.yaml}
  - apply: {manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}
  - apply: [{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]
  - never: {lease: kube-scheduler, namespace: kube-system, spec: {holderIdentity: nobody}}
    for: 3s
  - always: {namespace: kube-system}
    for: 3s
";
    let plan = plan(text).unwrap_or_else(|problems| panic!("{problems}"));
    let Action::Patch { object: first, fields } = &plan.steps[0].action else { panic!() };
    let Action::Patch { object: second, .. } = &plan.steps[1].action else { panic!() };
    assert_eq!(first, second);
    assert_eq!(fields.as_object().unwrap().len(), 1);
    let Action::Delete(deleted) = &plan.steps[2].action else { panic!() };
    assert_eq!((deleted.namespace.as_deref(), deleted.grace_seconds), (None, Some(0)));
    let applied = plan.steps[4..7]
        .iter()
        .all(|step| matches!(&step.action, Action::Apply(it) if it.len() == 1));
    assert!(applied);
    let (_, check) = plan.checks().next().unwrap();
    let object = check.condition.object.as_ref().unwrap();
    assert_eq!(object.namespace.as_deref(), Some("kube-system"));
    assert_eq!(plan.blast, Blast::Namespace);
}
