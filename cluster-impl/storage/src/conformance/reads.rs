//! Checks of reads.

use crate::{KeyRange, RangeRequest, StoreError};

use super::{Outcome, Scratch, ensure, equal, shown};

pub(super) async fn a_prefix_holds_exactly_its_keys(scratch: Scratch) -> Outcome {
    for name in ["b", "a/2", "a/1", "a", "a0", "c"] {
        scratch.put(name, "x").await?;
    }
    let all = scratch.latest().await?;
    let names = "a=x a/1=x a/2=x a0=x b=x c=x";
    equal("all keys, in order", shown(&all, scratch.prefix.len()).as_str(), names)?;
    let within = KeyRange::prefix(scratch.key("a/"));
    let some = scratch.range(RangeRequest::latest(within)).await?;
    equal("the prefix a/", shown(&some, scratch.prefix.len()).as_str(), "a/1=x a/2=x")?;
    let one = RangeRequest::latest(KeyRange::key(scratch.key("a")));
    equal("the key a", scratch.range(one).await?.count, 1)?;
    let none = RangeRequest::latest(KeyRange::key(scratch.key("absent")));
    equal("an absent key", scratch.range(none).await?.kvs.len(), 0)
}

pub(super) async fn a_limit_cuts_short_and_says_so(scratch: Scratch) -> Outcome {
    for name in ["1", "2", "3"] {
        scratch.put(name, "x").await?;
    }
    for (limit, names, more) in [(2, "1=x 2=x", true), (3, "1=x 2=x 3=x", false)] {
        let request = RangeRequest { limit, ..RangeRequest::latest(scratch.everything()) };
        let result = scratch.range(request).await?;
        let keys = shown(&result, scratch.prefix.len());
        equal("the keys", (keys.as_str(), result.more), (names, more))?;
        equal("the count, limit aside", result.count, 3)?;
    }
    Ok(())
}

pub(super) async fn an_old_revision_reads_as_it_was(scratch: Scratch) -> Outcome {
    let first = scratch.put("a", "1").await?;
    let second = scratch.put("b", "1").await?;
    let third = scratch.put("a", "2").await?;
    let fourth = scratch.delete("b").await?;
    let states = [(first, "a=1"), (second, "a=1 b=1"), (third, "a=2 b=1"), (fourth, "a=2")];
    for (revision, wanted) in states {
        let request = RangeRequest { revision, ..RangeRequest::latest(scratch.everything()) };
        let result = scratch.range(request).await?;
        equal("the state", shown(&result, scratch.prefix.len()).as_str(), wanted)?;
        ensure(result.revision >= fourth, || "an old read tells the present revision".to_owned())?;
    }
    Ok(())
}

pub(super) async fn a_future_revision_cannot_be_read(scratch: Scratch) -> Outcome {
    let asked = scratch.put("a", "1").await? + 1000;
    let request = RangeRequest { revision: asked, ..RangeRequest::latest(scratch.everything()) };
    let answer = scratch.store.range(request).await.err();
    equal("the answer", answer, Some(StoreError::FutureRevision { asked }))
}

pub(super) async fn a_compacted_revision_cannot_be_read(scratch: Scratch) -> Outcome {
    let old = scratch.put("a", "1").await?;
    scratch.put("gone", "1").await?;
    scratch.delete("gone").await?;
    let kept = scratch.put("a", "2").await?;
    scratch.put("a", "3").await?;
    scratch.compact(kept).await?;
    let at = |revision| RangeRequest { revision, ..RangeRequest::latest(scratch.everything()) };
    for asked in [old, kept - 1] {
        let answer = scratch.store.range(at(asked)).await;
        let is_told = matches!(&answer, Err(StoreError::Compacted { asked: told, oldest })
            if *told == asked && *oldest > asked && *oldest <= kept);
        ensure(is_told, || format!("a read at {asked} below {kept} answers {answer:?}"))?;
    }
    let result = scratch.range(at(kept)).await?;
    equal("at the compacted revision", shown(&result, scratch.prefix.len()).as_str(), "a=2")?;
    let again = scratch.store.compact(kept).await;
    let is_told = matches!(again, Err(StoreError::Compacted { .. }));
    ensure(is_told, || format!("compacting twice answers {again:?}"))?;
    let future = scratch.store.compact(kept + 1000).await;
    let is_told = matches!(future, Err(StoreError::FutureRevision { .. }));
    ensure(is_told, || format!("compacting the future answers {future:?}"))
}

pub(super) async fn a_serializable_read_is_answered_from_one_revision(scratch: Scratch) -> Outcome {
    let revision = scratch.put("a", "1").await?;
    let request = RangeRequest { serializable: true, ..RangeRequest::latest(scratch.everything()) };
    let result = scratch.range(request).await?;
    // The member that acknowledged the write has applied it.
    equal("the state", shown(&result, scratch.prefix.len()).as_str(), "a=1")?;
    ensure(result.revision >= revision, || format!("its revision is {}", result.revision))
}

pub(super) async fn a_serializable_read_of_the_past_is_the_past(scratch: Scratch) -> Outcome {
    let old = scratch.put("a", "1").await?;
    scratch.put("b", "1").await?;
    let last = scratch.put("a", "2").await?;
    let at = |revision| RangeRequest {
        revision,
        serializable: true,
        ..RangeRequest::latest(scratch.everything())
    };
    let past = scratch.range(at(old)).await?;
    equal("the past", shown(&past, scratch.prefix.len()).as_str(), "a=1")?;
    let asked = last + 1000;
    let future = scratch.store.range(at(asked)).await.err();
    equal("the future", future, Some(StoreError::FutureRevision { asked }))?;
    scratch.compact(last).await?;
    let gone = scratch.store.range(at(old)).await;
    let is_told = matches!(&gone, Err(StoreError::Compacted { asked, .. }) if *asked == old);
    ensure(is_told, || format!("a read at {old} below {last} answers {gone:?}"))?;
    let kept = scratch.range(at(last)).await?;
    equal("what is kept", shown(&kept, scratch.prefix.len()).as_str(), "a=2 b=1")
}
