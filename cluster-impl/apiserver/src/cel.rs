//! CEL: the one door of this crate to the language in which users write rules.
//!
//! The parser and Kubernetes' functions are the library's. Walking the expression is ours, as a server
//! must bound what a stranger's rule costs, go through maps in the same order every time, and never
//! take a missing field for `false`.
//! Invariant: compiling and running end with an answer or an error, whatever the text and the input.
//! Limits: [`TEXT_BYTES_MAX`], [`DEPTH_MAX`], [`COST_MAX`]. There is no type checker: what upstream
//! finds when a rule is written because types do not fit, is found when it runs.

mod evaluate;
mod functions;
#[cfg(test)]
mod tests;
mod values;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use kube_cel::cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr};
use kube_cel::cel::parser::Parser;

pub(crate) use kube_cel::cel::Value;
pub(crate) use values::{Native, empty, from_json, native, text};

/// The longest expression.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// How many brackets may be open at once: the parser recurses for each.
const BRACKETS_MAX: usize = 48;

/// How many operators, fields and calls an expression may have: some of them nest to the left.
const OPERATORS_MAX: usize = 1000;

/// How deep an expression may nest once it is read.
const DEPTH_MAX: usize = 150;

/// What one run may cost, as upstream's limit for each expression of an admission policy: one for
/// each step, and one for each ten bytes or items that a function has to look at.
pub(crate) const COST_MAX: u64 = 1_000_000;

/// How many compiled programs are kept; then all are forgotten.
const KEPT_MAX: usize = 2000;

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Program {
    text: String,
    expression: IdedExpr,
    seen: Seen,
}

/// What an expression speaks of.
#[derive(Debug, Default)]
struct Seen {
    /// Names that nothing in the expression declares.
    names: BTreeSet<String>,
    /// Fields that are selected straight from such a name.
    fields: BTreeSet<(String, String)>,
    /// Functions, with the name before the dot where there is one.
    functions: BTreeSet<(Option<String>, String)>,
    is_struct: bool,
}

/// What a program may speak of, and what is left of its budget.
pub(crate) struct Variables {
    plain: BTreeMap<String, Value>,
    /// The fields of `variables`: each is worked out when it is first asked for, and sees those
    /// before it.
    composed: Vec<(String, Arc<Program>)>,
    known: RefCell<BTreeMap<String, Result<Value, String>>>,
    budget: Cell<u64>,
}

/// Programs by their text: rules are few, and compiled once.
static KEPT: Mutex<BTreeMap<String, Arc<Program>>> = Mutex::new(BTreeMap::new());

impl Program {
    /// Reads an expression. The error fits after "compilation failed: ".
    pub(crate) fn compile(text: &str) -> Result<Arc<Self>, String> {
        if let Some(program) = KEPT.lock().expect("no code panics while it holds this").get(text) {
            return Ok(program.clone());
        }
        check_text(text)?;
        let parsed = catch_unwind(|| {
            Parser::new()
                .enable_optional_syntax(true)
                .parse(text)
                .map_err(|error| error.to_string())
        });
        let expression = parsed.unwrap_or_else(|_| Err(at_start("it cannot be parsed", text)))?;
        let mut seen = Seen::default();
        walk(&expression, &mut Vec::new(), 0, &mut seen).map_err(|why| at_start(&why, text))?;
        if seen.is_struct {
            return Err(at_start("messages cannot be made in this language", text));
        }
        for (of, function) in &seen.functions {
            if !functions::is_function(of.as_deref(), function) {
                let why = format!("undeclared reference to '{function}' (in container '')");
                return Err(at_start(&why, text));
            }
        }
        let program = Arc::new(Self { text: text.to_owned(), expression, seen });
        let mut kept = KEPT.lock().expect("no code panics while it holds this");
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(text.to_owned(), program.clone());
        Ok(program)
    }

    /// Like [`Self::compile`], for a rule that may speak of these names only.
    pub(crate) fn compile_in(text: &str, names: &[&str]) -> Result<Arc<Self>, String> {
        let program = Self::compile(text)?;
        match program.seen.names.iter().find(|name| !names.contains(&name.as_str())) {
            None => Ok(program),
            Some(name) => {
                Err(at_start(&format!("undeclared reference to '{name}' (in container '')"), text))
            }
        }
    }

    /// Whether it speaks of this name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.seen.names.contains(name)
    }

    /// The fields that it takes straight from a name that it does not declare.
    pub(crate) fn fields_of<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.seen.fields.iter().filter(move |(of, _)| of == name).map(|(_, field)| field.as_str())
    }

    /// The type of what it answers, where that can be told without types of the input.
    pub(crate) fn answer_type(&self) -> Option<&'static str> {
        functions::answer_type(&self.expression)
    }

    /// An error about this expression, as compilers write it.
    pub(crate) fn complaint(&self, why: &str) -> String {
        at_start(why, &self.text)
    }

    /// Works it out.
    pub(crate) fn run(&self, variables: &Variables) -> Result<Value, String> {
        // The library's functions are others' code: what panics in one is an error of this rule.
        let run = AssertUnwindSafe(|| evaluate::run(&self.expression, variables));
        catch_unwind(run).unwrap_or_else(|_| Err("internal error".to_owned()))
    }

    /// Works out something that must be true or false.
    pub(crate) fn decide(&self, variables: &Variables) -> Result<bool, String> {
        match self.run(variables)? {
            Value::Bool(is_true) => Ok(is_true),
            other => Err(format!("must evaluate to bool, got {}", values::type_name(&other))),
        }
    }
}

impl Variables {
    /// Nothing yet, and the whole budget of one expression.
    pub(crate) fn new() -> Self {
        Self {
            plain: BTreeMap::new(),
            composed: Vec::new(),
            known: RefCell::default(),
            budget: Cell::new(COST_MAX),
        }
    }

    /// Sets a name.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.plain.insert(name.to_owned(), value);
    }

    /// Sets the field of `variables` that is worked out from those before it.
    pub(crate) fn compose(&mut self, name: &str, program: Arc<Program>) {
        self.composed.push((name.to_owned(), program));
    }

    /// Gives programs that run from now on this budget together.
    pub(crate) fn allow(&self, cost: u64) {
        self.budget.set(cost);
    }

    /// What is left of the budget.
    pub(crate) fn left(&self) -> u64 {
        self.budget.get()
    }

    fn spend(&self, cost: u64) -> Result<(), String> {
        let left = self.budget.get().checked_sub(cost);
        self.budget.set(left.unwrap_or(0));
        left.map(drop).ok_or_else(|| "operation cancelled: actual cost limit exceeded".to_owned())
    }

    fn composed(&self, name: &str) -> Option<Result<Value, String>> {
        let (_, program) = self.composed.iter().find(|(known, _)| known == name)?;
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        // Whoever asks for itself, through others, finds this instead of going round for ever.
        let circular = Err(format!("composited variable {name:?} refers to itself"));
        self.known.borrow_mut().insert(name.to_owned(), circular);
        let answer = evaluate::run(&program.expression, self)
            .map_err(|why| format!("composited variable {name:?} fails to evaluate: {why}"));
        self.known.borrow_mut().insert(name.to_owned(), answer.clone());
        Some(answer)
    }
}

/// Refuses what would make the parser recurse too deep.
fn check_text(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("the expression is longer than {TEXT_BYTES_MAX} bytes"));
    }
    let (mut open, mut operators, mut conditions) = (0_usize, 0, 0);
    let mut quote = None;
    let mut is_escaped = false;
    for character in text.chars() {
        match (quote, character) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(of), _) if of == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '(' | '[' | '{') => (open, operators) = (open + 1, operators + 1),
            (None, ')' | ']' | '}') => open = open.saturating_sub(1),
            (None, '?') => (conditions, operators) = (conditions + 1, operators + 1),
            (None, '.' | '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!') => operators += 1,
            (None, _) => {}
        }
        if open > BRACKETS_MAX || operators > OPERATORS_MAX || conditions > 2 * BRACKETS_MAX {
            return Err(at_start("the expression is too complex", text));
        }
    }
    Ok(())
}

/// An error with the line that it is about.
fn at_start(why: &str, text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    format!("ERROR: <input>:1:1: {why}\n | {line}\n | ^")
}

/// Notes what an expression speaks of.
fn walk<'a>(
    expression: &'a IdedExpr,
    declared: &mut Vec<&'a str>,
    depth: usize,
    seen: &mut Seen,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("the expression nests deeper than {DEPTH_MAX}"));
    }
    let depth = depth + 1;
    match &expression.expr {
        Expr::Unspecified => return Err("it is not complete".to_owned()),
        Expr::Literal(_) => {}
        Expr::Ident(name) => {
            if !declared.contains(&name.as_str()) && !functions::is_type(name) {
                seen.names.insert(name.clone());
            }
        }
        Expr::Call(call) => walk_call(call, declared, depth, seen)?,
        Expr::Select(select) => {
            if let Expr::Ident(of) = &select.operand.expr
                && !declared.contains(&of.as_str())
            {
                seen.fields.insert((of.clone(), select.field.clone()));
            }
            walk(&select.operand, declared, depth, seen)?;
        }
        Expr::List(list) => {
            for item in &list.elements {
                walk(item, declared, depth, seen)?;
            }
        }
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    walk(&entry.key, declared, depth, seen)?;
                    walk(&entry.value, declared, depth, seen)?;
                }
            }
        }
        Expr::Struct(_) => seen.is_struct = true,
        Expr::Comprehension(over) => {
            walk(&over.iter_range, declared, depth, seen)?;
            walk(&over.accu_init, declared, depth, seen)?;
            let outside = declared.len();
            declared.extend([over.iter_var.as_str(), over.accu_var.as_str()]);
            declared.extend(over.iter_var2.as_deref());
            for inner in [&over.loop_cond, &over.loop_step, &over.result] {
                walk(inner, declared, depth, seen)?;
            }
            declared.truncate(outside);
        }
    }
    Ok(())
}

fn walk_call<'a>(
    call: &'a CallExpr,
    declared: &mut Vec<&'a str>,
    depth: usize,
    seen: &mut Seen,
) -> Result<(), String> {
    let outside = declared.len();
    let mut arguments = call.args.as_slice();
    let mut of = None;
    if let Some(target) = call.target.as_deref() {
        match &target.expr {
            Expr::Ident(prefix)
                if !declared.contains(&prefix.as_str())
                    && functions::is_function(Some(prefix), &call.func_name) =>
            {
                of = Some(prefix.clone());
            }
            _ => walk(target, declared, depth, seen)?,
        }
    }
    // Macros that the parser leaves to us: their first arguments declare names.
    for name in functions::declares(call) {
        declared.push(name);
        arguments = &arguments[1..];
    }
    for argument in arguments {
        walk(argument, declared, depth, seen)?;
    }
    declared.truncate(outside);
    seen.functions.insert((of, call.func_name.clone()));
    Ok(())
}
