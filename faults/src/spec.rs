//! Reads the fields of a fault step, and says what is wrong with them and what would be right.
//!
//! Invariant: a field that a fault does not know is an error, never ignored.

use std::time::Duration;

use serde_json::Value;
use shakedown_core::fault::{FaultSpec, SpecError};
use shakedown_core::lever::Component;
use shakedown_core::read::did_you_mean;

/// The fields of one step, of which every name is known.
pub(crate) struct Fields<'a> {
    spec: &'a FaultSpec,
}

impl<'a> Fields<'a> {
    /// Refuses fields that are not in `known`.
    pub(crate) fn of(spec: &'a FaultSpec, known: &[&str]) -> Result<Self, SpecError> {
        match spec.fields.keys().find(|field| !known.contains(&field.as_str())) {
            None => Ok(Self { spec }),
            Some(field) => Err(SpecError {
                field: field.clone(),
                message: format!("fault `{}` has no field `{field}`", spec.fault),
                hint: nearest(field, known),
            }),
        }
    }

    /// A text.
    pub(crate) fn text(&self, field: &str) -> Result<Option<String>, SpecError> {
        match self.spec.fields.get(field) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(other) => Err(wrong(field, other, "a text that is not empty", "worker-1")),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>, SpecError> {
        match self.spec.fields.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(field, other, "true or false", "true")),
        }
    }

    /// A duration such as `5s`, or a number of seconds.
    pub(crate) fn duration(&self, field: &str) -> Result<Option<Duration>, SpecError> {
        let Some(value) = self.spec.fields.get(field) else { return Ok(None) };
        let parsed = match value {
            Value::String(text) => parse_duration(text),
            Value::Number(number) => number.as_u64().map(Duration::from_secs),
            _ => None,
        };
        parsed.map(Some).ok_or_else(|| wrong(field, value, "a duration", "5s"))
    }

    /// A duration that may be negative, such as `-5m`; in microseconds.
    pub(crate) fn offset_us(&self, field: &str) -> Result<Option<i64>, SpecError> {
        let Some(value) = self.spec.fields.get(field) else { return Ok(None) };
        let parsed = value.as_str().and_then(|text| {
            let (sign, rest) = signed(text);
            let micros = i64::try_from(parse_duration(rest)?.as_micros()).ok()?;
            Some(sign * micros)
        });
        parsed.map(Some).ok_or_else(|| wrong(field, value, "a duration, with a sign or not", "-5m"))
    }

    /// A share such as `10%` or `-0.5%`, in parts in a million.
    pub(crate) fn share_ppm(&self, field: &str) -> Result<Option<i64>, SpecError> {
        let Some(value) = self.spec.fields.get(field) else { return Ok(None) };
        let parsed = value.as_str().and_then(|text| {
            let (sign, rest) = signed(text);
            let number: f64 = rest.strip_suffix('%')?.trim_end().parse().ok()?;
            let is_plain = rest.starts_with(|letter: char| letter.is_ascii_digit());
            let ppm = (number * 10_000.0).round();
            (is_plain && (0.0..=1e9).contains(&ppm)).then_some(sign * ppm as i64)
        });
        parsed.map(Some).ok_or_else(|| wrong(field, value, "a share in per cent", "10%"))
    }

    /// How many, or which: a whole number from 1.
    pub(crate) fn count(&self, field: &str) -> Result<Option<u32>, SpecError> {
        let Some(value) = self.spec.fields.get(field) else { return Ok(None) };
        let parsed = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let parsed = parsed.filter(|number| *number > 0);
        parsed.map(Some).ok_or_else(|| wrong(field, value, "a whole number from 1", "3"))
    }

    /// The component that the step names.
    pub(crate) fn component(&self) -> Result<Component, SpecError> {
        let names: Vec<_> = Component::ALL.iter().map(|component| component.name()).collect();
        let Some(text) = self.text("component")? else {
            return Err(SpecError {
                field: "component".to_owned(),
                message: format!("fault `{}` does not say which component", self.spec.fault),
                hint: format!("add `component:` with one of {}", names.join(", ")),
            });
        };
        Component::ALL.iter().copied().find(|component| component.name() == text).ok_or_else(|| {
            SpecError {
                field: "component".to_owned(),
                message: format!("unknown component `{text}`"),
                hint: nearest(&text, &names),
            }
        })
    }

    /// The name of one of several choices.
    pub(crate) fn choice<T: Copy>(
        &self,
        field: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, SpecError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                Err(SpecError {
                    field: field.to_owned(),
                    message: format!("`{field}` cannot be `{text}`"),
                    hint: nearest(&text, &names),
                })
            }
        }
    }
}

/// What the step is done to: at least one name in `on`, and no sides.
pub(crate) fn on(spec: &FaultSpec, what: &str) -> Result<Vec<String>, SpecError> {
    if !spec.sides.is_empty() {
        return Err(SpecError {
            field: "between".to_owned(),
            message: format!("fault `{}` has no sides", spec.fault),
            hint: format!("say `on:` with {what}"),
        });
    }
    if spec.on.is_empty() {
        return Err(SpecError {
            field: "on".to_owned(),
            message: format!("fault `{}` does not say what it is done to", spec.fault),
            hint: format!("add `on:` with {what}"),
        });
    }
    let mut names = spec.on.clone();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The known name that is nearest to `given`, or all of them.
pub(crate) fn nearest(given: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "it takes no fields of its own".to_owned();
    }
    did_you_mean(given, known)
}

/// The sign of a text, and what comes after it.
fn signed(text: &str) -> (i64, &str) {
    match (text.strip_prefix('-'), text.strip_prefix('+')) {
        (Some(rest), _) => (-1, rest),
        (None, Some(rest)) => (1, rest),
        (None, None) => (1, text),
    }
}

fn wrong(field: &str, value: &Value, wanted: &str, example: &str) -> SpecError {
    SpecError {
        field: field.to_owned(),
        message: format!("`{field}` must be {wanted}, not {value}"),
        hint: format!("such as `{field}: {example}`"),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(field: &str, value: Value) -> FaultSpec {
        FaultSpec {
            fault: "node-kill".to_owned(),
            fields: [(field.to_owned(), value)].into(),
            ..FaultSpec::default()
        }
    }

    #[test]
    fn durations() {
        for (text, wanted) in [
            ("5s", Some(Duration::from_secs(5))),
            ("1.5m", Some(Duration::from_secs(90))),
            ("250ms", Some(Duration::from_millis(250))),
            ("2h", Some(Duration::from_secs(7200))),
            ("5", None),
            ("5 s", None),
            ("-5s", None),
            ("s", None),
        ] {
            assert_eq!(parse_duration(text), wanted, "{text}");
        }
    }

    #[test]
    fn offsets_shares_and_counts() {
        let offset = |value: Value| {
            let spec = step("f", value);
            Fields::of(&spec, &["f"]).unwrap().offset_us("f").ok().flatten()
        };
        assert_eq!(offset(json!("-5m")), Some(-300_000_000));
        assert_eq!(offset(json!("+30s")), Some(30_000_000));
        assert_eq!(offset(json!("--5m")), None);
        let share = |value: Value| {
            let spec = step("f", value);
            Fields::of(&spec, &["f"]).unwrap().share_ppm("f").ok().flatten()
        };
        assert_eq!(share(json!("10%")), Some(100_000));
        assert_eq!(share(json!("-0.5%")), Some(-5_000));
        for wrong in [json!("10"), json!(10), json!("inf%"), json!("%")] {
            assert_eq!(share(wrong), None);
        }
        let count = |value: Value| {
            let spec = step("f", value);
            Fields::of(&spec, &["f"]).unwrap().count("f").ok().flatten()
        };
        assert_eq!(count(json!(3)), Some(3));
        assert_eq!((count(json!(0)), count(json!(-1)), count(json!("3"))), (None, None, None));
    }

    #[test]
    fn an_unknown_field_is_an_error_with_a_hint() {
        let spec = step("componet", Value::from("etcd"));
        let error = Fields::of(&spec, &["component", "hold"]).err().expect("unknown");
        assert_eq!(error.message, "fault `node-kill` has no field `componet`");
        assert_eq!(error.hint, "did you mean `component`?");
    }

    #[test]
    fn a_field_of_the_wrong_type_is_an_error() {
        let spec = step("hold", Value::from("yes"));
        let error = Fields::of(&spec, &["hold"]).unwrap().flag("hold").unwrap_err();
        assert_eq!(error.message, "`hold` must be true or false, not \"yes\"");
    }

    #[test]
    fn a_misspelt_component_is_named() {
        let spec = step("component", Value::from("kube-apiservr"));
        let error = Fields::of(&spec, &["component"]).unwrap().component().unwrap_err();
        assert!(error.hint.starts_with("did you mean `kube-apiserver`?"), "{}", error.hint);
    }
}
