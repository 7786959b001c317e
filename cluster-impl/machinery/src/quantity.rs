//! Quantities: `500m`, `1.5Gi`, `2e3`, as Kubernetes parses, compares, adds and writes them.
//!
//! Precision is a billionth; finer fractions are rounded away from zero, as upstream does. Values whose
//! magnitude passes 2^63-1 units are capped there.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const CAP: i128 = i64::MAX as i128 * NANO;
/// A number longer than this is refused instead of computed.
const LENGTH_MAX: usize = 64;
const BINARY: &[(&str, u32)] =
    &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// How a quantity was written, and therefore is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `k`, `M`, `G`, `m`.
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`.
    BinarySi,
    /// `e3`, `e6`.
    DecimalExponent,
}

/// An amount of something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The number or the whole has the wrong form.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    /// The letters after the number mean nothing.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Whole units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    /// Thousandths.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * 1_000_000, format: Format::DecimalSi }
    }

    /// Reads a string or a number; `None` for anything else or for what cannot be parsed.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    /// Whole units, rounded up: `Value()` upstream.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, rounded up: `MilliValue()` upstream.
    pub fn milli_value(&self) -> i64 {
        self.scaled(1_000_000)
    }

    /// Whether this is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether this is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether this is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// How it was written.
    pub fn format(&self) -> Format {
        self.format
    }

    fn scaled(self, unit: i128) -> i64 {
        let whole = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    fn new(nanos: i128, format: Format) -> Self {
        Self { nanos: nanos.clamp(-CAP, CAP), format }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() || text.len() > LENGTH_MAX {
            return Err(QuantityError::Form);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Form);
        }
        let (power_of_two, power_of_ten, format) = scale(suffix)?;
        let magnitude = magnitude(whole, fraction, power_of_two, power_of_ten);
        Ok(Self::new(if negative { -magnitude } else { magnitude }, format))
    }
}

/// The suffix as a power of two and a power of ten.
fn scale(suffix: &str) -> Result<(u32, i32, Format), QuantityError> {
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((*power, 0, Format::BinarySi));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((0, *power, Format::DecimalSi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let power: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((0, power, Format::DecimalExponent))
}

/// Billionths, rounded up, capped.
fn magnitude(whole: &str, fraction: &str, power_of_two: u32, power_of_ten: i32) -> i128 {
    let digits: String = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let shift = i64::from(power_of_ten) + 9 - i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    // More than 40 digits before the point, in billionths, is beyond the cap whatever follows.
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if length + shift > 36 {
        return CAP;
    }
    if length + shift < -20 {
        return 1;
    }
    let Some(value) = digits[..digits.len().min(38)].parse::<i128>().ok() else { return CAP };
    let dropped = i64::try_from(digits.len() - digits.len().min(38)).unwrap_or_default();
    let shift = shift + dropped;
    let Some(value) = value.checked_mul(1_i128 << power_of_two) else { return CAP };
    if shift >= 0 {
        let power = u32::try_from(shift).unwrap_or(u32::MAX);
        return 10_i128
            .checked_pow(power)
            .and_then(|factor| value.checked_mul(factor))
            .unwrap_or(CAP);
    }
    match 10_i128.checked_pow(u32::try_from(-shift).unwrap_or(u32::MAX)) {
        Some(divisor) => value / divisor + i128::from(value % divisor != 0),
        None => 1,
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            _ if self.nanos == 0 => f.write_str("0"),
            Format::BinarySi if !small && self.is_whole() => binary(self.nanos / NANO, f),
            Format::BinarySi | Format::DecimalSi => decimal(self.nanos, false, f),
            Format::DecimalExponent => decimal(self.nanos, true, f),
        }
    }
}

fn binary(mut units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut step = 0;
    while units % 1024 == 0 && step < BINARY.len() {
        units /= 1024;
        step += 1;
    }
    let suffix = step.checked_sub(1).map_or("", |index| BINARY[index].0);
    write!(f, "{units}{suffix}")
}

fn decimal(mut nanos: i128, exponent: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut step = 0;
    while nanos % 1000 == 0 && step + 1 < DECIMAL.len() {
        nanos /= 1000;
        step += 1;
    }
    let (suffix, power) = DECIMAL[step];
    if exponent && power != 0 {
        write!(f, "{nanos}e{power}")
    } else {
        write!(f, "{nanos}{}", if exponent { "" } else { suffix })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // Nothing has no format of its own, as upstream.
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self::new(self.nanos + other.nanos, format)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self::new(self.nanos - other.nanos, format)
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).ok_or_else(|| serde::de::Error::custom(QuantityError::Form))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn writes_the_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1024Mi", "1Gi"),
            ("1500Mi", "1500Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("123Mi", "123Mi"),
            (".5", "500m"),
            ("5.", "5"),
            ("+5", "5"),
            ("-1.5", "-1500m"),
            ("100u", "100u"),
            ("0.1n", "1n"),
            ("1e-3", "1e-3"),
            ("0.0000000001", "1n"),
            ("00000000000000000000000000000000000000001", "1"),
        ] {
            assert_eq!(quantity(text).to_string(), canonical, "{text}");
            assert_eq!(quantity(canonical), quantity(text), "{text} reads back");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "Gi", "1.2.3", "1gi", "1KiB", "--1", "1 Gi", "e3", "1e", "1ee3", "１"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert_eq!("1Kb".parse::<Quantity>(), Err(QuantityError::Suffix));
    }

    #[test]
    fn compares_and_computes_across_formats() {
        assert_eq!(quantity("1Ki"), quantity("1024"));
        assert!(quantity("1G") < quantity("1Gi"));
        assert_eq!((quantity("1Gi") + quantity("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("2") - quantity("500m")).to_string(), "1500m");
        assert_eq!(quantity("100m").value(), 1);
        assert_eq!(quantity("1500m").milli_value(), 1500);
        assert_eq!(quantity("1n").milli_value(), 1);
        assert_eq!([quantity("250m"), quantity("750m")].into_iter().sum::<Quantity>().value(), 1);
    }

    #[test]
    fn huge_values_are_capped() {
        assert_eq!(quantity("9223372036854775807").value(), i64::MAX);
        assert_eq!(quantity("1e500").value(), i64::MAX);
        assert_eq!(quantity("-1e500").value(), -i64::MAX);
        assert_eq!(quantity("1000Ei").value(), i64::MAX);
    }
}
