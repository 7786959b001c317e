//! Sets of field paths, as `fieldsV1` writes them.
//!
//! Invariant: the nodes of a set are in upstream's order (names, then keys, values, indices) and none is
//! empty: each is a member itself or has members below it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Number, Value};

/// One step of a path.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// A field of an object, or a key of a map: `f:name`.
    Field(Cow<'static, str>),
    /// An item of a list that is merged by these fields, in order of name: `k:{"name":"web"}`.
    Key(Vec<(Cow<'static, str>, Value)>),
    /// An item of a set: `v:"value"`.
    Value(Value),
    /// An item of any other list: `i:0`.
    Index(usize),
}

/// A set of field paths.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldSet {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    element: PathElement,
    is_member: bool,
    inside: FieldSet,
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other).is_eq()
    }
}

impl Eq for PathElement {}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare(other)
    }
}

impl PathElement {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(one), Self::Field(two)) => one.cmp(two),
            (Self::Key(one), Self::Key(two)) => {
                let pairs = one.iter().zip(two).map(|((name, value), (other, against))| {
                    name.cmp(other).then_with(|| compare(value, against))
                });
                let first = pairs.into_iter().find(|order| order.is_ne());
                first.unwrap_or_else(|| one.len().cmp(&two.len()))
            }
            (Self::Value(one), Self::Value(two)) => compare(one, two),
            (Self::Index(one), Self::Index(two)) => one.cmp(two),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// As `fieldsV1` writes it.
    pub(super) fn write(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(pairs) => {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(name, value)| format!("{}:{value}", Value::from(name.as_ref())))
                    .collect();
                format!("k:{{{}}}", pairs.join(","))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// Reads what [`PathElement::write`] writes; `None` for what a newer version may have written.
    fn read(text: &str) -> Result<Option<Self>, String> {
        let Some((form, rest)) = text.split_once(':') else {
            return Err(format!("missing colon: {text}"));
        };
        let json = || serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
        Ok(Some(match form {
            "f" => Self::Field(known_name(rest)),
            "k" => {
                let Value::Object(pairs) = json()? else {
                    return Err(format!("not a key: {text}"));
                };
                Self::Key(
                    pairs.into_iter().map(|(name, value)| (known_name(&name), value)).collect(),
                )
            }
            "v" => Self::Value(json()?),
            "i" => Self::Index(rest.parse().map_err(|_| format!("not an index: {text}"))?),
            _ => return Ok(None),
        }))
    }
}

/// As conflicts name it: `.spec`, `[name="web"]`, `[="value"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A name that the schema knows needs no memory of its own.
pub(super) fn known_name(name: &str) -> Cow<'static, str> {
    crate::schema::field_name(name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

/// Numbers, texts, booleans, lists, maps, null: upstream's order of values. It is total, as sorting
/// demands: of numbers that are the same to a float, the one with a fraction comes first.
fn compare(one: &Value, two: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => {
            let float = |number: &Number| number.as_f64().unwrap_or_default();
            let whole = |number: &Number| {
                number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
            };
            float(one).total_cmp(&float(two)).then_with(|| whole(one).cmp(&whole(two)))
        }
        (Value::String(one), Value::String(two)) => one.cmp(two),
        (Value::Bool(one), Value::Bool(two)) => one.cmp(two),
        (one, two) => rank(one).cmp(&rank(two)).then_with(|| one.to_string().cmp(&two.to_string())),
    }
}

/// What becomes of two sets' members.
#[derive(Clone, Copy)]
enum Rule {
    Union,
    Intersection,
    Difference,
    /// As difference, and below a member of the second set nothing stays either.
    Exclusion,
}

impl FieldSet {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many paths are in it.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| usize::from(node.is_member) + node.inside.len()).sum()
    }

    /// A set of one path.
    pub fn of(path: &[PathElement]) -> Self {
        let mut set = Self::default();
        if let Some((first, rest)) = path.split_first() {
            set.put(first.clone(), rest.is_empty(), Self::of(rest));
        }
        set
    }

    /// A set of paths of names, such as `metadata.name`.
    pub fn of_names(paths: &[&str]) -> Self {
        paths.iter().fold(Self::default(), |set, path| {
            let path: Vec<_> =
                path.split('.').map(|name| PathElement::Field(known_name(name))).collect();
            set.union(&Self::of(&path))
        })
    }

    /// Adds an element with what is below it; nothing if it is neither a member nor has members.
    /// Each element is put once.
    pub(super) fn put(&mut self, element: PathElement, is_member: bool, inside: FieldSet) {
        if !is_member && inside.is_empty() {
            return;
        }
        let at = match self.nodes.last() {
            Some(last) if last.element.compare(&element).is_ge() => {
                self.nodes.partition_point(|node| node.element.compare(&element).is_lt())
            }
            _ => self.nodes.len(),
        };
        self.nodes.insert(at, Node { element, is_member, inside });
    }

    fn find(&self, element: &PathElement) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.element.compare(element)).ok()?;
        self.nodes.get(at)
    }

    /// Whether the element itself is a member, and what is below it.
    pub(super) fn at(&self, element: &PathElement) -> (bool, Option<&FieldSet>) {
        match self.find(element) {
            None => (false, None),
            Some(node) => (node.is_member, (!node.inside.is_empty()).then_some(&node.inside)),
        }
    }

    /// Whether a path is in it.
    pub fn has(&self, path: &[PathElement]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        match self.find(first) {
            None => false,
            Some(node) if rest.is_empty() => node.is_member,
            Some(node) => node.inside.has(rest),
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, Rule::Union)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, Rule::Intersection)
    }

    /// What is in this set alone. A parent stays when its child goes, and the other way round.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, Rule::Difference)
    }

    /// As [`FieldSet::difference`], but below a member of `other` nothing stays.
    #[must_use]
    pub fn excluding(&self, other: &Self) -> Self {
        self.combine(other, Rule::Exclusion)
    }

    fn combine(&self, other: &Self, rule: Rule) -> Self {
        let is_union = matches!(rule, Rule::Union);
        if other.is_empty() || self.is_empty() {
            return match rule {
                Rule::Union if self.is_empty() => other.clone(),
                Rule::Intersection => Self::default(),
                _ => self.clone(),
            };
        }
        let keeps_own = !matches!(rule, Rule::Intersection);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut ours, mut theirs) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(two)) => one.element.compare(&two.element),
            };
            match order {
                Ordering::Less => nodes.extend(ours.next().filter(|_| keeps_own).cloned()),
                Ordering::Greater => nodes.extend(theirs.next().filter(|_| is_union).cloned()),
                Ordering::Equal => {
                    let (Some(one), Some(two)) = (ours.next(), theirs.next()) else { break };
                    nodes.extend(one.combine(two, rule));
                }
            }
        }
        Self { nodes }
    }

    /// Every path in it: those of one level before those below.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, found: &mut Vec<Vec<PathElement>>) {
        for node in self.nodes.iter().filter(|node| node.is_member) {
            let mut path = prefix.clone();
            path.push(node.element.clone());
            found.push(path);
        }
        for node in &self.nodes {
            prefix.push(node.element.clone());
            node.inside.collect(prefix, found);
            prefix.pop();
        }
    }

    /// The same set, each member decided anew by `decide(element, is_member, inside)`.
    pub(super) fn map_members(
        &self,
        decide: &mut dyn FnMut(&PathElement, bool, &FieldSet) -> (bool, FieldSet),
    ) -> Self {
        let mut set = Self { nodes: Vec::with_capacity(self.nodes.len()) };
        for node in &self.nodes {
            let (is_member, inside) = decide(&node.element, node.is_member, &node.inside);
            set.put(node.element.clone(), is_member, inside);
        }
        set
    }

    /// The elements of this level: whether each is a member, and what is below it.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&PathElement, bool, &FieldSet)> {
        self.nodes.iter().map(|node| (&node.element, node.is_member, &node.inside))
    }

    /// As `fieldsV1`.
    pub fn to_value(&self) -> Value {
        self.to_fields(false)
    }

    /// As what stands in `fieldsV1` for an element with this below it.
    pub(super) fn to_fields(&self, is_member: bool) -> Value {
        Value::Object(self.to_map(is_member))
    }

    fn to_map(&self, is_member: bool) -> Map<String, Value> {
        let mut map = Map::new();
        if is_member && !self.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            let inside = Value::Object(node.inside.to_map(node.is_member));
            map.insert(node.element.write(), inside);
        }
        map
    }

    /// Reads `fieldsV1`.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else {
            return Err("fieldsV1 must be an object".to_owned());
        };
        let mut nodes: Vec<Node> = Vec::with_capacity(map.len());
        for (key, value) in map.iter().filter(|(key, _)| *key != ".") {
            let Some(element) = PathElement::read(key)? else { continue };
            let inside = Self::from_value(value)?;
            let is_member = inside.is_empty() || value.get(".").is_some();
            nodes.push(Node { element, is_member, inside });
        }
        nodes.sort_by(|one, two| one.element.cmp(&two.element));
        // One element may be written in several ways.
        nodes.dedup_by(|next, kept| {
            let is_same = next.element == kept.element;
            if is_same && let Some(both) = kept.combine(next, Rule::Union) {
                *kept = both;
            }
            is_same
        });
        Ok(Self { nodes })
    }
}

impl Node {
    fn combine(&self, other: &Self, rule: Rule) -> Option<Self> {
        let is_member = match rule {
            Rule::Union => self.is_member || other.is_member,
            Rule::Intersection => self.is_member && other.is_member,
            Rule::Difference => self.is_member && !other.is_member,
            Rule::Exclusion if other.is_member => return None,
            Rule::Exclusion => self.is_member,
        };
        let inside = self.inside.combine(&other.inside, rule);
        (is_member || !inside.is_empty()).then(|| Self {
            element: self.element.clone(),
            is_member,
            inside,
        })
    }
}

/// A path as conflicts name it, such as `.spec.containers[name="web"].image`.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_value(&value).unwrap()
    }

    fn abc() -> FieldSet {
        set(
            json!({"f:a": {".": {}, "f:b": {}, "f:c": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}}}}}),
        )
    }

    #[test]
    fn what_is_read_is_written_again() {
        for value in [
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {".": {}, "f:b": {}}, "f:z": {}}),
            json!({"f:l": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}),
            json!({"f:s": {"v:\"x\"": {}, "v:1": {}, "i:3": {}}}),
        ] {
            assert_eq!(set(value.clone()).to_value(), value);
        }
        // A member that has nothing below it is written without its dot.
        assert_eq!(set(json!({"f:a": {".": {}}})).to_value(), json!({"f:a": {}}));
        for wrong in
            [json!([]), json!({"a": {}}), json!({"f:a": 1}), json!({"i:x": {}}), json!({"k:1": {}})]
        {
            assert!(FieldSet::from_value(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(set(json!({"x:new": {}, "f:a": {}})), set(json!({"f:a": {}})));
    }

    #[test]
    fn sets_combine_as_upstreams() {
        let (abc, b) = (abc(), set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(abc.len(), 4);
        assert_eq!(abc.union(&b), abc);
        assert_eq!(abc.intersection(&b), b);
        assert_eq!(abc.difference(&b).len(), 3);
        // A parent that goes leaves its children, unless they are excluded with it.
        let parent = set(json!({"f:a": {}}));
        assert_eq!(
            abc.difference(&parent).to_value(),
            json!({"f:a": {"f:b": {}, "f:c": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}}}}})
        );
        assert!(abc.excluding(&parent).is_empty());
        assert_eq!(parent.excluding(&b), parent);
        assert_eq!(b.difference(&b), FieldSet::default());
        assert_eq!(b.union(&FieldSet::default()), b);
    }

    #[test]
    fn keys_are_ordered_by_value_and_paths_by_level() {
        let ports = set(
            json!({"f:p": {"k:{\"port\":443}": {}, "k:{\"port\":80}": {}}, "f:a": {"f:x": {}}}),
        );
        let paths: Vec<_> = ports.paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(paths, [".a.x", ".p[port=80]", ".p[port=443]"]);
        let paths: Vec<_> = abc().paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(paths, [".a", ".a.b", ".a.c[name=\"x\"]", ".a.c[name=\"x\"].name"]);
        assert!(abc().has(&abc().paths()[2]));
        assert!(!abc().has(&[]));
        assert_eq!(
            FieldSet::of_names(&["a.b", "a"]).to_value(),
            json!({"f:a": {".": {}, "f:b": {}}})
        );
    }
}
