//! Gives every node a range of pod addresses out of the cluster's.
//!
//! ```yaml
//! # With --cluster-cidr 10.244.0.0/16 and --node-cidr-mask-size 24 the first node gets:
//! kind: Node
//! spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24]}
//! ```
//!
//! IPv4 only. A node keeps its range until it is deleted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use apiclient::{Informed, PatchKind};
use machinery::kinds::NODE;
use machinery::{Kind, View};
use serde_json::json;

use crate::{Config, Controller, DecideCx, Decision, Key, Note, Write};

/// The controller. It remembers which range it gave to whom, as nodes may show theirs late.
pub struct NodeIpam {
    first: u32,
    size: u32,
    ranges: u32,
    mask: u8,
    given: BTreeMap<String, u32>,
    /// To how many nodes each range was given: to one, unless somebody else gave it again.
    taken: BTreeMap<u32, u32>,
    /// All ranges before this one are taken.
    free_from: u32,
}

impl NodeIpam {
    /// A controller that has given no range. A cluster CIDR that cannot be read has no ranges.
    pub fn new(config: &Config) -> Self {
        let mask = config.node_cidr_mask_size.clamp(1, 32);
        let (first, ranges) = parse(&config.cluster_cidr, mask).unwrap_or_default();
        Self { first, size: 1 << (32 - mask), ranges, mask, given: BTreeMap::new(), taken: BTreeMap::new(), free_from: 0 }
    }

    fn range(&self, place: u32) -> String {
        format!("{}/{}", Ipv4Addr::from(self.first + place * self.size), self.mask)
    }

    fn give(&mut self, node: &str, place: u32) {
        self.take_back(node);
        self.given.insert(node.to_owned(), place);
        *self.taken.entry(place).or_default() += 1;
    }

    fn take_back(&mut self, node: &str) {
        let Some(place) = self.given.remove(node) else { return };
        let count = self.taken.entry(place).or_insert(1);
        *count -= 1;
        if *count == 0 {
            self.taken.remove(&place);
            self.free_from = self.free_from.min(place);
        }
    }

    /// The first range that nobody has.
    fn first_free(&mut self) -> Option<u32> {
        while self.free_from < self.ranges && self.taken.contains_key(&self.free_from) {
            self.free_from += 1;
        }
        (self.free_from < self.ranges).then_some(self.free_from)
    }

    /// Takes a node's range out of what can be given, whoever gave it.
    fn take(&mut self, node: &str, range: &str) {
        let address = range.split('/').next().and_then(|address| address.parse::<Ipv4Addr>().ok());
        let offset = address.and_then(|address| u32::from(address).checked_sub(self.first));
        if let Some(place) = offset.map(|offset| offset / self.size).filter(|at| *at < self.ranges) {
            self.give(node, place);
        }
    }
}

/// The first address, and the number of ranges of this mask.
fn parse(cidr: &str, mask: u8) -> Option<(u32, u32)> {
    let (address, length) = cidr.split_once('/')?;
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let length: u8 = length.parse().ok().filter(|length| (1..=mask).contains(length))?;
    let network = address & (u32::MAX << (32 - length));
    Some((network, 1 << (mask - length).min(31)))
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "cidrAllocator"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&NODE]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id != NODE.id {
            return Vec::new();
        }
        let Some(node) = &change.new else {
            self.take_back(&change.key.name);
            return Vec::new();
        };
        let range = node.text("/spec/podCIDR");
        if range.is_empty() {
            return vec![Key::of(&NODE, change.key.clone())];
        }
        if !self.given.contains_key(node.name()) {
            self.take(node.name(), range);
        }
        Vec::new()
    }

    fn decide(&mut self, view: &View, key: &Key, _: &DecideCx<'_>) -> Decision {
        let mut decision = Decision::settled();
        let Some(node) = view.get(&NODE, &key.object) else { return decision };
        if !node.text("/spec/podCIDR").is_empty() {
            return decision;
        }
        let place = match self.given.get(node.name()) {
            Some(place) => Some(*place),
            None => self.first_free(),
        };
        let Some(place) = place else {
            let message = format!("Node {} status is now: CIDRNotAvailable", node.name());
            decision.writes.push(Write::Event(Note::normal(node, "CIDRNotAvailable", message)));
            return decision;
        };
        self.give(node.name(), place);
        let range = self.range(place);
        decision.writes.push(Write::Patch {
            kind: &NODE,
            key: node.key(),
            subresource: "",
            how: PatchKind::Merge,
            patch: json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}),
        });
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn every_node_gets_a_range_of_its_own() {
        let mut world = World::new(
            |config| Box::new(NodeIpam::new(config)),
            "node/a; node/b /spec/podCIDR=10.244.0.0/24; node/c",
        );
        insta::assert_snapshot!(world.run_to(0), @r#"
        0 patch nodes/a {"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}
        0 patch nodes/c {"spec":{"podCIDR":"10.244.2.0/24","podCIDRs":["10.244.2.0/24"]}}
        "#);
        world.see("-node/b; node/d");
        insta::assert_snapshot!(world.run_to(0), @r#"0 patch nodes/d {"spec":{"podCIDR":"10.244.0.0/24","podCIDRs":["10.244.0.0/24"]}}"#);
    }

    #[test]
    fn ranges_run_out() {
        let small = |config: &Config| {
            let config = Config { cluster_cidr: "10.0.0.0/23".to_owned(), ..config.clone() };
            Box::new(NodeIpam::new(&config)) as Box<dyn Controller>
        };
        let log = World::new(small, "node/a; node/b; node/c").run_to(0);
        assert_eq!(log.matches("patch").count(), 2);
        assert!(log.contains("event CIDRNotAvailable c"), "{log}");
    }

    #[test]
    fn a_cidr_is_read_or_has_no_ranges() {
        let ten = u32::from(Ipv4Addr::new(10, 244, 0, 0));
        for (cidr, mask, expected) in [
            ("10.244.0.0/16", 24, Some((ten, 256))),
            ("10.244.7.9/16", 24, Some((ten, 256))),
            ("10.244.0.0/24", 24, Some((ten, 1))),
            ("10.244.0.0/25", 24, None),
            ("fd00::/64", 80, None),
            ("", 24, None),
        ] {
            assert_eq!(parse(cidr, mask), expected, "{cidr}");
        }
    }
}
