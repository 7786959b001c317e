//! Figures for Prometheus: families of series, and the text form in which they are read.
//!
//! Names, labels and buckets are upstream's, of Kubernetes 1.33. Numbers are written as Go writes them, for
//! the bound of a bucket is a label, and labels are compared as text.
//! Invariant: a family writes its series in order of their labels, so equal figures are equal text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};

/// The media type of the text form.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// How often a figure was at most each of these; they rise.
    Histogram(&'static [f64]),
}

impl Shape {
    /// As `# TYPE` has it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram(_) => "histogram",
        }
    }
}

/// The series of one name.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it measures, for people.
    pub help: &'static str,
    /// How it is measured.
    pub shape: Shape,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    series: Mutex<Known>,
}

/// The series of a family. They are counted in far more often than they are read, so one is found by
/// the values of its labels, and the labels' text is made but once.
#[derive(Debug)]
struct Known {
    all: Vec<Labelled>,
    /// Places in `all` by a mark of the values; of equal marks the next one that is free is taken.
    places: BTreeMap<u64, usize>,
}

/// A series under its labels.
#[derive(Debug)]
struct Labelled {
    values: Box<[Box<str>]>,
    /// The labels as they are written, without braces.
    text: String,
    one: Series,
}

impl Known {
    const fn new() -> Self {
        Self { all: Vec::new(), places: BTreeMap::new() }
    }

    /// The series with these values; a new one if there is none.
    fn find(&mut self, names: &[&str], values: &[&str]) -> &mut Series {
        let mut mark = mark(values);
        let at = loop {
            match self.places.get(&mark) {
                Some(at) if is_same(&self.all[*at].values, values) => break *at,
                Some(_) => mark = mark.wrapping_add(1),
                None => {
                    self.places.insert(mark, self.all.len());
                    let (text, one) = (text(names, values), Series::default());
                    let values = values.iter().map(|value| (*value).into()).collect();
                    self.all.push(Labelled { values, text, one });
                    break self.all.len() - 1;
                }
            }
        };
        &mut self.all[at].one
    }

    fn in_order(&self) -> Vec<&Labelled> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_unstable_by(|one, other| one.text.cmp(&other.text));
        all
    }
}

fn is_same(known: &[Box<str>], values: &[&str]) -> bool {
    known.len() == values.len() && known.iter().zip(values).all(|(one, other)| **one == **other)
}

/// A number that values which differ hardly ever share.
fn mark(values: &[&str]) -> u64 {
    let mut mark = 0_u64;
    let mut mix = |word: u64| {
        // The multiplier of 64-bit FNV; the rotation brings high bits back down.
        mark = (mark ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    };
    for value in values {
        mix(value.len() as u64);
        let (words, rest) = value.as_bytes().as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
    }
    mark
}

/// Labels as they are written.
fn text(names: &[&str], values: &[&str]) -> String {
    let mut text = String::with_capacity(16 * (values.len() + 1));
    for (name, value) in names.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        escape(&mut text, value);
        text.push('"');
    }
    text
}

/// One series.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The figure; of a histogram the sum.
    value: f64,
    /// How many figures were seen, and in which bucket.
    count: u64,
    buckets: Vec<u64>,
}

impl Series {
    /// Adds to the figure.
    pub fn add(&mut self, amount: f64) {
        self.value += amount;
    }

    fn observe(&mut self, bounds: &[f64], value: f64) {
        self.buckets.resize(bounds.len(), 0);
        self.value += value;
        self.count += 1;
        if let Some(bucket) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket] += 1;
        }
    }
}

impl Family {
    /// A family without series.
    pub const fn new(
        name: &'static str,
        shape: Shape,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, help, shape, labels, series: Mutex::new(Known::new()) }
    }

    /// Adds to a series.
    pub fn add(&self, values: &[&str], amount: f64) {
        self.with(values, |series| series.add(amount));
    }

    /// Sets a series.
    pub fn set(&self, values: &[&str], value: f64) {
        self.with(values, |series| series.value = value);
    }

    /// Takes a figure into a histogram.
    pub fn observe(&self, values: &[&str], value: f64) {
        self.observe_all(values, [value]);
    }

    /// Takes several figures into a histogram at once.
    pub fn observe_all(&self, values: &[&str], all: impl IntoIterator<Item = f64>) {
        let Shape::Histogram(bounds) = self.shape else {
            debug_assert!(false, "{} is no histogram", self.name);
            return;
        };
        self.with(values, |series| {
            for value in all {
                series.observe(bounds, value);
            }
        });
    }

    fn with(&self, values: &[&str], change: impl FnOnce(&mut Series)) {
        debug_assert_eq!(values.len(), self.labels.len(), "labels of {}", self.name);
        change(self.lock().find(self.labels, values));
    }

    /// Writes the text form; nothing if there are no series.
    pub fn write(&self, out: &mut String) {
        let series = self.lock();
        if series.all.is_empty() {
            return;
        }
        let (name, kind) = (self.name, self.shape.name());
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", self.help);
        for Labelled { text: labels, one, .. } in series.in_order() {
            let Shape::Histogram(bounds) = self.shape else {
                let _ = writeln!(out, "{name}{} {}", braced(labels), number(one.value));
                continue;
            };
            let comma = if labels.is_empty() { "" } else { "," };
            let mut up_to = 0;
            for (at, bound) in bounds.iter().enumerate() {
                up_to += one.buckets.get(at).copied().unwrap_or_default();
                let bound = number(*bound);
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {up_to}");
            }
            let (count, braced) = (one.count, braced(labels));
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{name}_sum{braced} {}", number(one.value));
            let _ = writeln!(out, "{name}_count{braced} {count}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.series.lock().expect("no code panics while it holds the series")
    }
}

/// What is known of a family, in one line, for tests that hold it.
impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} [{}]", self.name, self.shape.name(), self.labels.join(" "))?;
        if let Shape::Histogram(bounds) = self.shape {
            let bounds: Vec<_> = bounds.iter().map(|bound| number(*bound)).collect();
            write!(f, " {}", bounds.join(" "))?;
        }
        Ok(())
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn escape(out: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            letter => out.push(letter),
        }
    }
}

/// A number as Go's `strconv.FormatFloat(value, 'g', -1, 64)` writes it.
fn number(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return format!("{value}") };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_bounds() {
        for (value, text) in [
            (0.005, "0.005"),
            (1.0, "1"),
            (2.5, "2.5"),
            (100_000.0, "100000"),
            (1_000_000.0, "1e+06"),
            (1e9, "1e+09"),
            (45_678_592.0, "4.5678592e+07"),
            (5e-7, "5e-07"),
            (1e-8, "1e-08"),
            (0.0, "0"),
            (-1.0, "-1"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn families_are_written_in_order() {
        const REQUESTS: &str = "requests_total";
        let requests =
            Family::new(REQUESTS, Shape::Counter, &["code", "path"], "How many requests.");
        let mut text = String::new();
        requests.write(&mut text);
        assert_eq!(text, "", "nothing was counted");
        requests.add(&["404", "a\"b\\c\nd"], 1.0);
        requests.add(&["200", "/"], 2.0);
        requests.add(&["200", "/"], 1.0);
        requests.write(&mut text);
        assert_eq!(
            text,
            "# HELP requests_total How many requests.\n# TYPE requests_total counter\n\
             requests_total{code=\"200\",path=\"/\"} 3\n\
             requests_total{code=\"404\",path=\"a\\\"b\\\\c\\nd\"} 1\n"
        );
        let sizes = Family::new("sizes", Shape::Histogram(&[1.0, 10.0]), &["of"], "Sizes.");
        for size in [0.5, 1.0, 5.0, 50.0] {
            sizes.observe(&["a"], size);
        }
        let mut text = String::new();
        sizes.write(&mut text);
        assert_eq!(
            text,
            "# HELP sizes Sizes.\n# TYPE sizes histogram\n\
             sizes_bucket{of=\"a\",le=\"1\"} 2\nsizes_bucket{of=\"a\",le=\"10\"} 3\n\
             sizes_bucket{of=\"a\",le=\"+Inf\"} 4\nsizes_sum{of=\"a\"} 56.5\n\
             sizes_count{of=\"a\"} 4\n"
        );
        // In order of the labels' text, however long the values are, and in whatever order they came.
        let mut text = String::new();
        let names = ["b", "a\"", "a", "", "long enough for several words", "long enough for more"];
        names.iter().for_each(|name| requests.add(&[name, ""], 0.0));
        names.iter().for_each(|name| requests.add(&["", name], 0.0));
        requests.write(&mut text);
        let labels: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(labels.len(), 2 + 2 * names.len() - 1);
        assert!(labels.is_sorted(), "{text}");
        let depth = Family::new("depth", Shape::Gauge, &[], "How deep.");
        depth.set(&[], 3.0);
        let mut text = String::new();
        depth.write(&mut text);
        assert!(text.ends_with("\ndepth 3\n"), "{text}");
        assert_eq!(sizes.to_string(), "sizes histogram [of] 1 10");
    }
}
