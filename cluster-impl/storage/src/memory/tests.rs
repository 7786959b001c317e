//! The conformance suite on memory, and what a cluster of three does when things break.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, SimMachine, Timestamp};
use futures::StreamExt;
use tokio::time::Instant;

use crate::conformance;
use crate::{KeyRange, Op, RangeRequest, Store, StoreError, Txn, TxnResult};

use super::{LinkWeather, MemoryCluster};

fn cluster(seed: u64, members: usize) -> MemoryCluster {
    let machine = SimMachine::new(seed, "world", Timestamp::UNIX_EPOCH);
    MemoryCluster::new(Env::new(Arc::new(machine), None), members)
}

async fn leader(cluster: &MemoryCluster) -> usize {
    let mut changes = cluster.changes();
    loop {
        if let Some(leader) = cluster.leader() {
            return leader;
        }
        changes.next().await;
    }
}

/// Three members, led by the first of the answer.
async fn led(seed: u64) -> (MemoryCluster, usize, usize, usize) {
    let cluster = cluster(seed, 3);
    let leader = leader(&cluster).await;
    (cluster, leader, (leader + 1) % 3, (leader + 2) % 3)
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Result<TxnResult, StoreError> {
    let op = Op::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()), 0);
    store.txn(Txn { success: vec![op], ..Txn::default() }).await
}

async fn get(store: &Arc<dyn Store>, key: &str, serializable: bool) -> Result<String, StoreError> {
    let request = RangeRequest { serializable, ..RangeRequest::latest(KeyRange::key(key)) };
    let result = store.range(request).await?;
    let value = result.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    Ok(value.unwrap_or_default())
}

fn isolate(cluster: &MemoryCluster, member: usize, is_open: bool) {
    for other in (0..cluster.members()).filter(|other| *other != member) {
        cluster.set_link(member, other, is_open);
        cluster.set_link(other, member, is_open);
    }
}

const LOSSY: LinkWeather = LinkWeather {
    latency: Duration::from_millis(50),
    jitter: Duration::from_millis(100),
    loss: 3000,
};

/// The same weather on every way to and from a member.
fn bad(cluster: &MemoryCluster, member: usize, weather: LinkWeather) {
    for other in (0..cluster.members()).filter(|other| *other != member) {
        cluster.set_weather(member, other, weather);
        cluster.set_weather(other, member, weather);
    }
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_member_conforms() {
    let store = cluster(1, 1).member(0);
    assert_eq!(conformance::run_all(&store).await, []);
    assert_eq!(conformance::watches::a_silent_watch_shows_its_progress(store).await, Ok(()));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn every_member_of_three_conforms() {
    for index in 0..3 {
        let store = cluster(2, 3).member(index);
        assert_eq!(conformance::run_all(&store).await, [], "member {index}");
        assert_eq!(conformance::watches::a_silent_watch_shows_its_progress(store).await, Ok(()));
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_follower_takes_over_within_two_election_timeouts_and_loses_nothing() {
    let (cluster, first, follower, _) = led(3).await;
    let term = cluster.status(first).expect("up").term;
    put(&cluster.member(first), "a", "1").await.expect("healthy");
    cluster.set_up(first, false);
    let died = Instant::now();
    let second = leader(&cluster).await;
    assert_ne!(second, first);
    let took = died.elapsed();
    assert!(took >= Duration::from_secs(1) && took <= Duration::from_millis(2100), "{took:?}");
    assert!(cluster.status(second).expect("up").term > term);
    assert_eq!(get(&cluster.member(follower), "a", false).await, Ok("1".into()));
    put(&cluster.member(follower), "a", "2").await.expect("a quorum is left");
    let refused = put(&cluster.member(first), "a", "3").await.err();
    assert_eq!(refused, Some(StoreError::Unavailable("connection refused".into())));
    cluster.set_up(first, true);
    assert_eq!(get(&cluster.member(first), "a", false).await, Ok("2".into()));
    assert_eq!(leader(&cluster).await, second, "a returned member does not depose the leader");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_isolated_leader_commits_nothing_and_forgets_what_it_took() {
    let (cluster, old, other, _) = led(4).await;
    put(&cluster.member(old), "a", "1").await.expect("healthy");
    isolate(&cluster, old, false);
    let (lost, kept) = (cluster.member(old), cluster.member(other));
    let (lost, read) = tokio::join!(put(&lost, "a", "lost"), get(&lost, "a", false));
    assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert_eq!(cluster.status(old).expect("up").leader, 0, "it has stepped down");
    put(&kept, "b", "1").await.expect("the others have a quorum");
    assert_eq!(get(&cluster.member(old), "b", true).await, Ok(String::new()), "it is behind");
    isolate(&cluster, old, true);
    sleep_ms(20).await;
    assert_eq!(get(&cluster.member(old), "b", true).await, Ok("1".into()), "it has caught up");
    assert_eq!(get(&kept, "a", false).await, Ok("1".into()), "the lost write is nowhere");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_write_whose_answer_is_lost_may_have_happened() {
    let (cluster, old, one, other) = led(5).await;
    // Entries still reach both followers, but their answers do not come back.
    cluster.set_link(one, old, false);
    cluster.set_link(other, old, false);
    let answer = put(&cluster.member(old), "a", "1").await;
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    assert_eq!(get(&cluster.member(one), "a", false).await, Ok("1".into()));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn without_a_quorum_nothing_is_acknowledged_and_stale_reads_go_on() {
    let (cluster, leader, one, other) = led(6).await;
    put(&cluster.member(leader), "a", "1").await.expect("healthy");
    sleep_ms(10).await;
    cluster.set_up(leader, false);
    cluster.set_up(one, false);
    let store = cluster.member(other);
    let began = Instant::now();
    let write = put(&store, "a", "2").await;
    assert!(matches!(write, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))), "{write:?}");
    assert_eq!(began.elapsed().as_secs(), 5);
    let read = get(&store, "a", false).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert_eq!(get(&store, "a", true).await, Ok("1".into()));
    cluster.set_up(one, true);
    assert_eq!(get(&store, "a", false).await, Ok("1".into()), "nothing came of the write");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_watch_on_a_cut_off_member_lags_and_catches_up_without_a_gap() {
    let (cluster, _, one, other) = led(7).await;
    let mut watch = cluster.member(one).watch(KeyRange::prefix("k"), 0).await.expect("healthy");
    isolate(&cluster, one, false);
    // The leader may be among the cut off: write where a quorum is.
    sleep_ms(2100).await;
    for number in 0..5 {
        put(&cluster.member(other), &format!("k{number}"), "1").await.expect("a quorum is left");
    }
    let mut before = 0;
    while let Ok(Some(batch)) = tokio::time::timeout(Duration::from_secs(30), watch.next()).await {
        let batch = batch.expect("the watch stays open");
        assert!(batch.events.is_empty(), "a cut off member cannot know");
        before += 1;
        if before == 2 {
            break;
        }
    }
    isolate(&cluster, one, true);
    let mut keys = Vec::new();
    while keys.len() < 5 {
        let batch = watch.next().await.expect("open").expect("no error");
        keys.extend(batch.events.into_iter().map(|event| event.kv.key));
    }
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4"]);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_frozen_member_tells_nothing_until_it_thaws_and_a_dead_one_ends_its_watches() {
    let (cluster, _, one, other) = led(8).await;
    let store = cluster.member(one);
    let mut watch = store.watch(KeyRange::prefix("k"), 0).await.expect("healthy");
    assert!(watch.next().await.expect("open").expect("no error").events.is_empty());
    cluster.set_frozen(one, true);
    put(&cluster.member(other), "k", "1").await.expect("a quorum is left");
    let wait = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    assert!(wait.is_err(), "a frozen member told {wait:?}");
    let read = get(&store, "k", true).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    cluster.set_frozen(one, false);
    let mut told = 0;
    while told == 0 {
        told = watch.next().await.expect("open").expect("no error").events.len();
    }
    assert_eq!(told, 1);
    cluster.set_up(one, false);
    let end = watch.next().await;
    assert!(matches!(end, Some(Err(StoreError::Unavailable(_)))), "{end:?}");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_frozen_leader_is_deposed_and_finds_out_when_it_thaws() {
    let (cluster, old, one, _) = led(9).await;
    cluster.set_frozen(old, true);
    let new = leader(&cluster).await;
    assert_ne!(new, old);
    put(&cluster.member(one), "a", "1").await.expect("a quorum is left");
    cluster.set_frozen(old, false);
    assert_eq!(get(&cluster.member(old), "a", false).await, Ok("1".into()));
    let (seen, told) = (cluster.status(old).expect("up"), cluster.status(new).expect("up"));
    assert_eq!((seen.leader, seen.term), (told.member, told.term));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_lagging_member_still_reads_what_the_others_have_compacted() {
    let (cluster, _, one, other) = led(10).await;
    put(&cluster.member(one), "a", "1").await.expect("healthy");
    sleep_ms(10).await;
    isolate(&cluster, one, false);
    sleep_ms(2100).await;
    let store = cluster.member(other);
    put(&store, "a", "2").await.expect("a quorum is left");
    let last = put(&store, "a", "3").await.expect("a quorum is left").revision;
    store.compact(last).await.expect("a quorum is left");
    assert_eq!(get(&cluster.member(one), "a", true).await, Ok("1".into()));
    isolate(&cluster, one, true);
    sleep_ms(10).await;
    assert_eq!(get(&cluster.member(one), "a", true).await, Ok("3".into()));
    let request = RangeRequest { revision: last - 1, ..RangeRequest::latest(KeyRange::key("a")) };
    let old = cluster.member(one).range(request).await.err();
    assert_eq!(old, Some(StoreError::Compacted { asked: last - 1, oldest: last }));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn acknowledged_writes_survive_any_storm_of_crashes_and_cuts() {
    for seed in 0..20 {
        let cluster = cluster(seed, 3);
        let mut lost_disks = 0;
        let mut acknowledged = std::collections::BTreeMap::new();
        let mut last = 0;
        for round in 0..40_usize {
            let member = (round * 7 + usize::try_from(seed).expect("small")) % 3;
            match round % 10 {
                0 => cluster.set_up(member, false),
                1 => isolate(&cluster, member, false),
                2 => cluster.set_frozen(member, true),
                3 => cluster.set_link(member, (member + 1) % 3, false),
                5 => bad(&cluster, member, LOSSY),
                6 => {
                    cluster.set_up(member, false);
                    // Refused while another disk is still being replaced.
                    lost_disks += usize::from(cluster.lose_disk(member).is_ok());
                    cluster.set_up(member, true);
                }
                7 => {
                    // Refused without a leader.
                    let _ = cluster.move_leader(member);
                }
                8 => sleep_ms(3000).await,
                _ => {
                    for index in 0..3 {
                        cluster.set_up(index, true);
                        cluster.set_frozen(index, false);
                        isolate(&cluster, index, true);
                        bad(&cluster, index, LinkWeather::default());
                    }
                }
            }
            let writes = (0..3).map(|index| {
                let store = cluster.member(index);
                async move {
                    let (key, value) = (format!("k{index}"), format!("{round}"));
                    (key.clone(), value.clone(), put(&store, &key, &value).await)
                }
            });
            for (key, value, answer) in futures::future::join_all(writes).await {
                if let Ok(done) = answer {
                    assert!(done.revision > 1);
                    last = last.max(done.revision);
                    acknowledged.insert(done.revision, (key, value));
                }
            }
        }
        for index in 0..3 {
            cluster.set_up(index, true);
            cluster.set_frozen(index, false);
            isolate(&cluster, index, true);
            bad(&cluster, index, LinkWeather::default());
        }
        sleep_ms(10_000).await;
        leader(&cluster).await;
        let hashes: Vec<_> = (0..3).map(|index| cluster.hash(index, 0)).collect();
        assert!(hashes[0].is_ok() && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        assert!(lost_disks > 0, "seed {seed}");
        assert!(acknowledged.len() > 20, "seed {seed}: only {}", acknowledged.len());
        for (revision, (key, value)) in acknowledged {
            let range = KeyRange::key(key.as_str());
            let request = RangeRequest { revision, ..RangeRequest::latest(range) };
            let read = cluster.member(0).range(request).await.expect("healed");
            assert_eq!(read.kvs[0].value, value, "seed {seed}: {key} at {revision}");
            assert!(read.revision >= last);
        }
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_seed_gives_one_history_and_another_seed_another() {
    async fn history(seed: u64) -> Vec<String> {
        let (cluster, first, other, _) = led(seed).await;
        let began = Instant::now();
        let mut history = vec![format!("{first}")];
        for number in 0..5 {
            let done = put(&cluster.member(other), "a", &number.to_string()).await;
            history.push(format!("{:?} {:?}", done.map(|done| done.revision), began.elapsed()));
        }
        cluster.set_up(first, false);
        history.push(format!("{} {:?}", leader(&cluster).await, began.elapsed()));
        history
    }
    assert_eq!(history(11).await, history(11).await);
    assert_ne!(history(11).await, history(12).await);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_idle_cluster_sets_no_timers() {
    let (cluster, ..) = led(13).await;
    // The election's own timers run out first.
    sleep_ms(5000).await;
    let next = cluster.running_next_event();
    assert_eq!(next, None, "an idle cluster must cost nothing");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_slow_way_delays_what_goes_over_it_and_a_slow_member_reads_the_past() {
    let (cluster, old, slow, other) = led(14).await;
    let late = LinkWeather { latency: Duration::from_millis(400), ..LinkWeather::default() };
    cluster.set_weather(old, slow, late);
    let began = Instant::now();
    put(&cluster.member(old), "a", "1").await.expect("a majority is near");
    assert!(began.elapsed().as_millis() < 10, "the nearer follower is enough");
    sleep_ms(100).await;
    assert_eq!(get(&cluster.member(slow), "a", true).await, Ok(String::new()), "not there yet");
    assert_eq!(get(&cluster.member(other), "a", true).await, Ok("1".into()));
    let began = Instant::now();
    assert_eq!(get(&cluster.member(slow), "a", false).await, Ok("1".into()), "never stale");
    assert!(began.elapsed().as_millis() >= 290, "it waits until it has caught up");
    cluster.set_up(other, false);
    let began = Instant::now();
    put(&cluster.member(old), "a", "2").await.expect("a majority is left");
    assert!((400..420).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let told = cluster.traffic(old, slow);
    assert!(told.packets > 2 && told.lost == 0, "{told:?}");
    assert_eq!(cluster.traffic(old, other), Default::default(), "no weather, no account");
    assert_eq!(leader(&cluster).await, old, "lateness alone deposes nobody");
    cluster.set_weather(old, slow, LinkWeather::default());
    let began = Instant::now();
    put(&cluster.member(old), "a", "3").await.expect("healthy");
    assert!(began.elapsed().as_millis() < 10);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn lost_packets_come_later_and_long_silences_cost_the_leader_its_office() {
    let (cluster, old, ..) = led(15).await;
    let term = cluster.status(old).expect("up").term;
    let loss = |loss| LinkWeather { loss, ..LinkWeather::default() };
    bad(&cluster, old, loss(500));
    let (mut slow, mut done) = (0, 0);
    for number in 0..50 {
        let began = Instant::now();
        let answer = put(&cluster.member(old), "a", &number.to_string()).await;
        done += usize::from(answer.is_ok());
        slow += usize::from(began.elapsed().as_millis() >= 200);
    }
    assert!(done >= 45 && (1..25).contains(&slow), "{done} done, {slow} slow");
    bad(&cluster, old, loss(6000));
    sleep_ms(30_000).await;
    let lost: u64 = (0..3).map(|to| cluster.traffic(old, to).lost).sum();
    assert!(lost > 20, "{lost}");
    bad(&cluster, old, loss(0));
    sleep_ms(250_000).await;
    let now = leader(&cluster).await;
    assert!(cluster.status(now).expect("up").term > term, "nobody was elected");
    put(&cluster.member(old), "a", "last").await.expect("healthy");
    assert_eq!(cluster.running_next_event(), None, "what is healed costs nothing");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_read_at_a_leader_without_a_majority_waits_for_one_in_any_weather() {
    for is_bad in [false, true] {
        let (cluster, lead, _, _) = led(4).await;
        let store = cluster.member(lead);
        put(&store, "a", "1").await.unwrap();
        if is_bad {
            let slow = LinkWeather { latency: Duration::from_millis(10), ..LinkWeather::default() };
            bad(&cluster, lead, slow);
        }
        isolate(&cluster, lead, false);
        let began = Instant::now();
        let mend = async {
            sleep_ms(400).await;
            isolate(&cluster, lead, true);
        };
        let (read, ()) = tokio::join!(get(&store, "a", false), mend);
        assert_eq!(read.as_deref(), Ok("1"), "bad weather: {is_bad}");
        let took = began.elapsed().as_millis();
        assert!((400..600).contains(&took), "{took} ms, bad weather: {is_bad}");
        isolate(&cluster, lead, false);
        let read = get(&store, "a", false).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_lost_disk_is_replaced_by_a_new_member_that_learns_before_it_votes() {
    let (cluster, old, one, other) = led(16).await;
    put(&cluster.member(old), "a", "1").await.expect("healthy");
    let first = cluster.status(one).expect("up").member;
    assert!(cluster.lose_disk(one).is_err(), "it is up");
    cluster.set_up(one, false);
    cluster.lose_disk(one).expect("two disks are left");
    cluster.set_up(other, false);
    assert!(cluster.lose_disk(other).is_err(), "the last majority of disks");
    // Alone with an empty one, the leader can neither remove nor add anybody.
    cluster.set_up(one, true);
    sleep_ms(5000).await;
    assert!(cluster.status(one).is_none(), "it has not joined");
    let write = put(&cluster.member(old), "a", "2").await;
    assert!(write.is_err(), "an empty member counted for a majority: {write:?}");
    cluster.set_up(other, true);
    sleep_ms(5000).await;
    let joined = cluster.status(one).expect("it has joined");
    assert!(joined.member != first && joined.member > 3 && joined.leader != 0, "{joined:?}");
    assert_eq!(get(&cluster.member(one), "a", true).await, Ok("1".into()));
    assert_eq!(cluster.hash(one, 0), cluster.hash(other, 0));
    // It is a full member: with it, either of the others can be spared.
    let led = leader(&cluster).await;
    let spared = if led == one { other } else { led };
    cluster.set_up(spared, false);
    let kept = if spared == old { other } else { old };
    put(&cluster.member(kept), "a", "3").await.ok();
    sleep_ms(5000).await;
    put(&cluster.member(one), "a", "4").await.expect("two of three are left");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_leadership_is_handed_over_and_connections_are_reset() {
    let (cluster, old, to, other) = led(17).await;
    put(&cluster.member(old), "a", "1").await.expect("healthy");
    let term = cluster.status(old).expect("up").term;
    cluster.move_leader(to).expect("it keeps up");
    assert_eq!(leader(&cluster).await, to);
    assert_eq!(cluster.status(to).expect("up").term, term + 1);
    cluster.move_leader(to).expect("it is there already");
    put(&cluster.member(old), "a", "2").await.expect("healthy");
    isolate(&cluster, old, false);
    assert!(cluster.move_leader(old).is_err(), "it hears nothing");
    assert_eq!(cluster.reset(to, old), 0, "there is no connection");
    isolate(&cluster, old, true);
    sleep_ms(100).await;
    let forwarded = cluster.member(old);
    let (write, count) = tokio::join!(put(&forwarded, "a", "3"), async { cluster.reset(to, old) });
    assert_eq!(count, 2);
    assert!(matches!(write, Err(StoreError::Unknown(_))), "{write:?}");
    assert_eq!(get(&cluster.member(other), "a", false).await, Ok("2".into()));
    assert_eq!(leader(&cluster).await, to, "a reset alone deposes nobody");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn equal_members_have_equal_hashes_at_equal_revisions() {
    let (cluster, old, one, other) = led(18).await;
    let first = put(&cluster.member(old), "a", "1").await.expect("healthy").revision;
    let last = put(&cluster.member(old), "a", "2").await.expect("healthy").revision;
    sleep_ms(10).await;
    let hash = |member, revision| cluster.hash(member, revision);
    assert_eq!(hash(one, 0), hash(other, last));
    assert_eq!(hash(one, first), hash(other, first));
    assert_ne!(hash(one, first).map(|one| one.hash), hash(one, last).map(|one| one.hash));
    let future = hash(one, last + 1);
    assert_eq!(future, Err(StoreError::FutureRevision { asked: last + 1 }));
    cluster.member(old).compact(last).await.expect("healthy");
    sleep_ms(10).await;
    assert_eq!(cluster.compacted(one), Some(last));
    assert_eq!(hash(one, first), Err(StoreError::Compacted { asked: first, oldest: last }));
    assert_eq!(hash(one, last), hash(other, last));
}
