//! Validation of addresses, address ranges and names of domains.
//!
//! Fields that are older than Kubernetes 1.33 take what Go once took, such as leading zeros; newer ones
//! take only the canonical form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Causes, names};

const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address as Go once did: numbers of IPv4 may have leading zeros.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let octets: Option<Vec<u8>> = text
        .split('.')
        .map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let digits = part.trim_start_matches('0');
            let digits = if digits.is_empty() { "0" } else { digits };
            digits.parse().ok().filter(|_| is_number)
        })
        .collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    Some(IpAddr::from(octets))
}

/// Reads an address range: its address as written, and how many bits are fixed.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits: u8 = bits.parse().ok().filter(|_| is_number)?;
    (bits <= width(address)).then_some((address, bits))
}

/// The first address of a range.
pub fn network((address, bits): (IpAddr, u8)) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or_default();
            Ipv4Addr::from(u32::from(address) & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or_default();
            Ipv6Addr::from(u128::from(address) & mask).into()
        }
    }
}

/// Whether a range holds an address.
pub fn contains((range, bits): (IpAddr, u8), address: IpAddr) -> bool {
    range.is_ipv4() == address.is_ipv4() && network((range, bits)) == network((address, bits))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Checks an address in a field that takes the old forms.
pub fn ip(causes: &mut Causes, field: &str, value: &str) {
    if parse_ip(value).is_none() {
        causes.invalid(field, value, NO_IP);
    }
}

/// Checks an address range in a field that takes the old forms; what it is, if it is one.
pub fn cidr(causes: &mut Causes, field: &str, value: &str) -> Option<(IpAddr, u8)> {
    let range = parse_cidr(value);
    if range.is_none() {
        causes.invalid(field, value, NO_CIDR);
    }
    range
}

/// What is wrong with an address that must be in canonical form.
pub fn canonical_ip(value: &str) -> Vec<String> {
    let why = match (parse_ip(value), value.parse::<IpAddr>()) {
        (None, _) => NO_IP.to_owned(),
        (Some(_), Err(_)) => "must not have leading 0s".to_owned(),
        (Some(_), Ok(IpAddr::V6(address))) if address.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address".to_owned()
        }
        (Some(_), Ok(address)) if address.to_string() != value => {
            format!("must be in canonical form (\"{address}\")")
        }
        _ => return Vec::new(),
    };
    vec![why]
}

/// What is wrong with an address range that must be in canonical form.
pub fn canonical_cidr(value: &str) -> Vec<String> {
    let Some(range) = parse_cidr(value) else { return vec![NO_CIDR.to_owned()] };
    let (address, bits) = range;
    let first = network(range);
    if first != address {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    let canonical = format!("{first}/{bits}");
    if canonical == value {
        return Vec::new();
    }
    vec![format!("must be in canonical form (\"{canonical}\")")]
}

/// Checks that an endpoint's address is none with a meaning of its own.
pub fn non_special_ip(causes: &mut Causes, field: &str, value: &str) {
    let Some(address) = parse_ip(value) else {
        causes.invalid(field, value, NO_IP);
        return;
    };
    if address.is_unspecified() {
        causes.invalid(field, value, &format!("may not be unspecified ({value})"));
    }
    if address.is_loopback() {
        let why = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        causes.invalid(field, value, why);
    }
    let (local, multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            (first & 0xffc0 == 0xfe80, first & 0xff0f == 0xff02)
        }
    };
    if local {
        let why = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        causes.invalid(field, value, why);
    }
    if multicast {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        causes.invalid(field, value, why);
    }
}

/// Checks a host name that may begin with `*.`.
pub fn host(causes: &mut Causes, field: &str, value: &str) {
    let rule = if value.contains('*') { names::wildcard_subdomain } else { names::dns_subdomain };
    causes.name(field, value, rule);
}

/// Checks `domain/path`, such as the controller of an IngressClass.
pub fn domain_prefixed_path(causes: &mut Causes, field: &str, value: &str) {
    if value.is_empty() {
        causes.required(field, "");
        return;
    }
    let Some((domain, path)) =
        value.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        causes.invalid(field, value, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    causes.name(field, domain, names::dns_subdomain);
    let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !path.chars().all(fits) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        causes.invalid(field, path, why);
    }
}

/// Checks a name of at least three parts, such as that of a webhook.
pub fn fully_qualified_name(causes: &mut Causes, field: &str, value: &str) {
    let wrong = names::dns_subdomain(value);
    if value.is_empty() {
        causes.required(field, "");
    } else if !wrong.is_empty() {
        causes.name(field, value, names::dns_subdomain);
    } else if value.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        causes.invalid(field, value, why);
    }
}

/// Checks the name of a domain of at least two parts, with or without a dot at its end.
pub fn fully_qualified_domain(causes: &mut Causes, field: &str, value: &str) {
    if value.is_empty() {
        causes.required(field, "");
        return;
    }
    let name = value.strip_suffix('.').unwrap_or(value);
    if !names::dns_subdomain(name).is_empty() {
        causes.name(field, name, names::dns_subdomain);
        return;
    }
    if name.split('.').count() < 2 {
        let why = "should be a domain with at least two segments separated by dots";
        causes.invalid(field, name, why);
    }
    for label in name.split('.') {
        causes.name(field, label, names::dns_label);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::lines;
    use super::*;

    #[test]
    fn addresses_are_read_as_go_once_did() {
        for (text, expected) in [
            ("10.9.8.7", Some("10.9.8.7")),
            ("010.09.8.7", Some("10.9.8.7")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("10.9.8", None),
            ("10.9.8.256", None),
            ("10.9.8.+7", None),
            ("", None),
        ] {
            let found = parse_ip(text).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn ranges_hold_addresses() {
        let range = |text: &str| parse_cidr(text).unwrap();
        for (text, address, holds) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "11.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("2001:db8::/64", "2001:db8::5", true),
            ("::/0", "10.0.0.1", false),
        ] {
            assert_eq!(contains(range(text), address.parse().unwrap()), holds, "{text} {address}");
        }
        for wrong in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "x/8", "10.0.0.0/"] {
            assert_eq!(parse_cidr(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn new_fields_want_the_canonical_form() {
        for (value, expected) in [
            ("10.96.0.1", vec![]),
            ("2001:db8::ffff", vec![]),
            ("2001:db8:0::ffff", vec!["must be in canonical form (\"2001:db8::ffff\")"]),
            ("010.96.0.1", vec!["must not have leading 0s"]),
            ("::ffff:10.0.0.1", vec!["must not be an IPv4-mapped IPv6 address"]),
            ("x", vec![NO_IP]),
        ] {
            assert_eq!(canonical_ip(value), expected, "{value}");
        }
        for (value, expected) in [
            ("10.96.0.0/12", vec![]),
            ("10.96.0.1/12", vec!["must not have bits set beyond the prefix length"]),
            ("2001:DB8::/64", vec!["must be in canonical form (\"2001:db8::/64\")"]),
            ("10.96.0.0", vec![NO_CIDR]),
        ] {
            assert_eq!(canonical_cidr(value), expected, "{value}");
        }
    }

    #[test]
    fn addresses_and_domains_with_a_meaning_are_named() {
        let found = |check: fn(&mut Causes, &str, &str), value: &str| {
            let mut causes = Causes::new();
            check(&mut causes, "f", value);
            lines(&causes.into_list()).len()
        };
        for (value, count) in [
            ("10.0.0.1", 0),
            ("0.0.0.0", 1),
            ("127.0.0.1", 1),
            ("169.254.0.1", 1),
            ("224.0.0.1", 1),
            ("fe80::1", 1),
            ("ff02::1", 1),
            ("2001:db8::1", 0),
        ] {
            assert_eq!(found(non_special_ip, value), count, "{value}");
        }
        for (value, count) in
            [("acme.io/foo", 0), ("acme.io", 1), ("A/b", 1), ("a.b/ c", 1), ("", 1)]
        {
            assert_eq!(found(domain_prefixed_path, value), count, "{value}");
        }
        for (value, count) in [("a.b.c", 0), ("a.b", 1), ("", 1), ("A.b.c", 1)] {
            assert_eq!(found(fully_qualified_name, value), count, "{value}");
        }
        for (value, count) in [("a.b", 0), ("a.b.", 0), ("a", 1), ("", 1), ("A.b", 1)] {
            assert_eq!(found(fully_qualified_domain, value), count, "{value}");
        }
        for (value, count) in [("*.a.b", 0), ("a.*.b", 1), ("a.b", 0)] {
            assert_eq!(found(host, value), count, "{value}");
        }
    }
}
