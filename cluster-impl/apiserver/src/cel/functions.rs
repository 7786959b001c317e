//! Functions of expressions: which there are, the operators, and how one of the library's is called.

use std::sync::{Arc, LazyLock};

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use kube_cel::cel::objects::KeyRef;
use kube_cel::cel::{Context, ExecutionError, Value};

/// What comes of an expression; an error is for people.
pub(super) type Answer = Result<Value, String>;

/// The library's functions, registered once.
static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// Functions that are worked out here, or by objects of this crate.
const OURS: &[&str] = &[
    "all",
    "allowed",
    "bind",
    "bool",
    "check",
    "dyn",
    "errored",
    "error",
    "exists",
    "existsOne",
    "exists_one",
    "fieldSelector",
    "group",
    "has",
    "labelSelector",
    "name",
    "namespace",
    "optFlatMap",
    "optMap",
    "path",
    "reason",
    "requestResource",
    "resource",
    "serviceAccount",
    "size",
    "sortBy",
    "subresource",
    "transformList",
    "transformMap",
    "transformMapEntry",
    "type",
];

const TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Whether a name is that of a type.
pub(super) fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}

/// Whether there is such a function; `of` is the name before the dot, for functions that have one.
pub(super) fn is_function(of: Option<&str>, name: &str) -> bool {
    if of == Some("cel") {
        return name == "bind";
    }
    if of.is_none() && (OURS.contains(&name) || name.starts_with(['_', '@', '!', '-'])) {
        return true;
    }
    // Asked without arguments the library tells an unknown function from one that wants more.
    let target = of.map(|of| Box::new(ided(Expr::Ident(of.to_owned()))));
    let known_by = |name: &str, target| {
        let call = CallExpr { func_name: name.to_owned(), target, args: Vec::new() };
        let found =
            std::panic::catch_unwind(|| Value::resolve(&ided(Expr::Call(call)), &FUNCTIONS));
        !matches!(found, Ok(Err(ExecutionError::UndeclaredReference(_))))
    };
    // With a name before the dot that is no part of a function's name, that name is what is unknown.
    known_by(name, target)
}

/// The names that a macro declares which the parser leaves to us, in order of its arguments.
pub(super) fn declares(call: &CallExpr) -> Vec<&str> {
    let count = match (call.func_name.as_str(), call.args.len()) {
        _ if call.target.is_none() => 0,
        ("bind", 3) | ("optMap" | "optFlatMap" | "sortBy", 2) => 1,
        ("all" | "exists" | "existsOne" | "exists_one", 3)
        | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => 2,
        _ => 0,
    };
    let names = call.args[..count].iter().map(|argument| match &argument.expr {
        Expr::Ident(name) => Some(name.as_str()),
        _ => None,
    });
    names.collect::<Option<_>>().unwrap_or_default()
}

/// The type of an expression's answer, where it is plain to see.
pub(super) fn answer_type(expression: &IdedExpr) -> Option<&'static str> {
    match &expression.expr {
        Expr::Literal(literal) => Some(match literal {
            LiteralValue::Boolean(_) => "bool",
            LiteralValue::Bytes(_) => "bytes",
            LiteralValue::Double(_) => "double",
            LiteralValue::Int(_) => "int",
            LiteralValue::Null => "null_type",
            LiteralValue::String(_) => "string",
            LiteralValue::UInt(_) => "uint",
        }),
        Expr::List(_) => Some("list"),
        Expr::Map(_) => Some("map"),
        Expr::Select(select) if select.test => Some("bool"),
        Expr::Call(call) => match call.func_name.as_str() {
            operators::CONDITIONAL => {
                match (answer_type(&call.args[1]), answer_type(&call.args[2])) {
                    (Some(one), Some(other)) if one == other => Some(one),
                    _ => None,
                }
            }
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::GREATER
            | operators::LESS_EQUALS
            | operators::GREATER_EQUALS
            | operators::IN
            | "startsWith"
            | "endsWith"
            | "matches"
            | "hasValue"
            | "bool" => Some("bool"),
            "size" | "int" => Some("int"),
            "string" | "lowerAscii" | "upperAscii" | "trim" | "join" => Some("string"),
            operators::ADD => answer_type(&call.args[0]).or_else(|| answer_type(&call.args[1])),
            _ => None,
        },
        _ => None,
    }
}

fn ided(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

/// What is found under a key or an index.
pub(super) fn find(of: &Value, key: &Value) -> Result<Option<Value>, String> {
    match (of, key) {
        (Value::Map(map), Value::Float(number)) if number.fract() == 0.0 => {
            Ok(map.get(&KeyRef::Int(*number as i64)).cloned())
        }
        (Value::Map(map), key) => {
            let key = KeyRef::try_from(key).map_err(|_| no_overload())?;
            Ok(map.get(&key).cloned())
        }
        (Value::List(items), key) => {
            let index = match key {
                Value::Int(index) => usize::try_from(*index).ok(),
                Value::UInt(index) => usize::try_from(*index).ok(),
                Value::Float(index) if index.fract() == 0.0 && *index >= 0.0 => {
                    Some(*index as usize)
                }
                Value::Float(_) => None,
                _ => return Err(no_overload()),
            };
            Ok(index.and_then(|index| items.get(index)).cloned())
        }
        _ => Err(no_overload()),
    }
}

pub(super) fn binary(operator: &str, left: Value, right: Value) -> Answer {
    let ordered = |left: &Value, right: &Value| left.partial_cmp(right).ok_or_else(no_overload);
    match operator {
        operators::EQUALS => Ok(Value::Bool(left == right)),
        operators::NOT_EQUALS => Ok(Value::Bool(left != right)),
        operators::LESS => ordered(&left, &right).map(|order| Value::Bool(order.is_lt())),
        operators::LESS_EQUALS => ordered(&left, &right).map(|order| Value::Bool(order.is_le())),
        operators::GREATER => ordered(&left, &right).map(|order| Value::Bool(order.is_gt())),
        operators::GREATER_EQUALS => ordered(&left, &right).map(|order| Value::Bool(order.is_ge())),
        operators::ADD => match (&left, &right) {
            (Value::Bytes(one), Value::Bytes(other)) => {
                Ok(Value::Bytes(Arc::new([one.as_slice(), other.as_slice()].concat())))
            }
            _ => (left + right).map_err(explain),
        },
        operators::SUBSTRACT => (left - right).map_err(explain),
        operators::MULTIPLY => (left * right).map_err(explain),
        operators::DIVIDE => (left / right).map_err(explain),
        operators::MODULO => (left % right).map_err(explain),
        operators::IN => match &right {
            Value::List(items) => Ok(Value::Bool(items.contains(&left))),
            Value::Map(_) => find(&right, &left).map(|found| Value::Bool(found.is_some())),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

/// Calls a function of the library: its arguments are bound to names first, as it takes expressions.
pub(super) fn library(
    prefix: Option<&str>,
    call: &CallExpr,
    target: Option<Value>,
    arguments: Vec<Value>,
) -> Answer {
    let mut scope = FUNCTIONS.new_inner_scope();
    let mut args = Vec::with_capacity(arguments.len());
    for (index, argument) in arguments.into_iter().enumerate() {
        let name = format!("@{index}");
        scope.add_variable_from_value(name.as_str(), argument);
        args.push(ided(Expr::Ident(name)));
    }
    let target = match (prefix, target) {
        (Some(prefix), _) => Some(Box::new(ided(Expr::Ident(prefix.to_owned())))),
        (None, Some(target)) => {
            scope.add_variable_from_value("@", target);
            Some(Box::new(ided(Expr::Ident("@".to_owned()))))
        }
        (None, None) => None,
    };
    let call = CallExpr { func_name: call.func_name.clone(), target, args };
    Value::resolve(&ided(Expr::Call(call)), &scope).map_err(explain)
}

pub(super) fn no_overload() -> String {
    "no such overload".to_owned()
}

/// An error of the library in the words of upstream's; those that show values are cut off.
pub(super) fn explain(error: ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::UndeclaredReference(name) => {
            format!("undeclared reference to '{name}' (in container '')")
        }
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(_, Value::UInt(_), _) => "unsigned integer overflow".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::FunctionError { message, .. } => message.chars().take(500).collect(),
        ExecutionError::InvalidArgumentCount { .. }
        | ExecutionError::NoSuchOverload
        | ExecutionError::NotSupportedAsMethod { .. }
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnsupportedKeyType(_)
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::ValuesNotComparable(..) => no_overload(),
        other => other.to_string().chars().take(500).collect(),
    }
}
