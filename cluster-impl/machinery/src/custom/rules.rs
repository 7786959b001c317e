//! `x-kubernetes-validations`: expressions that a custom resource must fulfil.
//!
//! The library compiles and runs them; binding `self` and `oldSelf` by the schema is ours, as is the budget.
//! Limits: expressions are not checked against the schema's types, so what a wrong field name means is found
//! when the rule runs; the library walks over maps in no particular order; costs are estimated from the sizes of what a rule walks over, not metered.

use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Program, Value as Cel};
use serde_json::Value;

use super::schema::{Schema, Type};
use crate::validation::text;

/// How much one rule may cost at one place.
const CALL_COST_MAX: u64 = 1_000_000;
/// How much all rules of one object may cost.
pub(super) const BUDGET: u64 = 10_000_000;
/// How much a rule may be estimated to cost.
pub(super) const ESTIMATE_MAX: u64 = 10_000_000;
/// How long a rule may be.
const BYTES_MAX: usize = 65_536;
/// How deep brackets may nest in a rule: the parser recurses.
const BRACKETS_MAX: usize = 50;
/// How many operators a rule may have, for the same reason.
const OPERATORS_MAX: usize = 1000;

thread_local! {
    // Registering some hundred functions for each object would cost more than the rules.
    static BASE: Context<'static> = Context::default().with_all();
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    program: Program,
    message_program: Option<Program>,
    /// The expression.
    pub text: String,
    message: String,
    /// The reason of its cause.
    pub reason: &'static str,
    /// Where the cause is to be shown, below the rule's place.
    pub field: String,
    is_optional_old: bool,
    is_transition: bool,
}

/// How a rule came out.
pub(super) enum Outcome {
    /// It holds.
    Holds,
    /// It does not, with this to tell.
    Fails(String),
    /// It could not be worked out.
    Broken(String),
}

/// Compiles an expression.
pub(super) fn compile(expression: &str) -> Result<Program, String> {
    if expression.len() > BYTES_MAX {
        return Err(format!("the expression is longer than {BYTES_MAX} bytes"));
    }
    let (brackets, operators) = extent(expression);
    if brackets > BRACKETS_MAX || operators > OPERATORS_MAX {
        return Err("expression recursion limit exceeded".to_owned());
    }
    // The library is not ours: should it panic on something odd, that is the expression's fault.
    std::panic::catch_unwind(|| Program::compile(expression))
        .unwrap_or_else(|_| Program::compile("unreadable expression"))
        .map_err(|error| error.to_string())
}

/// How deep brackets nest, and how many operators there are; the parser recurses over both.
fn extent(expression: &str) -> (usize, usize) {
    let (mut open, mut deepest, mut operators) = (0_usize, 0, 0);
    let mut quote = None;
    let mut is_escaped = false;
    for c in expression.chars() {
        if let Some(end) = quote {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                c if c == end => quote = None,
                _ => {}
            }
            continue;
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '(' | '[' | '{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            ')' | ']' | '}' => open = open.saturating_sub(1),
            '+' | '-' | '*' | '/' | '%' | '!' | '?' | '<' | '>' | '=' | '&' | '|' | '.' => {
                operators += 1
            }
            _ => {}
        }
    }
    (deepest, operators)
}

impl Rule {
    /// Reads one entry of `x-kubernetes-validations`.
    pub fn read(value: &Value) -> Result<Self, String> {
        let rule = text(&value["rule"]);
        let program = compile(rule)?;
        let message_program = match value["messageExpression"].as_str() {
            Some(expression) if !expression.trim().is_empty() => Some(compile(expression)?),
            _ => None,
        };
        let is_transition = program.references().has_variable("oldSelf");
        Ok(Self {
            program,
            message_program,
            text: rule.trim().to_owned(),
            message: text(&value["message"]).trim().to_owned(),
            reason: match text(&value["reason"]) {
                "FieldValueRequired" => "FieldValueRequired",
                "FieldValueForbidden" => "FieldValueForbidden",
                "FieldValueDuplicate" => "FieldValueDuplicate",
                _ => "FieldValueInvalid",
            },
            field: text(&value["fieldPath"]).to_owned(),
            is_optional_old: value["optionalOldSelf"] == true,
            is_transition,
        })
    }

    /// Whether it compares with what was there.
    pub fn is_transition(&self) -> bool {
        self.is_transition
    }

    /// The variables that it names and that nobody binds.
    pub(super) fn strangers(&self) -> Vec<String> {
        let (mut bound, mut found) = (vec!["self", "oldSelf"], Vec::new());
        free(self.program.expression(), &mut bound, &mut found);
        found.sort();
        found.dedup();
        found
    }

    /// What it costs where nothing is longer than `size`.
    pub(super) fn cost(&self, size: u64) -> u64 {
        cost(self.program.expression(), size)
    }

    /// Looks whether it holds for a value, which was another before.
    pub(super) fn run(
        &self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        budget: &mut u64,
    ) -> Outcome {
        if self.is_transition && old.is_none() && !self.is_optional_old {
            return Outcome::Holds;
        }
        let cost = self.cost(largest(value));
        if cost > CALL_COST_MAX {
            *budget = 0;
            let why = format!("call cost exceeds limit for rule: {}", self.text);
            return Outcome::Broken(why);
        }
        *budget = budget.saturating_sub(cost);
        if *budget == 0 {
            let why = "validation failed due to running out of cost budget, no further validation \
                       rules will be run";
            return Outcome::Broken(why.to_owned());
        }
        BASE.with(|base| {
            let mut context = base.new_inner_scope();
            context.add_variable_from_value("self", bind(schema, value));
            if self.is_optional_old {
                context.add_variable_from_value("oldSelf", optional(base, schema, old));
            } else if let Some(old) = old {
                context.add_variable_from_value("oldSelf", bind(schema, old));
            }
            let run = std::panic::AssertUnwindSafe(|| self.program.execute(&context));
            let Ok(result) = std::panic::catch_unwind(run) else {
                return Outcome::Broken("the expression cannot be worked out".to_owned());
            };
            match result {
                Ok(Cel::Bool(true)) => Outcome::Holds,
                Ok(Cel::Bool(false)) => Outcome::Fails(self.told(&context)),
                Ok(_) => Outcome::Broken(format!("rule {:?} did not evaluate to bool", self.text)),
                Err(error) => Outcome::Broken(error.to_string()),
            }
        })
    }

    /// What is told of a rule that does not hold.
    fn told(&self, context: &Context<'_>) -> String {
        if let Some(program) = &self.message_program
            && let Ok(Cel::String(said)) = program.execute(context)
        {
            let said = said.trim();
            // As upstream: what cannot be shown in one line is not shown.
            if !said.is_empty() && !said.contains('\n') && said.len() <= 5120 {
                return said.to_owned();
            }
        }
        match self.message.as_str() {
            "" => format!("failed rule: {}", self.text),
            said => said.to_owned(),
        }
    }
}

/// The names in an expression that nothing binds.
fn free<'e>(expression: &'e IdedExpr, bound: &mut Vec<&'e str>, found: &mut Vec<String>) {
    match &expression.expr {
        Expr::Ident(name) if !bound.contains(&name.as_str()) && !is_type(name) => {
            found.push(name.clone());
        }
        Expr::Comprehension(loops) => {
            free(&loops.iter_range, bound, found);
            free(&loops.accu_init, bound, found);
            let before = bound.len();
            bound.extend([loops.iter_var.as_str(), loops.accu_var.as_str()]);
            bound.extend(loops.iter_var2.as_deref());
            for inner in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                free(inner, bound, found);
            }
            bound.truncate(before);
        }
        Expr::Call(call) => {
            for inner in call.target.as_deref().into_iter().chain(&call.args) {
                free(inner, bound, found);
            }
        }
        Expr::Select(select) => free(&select.operand, bound, found),
        Expr::List(list) => list.elements.iter().for_each(|inner| free(inner, bound, found)),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(one) = &entry.expr {
                    free(&one.key, bound, found);
                    free(&one.value, bound, found);
                }
            }
        }
        _ => {}
    }
}

fn is_type(name: &str) -> bool {
    const TYPES: [&str; 15] = [
        "bool",
        "bytes",
        "double",
        "duration",
        "dyn",
        "int",
        "list",
        "map",
        "math",
        "null_type",
        "optional",
        "string",
        "timestamp",
        "type",
        "uint",
    ];
    TYPES.contains(&name)
        || [
            "sets",
            "strings",
            "ip",
            "cidr",
            "format",
            "quantity",
            "semver",
            "url",
            "base64",
            "jsonpatch",
            "lists",
            "optional_type",
            "net",
        ]
        .contains(&name)
}

fn optional(base: &Context<'static>, schema: &Schema, old: Option<&Value>) -> Cel {
    let mut context = base.new_inner_scope();
    let expression = match old {
        Some(old) => {
            context.add_variable_from_value("old", bind(schema, old));
            "optional.of(old)"
        }
        None => "optional.none()",
    };
    let made = Program::compile(expression).ok().and_then(|made| made.execute(&context).ok());
    made.unwrap_or(Cel::Null)
}

/// A value as expressions see it.
fn bind(schema: &Schema, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            // A whole number in a field of type number is a double.
            Some(whole) if schema.kind != Type::Number => Cel::Int(whole),
            _ => number
                .as_u64()
                .filter(|_| schema.kind != Type::Number)
                .map_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN)), Cel::UInt),
        },
        Value::String(text) => formatted(schema, text),
        Value::Array(list) => {
            static ANY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);
            let item = schema.items.as_deref().unwrap_or(&ANY);
            Cel::List(Arc::new(list.iter().map(|one| bind(item, one)).collect()))
        }
        Value::Object(fields) => {
            static ANY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);
            let is_map = schema.additional.is_some() || schema.additional_any;
            let pairs = fields.iter().map(|(name, inner)| {
                let key = if is_map { name.clone() } else { escape(name) };
                let known = schema.field(name).unwrap_or(&ANY);
                (Key::String(Arc::new(key)), bind(known, inner))
            });
            Cel::Map(Map { map: Arc::new(pairs.collect()) })
        }
    }
}

/// A text of a format that is a type of its own.
fn formatted(schema: &Schema, text: &str) -> Cel {
    let plain = || Cel::String(Arc::new(text.to_owned()));
    let expression = match schema.format.as_str() {
        _ if schema.is_int_or_string => return plain(),
        "date-time" => "timestamp(x)",
        "date" => "timestamp(x + 'T00:00:00Z')",
        "duration" => "duration(x)",
        "byte" => "base64.decode(x)",
        _ => return plain(),
    };
    BASE.with(|base| {
        let mut context = base.new_inner_scope();
        context.add_variable_from_value("x", plain());
        let made = Program::compile(expression).ok().and_then(|made| made.execute(&context).ok());
        made.unwrap_or_else(plain)
    })
}

/// A field's name as expressions write it.
fn escape(name: &str) -> String {
    const RESERVED: [&str; 21] = [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ];
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

/// How many entries the largest list or map in a value has, or characters the longest text (by tens).
fn largest(value: &Value) -> u64 {
    let inner = |all: &mut dyn Iterator<Item = &Value>| all.map(largest).max().unwrap_or(0);
    match value {
        Value::Array(list) => (list.len() as u64).max(inner(&mut list.iter())),
        Value::Object(map) => (map.len() as u64).max(inner(&mut map.values())),
        Value::String(text) => text.len() as u64 / 10,
        _ => 1,
    }
}

/// What an expression costs if every list has `size` items.
fn cost(expression: &IdedExpr, size: u64) -> u64 {
    let sum = |all: &[IdedExpr]| -> u64 {
        all.iter().fold(0, |sum, one| sum.saturating_add(cost(one, size)))
    };
    match &expression.expr {
        Expr::Comprehension(loops) => {
            let body = [&loops.loop_cond, &loops.loop_step]
                .into_iter()
                .fold(1_u64, |sum, one| sum.saturating_add(cost(one, size)));
            let once = cost(&loops.iter_range, size).saturating_add(cost(&loops.result, size));
            body.saturating_mul(size.max(1)).saturating_add(once)
        }
        Expr::Call(call) => {
            const WALKS: [&str; 12] = [
                "_in_",
                "@in",
                "contains",
                "endsWith",
                "find",
                "findAll",
                "indexOf",
                "isSorted",
                "lastIndexOf",
                "matches",
                "replace",
                "startsWith",
            ];
            let own = if WALKS.contains(&call.func_name.as_str()) { 1 + size / 10 } else { 1 };
            let target = call.target.as_ref().map_or(0, |target| cost(target, size));
            sum(&call.args).saturating_add(own).saturating_add(target)
        }
        Expr::Select(select) => cost(&select.operand, size).saturating_add(1),
        Expr::List(list) => sum(&list.elements).saturating_add(1),
        Expr::Map(map) => map.entries.iter().fold(1, |sum, entry| match &entry.expr {
            EntryExpr::MapEntry(one) => {
                sum.saturating_add(cost(&one.key, size)).saturating_add(cost(&one.value, size))
            }
            EntryExpr::StructField(one) => sum.saturating_add(cost(&one.value, size)),
        }),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(schema: Value, rule: Value, value: Value, old: Option<Value>) -> String {
        let rule = match Rule::read(&rule) {
            Ok(rule) => rule,
            Err(why) => return format!("refused: {why}"),
        };
        let mut budget = BUDGET;
        match rule.run(&Schema::read(&schema), &value, old.as_ref(), &mut budget) {
            Outcome::Holds => "holds".to_owned(),
            Outcome::Fails(why) => format!("fails: {why}"),
            Outcome::Broken(why) => format!("broken: {why}"),
        }
    }

    #[test]
    fn rules_hold_or_tell_why_not() {
        let schema = json!({"type": "object", "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}, "a-b": {"type": "string"},
            "at": {"type": "string", "format": "date-time"}, "share": {"type": "number"},
            "names": {"type": "array", "items": {"type": "string"}}}});
        for (rule, value, expected) in [
            (json!({"rule": "self.min <= self.max"}), json!({"min": 1, "max": 2}), "holds"),
            (
                json!({"rule": "self.min <= self.max"}),
                json!({"min": 3, "max": 2}),
                "fails: failed rule: self.min <= self.max",
            ),
            (
                json!({"rule": "self.min <= self.max", "message": "too small"}),
                json!({"min": 3, "max": 2}),
                "fails: too small",
            ),
            (
                json!({"rule": "self.min <= self.max",
                    "messageExpression": "'max must be at least ' + string(self.min)"}),
                json!({"min": 3, "max": 2}),
                "fails: max must be at least 3",
            ),
            (json!({"rule": "self.a__dash__b == 'x'"}), json!({"a-b": "x"}), "holds"),
            (json!({"rule": "!has(self.min)"}), json!({}), "holds"),
            (
                json!({"rule": "self.at < timestamp('2025-01-01T00:00:00Z')"}),
                json!({"at": "2024-01-01T00:00:00Z"}),
                "holds",
            ),
            (json!({"rule": "self.share * 2.0 == 2.0"}), json!({"share": 1}), "holds"),
            (
                json!({"rule": "self.names.all(n, n.startsWith('a'))"}),
                json!({"names": ["a1", "b"]}),
                "fails: failed rule: self.names.all(n, n.startsWith('a'))",
            ),
        ] {
            assert_eq!(run(schema.clone(), rule.clone(), value, None), expected, "{rule}");
        }
    }

    #[test]
    fn transitions_need_something_before() {
        let schema = json!({"type": "integer"});
        let rule = json!({"rule": "self >= oldSelf"});
        assert_eq!(run(schema.clone(), rule.clone(), json!(1), None), "holds");
        assert_eq!(run(schema.clone(), rule.clone(), json!(2), Some(json!(1))), "holds");
        let found = run(schema.clone(), rule, json!(1), Some(json!(2)));
        assert_eq!(found, "fails: failed rule: self >= oldSelf");
        let rule = json!({"rule": "oldSelf.hasValue() || self == 1", "optionalOldSelf": true});
        assert_eq!(run(schema.clone(), rule.clone(), json!(1), None), "holds");
        assert!(run(schema.clone(), rule.clone(), json!(2), None).starts_with("fails"));
        assert_eq!(run(schema, rule, json!(2), Some(json!(7))), "holds");
    }

    #[test]
    fn hostile_rules_are_refused_quickly() {
        let schema = json!({"type": "array", "items": {"type": "integer"}});
        let deep = format!("{}1{} == 1", "(".repeat(4000), ")".repeat(4000));
        assert!(run(schema.clone(), json!({"rule": deep}), json!([]), None).starts_with("refused"));
        assert!(
            run(schema.clone(), json!({"rule": "self ++"}), json!([]), None).starts_with("refused")
        );
        let long = format!("{}1 > 0", "1 + ".repeat(900));
        assert_eq!(run(schema.clone(), json!({"rule": long}), json!([]), None), "holds");
        let longer = format!("{}1 > 0", "1 + ".repeat(20_000));
        assert!(
            run(schema.clone(), json!({"rule": longer}), json!([]), None).starts_with("refused")
        );
        let nested = "self.all(a, self.all(b, self.all(c, a + b + c > 0)))";
        let many: Vec<i64> = (1..1000).collect();
        let found = run(schema, json!({"rule": nested}), json!(many), None);
        assert_eq!(found, format!("broken: call cost exceeds limit for rule: {nested}"));
    }
}
