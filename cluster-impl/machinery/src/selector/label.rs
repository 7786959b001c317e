//! Label selectors, in the form of a query and in the form of an object.
//!
//! Limits: at most [`REQUIREMENTS_MAX`] requirements in one selector.

use std::fmt;

use serde_json::{Map, Value};

use crate::Object;
use crate::validation::names;

/// More requirements than this are refused.
pub const REQUIREMENTS_MAX: usize = 1024;

/// How a requirement relates a key to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of these.
    In,
    /// The value is none of these, or the key is absent.
    NotIn,
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer greater than this.
    Gt,
    /// The value is an integer less than this.
    Lt,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How the key relates to the values.
    pub operator: Operator,
    /// The values.
    pub values: Vec<String>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Why a text or an object is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text has the wrong form.
    #[error("unable to parse requirement: {0}")]
    Form(String),
    /// A key, value or operator is not allowed.
    #[error("{0}")]
    Invalid(String),
}

impl Requirement {
    /// Whether labels meet this requirement.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        self.matches_value(value)
    }

    /// Whether a label's value meets this requirement; `None` if the label is absent.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let limit = || self.values.first().and_then(|text| number(text));
        match (self.operator, value) {
            (Operator::In, Some(value)) => self.values.iter().any(|one| one == value),
            (Operator::NotIn, Some(value)) => self.values.iter().all(|one| one != value),
            (Operator::NotIn | Operator::DoesNotExist, None) | (Operator::Exists, Some(_)) => true,
            (Operator::Gt, Some(value)) => {
                number(value).zip(limit()).is_some_and(|(value, limit)| value > limit)
            }
            (Operator::Lt, Some(value)) => {
                number(value).zip(limit()).is_some_and(|(value, limit)| value < limit)
            }
            (Operator::DoesNotExist, Some(_)) | (_, None) => false,
        }
    }
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Reads the form of a query, such as `app=web,tier in (a,b),!old`; "" selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let mut requirements = Vec::new();
        while tokens.peek().is_some() {
            requirements.push(requirement(&mut tokens)?);
            match tokens.next() {
                None => break,
                Some(Token::Comma) if tokens.peek().is_some() => {}
                Some(Token::Comma) => {
                    return Err(form("found '', expected: identifier after ','"));
                }
                Some(other) => {
                    return Err(form(format!("found '{other}', expected: ',' or 'end of string'")));
                }
            }
        }
        Self::from_requirements(requirements)
    }

    /// Reads `{matchLabels, matchExpressions}`. Null or absent selects nothing, `{}` everything.
    pub fn from_value(value: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(Value::Object(selector)) = value else { return Ok(Self::nothing()) };
        let mut requirements = Self::equalities(selector.get("matchLabels"))?;
        for expression in
            selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten()
        {
            requirements.push(expression_requirement(expression, false)?);
        }
        Self::from_requirements(requirements)
    }

    /// Reads a plain map, such as a Service's `spec.selector`. Null, absent or empty selects nothing.
    pub fn from_map(value: Option<&Value>) -> Result<Self, SelectorError> {
        let requirements = Self::equalities(value)?;
        if requirements.is_empty() {
            return Ok(Self::nothing());
        }
        Self::from_requirements(requirements)
    }

    fn equalities(value: Option<&Value>) -> Result<Vec<Requirement>, SelectorError> {
        let Some(Value::Object(labels)) = value else { return Ok(Vec::new()) };
        let requirement = |(key, value): (&String, &Value)| {
            let value = value.as_str().ok_or_else(|| {
                SelectorError::Invalid(format!("the value of label `{key}` is no text"))
            })?;
            Ok(Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.to_owned()],
            })
        };
        labels.iter().map(requirement).collect()
    }

    fn from_requirements(requirements: Vec<Requirement>) -> Result<Self, SelectorError> {
        if requirements.len() > REQUIREMENTS_MAX {
            return Err(SelectorError::Invalid(format!(
                "a selector may have at most {REQUIREMENTS_MAX} requirements"
            )));
        }
        for requirement in &requirements {
            if let Some(why) = names::qualified_name(&requirement.key).first() {
                let key = &requirement.key;
                return Err(SelectorError::Invalid(format!("key: Invalid value: {key:?}: {why}")));
            }
            for (index, value) in requirement.values.iter().enumerate() {
                if let Some(why) = names::label_value(value).first() {
                    return Err(SelectorError::Invalid(format!(
                        "values[{index}][{}]: Invalid value: {value:?}: {why}",
                        requirement.key
                    )));
                }
            }
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Whether labels are selected.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether an object's labels are selected.
    pub fn matches_object(&self, object: &Object) -> bool {
        self.matches(object.map("/metadata/labels"))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let Requirement { key, operator, values } = requirement;
            match (operator, values.as_slice()) {
                (Operator::In, [one]) => write!(f, "{key}={one}")?,
                (Operator::In, _) => write!(f, "{key} in ({})", values.join(","))?,
                (Operator::NotIn, [one]) => write!(f, "{key}!={one}")?,
                (Operator::NotIn, _) => write!(f, "{key} notin ({})", values.join(","))?,
                (Operator::Exists, _) => f.write_str(key)?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
                (Operator::Gt, _) => write!(f, "{key}>{}", values.concat())?,
                (Operator::Lt, _) => write!(f, "{key}<{}", values.concat())?,
            }
        }
        Ok(())
    }
}

/// Reads `{key, operator, values}`; `numeric` also allows Gt and Lt, as node selectors do.
pub(super) fn expression_requirement(
    expression: &Value,
    numeric: bool,
) -> Result<Requirement, SelectorError> {
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" if numeric => Operator::Gt,
        "Lt" if numeric => Operator::Lt,
        other => {
            return Err(SelectorError::Invalid(format!(
                "{other:?} is not a valid label selector operator"
            )));
        }
    };
    let values: Vec<String> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect();
    let fits = match operator {
        Operator::In | Operator::NotIn => !values.is_empty(),
        Operator::Exists | Operator::DoesNotExist => values.is_empty(),
        Operator::Gt | Operator::Lt => values.len() == 1,
    };
    if !fits {
        return Err(SelectorError::Invalid(format!(
            "values: Invalid value: {values:?}: wrong number of values for {operator:?}"
        )));
    }
    let key = expression["key"].as_str().unwrap_or_default().to_owned();
    Ok(Requirement { key, operator, values })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::Not => "!",
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
        })
    }
}

fn form(why: impl Into<String>) -> SelectorError {
    SelectorError::Form(why.into())
}

fn tokens(text: &str) -> Result<Vec<Token>, SelectorError> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let pair = rest.get(..2).unwrap_or_default();
        let (token, length) = match (first, pair) {
            (_, "!=") => (Token::NotEquals, 2),
            (_, "==") => (Token::Equals, 2),
            ('=', _) => (Token::Equals, 1),
            ('!', _) => (Token::Not, 1),
            (',', _) => (Token::Comma, 1),
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            ('>', _) => (Token::Greater, 1),
            ('<', _) => (Token::Less, 1),
            _ => {
                let special = |c: char| c.is_whitespace() || "=!,()<>".contains(c);
                let end = rest.find(special).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            }
        };
        if all.len() > REQUIREMENTS_MAX * 8 {
            return Err(form("too long"));
        }
        all.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(all)
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn requirement(tokens: &mut Tokens) -> Result<Requirement, SelectorError> {
    let absent = tokens.next_if_eq(&Token::Not).is_some();
    let key = match tokens.next() {
        Some(Token::Word(key)) => key,
        Some(other) => return Err(form(format!("found '{other}', expected: identifier"))),
        None => return Err(form("found '', expected: identifier")),
    };
    if absent {
        return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
    }
    let operator = match tokens.peek() {
        None | Some(Token::Comma) => {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        }
        Some(Token::Equals) => Operator::In,
        Some(Token::NotEquals) => Operator::NotIn,
        Some(Token::Greater) => Operator::Gt,
        Some(Token::Less) => Operator::Lt,
        Some(Token::Word(word)) if word == "in" => Operator::In,
        Some(Token::Word(word)) if word == "notin" => Operator::NotIn,
        Some(other) => {
            return Err(form(format!(
                "found '{other}', expected: in, notin, =, ==, !=, gt, lt, ',' or 'end of string'"
            )));
        }
    };
    let several = matches!(tokens.next(), Some(Token::Word(_)));
    let values = if several { set(tokens)? } else { vec![one(tokens)] };
    if matches!(operator, Operator::Gt | Operator::Lt)
        && values.iter().any(|value| value.parse::<i64>().is_err())
    {
        return Err(SelectorError::Invalid(
            "for 'Gt', 'Lt' operators, the value must be an integer".into(),
        ));
    }
    Ok(Requirement { key, operator, values })
}

/// The value after `=`; nothing there means the empty value.
fn one(tokens: &mut Tokens) -> String {
    match tokens.next_if(|token| matches!(token, Token::Word(_))) {
        Some(Token::Word(word)) => word,
        _ => String::new(),
    }
}

fn set(tokens: &mut Tokens) -> Result<Vec<String>, SelectorError> {
    if tokens.next_if_eq(&Token::Open).is_none() {
        return Err(form("found no '(', expected: '('"));
    }
    let mut values = Vec::new();
    loop {
        values.push(one(tokens));
        match tokens.next() {
            Some(Token::Comma) => {}
            Some(Token::Close) => break,
            Some(other) => return Err(form(format!("found '{other}', expected: ',' or ')'"))),
            None => return Err(form("found '', expected: ',' or ')'")),
        }
    }
    values.sort();
    values.dedup();
    Ok(values)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str, labels: &Value) -> bool {
        LabelSelector::parse(selector)
            .unwrap_or_else(|error| panic!("{selector}: {error}"))
            .matches(labels.as_object())
    }

    #[test]
    fn queries_select_as_upstream() {
        let web = json!({"app": "web", "tier": "front", "weight": "5", "empty": ""});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier=front", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, api)", true),
            ("app in (api)", false),
            ("app notin (api,web)", false),
            ("other notin (api)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("other", false),
            ("weight>4", true),
            ("weight<5", false),
            ("empty=", true),
            ("empty in (,x)", true),
            ("in in (x)", false),
            ("app=web,tier in (back)", false),
        ] {
            assert_eq!(selects(selector, &web), expected, "{selector}");
        }
    }

    #[test]
    fn wrong_queries_are_refused() {
        for selector in [
            "a=b,", "=b", "a in b", "a in (b", "a b", "a=b=c", "(a)", ",", "a>x", "a=b c", "-a=b",
            "a=b$", "a//b=c", "!",
        ] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn queries_are_written_back() {
        for selector in ["a=b,c!=d", "e in (x,y),!f,g", "h notin (i,j)", "k>1,l<2", ""] {
            assert_eq!(LabelSelector::parse(selector).unwrap().to_string(), selector);
        }
    }

    #[test]
    fn objects_select_as_upstream() {
        let labels = json!({"app": "web", "tier": "front"});
        let labels = labels.as_object();
        let read = |value: Value| LabelSelector::from_value(Some(&value)).unwrap();
        assert!(read(json!({})).matches(labels));
        assert!(!read(Value::Null).matches(labels));
        assert!(!LabelSelector::from_value(None).unwrap().matches(labels));
        assert!(read(json!({"matchLabels": {"app": "web"}})).matches(labels));
        assert!(!read(json!({"matchLabels": {"app": "web", "x": "y"}})).matches(labels));
        let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]});
        assert!(read(expression("In", json!(["front", "x"]))).matches(labels));
        assert!(!read(expression("NotIn", json!(["front"]))).matches(labels));
        assert!(read(expression("Exists", json!([]))).matches(labels));
        assert!(!read(expression("DoesNotExist", Value::Null)).matches(labels));
        for wrong in [
            expression("In", json!([])),
            expression("Exists", json!(["x"])),
            expression("Gt", json!(["1"])),
        ] {
            assert!(LabelSelector::from_value(Some(&wrong)).is_err(), "{wrong}");
        }
        assert!(!LabelSelector::from_map(Some(&json!({}))).unwrap().matches(labels));
        assert!(LabelSelector::from_map(Some(&json!({"app": "web"}))).unwrap().matches(labels));
    }
}
