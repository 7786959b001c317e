//! watch: every change of a collection, in order, from a revision on.
//!
//! The stream has no task behind it: whoever reads the answer polls the kind's hub. An idle watch keeps
//! one timer, for its bookmarks or its end. A selector projects changes: what enters the
//! selection is ADDED, what leaves it DELETED. A change is written once in each form, and all who watch
//! in that form are told the same bytes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::Sabotage;
use futures::StreamExt;
use machinery::{Kind, Status};
use rand::Rng;
use serde_json::json;
use storage::{KeyValue, StoreError, WatchBatch, WatchEvent, WatchStream};
use tokio::time::{Instant, Sleep};

use crate::accept::{Accept, Form, Language};
use crate::answer::{Answer, Content, Style, write_object};
use crate::codec::{Stored, write_json};
use crate::hub::{self, Progress};
use crate::query::Query;
use crate::request::Request;
use crate::selection::Selection;
use crate::server::{self, ApiServer};
use crate::verbs::{event_cache, list};
use crate::{custom, protobuf, status};

/// One in so many events is dropped by [`Sabotage::LostWatchEvent`].
const LOST_EVERY: u64 = 10;
/// ... but the first ones of a watch all arrive.
const LOST_AFTER: u64 = 60;
/// More events than this are put together before they are sent: each piece costs a write of the socket.
const PIECES_MAX: usize = 4;

/// A longer time is this one: a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Follows a collection.
pub(crate) async fn watch(server: &Arc<ApiServer>, request: &Request) -> Result<Answer, Status> {
    let selection = Selection::read(request.kind, &request.key, &request.query)?;
    let start = Start::read(&request.query)?;
    let has_bookmarks = request.query.flag("allowWatchBookmarks");
    let deadline = server.env.instant() + duration(server, &request.query)?;
    let mut feed = Feed {
        server: server.clone(),
        selection,
        style: Style {
            accept: request.accept,
            include: server::include(&request.query)?,
            now: server.env.now(),
            has_headings: true,
        },
        kind: request.kind,
        events: futures::stream::pending().boxed(),
        progress: None,
        closing: server.closing.subscribe(),
        bookmark_period: has_bookmarks.then_some(server.config.bookmark_period),
        deadline,
        wake: Box::pin(tokio::time::sleep_until(deadline)),
        revision: 0,
        told: 0,
        first: VecDeque::new(),
        is_over: false,
    };
    feed.start(start, has_bookmarks).await?;
    feed.set_wake();
    let pieces = futures::stream::unfold(feed, |mut feed| async move {
        let piece = feed.next().await?;
        Some((piece, feed))
    });
    Ok(Answer::new(200, Content::Stream(pieces.boxed())))
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// With everything there is, at a revision not older than this; `true` if the end of that is marked.
    Everything(Option<i64>, bool),
    /// After this revision.
    After(i64),
    /// With what comes next.
    Now,
}

impl Start {
    fn read(query: &Query) -> Result<Self, Status> {
        let revision = list::revision(query)?;
        let wanted = query.text("resourceVersionMatch");
        match query.optional_flag("sendInitialEvents") {
            None if !wanted.is_empty() => Err(list::refused(
                "resourceVersionMatch",
                "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                 provided",
            )),
            Some(_) if wanted != "NotOlderThan" => Err(list::refused(
                "resourceVersionMatch",
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            Some(true) => Ok(Start::Everything(revision, true)),
            Some(false) => Ok(match revision {
                None | Some(0) => Start::Now,
                Some(revision) => Start::After(revision),
            }),
            None => Ok(match revision {
                None | Some(0) => Start::Everything(revision, false),
                Some(revision) => Start::After(revision),
            }),
        }
    }
}

fn duration(server: &ApiServer, query: &Query) -> Result<Duration, Status> {
    match query.integer("timeoutSeconds")?.unwrap_or_default() {
        // Spread, so that the watches of one moment do not all end at one moment.
        0 => {
            let spread = server.env.entropy("watch-timeout").random_range(1.0..2.0);
            Ok(server.config.min_request_timeout.mul_f64(spread))
        }
        // As upstream, a time below zero is over at once. No clock has room for every number.
        seconds => Ok(Duration::from_secs(seconds.max(0).unsigned_abs()).min(DURATION_MAX)),
    }
}

/// Whether all states in a batch were stored in the version of this kind.
fn is_stored_as(kind: &Kind, batch: &WatchBatch) -> bool {
    let states = batch.events.iter().flat_map(|event| {
        let now = (!event.is_delete).then_some(&event.kv);
        now.into_iter().chain(&event.prev)
    });
    let mut read = states.map(|kv| serde_json::from_slice::<serde_json::Value>(&kv.value));
    let wanted = kind.api_version();
    read.all(|state| state.is_ok_and(|state| state["apiVersion"] == wanted.as_str()))
}

/// Custom resources in the version that is watched; `None` if that is another by now, or if they cannot
/// be converted: then the client comes back.
async fn converted(
    server: Arc<ApiServer>,
    kind: &'static Kind,
    mut batch: WatchBatch,
) -> Option<WatchBatch> {
    if kind.custom.is_none() {
        return Some(batch);
    }
    if !server.customs.is_current(kind) {
        // What happened before the definition changed is told as it was stored, if that is how this
        // watch knows it; then the watch ends.
        return is_stored_as(kind, &batch).then_some(batch);
    }
    let states = |event: &mut WatchEvent| {
        let now = (!event.is_delete).then(|| event.kv.clone());
        now.into_iter().chain(event.prev.clone()).collect::<Vec<_>>()
    };
    let mut all: Vec<KeyValue> = batch.events.iter_mut().flat_map(states).collect();
    custom::incoming(&server, kind, &mut all).await.ok()?;
    let mut all = all.into_iter();
    for event in &mut batch.events {
        if !event.is_delete {
            event.kv = all.next()?;
        }
        if event.prev.is_some() {
            event.prev = Some(all.next()?);
        }
    }
    Some(batch)
}

/// One open watch.
struct Feed {
    server: Arc<ApiServer>,
    selection: Selection,
    style: Style,
    kind: &'static Kind,
    events: WatchStream,
    /// How far the hub is that the events come from.
    progress: Option<Progress>,
    closing: tokio::sync::watch::Receiver<bool>,
    bookmark_period: Option<Duration>,
    deadline: Instant,
    wake: Pin<Box<Sleep>>,
    /// Everything up to this revision was told.
    revision: i64,
    /// How many events were told.
    told: u64,
    /// What is to be told before anything else.
    first: VecDeque<Bytes>,
    is_over: bool,
}

impl Feed {
    async fn start(&mut self, start: Start, has_bookmarks: bool) -> Result<(), Status> {
        match start {
            Start::Everything(oldest, is_marked) => {
                let found = list::everything(&self.server, &self.selection, oldest).await?;
                self.revision = found.revision;
                let mut out = Vec::new();
                for kv in &found.kvs {
                    self.tell(&mut out, "ADDED", &Stored::from(kv))?;
                }
                if is_marked && has_bookmarks {
                    self.bookmark(&mut out, true);
                }
                self.say(out);
            }
            Start::After(revision) => {
                let skips = self.server.env.sabotaged(Sabotage::ResumeSkips);
                let repeats = self.server.env.sabotaged(Sabotage::ResumeRepeats);
                self.revision = revision + i64::from(skips) - i64::from(repeats);
            }
            Start::Now => {
                let status = self.server.store.status().await.map_err(status::from_store)?;
                self.revision = status.revision;
            }
        }
        let following =
            hub::follow(&self.server, self.kind, &self.selection, self.revision.saturating_add(1))
                .await;
        match following {
            Ok(following) => {
                self.events = following.events;
                self.progress = following.progress;
            }
            Err(StoreError::Compacted { .. })
                if self.server.env.sabotaged(Sabotage::ExpiredWatchNotTold) =>
            {
                let now = self.server.store.watch(self.selection.range(), 0).await;
                self.events = now.map_err(status::from_store)?;
            }
            Err(StoreError::Compacted { asked, oldest }) => self.expire(asked - 1, oldest),
            Err(error) => return Err(status::from_store(error)),
        }
        Ok(())
    }

    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.first.pop_front() {
                return Some(piece);
            }
            if self.is_over || *self.closing.borrow() {
                return None;
            }
            tokio::select! {
                biased;
                batch = self.events.next() => match batch {
                    Some(Ok(batch)) => {
                        match converted(self.server.clone(), self.kind, batch).await {
                            Some(batch) => self.tell_batch(&batch),
                            None => return None,
                        }
                    }
                    Some(Err(StoreError::Compacted { asked, oldest })) => {
                        self.expire(asked, oldest);
                    }
                    // The client resumes from the last revision it was told.
                    Some(Err(_)) | None => return None,
                },
                () = &mut self.wake => {
                    if self.server.env.instant() >= self.deadline {
                        return None;
                    }
                    // What waits is told first, and its revision is not passed by.
                    if let Some(revision) = self.progress.as_ref().and_then(Progress::revision) {
                        self.revision = self.revision.max(revision);
                    }
                    let mut out = Vec::new();
                    self.bookmark(&mut out, false);
                    self.say(out);
                    self.set_wake();
                }
                _ = self.closing.changed() => {}
            }
        }
    }

    fn set_wake(&mut self) {
        let bookmark = self.bookmark_period.map(|period| self.server.env.instant() + period);
        let at = bookmark.map_or(self.deadline, |at| at.min(self.deadline));
        self.wake.as_mut().reset(at);
    }

    /// Takes what is to be told next; nothing if it is empty.
    fn say(&mut self, out: Vec<u8>) {
        if !out.is_empty() {
            self.first.push_back(out.into());
        }
    }

    fn tell_batch(&mut self, batch: &WatchBatch) {
        let mut pieces = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let told = self.project(event).and_then(|told| match told {
                Some((name, stored)) => self.piece(name, &event.kv.key, &stored),
                None => Ok(None),
            });
            match told {
                Ok(piece) => pieces.extend(piece),
                Err(status) => {
                    self.is_over = true;
                    self.first.extend(pieces);
                    let mut out = Vec::new();
                    self.write_value(&mut out, "ERROR", &status.to_value());
                    return self.say(out);
                }
            }
        }
        self.revision = self.revision.max(batch.revision);
        self.count(pieces.iter().map(|piece| piece.len() as f64).collect());
        match pieces.len() {
            0..=PIECES_MAX => self.first.extend(pieces),
            _ => self.say(pieces.concat()),
        }
    }

    /// One event, as it is sent; the bytes are those of everybody who watches in the same form.
    fn piece(
        &mut self,
        name: &'static str,
        key: &Bytes,
        stored: &Stored,
    ) -> Result<Option<Bytes>, Status> {
        let Accept { form, language, .. } = self.style.accept;
        let is_metadata = match form {
            Form::Object => false,
            Form::Metadata => true,
            // A table tells ages, and its first row has headings.
            Form::Table(_) => return self.own_piece(name, stored),
        };
        // Sabotage counts events; and a custom resource may be another in another version.
        if self.kind.custom.is_some() || self.server.env.sabotaged(Sabotage::LostWatchEvent) {
            return self.own_piece(name, stored);
        }
        let form = event_cache::Form {
            group: self.kind.group,
            version: self.kind.version,
            name,
            language,
            is_metadata,
        };
        let cache = &self.server.clone().events;
        if let Some(known) = cache.get(stored.revision, key, form) {
            return Ok(Some(known));
        }
        let piece = self.own_piece(name, stored)?;
        if let Some(piece) = &piece {
            cache.put(stored.revision, key, form, piece.clone());
        }
        Ok(piece)
    }

    fn own_piece(&mut self, name: &str, stored: &Stored) -> Result<Option<Bytes>, Status> {
        let mut out = Vec::new();
        self.tell(&mut out, name, stored)?;
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// Counts events that are told, all of a batch at once: there are many watches.
    fn count(&self, sizes: Vec<f64>) {
        let labels = [self.kind.group, self.kind.kind, self.kind.version];
        let metrics = &self.server.metrics;
        if !sizes.is_empty() {
            metrics.watch_events.add(&labels, sizes.len() as f64);
            metrics.watch_event_bytes.observe_all(&labels, sizes);
        }
    }

    /// What a change of a key means to this watch.
    fn project(&self, event: &WatchEvent) -> Result<Option<(&'static str, Stored)>, Status> {
        let revision = event.kv.mod_revision;
        let is_new = event.kv.create_revision == revision;
        let before = || -> Result<Stored, Status> {
            let lost = || Status::expired(format!("the state before revision {revision} is gone"));
            let kv = event.prev.as_ref().ok_or_else(lost)?;
            Ok(Stored { value: kv.value.clone(), revision })
        };
        if self.selection.is_everything() {
            return Ok(Some(match (event.is_delete, is_new) {
                (true, _) => ("DELETED", before()?),
                (false, true) => ("ADDED", Stored::from(&event.kv)),
                (false, false) => ("MODIFIED", Stored::from(&event.kv)),
            }));
        }
        let was_selected = match &event.prev {
            Some(kv) if !is_new || event.is_delete => self.selects(kv)?,
            _ => false,
        };
        let is_selected = !event.is_delete && self.selects(&event.kv)?;
        Ok(match (was_selected, is_selected) {
            (false, false) => None,
            (false, true) => Some(("ADDED", Stored::from(&event.kv))),
            (true, true) => Some(("MODIFIED", Stored::from(&event.kv))),
            (true, false) if self.server.env.sabotaged(Sabotage::LeavingNotTold) => None,
            // As upstream: the state before, at the revision that took it away.
            (true, false) => Some(("DELETED", before()?)),
        })
    }

    fn selects(&self, kv: &KeyValue) -> Result<bool, Status> {
        Ok(self.selection.matches(self.server.decoded.of(self.kind, kv)?.as_ref()))
    }

    fn tell(&mut self, out: &mut Vec<u8>, name: &str, stored: &Stored) -> Result<(), Status> {
        self.told += 1;
        if self.told > LOST_AFTER
            && self.told.is_multiple_of(LOST_EVERY)
            && self.server.env.sabotaged(Sabotage::LostWatchEvent)
        {
            return Ok(());
        }
        self.style.now = self.server.env.now();
        let mut written = Ok(());
        if self.style.accept.language == Language::Protobuf {
            let mut object = Vec::with_capacity(1024);
            written = write_object(&mut object, self.kind, stored, self.style);
            protobuf::event(out, name, &object);
        } else {
            write_event(out, name, |out| {
                written = write_object(out, self.kind, stored, self.style)
            });
        }
        self.style.has_headings = false;
        written
    }

    fn bookmark(&self, out: &mut Vec<u8>, ends_initial: bool) {
        let mut object = match self.style.accept.form {
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"})
            }
            Form::Object | Form::Table(_) => json!({
                "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            }),
        };
        object["metadata"] = json!({
            "resourceVersion": self.revision.to_string(), "creationTimestamp": null,
        });
        if ends_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        if let Form::Table(version) = self.style.accept.form {
            object = json!({
                "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": self.revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": object}],
            });
        }
        self.write_value(out, "BOOKMARK", &object);
    }

    /// Writes an event whose object is no stored one.
    fn write_value(&self, out: &mut Vec<u8>, name: &str, value: &serde_json::Value) {
        if self.style.accept.language == Language::Protobuf
            && let Ok(bytes) = protobuf::object(value)
        {
            return protobuf::event(out, name, &bytes);
        }
        write_event(out, name, |out| write_json(out, value));
    }

    /// Ends the watch: what it should go on from is gone.
    fn expire(&mut self, asked: i64, oldest: i64) {
        let status = Status::expired(format!("too old resource version: {asked} ({oldest})"));
        let mut out = Vec::new();
        self.write_value(&mut out, "ERROR", &status.to_value());
        self.say(out);
        self.is_over = true;
    }
}

fn write_event(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    write(out);
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::Method;

    use serde_json::Value;

    use super::*;
    use crate::Config;
    use crate::testing::{MAPS, PODS, Watch, World, config_map, pod, text};

    async fn revision(world: &World) -> String {
        text(&world.get(MAPS).await["metadata"]["resourceVersion"]).to_owned()
    }

    async fn names(watch: &mut Watch, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            let told = watch.told().await;
            all.push(told.rsplit_once(' ').map_or(told.clone(), |(told, _)| told.to_owned()));
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn changes_after_a_revision_are_told_in_order() {
        let world = World::new().await;
        world.create(MAPS, config_map("old", "1")).await;
        let from = revision(&world).await;
        let mut watch = world.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
        let made = world.create(MAPS, config_map("a", "1")).await;
        let told = watch.next().await.unwrap();
        assert_eq!(told, json!({"type": "ADDED", "object": made}));
        let changed = world.patch(&format!("{MAPS}/a"), json!({"data": {"key": "2"}})).await;
        assert_eq!(watch.next().await.unwrap(), json!({"type": "MODIFIED", "object": changed}));
        world.delete(&format!("{MAPS}/a")).await;
        let gone = watch.next().await.unwrap();
        assert_eq!(gone["type"], "DELETED");
        assert_eq!(gone["object"]["data"], changed["data"], "the last state");
        let after: i64 = text(&gone["object"]["metadata"]["resourceVersion"]).parse().unwrap();
        let before: i64 = text(&changed["metadata"]["resourceVersion"]).parse().unwrap();
        assert_eq!(after, before + 1, "at the revision of the deletion");
        let mut again = world.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
        assert_eq!(names(&mut again, 3).await, ["ADDED a", "MODIFIED a", "DELETED a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_revision_it_begins_with_what_is_there() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", "1")).await;
        for (query, value) in [("watch=true", "2"), ("watch=1&resourceVersion=0", "3")] {
            let mut watch = world.watch(&format!("{MAPS}?{query}")).await;
            assert_eq!(names(&mut watch, 1).await, ["ADDED a"]);
            assert!(watch.is_silent_for(Duration::from_secs(60)).await);
            world.patch(&format!("{MAPS}/a"), json!({"data": {"key": value}})).await;
            assert_eq!(names(&mut watch, 1).await, ["MODIFIED a"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_initial_events_is_marked_once() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", "1")).await;
        let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                     &allowWatchBookmarks=true";
        let mut watch = world.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(names(&mut watch, 1).await, ["ADDED a"]);
        let mark = watch.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(mark["object"]["kind"], "ConfigMap");
        let metadata = &mark["object"]["metadata"];
        assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(text(&metadata["resourceVersion"]), revision(&world).await);
        let next = watch.next().await.unwrap();
        assert_eq!(next["type"], "BOOKMARK");
        assert_eq!(next["object"]["metadata"].get("annotations"), None);
        for (query, code) in [
            ("watch=true&sendInitialEvents=true", 422),
            ("watch=true&resourceVersionMatch=NotOlderThan", 422),
            ("watch=true&timeoutSeconds=", 400),
        ] {
            let path = format!("{MAPS}?{query}");
            assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, code, "{query}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn selectors_project_entering_and_leaving() {
        let world = World::new().await;
        let from = revision(&world).await;
        let query = format!("watch=true&resourceVersion={from}&labelSelector=app%3Dweb");
        let mut watch = world.watch(&format!("{PODS}?{query}")).await;
        let at = format!("{PODS}/a");
        let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
        let mut outside = pod("a");
        outside["metadata"]["labels"] = json!({"app": "api"});
        world.create(PODS, outside).await;
        world.patch(&at, label("web")).await;
        world.patch(&format!("{at}/status"), json!({"status": {"phase": "Running"}})).await;
        let left = world.patch(&at, label("api")).await;
        world.patch(&format!("{at}/status"), json!({"status": {"phase": "Failed"}})).await;
        world.patch(&at, label("web")).await;
        world.delete(&at).await;
        world.create(PODS, pod("b")).await;
        let mut told = Vec::new();
        for _ in 0..6 {
            told.push(watch.next().await.unwrap());
        }
        let kinds: Vec<_> = told.iter().map(|event| text(&event["type"])).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED", "ADDED"]);
        let gone = &told[2]["object"];
        assert_eq!(gone["metadata"]["labels"]["app"], "web", "the last state that was selected");
        assert_eq!(gone["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    }

    #[tokio::test(start_paused = true)]
    async fn field_selectors_follow_a_pod_to_its_node() {
        let world = World::new().await;
        let query = "watch=true&fieldSelector=spec.nodeName%3Dworker-1";
        let mut watch = world.watch(&format!("/api/v1/pods?{query}")).await;
        world.create(PODS, pod("a")).await;
        let target = json!({"metadata": {"name": "a"}, "target": {"name": "worker-1"}});
        world.create(&format!("{PODS}/a/binding"), target).await;
        assert_eq!(names(&mut watch, 1).await, ["ADDED a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_watch_gets_bookmarks_and_ends_in_time() {
        let world = World::new().await;
        let started = world.env.instant();
        let query = "watch=true&allowWatchBookmarks=true&timeoutSeconds=35";
        let mut watch = world.watch(&format!("{MAPS}?{query}")).await;
        for round in 1..=3 {
            let told = watch.told().await;
            assert!(told.starts_with("BOOKMARK"), "{told}");
            assert_eq!((world.env.instant() - started).as_secs(), round * 10);
        }
        assert_eq!(watch.told().await, "END");
        assert_eq!((world.env.instant() - started).as_secs(), 35);
        let mut plain = world.watch(&format!("{MAPS}?watch=true")).await;
        assert_eq!(plain.told().await, "END", "without bookmarks only its own end comes");
        let lasted = (world.env.instant() - started).as_secs() - 35;
        assert!((1800..=3600).contains(&lasted), "{lasted}");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_number_a_client_names_a_watch_begins_and_ends() {
        let world = World::new().await;
        let (least, most) = (i64::MIN, i64::MAX);
        for query in [
            format!("timeoutSeconds={most}"),
            format!("timeoutSeconds={most}&resourceVersion={most}"),
        ] {
            let mut watch = world.watch(&format!("{MAPS}?watch=what&{query}")).await;
            assert!(watch.is_silent_for(Duration::from_secs(2 * 3600)).await, "{query}");
        }
        for (query, lasts_s) in [
            (format!("resourceVersion={most}"), 1800..=3600),
            ("timeoutSeconds=0".to_owned(), 1800..=3600),
            ("timeoutSeconds=-1".to_owned(), 0..=0),
            (format!("timeoutSeconds={least}"), 0..=0),
        ] {
            let started = world.env.instant();
            let mut watch = world.watch(&format!("{MAPS}?watch=what&{query}")).await;
            assert_eq!(watch.told().await, "END", "{query}");
            let lasted_s = (world.env.instant() - started).as_secs();
            assert!(lasts_s.contains(&lasted_s), "{query}: {lasted_s} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bookmark_follows_what_was_told() {
        let world = World::new().await;
        let mut watch = world.watch(&format!("{MAPS}?watch=true&allowWatchBookmarks=true")).await;
        let made = world.create(MAPS, config_map("a", "1")).await;
        let at: i64 = text(&made["metadata"]["resourceVersion"]).parse().unwrap();
        assert_eq!(watch.told().await, format!("ADDED a {at}"));
        world.create(PODS, pod("elsewhere")).await;
        let mut last = at;
        for _ in 0..4 {
            let mark = watch.next().await.unwrap();
            let told: i64 = text(&mark["object"]["metadata"]["resourceVersion"]).parse().unwrap();
            assert!(told >= last, "a bookmark never goes back");
            last = told;
        }
        assert_eq!(last, at + 1, "progress elsewhere is told in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_revision_is_an_error_in_the_stream() {
        let world = World::new().await;
        for name in ["a", "b", "c"] {
            world.create(MAPS, config_map(name, "1")).await;
        }
        let now = revision(&world).await.parse().unwrap();
        world.server.store.compact(now).await.unwrap();
        let mut watch = world.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
        let error = watch.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!(error["object"]["code"], 410);
        assert_eq!(error["object"]["reason"], "Expired");
        assert!(text(&error["object"]["message"]).starts_with("too old resource version: 1 ("));
        assert_eq!(watch.next().await, None);
    }

    /// List at a revision, then watch from it: the union is the state, whatever happens meanwhile.
    #[tokio::test(start_paused = true)]
    async fn list_and_watch_leave_no_gap() {
        let world = World::new().await;
        for at in 0..5 {
            world.create(MAPS, config_map(&format!("m{at}"), "0")).await;
        }
        let list = world.get(MAPS).await;
        for at in 0..40 {
            let path = format!("{MAPS}/m{}", at % 7);
            if at % 5 == 0 {
                world.call(Method::DELETE, &path, &Value::Null).await;
            } else {
                let map = config_map(&format!("m{}", at % 7), &at.to_string());
                if world.call(Method::PUT, &path, &map).await.0 == 404 {
                    world.create(MAPS, map).await;
                }
            }
        }
        let from = text(&list["metadata"]["resourceVersion"]);
        let mut watch = world.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
        let mut state: BTreeMap<String, Value> = BTreeMap::new();
        for item in list["items"].as_array().unwrap() {
            state.insert(text(&item["metadata"]["name"]).to_owned(), item.clone());
        }
        let now = world.get(MAPS).await;
        let until: i64 = text(&now["metadata"]["resourceVersion"]).parse().unwrap();
        let mut last: i64 = from.parse().unwrap();
        while last < until {
            let event = watch.next().await.unwrap();
            let object = event["object"].clone();
            let told: i64 = text(&object["metadata"]["resourceVersion"]).parse().unwrap();
            assert_eq!(told, last + 1, "no revision is skipped or told twice");
            last = told;
            let name = text(&object["metadata"]["name"]).to_owned();
            let was = match text(&event["type"]) {
                "DELETED" => state.remove(&name).is_some(),
                kind => state.insert(name, object).is_some() == (kind == "MODIFIED"),
            };
            assert!(was, "the type fits what was known: {event}");
        }
        let items: Vec<_> = state.into_values().collect();
        assert_eq!(Value::Array(items), now["items"]);
    }

    #[tokio::test(start_paused = true)]
    async fn sabotage_loses_every_tenth_event() {
        for (sabotages, expected) in [(&[][..], 80), (&[Sabotage::LostWatchEvent][..], 78)] {
            let world = World::with(sabotages, Config::default()).await;
            let query = "watch=true&timeoutSeconds=5";
            let mut watch = world.watch(&format!("{MAPS}?{query}")).await;
            for at in 0..80 {
                world.create(MAPS, config_map(&format!("m{at}"), "1")).await;
            }
            let mut told = 0;
            while watch.next().await.is_some() {
                told += 1;
            }
            assert_eq!(told, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_alone_can_be_followed_and_a_shutdown_ends_it() {
        let world = World::new().await;
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let mut watch =
            world.watch_with(&format!("{MAPS}?watch=true"), &[("accept", accept)]).await;
        world.create(MAPS, config_map("a", "1")).await;
        let event = watch.next().await.unwrap();
        assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(event["object"].get("data"), None);
        world.server.shut_down();
        assert_eq!(watch.next().await, None);
    }
}
