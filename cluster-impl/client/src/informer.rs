//! List and watch of several kinds into one [`View`], in one deterministic order.
//!
//! Invariant: a change is reported once, in order of its kind's revisions; after a relist the
//! difference to what was known is reported as changes. Nothing is spawned: whoever awaits
//! [`Informer::next`] drives the watches.
//! Watches of rare kinds ask for no bookmarks, so that a watch of nothing costs nothing. Whether their
//! connection still lives they learn from the others: when one of those hears nothing, all begin anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::{Backoff, Env, Sabotage, Signal};
use futures::io::AsyncBufReadExt;
use futures::stream::{BoxStream, SelectAll};
use futures::{AsyncBufRead, Stream, StreamExt};
use machinery::{Kind, Object, ObjectKey, Status, View};

use crate::heard::{Event, Heard};
use crate::{ApiClient, ApiError, ListOptions};

/// The server sends bookmarks every ten seconds: a watch that is silent for longer than two of them
/// sits on a dead connection, which TCP alone would notice only after minutes.
const SILENCE_MAX: Duration = Duration::from_secs(25);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The field selector of one object, before its name.
const NAME_FIELD: &str = "metadata.name=";

/// One thing to watch.
#[derive(Clone)]
pub struct Watched {
    /// Which kind.
    pub kind: &'static Kind,
    /// Which of its objects.
    pub options: ListOptions,
    /// Whether there are hardly ever any. Not everything that one informer watches may be rare.
    pub is_rare: bool,
}

impl Watched {
    /// All objects of a kind.
    pub fn all(kind: &'static Kind) -> Self {
        Self { kind, options: ListOptions::default(), is_rare: false }
    }

    /// All objects of a kind of which there are hardly ever any.
    pub fn rare(kind: &'static Kind) -> Self {
        Self { is_rare: true, ..Self::all(kind) }
    }

    /// One object, which hardly ever changes.
    fn one(kind: &'static Kind, key: &ObjectKey) -> Self {
        let (namespace, fields) = (key.namespace.clone(), format!("{NAME_FIELD}{}", key.name));
        Self {
            options: ListOptions { namespace, fields, ..ListOptions::default() },
            ..Self::rare(kind)
        }
    }

    /// Whether an object of this key could be among those that are watched.
    fn covers(&self, key: &ObjectKey) -> bool {
        let ListOptions { namespace, fields, .. } = &self.options;
        (namespace.is_empty() || key.namespace == *namespace)
            && fields.strip_prefix(NAME_FIELD).is_none_or(|name| name == key.name)
    }
}

/// One change of the view. An object that is followed alone and does not exist is told once, as one that
/// neither was nor is.
#[derive(Clone, Debug)]
pub struct Informed {
    /// Which kind.
    pub kind: &'static Kind,
    /// Which object.
    pub key: ObjectKey,
    /// What was in the view before.
    pub old: Option<Arc<Object>>,
    /// What is in the view now.
    pub new: Option<Arc<Object>>,
}

/// What a feed tells.
enum Told {
    Listed(Vec<Object>),
    Put(Arc<Object>),
    Gone(Arc<Object>),
}

/// Keeps a [`View`] of several kinds up to date.
///
/// A watch that ends or is silent for longer than the server's bookmarks allow is resumed from its
/// last revision; after 410 it lists anew and reports what changed in between.
pub struct Informer {
    client: ApiClient,
    env: Env,
    silence: Arc<Signal>,
    /// How many things were to be watched from the start.
    initial: usize,
    /// Dropped, each ends its feed.
    stops: BTreeMap<usize, futures::channel::oneshot::Sender<()>>,
    /// What is watched, by its number; what is left is taken out.
    watched: BTreeMap<usize, Watched>,
    next_number: usize,
    /// The numbers of the objects that are followed alone.
    alone: BTreeMap<(&'static str, ObjectKey), usize>,
    feeds: SelectAll<BoxStream<'static, (usize, Told)>>,
    view: View,
    listed: BTreeSet<usize>,
    pending: VecDeque<Informed>,
    /// A planted defect: what is gone after a relist stays in the view.
    keeps_gone: bool,
}

impl Informer {
    /// An informer; it does nothing until [`Informer::sync`] or [`Informer::next`] is awaited.
    pub fn new(client: ApiClient, env: Env, watched: Vec<Watched>) -> Self {
        let mut informer = Self {
            initial: watched.len(),
            watched: BTreeMap::new(),
            next_number: 0,
            alone: BTreeMap::new(),
            feeds: SelectAll::new(),
            view: View::default(),
            listed: BTreeSet::new(),
            stops: BTreeMap::new(),
            pending: VecDeque::new(),
            keeps_gone: env.sabotaged(Sabotage::RelistKeepsGone),
            client,
            env,
            silence: Arc::default(),
        };
        for watched in watched {
            informer.add(watched);
        }
        informer
    }

    fn add(&mut self, watched: Watched) -> usize {
        let index = self.next_number;
        self.next_number += 1;
        self.watched.insert(index, watched.clone());
        let label = format!("informer/{}", watched.kind.id);
        let feed = Feed {
            client: self.client.clone(),
            backoff: self.env.backoff(&label, BACKOFF_FIRST, BACKOFF_MAX),
            env: self.env.clone(),
            watched,
            state: State::Relist,
            silence: self.silence.clone(),
            heard: self.silence.count(),
        };
        let (stop, stopped) = futures::channel::oneshot::channel::<()>();
        self.stops.insert(index, stop);
        let told = futures::stream::unfold(feed, move |mut feed| async move {
            let told = feed.next().await;
            Some(((index, told), feed))
        });
        self.feeds.push(told.take_until(stopped).boxed());
        index
    }

    /// Follows one object, beside what is watched of its kind. Once it is known, [`Informer::next`] tells
    /// it, or that it does not exist. Nothing if it is followed already.
    pub fn follow_one(&mut self, kind: &'static Kind, key: &ObjectKey) {
        if !self.alone.contains_key(&(kind.id, key.clone())) {
            let index = self.add(Watched::one(kind, key));
            self.alone.insert((kind.id, key.clone()), index);
        }
    }

    /// Follows one object no more, and forgets it without a word.
    pub fn leave_one(&mut self, kind: &'static Kind, key: &ObjectKey) {
        if let Some(index) = self.alone.remove(&(kind.id, key.clone())) {
            self.end(index);
            self.view.take(kind, key);
        }
    }

    /// Follows a kind that came up later, such as a custom one; nothing if it is followed already.
    /// A kind of the same id that is followed is followed no more.
    pub fn follow(&mut self, watched: Watched) {
        let same = self.live(watched.kind.id);
        if same.iter().any(|index| std::ptr::eq(self.watched[index].kind, watched.kind)) {
            return;
        }
        self.stop(watched.kind.id);
        self.add(watched);
    }

    /// Follows a kind no more, and forgets its objects.
    pub fn leave(&mut self, id: &str) {
        let kind = self.live(id).first().map(|index| self.watched[index].kind);
        let Some(kind) = kind else { return };
        self.stop(id);
        let keys: Vec<ObjectKey> = self.view.all(kind).map(|object| object.key()).collect();
        for key in keys {
            self.take(kind, &key);
        }
    }

    /// The numbers under which a kind is followed.
    fn live(&self, id: &str) -> Vec<usize> {
        let of_kind = self.watched.iter().filter(|(_, watched)| watched.kind.id == id);
        of_kind.map(|(index, _)| *index).collect()
    }

    fn stop(&mut self, id: &str) {
        for index in self.live(id) {
            self.end(index);
        }
    }

    fn end(&mut self, index: usize) {
        self.watched.remove(&index);
        self.listed.remove(&index);
        self.stops.remove(&index);
    }

    /// Waits until every kind was listed once. What was listed is reported by [`Informer::next`].
    pub async fn sync(&mut self) {
        while !self.has_synced() {
            self.take_one().await;
        }
    }

    /// Whether every kind was listed once.
    pub fn has_synced(&self) -> bool {
        let is_open = |index: &usize| self.watched.contains_key(index);
        (0..self.initial).filter(is_open).all(|index| self.listed.contains(&index))
    }

    /// The next change, already in the view. Cancel-safe.
    pub async fn next(&mut self) -> Informed {
        loop {
            if let Some(informed) = self.pending.pop_front() {
                return informed;
            }
            self.take_one().await;
        }
    }

    /// The next change that is already known, without waiting.
    pub fn try_next(&mut self) -> Option<Informed> {
        self.pending.pop_front()
    }

    /// What has been seen so far, changes that [`Informer::next`] has yet to report included.
    pub fn view(&self) -> &View {
        &self.view
    }

    async fn take_one(&mut self) {
        let Some((index, told)) = self.feeds.next().await else {
            // An informer of nothing has nothing to tell, ever.
            return std::future::pending().await;
        };
        // What a feed said before it was left is of no interest any more.
        let Some(kind) = self.watched.get(&index).map(|watched| watched.kind) else { return };
        match told {
            Told::Listed(objects) => {
                self.replace(index, objects);
                self.listed.insert(index);
            }
            Told::Put(object) => self.put(kind, object),
            Told::Gone(object) => self.take(kind, &object.key()),
        }
    }

    fn replace(&mut self, index: usize, objects: Vec<Object>) {
        let Some(watched) = self.watched.get(&index) else { return };
        let kind = watched.kind;
        let keep: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
        let gone: Vec<ObjectKey> = self
            .view
            .all(kind)
            .map(|object| object.key())
            .filter(|key| !keep.contains(key) && watched.covers(key))
            .collect();
        let alone = self.alone.iter().find(|(_, number)| **number == index);
        if let Some(((_, key), _)) = alone
            && !self.listed.contains(&index)
            && objects.is_empty()
        {
            self.pending.push_back(Informed { kind, key: key.clone(), old: None, new: None });
        }
        for key in if self.keeps_gone { Vec::new() } else { gone } {
            self.take(kind, &key);
        }
        for object in objects {
            self.put(kind, Arc::new(object));
        }
    }

    fn put(&mut self, kind: &'static Kind, new: Arc<Object>) {
        let key = new.key();
        let unchanged = self.view.get(kind, &key).is_some_and(|old| {
            old.resource_version() == new.resource_version() && old.uid() == new.uid()
        });
        if unchanged {
            return;
        }
        let old = self.view.put(kind, new.clone());
        self.pending.push_back(Informed { kind, key, old, new: Some(new) });
    }

    fn take(&mut self, kind: &'static Kind, key: &ObjectKey) {
        if let Some(old) = self.view.take(kind, key) {
            let key = key.clone();
            self.pending.push_back(Informed { kind, key, old: Some(old), new: None });
        }
    }
}

enum State {
    Relist,
    Rewatch { revision: String },
    Watching { revision: String, events: BoxStream<'static, Result<Event, ApiError>> },
}

/// One kind's list and watch, as a machine that yields what it was told.
struct Feed {
    client: ApiClient,
    env: Env,
    watched: Watched,
    backoff: Backoff,
    state: State,
    /// Where a feed says that it hears nothing, and where a rare one hears of it.
    silence: Arc<Signal>,
    /// How often that was said when this watch began.
    heard: u64,
}

impl Feed {
    async fn next(&mut self) -> Told {
        loop {
            match &mut self.state {
                State::Relist => {
                    let Watched { kind, options, .. } = &self.watched;
                    match self.client.list(kind, options).await {
                        Ok((revision, objects)) => {
                            self.state = State::Rewatch { revision };
                            return Told::Listed(objects);
                        }
                        Err(error) => {
                            if error.is_forbidden() {
                                // That does not pass by itself: somebody has to hear of it.
                                tracing::warn!(kind = kind.id, %error, "list refused");
                            } else {
                                tracing::debug!(kind = kind.id, %error, "list failed");
                            }
                            self.pause().await;
                        }
                    }
                }
                State::Rewatch { revision } => {
                    let revision = revision.clone();
                    let Watched { kind, options, is_rare } = &self.watched;
                    self.heard = self.silence.count();
                    match self.client.watch(kind, options, &revision, !is_rare).await {
                        Ok(events) => self.state = State::Watching { revision, events },
                        Err(error) => self.broken(revision, &error).await,
                    }
                }
                State::Watching { revision, events } => {
                    let is_trusted = self.env.sabotaged(Sabotage::SilentWatchTrusted);
                    let most = if is_trusted { SILENCE_MAX * 1000 } else { SILENCE_MAX };
                    let event = if self.watched.is_rare {
                        tokio::select! {
                            biased;
                            event = events.next() => Some(event),
                            _ = self.silence.after(self.heard) => None,
                        }
                    } else {
                        tokio::time::timeout(most, events.next()).await.ok()
                    };
                    let revision = std::mem::take(revision);
                    match event {
                        Some(Some(Ok(event))) => {
                            if let Some(told) = self.event(revision, event).await {
                                return told;
                            }
                        }
                        Some(Some(Err(error))) => self.broken(revision, &error).await,
                        // The server ends every watch after a while: that is no failure.
                        Some(None) => self.state = State::Rewatch { revision },
                        None => {
                            if !self.watched.is_rare {
                                self.client.give_up_current();
                                self.silence.raise();
                            }
                            self.state = State::Rewatch { revision };
                        }
                    }
                }
            }
        }
    }

    async fn event(&mut self, last: String, event: Event) -> Option<Told> {
        let Event { sort, object } = event;
        if sort == "ERROR" {
            let error = ApiError::Status(Status::from_value(&object.0));
            self.broken(last, &error).await;
            return None;
        }
        self.backoff.reset();
        if let State::Watching { revision, .. } = &mut self.state {
            *revision = match object.resource_version() {
                "" => last,
                newer => newer.to_owned(),
            };
        }
        match sort.as_str() {
            "ADDED" | "MODIFIED" => Some(Told::Put(object)),
            "DELETED" => Some(Told::Gone(object)),
            _ => None,
        }
    }

    async fn broken(&mut self, revision: String, error: &ApiError) {
        tracing::debug!(kind = self.watched.kind.id, %error, "watch failed");
        self.state = if error.is_expired() { State::Relist } else { State::Rewatch { revision } };
        self.pause().await;
    }

    async fn pause(&mut self) {
        let wait = self.backoff.next_wait();
        self.env.sleep(wait).await;
    }
}

/// Cuts a watch's body into its events: one JSON object a line.
pub(crate) fn split_events(
    body: impl AsyncBufRead + Send + 'static,
    heard: Option<Arc<Heard>>,
) -> impl Stream<Item = Result<Event, ApiError>> + Send {
    Box::pin(body).lines().map(move |line| {
        let line = line.map_err(|error| ApiError::NoAnswer(format!("watch broken: {error}")))?;
        let event = match &heard {
            Some(heard) => heard.read(&line),
            None => Event::read(&line),
        };
        event.map_err(|error| ApiError::NoAnswer(format!("watch sent no JSON: {error}")))
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use env::{SimMachine, Timestamp};
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full, StreamBody};
    use machinery::kinds::{CONFIG_MAP, SECRET};
    use serde_json::{Value, json};

    use super::*;

    /// A server that answers each request with the next line of a script, and notes what was asked.
    fn scripted(script: Vec<(u16, String)>) -> (ApiClient, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            notes.lock().unwrap().push(request.uri().to_string());
            let answer = script.lock().unwrap().pop_front();
            async move {
                let Some((code, body)) = answer else {
                    return std::future::pending().await;
                };
                let body = Full::new(bytes::Bytes::from(body));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        (ApiClient::new(vec![kube::Client::new(service, "default")]), asked)
    }

    fn env() -> Env {
        Env::new(Arc::new(SimMachine::new(1, "test", Timestamp::UNIX_EPOCH)), None)
    }

    fn map(name: &str, revision: u32) -> Value {
        json!({"metadata": {"name": name, "namespace": "default", "uid": name,
               "resourceVersion": revision.to_string()}})
    }

    fn list(revision: u32, items: &[Value]) -> (u16, String) {
        let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": revision.to_string()}});
        (200, list.to_string())
    }

    fn told(informed: &Informed) -> String {
        let was = informed.old.as_ref().map_or("-", |object| object.resource_version());
        let is = informed.new.as_ref().map_or("-", |object| object.resource_version());
        format!("{} {was}->{is}", informed.key.name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_watch_is_resumed_and_an_expired_one_reports_the_difference() {
        let added = json!({"type": "ADDED", "object": map("b", 6)}).to_string() + "\n";
        let expired = Status::expired("too old resource version").to_value().to_string();
        let (client, asked) = scripted(vec![
            list(5, &[map("a", 3)]),
            (200, added),
            (410, expired),
            list(9, &[map("b", 8), map("c", 9)]),
        ]);
        let mut informer = Informer::new(client, env(), vec![Watched::all(&CONFIG_MAP)]);
        informer.sync().await;
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(told(&informer.next().await));
        }
        assert_eq!(seen, ["a -->3", "b -->6", "a 3->-", "b 6->8", "c -->9"]);
        let asked = asked.lock().unwrap();
        assert!(asked[1].contains("resourceVersion=5"), "{}", asked[1]);
        assert!(asked[2].contains("resourceVersion=6"), "{}", asked[2]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_next_change_can_be_given_up_and_taken_up_again() {
        let events = json!({"type": "MODIFIED", "object": map("a", 6)}).to_string() + "\n";
        let (client, _) = scripted(vec![list(5, &[map("a", 3)]), (200, events)]);
        let mut informer = Informer::new(client, env(), vec![Watched::all(&CONFIG_MAP)]);
        informer.sync().await;
        assert_eq!(told(&informer.next().await), "a -->3");
        let mut seen = Vec::new();
        while seen.is_empty() {
            // Polled once and dropped, many times over.
            tokio::select! {
                biased;
                informed = informer.next() => seen.push(told(&informed)),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(seen, ["a 3->6"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_comes_up_later_is_followed_and_left_again() {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let uri = request.uri().to_string();
            let body = match (uri.contains("watch=true"), uri.contains("/secrets")) {
                (true, _) => BodyExt::boxed(StreamBody::new(futures::stream::pending())),
                (_, true) => Full::new(bytes::Bytes::from(list(7, &[map("s", 7)]).1)).boxed(),
                _ => Full::new(bytes::Bytes::from(list(5, &[]).1)).boxed(),
            };
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let client = ApiClient::new(vec![kube::Client::new(service, "default")]);
        let mut informer = Informer::new(client, env(), vec![Watched::all(&CONFIG_MAP)]);
        informer.sync().await;
        for _ in 0..2 {
            informer.follow(Watched::rare(&SECRET));
        }
        assert_eq!(told(&informer.next().await), "s -->7");
        informer.leave(SECRET.id);
        assert_eq!(told(&informer.next().await), "s 7->-");
        let quiet = tokio::time::timeout(SILENCE_MAX * 3, informer.next()).await;
        assert!(quiet.is_err(), "nothing more is told");
        informer.follow(Watched::rare(&SECRET));
        assert_eq!(told(&informer.next().await), "s -->7");
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_is_followed_beside_others_of_its_kind_and_left_again() {
        let asked = Arc::new(Mutex::new(Vec::<String>::new()));
        let notes = asked.clone();
        // `a` is there until its watch has expired; `b` is there for ever; `c` never was.
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let uri = request.uri().to_string();
            let mut notes = notes.lock().unwrap();
            let earlier = notes.iter().filter(|other| **other == uri).count();
            notes.push(uri.clone());
            let (of_a, of_b) = (uri.contains("name%3Da"), uri.contains("name%3Db"));
            let expired = Status::expired("too old resource version").to_value().to_string();
            let (code, body) = match (uri.contains("watch=true"), earlier) {
                (true, 0) if of_a => (410, Full::new(bytes::Bytes::from(expired)).boxed()),
                (true, _) => (200, BodyExt::boxed(StreamBody::new(futures::stream::pending()))),
                (false, 0) if of_a => (200, Full::new(list(5, &[map("a", 3)]).1.into()).boxed()),
                _ if of_b => (200, Full::new(list(5, &[map("b", 4)]).1.into()).boxed()),
                _ => (200, Full::new(list(5, &[]).1.into()).boxed()),
            };
            let answer = Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, Infallible>(answer) }
        });
        let client = ApiClient::new(vec![kube::Client::new(service, "default")]);
        let mut informer = Informer::new(client, env(), Vec::new());
        let key = |name: &str| ObjectKey::new("default", name);
        for name in ["a", "b", "b", "c"] {
            informer.follow_one(&CONFIG_MAP, &key(name));
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(told(&informer.next().await));
        }
        seen.sort();
        // One that does not exist is told; one that is gone after a relist takes no other with it.
        assert_eq!(seen, ["a -->3", "a 3->-", "b -->4", "c -->-"]);
        let quiet = tokio::time::timeout(SILENCE_MAX * 3, informer.next()).await;
        assert!(quiet.is_err(), "nothing more is told");
        let lists = asked.lock().unwrap().iter().filter(|uri| !uri.contains("watch=true")).count();
        assert_eq!(lists, 4, "{:?}", asked.lock().unwrap());
        for name in ["a", "b", "c"] {
            informer.leave_one(&CONFIG_MAP, &key(name));
        }
        assert!(informer.watched.is_empty() && informer.stops.is_empty());
        assert!(informer.view().get(&CONFIG_MAP, &key("b")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rare_kind_costs_nothing_and_hears_of_silence_from_the_others() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let uri = request.uri().to_string();
            // A watch begins and is silent for ever.
            let body = if uri.contains("watch=true") {
                BodyExt::boxed(StreamBody::new(futures::stream::pending()))
            } else {
                Full::new(bytes::Bytes::from(list(5, &[]).1)).boxed()
            };
            notes.lock().unwrap().push(uri);
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let client = ApiClient::new(vec![kube::Client::new(service, "default")]);
        let watched = vec![Watched::all(&CONFIG_MAP), Watched::rare(&SECRET)];
        let mut informer = Informer::new(client, env(), watched);
        informer.sync().await;
        let watches = |kind: &str, bookmarks: bool| {
            let (path, bookmarks) = (format!("/{kind}?watch"), format!("Bookmarks={bookmarks}"));
            let asked = asked.lock().unwrap();
            asked.iter().filter(|uri| uri.contains(&path) && uri.contains(&bookmarks)).count()
        };
        for rounds in 1..4 {
            let quiet = tokio::time::timeout(SILENCE_MAX, informer.next()).await;
            assert!(quiet.is_err(), "nothing is told");
            assert_eq!(watches("configmaps", true), rounds);
            assert_eq!(watches("secrets", false), rounds);
        }
    }
}
