//! The server's own picture of the kinds that admission and authentication ask for at every write.
//!
//! A kind is followed from the first question on: a list, then its hub's changes. The picture may be
//! behind the store, as any follower's; whoever needs certainty compares the revision of what was
//! found in the transaction of the write ([`crate::commit::Along`]).
//! Invariant: no question is answered before the kind was listed once. While a kind cannot be followed its
//! picture stays as it was, as upstream's informers do: a store in trouble must not keep writes waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use env::Task;
use futures::StreamExt;
use machinery::kinds::POD;
use machinery::{Kind, Object, ObjectKey, Status, View};
use tokio::sync::Notify;

use crate::query::Query;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::list;
use crate::{hub, status, storage_key};

/// How long a question waits for a kind that was not listed yet.
const WAIT: Duration = Duration::from_secs(5);

/// What the server has seen of the kinds that it was asked for.
#[derive(Default)]
pub(crate) struct Picture {
    kinds: Mutex<BTreeMap<&'static str, Arc<Followed>>>,
}

/// One kind that is followed.
#[derive(Default)]
struct Followed {
    view: Mutex<Option<Seen>>,
    /// Wakes whoever waits for the first list, in order: a `watch` would wake them in random order.
    first: Notify,
    task: Mutex<Option<Task<()>>>,
}

/// What was seen of a kind.
#[derive(Default)]
struct Seen {
    view: View,
    /// Of pods: those of each node.
    by_node: BTreeMap<String, BTreeSet<ObjectKey>>,
}

impl Seen {
    fn put(&mut self, kind: &'static Kind, object: Arc<Object>) {
        let (key, node) = (object.key(), object.text("/spec/nodeName").to_owned());
        let old = self.view.put(kind, object);
        self.off_node(old.as_deref());
        if kind.id == POD.id && !node.is_empty() {
            self.by_node.entry(node).or_default().insert(key);
        }
    }

    fn take(&mut self, kind: &'static Kind, key: &ObjectKey) {
        let old = self.view.take(kind, key);
        self.off_node(old.as_deref());
    }

    fn off_node(&mut self, old: Option<&Object>) {
        let Some(old) = old else { return };
        let node = old.text("/spec/nodeName");
        if let Some(keys) = self.by_node.get_mut(node) {
            keys.remove(&old.key());
            if keys.is_empty() {
                self.by_node.remove(node);
            }
        }
    }
}

impl Picture {
    /// The pods of a node, as far as they were seen: for whoever looks closer if that does not do.
    pub(crate) fn pods_of(server: &ApiServer, node: &str) -> Vec<Arc<Object>> {
        let followed = server.picture.followed(server, &POD);
        let seen = followed.lock();
        let Some(seen) = seen.as_ref() else { return Vec::new() };
        let keys = seen.by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| seen.view.get(&POD, key).cloned()).collect()
    }

    /// One object.
    pub(crate) async fn get(
        server: &ApiServer,
        kind: &'static Kind,
        key: &ObjectKey,
    ) -> Result<Option<Arc<Object>>, Status> {
        Self::ask(server, kind, |view| view.get(kind, key).cloned()).await
    }

    /// All objects of a kind; of one namespace, unless that is empty. In order of key.
    pub(crate) async fn all(
        server: &ApiServer,
        kind: &'static Kind,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, Status> {
        Self::ask(server, kind, |view| match namespace {
            "" => view.all(kind).cloned().collect(),
            namespace => view.in_namespace(kind, namespace).cloned().collect(),
        })
        .await
    }

    async fn ask<T>(
        server: &ApiServer,
        kind: &'static Kind,
        question: impl Fn(&View) -> T,
    ) -> Result<T, Status> {
        let followed = server.picture.followed(server, kind);
        let question = |seen: &Seen| question(&seen.view);
        if let Some(answer) = followed.lock().as_ref().map(question) {
            return Ok(answer);
        }
        // Whoever waits from here on is woken, so a list that comes before the second look is not missed.
        let first = followed.first.notified();
        if let Some(answer) = followed.lock().as_ref().map(question) {
            return Ok(answer);
        }
        let _ = tokio::time::timeout(WAIT, first).await;
        followed.lock().as_ref().map(question).ok_or_else(|| {
            let why = format!("the server has not read its {} yet", kind.plural);
            status::retry(Status::new(503, "ServiceUnavailable", &why), 1)
        })
    }

    fn followed(&self, server: &ApiServer, kind: &'static Kind) -> Arc<Followed> {
        let mut kinds = self.kinds.lock().expect("no code panics while it holds the picture");
        kinds
            .entry(kind.id)
            .or_insert_with(|| {
                let followed = Arc::new(Followed::default());
                let work = run(server.myself.clone(), Arc::downgrade(&followed), kind);
                *followed.task.lock().expect("no code panics while it holds the task") =
                    Some(server.env.spawn(work));
                followed
            })
            .clone()
    }
}

impl Followed {
    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.view.lock().expect("no code panics while it holds the view")
    }
}

/// Follows a kind for as long as its server is there.
async fn run(server: Weak<ApiServer>, followed: Weak<Followed>, kind: &'static Kind) {
    let Some(env) = server.upgrade().map(|server| server.env.clone()) else { return };
    let mut backoff = env.backoff("picture", Duration::from_millis(100), Duration::from_secs(5));
    while server.strong_count() > 0 {
        match follow(&server, &followed, kind).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::debug!(%error, kind = kind.id, "the kind cannot be followed");
            }
        }
        env.sleep(backoff.next_wait()).await;
    }
}

/// Follows a kind until its watch ends.
async fn follow(
    server: &Weak<ApiServer>,
    followed: &Weak<Followed>,
    kind: &'static Kind,
) -> Result<(), Status> {
    let (Some(strong), Some(seen)) = (server.upgrade(), followed.upgrade()) else { return Ok(()) };
    let selection = Selection::read(kind, &ObjectKey::new("", ""), &Query::parse(""))?;
    let found = list::everything(&strong, &selection, None).await?;
    let mut view = Seen::default();
    for kv in &found.kvs {
        view.put(kind, strong.decoded.object(kv)?);
    }
    let following = hub::follow(&strong, kind, &selection, found.revision + 1).await;
    let mut events = following.map_err(status::from_store)?.events;
    *seen.lock() = Some(view);
    seen.first.notify_waiters();
    drop((strong, seen));
    while let Some(Ok(batch)) = events.next().await {
        let (Some(strong), Some(seen)) = (server.upgrade(), followed.upgrade()) else { break };
        for event in batch.events {
            let object = match event.is_delete {
                true => None,
                false => Some(strong.decoded.object(&event.kv)?),
            };
            let mut view = seen.lock();
            let view = view.get_or_insert_default();
            match object {
                Some(object) => view.put(kind, object),
                None => {
                    if let Some(key) = storage_key::parse(kind, &event.kv.key) {
                        view.take(kind, &key);
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::kinds::CONFIG_MAP;

    use super::*;
    use crate::testing::{MAPS, PODS, World, config_map, pod};

    async fn names(world: &World, namespace: &str) -> Vec<String> {
        let all = Picture::all(&world.server, &CONFIG_MAP, namespace).await.unwrap();
        all.iter().map(|object| object.name().to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_picture_follows_the_store() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", "1")).await;
        assert_eq!(names(&world, "default").await, ["a"]);
        assert_eq!(names(&world, "kube-system").await, [""; 0]);
        world.create(MAPS, config_map("b", "1")).await;
        world.delete(&format!("{MAPS}/a")).await;
        world.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(names(&world, "").await, ["b"]);
        let key = ObjectKey::new("default", "b");
        let found = Picture::get(&world.server, &CONFIG_MAP, &key).await.unwrap().unwrap();
        assert_eq!(found.text("/data/key"), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pods_of_a_node_come_and_go_with_them() {
        let world = World::new().await;
        let names = |node: &str| -> Vec<String> {
            let pods = Picture::pods_of(&world.server, node);
            pods.iter().map(|pod| pod.name().to_owned()).collect()
        };
        let bound = |name: &str, node: &str| {
            let mut body = pod(name);
            body["spec"]["nodeName"] = node.into();
            body
        };
        world.create(PODS, bound("a", "n-1")).await;
        assert_eq!(names("n-1"), [""; 0], "nothing was seen yet");
        world.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(names("n-1"), ["a"]);
        world.create(PODS, pod("b")).await;
        world.create(PODS, bound("c", "n-2")).await;
        let to = serde_json::json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": "b"}, "target": {"kind": "Node", "name": "n-1"}});
        world.create(&format!("{PODS}/b/binding"), to).await;
        world.delete(&format!("{PODS}/a?gracePeriodSeconds=0")).await;
        world.env.sleep(Duration::from_secs(1)).await;
        assert_eq!((names("n-1"), names("n-2")), (vec!["b".to_owned()], vec!["c".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_picture_is_good_until_there_is_a_newer_one() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", "1")).await;
        assert_eq!(names(&world, "default").await, ["a"]);
        world.cluster.set_up(0, false);
        world.env.sleep(Duration::from_secs(30)).await;
        assert_eq!(names(&world, "default").await, ["a"]);
        world.cluster.set_up(0, true);
        world.env.sleep(Duration::from_secs(10)).await;
        world.create(MAPS, config_map("b", "1")).await;
        world.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(names(&world, "default").await, ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_answered_before_the_first_list() {
        let world = World::new().await;
        world.cluster.set_up(0, false);
        let refused = Picture::all(&world.server, &CONFIG_MAP, "").await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (503, "the server has not read its configmaps yet")
        );
        world.cluster.set_up(0, true);
        assert_eq!(names(&world, "").await, [""; 0]);
    }
}
