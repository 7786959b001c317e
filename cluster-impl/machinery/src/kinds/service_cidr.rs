//! ServiceCIDR: a range from which Services get their addresses.

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column, create_without_status, keep_status};
use crate::validation::{Causes, go_strings, items, metadata, names, network, text};
use crate::{Cause, Object};

/// ServiceCIDR.
pub static SERVICE_CIDR: Kind = Kind {
    id: "servicecidrs.networking.k8s.io",
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    namespaced: false,
    has_status: true,
    prepare_create: create_without_status,
    prepare_update: keep_status,
    validate,
    columns: &[NAME, column("CIDRs", "string", 0), AGE],
    cells: |object, now| {
        let ranges: Vec<_> = object.list("/spec/cidrs").iter().map(text).collect();
        vec![object.name().into(), ranges.join(",").into(), age(object, now)]
    },
    ..PLAIN
};

const FIELD: &str = "spec.cidrs";

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let ranges = &object.0["spec"]["cidrs"];
    check(&mut causes, ranges);
    if let Some(old) = old {
        let before = &old.0["spec"]["cidrs"];
        match (items(before).count(), items(ranges).count()) {
            // A second family may be added.
            (1, 2) => unchanged(&mut causes, ranges, before),
            (was, is) if was == is => unchanged(&mut causes, ranges, before),
            _ => causes.invalid_as(FIELD, &go_strings(ranges), "field is immutable"),
        }
    }
    causes.into_list()
}

fn unchanged(causes: &mut Causes, ranges: &Value, before: &Value) {
    for (index, range) in items(before) {
        causes.immutable(&format!("{FIELD}[{index}]"), &ranges[index], range);
    }
}

fn check(causes: &mut Causes, ranges: &Value) {
    match items(ranges).count() {
        0 => return causes.required(FIELD, "at least one CIDR required"),
        1 | 2 => {}
        _ => return causes.invalid_as(FIELD, &go_strings(ranges), "may only hold up to 2 values"),
    }
    for (index, range) in items(ranges) {
        causes.name(&format!("{FIELD}[{index}]"), text(range), network::canonical_cidr);
    }
    let family = |index: usize| {
        network::parse_cidr(text(&ranges[index])).map(|(address, _)| address.is_ipv4())
    };
    if items(ranges).count() == 2 && family(0).is_some() && family(0) == family(1) {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                   2001:db8::/64";
        causes.invalid_as(FIELD, &go_strings(ranges), why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn ranges(ranges: &[&str]) -> Object {
        Object(json!({
            "metadata": {"name": "more", "creationTimestamp": at(0).to_string()},
            "spec": {"cidrs": ranges},
        }))
    }

    #[test]
    fn ranges_are_checked_and_stay() {
        let one = ranges(&["10.96.0.0/12"]);
        let two = ranges(&["10.96.0.0/12", "2001:db8::/64"]);
        for (object, old, expected) in [
            (&one, None, vec![]),
            (&two, None, vec![]),
            (&two, Some(&one), vec![]),
            (&one, Some(&two), vec![
                "Invalid spec.cidrs: Invalid value: []string{\"10.96.0.0/12\"}: field is immutable",
            ]),
            (&ranges(&["10.0.0.0/8"]), Some(&one), vec![
                "Invalid spec.cidrs[0]: Invalid value: \"10.0.0.0/8\": field is immutable",
            ]),
            (&ranges(&[]), None, vec![
                "Required spec.cidrs: Required value: at least one CIDR required",
            ]),
            (&ranges(&["10.0.0.0/8", "11.0.0.0/8"]), None, vec![
                "Invalid spec.cidrs: Invalid value: []string{\"10.0.0.0/8\", \"11.0.0.0/8\"}: may \
                 specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                 2001:db8::/64",
            ]),
            (&ranges(&["10.0.0.1/8"]), None, vec![
                "Invalid spec.cidrs[0]: Invalid value: \"10.0.0.1/8\": must not have bits set \
                 beyond the prefix length",
            ]),
        ] {
            assert_eq!(found(&SERVICE_CIDR, object, old), expected);
        }
        assert_eq!(row(&SERVICE_CIDR, &two, 5), "more|10.96.0.0/12,2001:db8::/64|5s");
    }
}
