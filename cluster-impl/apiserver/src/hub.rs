//! One watch of the store for each kind, shared by all who follow that kind.
//!
//! A change comes from the store once and is handed to those alone whom it may concern: by namespace,
//! by key, or by the node of a pod. So five thousand kubelets cost what their own pods cost.
//! Limits: whoever wants to begin before the hub's memory gets a watch of the store to itself.
//! Invariants: a follower is told every change of its place from its revision on, once and in order;
//! when the store's watch ends, so does every follower, and the next one makes a new hub. Nobody
//! begins to follow while the store does not answer, nor at a revision that the store has forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use env::Task;
use futures::StreamExt;
use machinery::Kind;
use machinery::kinds::POD;
use storage::{KeyRange, KeyValue, RangeRequest, StoreError, WatchBatch, WatchEvent, WatchStream};
use tokio::sync::Notify;

use crate::selection::Selection;
use crate::server::ApiServer;
use crate::storage_key;

/// So many changes are remembered for those who come back after a break.
const RECENT_MAX: usize = 10_000;
/// A follower that falls so many revisions behind is cut off.
const BACKLOG_MAX: usize = 100_000;
/// A follower that is behind gets so many revisions at once.
const JOINED_MAX: usize = 1000;

/// What a change may concern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// All objects of the kind.
    Everywhere,
    /// Those of one namespace.
    Namespace(String),
    /// One object, by its key in the store.
    Key(Bytes),
    /// The pods of one node.
    Node(String),
}

/// The hubs of one API server.
#[derive(Default)]
pub(crate) struct Hubs {
    kinds: Mutex<BTreeMap<&'static str, Arc<Hub>>>,
}

/// What a follower gets.
pub(crate) struct Following {
    /// The changes. They end as the store's own watch does.
    pub(crate) events: WatchStream,
    /// How far its hub is; none if the follower has a watch of its own.
    pub(crate) progress: Option<Progress>,
}

/// How far a hub is.
pub(crate) struct Progress {
    hub: Arc<Hub>,
    follower: Arc<Follower>,
}

impl Progress {
    /// The revision up to which the follower has taken everything; `None` if something waits.
    pub(crate) fn revision(&self) -> Option<i64> {
        // Under this lock nothing is handed out.
        let inner = self.hub.lock();
        self.follower.lock().batches.is_empty().then_some(inner.revision)
    }
}

/// All changes of one kind.
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    task: Mutex<Option<Task<()>>>,
}

struct Inner {
    /// What changed up to this revision is not remembered, at least not all of it.
    floor: i64,
    /// Everything up to this revision was handed out.
    revision: i64,
    recent: VecDeque<Change>,
    next: u64,
    followers: BTreeMap<u64, (Place, Arc<Follower>)>,
    places: BTreeMap<Place, BTreeSet<u64>>,
    is_over: bool,
}

/// A change and whom it may concern.
#[derive(Clone)]
struct Change {
    event: WatchEvent,
    places: Vec<Place>,
    /// Whether it cannot be told whom it concerns: then it concerns all.
    is_for_all: bool,
}

impl Change {
    fn concerns(&self, place: &Place) -> bool {
        self.is_for_all || self.places.contains(place)
    }
}

#[derive(Default)]
struct Backlog {
    batches: VecDeque<WatchBatch>,
    end: Option<StoreError>,
}

/// Whoever follows a hub.
struct Follower {
    from: i64,
    backlog: Mutex<Backlog>,
    wake: Notify,
}

impl Follower {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().expect("no code panics while it holds a backlog")
    }

    fn offer(&self, batch: WatchBatch) {
        let mut backlog = self.lock();
        if backlog.batches.len() >= BACKLOG_MAX {
            let why = format!("the watch fell {BACKLOG_MAX} revisions behind");
            backlog.end = Some(StoreError::Unavailable(why));
        }
        if backlog.end.is_none() {
            backlog.batches.push_back(batch);
        }
        drop(backlog);
        self.wake.notify_one();
    }

    fn end(&self, why: &StoreError) {
        self.lock().end.get_or_insert_with(|| why.clone());
        self.wake.notify_one();
    }

    async fn next(&self) -> Result<WatchBatch, StoreError> {
        loop {
            {
                let mut backlog = self.lock();
                if let Some(mut batch) = backlog.batches.pop_front() {
                    for _ in 1..JOINED_MAX {
                        let Some(more) = backlog.batches.pop_front() else { break };
                        batch.revision = more.revision;
                        batch.events.extend(more.events);
                    }
                    return Ok(batch);
                }
                if let Some(end) = &backlog.end {
                    return Err(end.clone());
                }
            }
            self.wake.notified().await;
        }
    }
}

/// Takes a follower off its hub when its reader goes.
struct Leaving {
    hub: Arc<Hub>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Ok(mut inner) = self.hub.inner.lock() else { return };
        if let Some((place, _)) = inner.followers.remove(&self.number)
            && let Some(numbers) = inner.places.get_mut(&place)
        {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                inner.places.remove(&place);
            }
        }
    }
}

/// Follows what a selection may select, from a revision on.
pub(crate) async fn follow(
    server: &Arc<ApiServer>,
    kind: &'static Kind,
    selection: &Selection,
    from: i64,
) -> Result<Following, StoreError> {
    let range = selection.range();
    // A cheap read says whether the store answers, and whether it still knows the revision.
    let asked = RangeRequest {
        revision: from - 1,
        serializable: true,
        limit: 1,
        ..RangeRequest::latest(KeyRange::key(storage_key::prefix(kind)))
    };
    let is_known = match server.store.range(asked).await {
        Ok(_) | Err(StoreError::FutureRevision { .. }) => true,
        Err(StoreError::Compacted { .. }) => false,
        Err(error) => return Err(error),
    };
    if !is_known {
        let events = server.store.watch(range, from).await?;
        return Ok(Following { events, progress: None });
    }
    if server.hubs.open(kind).is_none() {
        let events = server.store.watch(storage_key::range(kind, ""), from).await?;
        // Somebody else may have been faster.
        if server.hubs.open(kind).is_none() {
            server.hubs.make(server, kind, from, events);
        }
    }
    let hub = server.hubs.open(kind);
    if let Some(following) = hub.and_then(|hub| hub.join(place(kind, selection), from)) {
        return Ok(following);
    }
    let events = server.store.watch(range, from).await?;
    Ok(Following { events, progress: None })
}

/// Where a selection's objects are.
fn place(kind: &Kind, selection: &Selection) -> Place {
    let range = selection.range();
    if range.end.is_none() {
        return Place::Key(range.start.into());
    }
    match (selection.node(), selection.namespace()) {
        (Some(node), _) if kind.id == POD.id => Place::Node(node.to_owned()),
        (_, "") => Place::Everywhere,
        (_, namespace) => Place::Namespace(namespace.to_owned()),
    }
}

impl Hubs {
    fn open(&self, kind: &Kind) -> Option<Arc<Hub>> {
        let hub = self.lock().get(kind.id)?.clone();
        let is_over = hub.lock().is_over;
        (!is_over).then_some(hub)
    }

    /// Ends the hub of a kind, and with it all who follow it.
    pub(crate) fn end(&self, id: &str) {
        let hub = self.lock().remove(id);
        if let Some(hub) = hub {
            hub.end(&StoreError::Unavailable("the kind has changed".to_owned()));
        }
    }

    /// How far each hub is.
    pub(crate) fn revisions(&self) -> Vec<(&'static str, i64)> {
        self.lock().iter().map(|(id, hub)| (*id, hub.lock().revision)).collect()
    }

    fn make(&self, server: &Arc<ApiServer>, kind: &'static Kind, from: i64, events: WatchStream) {
        server.metrics.watch_cache_initializations.add(&[kind.id], 1.0);
        let inner = Inner {
            floor: from - 1,
            revision: from - 1,
            recent: VecDeque::new(),
            next: 0,
            followers: BTreeMap::new(),
            places: BTreeMap::new(),
            is_over: false,
        };
        let hub = Arc::new(Hub { inner: Mutex::new(inner), task: Mutex::default() });
        let pump = pump(Arc::downgrade(&hub), Arc::downgrade(server), kind, events);
        let task = server.env.spawn(pump);
        *hub.task.lock().expect("no code panics while it holds the task") = Some(task);
        self.lock().insert(kind.id, hub);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Arc<Hub>>> {
        self.kinds.lock().expect("no code panics while it holds the hubs")
    }
}

/// Hands out what the store tells, until it tells no more.
async fn pump(
    hub: Weak<Hub>,
    server: Weak<ApiServer>,
    kind: &'static Kind,
    mut events: WatchStream,
) {
    loop {
        let batch = events.next().await;
        let (Some(hub), Some(server)) = (hub.upgrade(), server.upgrade()) else { return };
        match batch {
            Some(Ok(batch)) => hub.hand_out(&server, kind, batch),
            Some(Err(why)) => return hub.end(&why),
            None => return hub.end(&StoreError::Unavailable("the watch has ended".to_owned())),
        }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds a hub")
    }

    /// Takes a follower in; `None` if what it wants is not remembered.
    fn join(self: Arc<Self>, place: Place, from: i64) -> Option<Following> {
        let mut inner = self.lock();
        if inner.is_over || from <= inner.floor {
            return None;
        }
        let follower = Arc::new(Follower { from, backlog: Mutex::default(), wake: Notify::new() });
        let first = inner.recent.partition_point(|change| change.event.kv.mod_revision < from);
        let missed = inner.recent.range(first..).filter(|change| change.concerns(&place));
        let events: Vec<WatchEvent> = missed.map(|change| change.event.clone()).collect();
        if !events.is_empty() {
            follower.offer(WatchBatch { revision: inner.revision, events });
        }
        inner.next += 1;
        let number = inner.next;
        inner.places.entry(place.clone()).or_default().insert(number);
        inner.followers.insert(number, (place, follower.clone()));
        drop(inner);
        let progress = Progress { hub: self.clone(), follower: follower.clone() };
        let reader = Some((follower, Leaving { hub: self, number }));
        let events = futures::stream::unfold(reader, |reader| async move {
            let (follower, leaving) = reader?;
            match follower.next().await {
                Ok(batch) => Some((Ok(batch), Some((follower, leaving)))),
                Err(why) => Some((Err(why), None)),
            }
        });
        Some(Following { events: events.boxed(), progress: Some(progress) })
    }

    fn hand_out(&self, server: &ApiServer, kind: &Kind, batch: WatchBatch) {
        let count = batch.events.len() as f64;
        server.metrics.watch_cache_received.add(&[kind.id], count);
        let changes: Vec<_> =
            batch.events.into_iter().map(|event| change(server, kind, event)).collect();
        let mut inner = self.lock();
        let mut told: BTreeMap<u64, Vec<WatchEvent>> = BTreeMap::new();
        for change in &changes {
            let numbers: BTreeSet<u64> = if change.is_for_all {
                inner.followers.keys().copied().collect()
            } else {
                let sets = change.places.iter().filter_map(|place| inner.places.get(place));
                sets.flatten().copied().collect()
            };
            for number in numbers {
                if change.event.kv.mod_revision >= inner.followers[&number].1.from {
                    told.entry(number).or_default().push(change.event.clone());
                }
            }
        }
        for (number, events) in told {
            let batch = WatchBatch { revision: batch.revision, events };
            inner.followers[&number].1.offer(batch);
        }
        inner.revision = inner.revision.max(batch.revision);
        inner.recent.extend(changes);
        while inner.recent.len() > RECENT_MAX
            && let Some(oldest) = inner.recent.pop_front()
        {
            inner.floor = oldest.event.kv.mod_revision;
        }
        server.metrics.watch_cache_dispatched.add(&[kind.id], count);
    }

    fn end(&self, why: &StoreError) {
        let mut inner = self.lock();
        inner.is_over = true;
        inner.recent.clear();
        for (_, follower) in inner.followers.values() {
            follower.end(why);
        }
    }
}

/// Works out whom a change may concern.
fn change(server: &ApiServer, kind: &Kind, event: WatchEvent) -> Change {
    let mut places = vec![Place::Everywhere, Place::Key(event.kv.key.clone())];
    if kind.namespaced
        && let Ok(key) = std::str::from_utf8(&event.kv.key)
        && let Some((parent, _)) = key.rsplit_once('/')
        && let Some((_, namespace)) = parent.rsplit_once('/')
    {
        places.push(Place::Namespace(namespace.to_owned()));
    }
    let is_new = event.kv.create_revision == event.kv.mod_revision;
    let mut is_for_all = event.prev.is_none() && !is_new;
    if kind.id == POD.id {
        let node = |kv: &KeyValue| -> Option<String> {
            let object = server.decoded.object(kv).ok()?;
            Some(object.text("/spec/nodeName").to_owned())
        };
        let states = event.prev.iter().chain((!event.is_delete).then_some(&event.kv));
        for node in states.map(node) {
            match node {
                None => is_for_all = true,
                Some(node) if node.is_empty() => {}
                Some(node) => {
                    let place = Place::Node(node);
                    if !places.contains(&place) {
                        places.push(place);
                    }
                }
            }
        }
    }
    Change { event, places, is_for_all }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{MAPS, PODS, World, config_map, pod, text};

    fn hub(world: &World, kind: &Kind) -> Arc<Hub> {
        world.server.hubs.open(kind).expect("somebody follows this kind")
    }

    async fn bind(world: &World, name: &str, node: &str) {
        world.create(PODS, pod(name)).await;
        let target = json!({"metadata": {"name": name}, "target": {"name": node}});
        world.create(&format!("{PODS}/{name}/binding"), target).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_is_woken_by_its_own_pods_alone() {
        let world = World::new().await;
        let follow = async |node: &str| {
            let query = format!("watch=true&fieldSelector=spec.nodeName%3D{node}");
            world.watch(&format!("/api/v1/pods?{query}")).await
        };
        let (mut mine, _other) = (follow("worker-1").await, follow("worker-2").await);
        for (name, node) in [("a", "worker-2"), ("b", "worker-1"), ("c", "worker-2")] {
            bind(&world, name, node).await;
        }
        assert_eq!(mine.next().await.unwrap()["object"]["metadata"]["name"], "b");
        world.env.sleep(std::time::Duration::from_secs(1)).await;
        let hub = hub(&world, &POD);
        let inner = hub.lock();
        let waiting = |node: &str| {
            let of_node = Place::Node(node.to_owned());
            let mut numbers = inner.places[&of_node].iter();
            let number = numbers.next().expect("one kubelet follows");
            inner.followers[number].1.lock().batches.len()
        };
        // The other watch may have taken one of its two changes in already.
        assert_eq!(waiting("worker-1"), 0);
        assert!((1..=2).contains(&waiting("worker-2")), "{}", waiting("worker-2"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_is_told_what_it_missed_and_nothing_twice() {
        let world = World::new().await;
        let mut first = world.watch(&format!("{MAPS}?watch=true")).await;
        let mut revisions = Vec::new();
        for at in 0..20 {
            let made = world.create(MAPS, config_map(&format!("m{at:02}"), "1")).await;
            revisions.push(text(&made["metadata"]["resourceVersion"]).to_owned());
        }
        for _ in 0..20 {
            first.next().await.unwrap();
        }
        let path = format!("{MAPS}?watch=true&resourceVersion={}", revisions[9]);
        let mut back = world.watch(&path).await;
        world.create(MAPS, config_map("m20", "1")).await;
        for at in 10..21 {
            let event = back.next().await.unwrap();
            assert_eq!(event["object"]["metadata"]["name"], format!("m{at:02}"));
        }
        let ahead: i64 = revisions[19].parse::<i64>().unwrap() + 2;
        let path = format!("{MAPS}?watch=true&resourceVersion={ahead}");
        let mut later = world.watch(&path).await;
        world.create(MAPS, config_map("m21", "1")).await;
        world.create(MAPS, config_map("m22", "1")).await;
        let told = later.next().await.unwrap();
        assert_eq!(told["object"]["metadata"]["name"], "m22", "what it knows is not told again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_ends_with_its_stores_watch_and_a_new_one_is_made() {
        let world = World::new().await;
        let mut watch = world.watch(&format!("{MAPS}?watch=true")).await;
        let old = hub(&world, &machinery::kinds::CONFIG_MAP);
        world.cluster.set_up(0, false);
        assert_eq!(watch.next().await, None);
        let path = format!("{MAPS}?watch=true&resourceVersion=2");
        let (code, _) = world.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(code, 503, "nobody follows while the store is away");
        world.cluster.set_up(0, true);
        world.env.sleep(std::time::Duration::from_secs(10)).await;
        let mut watch = world.watch(&path).await;
        world.create(MAPS, config_map("a", "1")).await;
        assert_eq!(watch.next().await.unwrap()["object"]["metadata"]["name"], "a");
        let new = hub(&world, &machinery::kinds::CONFIG_MAP);
        assert!(!Arc::ptr_eq(&old, &new));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_hub_has_forgotten_comes_from_the_store() {
        let world = World::new().await;
        let now = text(&world.get(MAPS).await["metadata"]["resourceVersion"]).to_owned();
        world.create(MAPS, config_map("before", "1")).await;
        let later = text(&world.get(MAPS).await["metadata"]["resourceVersion"]).to_owned();
        let _first = world.watch(&format!("{MAPS}?watch=true&resourceVersion={later}")).await;
        let mut early = world.watch(&format!("{MAPS}?watch=true&resourceVersion={now}")).await;
        world.create(MAPS, config_map("after", "1")).await;
        for name in ["before", "after"] {
            assert_eq!(early.next().await.unwrap()["object"]["metadata"]["name"], name);
        }
    }
}
