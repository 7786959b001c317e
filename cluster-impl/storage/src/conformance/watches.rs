//! Checks of watches.

use futures::StreamExt;

use crate::{StoreError, Txn};

use super::{Outcome, PATIENCE, Scratch, ensure, equal};

/// How many writers write while a watch looks on.
const WRITERS: usize = 4;
/// How many transactions each of them makes.
const WRITES: usize = 10;

pub(super) async fn a_watch_from_now_on_tells_nothing_older(scratch: Scratch) -> Outcome {
    scratch.put("a", "old").await?;
    let mut watch = scratch.watch(0).await?;
    scratch.put("b", "1").await?;
    scratch.delete("b").await?;
    equal("the story", watch.story(2).await?.as_str(), "+b=1 -b")
}

pub(super) async fn a_watch_from_an_old_revision_replays_everything(scratch: Scratch) -> Outcome {
    scratch.put("a", "1").await?;
    let from = scratch.put("a", "2").await?;
    scratch.delete("a").await?;
    scratch.put("b", "1").await?;
    let mut watch = scratch.watch(from).await?;
    equal("the past", watch.story(3).await?.as_str(), "+a=2 -a +b=1")?;
    scratch.put("c", "1").await?;
    equal("the present", watch.story(1).await?.as_str(), "+c=1")
}

pub(super) async fn a_watch_from_the_future_tells_nothing_earlier(scratch: Scratch) -> Outcome {
    let now = scratch.put("a", "1").await?;
    let mut watch = scratch.watch(now + 2).await?;
    scratch.put("a", "early").await?;
    let awaited = scratch.put("a", "awaited").await?;
    equal("the revision awaited", awaited, now + 2)?;
    equal("the story", watch.story(1).await?.as_str(), "+a=awaited")
}

pub(super) async fn a_watch_tells_only_of_its_range(scratch: Scratch) -> Outcome {
    let mut watch = scratch.watch(0).await?;
    let other = Scratch { prefix: "/conformance/elsewhere/".to_owned(), ..scratch.clone() };
    other.put("a", "1").await?;
    let mixed =
        Txn { success: vec![other.put_op("b", "1"), scratch.put_op("b", "1")], ..Txn::default() };
    scratch.txn(mixed).await?;
    other.delete("a").await?;
    scratch.delete("b").await?;
    equal("the story", watch.story(2).await?.as_str(), "+b=1 -b")
}

pub(super) async fn a_watch_tells_what_was_there_before(scratch: Scratch) -> Outcome {
    let mut watch = scratch.watch(0).await?;
    let created = scratch.put("a", "1").await?;
    scratch.put("a", "2").await?;
    let deleted = scratch.delete("a").await?;
    scratch.put("a", "3").await?;
    let events = watch.events(4).await?;
    let prev: Vec<_> =
        events.iter().map(|event| event.prev.as_ref().map(|prev| prev.value.clone())).collect();
    let value = |text: &'static [u8]| Some(bytes::Bytes::from_static(text));
    equal("the values before", prev, vec![None, value(b"1"), value(b"2"), None])?;
    let versions: Vec<_> = events.iter().map(|event| event.kv.version).collect();
    equal("the versions", versions, vec![1, 2, 0, 1])?;
    let gone = &events[2].kv;
    equal("the deletion", (gone.mod_revision, gone.create_revision), (deleted, 0))?;
    equal("an update's creation", events[1].kv.create_revision, created)
}

pub(super) async fn watches_tell_every_revision_whole_and_in_order(scratch: Scratch) -> Outcome {
    let start = scratch.put("start", "1").await?;
    let mut live = scratch.watch(start + 1).await?;
    let writers = (0..WRITERS).map(|writer| {
        let scratch = scratch.clone();
        async move {
            for number in 0..WRITES {
                let value = number.to_string();
                let success = vec![
                    scratch.put_op(&format!("{writer}/a"), &value),
                    scratch.put_op(&format!("{writer}/b"), &value),
                ];
                scratch.txn(Txn { success, ..Txn::default() }).await?;
            }
            Ok::<(), String>(())
        }
    });
    for writer in futures::future::join_all(writers).await {
        writer?;
    }
    let mut replayed = scratch.watch(start + 1).await?;
    let total = WRITERS * WRITES * 2;
    let mut stories = Vec::new();
    for watch in [&mut live, &mut replayed] {
        let mut story = Vec::new();
        let mut reached = start;
        while story.len() < total {
            let batch = watch.batch().await?;
            for event in &batch.events {
                story.push((event.kv.mod_revision, event.kv.key.clone()));
            }
            let revisions: Vec<i64> =
                batch.events.iter().map(|event| event.kv.mod_revision).collect();
            let first = revisions[0];
            ensure(first > reached, || format!("revision {first} comes after {reached}"))?;
            ensure(revisions.is_sorted(), || format!("out of order: {revisions:?}"))?;
            let is_whole = revisions.chunk_by(|one, other| one == other).all(|one| one.len() == 2);
            ensure(is_whole, || format!("a revision is split: {revisions:?}"))?;
            reached = batch.revision;
            ensure(revisions.last() <= Some(&reached), || {
                format!("a batch up to {reached} has {revisions:?}")
            })?;
        }
        equal("changes", story.len(), total)?;
        stories.push(story);
    }
    ensure(stories[0] == stories[1], || "a replay tells another story".to_owned())
}

pub(super) async fn a_watch_from_a_compacted_revision_is_told_so(scratch: Scratch) -> Outcome {
    let old = scratch.put("a", "1").await?;
    scratch.put("a", "2").await?;
    let kept = scratch.put("a", "3").await?;
    scratch.put("a", "4").await?;
    scratch.compact(kept).await?;
    let error = match scratch.store.watch(scratch.everything(), old).await {
        Err(error) => error,
        Ok(mut stream) => {
            let first = tokio::time::timeout(PATIENCE, stream.next()).await;
            match first.map_err(|_| "the watch is silent")? {
                Some(Err(error)) => error,
                other => return Err(format!("the watch tells {other:?}")),
            }
        }
    };
    let wanted = StoreError::Compacted { asked: old, oldest: kept };
    equal("the answer", error, wanted)?;
    let mut watch = scratch.watch(kept).await?;
    equal("from the compacted revision on", watch.story(2).await?.as_str(), "+a=3 +a=4")
}

pub(super) async fn an_open_watch_outlives_compaction(scratch: Scratch) -> Outcome {
    let from = scratch.put("a", "1").await?;
    let mut watch = scratch.watch(from).await?;
    equal("before", watch.story(1).await?.as_str(), "+a=1")?;
    scratch.put("a", "2").await?;
    let last = scratch.delete("a").await?;
    equal("meanwhile", watch.story(2).await?.as_str(), "+a=2 -a")?;
    scratch.compact(last).await?;
    scratch.put("a", "3").await?;
    equal("after", watch.story(1).await?.as_str(), "+a=3")
}

/// Progress of a watch is not part of [`super::CHECKS`]: etcd shows it only every ten minutes.
#[cfg(test)]
pub(crate) async fn a_silent_watch_shows_its_progress(
    store: std::sync::Arc<dyn crate::Store>,
) -> Outcome {
    let scratch = Scratch { store, prefix: "/conformance/progress/".to_owned() };
    let mut watch = scratch.watch(0).await?;
    let other = Scratch { prefix: "/conformance/elsewhere/".to_owned(), ..scratch };
    let revision = other.put("a", "1").await?;
    loop {
        let next = tokio::time::timeout(PATIENCE, watch.stream.next()).await;
        let batch = next.map_err(|_| "no progress")?.ok_or("an end")?;
        let batch = batch.map_err(|error| error.to_string())?;
        equal("changes", batch.events.len(), 0)?;
        if batch.revision >= revision {
            return Ok(());
        }
    }
}
