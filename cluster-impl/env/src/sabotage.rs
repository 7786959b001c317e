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
    /// The renewal of any node's Lease counts as a heartbeat of every node.
    AnyLeaseCounts = "any-lease-counts",
    /// The kubelet's restart back-off goes on doubling past its cap.
    BackoffNotCapped = "backoff-not-capped",
    /// Compaction frees the version of a key that is still the latest.
    CompactionDropsLive = "compaction-drops-live",
    /// The kubelet leaves a container that has ended as it is.
    ContainerNotRestarted = "container-not-restarted",
    /// The scheduler chooses nodes that are marked unschedulable.
    CordonIgnored = "cordon-ignored",
    /// A create of a name that is taken replaces the object.
    CreateOverwrites = "create-overwrites",
    /// Pods get a tenth of the default toleration for unreachable nodes.
    DefaultTolerationCut = "default-toleration-cut",
    /// The kubelet goes on running a pod that was removed from the API.
    DeletedPodKept = "deleted-pod-kept",
    /// The scheduler binds a pod a second time, and the API server lets it.
    DoubleBind = "double-bind",
    /// Pods of lost nodes are evicted even when every node is lost at once.
    EvictOnFullDisruption = "evict-on-full-disruption",
    /// A put-off eviction is carried out although the taint is gone again.
    EvictionNotCancelled = "eviction-not-cancelled",
    /// A controller decides although it has yet to see what it has written.
    ExpectationsIgnored = "expectations-ignored",
    /// A watch from a compacted revision begins with what comes next, without 410.
    ExpiredWatchNotTold = "expired-watch-not-told",
    /// A deletion does not wait for the object's finalizers.
    FinalizersIgnored = "finalizers-ignored",
    /// A ReplicaSet counts pods that match its selector but belong to another one.
    ForeignPodsCounted = "foreign-pods-counted",
    /// Objects stay when their owner is gone.
    GarbageKept = "garbage-kept",
    /// A change of spec leaves metadata.generation as it is.
    GenerationNotCounted = "generation-not-counted",
    /// The API server reads single objects from the nearest member without asking a quorum.
    GetFromNearest = "get-from-nearest",
    /// The scheduler goes on choosing a node whose object was deleted.
    GoneNodeChosen = "gone-node-chosen",
    /// Pods are removed from the API at once, whatever their grace period.
    GraceIgnored = "grace-ignored",
    /// The node controller marks a node Unknown after half the grace period.
    GracePeriodIgnored = "grace-period-ignored",
    /// The kubelet kills containers at once, whatever their grace period.
    KilledWithoutGrace = "killed-without-grace",
    /// A kubelet that starts stops the pods that no API server has told it of yet.
    KubeletStopsUnlisted = "kubelet-stops-unlisted",
    /// The kubelet overlooks a deletion of which it hears only after the grace period.
    LateDeletionIgnored = "late-deletion-ignored",
    /// A deposed leader's writes are let through.
    LeaderNotFenced = "leader-not-fenced",
    /// A leader that has lost its lease goes on as if it had it.
    LeaderStaysOn = "leader-stays-on",
    /// A candidate takes a Lease after a sixth of its duration.
    LeaseTakenEarly = "lease-taken-early",
    /// A watch with a selector says nothing of an object that leaves the selection.
    LeavingNotTold = "leaving-not-told",
    /// Of several tolerations that match a taint the longest counts.
    LongestTolerationCounts = "longest-toleration-counts",
    /// The pods of a lost node are still shown as Ready.
    LostPodsStayReady = "lost-pods-stay-ready",
    /// After 60 events a watch drops every 10th.
    LostWatchEvent = "lost-watch-event",
    /// A pod that is marked for eviction is taken for evicted.
    MarkedPodLeft = "marked-pod-left",
    /// A rollout makes all its new pods at once.
    MaxSurgeIgnored = "max-surge-ignored",
    /// A rollout removes all its old pods at once.
    MaxUnavailableIgnored = "max-unavailable-ignored",
    /// An emptied namespace keeps its finalizer.
    NamespaceStuck = "namespace-stuck",
    /// A node that is lost is never tainted NoExecute.
    NoExecuteNeverAdded = "no-execute-never-added",
    /// The scheduler chooses nodes whose taints the pod does not tolerate.
    NoScheduleIgnored = "no-schedule-ignored",
    /// The scheduler ignores a pod's nodeSelector.
    NodeSelectorIgnored = "node-selector-ignored",
    /// The kubelet compares its status with what it sent last, not with what the API has.
    NodeStatusNotRenewed = "node-status-not-renewed",
    /// A Deployment's observedGeneration stays at the first one.
    ObservedGenerationStuck = "observed-generation-stuck",
    /// A rollout never scales the old ReplicaSets down.
    OldReplicaSetsKept = "old-replicasets-kept",
    /// Pods of a node whose object was deleted are never removed.
    OrphanedPodsKept = "orphaned-pods-kept",
    /// An owner counts as present if another object has its name.
    OwnerKnownByName = "owner-known-by-name",
    /// An owner that the view does not show counts as gone, and nobody asks the API server.
    OwnerNotLookedUp = "owner-not-looked-up",
    /// Nodes are tainted at the normal rate although most of their zone is down.
    PartialDisruptionIgnored = "partial-disruption-ignored",
    /// A paused Deployment rolls out.
    PausedIgnored = "paused-ignored",
    /// A pod that fitted nowhere is not tried again when a node changes.
    PendingNotWoken = "pending-not-woken",
    /// An update with a stale resourceVersion is let through.
    PreconditionIgnored = "precondition-ignored",
    /// What is used of a quota is raised without asking whether somebody else raised it meanwhile.
    QuotaNotGuarded = "quota-not-guarded",
    /// A member serves linearizable reads from what it has, without asking its leader.
    ReadNotConfirmed = "read-not-confirmed",
    /// A ReplicaSet that shrinks deletes its best pods first.
    ReadyPodsDeletedFirst = "ready-pods-deleted-first",
    /// The kubelet reports containers as ready that do not run.
    ReadyWithoutRunning = "ready-without-running",
    /// After a relist, objects that are gone stay in a component's view.
    RelistKeepsGone = "relist-keeps-gone",
    /// A deleted pod is removed from the API while its containers still run.
    RemovedWhileRunning = "removed-while-running",
    /// A ReplicaSet keeps one pod more than asked for.
    ReplicaSetOffByOne = "replicaset-off-by-one",
    /// The scheduler chooses nodes that have not what the pod requests.
    RequestsIgnored = "requests-ignored",
    /// A controller that starts leaves alone the ReplicaSets that were there before.
    RestartLeavesOld = "restart-leaves-old",
    /// The kubelet restarts containers whatever the pod's restartPolicy.
    RestartPolicyIgnored = "restart-policy-ignored",
    /// A resumed watch repeats the change at which it was left.
    ResumeRepeats = "resume-repeats",
    /// A resumed watch misses the first change after the one at which it was left.
    ResumeSkips = "resume-skips",
    /// The number of a Deployment's template is counted in the memory of its controller.
    RevisionInMemory = "revision-in-memory",
    /// A component waits for ever on a watch whose connection is dead.
    SilentWatchTrusted = "silent-watch-trusted",
    /// A ReplicaSet never deletes a pod.
    SurplusKept = "surplus-kept",
    /// The unreachable taint stays when the node comes back.
    TaintNeverRemoved = "taint-never-removed",
    /// A candidate stands for election in a term that has had a leader.
    TermUsedTwice = "term-used-twice",
    /// Pods that tolerate a NoExecute taint without a limit are evicted.
    ToleratingPodsEvicted = "tolerating-pods-evicted",
    /// Pods are evicted at once, whatever their tolerationSeconds.
    TolerationSecondsIgnored = "toleration-seconds-ignored",
    /// An update overwrites what was written since it was decided.
    UpdateLost = "update-lost",
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
