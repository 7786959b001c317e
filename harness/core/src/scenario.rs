//! The scenario file: what a person writes, read word by word.
//!
//! Everything that can be judged without the cluster's parameters and the registry of faults is
//! judged here; `planner` does the rest. Unknown words are errors with a place and a hint.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::kinds::{KINDS, Kind};
use crate::lever::LeverKind;
use crate::plan::{Blast, Workload};
use crate::read::{Cursor, Notes, Placed, did_you_mean};
use crate::roles::Who;
use crate::steps::{StepEntry, read_step};
use crate::target::Parameters;
use crate::yaml::{self, Document, Path, Problems};

/// The version of the language.
pub const API_VERSION: &str = "shakedown.dev/v1";
/// The image of a given pod that names none.
pub const POD_IMAGE: &str = "nginx:1.27";
/// The verbs of a workload.
pub const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
/// What a workload may do to the given Deployments, at a slow pace of its own.
pub const CHANGES: &[&str] = &["roll", "scale"];
/// The fields of `spec:`.
pub(crate) const SPEC: &[&str] = &[
    "title",
    "proves",
    "cluster",
    "needs",
    "blast",
    "given",
    "bind",
    "workload",
    "steps",
    "invariants",
    "reaches",
];
/// The fields of `cluster:`.
pub(crate) const CLUSTER: &[&str] = &["controlPlanes", "workers", "zones", "parameters"];
/// The fields of `workload:`.
pub(crate) const WORKLOAD: &[&str] = &["clients", "mix", "over", "rate", "keys"];
/// What `blast:` may be.
pub(crate) const BLASTS: &[&str] = &["cluster", "namespace", "nodes"];
/// What `needs:` may name.
pub(crate) const ABILITIES: &[&str] = &[
    "api",
    "cut",
    "etcd-admin",
    "kill-container",
    "kill-node",
    "kill-process",
    "lose-disk",
    "meddle",
    "pause-node",
    "reset",
    "skew",
    "slow",
    "stop-process",
];
/// How many objects a workload shares if it does not say.
const WORKLOAD_KEYS: u32 = 16;

/// A scenario as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Where it was read.
    pub document: Document,
    /// `metadata.name`
    pub name: String,
    /// What it claims.
    pub title: String,
    /// The documented behaviours that it proves.
    pub proves: Vec<Placed<String>>,
    /// The cluster that it wants.
    pub cluster: ClusterEntry,
    /// Abilities that it needs beyond those of its faults.
    pub needs: Vec<LeverKind>,
    /// What it may break; what its faults imply if it does not say.
    pub blast: Option<Blast>,
    /// What is there before the first step.
    pub given: Vec<Placed<GivenEntry>>,
    /// Names for roles.
    pub bind: IndexMap<String, Placed<Vec<Who>>>,
    /// Clients that read and write all the while.
    pub workload: Option<Workload>,
    /// What is done and checked.
    pub steps: Vec<Placed<StepEntry>>,
    /// Further invariants.
    pub invariants: Vec<Placed<String>>,
    /// What must have happened at least once.
    pub reaches: Vec<Placed<String>>,
}

/// The cluster that a scenario wants.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterEntry {
    /// How many control-plane nodes.
    pub control_planes: u32,
    /// How many workers.
    pub workers: u32,
    /// Over how many zones the workers are spread.
    pub zones: u32,
    /// Timings other than the target's own, as written.
    pub parameters: BTreeMap<String, Placed<String>>,
}

/// An entry of `given:`.
#[derive(Debug, Clone, PartialEq)]
pub enum GivenEntry {
    /// `file:`, with the name that its only object is bound to.
    File(Placed<String>, Option<String>),
    /// `manifest:`, or a pod in short: objects and where the first is put.
    Objects {
        /// The manifests.
        objects: Vec<Value>,
        /// For a pod: on whose node.
        on: Option<Who>,
        /// The name that it is bound to.
        bound_as: Option<String>,
    },
}

/// Reads every scenario of a file.
pub fn parse(name: &str, text: &str) -> Result<Vec<Scenario>, Problems> {
    let mut scenarios = Vec::new();
    let mut problems = Problems::default();
    let documents = yaml::parse(name, text)?;
    for document in documents {
        match read(document) {
            Ok(scenario) => scenarios.push(scenario),
            Err(Problems(more)) => problems.0.extend(more),
        }
    }
    if scenarios.is_empty() && problems.0.is_empty() {
        problems.0.push(yaml::Problem {
            file: name.to_string(),
            line: 1,
            column: 1,
            message: "the file has no scenario".into(),
            hint: format!("begin with `apiVersion: {API_VERSION}` and `kind: Scenario`"),
        });
    }
    if problems.0.is_empty() { Ok(scenarios) } else { Err(problems) }
}

/// Reads one scenario.
pub fn read(document: Document) -> Result<Scenario, Problems> {
    let notes = Notes::new(&document);
    let root = Cursor::root(&notes);
    if !is_scenario(&root) {
        return Err(notes.finish(()).expect_err("what is no scenario was noted"));
    }
    root.only(&["apiVersion", "kind", "metadata", "spec"]);
    let metadata = root.need("metadata");
    metadata.iter().for_each(|metadata| metadata.only(&["name"]));
    let name = metadata.as_ref().and_then(|metadata| metadata.need("name"));
    let name = name.and_then(|name| object_name(&name)).unwrap_or_default();
    let spec = root.need("spec").unwrap_or_else(|| root.clone());
    if spec.at != root.at {
        spec.only(SPEC);
    }
    let texts = |field: &str| spec.get(field).map(|list| list.texts()).unwrap_or_default();
    let entries = |field: &str| spec.get(field).map(|list| list.items()).unwrap_or_default();
    let given = entries("given");
    let steps = spec.need("steps").map(|list| list.items()).unwrap_or_default();
    if spec.get("steps").is_some() && steps.is_empty() {
        spec.wrong("a scenario without steps proves nothing", "");
    }
    let scenario = Scenario {
        document: document.clone(),
        name,
        title: spec.need("title").and_then(|title| title.text()).unwrap_or_default(),
        proves: spec.need("proves").map(|list| list.texts()).unwrap_or_default(),
        cluster: cluster(spec.need("cluster")),
        needs: spec.get("needs").map(|list| choices(&list)).unwrap_or_default(),
        blast: spec.get("blast").and_then(|word| choice(&word, BLASTS)),
        given: given
            .iter()
            .filter_map(|entry| Some(Placed { value: read_given(entry)?, at: entry.at.clone() }))
            .collect(),
        bind: bindings(spec.get("bind")),
        workload: spec.get("workload").and_then(|workload| read_workload(&workload)),
        steps: steps
            .iter()
            .filter_map(|entry| Some(Placed { value: read_step(entry)?, at: entry.at.clone() }))
            .collect(),
        invariants: texts("invariants"),
        reaches: texts("reaches"),
    };
    notes.finish(scenario)
}

fn is_scenario(root: &Cursor<'_>) -> bool {
    let (version, kind) = (root.need("apiVersion"), root.need("kind"));
    let (Some(version), Some(kind)) = (version, kind) else {
        if !root.value.is_object() {
            root.wrong(
                "a scenario is a mapping",
                format!("begin with `apiVersion: {API_VERSION}`"),
            );
        }
        return false;
    };
    if version.value != API_VERSION {
        version.wrong(
            format!(
                "this program reads `{API_VERSION}`, not {}",
                crate::read::describe(version.value)
            ),
            format!("write `apiVersion: {API_VERSION}`"),
        );
        return false;
    }
    match kind.value.as_str() {
        Some("Scenario") => true,
        Some("Exam") => {
            kind.wrong("exams cannot be run yet", "only `kind: Scenario` can be planned and run");
            false
        }
        _ => {
            let word = kind.value.as_str().unwrap_or_default();
            kind.wrong(format!("`{word}` is no kind of file"), did_you_mean(word, &["Scenario"]));
            false
        }
    }
}

fn cluster(cursor: Option<Cursor<'_>>) -> ClusterEntry {
    let mut entry =
        ClusterEntry { control_planes: 1, workers: 1, zones: 1, parameters: BTreeMap::new() };
    let Some(cursor) = cursor else { return entry };
    cursor.only(CLUSTER);
    let count = |field: &Cursor<'_>, most: u64| {
        let count = field.number()?;
        if count > most {
            field.wrong(
                format!("{count} is more than any target launches"),
                format!("at most {most}"),
            );
        }
        u32::try_from(count).ok()
    };
    let needed = |name: &str, most: u64| count(&cursor.need(name)?, most);
    entry.control_planes = needed("controlPlanes", 7).unwrap_or(1);
    entry.workers = needed("workers", 5000).unwrap_or(1);
    if let Some(zones) = cursor.get("zones") {
        entry.zones = count(&zones, 5000).unwrap_or(1);
        if entry.zones == 0 || entry.zones > entry.workers.max(1) {
            zones
                .wrong("a zone without a worker is none", "at least 1, at most as many as workers");
        }
    }
    if entry.control_planes == 0 {
        cursor.wrong("a cluster without a control plane is none", "write `controlPlanes: 1`");
    }
    for (name, field) in cursor.get("parameters").iter().flat_map(Cursor::fields) {
        if !Parameters::NAMES.contains(&name) {
            field.wrong(
                format!("`{name}` is no parameter of a cluster"),
                did_you_mean(name, Parameters::NAMES),
            );
        } else if let Some(value) = expression(&field) {
            entry.parameters.insert(name.to_string(), value);
        }
    }
    entry
}

/// A duration as written, evaluated once the parameters are known.
pub(crate) fn expression(cursor: &Cursor<'_>) -> Option<Placed<String>> {
    let value = match cursor.value {
        Value::Number(number) => number.to_string(),
        _ => cursor.text()?,
    };
    Some(Placed { value, at: cursor.at.clone() })
}

/// A name that Kubernetes takes for an object.
pub(crate) fn object_name(cursor: &Cursor<'_>) -> Option<String> {
    let name = cursor.text()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if name.len() > 63
        || !name.chars().all(plain)
        || name.starts_with(['-', '.'])
        || name.ends_with(['-', '.'])
    {
        cursor.wrong(
            format!("`{name}` is no name of an object"),
            "use small letters, digits and `-`, at most 63",
        );
        return None;
    }
    Some(name)
}

/// A name to bind to: one that CEL can speak of.
pub(crate) fn binding_name(cursor: &Cursor<'_>, name: &str) -> Option<String> {
    const TAKEN: &[&str] = &[
        "object",
        "objects",
        "cluster",
        "namespace",
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "return",
        "var",
        "void",
        "while",
    ];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if TAKEN.contains(&name) {
        cursor.wrong(format!("`{name}` has a meaning of its own"), "choose another name");
        return None;
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_word) {
        cursor.wrong(
            format!("`{name}` cannot be a bound name"),
            "begin with a small letter and use letters, digits and `_`, so that CEL can speak of it",
        );
        return None;
    }
    Some(name.to_string())
}

/// One of the known words.
fn choice<T: serde::de::DeserializeOwned>(cursor: &Cursor<'_>, known: &[&str]) -> Option<T> {
    let word = cursor.text()?;
    if !known.contains(&word.as_str()) {
        cursor.wrong(format!("`{word}` means nothing here"), did_you_mean(&word, known));
        return None;
    }
    serde_json::from_value(Value::String(word)).ok()
}

fn choices(cursor: &Cursor<'_>) -> Vec<LeverKind> {
    cursor.items().iter().filter_map(|item| choice(item, ABILITIES)).collect()
}

/// One role, or several.
pub(crate) fn read_who(cursor: &Cursor<'_>) -> Option<Vec<Who>> {
    let one = |cursor: &Cursor<'_>| match Who::parse(&cursor.text()?) {
        Ok(who) => Some(who),
        Err(error) => {
            cursor.wrong(error.message, error.hint);
            None
        }
    };
    match cursor.value {
        Value::Array(items) if items.is_empty() => {
            cursor.wrong("nobody is named", "name a role such as `any worker`");
            None
        }
        Value::Array(_) => cursor.items().iter().map(one).collect(),
        _ => Some(vec![one(cursor)?]),
    }
}

fn bindings(cursor: Option<Cursor<'_>>) -> IndexMap<String, Placed<Vec<Who>>> {
    let mut bound = IndexMap::new();
    for (name, field) in cursor.iter().flat_map(Cursor::fields) {
        if let (Some(name), Some(value)) = (binding_name(&field, name), read_who(&field)) {
            bound.insert(name, Placed { value, at: field.at.clone() });
        }
    }
    bound
}

fn read_given(cursor: &Cursor<'_>) -> Option<GivenEntry> {
    let bound_as = cursor.get("as").and_then(|name| binding_name(&name, &name.text()?));
    if let Some(file) = cursor.get("file") {
        cursor.only(&["file", "as"]);
        return Some(GivenEntry::File(file.placed_text()?, bound_as));
    }
    if let Some(manifest) = cursor.get("manifest") {
        cursor.only(&["manifest", "as"]);
        let objects = match manifest.value {
            Value::Array(items) => items.clone(),
            other => vec![other.clone()],
        };
        return Some(GivenEntry::Objects { objects, on: None, bound_as });
    }
    if cursor.get("pod").is_some() {
        return read_pod(cursor, bound_as);
    }
    cursor.wrong("it is not said what is given", "write `file:`, `manifest:` or `pod:`");
    None
}

/// Fields of a pod's spec that may stand beside `pod:`.
const POD_SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "containers",
    "hostNetwork",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "priority",
    "restartPolicy",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];
/// Fields of its only container that may stand beside `pod:`.
const POD_CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "startupProbe",
];

/// Every field that a pod in short may have.
pub(crate) fn pod_fields() -> Vec<&'static str> {
    ["pod", "on", "as", "labels", "annotations"]
        .iter()
        .chain(POD_SPEC)
        .chain(POD_CONTAINER)
        .copied()
        .collect()
}

/// A pod in short: its name, where it is put, and fields of its spec or of its only container.
fn read_pod(cursor: &Cursor<'_>, bound_as: Option<String>) -> Option<GivenEntry> {
    cursor.only(&pod_fields());
    let name = object_name(&cursor.get("pod")?)?;
    let on = match cursor.get("on") {
        Some(on) => match read_who(&on)?.as_slice() {
            [who] => Some(who.clone()),
            _ => {
                on.wrong("a pod is on one node", "");
                None
            }
        },
        None => None,
    };
    let taken = |names: &[&str]| -> Map<String, Value> {
        let value = |name: &&str| Some((name.to_string(), cursor.get(name)?.value.clone()));
        names.iter().filter_map(value).collect()
    };
    let mut spec = taken(POD_SPEC);
    let container = taken(POD_CONTAINER);
    match (spec.contains_key("containers"), container.keys().next()) {
        (true, Some(field)) => {
            let field = cursor.get(field)?;
            field.wrong("it is not clear which container this is for", "put it into `containers`");
        }
        (true, None) => {}
        (false, _) => {
            let mut only = Map::from_iter([
                ("name".to_string(), json!("app")),
                ("image".to_string(), json!(POD_IMAGE)),
            ]);
            only.extend(container);
            spec.insert("containers".into(), json!([only]));
        }
    }
    let mut metadata = taken(&["labels", "annotations"]);
    metadata.insert("name".into(), json!(name));
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    Some(GivenEntry::Objects { objects: vec![object], on, bound_as })
}

fn read_workload(cursor: &Cursor<'_>) -> Option<Workload> {
    cursor.only(WORKLOAD);
    let clients = cursor.need("clients")?;
    let count = clients.number()?;
    if !(1..=256).contains(&count) {
        clients.wrong(format!("{count} clients cannot be"), "between 1 and 256");
    }
    let mix: BTreeMap<String, u32> = match cursor.get("mix") {
        Some(mix) => {
            mix.only(&[VERBS, CHANGES].concat());
            let weight = |(verb, field): (&str, Cursor<'_>)| {
                Some((verb.to_string(), u32::try_from(field.number()?).ok()?))
            };
            mix.fields().into_iter().filter_map(weight).collect()
        }
        None => VERBS.iter().map(|verb| (verb.to_string(), 1)).collect(),
    };
    if !mix.keys().any(|verb| verb == "create" && mix[verb] > 0) {
        cursor
            .wrong("nothing is ever created, so nothing happens", "give `create` a share of `mix`");
    }
    if let Some(over) = cursor.get("over")
        && over.value != "configmaps"
    {
        over.wrong("a workload writes ConfigMaps only", "write `over: configmaps`");
    }
    let keys = match cursor.get("keys") {
        Some(keys) => u32::try_from(keys.number()?.clamp(1, 10_000)).ok()?,
        None => WORKLOAD_KEYS,
    };
    Some(Workload {
        clients: u32::try_from(count).ok()?,
        mix,
        over: "configmaps".into(),
        keys,
        rate: read_rate(&cursor.need("rate")?)?,
    })
}

/// `200/s`
fn read_rate(cursor: &Cursor<'_>) -> Option<f64> {
    let rate = cursor.value.as_str().and_then(|text| text.strip_suffix("/s"));
    let rate = rate.and_then(|number| number.trim().parse::<f64>().ok());
    match rate.filter(|rate| *rate > 0.0 && *rate <= 100_000.0) {
        None => {
            cursor.wrong("this is no rate", "write for example `200/s`");
            None
        }
        rate => rate,
    }
}

/// Checks that values are manifests, and completes the path of what is wrong.
pub(crate) fn check_manifest(notes: &Notes<'_>, at: &Path, object: &Value) -> bool {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let missing = [("apiVersion", api_version), ("kind", kind), ("metadata.name", name)];
    if let Some((field, _)) = missing.iter().find(|(_, value)| value.is_empty()) {
        notes.wrong(
            at,
            format!("a manifest without `{field}`"),
            "write it as for `kubectl create`",
        );
        return false;
    }
    if Kind::of_manifest(api_version, kind).is_none() {
        let known: Vec<&str> = KINDS.iter().map(|known| known.kind).collect();
        let hint = match KINDS.iter().find(|known| known.kind == kind) {
            Some(known) => format!("{kind} is in `apiVersion: {}`", known.api_version),
            None => did_you_mean(kind, &known),
        };
        notes.wrong(at, format!("no `{kind}` in `{api_version}` is known here"), hint);
        return false;
    }
    match crate::manifests::refuse(api_version, kind, object) {
        Some((what, hint)) => {
            notes.wrong(at, format!("{kind} `{name}`: {what}"), hint);
            false
        }
        None => true,
    }
}
