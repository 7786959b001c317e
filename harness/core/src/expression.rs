//! CEL: compiling an expression, what it speaks of, and JSON as it sees it.

use std::sync::{Arc, LazyLock, OnceLock};

use kube_cel::KubeCelExt;
use kube_cel::cel;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use serde_json::{Value, json as plain};

use crate::condition::{ConditionError, error, plain_name};
use crate::json;
use crate::kinds::Kind;
use crate::world::World;

/// What an expression speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sees {
    /// Names that nothing in the expression declares.
    pub names: Vec<String>,
    /// The plurals after `objects.`; empty with `objects` among the names means all.
    pub plurals: Vec<String>,
    /// The names that are looked up in `cluster.seen`.
    pub seen: Vec<String>,
    /// The fields of which `has()` is asked although they are always there.
    pub tests: Vec<String>,
    /// The fields that are selected anywhere.
    fields: Vec<String>,
    /// The fields that are selected from `cluster`.
    facts: Vec<String>,
    /// How often `cluster` is named.
    clusters: usize,
}

impl Sees {
    /// Whether it speaks of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Whether it may look at this fact of `cluster`: one that it selects, or any if it names the whole.
    pub fn has_fact(&self, fact: &str) -> bool {
        self.clusters > self.facts.len() || self.facts.iter().any(|known| known == fact)
    }

    /// Whether it may look at a fact of `cluster` that is no count.
    pub fn has_other_facts(&self) -> bool {
        self.clusters > self.facts.len()
            || self.facts.iter().any(|fact| !["seen", "tally"].contains(&fact.as_str()))
    }

    /// Whether it speaks of counts, which change all the time.
    pub fn has_counts(&self) -> bool {
        let counts = ["acknowledged", "failed", "seen", "tally"];
        self.fields.iter().any(|field| counts.contains(&field.as_str()))
    }
}

/// Kubernetes' own functions, registered once.
static ROOT: LazyLock<cel::Context<'static>> = LazyLock::new(|| cel::Context::default().with_all());

/// A scope to set variables in.
pub fn scope() -> cel::Context<'static> {
    ROOT.new_inner_scope()
}

/// Compiles an expression.
pub fn compile(source: &str) -> Result<cel::Program, ConditionError> {
    cel::Program::compile(source).map_err(|why| {
        let why = why.to_string();
        let line = why.lines().map(str::trim).find(|line| !line.is_empty());
        error(
            format!("not a CEL expression: {}", line.unwrap_or("it does not parse")),
            "kubernetes.io/docs/reference/using-api/cel has the language",
        )
    })
}

/// What a program speaks of.
pub fn sees(program: &cel::Program) -> Sees {
    let mut sees = Sees::default();
    walk(program.expression(), &mut Vec::new(), &mut sees);
    sees
}

fn walk<'a>(expression: &'a IdedExpr, declared: &mut Vec<&'a str>, sees: &mut Sees) {
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => {}
        Expr::Ident(name) => {
            sees.clusters += usize::from(name == "cluster");
            note(name, declared, sees);
        }
        Expr::Call(call) => {
            if let [of, key] = call.args.as_slice()
                && matches!(&of.expr, Expr::Select(select) if select.field == "seen")
                && let Expr::Literal(LiteralValue::String(name)) = &key.expr
            {
                sees.seen.push(name.inner().to_string());
            }
            call.target.iter().for_each(|target| walk(target, declared, sees));
            call.args.iter().for_each(|argument| walk(argument, declared, sees));
        }
        Expr::Select(select) => {
            if select.test
                && let Expr::Select(part) = &select.operand.expr
                && ALWAYS_THERE.contains(&(part.field.as_str(), select.field.as_str()))
            {
                sees.tests.push(format!("{}.{}", part.field, select.field));
            }
            if matches!(&select.operand.expr, Expr::Ident(name) if name == "cluster") {
                sees.facts.push(select.field.clone());
            }
            if matches!(&select.operand.expr, Expr::Ident(name) if name == "objects") {
                sees.plurals.push(select.field.clone());
            }
            sees.fields.push(select.field.clone());
            walk(&select.operand, declared, sees);
        }
        Expr::List(list) => list.elements.iter().for_each(|item| walk(item, declared, sees)),
        Expr::Map(map) => {
            map.entries.iter().for_each(|entry| walk_entry(&entry.expr, declared, sees))
        }
        Expr::Struct(of) => {
            of.entries.iter().for_each(|entry| walk_entry(&entry.expr, declared, sees))
        }
        Expr::Comprehension(over) => {
            walk(&over.iter_range, declared, sees);
            walk(&over.accu_init, declared, sees);
            let outside = declared.len();
            declared.extend([over.iter_var.as_str(), over.accu_var.as_str()]);
            declared.extend(over.iter_var2.as_deref());
            for inner in [&over.loop_cond, &over.loop_step, &over.result] {
                walk(inner, declared, sees);
            }
            declared.truncate(outside);
        }
    }
}

fn walk_entry<'a>(entry: &'a EntryExpr, declared: &mut Vec<&'a str>, sees: &mut Sees) {
    match entry {
        EntryExpr::StructField(field) => walk(&field.value, declared, sees),
        EntryExpr::MapEntry(entry) => {
            walk(&entry.key, declared, sees);
            walk(&entry.value, declared, sees);
        }
    }
}

fn note(name: &str, declared: &[&str], sees: &mut Sees) {
    // Macros expand to names that begin with @; types are names too (`type(x) == int`).
    const TYPES: &[&str] =
        &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
    if !declared.contains(&name)
        && !name.starts_with('@')
        && !TYPES.contains(&name)
        && !sees.has(name)
    {
        sees.names.push(name.to_string());
    }
}

/// What a name is bound to: a name without its namespace, or a list of them.
pub fn bound(to: &[String]) -> cel::Value {
    match to {
        [one] => plain_name(one).into(),
        several => several.iter().map(|name| plain_name(name)).collect::<Vec<_>>().into(),
    }
}

/// The objects of these kinds that a scenario may see, by plural.
pub fn objects(world: &World, kinds: &[String]) -> cel::Value {
    let own = world.namespace();
    let is_visible = |ns: &str| ns.is_empty() || ns == own || ns.starts_with("kube-");
    mapping(kinds.iter().filter_map(|id| Kind::of_id(id)).map(|kind| {
        let items: Vec<cel::Value> = world
            .all_shown(kind.id)
            .filter(|((ns, _), _)| is_visible(ns))
            .map(|(_, shown)| shown.value(kind.id))
            .collect();
        (kind.plural(), items.into())
    }))
}

/// One version of an object, and what CEL sees of it: converted when it is first asked for, and then
/// shared by every expression that asks.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    object: json::Value,
    converted: OnceLock<cel::Value>,
}

impl Shown {
    /// A version of an object.
    pub(crate) fn new(object: json::Value) -> Self {
        Self { object, converted: OnceLock::new() }
    }

    /// As it is.
    pub(crate) fn object(&self) -> &json::Value {
        &self.object
    }

    /// As CEL sees it; its maps, lists and texts are shared and not copied.
    pub(crate) fn value(&self, kind: &str) -> cel::Value {
        self.converted.get_or_init(|| object(kind, &self.object)).clone()
    }
}

/// The fields that [`object`] fills: of these `has()` says nothing, as it is always true.
const ALWAYS_THERE: &[(&str, &str)] = &[
    ("metadata", "annotations"),
    ("metadata", "labels"),
    ("spec", "nodeName"),
    ("spec", "taints"),
    ("spec", "unschedulable"),
    ("status", "availableReplicas"),
    ("status", "observedGeneration"),
    ("status", "readyReplicas"),
    ("status", "replicas"),
];

/// An object. Fields that Kubernetes leaves out when they are empty or zero, and that expressions
/// usually ask for, have their zero value.
fn object(kind: &str, object: &json::Value) -> cel::Value {
    let mut object = object.plain();
    let mut fill = |part: &str, field: &str, zero: Value| {
        if let Some(fields) = object.as_object_mut()
            && let Some(part) = fields.entry(part).or_insert_with(|| plain!({})).as_object_mut()
        {
            part.entry(field).or_insert(zero);
        }
    };
    fill("metadata", "labels", plain!({}));
    fill("metadata", "annotations", plain!({}));
    match kind {
        "pods" => fill("spec", "nodeName", plain!("")),
        "nodes" => {
            fill("spec", "taints", plain!([]));
            fill("spec", "unschedulable", plain!(false));
        }
        "deployments.apps" | "replicasets.apps" => {
            for field in ["replicas", "readyReplicas", "availableReplicas", "observedGeneration"] {
                fill("status", field, plain!(0));
            }
        }
        _ => {}
    }
    value(&object)
}

/// JSON as CEL has it; whole numbers are `int`, as in Kubernetes' own use of CEL.
pub fn value(json: &Value) -> cel::Value {
    match json {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            mapping(fields.iter().map(|(key, item)| (key.as_str(), value(item))))
        }
    }
}

fn mapping<'a>(entries: impl Iterator<Item = (&'a str, cel::Value)>) -> cel::Value {
    let map = entries.map(|(key, value)| (cel::objects::Key::from(key), value)).collect();
    cel::Value::Map(cel::objects::Map { map: Arc::new(map) })
}
