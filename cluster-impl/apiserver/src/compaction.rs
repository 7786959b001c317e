//! Compaction: what was the latest revision one period ago stays readable, older ones are forgotten.
//!
//! All API servers keep time on their own; a key that each must have seen last decides which of them
//! compacts in a period, so that history is as long with three servers as with one.

use bytes::Bytes;
use storage::{Compare, KeyRange, Op, OpResult, Txn};

use crate::server::ApiServer;

/// Where the server that compacts leaves its mark.
const KEY: &[u8] = b"compact_rev_key";

/// Compacts for ever.
pub(crate) async fn run(server: &ApiServer) {
    let (mut seen, mut latest) = (0, 0);
    loop {
        server.env.sleep(server.config.compaction_period).await;
        let mark = Txn {
            compare: vec![Compare::ModRevision(KEY.to_vec(), seen)],
            success: vec![Op::Put(KEY.to_vec(), Bytes::from(latest.to_string()), 0)],
            failure: vec![Op::Get(KeyRange::key(KEY))],
        };
        match server.store.txn(mark).await {
            Err(error) => tracing::debug!(%error, "no compaction in this period"),
            Ok(result) if result.succeeded => {
                if latest > 0
                    && let Err(error) = server.store.compact(latest).await
                {
                    tracing::debug!(%error, "compaction failed");
                }
                (seen, latest) = (result.revision, result.revision);
            }
            Ok(result) => {
                let kv = result.results.into_iter().find_map(|result| match result {
                    OpResult::Got(mut kvs) => kvs.pop(),
                    OpResult::Put | OpResult::Deleted(_) => None,
                });
                (seen, latest) = (kv.map_or(0, |kv| kv.mod_revision), result.revision);
            }
        }
    }
}
