//! Durations, and arithmetic over a cluster's parameters: `300s`, `grace - heartbeat`, `2 * election + 2s`.
//!
//! A window is `[low, high]` after a moment. What the observation error adds is the judge's business.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::target::Parameters;

/// When something must happen, counted from a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Not before.
    #[serde(with = "text")]
    pub low: Duration,
    /// Not after.
    #[serde(with = "text")]
    pub high: Duration,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", show(self.low), show(self.high))
    }
}

/// Why an expression over durations means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WindowError {
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub hint: String,
}

fn error(message: impl Into<String>, hint: impl Into<String>) -> WindowError {
    WindowError { message: message.into(), hint: hint.into() }
}

/// The longest duration an expression may come to: a virtual day and a half is a mistake, not a test.
const LONGEST: Duration = Duration::from_secs(36 * 3600);

/// The value of an expression over durations and parameters.
pub fn evaluate(text: &str, parameters: &Parameters) -> Result<Duration, WindowError> {
    let mut parser = Parser { tokens: tokenize(text)?, next: 0, parameters };
    let value = parser.sum()?;
    if let Some(token) = parser.peek() {
        return Err(error(
            format!("`{token}` is not expected here in `{text}`"),
            "terms are joined by `+` and `-`, and a term may have a whole factor: `2 * monitor`",
        ));
    }
    let Quantity::Time(micros) = value else {
        return Err(error(
            format!("`{text}` has no unit"),
            format!(
                "write `{}s`, or name a parameter: {}",
                text.trim(),
                Parameters::NAMES.join(", ")
            ),
        ));
    };
    let Ok(micros) = u64::try_from(micros) else {
        return Err(error(
            format!("`{text}` is before the moment it is counted from"),
            "swap the terms, or write 0s",
        ));
    };
    let value = Duration::from_micros(micros);
    if value > LONGEST {
        return Err(error(format!("`{text}` is longer than {}", show(LONGEST)), ""));
    }
    Ok(value)
}

/// A duration as scenario files have it: `40s`, `1.5s`, `250ms`, `0s`.
pub fn show(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        "0s".to_string()
    } else if micros.is_multiple_of(1_000_000) {
        format!("{}s", micros / 1_000_000)
    } else if micros > 1_000_000 && micros.is_multiple_of(1_000) {
        format!("{}s", micros as f64 / 1e6)
    } else if micros.is_multiple_of(1_000) {
        format!("{}ms", micros / 1_000)
    } else {
        format!("{micros}us")
    }
}

/// Durations as text in plans.
pub mod text {
    use super::{Duration, Parameters, evaluate, show};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `40s`.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show(*value))
    }

    /// Reads `40s`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        evaluate(&text, &Parameters::default()).map_err(D::Error::custom)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(i128),
    Time(i128),
    Word(String),
    Sign(char),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Number(number) => write!(f, "{number}"),
            Token::Time(micros) => write!(f, "{micros}us"),
            Token::Word(word) => f.write_str(word),
            Token::Sign(sign) => write!(f, "{sign}"),
        }
    }
}

fn tokenize(text: &str) -> Result<Vec<Token>, WindowError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    if rest.is_empty() {
        return Err(error("a duration is missing", "write for example `30s` or `grace`"));
    }
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_digit() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let unit =
                rest[digits..].find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len() - digits);
            tokens.push(quantity(&rest[..digits], &rest[digits..digits + unit])?);
            digits + unit
        } else if first.is_alphabetic() {
            let length =
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_string()));
            length
        } else if "+-*()".contains(first) {
            tokens.push(Token::Sign(first));
            1
        } else {
            return Err(error(
                format!("`{first}` means nothing in `{text}`"),
                "use durations, parameters, `+`, `-` and `*`",
            ));
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn quantity(digits: &str, unit: &str) -> Result<Token, WindowError> {
    let scale: i128 = match unit {
        "" => {
            return digits.parse().map(Token::Number).map_err(|_| {
                error(format!("`{digits}` is not a whole number"), "a factor is a whole number")
            });
        }
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => {
            return Err(error(
                format!("`{unit}` is no unit of time"),
                "the units are us, ms, s, m and h",
            ));
        }
    };
    let value: f64 =
        digits.parse().map_err(|_| error(format!("`{digits}` is not a number"), ""))?;
    Ok(Token::Time((value * scale as f64).round() as i128))
}

#[derive(Debug, Clone, Copy)]
enum Quantity {
    Plain(i128),
    Time(i128),
}

struct Parser<'a> {
    tokens: Vec<Token>,
    next: usize,
    parameters: &'a Parameters,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn sum(&mut self) -> Result<Quantity, WindowError> {
        let mut left = self.product()?;
        while let Some(Token::Sign(sign @ ('+' | '-'))) = self.peek().cloned() {
            self.next += 1;
            let right = self.product()?;
            let factor = if sign == '+' { 1 } else { -1 };
            left = match (left, right) {
                (Quantity::Time(a), Quantity::Time(b)) => Quantity::Time(a + factor * b),
                (Quantity::Plain(a), Quantity::Plain(b)) => Quantity::Plain(a + factor * b),
                (Quantity::Time(_), Quantity::Plain(n))
                | (Quantity::Plain(n), Quantity::Time(_)) => {
                    return Err(error(
                        format!("`{n}` has no unit"),
                        format!("write `{n}s` if you mean seconds"),
                    ));
                }
            };
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Quantity, WindowError> {
        let mut left = self.term()?;
        while self.peek() == Some(&Token::Sign('*')) {
            self.next += 1;
            left = match (left, self.term()?) {
                (Quantity::Plain(a), Quantity::Plain(b)) => Quantity::Plain(a.saturating_mul(b)),
                (Quantity::Plain(a), Quantity::Time(b))
                | (Quantity::Time(b), Quantity::Plain(a)) => Quantity::Time(a.saturating_mul(b)),
                (Quantity::Time(_), Quantity::Time(_)) => {
                    return Err(error("a time cannot be multiplied by a time", "drop one unit"));
                }
            };
        }
        Ok(left)
    }

    fn term(&mut self) -> Result<Quantity, WindowError> {
        match self.take() {
            Some(Token::Number(number)) => Ok(Quantity::Plain(number)),
            Some(Token::Time(micros)) => Ok(Quantity::Time(micros)),
            Some(Token::Word(word)) => match self.parameters.named(&word) {
                Some(value) => Ok(Quantity::Time(value.as_micros() as i128)),
                None => Err(error(
                    format!("`{word}` is no parameter of a cluster"),
                    crate::read::did_you_mean(&word, Parameters::NAMES),
                )),
            },
            Some(Token::Sign('(')) => {
                let value = self.sum()?;
                match self.take() {
                    Some(Token::Sign(')')) => Ok(value),
                    _ => Err(error("a `(` is not closed", "")),
                }
            }
            Some(token) => Err(error(format!("`{token}` stands where a duration should be"), "")),
            None => Err(error("a duration is missing at the end", "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_over_parameters() {
        let parameters = Parameters::default();
        for (text, expected) in [
            ("300s", "300s"),
            ("0s", "0s"),
            ("1.5s", "1.5s"),
            ("5m", "300s"),
            ("250ms", "250ms"),
            ("grace - heartbeat", "30s"),
            ("grace + 2 * monitor", "50s"),
            ("2 * election + 2s", "4s"),
            ("T + monitor", "305s"),
            ("2 * (lease - renew)", "10s"),
            ("monitor*2", "10s"),
        ] {
            assert_eq!(show(evaluate(text, &parameters).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        let parameters = Parameters::default();
        for (text, message, hint) in [
            ("", "missing", "30s"),
            ("30", "no unit", "30s"),
            ("grase", "no parameter", "grace"),
            ("grace + 5", "no unit", "5s"),
            ("5 parsecs", "not expected", "terms"),
            ("5x", "no unit of time", "units"),
            ("monitor - grace", "before the moment", "swap"),
            ("grace * grace", "multiplied", "unit"),
            ("(grace", "not closed", ""),
            ("grace / 2", "means nothing", "durations"),
            ("90h", "longer", ""),
        ] {
            let error = evaluate(text, &parameters).unwrap_err();
            assert!(error.message.contains(message), "{text}: {error:?}");
            assert!(error.hint.contains(hint), "{text}: {error:?}");
        }
    }
}
