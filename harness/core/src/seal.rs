//! The seal of a scenario: a second book about what was handed to the recorder, kept by its sources.
//!
//! Sources count what they tell; the event loop chains time, error and content of everything in its
//! order. At the scenario's end both are noted, and the judge adds the timeline up again: what was
//! lost, added, moved or dated otherwise between source and judge shows. Not a signature: it guards
//! against defects, not against forgery.

mod fold;

use std::collections::BTreeMap;

use fold::Fold;
use serde::Serialize;

use crate::timeline::What;

/// What was handed over so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seal {
    /// How many of each sort.
    pub counts: BTreeMap<String, u64>,
    chain: u64,
    /// As in timelines of format 2, whose events were mixed in as text.
    is_text: bool,
}

/// The sort of an event, by which it is counted.
pub fn sort(what: &What) -> &'static str {
    match what {
        What::Audit { .. } => "audit",
        What::Container { .. } => "container",
        What::Delivered { .. } => "delivered",
        What::EtcdMember { .. } => "etcd-member",
        What::Fault { .. } => "fault",
        What::Object { .. } => "object",
        What::Operation(_) => "operation",
        What::Process { .. } => "process",
        What::WatchStream { .. } => "watch-stream",
        _ => "other",
    }
}

impl Seal {
    /// The seal of a timeline of this format.
    pub fn of_format(format: u32) -> Self {
        Self { is_text: format == 2, ..Self::default() }
    }

    /// Counts one event.
    pub fn count(&mut self, what: &What) {
        self.count_many(sort(what), 1);
    }

    /// Counts several events of a sort.
    pub fn count_many(&mut self, sort: &str, more: u64) {
        match self.counts.get_mut(sort) {
            Some(count) => *count += more,
            None => {
                self.counts.insert(sort.to_owned(), more);
            }
        }
    }

    /// Chains one event to those before it.
    pub fn chain(&mut self, at_us: u64, error_us: u64, what: &What) {
        let mut fold = Fold(self.chain);
        fold.word(at_us);
        fold.word(error_us);
        let done = match self.is_text {
            true => serde_json::to_writer(&mut fold, what).is_ok(),
            false => what.serialize(&mut fold).is_ok(),
        };
        assert!(done, "events are plain data, and a fold takes all");
        self.chain = fold.0;
    }

    /// What stands at the end of the chain, as text.
    pub fn digest(&self) -> String {
        format!("{:016x}", self.chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> What {
        What::Note { text: text.into() }
    }

    fn digest(events: &[(u64, u64, &str)]) -> String {
        let mut seal = Seal::default();
        for (at_us, error_us, text) in events {
            seal.chain(*at_us, *error_us, &note(text));
        }
        seal.digest()
    }

    #[test]
    fn order_time_error_and_content_all_count() {
        let whole = [(1, 0, "a"), (2, 0, "b"), (3, 1, "something longer than a word")];
        let clean = digest(&whole);
        assert_eq!(clean, digest(&whole));
        let others: [&[_]; 6] = [
            &[whole[1], whole[0], whole[2]],
            &whole[..2],
            &[(2, 0, "a"), whole[1], whole[2]],
            &[(1, 1, "a"), whole[1], whole[2]],
            &[(1, 0, "c"), whole[1], whole[2]],
            &[whole[0], whole[1], (3, 1, "something longer than a work")],
        ];
        for other in others {
            assert_ne!(clean, digest(other), "{other:?}");
        }
    }

    #[test]
    fn what_was_read_back_from_a_file_is_the_same() {
        let object = serde_json::json!({"b": {"z": 1, "a": [1.5, null]}, "a": "ü\n"});
        let change = crate::timeline::Change::Added;
        let what = What::Object { change, kind: "pods".into(), revision: 7, object: object.into() };
        let read: What = serde_json::from_str(&serde_json::to_string(&what).unwrap()).unwrap();
        let (mut before, mut after) = (Seal::default(), Seal::default());
        before.chain(1, 2, &what);
        after.chain(1, 2, &read);
        assert_eq!(before, after);
    }
}
