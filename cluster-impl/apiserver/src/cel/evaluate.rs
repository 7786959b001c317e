//! Works out an expression: control flow, fields and comprehensions here, all other functions in the
//! library, one call at a time.

use std::cmp::Ordering;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, SelectExpr, operators,
};
use kube_cel::cel::objects::{Key, Map};

use super::Variables;
use super::functions::{
    Answer, binary, declares, explain, find, is_function, is_type, library, no_overload,
};
use super::values::{Held, Type, list, optional, optional_of, type_name, weight};

/// One run: what the expression sees from outside, and what it declared itself.
struct Run<'v> {
    variables: &'v Variables,
    locals: Vec<(&'v str, Value)>,
}

/// Works out an expression.
pub(super) fn run(expression: &IdedExpr, variables: &Variables) -> Answer {
    Run { variables, locals: Vec::new() }.eval(expression)
}

impl<'v> Run<'v> {
    fn eval<'e: 'v>(&mut self, expression: &'e IdedExpr) -> Answer {
        self.variables.spend(1)?;
        match &expression.expr {
            Expr::Literal(literal) => literal.to_val().as_ref().try_into().map_err(explain),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(over) => self.comprehension(over),
            Expr::List(items) => {
                let mut made = Vec::with_capacity(items.elements.len());
                for (index, item) in items.elements.iter().enumerate() {
                    let value = self.eval(item)?;
                    match items.optional_indices.contains(&index) {
                        true => made.extend(unwrap(&value)?),
                        false => made.push(value),
                    }
                }
                Ok(list(made))
            }
            Expr::Map(map) => {
                let mut made = Entries::default();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return Err(no_overload()) };
                    let key = self.eval(&entry.key)?;
                    let value = self.eval(&entry.value)?;
                    match entry.optional {
                        true => {
                            if let Some(value) = unwrap(&value)? {
                                made.add(key, value)?;
                            }
                        }
                        false => made.add(key, value)?,
                    }
                }
                Ok(made.value())
            }
            Expr::Struct(_) | Expr::Unspecified => Err(no_overload()),
        }
    }

    fn name(&self, name: &str) -> Answer {
        if let Some((_, value)) = self.locals.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match self.variables.plain.get(name) {
            Some(value) => Ok(value.clone()),
            None if is_type(name) => Ok(Value::Opaque(Arc::new(Type(name.to_owned())))),
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    /// Works something out in which one more name is known.
    fn within<'e: 'v, T>(
        &mut self,
        name: &'e str,
        value: Value,
        then: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.locals.push((name, value));
        let answer = then(self);
        self.locals.pop();
        answer
    }

    /// Works out an expression in which a macro's argument names a value.
    fn naming<'e: 'v>(&mut self, name: &'e IdedExpr, value: Value, then: &'e IdedExpr) -> Answer {
        let Expr::Ident(name) = &name.expr else { return Err(no_overload()) };
        self.within(name, value, |run| run.eval(then))
    }

    fn select<'e: 'v>(&mut self, select: &'e SelectExpr) -> Answer {
        if let Expr::Ident(name) = &select.operand.expr
            && name == "variables"
            && let Some(answer) = self.variables.composed(&select.field)
        {
            return if select.test { Ok(Value::Bool(true)) } else { answer };
        }
        let of = self.eval(&select.operand)?;
        // An object of ours has no fields, but methods without arguments that read like fields.
        if let Value::Opaque(opaque) = &of
            && let Some(held) = opaque.downcast_ref::<Held>()
            && !select.test
        {
            return held.0.call(&select.field, &[]);
        }
        let field = Value::String(Arc::new(select.field.clone()));
        if let Some(inner) = optional_of(&of) {
            let found = inner.map(|inner| find(inner, &field)).transpose()?.flatten();
            return Ok(match select.test {
                true => Value::Bool(found.is_some()),
                false => optional(found),
            });
        }
        let found = find(&of, &field)?;
        match select.test {
            true => Ok(Value::Bool(found.is_some())),
            false => found.ok_or_else(|| format!("no such key: {}", select.field)),
        }
    }

    fn call<'e: 'v>(&mut self, call: &'e CallExpr) -> Answer {
        match (call.func_name.as_str(), call.args.as_slice(), call.target.as_deref()) {
            (operators::CONDITIONAL, [when, then, otherwise], _) => match self.eval(when)? {
                Value::Bool(true) => self.eval(then),
                Value::Bool(false) => self.eval(otherwise),
                _ => Err(no_overload()),
            },
            (operators::LOGICAL_AND, [left, right], _) => self.either(left, right, false),
            (operators::LOGICAL_OR, [left, right], _) => self.either(left, right, true),
            (operators::NOT_STRICTLY_FALSE, [of], _) => {
                Ok(Value::Bool(!matches!(self.eval(of), Ok(Value::Bool(false)))))
            }
            (operators::OPT_SELECT | operators::OPT_INDEX, [of, key], _) => {
                let (of, key) = (self.eval(of)?, self.eval(key)?);
                let of = match optional_of(&of) {
                    Some(None) => return Ok(optional(None)),
                    Some(Some(inner)) => inner,
                    None => &of,
                };
                find(of, &key).map(optional)
            }
            (operators::INDEX, [of, key], _) => {
                let (of, key) = (self.eval(of)?, self.eval(key)?);
                if let Some(inner) = optional_of(&of) {
                    let found = inner.map(|inner| find(inner, &key)).transpose()?.flatten();
                    return Ok(optional(found));
                }
                find(&of, &key)?.ok_or_else(|| match key {
                    Value::String(key) => format!("no such key: {key}"),
                    Value::Int(index) => format!("index out of bounds: {index}"),
                    _ => "no such key".to_owned(),
                })
            }
            (operator, [left, right], None) if operator.starts_with(['_', '@']) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.variables.spend(weight(&left, 10_000_000) / 10)?;
                self.variables.spend(weight(&right, 10_000_000) / 10)?;
                binary(operator, left, right)
            }
            (operators::LOGICAL_NOT, [of], None) => match self.eval(of)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                _ => Err(no_overload()),
            },
            (operators::NEGATE, [of], None) => match self.eval(of)? {
                Value::Int(value) => {
                    value.checked_neg().map(Value::Int).ok_or_else(|| "integer overflow".to_owned())
                }
                Value::Float(value) => Ok(Value::Float(-value)),
                _ => Err(no_overload()),
            },
            ("bind", [name, value, then], Some(_)) => {
                let value = self.eval(value)?;
                self.naming(name, value, then)
            }
            ("optMap" | "optFlatMap", [name, then], Some(of)) => {
                let of = self.eval(of)?;
                let Some(value) = unwrap(&of)? else { return Ok(optional(None)) };
                let made = self.naming(name, value, then)?;
                Ok(if call.func_name == "optMap" { optional(Some(made)) } else { made })
            }
            ("sortBy", [name, by], Some(of)) => self.sort_by(of, name, by),
            (name, [_, _, ..], Some(of)) if declares(call).len() == 2 => {
                self.over_pairs(of, name, call)
            }
            _ => self.function(call),
        }
    }

    /// `&&` or `||`: the side that decides wins, even over an error of the other.
    fn either<'e: 'v>(&mut self, left: &'e IdedExpr, right: &'e IdedExpr, decides: bool) -> Answer {
        let left = self.eval(left).and_then(boolean);
        if left == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        let right = self.eval(right).and_then(boolean);
        if right == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        left.and(right).map(Value::Bool)
    }

    fn function<'e: 'v>(&mut self, call: &'e CallExpr) -> Answer {
        let mut target = None;
        let mut prefix = None;
        match call.target.as_deref() {
            None => {}
            Some(IdedExpr { expr: Expr::Ident(name), .. })
                if self.name(name).is_err() && is_function(Some(name), &call.func_name) =>
            {
                prefix = Some(name.as_str());
            }
            Some(of) => target = Some(self.eval(of)?),
        }
        let arguments = call.args.iter().map(|argument| self.eval(argument));
        let arguments: Vec<Value> = arguments.collect::<Result<_, _>>()?;
        let mut cost: u64 = arguments.iter().chain(&target).map(|of| weight(of, 10_000_000)).sum();
        if ["matches", "find", "findAll"].contains(&call.func_name.as_str()) {
            // A pattern is compiled for each call.
            let pattern = arguments.last().map_or(0, |pattern| weight(pattern, 1_000_000));
            if pattern > 4096 {
                return Err("the pattern is longer than 4096 bytes".to_owned());
            }
            cost = cost.saturating_add(5000).saturating_add(pattern.saturating_mul(cost) / 4);
        }
        self.variables.spend(cost / 10)?;
        if let Some(Value::Opaque(opaque)) = &target
            && let Some(held) = opaque.downcast_ref::<Held>()
        {
            return held.0.call(&call.func_name, &arguments);
        }
        let of = target.as_ref().or(arguments.first());
        match (call.func_name.as_str(), of, arguments.len() + usize::from(target.is_some())) {
            ("size", Some(Value::String(text)), 1) => Ok(Value::Int(text.chars().count() as i64)),
            ("type", Some(of), 1) => Ok(Value::Opaque(Arc::new(Type(type_name(of))))),
            ("dyn", Some(of), 1) => Ok(of.clone()),
            ("bool", Some(of @ Value::Bool(_)), 1) => Ok(of.clone()),
            ("bool", Some(Value::String(text)), 1) => match text.as_str() {
                "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
                "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
                _ => Err("type conversion error from 'string' to 'bool'".to_owned()),
            },
            // The library would build the whole list before anybody counts.
            ("range", Some(Value::Int(count)), 1) if prefix == Some("lists") => {
                self.variables.spend(u64::try_from(*count).unwrap_or(0))?;
                library(prefix, call, target, arguments)
            }
            _ => library(prefix, call, target, arguments),
        }
    }

    fn sort_by<'e: 'v>(
        &mut self,
        of: &'e IdedExpr,
        name: &'e IdedExpr,
        by: &'e IdedExpr,
    ) -> Answer {
        let Expr::Ident(name) = &name.expr else { return Err(no_overload()) };
        let Value::List(items) = self.eval(of)? else { return Err(no_overload()) };
        let mut keyed = Vec::with_capacity(items.len());
        for item in items.iter() {
            keyed.push((self.within(name, item.clone(), |run| run.eval(by))?, item.clone()));
        }
        if let [(first, _), rest @ ..] = keyed.as_slice()
            && rest.iter().any(|(key, _)| key.partial_cmp(first).is_none())
        {
            return Err(no_overload());
        }
        self.variables.spend(keyed.len() as u64 * 10)?;
        keyed.sort_by(|(one, _), (other, _)| one.partial_cmp(other).unwrap_or(Ordering::Equal));
        Ok(list(keyed.into_iter().map(|(_, item)| item).collect()))
    }

    /// Comprehensions with two names: index and item, or key and value.
    fn over_pairs<'e: 'v>(
        &mut self,
        of: &'e IdedExpr,
        function: &str,
        call: &'e CallExpr,
    ) -> Answer {
        let names = declares(call);
        let [first, second] = names.as_slice() else { return Err(no_overload()) };
        let of = self.eval(of)?;
        let (condition, then) = match &call.args[2..] {
            [then] => (None, then),
            [condition, then] => (Some(condition), then),
            _ => return Err(no_overload()),
        };
        let (mut met, mut failed) = (0, None);
        let (mut items, mut entries) = (Vec::new(), Entries::default());
        for (key, item) in pairs(&of)? {
            self.locals.extend([(*first, key.clone()), (*second, item)]);
            let is_wanted = condition.map_or(Ok(true), |when| self.eval(when).and_then(boolean));
            let made = match is_wanted {
                Ok(true) => Some(self.eval(then)),
                Ok(false) => None,
                Err(why) => Some(Err(why)),
            };
            self.locals.truncate(self.locals.len() - 2);
            let Some(made) = made else { continue };
            match (function, made.clone().and_then(boolean)) {
                ("all", Ok(false)) => return Ok(Value::Bool(false)),
                ("exists", Ok(true)) => return Ok(Value::Bool(true)),
                ("all" | "exists", Err(why)) => failed = Some(why),
                ("all" | "exists", Ok(_)) => {}
                ("existsOne" | "exists_one", is_met) => met += usize::from(is_met?),
                ("transformList", _) => items.push(made?),
                ("transformMap", _) => entries.add(key, made?)?,
                _ => {
                    let Value::Map(map) = made? else { return Err(no_overload()) };
                    for (key, value) in map.map.iter() {
                        entries.add(key.into(), value.clone())?;
                    }
                }
            }
        }
        match (function, failed) {
            ("all" | "exists", Some(why)) => Err(why),
            ("all" | "exists", None) => Ok(Value::Bool(function == "all")),
            ("existsOne" | "exists_one", _) => Ok(Value::Bool(met == 1)),
            ("transformList", _) => Ok(list(items)),
            _ => Ok(entries.value()),
        }
    }

    /// What the parser makes of `all`, `exists`, `exists_one`, `map` and `filter`.
    fn comprehension<'e: 'v>(&mut self, over: &'e ComprehensionExpr) -> Answer {
        let items = match self.eval(&over.iter_range)? {
            Value::List(items) => items.to_vec(),
            Value::Map(map) => sorted(&map).into_iter().map(|(key, _)| key.into()).collect(),
            _ => return Err(no_overload()),
        };
        self.variables.spend(items.len() as u64)?;
        if let Some(step) = Collecting::of(over) {
            return self.collect(items, over, &step);
        }
        let mut so_far = self.eval(&over.accu_init);
        for item in items {
            let Ok(value) = &so_far else { break };
            self.locals.push((over.accu_var.as_str(), value.clone()));
            let goes_on = self.eval(&over.loop_cond).and_then(boolean);
            if goes_on == Ok(true) {
                so_far = self.within(&over.iter_var, item, |run| run.eval(&over.loop_step));
                // `all` and `exists` may still be decided by a later item.
                so_far = match (so_far, undecided(over)) {
                    (Err(why), Some(_)) if self.variables.left() > 0 => Ok(failure(why)),
                    (so_far, _) => so_far,
                };
            }
            self.locals.pop();
            if !goes_on? {
                break;
            }
        }
        self.within(&over.accu_var, so_far?, |run| run.eval(&over.result)).and_then(succeed)
    }

    /// `map` and `filter`: without copying the list for each item.
    fn collect<'e: 'v>(
        &mut self,
        items: Vec<Value>,
        over: &'e ComprehensionExpr,
        step: &Collecting<'e>,
    ) -> Answer {
        let mut made = Vec::new();
        for item in items {
            self.locals.push((over.iter_var.as_str(), item));
            let is_wanted = step.when.map_or(Ok(true), |when| self.eval(when).and_then(boolean));
            let value = match is_wanted {
                Ok(true) => self.eval(step.item).map(Some),
                Ok(false) => Ok(None),
                Err(why) => Err(why),
            };
            self.locals.pop();
            made.extend(value?);
        }
        Ok(list(made))
    }
}

/// The shape of `map` and `filter` after the parser: `@result + [item]`, perhaps under a condition.
struct Collecting<'e> {
    when: Option<&'e IdedExpr>,
    item: &'e IdedExpr,
}

impl<'e> Collecting<'e> {
    fn of(over: &'e ComprehensionExpr) -> Option<Self> {
        let appended = |step: &'e IdedExpr| match &step.expr {
            Expr::Call(call) if call.func_name == operators::ADD => match call.args.as_slice() {
                [
                    IdedExpr { expr: Expr::Ident(so_far), .. },
                    IdedExpr { expr: Expr::List(one), .. },
                ] if *so_far == over.accu_var => {
                    one.elements.first().filter(|_| one.elements.len() == 1)
                }
                _ => None,
            },
            _ => None,
        };
        match &over.loop_step.expr {
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                let item = appended(&call.args[1])?;
                Some(Self { when: Some(&call.args[0]), item })
            }
            _ => Some(Self { when: None, item: appended(&over.loop_step)? }),
        }
    }
}

/// The word for `all` and `exists`, whose errors count only if nothing else decides.
fn undecided(over: &ComprehensionExpr) -> Option<()> {
    match &over.loop_step.expr {
        Expr::Call(call) => [operators::LOGICAL_AND, operators::LOGICAL_OR]
            .contains(&call.func_name.as_str())
            .then_some(()),
        _ => None,
    }
}

/// An error so far in `all` or `exists`: a value that is no boolean and says why.
#[derive(Debug, PartialEq, Eq)]
struct Failure(String);

impl kube_cel::cel::objects::Opaque for Failure {
    fn runtime_type_name(&self) -> &str {
        "error"
    }
}

fn failure(why: String) -> Value {
    Value::Opaque(Arc::new(Failure(why)))
}

fn succeed(value: Value) -> Answer {
    match &value {
        Value::Opaque(opaque) => match opaque.downcast_ref::<Failure>() {
            Some(failure) => Err(failure.0.clone()),
            None => Ok(value),
        },
        _ => Ok(value),
    }
}

fn boolean(value: Value) -> Result<bool, String> {
    match succeed(value)? {
        Value::Bool(value) => Ok(value),
        _ => Err(no_overload()),
    }
}

/// What an optional value holds.
fn unwrap(value: &Value) -> Result<Option<Value>, String> {
    optional_of(value).map(Option::<&Value>::cloned).ok_or_else(no_overload)
}

/// The entries of a map in order of key: the library's own order differs from run to run.
fn sorted(map: &Map) -> Vec<(&Key, &Value)> {
    let mut entries: Vec<_> = map.map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

fn pairs(of: &Value) -> Result<Vec<(Value, Value)>, String> {
    match of {
        Value::List(items) => {
            let indexed = items.iter().enumerate();
            Ok(indexed.map(|(index, item)| (Value::Int(index as i64), item.clone())).collect())
        }
        Value::Map(map) => {
            Ok(sorted(map).into_iter().map(|(key, item)| (key.into(), item.clone())).collect())
        }
        _ => Err(no_overload()),
    }
}

/// The entries of a map that is being made.
#[derive(Default)]
struct Entries(Vec<(Key, Value)>);

impl Entries {
    fn add(&mut self, key: Value, value: Value) -> Result<(), String> {
        let key: Key = key.try_into().map_err(|_| "unsupported key type".to_owned())?;
        self.0.push((key, value));
        Ok(())
    }

    fn value(self) -> Value {
        Value::Map(Map { map: Arc::new(self.0.into_iter().collect()) })
    }
}
