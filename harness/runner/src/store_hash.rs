//! What every etcd member's store holds, at the end of a scenario: members that differ are broken.
//!
//! All are asked for the same revision, the smallest one that is the newest somewhere. A target that
//! cannot tell is not asked further, and a member that does not answer is left out.

use std::time::Duration;

use shakedown_core::lever::{Probe, Reading};
use shakedown_core::target::{Role, TargetError};
use shakedown_core::timeline::What;

use crate::run::{Session, Stop};

/// How long a member may take to go through its store.
const LIMIT: Duration = Duration::from_secs(10);

/// Hash, revision, and the revision that was compacted last.
type Hash = (u64, i64, i64);

impl Session<'_> {
    /// Asks every member and notes what it answers.
    pub(crate) async fn hash_stores(&mut self) -> Result<(), Stop> {
        let mut members: Vec<(String, Hash)> = Vec::new();
        for node in self.cluster.names(Role::ControlPlane) {
            match self.hash_of(&node, 0).await? {
                Ok(Some(hash)) => members.push((node, hash)),
                Ok(None) => {}
                Err(()) => return Ok(()),
            }
        }
        let Some(common) = members.iter().map(|(_, (_, revision, _))| *revision).min() else {
            return Ok(());
        };
        for (node, _) in members {
            if let Ok(Some((hash, revision, compacted))) = self.hash_of(&node, common).await? {
                self.events.note(What::StoreHash { node, hash, revision, compacted })?;
            }
        }
        Ok(())
    }

    /// `Ok(None)` if the member does not answer; an error if no member of this target ever will.
    async fn hash_of(
        &mut self,
        node: &str,
        revision: i64,
    ) -> Result<Result<Option<Hash>, ()>, Stop> {
        let probe = Probe::StoreHash { node: node.to_string(), revision };
        let target = &mut *self.target;
        Ok(match self.events.drive(LIMIT, target.probe(&probe)).await? {
            Some(Ok(Reading::StoreHash { hash, revision, compacted })) => {
                Ok(Some((hash, revision, compacted)))
            }
            Some(Err(TargetError::Unsupported { .. })) => Err(()),
            _ => Ok(None),
        })
    }
}
