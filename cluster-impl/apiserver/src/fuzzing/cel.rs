//! Expressions: compiled and run, with everything that a policy or a definition lets them see.

use machinery::custom::rules::Rule;
use serde_json::json;

use super::arbitrary::Source;
use crate::cel::{Program, Variables, from_json};

const PARTS: &[&str] = &[
    "self",
    "object",
    "oldObject",
    ".a",
    ".b",
    ".c",
    "[0]",
    "['a']",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " && ",
    " || ",
    " ? ",
    " : ",
    "!",
    "-",
    " == ",
    " != ",
    " < ",
    " >= ",
    " in ",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    "1",
    "0",
    "9223372036854775807",
    "-9223372036854775808",
    "1u",
    "18446744073709551615u",
    "1.5",
    "1e308",
    "'a'",
    "'\\u00e9'",
    "b'a'",
    "r'\\d'",
    "''",
    "true",
    "null",
    "[1,2,3]",
    "{'a': 1}",
    "x",
    "y",
    ".all(x, x > 1)",
    ".exists(x, x == y)",
    ".map(x, [x])",
    ".filter(x, true)",
    ".size()",
    "size(self)",
    "has(self.a)",
    "string(self)",
    "int('1')",
    "double(1)",
    "bytes('a')",
    "type(1)",
    "dyn(self)",
    ".startsWith('a')",
    ".matches('(a+)+$')",
    ".split(',')",
    ".join('-')",
    ".replace('a', 'bb')",
    ".substring(1)",
    ".indexOf('a')",
    ".lowerAscii()",
    ".sum()",
    ".min()",
    ".isSorted()",
    "quantity('1Gi')",
    "url('https://a/b')",
    "ip('10.0.0.1')",
    "cidr('10.0.0.0/8')",
    "duration('1h')",
    "timestamp('2026-01-01T00:00:00Z')",
    ".getFullYear()",
    "optional.of(1)",
    ".?a",
    "[?0]",
    ".orValue(1)",
    "cel.bind(x, 1, x)",
    ".find('[0-9]+')",
    ".findAll('a')",
    ".format([1])",
    "semver('1.2.3')",
    "format.dns1123Label()",
    "math.greatest(1,2)",
    ".reverse()",
    "sets.contains([1],[1])",
    ".charAt(0)",
    ".trim()",
    "transformList(i, v, v)",
    ".flatten()",
    "lists.range(3)",
];

pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut text = String::new();
    match source.once_in(2) {
        true => text.push_str(&String::from_utf8_lossy(source.rest())),
        false => {
            while !source.is_empty() && text.len() < 2000 {
                text.push_str(source.pick(PARTS));
            }
        }
    }
    let _ = Rule::read(&json!({"rule": text, "messageExpression": text}));
    let Ok(program) = Program::compile(&text) else { return };
    let _ = program.answer_type();
    let mut variables = Variables::new();
    let object = json!({"a": [1, 2, 3], "b": {"a": "text", "é": null}, "c": 1.5});
    for name in ["self", "object"] {
        variables.set(name, from_json(&object));
    }
    variables.set("oldObject", from_json(&json!(null)));
    let _ = program.decide(&variables);
}
