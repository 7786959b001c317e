//! The formats that a schema may name, as far as upstream checks them.
//!
//! Formats that are not listed here are not checked, as upstream.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::validation::names;

/// Whether a text is of a format.
pub(super) fn is_of(format: &str, text: &str) -> bool {
    match format {
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "date-time" | "datetime" => {
            text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok()
        }
        "duration" => is_duration(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b'3')),
        "uuid4" => is_uuid(text, Some(b'4')),
        "uuid5" => is_uuid(text, Some(b'5')),
        "hostname" => text.len() <= 255 && names::dns_subdomain(&text.to_lowercase()).is_empty(),
        "email" => is_email(text),
        "uri" => is_uri(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            [3, 6].contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_hexdigit())
        }
        "k8s-short-name" => names::dns_label(text).is_empty(),
        "k8s-long-name" => names::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

/// As Go reads it: `1h30m`, `-1.5s`, `0`.
fn is_duration(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if text == "0" {
        return true;
    }
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let units = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(units);
        let is_number = number.parse::<f64>().is_ok();
        if !is_number || !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&unit) {
            return false;
        }
        rest = after;
    }
    !text.is_empty()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(_), _) => 32,
        (_, Ok(_)) => 128,
        _ => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    [6, 8].contains(&parts.len())
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))
}

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let bare: Vec<u8> = text.bytes().filter(|c| *c != b'-').collect();
    bare.len() == 32
        && bare.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|version| bare[12] == version)
}

fn is_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !text.contains(char::is_whitespace)
            && !local.contains('@')
    })
}

fn is_uri(text: &str) -> bool {
    // As Go's url.ParseRequestURI: absolute, or an absolute path.
    let has_scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty()
    });
    (has_scheme || text.starts_with('/')) && !text.contains(|c: char| c.is_control() || c == ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_right_from_wrong() {
        for (format, right, wrong) in [
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-01-01T00:00:00Z", "2024-01-01"),
            ("duration", "1h30m", "1 hour"),
            ("byte", "YWJj", "%%%"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11:22"),
            ("uuid", "4ab1b1b1-0000-4000-8000-000000000000", "4ab1"),
            (
                "uuid4",
                "4ab1b1b1-0000-4000-8000-000000000000",
                "4ab1b1b1-0000-3000-8000-000000000000",
            ),
            ("hostname", "a.example", "a_b"),
            ("email", "a@b.c", "a"),
            ("uri", "https://a.b/c", "a b"),
            ("hexcolor", "#ffaa00", "#ggg"),
        ] {
            assert!(is_of(format, right), "{format} {right}");
            assert!(!is_of(format, wrong), "{format} {wrong}");
        }
        assert!(is_of("nobody-knows", "x"));
    }
}
