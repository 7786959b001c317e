//! Planted defects of the harness itself, by name. Each must be noticed by another part of it.
//!
//! Switched on for one run, by the names in its plan's cluster, beside those of the orchestrator.
//! Without the feature `sabotage` no switch can be on, and the names mean nothing.

use std::fmt;
use std::str::FromStr;

use crate::plan::Plan;
use crate::target::ClusterSpec;

macro_rules! sabotages {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One planted defect of the harness.
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
    /// A fault is injected on paper only.
    FaultDoesNothing = "fault-does-nothing",
    /// A fault is injected on paper only, and its proofs hold whatever the cluster does.
    FaultFeigned = "fault-feigned",
    /// A fault is done to another node than its proof looks at.
    FaultHitsWrongNode = "fault-hits-wrong-node",
    /// A fault is never taken back, neither at its end nor at the scenario's.
    FaultNeverRemoved = "fault-never-removed",
    /// Taking a fault back changes nothing.
    HealDoesNothing = "heal-does-nothing",
    /// Taking a fault back changes nothing, and the proof that it is healed always holds.
    HealFeigned = "heal-feigned",
    /// The judge leaves out the invariants about what must never happen.
    JudgeForgetsInvariants = "judge-forgets-invariants",
    /// The judge overlooks that the witness was interrupted.
    JudgeIgnoresGaps = "judge-ignores-gaps",
    /// The judge takes every window to begin at its moment.
    JudgeIgnoresLowerBounds = "judge-ignores-lower-bounds",
    /// The judge takes INVALID for PASS.
    JudgePassesInvalid = "judge-passes-invalid",
    /// The judge takes it for a pass that there was nothing to see.
    JudgePassesNoData = "judge-passes-no-data",
    /// The judge takes the end of a window for its beginning and the beginning for its end.
    JudgeSwapsBounds = "judge-swaps-bounds",
    /// The judge lets every window end ten seconds late.
    JudgeWidensWindows = "judge-widens-windows",
    /// After the start, the recorder keeps nothing of every 50th event, and numbers on without it.
    RecorderDropsEvents = "recorder-drops-events",
    /// The recorder loses what came last before the scenario's end.
    RecorderLosesEnd = "recorder-loses-end",
    /// After the start, the recorder exchanges every 50th event with the one before it.
    RecorderReordersEvents = "recorder-reorders-events",
    /// After the start, the recorder dates changes of objects three seconds late.
    RecorderShiftsTimes = "recorder-shifts-times",
    /// The scenario ends without waiting for windows that are still open.
    RunnerEndsEarly = "runner-ends-early",
    /// A fault on a bound name is done to another node.
    RunnerMisbinds = "runner-misbinds",
    /// Steps that write through the API are only noted.
    RunnerSkipsSteps = "runner-skips-steps",
    /// Undos are not written to the undo log.
    UndoNotLogged = "undo-not-logged",
    /// The witness overlooks every 20th change of each kind.
    WitnessMissesChanges = "witness-misses-changes",
    /// The witness overlooks deletions.
    WitnessMissesDeletions = "witness-misses-deletions",
    /// After 40 changes the witness loses its place, lists anew, and does not say so.
    WitnessRelistsSilently = "witness-relists-silently",
    /// A workload client notes refused writes as acknowledged.
    WorkloadAcksRefused = "workload-acks-refused",
    /// A workload client notes writes without an answer as refused.
    WorkloadDeniesUnknown = "workload-denies-unknown",
    /// A workload client says nothing of every tenth operation.
    WorkloadHidesOperations = "workload-hides-operations",
    /// Workload clients run and send nothing.
    WorkloadNeverSends = "workload-never-sends",
}

impl fmt::Display for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|known| known.name() == text);
        found.ok_or_else(|| format!("unknown sabotage of the harness `{text}`"))
    }
}

/// Which planted defects of the harness are switched on in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    on: Vec<Sabotage>,
}

impl Switches {
    /// Whether this defect is switched on. Always false without the feature `sabotage`.
    pub fn on(&self, sabotage: Sabotage) -> bool {
        cfg!(feature = "sabotage") && self.on.contains(&sabotage)
    }
}

impl Plan {
    /// The planted defects of the harness in this run.
    pub fn switches(&self) -> Switches {
        let on = self.cluster.sabotages.iter().filter_map(|name| name.parse().ok());
        Switches { on: on.collect() }
    }

    /// Whether this planted defect of the harness is switched on.
    pub fn sabotaged(&self, sabotage: Sabotage) -> bool {
        cfg!(feature = "sabotage")
            && self.cluster.sabotages.iter().any(|name| name == sabotage.name())
    }
}

impl ClusterSpec {
    /// The planted defects that the orchestrator is to have: all but the harness's own.
    pub fn sabotages_of_orchestrator(&self) -> Vec<String> {
        let is_own = |name: &String| cfg!(feature = "sabotage") && name.parse::<Sabotage>().is_ok();
        self.sabotages.iter().filter(|name| !is_own(name)).cloned().collect()
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

    #[test]
    fn a_switch_is_on_only_with_the_feature() {
        let switches = Switches { on: vec![Sabotage::FaultFeigned] };
        assert_eq!(switches.on(Sabotage::FaultFeigned), cfg!(feature = "sabotage"));
        assert!(
            !switches.on(Sabotage::HealFeigned) && !Switches::default().on(Sabotage::FaultFeigned)
        );
    }
}
