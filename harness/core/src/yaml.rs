//! The only door to YAML: bounded, and every error has its file, line and column.
//!
//! A file becomes [`Document`]s: plain values, and a way back from a path in them to a place in the text.
//! Limits: [`SIZE_MAX`] bytes, [`DEPTH_MAX`] levels, [`NODES_MAX`] nodes with aliases expanded.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The largest file that is read. The largest of ours is a hundredth of it.
pub const SIZE_MAX: usize = 1 << 20;
/// The deepest nesting.
pub const DEPTH_MAX: usize = 64;
/// The most nodes of one document: a few aliases of aliases would otherwise fill the memory.
pub const NODES_MAX: usize = 100_000;

/// One step from a value into it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// To the value of this key.
    Key(String),
    /// To this item.
    Index(usize),
}

/// The way from a document's root to a value in it.
pub type Path = Vec<Part>;

/// A path for people: `spec.steps[3].within`.
pub fn show_path(path: &[Part]) -> String {
    let mut text = String::new();
    for part in path {
        match part {
            Part::Key(key) if text.is_empty() => text.push_str(key),
            Part::Key(key) => text.push_str(&format!(".{key}")),
            Part::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// A text and where it came from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, for people.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file.
    pub source: Arc<Source>,
    /// Which document of the file, from 0.
    pub index: usize,
    /// What it says.
    pub value: Value,
}

/// Something wrong in a file, with its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 for the whole file.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Everything wrong in a file, in order of place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Document {
    /// A problem at the place of a path. A path that ends in a key points at the key.
    pub fn problem(
        &self,
        path: &[Part],
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Problem {
        let (line, column) = self.locate(path);
        Problem {
            file: self.source.name.clone(),
            line,
            column,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Line and column of a path, both from 1. Of a path that does not exist: of its nearest parent.
    pub fn locate(&self, path: &[Part]) -> (usize, usize) {
        // The parser tells places only in errors: walk to the value and fail there on purpose.
        let Some(document) = serde_yaml::Deserializer::from_str(&self.source.text).nth(self.index)
        else {
            return (1, 1);
        };
        let Err(error) = (Walk { path }).deserialize(document) else { return (1, 1) };
        match error.location() {
            Some(location) => (location.line(), location.column()),
            None => (1, 1),
        }
    }
}

/// Reads every document of a file. Empty documents are left out.
pub fn parse(name: &str, text: &str) -> Result<Vec<Document>, Problems> {
    let fail = |line, column, message: String, hint: &str| {
        Problems(vec![Problem {
            file: name.to_string(),
            line,
            column,
            message,
            hint: hint.to_string(),
        }])
    };
    if text.len() > SIZE_MAX {
        let message = format!("the file has {} bytes; at most {SIZE_MAX} are read", text.len());
        return Err(fail(0, 0, message, "split it"));
    }
    let source = Arc::new(Source { name: name.to_string(), text: text.to_string() });
    let mut documents = Vec::new();
    for (index, deserializer) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let mut nodes = 0;
        let value =
            Tree { depth: 0, nodes: &mut nodes }.deserialize(deserializer).map_err(|error| {
                let (line, column) =
                    error.location().map_or((1, 1), |place| (place.line(), place.column()));
                let (message, hint) = explain(&error.to_string());
                fail(line, column, message, hint)
            })?;
        if !value.is_null() {
            documents.push(Document { source: Arc::clone(&source), index, value });
        }
    }
    Ok(documents)
}

/// Writes a value as YAML.
pub fn write<T: Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}

/// Reads data that this program wrote itself, such as a plan.
pub fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}

/// The parser's message without its place, and a hint for the usual mistakes.
fn explain(message: &str) -> (String, &'static str) {
    let message = without_places(message);
    let hint = if message.contains("mapping values are not allowed") {
        "quote a text that contains `: `"
    } else if message.contains("found character that cannot start any token") {
        "indent with spaces, and quote a text that begins with @, ` or %"
    } else if message.contains("did not find expected") {
        "look for a missing quote, bracket or dash on this line or the one before"
    } else if message.contains("repetition limit") {
        "aliases of aliases grow too fast: write it out"
    } else {
        ""
    };
    (message, hint)
}

/// A message without its ` at line 2 column 3`, which stands in front of it already.
fn without_places(message: &str) -> String {
    let mut parts = message.split(" at line ");
    let mut text = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let is_place = |c: char| c.is_ascii_digit() || c == ' ';
        let rest = part.trim_start_matches(is_place);
        let rest = rest.strip_prefix("column").unwrap_or(rest);
        text.push_str(rest.trim_start_matches(is_place));
    }
    text
}

/// Reads a value within the limits.
struct Tree<'a> {
    depth: usize,
    nodes: &'a mut usize,
}

impl Tree<'_> {
    fn child(&mut self) -> Tree<'_> {
        Tree { depth: self.depth + 1, nodes: self.nodes }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.nodes += 1;
        if *self.nodes > NODES_MAX {
            return Err(D::Error::custom(format!("more than {NODES_MAX} values in one document")));
        }
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(E::custom("infinite and undefined numbers have no meaning here")),
        }
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.child())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = access.next_key_seed(KeyText { known: Some(&fields) })? {
            let value = access.next_value_seed(self.child())?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("YAML tags have no meaning here"))
    }
}

/// A key: a string, and new to its mapping.
struct KeyText<'a> {
    known: Option<&'a Map<String, Value>>,
}

impl<'de> DeserializeSeed<'de> for KeyText<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeyText<'_> {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a text; quote it")
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<String, E> {
        if self.known.is_some_and(|known| known.contains_key(value)) {
            return Err(E::custom(format!("the key `{value}` stands twice in one mapping")));
        }
        Ok(value.to_string())
    }
}

/// Goes down a path and fails where it ends, so that the parser tells the place.
struct Walk<'a> {
    path: &'a [Part],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.path.first() {
            None => deserializer.deserialize_any(Here),
            Some(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("here")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some(Part::Index(wanted)) = self.path.first() else { return Err(A::Error::custom("")) };
        let mut index = 0;
        loop {
            let item = if index == *wanted {
                access.next_element_seed(Walk { path: &self.path[1..] })?
            } else {
                access.next_element::<serde::de::IgnoredAny>()?.map(|_| ())
            };
            if item.is_none() {
                return Err(A::Error::custom(""));
            }
            index += 1;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some(Part::Key(wanted)) = self.path.first() else { return Err(A::Error::custom("")) };
        let is_last = self.path.len() == 1;
        while let Some(found) = access.next_key_seed(WantedKey { wanted, fails: is_last })? {
            if found {
                access.next_value_seed(Walk { path: &self.path[1..] })?;
            } else {
                access.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        Err(A::Error::custom(""))
    }
}

/// Tells whether a key is the wanted one; fails on it if the path ends there.
struct WantedKey<'a> {
    wanted: &'a str,
    fails: bool,
}

impl<'de> DeserializeSeed<'de> for WantedKey<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for WantedKey<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<bool, E> {
        let found = value == self.wanted;
        if found && self.fails { Err(E::custom("")) } else { Ok(found) }
    }
}

/// Fails on anything.
struct Here;

impl Visitor<'_> for Here {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.')
            .filter(|part| !part.is_empty())
            .map(|part| match part.parse() {
                Ok(index) => Part::Index(index),
                Err(_) => Part::Key(part.to_string()),
            })
            .collect()
    }

    const TEXT: &str = "# a comment\nspec:\n  steps:\n  - wait: 3s\n  - fault: x\n    on: {a: 1, b: [2, 3]}\n---\nother: &a\n  deep: 1\nalias: *a\n";

    #[test]
    fn paths_have_places() {
        let documents = parse("a.yaml", TEXT).unwrap();
        for (document, text, place) in [
            (0, "spec", (2, 1)),
            (0, "spec.steps.0", (4, 5)),
            (0, "spec.steps.0.wait", (4, 5)),
            (0, "spec.steps.1.on", (6, 5)),
            (0, "spec.steps.1.on.b", (6, 16)),
            (0, "spec.steps.1.on.b.1", (6, 23)),
            (1, "other.deep", (9, 3)),
        ] {
            assert_eq!(documents[document].locate(&path(text)), place, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, place, message) in [
            ("a: 1\na: 2\n", (2, 1), "twice"),
            ("a: b: c\n", (1, 5), "mapping values"),
            ("a: 1\n1: 2\n", (2, 1), "quote it"),
            ("a: [1\nb: 2\n", (2, 2), "']', while parsing"),
            ("a: !tag x\n", (1, 4), "tags"),
        ] {
            let problems = parse("a.yaml", text).unwrap_err();
            let problem = &problems.0[0];
            assert!(problem.message.contains(message), "{text}: {problem}");
            assert_eq!((problem.line, problem.column), place, "{text}: {problem}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let alias = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 9].join(", ")));
        }
        assert!(parse("bomb.yaml", &bomb).is_err());
        assert!(parse("deep.yaml", &"[".repeat(100)).is_err());
        assert!(parse("large.yaml", &" ".repeat(SIZE_MAX + 1)).is_err());
    }
}
