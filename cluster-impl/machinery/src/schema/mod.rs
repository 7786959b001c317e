//! Facts about every type of the API: fields, shapes, list types, merge keys, and what Go makes of a field.
//!
//! The data files are made by `ci/schema/generate.py` and `ci/schema/go_facts.py`, which also describe their
//! formats. They are parsed once, at the first question.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::Kind;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let file: File = serde_json::from_str(include_str!("../../schema/v1.33.json"))
        .expect("the data file is generated and covered by tests");
    Schema::new(file, include_str!("../../schema/go.txt"))
});

/// The name of every field, for those who would keep a copy of it.
static NAMES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    SCHEMA.types.values().flat_map(|fact| fact.fields.keys().map(String::as_str)).collect()
});

const PREFIX: &str = "io.k8s.api.";

/// What is known of a type.
#[derive(Debug, PartialEq, Eq)]
pub struct TypeFact {
    /// Full name, such as `io.k8s.api.core.v1.Pod`.
    pub name: String,
    /// Group, version and kind, if objects of this type are sent on their own.
    pub kind: Option<(String, String, String)>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// Fields by name.
    pub fields: BTreeMap<String, FieldFact>,
    /// Whether server-side apply takes an object of this type as one value.
    pub is_atomic: bool,
    /// Fields that Go writes even when they are zero, in order of name.
    pub always: Vec<String>,
    /// Whether there may be fields that it does not name.
    pub is_open: bool,
}

/// What is known of a field.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldFact {
    /// What its value looks like.
    pub shape: Shape,
    /// How a list is merged by server-side apply.
    pub list: ListType,
    /// Whether a strategic merge patch merges the list instead of replacing it.
    pub merge: bool,
    /// The key by which a strategic merge patch finds an item.
    pub merge_key: Option<String>,
    /// Whether a strategic merge patch may name the keys to retain.
    pub retain_keys: bool,
    /// Whether server-side apply takes a map or an object as one value, whatever its type says.
    pub is_atomic: Option<bool>,
    /// Whether Go holds it by pointer, so that zero is not the same as absent.
    pub is_pointer: bool,
    /// What the key of a list's item is taken for where it is left out.
    pub default: Option<serde_json::Value>,
}

/// How a list is merged by server-side apply.
#[derive(Debug, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map, by these keys.
    Map(Vec<String>),
}

/// What a value looks like.
#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// Base64.
    Bytes,
    /// RFC 3339.
    Time,
    /// Integer of 32 bits.
    Int32,
    /// Integer of 64 bits.
    Int64,
    /// True or false.
    Bool,
    /// Number.
    Double,
    /// A quantity.
    Quantity,
    /// A number or a text, such as a port.
    IntOrString,
    /// Anything.
    Any,
    /// An object of the named type.
    Ref(String),
    /// An object of this type, which has no name by which it could be found.
    Own(&'static TypeFact),
    /// A list.
    List(Box<Shape>),
    /// A map from text.
    Map(Box<Shape>),
}

#[derive(Deserialize)]
struct File {
    types: BTreeMap<String, FileType>,
}

#[derive(Deserialize)]
struct FileType {
    #[serde(default, rename = "k")]
    kinds: Vec<(String, String, String)>,
    #[serde(default, rename = "a")]
    atomic: u8,
    #[serde(default, rename = "r")]
    required: Vec<String>,
    #[serde(rename = "f")]
    fields: BTreeMap<String, String>,
}

struct Schema {
    types: BTreeMap<String, TypeFact>,
    /// By kind: group, version and the type's name.
    kinds: BTreeMap<String, Vec<(String, String, String)>>,
}

impl Schema {
    fn new(file: File, go: &str) -> Self {
        let mut kinds: BTreeMap<String, Vec<_>> = BTreeMap::new();
        let mut go: BTreeMap<&str, Vec<(&str, &str)>> = go
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let name = words.next()?;
                Some((name, words.filter_map(|word| word.split_once(':')).collect()))
            })
            .collect();
        let types = file.types.into_iter().map(|(name, fact)| {
            let name = full_name(&name);
            let kind = fact.kinds.into_iter().next();
            if let Some((group, version, kind)) = kind.clone() {
                kinds.entry(kind).or_default().push((group, version, name.clone()));
            }
            let fields = fact.fields.into_iter().map(|(field, text)| (field, read_field(&text)));
            let mut fields: BTreeMap<String, FieldFact> = fields.collect();
            let mut always = Vec::new();
            for (field, letters) in go.remove(name.as_str()).unwrap_or_default() {
                if letters.contains('a') {
                    always.push(field.to_owned());
                }
                if let Some(fact) = fields.get_mut(field) {
                    fact.is_pointer = letters.contains('p');
                }
            }
            let (required, is_atomic) = (fact.required, fact.atomic == 1);
            let is_open = false;
            (name.clone(), TypeFact { name, kind, required, fields, is_atomic, always, is_open })
        });
        Self { types: types.collect(), kinds }
    }
}

/// The type of a kind. Every kind of the registry has one; a test holds that.
pub fn type_of(kind: &Kind) -> &'static TypeFact {
    if let Some(custom) = kind.custom {
        return custom.fact;
    }
    type_of_gvk(kind.group, kind.version, kind.kind).expect("every registered kind has a type")
}

/// The type of a kind by group, version and kind; also of kinds that are not served.
pub fn type_of_gvk(group: &str, version: &str, kind: &str) -> Option<&'static TypeFact> {
    let mut of_name = SCHEMA.kinds.get(kind)?.iter().rev();
    let (_, _, name) = of_name.find(|known| known.0 == group && known.1 == version)?;
    SCHEMA.types.get(name)
}

/// A type by its full name.
pub fn type_named(name: &str) -> Option<&'static TypeFact> {
    SCHEMA.types.get(name)
}

/// The schema's own copy of a field's name, if any type has such a field.
pub(crate) fn field_name(name: &str) -> Option<&'static str> {
    NAMES.get(name).copied()
}

/// Every type, in order of name.
pub fn types() -> impl Iterator<Item = &'static TypeFact> {
    SCHEMA.types.values()
}

impl TypeFact {
    /// A field by name.
    pub fn field(&self, name: &str) -> Option<&FieldFact> {
        self.fields.get(name)
    }
}

impl Shape {
    /// The type of an object, or of the items of a list or map of objects.
    pub fn item_type(&self) -> Option<&'static TypeFact> {
        match self {
            Self::Ref(name) => type_named(name),
            Self::Own(fact) => Some(fact),
            Self::List(item) | Self::Map(item) => item.item_type(),
            _ => None,
        }
    }
}

impl FieldFact {
    /// A field of which no more is known than its shape.
    pub(crate) fn plain(shape: Shape) -> Self {
        Self {
            shape,
            list: ListType::Atomic,
            merge: false,
            merge_key: None,
            retain_keys: false,
            is_atomic: None,
            is_pointer: false,
            default: None,
        }
    }
}

fn full_name(short: &str) -> String {
    if short.starts_with("io.k8s.") { short.to_owned() } else { format!("{PREFIX}{short}") }
}

fn read_field(text: &str) -> FieldFact {
    let mut words = text.split(' ');
    let shape = read_shape(words.next().unwrap_or_default());
    let mut fact = FieldFact::plain(shape);
    for word in words {
        match word.split_once(':').unwrap_or((word, "")) {
            ("set", _) => fact.list = ListType::Set,
            ("map", keys) => {
                fact.list = ListType::Map(keys.split(',').map(str::to_owned).collect())
            }
            ("merge", "") => fact.merge = true,
            ("merge", key) => (fact.merge, fact.merge_key) = (true, Some(key.to_owned())),
            ("retainKeys", _) => fact.retain_keys = true,
            ("whole", _) => fact.is_atomic = Some(true),
            ("parts", _) => fact.is_atomic = Some(false),
            _ => {}
        }
    }
    fact
}

fn read_shape(text: &str) -> Shape {
    let inner = || Box::new(read_shape(&text[1..text.len() - 1]));
    match text {
        "string" => Shape::String,
        "byte" => Shape::Bytes,
        "time" => Shape::Time,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "bool" => Shape::Bool,
        "double" => Shape::Double,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        _ if text.starts_with('[') => Shape::List(inner()),
        _ if text.starts_with('{') => Shape::Map(inner()),
        _ => text.strip_prefix('#').map_or(Shape::Any, |name| Shape::Ref(full_name(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_kind_has_a_type() {
        for kind in crate::kinds::ALL {
            let fact = type_of(kind);
            assert!(fact.field("metadata").is_some(), "{}", kind.id);
            assert_eq!(fact.field("status").is_some(), kind.has_status || kind.kind == "Service");
        }
    }

    #[test]
    fn references_point_at_types() {
        fn target(shape: &Shape) -> Option<&str> {
            match shape {
                Shape::Ref(name) => Some(name),
                Shape::List(item) | Shape::Map(item) => target(item),
                _ => None,
            }
        }
        let mut seen = 0;
        for fact in types() {
            for (name, field) in &fact.fields {
                if let Some(to) = target(&field.shape) {
                    assert!(type_named(to).is_some(), "{}.{name} -> {to}", fact.name);
                    seen += 1;
                }
            }
        }
        assert!(seen > 900, "{seen} references");
    }

    #[test]
    fn go_writes_structs_that_it_holds_by_value() {
        let always = |name: &str| type_named(name).unwrap().always.join(" ");
        assert_eq!(always("io.k8s.api.apps.v1.Deployment"), "metadata spec status");
        assert_eq!(always("io.k8s.api.apps.v1.DeploymentSpec"), "selector strategy template");
        assert_eq!(always("io.k8s.api.core.v1.Container"), "name resources");
        let spec = type_named("io.k8s.api.apps.v1.DeploymentSpec").unwrap();
        assert!(spec.field("replicas").unwrap().is_pointer);
        assert!(!spec.field("minReadySeconds").unwrap().is_pointer);
    }

    #[test]
    fn merge_keys_are_upstreams() {
        let spec = type_named("io.k8s.api.core.v1.PodSpec").unwrap();
        let volumes = spec.field("volumes").unwrap();
        assert_eq!(volumes.merge_key.as_deref(), Some("name"));
        assert!(volumes.merge && volumes.retain_keys);
        assert!(!spec.field("tolerations").unwrap().merge);
        let ports = type_named("io.k8s.api.core.v1.Container").unwrap().field("ports").unwrap();
        assert_eq!(ports.list, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
        let finalizers = type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .unwrap()
            .field("finalizers")
            .unwrap();
        assert!(type_named("io.k8s.api.core.v1.ObjectReference").unwrap().is_atomic);
        assert_eq!(spec.field("nodeSelector").unwrap().is_atomic, Some(true));
        assert!(finalizers.merge && finalizers.merge_key.is_none());
        assert_eq!(finalizers.list, ListType::Set);
    }
}
