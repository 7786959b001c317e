//! JSONPath as definitions of custom resources use it: fields, indexes, wildcards, slices and simple filters.
//!
//! Limits: no `..`, no `range`, no text around a path; a path has at most [`STEPS_MAX`] steps.

use serde_json::Value;

/// How many steps a path may have.
const STEPS_MAX: usize = 64;

/// A path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Every,
    Where(Vec<Step>, Option<(Compare, Value)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Same,
    Other,
    Less,
    More,
    AtMost,
    AtLeast,
}

impl JsonPath {
    /// Reads a path such as `.spec.replicas` or `.status.conditions[?(@.type=="Ready")].status`.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix('$').unwrap_or(text);
        steps(text).map(Self)
    }

    /// Whether the path is nothing but names of fields; those names.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// What is there; nothing where the path leads nowhere.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        follow(&self.0, value)
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if found.len() >= STEPS_MAX {
            return Err(format!("a path has at most {STEPS_MAX} steps"));
        }
        if let Some(after) = rest.strip_prefix('.') {
            if after.starts_with('.') {
                return Err("recursive descent is not supported".to_owned());
            }
            if after.starts_with('[') {
                rest = after;
                continue;
            }
            let mut name = String::new();
            let mut length = 0;
            let mut is_escaped = false;
            for c in after.chars() {
                match c {
                    _ if is_escaped => {
                        is_escaped = false;
                        name.push(c);
                    }
                    '\\' => is_escaped = true,
                    '.' | '[' => break,
                    c if c.is_whitespace() || "(){}'\"?@=<>!".contains(c) => {
                        return Err(format!("unexpected character {c:?}"));
                    }
                    c => name.push(c),
                }
                length += c.len_utf8();
            }
            if name.is_empty() {
                return Err("a field has no name".to_owned());
            }
            found.push(if name == "*" { Step::Every } else { Step::Field(name) });
            rest = &after[length..];
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after).ok_or("unterminated array")?;
            found.push(bracket(after[..end].trim())?);
            rest = &after[end + 1..];
        } else {
            return Err(format!(
                "a path begins with a dot, not with {:?}",
                rest.chars().next().unwrap_or_default()
            ));
        }
    }
    Ok(found)
}

/// Where the bracket that was opened is closed; quotes and brackets inside are passed by.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut open) = (None, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => open += 1,
            (None, ']') if open == 0 => return Some(at),
            (None, ']') => open -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filtered(filter.trim());
    }
    let number = |text: &str| -> Result<Option<i64>, String> {
        match text.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("invalid array index {text:?}")),
        }
    };
    if let Some((from, to)) = text.split_once(':') {
        return Ok(Step::Slice(number(from)?, number(to)?));
    }
    number(text)?.map(Step::Index).ok_or_else(|| "invalid array index \"\"".to_owned())
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    (text.len() >= 2 && text.ends_with(quote)).then(|| text[1..text.len() - 1].to_owned())
}

fn filtered(text: &str) -> Result<Step, String> {
    for (sign, compare) in [
        ("==", Compare::Same),
        ("!=", Compare::Other),
        ("<=", Compare::AtMost),
        (">=", Compare::AtLeast),
        ("<", Compare::Less),
        (">", Compare::More),
    ] {
        if let Some((left, right)) = text.split_once(sign) {
            let right = right.trim();
            let value = match quoted(right) {
                Some(text) => Value::String(text),
                None => serde_json::from_str(right)
                    .map_err(|_| format!("{right:?} is nothing to compare with"))?,
            };
            return Ok(Step::Where(operand(left.trim())?, Some((compare, value))));
        }
    }
    Ok(Step::Where(operand(text)?, None))
}

fn operand(text: &str) -> Result<Vec<Step>, String> {
    let rest = text.strip_prefix('@').ok_or_else(|| format!("a filter begins with @: {text:?}"))?;
    let found = steps(rest)?;
    if found.iter().any(|step| matches!(step, Step::Where(..))) {
        return Err("a filter may not hold another".to_owned());
    }
    Ok(found)
}

fn follow<'v>(steps: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return vec![value] };
    let at = |list: &[Value], index: i64| -> usize {
        let length = list.len() as i64;
        (if index < 0 { length + index } else { index }).clamp(0, length) as usize
    };
    let inner: Vec<&Value> = match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(list)) => {
            let is_there = *index >= -(list.len() as i64);
            list.get(at(list, *index)).filter(|_| is_there).into_iter().collect()
        }
        (Step::Slice(from, to), Value::Array(list)) => {
            let from = from.map_or(0, |from| at(list, from));
            let to = to.map_or(list.len(), |to| at(list, to));
            list.get(from..to).unwrap_or(&[]).iter().collect()
        }
        (Step::Every, Value::Array(list)) => list.iter().collect(),
        (Step::Every, Value::Object(map)) => map.values().collect(),
        (Step::Where(operand, compare), Value::Array(list)) => {
            list.iter().filter(|one| holds(operand, compare.as_ref(), one)).collect()
        }
        _ => Vec::new(),
    };
    inner.into_iter().flat_map(|value| follow(rest, value)).collect()
}

fn holds(operand: &[Step], compare: Option<&(Compare, Value)>, value: &Value) -> bool {
    let found = follow(operand, value);
    let Some((compare, wanted)) = compare else { return !found.is_empty() };
    found.first().is_some_and(|found| {
        let order = match (found, wanted) {
            (Value::String(one), Value::String(two)) => Some(one.cmp(two)),
            (one, two) => {
                one.as_f64().zip(two.as_f64()).and_then(|(one, two)| one.partial_cmp(&two))
            }
        };
        match compare {
            Compare::Same => order.map_or(*found == wanted, std::cmp::Ordering::is_eq),
            Compare::Other => order.map_or(*found != wanted, std::cmp::Ordering::is_ne),
            Compare::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Compare::More => order.is_some_and(std::cmp::Ordering::is_gt),
            Compare::AtMost => order.is_some_and(std::cmp::Ordering::is_le),
            Compare::AtLeast => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_somewhere() {
        let value = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}});
        for (path, expected) in [
            (".spec['a.b']", vec![json!(1)]),
            (".spec.a\\.b", vec![json!(1)]),
            ("{.spec.list[0].n}", vec![json!("x")]),
            (".spec.list[-1].n", vec![json!("y")]),
            (".spec.list[*].v", vec![json!(1), json!(2)]),
            (".spec.list[0:1].v", vec![json!(1)]),
            (".spec.list[?(@.n==\"y\")].v", vec![json!(2)]),
            (".spec.list[?(@.v>1)].n", vec![json!("y")]),
            (".spec.list[?(@.z)].n", vec![]),
            (".spec.none.more", vec![]),
            (".spec.list[7]", vec![]),
            (".spec.list[-7]", vec![]),
        ] {
            let read = JsonPath::read(path).unwrap();
            let found: Vec<_> = read.find(&value).into_iter().cloned().collect();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["spec", "..x", ".a[", ".a[x]", ".a[?(b)]", ".a b", ".a.", ".a[?(@.b==c)]"] {
            assert!(JsonPath::read(path).is_err(), "{path}");
        }
        assert!(JsonPath::read(&".a".repeat(100)).is_err());
        assert!(JsonPath::read("é").is_err());
        assert_eq!(JsonPath::read(".a.b").unwrap().names(), Some(vec!["a", "b"]));
        assert_eq!(JsonPath::read(".a[0]").unwrap().names(), None);
    }
}
