//! Readings of what the network, clocks, disks and etcd are like: one function for each probe.
//!
//! Weather and rules that the target does not know are not in place: that is an answer.

use shakedown_core::fault::FaultCx;
use shakedown_core::lever::{Probe, Reading, Traffic};
use shakedown_core::target::TargetError;

use crate::evidence::mismatch;

/// What some weather has done at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WeatherView {
    pub(crate) in_place: bool,
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
}

/// What an etcd member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberView {
    pub(crate) member: u64,
    pub(crate) leader: u64,
    pub(crate) revision: i64,
}

/// What some weather has done to packets at a node.
pub(crate) async fn weather(
    cx: &mut FaultCx<'_>,
    id: &str,
    node: &str,
) -> Result<WeatherView, TargetError> {
    match cx.target.probe(&Probe::Weather { id: id.to_owned(), node: node.to_owned() }).await {
        Ok(Reading::Weather { in_place, packets, lost, reordered }) => {
            Ok(WeatherView { in_place, packets, lost, reordered })
        }
        Ok(other) => Err(mismatch("weather", &other)),
        Err(TargetError::Unknown { .. }) => Ok(WeatherView::default()),
        Err(error) => Err(error),
    }
}

/// How long a packet and its answer take; `None` if no answer comes in time.
pub(crate) async fn round_trip(
    cx: &mut FaultCx<'_>,
    from: &str,
    to: &str,
    traffic: Traffic,
) -> Result<Option<u64>, TargetError> {
    let probe = Probe::RoundTrip { from: from.to_owned(), to: to.to_owned(), traffic };
    match cx.target.probe(&probe).await? {
        Reading::RoundTrip { micros } => Ok(micros),
        other => Err(mismatch("round trip", &other)),
    }
}

/// How many connections were reset between two nodes so far.
pub(crate) async fn resets(
    cx: &mut FaultCx<'_>,
    from: &str,
    to: &str,
    traffic: Traffic,
) -> Result<u64, TargetError> {
    let probe = Probe::Resets { from: from.to_owned(), to: to.to_owned(), traffic };
    match cx.target.probe(&probe).await? {
        Reading::Resets { connections } => Ok(connections),
        other => Err(mismatch("resets", &other)),
    }
}

/// How far a node's wall clock is ahead of the observer's, and by how much that may be wrong.
pub(crate) async fn clock(cx: &mut FaultCx<'_>, node: &str) -> Result<(i64, u64), TargetError> {
    match cx.target.probe(&Probe::Clock { node: node.to_owned() }).await? {
        Reading::Clock { offset_us, error_us } => Ok((offset_us, error_us)),
        other => Err(mismatch("clock", &other)),
    }
}

/// Which disk a node has.
pub(crate) async fn disk(cx: &mut FaultCx<'_>, node: &str) -> Result<String, TargetError> {
    match cx.target.probe(&Probe::Disk { node: node.to_owned() }).await? {
        Reading::Disk { identity } => Ok(identity),
        other => Err(mismatch("disk", &other)),
    }
}

/// What an etcd member says of itself.
pub(crate) async fn member(cx: &mut FaultCx<'_>, node: &str) -> Result<MemberView, TargetError> {
    match cx.target.probe(&Probe::EtcdMember { node: node.to_owned() }).await? {
        Reading::EtcdMember { member, leader, revision, .. } => {
            Ok(MemberView { member, leader, revision })
        }
        other => Err(mismatch("member", &other)),
    }
}

/// Which revision the etcd member of a node compacted last.
pub(crate) async fn compacted(cx: &mut FaultCx<'_>, node: &str) -> Result<i64, TargetError> {
    match cx.target.probe(&Probe::Compacted { node: node.to_owned() }).await? {
        Reading::Compacted { revision } => Ok(revision),
        other => Err(mismatch("compacted", &other)),
    }
}

/// Whether a rule is in force, and how often it has done what it says.
pub(crate) async fn meddled(cx: &mut FaultCx<'_>, id: &str) -> Result<(bool, u64), TargetError> {
    match cx.target.probe(&Probe::Meddled { id: id.to_owned() }).await {
        Ok(Reading::Meddled { in_place, hits }) => Ok((in_place, hits)),
        Ok(other) => Err(mismatch("meddled", &other)),
        Err(TargetError::Unknown { .. }) => Ok((false, 0)),
        Err(error) => Err(error),
    }
}
