//! Cron schedules: five fields, or a name such as `@hourly`, with the grammar and the words of
//! github.com/robfig/cron `ParseStandard`, which upstream uses.

/// Minute, hour, day of month, month, day of week: the least and the greatest value of each.
const BOUNDS: [(i64, i64); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const NAMED: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const EVERY: &str = "@every ";

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At every minute that fits.
    Fields {
        /// Minute, hour, day of month, month, day of week: a bit for each value that fits.
        values: [u64; 5],
        /// Whether the days of the month and of the week are written `*`: if neither is, a day fits if
        /// either does.
        any_day: [bool; 2],
    },
    /// Again and again after so many seconds.
    Every(u64),
}

/// Reads a schedule. A prefix `TZ=` or `CRON_TZ=` is passed over: its zone is the caller's to judge.
pub fn parse(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let mut rest = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        rest = text.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if rest.starts_with('@') {
        return named(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != BOUNDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    let (mut values, mut stars) = ([0; 5], [false; 5]);
    for (at, field) in fields.iter().enumerate() {
        (values[at], stars[at]) = read_field(field, at)?;
    }
    Ok(Schedule::Fields { values, any_day: [stars[2], stars[4]] })
}

fn named(text: &str) -> Result<Schedule, String> {
    if let Some((_, fields)) = NAMED.iter().find(|(name, _)| *name == text) {
        return parse(fields);
    }
    let Some(span) = text.strip_prefix(EVERY) else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    match seconds(span) {
        // Less than a second counts as one.
        Some(seconds) => Ok(Schedule::Every(seconds.max(1))),
        None => Err(format!("failed to parse duration {text}: time: invalid duration {span:?}")),
    }
}

/// A Go duration such as `1h30m` in whole seconds.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0;
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |length| end + length);
        total += number
            * match &rest[end..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    // More than a schedule can mean is as good as never.
    Some(total.min(9e9) as u64)
}

/// The bits of one field, and whether it is written `*`.
fn read_field(field: &str, at: usize) -> Result<(u64, bool), String> {
    let (mut bits, mut is_star) = (0, false);
    for part in field.split(',').filter(|part| !part.is_empty()) {
        let (more, star) = read_range(part, at)?;
        bits |= more;
        is_star |= star;
    }
    Ok((bits, is_star))
}

fn read_range(part: &str, at: usize) -> Result<(u64, bool), String> {
    let (least, greatest) = BOUNDS[at];
    let pieces: Vec<&str> = part.split('/').collect();
    let limits: Vec<&str> = pieces[0].split('-').collect();
    let mut is_star = limits[0] == "*" || limits[0] == "?";
    let (start, mut end) = if is_star {
        (least, greatest)
    } else {
        let start = value(limits[0], at)?;
        match limits.as_slice() {
            [_] => (start, start),
            [_, end] => (start, value(end, at)?),
            _ => return Err(format!("too many hyphens: {part}")),
        }
    };
    let step = match pieces.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            // `N/step` means `N-max/step`.
            if limits.len() == 1 {
                end = greatest;
            }
            is_star &= step <= 1;
            step
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    if start < least {
        return Err(format!("beginning of range ({start}) below minimum ({least}): {part}"));
    }
    if end > greatest {
        return Err(format!("end of range ({end}) above maximum ({greatest}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let bits = (start..=end).step_by(step).fold(0, |bits, value| bits | 1 << value);
    Ok((bits, is_star))
}

fn value(text: &str, at: usize) -> Result<i64, String> {
    let names: &[&str] = match at {
        3 => &MONTHS,
        4 => &DAYS,
        _ => &[],
    };
    let place = names.iter().position(|name| *name == text.to_lowercase());
    match place.and_then(|place| i64::try_from(place).ok()) {
        Some(place) => Ok(place + BOUNDS[at].0),
        None => number(text),
    }
}

fn number(text: &str) -> Result<i64, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    if number < 0 {
        return Err(format!("negative number ({number}) not allowed: {text}"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read() {
        let of = |text: &str| match parse(text).unwrap() {
            Schedule::Fields { values, any_day } => (values, any_day),
            Schedule::Every(_) => panic!("{text} has no fields"),
        };
        let all =
            |least: u32, greatest: u32| (least..=greatest).fold(0_u64, |bits, at| bits | 1 << at);
        let every_minute = [all(0, 59), all(0, 23), all(1, 31), all(1, 12), all(0, 6)];
        assert_eq!(of("* * * * *"), (every_minute, [true, true]));
        assert_eq!(of("*/1 * ? * ?").0, every_minute);
        let (values, any_day) = of("*/20 8-10 1,15 JAN,mar Mon-Fri");
        assert_eq!(values[0], 1 | 1 << 20 | 1 << 40);
        assert_eq!(values[1], 1 << 8 | 1 << 9 | 1 << 10);
        assert_eq!(values[2], 1 << 1 | 1 << 15);
        assert_eq!(values[3], 1 << 1 | 1 << 3);
        assert_eq!(values[4], all(1, 5));
        assert_eq!(any_day, [false, false]);
        assert_eq!(of("50/5 * * * *").0[0], 1 << 50 | 1 << 55);
        assert_eq!(of("@hourly"), of("0 * * * *"));
        assert_eq!(of("TZ=Asia/Seoul 5 4 * * *"), of("5 4 * * *"));
        assert_eq!(parse("@every 1h30m"), Ok(Schedule::Every(5400)));
        assert_eq!(parse("@every 10ms"), Ok(Schedule::Every(1)));
    }

    #[test]
    fn what_is_no_schedule_is_told_why() {
        for (text, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "error * * * *",
                "failed to parse int from error: strconv.Atoi: parsing \"error\": invalid syntax",
            ),
            ("@fortnightly", "unrecognized descriptor: @fortnightly"),
            ("@every now", "failed to parse duration @every now: time: invalid duration \"now\""),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text:?}");
        }
    }
}
