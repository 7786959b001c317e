//! Checks of writes.

use bytes::Bytes;

use crate::{Compare, KeyRange, Op, OpResult, StoreError, Txn};

use super::{Outcome, Scratch, ensure, equal, shown};

/// How many writers race.
const WRITERS: usize = 5;
/// How many rounds they race.
const ROUNDS: i64 = 8;

pub(super) async fn revisions_and_versions_count_up(scratch: Scratch) -> Outcome {
    let first = scratch.put("a", "1").await?;
    let second = scratch.put("a", "2").await?;
    equal("the next revision", second, first + 1)?;
    let facts = |kv: &crate::KeyValue| (kv.create_revision, kv.mod_revision, kv.version);
    let state = scratch.latest().await?;
    equal("after two writes", state.kvs.first().map(facts), Some((first, second, 2)))?;
    let third = scratch.delete("a").await?;
    equal("a deletion's revision", third, second + 1)?;
    equal("deleting nothing keeps the revision", scratch.delete("a").await?, third)?;
    let fourth = scratch.put("a", "3").await?;
    let state = scratch.latest().await?;
    equal("created anew", state.kvs.first().map(facts), Some((fourth, fourth, 1)))
}

pub(super) async fn a_transaction_is_one_revision(scratch: Scratch) -> Outcome {
    let before = scratch.put("old", "1").await?;
    let read = Op::Get(scratch.everything());
    let success = vec![
        scratch.put_op("a", "1"),
        scratch.put_op("b", "1"),
        scratch.delete_op("old"),
        scratch.delete_op("absent"),
        read,
    ];
    let done = scratch.txn(Txn { success, ..Txn::default() }).await?;
    equal("its revision", done.revision, before + 1)?;
    match done.results.as_slice() {
        [
            OpResult::Put,
            OpResult::Put,
            OpResult::Deleted(1),
            OpResult::Deleted(0),
            OpResult::Got(seen),
        ] => {
            equal("a read in it sees its writes", seen.len(), 2)?;
        }
        other => return Err(format!("its answers: {other:?}")),
    }
    let state = scratch.latest().await?;
    equal("the state", shown(&state, scratch.prefix.len()).as_str(), "a=1 b=1")?;
    let together = state.kvs.iter().all(|kv| kv.mod_revision == done.revision);
    ensure(together, || "its writes have different revisions".to_owned())
}

pub(super) async fn a_transaction_that_changes_nothing_keeps_the_revision(
    scratch: Scratch,
) -> Outcome {
    let before = scratch.put("a", "1").await?;
    let compare = vec![Compare::ModRevision(scratch.key("a"), before)];
    let success = vec![Op::Get(scratch.everything())];
    let done = scratch.txn(Txn { compare, success, failure: Vec::new() }).await?;
    equal("the revision", (done.succeeded, done.revision), (true, before))
}

pub(super) async fn a_transaction_takes_the_branch_that_its_comparisons_choose(
    scratch: Scratch,
) -> Outcome {
    let revision = scratch.put("a", "1").await?;
    let (key, absent) = (scratch.key("a"), scratch.key("absent"));
    let cases = [
        (vec![], true),
        (vec![Compare::ModRevision(key.clone(), revision)], true),
        (vec![Compare::ModRevision(key.clone(), revision - 1)], false),
        (vec![Compare::ModRevision(absent.clone(), 0)], true),
        (vec![Compare::ModRevision(key.clone(), 0)], false),
        (vec![Compare::CreateRevision(absent.clone(), 0)], true),
        (vec![Compare::CreateRevision(key.clone(), revision)], true),
        (vec![Compare::Value(key.clone(), Bytes::from_static(b"1"))], true),
        (vec![Compare::Value(key.clone(), Bytes::from_static(b"2"))], false),
        (vec![Compare::Value(absent.clone(), Bytes::new())], false),
        (vec![Compare::ModRevision(key.clone(), revision), Compare::ModRevision(key, 0)], false),
    ];
    for (number, (compare, wanted)) in cases.into_iter().enumerate() {
        let (success, failure) = (scratch.put_op("yes", "1"), scratch.put_op("no", "1"));
        let text = format!("{compare:?}");
        let txn = Txn { compare, success: vec![success], failure: vec![failure] };
        let done = scratch.txn(txn).await?;
        equal(&text, (number, done.succeeded), (number, wanted))?;
        let state = scratch.latest().await?;
        let written = if wanted { "yes" } else { "no" };
        let last = state.kvs.iter().max_by_key(|kv| kv.mod_revision);
        let is_written = last.is_some_and(|kv| kv.key.ends_with(written.as_bytes()));
        ensure(is_written, || format!("{text}: the branch `{written}` was not taken"))?;
    }
    Ok(())
}

pub(super) async fn a_wrong_transaction_is_refused_whole(scratch: Scratch) -> Outcome {
    let before = scratch.put("a", "1").await?;
    let many = (0..129).map(|number| scratch.put_op(&number.to_string(), "1")).collect();
    let everything = Op::Delete(scratch.everything());
    let nameless = Op::Put(Vec::new(), Bytes::new(), 0);
    let huge = scratch.put_op("huge", &"x".repeat(2_000_000));
    let cases = [
        vec![scratch.put_op("a", "2"), scratch.put_op("a", "3")],
        vec![scratch.put_op("a", "2"), everything],
        vec![scratch.put_op("b", "2"), nameless],
        vec![scratch.put_op("b", "2"), huge],
        many,
    ];
    for (number, success) in cases.into_iter().enumerate() {
        let answer = scratch.store.txn(Txn { success, ..Txn::default() }).await;
        let is_refused = matches!(answer, Err(StoreError::Invalid(_)));
        ensure(is_refused, || format!("wrong transaction {number} is answered {answer:?}"))?;
    }
    let state = scratch.latest().await?;
    equal("the revision", state.revision, before)?;
    equal("the state", shown(&state, scratch.prefix.len()).as_str(), "a=1")
}

pub(super) async fn of_racing_writers_exactly_one_wins_each_round(scratch: Scratch) -> Outcome {
    let mut last = 0;
    for round in 0..ROUNDS {
        let attempts = (0..WRITERS).map(|writer| {
            let scratch = scratch.clone();
            async move {
                let compare = vec![Compare::ModRevision(scratch.key("lock"), last)];
                let success = vec![scratch.put_op("lock", &format!("{round}-{writer}"))];
                let failure = vec![Op::Get(KeyRange::key(scratch.key("lock")))];
                scratch.txn(Txn { compare, success, failure }).await
            }
        });
        let mut won = Vec::new();
        for attempt in futures::future::join_all(attempts).await {
            let attempt = attempt?;
            match (attempt.succeeded, attempt.results.as_slice()) {
                (true, _) => won.push(attempt.revision),
                (false, [OpResult::Got(seen)]) if seen.len() == 1 => {}
                (false, other) => return Err(format!("a loser reads {other:?}")),
            }
        }
        equal("winners of a round", won.len(), 1)?;
        last = won[0];
    }
    let state = scratch.latest().await?;
    let version = state.kvs.first().map(|kv| (kv.version, kv.mod_revision));
    equal("one write for each round", version, Some((ROUNDS, last)))
}
