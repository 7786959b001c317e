//! What `/metrics` says of the process itself, under the names of Prometheus' own clients, from `/proc`.
//!
//! What cannot be read is left out.

use std::fs;

use machinery::exposition::Family;
use machinery::exposition::Shape::{Counter, Gauge};

/// Linux tells programs times in hundredths of a second (USER_HZ), whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// The figures of this process, in the text form.
pub fn text() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let seen = Seen::read(&stat, &limits, &boot);
    let mut text = String::new();
    for (family, value) in [
        (
            Family::new(
                "process_cpu_seconds_total",
                Counter,
                &[],
                "Total user and system CPU time spent in seconds.",
            ),
            seen.cpu_s,
        ),
        (
            Family::new("process_max_fds", Gauge, &[], "Maximum number of open file descriptors."),
            seen.files_max,
        ),
        (Family::new("process_open_fds", Gauge, &[], "Number of open file descriptors."), open),
        (
            Family::new(
                "process_resident_memory_bytes",
                Gauge,
                &[],
                "Resident memory size in bytes.",
            ),
            seen.resident_bytes,
        ),
        (
            Family::new(
                "process_start_time_seconds",
                Gauge,
                &[],
                "Start time of the process since unix epoch in seconds.",
            ),
            seen.start_s,
        ),
        (
            Family::new(
                "process_virtual_memory_bytes",
                Gauge,
                &[],
                "Virtual memory size in bytes.",
            ),
            seen.virtual_bytes,
        ),
    ] {
        if let Some(value) = value {
            family.set(&[], value);
            family.write(&mut text);
        }
    }
    text
}

/// What the kernel says.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    cpu_s: Option<f64>,
    files_max: Option<f64>,
    resident_bytes: Option<f64>,
    start_s: Option<f64>,
    virtual_bytes: Option<f64>,
}

impl Seen {
    /// From the texts of `/proc/self/stat`, `/proc/self/limits` and `/proc/stat`.
    fn read(stat: &str, limits: &str, boot: &str) -> Self {
        // The program's name may hold spaces; what follows it does not. It is followed by field 3.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let field = |number: usize| -> Option<f64> { fields.get(number - 3)?.parse().ok() };
        let page_bytes = 4096.0;
        let line = |text: &str, start: &str| -> Option<f64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let ticks = |number: usize| Some(field(number)? / TICKS_PER_SECOND);
        Self {
            cpu_s: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
            files_max: line(limits, "Max open files"),
            resident_bytes: field(24).map(|pages| pages * page_bytes),
            start_s: line(boot, "btime").zip(ticks(22)).map(|(boot_s, after_s)| boot_s + after_s),
            virtual_bytes: field(23),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "7 (a) b c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 1000 8192 3 18 0";
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024   4096  files\n";
        let seen = Seen::read(stat, limits, "cpu 1 2\nbtime 1700000000\n");
        assert_eq!(
            seen,
            Seen {
                cpu_s: Some(2.0),
                files_max: Some(1024.0),
                resident_bytes: Some(12288.0),
                start_s: Some(1_700_000_010.0),
                virtual_bytes: Some(8192.0),
            }
        );
        assert_eq!(Seen::read("", "", ""), Seen::default());
    }

    #[test]
    fn this_process_is_told() {
        let text = text();
        for name in
            ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"]
        {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name}: {text}");
        }
    }
}
