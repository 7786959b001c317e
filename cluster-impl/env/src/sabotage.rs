//! Planted defects, by name. Each must be caught by a scenario; a clean build must raise no alarm.
//!
//! Built only with the feature `sabotage`; without it [`crate::Env::sabotaged`] is the constant false.

use std::fmt;
use std::str::FromStr;

macro_rules! sabotages {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One planted defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sabotage { $($(#[doc = $doc])+ $variant,)+ }

        impl Sabotage {
            /// Every planted defect, in order of name.
            pub const ALL: &[Sabotage] = &[$(Sabotage::$variant,)+];

            /// The name by which it is switched on.
            pub fn name(self) -> &'static str {
                match self { $(Sabotage::$variant => $name,)+ }
            }

            /// What it breaks.
            pub fn breaks(self) -> &'static str {
                match self { $(Sabotage::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

sabotages! {
    /// After 60 writes of ConfigMaps the memory store acknowledges every 20th without keeping it.
    AckedWriteLost = "acked-write-lost",
    /// The kubelet's restart back-off goes on doubling past its cap.
    BackoffNotCapped = "backoff-not-capped",
    /// The scheduler binds a pod a second time, and the API server lets it.
    DoubleBind = "double-bind",
    /// Pods of lost nodes are evicted even when every node is lost at once.
    EvictOnFullDisruption = "evict-on-full-disruption",
    /// The node controller marks a node Unknown after half the grace period.
    GracePeriodIgnored = "grace-period-ignored",
    /// A deposed leader's writes are let through.
    LeaderNotFenced = "leader-not-fenced",
    /// After 60 events a watch drops every 10th.
    LostWatchEvent = "lost-watch-event",
    /// A ReplicaSet keeps one pod more than asked for.
    ReplicaSetOffByOne = "replicaset-off-by-one",
    /// The unreachable taint stays when the node comes back.
    TaintNeverRemoved = "taint-never-removed",
    /// Pods are evicted at once, whatever their tolerationSeconds.
    TolerationSecondsIgnored = "toleration-seconds-ignored",
}

impl fmt::Display for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|known| known.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
            format!("unknown sabotage `{text}`; known: {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_names_read_back() {
        assert!(Sabotage::ALL.windows(2).all(|pair| pair[0].name() < pair[1].name()));
        for sabotage in Sabotage::ALL {
            assert_eq!(sabotage.name().parse(), Ok(*sabotage));
            assert!(!sabotage.breaks().is_empty());
        }
    }
}
