//! Reads a document field by field, and notes every mistake instead of stopping at the first.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::Value;

use crate::target::Parameters;
use crate::yaml::{Document, Part, Path, Problem, Problems};

/// A hint that names the nearest of the known words, or all of them.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4);
    match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => String::new(),
        None => format!("known: {}", known.join(", ")),
    }
}

/// How many letters must be changed, added, removed or swapped to make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands in the document.
    pub at: Path,
}

/// Collects what is wrong with a document.
#[derive(Debug)]
pub struct Notes<'d> {
    /// The document.
    pub document: &'d Document,
    problems: RefCell<Vec<Problem>>,
}

impl<'d> Notes<'d> {
    /// Nothing is wrong yet.
    pub fn new(document: &'d Document) -> Self {
        Self { document, problems: RefCell::default() }
    }

    /// Notes a mistake.
    pub fn wrong(&self, at: &[Part], message: impl Into<String>, hint: impl Into<String>) {
        self.problems.borrow_mut().push(self.document.problem(at, message, hint));
    }

    /// Notes a mistake in another file.
    pub fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// The value, unless something was wrong.
    pub fn finish<T>(self, value: T) -> Result<T, Problems> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort();
        problems.dedup();
        Err(Problems(problems))
    }
}

/// A value in a document, and the way to it.
#[derive(Clone)]
pub struct Cursor<'a> {
    /// Where mistakes go.
    pub notes: &'a Notes<'a>,
    /// The value.
    pub value: &'a Value,
    /// Where it stands.
    pub at: Path,
}

impl<'a> Cursor<'a> {
    /// The document's root.
    pub fn root(notes: &'a Notes<'a>) -> Self {
        Self { notes, value: &notes.document.value, at: Path::new() }
    }

    /// Notes a mistake here.
    pub fn wrong(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.notes.wrong(&self.at, message, hint);
    }

    /// The field of this name, if it is there.
    pub fn get(&self, name: &str) -> Option<Cursor<'a>> {
        let value = self.value.as_object()?.get(name)?;
        let mut at = self.at.clone();
        at.push(Part::Key(name.to_string()));
        Some(Cursor { notes: self.notes, value, at })
    }

    /// The field of this name; a mistake if it is missing.
    pub fn need(&self, name: &str) -> Option<Cursor<'a>> {
        let found = self.get(name);
        if found.is_none() && self.value.is_object() {
            self.wrong(format!("`{name}` is missing"), "");
        }
        found
    }

    /// Every field.
    pub fn fields(&self) -> Vec<(&'a str, Cursor<'a>)> {
        let Some(fields) = self.value.as_object() else {
            self.wrong(format!("a mapping is expected, not {}", describe(self.value)), "");
            return Vec::new();
        };
        fields.keys().filter_map(|name| Some((name.as_str(), self.get(name)?))).collect()
    }

    /// Every item.
    pub fn items(&self) -> Vec<Cursor<'a>> {
        let Some(items) = self.value.as_array() else {
            self.wrong(
                format!("a list is expected, not {}", describe(self.value)),
                "begin with `- `",
            );
            return Vec::new();
        };
        let item = |(index, value)| {
            let mut at = self.at.clone();
            at.push(Part::Index(index));
            Cursor { notes: self.notes, value, at }
        };
        items.iter().enumerate().map(item).collect()
    }

    /// Notes every field that is not among the known ones.
    pub fn only(&self, known: &[&str]) {
        for (name, field) in self.fields() {
            if !known.contains(&name) {
                field.wrong(format!("`{name}` means nothing here"), did_you_mean(name, known));
            }
        }
    }

    /// A text that is not empty.
    pub fn text(&self) -> Option<String> {
        match self.value {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            other => {
                self.wrong(format!("a text is expected, not {}", describe(other)), quote(other));
                None
            }
        }
    }

    /// A text, with its place.
    pub fn placed_text(&self) -> Option<Placed<String>> {
        self.text().map(|value| Placed { value, at: self.at.clone() })
    }

    /// A list of texts, with their places.
    pub fn texts(&self) -> Vec<Placed<String>> {
        self.items().iter().filter_map(Cursor::placed_text).collect()
    }

    /// A whole number that is not negative.
    pub fn number(&self) -> Option<u64> {
        let number = self.value.as_u64();
        if number.is_none() {
            self.wrong(format!("a whole number is expected, not {}", describe(self.value)), "");
        }
        number
    }

    /// A duration, or arithmetic over parameters.
    pub fn duration(&self, parameters: &Parameters) -> Option<Duration> {
        let text = match self.value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => {
                let message = format!("a duration is expected, not {}", describe(other));
                self.wrong(message, "write for example `30s` or `grace + monitor`");
                return None;
            }
        };
        match crate::window::evaluate(&text, parameters) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.wrong(error.message, error.hint);
                None
            }
        }
    }
}

/// A value, for people.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(text) if text.trim().is_empty() => "an empty text".to_string(),
        Value::String(text) => format!("the text `{text}`"),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a mapping".to_string(),
    }
}

fn quote(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => format!("quote it: \"{value}\""),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named() {
        let known = ["eventually", "always", "never", "settles"];
        assert_eq!(did_you_mean("eventualy", &known), "did you mean `eventually`?");
        assert_eq!(did_you_mean("nevre", &known), "did you mean `never`?");
        assert_eq!(did_you_mean("sometimes", &known), "known: eventually, always, never, settles");
    }
}
