//! Keys that are there twice in YAML, with their lines, in the words of upstream's reader.

use std::collections::BTreeSet;

use granit_parser::{Event, Parser};
use machinery::fields::FieldValidation;

/// More keys than this are not told.
const FOUND_MAX: usize = 100;

/// What a strict reader says of a body: a warning for each key, or all of them in one error.
pub(crate) fn problems(body: &[u8], validation: FieldValidation) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
    let doubled = doubled(text);
    match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Strict if !doubled.is_empty() => {
            vec![format!("yaml: unmarshal errors:\n  {}", doubled.join("\n  "))]
        }
        FieldValidation::Warn | FieldValidation::Strict => doubled,
    }
}

/// A collection that is being read.
enum Open {
    List,
    Map {
        seen: BTreeSet<String>,
        /// The next node is a key.
        is_key: bool,
    },
}

/// The keys of the first document that are there twice. Who cannot parse it has said so: what was found until
/// then is told.
fn doubled(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        match event {
            Event::Scalar(value, ..) => {
                if let Some(Open::Map { seen, is_key: true }) = open.last_mut()
                    // A merge key may come again.
                    && value != "<<"
                    && !seen.insert(value.to_string())
                    && found.len() < FOUND_MAX
                {
                    let line = span.start.line();
                    found.push(format!("line {line}: key {value:?} already set in map"));
                }
                end_node(&mut open);
            }
            Event::Alias(..) => end_node(&mut open),
            Event::MappingStart(..) => {
                open.push(Open::Map { seen: BTreeSet::new(), is_key: true });
            }
            Event::SequenceStart(..) => open.push(Open::List),
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                end_node(&mut open);
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    found
}

/// After a key comes its value, after that a key.
fn end_node(open: &mut [Open]) {
    if let Some(Open::Map { is_key, .. }) = open.last_mut() {
        *is_key = !*is_key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_with_their_lines() {
        let text = "a: 1\nb:\n  c: [{d: 1, d: 2}]\n  ? [x]\n  : y\n  c: {}\n  'e': &x 1\n  \"e\": *x\na: b\nf: b\n---\na: 1\na: 2\n";
        let told = [
            "line 3: key \"d\" already set in map",
            "line 6: key \"c\" already set in map",
            "line 8: key \"e\" already set in map",
            "line 9: key \"a\" already set in map",
        ];
        assert_eq!(problems(text.as_bytes(), FieldValidation::Warn), told);
        let error = format!("yaml: unmarshal errors:\n  {}", told.join("\n  "));
        assert_eq!(problems(text.as_bytes(), FieldValidation::Strict), [error]);
        assert_eq!(problems(text.as_bytes(), FieldValidation::Ignore), Vec::<String>::new());
    }

    #[test]
    fn json_is_yaml_and_what_is_neither_tells_nothing_more() {
        let json = b"{\n\t\"a\": 1,\n\t\"a\": {\"b\": null, \"b\": []}}";
        let told = ["line 3: key \"a\" already set in map", "line 3: key \"b\" already set in map"];
        assert_eq!(problems(json, FieldValidation::Warn), told);
        assert_eq!(problems(b"a: [", FieldValidation::Strict), Vec::<String>::new());
        assert_eq!(problems(b"\xff", FieldValidation::Strict), Vec::<String>::new());
        let merged = b"x: &x {a: 1}\ny: {<<: *x, <<: *x}";
        assert_eq!(problems(merged, FieldValidation::Strict), Vec::<String>::new());
    }
}
