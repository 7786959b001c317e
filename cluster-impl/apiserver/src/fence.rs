//! The fence: a deposed leader's writes are refused in the transaction that would have written.
//!
//! Whenever a Lease in kube-system changes hands, the same transaction writes `/fences/<lock>` with
//! the holder and the number of transitions; a fenced write compares that key's value. So no moment
//! lies between the check and the write.

use bytes::Bytes;
use machinery::kinds::LEASE;
use machinery::{Kind, Object, ObjectKey, Status};
use storage::{KeyRange, Op};

/// The header that carries a leader's claim.
pub(crate) const HEADER: &str = "x-shakedown-fence";

/// A leader's claim: which lock it holds, as whom, and since which transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    lock: String,
    claim: String,
}

impl Fence {
    /// Reads `<lock>/<identity>/<transitions>`.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        text.split_once('/')
            .filter(|(lock, claim)| {
                let transitions = claim.rsplit_once('/').map(|(_, number)| number.parse::<i64>());
                !lock.is_empty() && matches!(transitions, Some(Ok(_)))
            })
            .map(|(lock, claim)| Self { lock: lock.to_owned(), claim: claim.to_owned() })
            .ok_or_else(|| {
                Status::bad_request(format!(
                    "header {HEADER} must be <lock>/<identity>/<transitions>, not \"{text}\""
                ))
            })
    }

    /// Where the present holder is written.
    pub(crate) fn key(&self) -> Vec<u8> {
        key(&self.lock)
    }

    /// What must be written there for the claim to hold.
    pub(crate) fn value(&self) -> Bytes {
        Bytes::copy_from_slice(self.claim.as_bytes())
    }

    /// As the writer showed it.
    pub(crate) fn text(&self) -> String {
        format!("{}/{}", self.lock, self.claim)
    }

    /// Why the write was refused.
    pub(crate) fn refusal(&self, kind: &Kind, target: &ObjectKey, held: Option<&[u8]>) -> Status {
        let held = held.map_or("nobody".into(), String::from_utf8_lossy);
        let why = format!(
            "lease kube-system/{} is held by {held}, not by {} as the writer claims",
            self.lock, self.claim
        );
        crate::status::conflict(kind, target, &why)
    }
}

/// What must be written together with a change of a Lease, if it changes hands.
pub(crate) fn handover(
    kind: &Kind,
    target: &ObjectKey,
    old: Option<&Object>,
    new: Option<&Object>,
) -> Option<Op> {
    if kind.id != LEASE.id || target.namespace != "kube-system" {
        return None;
    }
    let (before, after) = (old.map(claim), new.map(claim));
    if before == after {
        return None;
    }
    let key = key(&target.name);
    Some(match after {
        Some(claim) => Op::Put(key, Bytes::from(claim), 0),
        None => Op::Delete(KeyRange::key(key)),
    })
}

fn key(lock: &str) -> Vec<u8> {
    format!("/fences/{lock}").into_bytes()
}

fn claim(lease: &Object) -> String {
    let transitions = lease.integer("/spec/leaseTransitions").unwrap_or_default();
    format!("{}/{transitions}", lease.text("/spec/holderIdentity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_or_refused() {
        let fence = Fence::parse("kube-scheduler/cp-1_ab/3").unwrap();
        assert_eq!(fence.key(), b"/fences/kube-scheduler");
        assert_eq!(fence.value(), "cp-1_ab/3");
        assert_eq!(fence.text(), "kube-scheduler/cp-1_ab/3");
        for wrong in ["", "kube-scheduler", "kube-scheduler/me", "kube-scheduler/me/x", "/me/1"] {
            assert_eq!(Fence::parse(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }

    #[test]
    fn only_a_change_of_hands_moves_the_fence() {
        let lease = |holder: &str, transitions: i64| {
            let mut lease = Object::new("coordination.k8s.io/v1", "Lease", "kube-system", "lock");
            lease.set("/spec/holderIdentity", holder);
            lease.set("/spec/leaseTransitions", transitions);
            lease
        };
        let key = ObjectKey::new("kube-system", "lock");
        let moved = |old, new| handover(&LEASE, &key, old, new).is_some();
        let (a, b) = (lease("a", 0), lease("b", 1));
        assert!(moved(None, Some(&a)));
        assert!(moved(Some(&a), Some(&b)));
        assert!(moved(Some(&a), None));
        let mut renewed = a.clone();
        renewed.set("/spec/renewTime", "2026-01-01T00:00:00.000000Z");
        assert!(!moved(Some(&a), Some(&renewed)));
        let elsewhere = ObjectKey::new("kube-node-lease", "lock");
        assert!(handover(&LEASE, &elsewhere, None, Some(&a)).is_none());
    }
}
