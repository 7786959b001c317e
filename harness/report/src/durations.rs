//! Durations as people read them: `39.06 s`, `12 ms`, `5 min 44.16 s`.

/// Of milliseconds with a fraction. Seconds up to two minutes, so that they compare at a glance.
pub fn human_ms(ms: f64) -> String {
    let sign = if ms < 0.0 { "-" } else { "" };
    let ms = ms.abs();
    // Rounded first, so that a bound is never shown as 60.00 s of a minute.
    let hundredths = (ms / 10.0).round();
    if ms == 0.0 {
        "0 s".to_owned()
    } else if ms < 1.0 {
        format!("{sign}{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{sign}{ms:.0} ms")
    } else if hundredths < 12_000.0 {
        format!("{sign}{:.2} s", hundredths / 100.0)
    } else {
        let minutes = (hundredths / 6000.0).floor();
        let seconds = (hundredths - minutes * 6000.0) / 100.0;
        if minutes < 120.0 {
            format!("{sign}{minutes} min {seconds:.2} s")
        } else {
            format!("{sign}{} h {} min", (minutes / 60.0).floor(), minutes % 60.0)
        }
    }
}

/// Of whole milliseconds.
pub fn human(ms: u64) -> String {
    human_ms(ms as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_read_as_people_say_them() {
        for (ms, text) in [
            (0.0, "0 s"),
            (0.25, "0.25 ms"),
            (12.4, "12 ms"),
            (999.0, "999 ms"),
            (39_062.0, "39.06 s"),
            (119_990.0, "119.99 s"),
            (119_999.0, "2 min 0.00 s"),
            (344_160.0, "5 min 44.16 s"),
            (9_000_000.0, "2 h 30 min"),
            (-1500.0, "-1.50 s"),
        ] {
            assert_eq!(human_ms(ms), text, "{ms}");
        }
    }
}
