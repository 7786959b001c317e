//! Tables of expressions; odd ones; ones that would cost too much.

use serde_json::json;

use super::*;

fn variables() -> Variables {
    let mut variables = Variables::new();
    let object = json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"b": "2", "a": "1", "c": "3"}},
        "spec": {"replicas": 3, "ratio": 0.5, "names": ["x", "y"], "big": u64::MAX},
        "nothing": null,
    });
    variables.set("object", from_json(&object));
    variables.set("oldObject", Value::Null);
    variables
}

fn run(text: &str) -> Result<Value, String> {
    Program::compile(text)?.run(&variables())
}

fn holds(text: &str) {
    assert_eq!(run(text), Ok(Value::Bool(true)), "{text}");
}

#[test]
fn what_rules_are_made_of() {
    for text in [
        "object.spec.replicas == 3 && object.spec.replicas + 1 > 3",
        "object.metadata.namespace == 'shop' && object['metadata']['name'] == \"web\"",
        "has(object.spec.replicas) && !has(object.spec.other)",
        "object.?spec.?other.orValue(7) == 7 && object.?spec.?replicas.orValue(7) == 3",
        "object.spec[?'other'].hasValue() == false",
        "object.metadata.labels.map(key, key) == ['a', 'b', 'c']",
        "object.metadata.labels.all(key, object.metadata.labels[key] != '4')",
        "object.spec.names.exists(name, name == 'y') && object.spec.names.exists_one(n, n == 'x')",
        "object.spec.names.filter(name, name != 'x').size() == 1 && size('grün') == 4",
        "object.spec.names.map(name, name == 'y', name + '!') == ['y!']",
        "object.spec.names.all(index, name, index < 2 && name != '')",
        "object.metadata.labels.transformMap(key, value, key + value) == {'a': 'a1', 'b': 'b2', 'c': 'c3'}",
        "object.spec.names.transformList(i, name, i > 0, name) == ['y']",
        "cel.bind(n, object.spec.replicas, n * n) == 9",
        "['b', 'a'].sortBy(x, x) == ['a', 'b']",
        "optional.of(2).optMap(x, x * 2).value() == 4 && !optional.none().hasValue()",
        "oldObject == null && type(object.spec.replicas) == int && type('') == string",
        "'x' in object.spec.names && 'a' in object.metadata.labels && !('d' in object.metadata.labels)",
        "quantity('1Gi').isGreaterThan(quantity('500Mi')) && 'AB'.lowerAscii() == 'ab'",
        "sets.contains([1, 2], [1]) && math.greatest(1, 2) == 2 && lists.range(2) == [0, 1]",
        "url('https://example.com/x').getHost() == 'example.com' && ip('10.0.0.1').family() == 4",
        "!format.dns1123Label().validate('fine').hasValue() && isSemver('1.2.3')",
        "'abc-1'.matches('^[a-z]+-[0-9]$') && 'a %s'.format(['b']) == 'a b'",
        "object.missing || true",
        "!(object.missing && false)",
        "[1, 2, 3].exists(x, x == 3 || object.missing)",
        "![1, 2].all(x, x == 1 && object.missing)",
        "duration('1h') > duration('59m') && timestamp('2024-01-01T00:00:00Z').getFullYear() == 2024",
        "object.spec.ratio < 1 && double('0.5') == object.spec.ratio && object.spec.big > 1",
        "b'ab' + b'c' == b'abc' && {'a': 1}.a == 1 && [1, 2][1] == 2 && -object.spec.replicas == -3",
        "'kubernetes.io/x'.split('/')[1] == 'x' && dyn(1) == 1 && bool('true')",
    ] {
        holds(text);
    }
}

#[test]
fn what_goes_wrong_when_a_rule_runs_says_so() {
    for (text, why) in [
        ("object.spec.other > 1", "no such key: other"),
        ("object.spec.replicas.other == 1", "no such overload"),
        ("oldObject.spec == 1", "no such overload"),
        ("has(oldObject.spec)", "no such overload"),
        ("object.nothing.x == 1", "no such overload"),
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("object.spec.names[5] == ''", "index out of bounds: 5"),
        ("'a' < 1", "no such overload"),
        ("1 + 'a' == ''", "no such overload"),
        ("object.spec.names.all(n, n.missing)", "no such overload"),
        ("quantity('much').sign() == 0", "'much' is not a valid quantity"),
        ("bool('maybe')", "type conversion error from 'string' to 'bool'"),
    ] {
        let answer = run(text).map(|value| format!("{value:?}"));
        let said = answer.unwrap_err();
        assert!(said.contains(why) || text.starts_with("quantity"), "{text}: {said}");
    }
    let variables = variables();
    let number = Program::compile("object.spec.replicas").unwrap();
    assert_eq!(number.decide(&variables), Err("must evaluate to bool, got int".to_owned()));
}

#[test]
fn what_cannot_be_meant_is_refused_when_it_is_written() {
    for (text, why) in [
        ("object.spec.replicas >", "Syntax error"),
        ("", "Syntax error"),
        ("object.spec.frobnicate()", "undeclared reference to 'frobnicate'"),
        ("frobnicate(1)", "undeclared reference to 'frobnicate'"),
        ("math.frobnicate(1)", "undeclared reference to 'frobnicate'"),
        ("Pod{name: 'x'}", "messages cannot be made"),
        ("other == 1", "undeclared reference to 'other'"),
        ("[1].all(x, y == 1)", "undeclared reference to 'y'"),
    ] {
        let refused = Program::compile_in(text, &["object"]).map(drop);
        let refused = refused.expect_err(text);
        assert!(refused.contains(why), "{text}: {refused}");
    }
    for fine in ["[1].all(x, x == object)", "cel.bind(y, 1, y == 1)", "type(object) == map"] {
        Program::compile_in(fine, &["object"]).unwrap();
    }
    let typed = |text: &str| Program::compile(text).unwrap().answer_type();
    assert_eq!(typed("'a' + object.x"), Some("string"));
    assert_eq!(typed("object.x == 1 ? 'a' : 'b'"), Some("string"));
    assert_eq!(typed("object.x"), None);
}

#[test]
fn a_rule_says_what_it_speaks_of() {
    let program =
        Program::compile("params.max > 1 && variables.a.b && [1].all(p, p == 1)").unwrap();
    assert_eq!(program.fields_of("variables").collect::<Vec<_>>(), ["a"]);
    assert!(program.has_name("params") && program.has_name("variables") && !program.has_name("p"));
}

#[test]
fn composed_variables_are_worked_out_once_and_when_asked_for() {
    let mut variables = variables();
    let compose = |variables: &mut Variables, name, text| {
        variables.compose(name, Program::compile(text).unwrap());
    };
    compose(&mut variables, "broken", "object.missing");
    compose(&mut variables, "replicas", "object.spec.replicas");
    compose(&mut variables, "twice", "variables.replicas * 2");
    compose(&mut variables, "round", "variables.round + 1");
    let run = |text: &str| Program::compile(text).unwrap().run(&variables);
    assert_eq!(run("variables.twice"), Ok(Value::Int(6)));
    let left = variables.left();
    assert_eq!(run("variables.twice"), Ok(Value::Int(6)));
    assert_eq!(left - variables.left(), 1, "it is known by now");
    assert_eq!(
        run("variables.broken"),
        Err("composited variable \"broken\" fails to evaluate: no such key: missing".to_owned())
    );
    assert!(run("variables.round").unwrap_err().contains("refers to itself"));
}

#[test]
fn no_rule_costs_more_than_the_budget() {
    let limit = "operation cancelled: actual cost limit exceeded";
    let numbers = "[0,1,2,3,4,5,6,7,8,9]";
    let nested = |depth: usize| {
        let open = (0..depth).map(|at| format!("{numbers}.all(x{at}, ")).collect::<String>();
        format!("{open}true{}", ")".repeat(depth))
    };
    holds(&nested(3));
    let mut doubling = "a".to_owned();
    for _ in 0..40 {
        doubling = format!("cel.bind(a, a + a, {doubling})");
    }
    for text in [
        nested(8),
        format!("cel.bind(a, 'x', {doubling})"),
        "lists.range(1000000000000).size() == 0".to_owned(),
        "lists.range(9000).map(x, lists.range(9000)).size() == 1".to_owned(),
        "lists.range(2000).all(x, 'aaaaaaaaaa'.matches('^(a+)+$'))".to_owned(),
    ] {
        assert_eq!(run(&text), Err(limit.to_owned()), "{}", &text[..60.min(text.len())]);
    }
}

#[test]
fn no_text_makes_the_parser_fall() {
    let deep = [
        format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("1{}", "+1".repeat(10_000)),
        format!("a{}", ".a".repeat(10_000)),
        format!("a{}", ".a".repeat(900)),
        format!("a{}", "[0]".repeat(900)),
        format!("a{}", "<a".repeat(999)),
        format!("{}a", "a?a:".repeat(5_000)),
        format!("{}a", "a?a:".repeat(90)),
        format!("{}a", "!".repeat(900)),
        format!("1{}", ",1".repeat(20_000)),
        "'".to_owned(),
        "\"\\".to_owned(),
        "\u{0}".to_owned(),
        "'\\u{110000}'".to_owned(),
        "'\\xff'".to_owned(),
        "b'\\xff'".to_owned(),
        "1e999999".to_owned(),
        "-9223372036854775808".to_owned(),
        "99999999999999999999".to_owned(),
        "0xffffffffffffffffff".to_owned(),
        "has(1)".to_owned(),
        "has(a)".to_owned(),
        "[1].all(1, true)".to_owned(),
        "[1].map(x.y, true)".to_owned(),
        "{1: 2, }".to_owned(),
        "[?a]".to_owned(),
        "{?'a': b}".to_owned(),
        "a.?b.?c[?0]".to_owned(),
    ];
    for text in deep {
        if let Ok(program) = Program::compile(&text) {
            let _ = program.run(&variables());
        }
    }
}

/// What odd expressions are made of.
const PIECES: &[&str] = &[
    "object",
    ".spec",
    ".?x",
    "[0]",
    "[?0]",
    "[-1]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "1",
    "-1",
    "1.5",
    "0u",
    "'a'",
    "'(a+'",
    "null",
    "true",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "<",
    ">=",
    "in",
    "&&",
    "||",
    "!",
    "?",
    ":",
    ",",
    ".all(x, ",
    ".map(x, ",
    ".filter(x, ",
    "has(",
    ".size()",
    ".matches(",
    ".split(",
    ".substring(",
    ".replace(",
    ".charAt(",
    "duration('",
    "timestamp('",
    "quantity(",
    "semver(",
    "ip(",
    "cidr(",
    "url(",
    ".format([",
    "])",
    "lists.range(",
    "math.abs(",
    "math.bitShiftLeft(1, ",
    "base64.decode(",
    ".sum()",
    ".flatten(",
    ".slice(",
    ".indexOf(",
    "9223372036854775807",
    "optional.of(",
    "optional.none()",
    ".value()",
    "x",
    "string(",
    "int(",
    "double(",
    "uint(",
    "-9223372036854775808",
    "1e308",
    ".getHours(",
    "')",
    ".sort()",
    ".min()",
    "sets.contains(",
    "strings.quote(",
    ".join(",
    "type(",
    "cel.bind(x, ",
    "b'a'",
];

/// Odd expressions, put together from pieces in an order that a seed decides.
#[test]
fn odd_expressions_end_with_an_answer_or_an_error() {
    let mut state = 7_u64;
    let mut next = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut understood = 0;
    for _ in 0..4000 {
        let mut text: String = (0..1 + next(9)).map(|_| PIECES[next(PIECES.len())]).collect();
        let open = text.matches('(').count().saturating_sub(text.matches(')').count());
        text.push_str(&")".repeat(open));
        if let Ok(program) = Program::compile(&text) {
            understood += 1;
            if let Err(why) = program.run(&variables()) {
                assert!(why.len() < 3000, "{text}: {why}");
            }
        }
    }
    assert!(understood > 100, "only {understood} of the odd expressions could be read");
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    for function in [
        "charAt",
        "substring",
        "replace",
        "split",
        "join",
        "slice",
        "indexOf",
        "matches",
        "format",
        "getHours",
        "add",
        "sub",
        "isGreaterThan",
        "lastIndexOf",
        "containsIP",
        "flatten",
        "find",
        "findAll",
    ] {
        for of in
            ["''", "'ü'", "[]", "[1, 'a']", "1", "null", "object", "quantity('1')", "ip('::1')"]
        {
            for arguments in
                ["", "-1", "9223372036854775807", "'a'", "1, -1", "2, 1", "null", "[]", "'', ''"]
            {
                let text = format!("{of}.{function}({arguments})");
                let _ = Program::compile(&text).unwrap().run(&variables());
            }
        }
    }
}
