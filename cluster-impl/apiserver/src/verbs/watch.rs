//! watch: every change of a collection, in order, from a revision on.
//!
//! The stream has no task behind it: whoever reads the answer polls the store's own watch. An idle
//! watch keeps one timer, for its bookmarks or its end. A selector projects changes: what enters the
//! selection is ADDED, what leaves it DELETED.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::Sabotage;
use futures::StreamExt;
use machinery::{Status, table};
use rand::Rng;
use serde_json::{Value, json};
use storage::{KeyValue, StoreError, WatchBatch, WatchEvent, WatchStream};
use tokio::time::{Instant, Sleep};

use crate::accept::Form;
use crate::answer::{Answer, Content, Style, write_object};
use crate::codec::{Stored, write_json};
use crate::query::Query;
use crate::request::Request;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::status;
use crate::verbs::list;

/// One in so many events is dropped by [`Sabotage::LostWatchEvent`].
const LOST_EVERY: u64 = 10;

/// Follows a collection.
pub(crate) async fn watch(server: &Arc<ApiServer>, request: &Request) -> Result<Answer, Status> {
    let selection = Selection::read(request.kind, &request.key, &request.query)?;
    let start = Start::read(&request.query)?;
    let has_bookmarks = request.query.flag("allowWatchBookmarks")?;
    let deadline = server.env.instant() + duration(server, &request.query)?;
    let mut feed = Feed {
        server: server.clone(),
        selection,
        style: style(server, request)?,
        request_kind: request.kind,
        events: futures::stream::pending().boxed(),
        closing: server.closing.subscribe(),
        bookmark_period: has_bookmarks.then_some(server.config.bookmark_period),
        deadline,
        wake: Box::pin(tokio::time::sleep_until(deadline)),
        revision: 0,
        told: 0,
        has_columns: true,
        first: Vec::new(),
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
        match query.optional_flag("sendInitialEvents")? {
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

fn style(server: &ApiServer, request: &Request) -> Result<Style, Status> {
    let text = request.query.text("includeObject");
    let include = match text {
        "" => table::Include::default(),
        text => text
            .parse()
            .map_err(|_| Status::bad_request(format!("unknown includeObject \"{text}\"")))?,
    };
    Ok(Style { accept: request.accept, include, now: server.env.now() })
}

fn duration(server: &ApiServer, query: &Query) -> Result<Duration, Status> {
    match query.integer("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.unsigned_abs())),
        // Spread, so that the watches of one moment do not all end at one moment.
        _ => {
            let spread = server.env.entropy("watch-timeout").random_range(1.0..2.0);
            Ok(server.config.min_request_timeout.mul_f64(spread))
        }
    }
}

/// One open watch.
struct Feed {
    server: Arc<ApiServer>,
    selection: Selection,
    style: Style,
    request_kind: &'static machinery::Kind,
    events: WatchStream,
    closing: tokio::sync::watch::Receiver<bool>,
    bookmark_period: Option<Duration>,
    deadline: Instant,
    wake: Pin<Box<Sleep>>,
    /// Everything up to this revision was told.
    revision: i64,
    /// How many events were told.
    told: u64,
    /// Whether the next table must say its columns.
    has_columns: bool,
    /// What is to be told before anything else.
    first: Vec<u8>,
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
                self.first = out;
            }
            Start::After(revision) => self.revision = revision,
            Start::Now => {
                let status = self.server.store.status().await.map_err(status::from_store)?;
                self.revision = status.revision;
            }
        }
        match self.server.store.watch(self.selection.range(), self.revision + 1).await {
            Ok(events) => self.events = events,
            Err(StoreError::Compacted { asked, oldest }) => self.expire(asked - 1, oldest),
            Err(error) => return Err(status::from_store(error)),
        }
        Ok(())
    }

    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.first.is_empty() {
                return Some(std::mem::take(&mut self.first).into());
            }
            if self.is_over || *self.closing.borrow() {
                return None;
            }
            tokio::select! {
                biased;
                batch = self.events.next() => match batch {
                    Some(Ok(batch)) => self.first = self.told_of(&batch),
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
                    let mut out = Vec::new();
                    self.bookmark(&mut out, false);
                    self.first = out;
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

    fn told_of(&mut self, batch: &WatchBatch) -> Vec<u8> {
        let mut out = Vec::new();
        for event in &batch.events {
            let told = self.project(event).and_then(|told| match told {
                Some((name, stored)) => self.tell(&mut out, name, &stored),
                None => Ok(()),
            });
            if let Err(status) = told {
                self.is_over = true;
                write_event(&mut out, "ERROR", |out| write_json(out, &status.to_value()));
                return out;
            }
        }
        self.revision = self.revision.max(batch.revision);
        out
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
            // As upstream: the state before, at the revision that took it away.
            (true, false) => Some(("DELETED", before()?)),
        })
    }

    fn selects(&self, kv: &KeyValue) -> Result<bool, Status> {
        Ok(self.selection.matches(self.server.decoded.object(kv)?.as_ref()))
    }

    fn tell(&mut self, out: &mut Vec<u8>, name: &str, stored: &Stored) -> Result<(), Status> {
        self.told += 1;
        if self.told.is_multiple_of(LOST_EVERY) && self.server.env.sabotaged(Sabotage::LostWatchEvent)
        {
            return Ok(());
        }
        self.style.now = self.server.env.now();
        let mut object = Vec::with_capacity(stored.value.len() + 64);
        write_object(&mut object, self.request_kind, stored, self.style)?;
        if matches!(self.style.accept.form, Form::Table(_)) && !self.has_columns {
            drop_columns(&mut object)?;
        }
        self.has_columns = false;
        write_event(out, name, |out| out.extend_from_slice(&object));
        Ok(())
    }

    fn bookmark(&self, out: &mut Vec<u8>, ends_initial: bool) {
        let mut object = match self.style.accept.form {
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"})
            }
            Form::Object | Form::Table(_) => json!({
                "kind": self.request_kind.kind, "apiVersion": self.request_kind.api_version(),
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
        write_event(out, "BOOKMARK", |out| write_json(out, &object));
    }

    /// Ends the watch: what it should go on from is gone.
    fn expire(&mut self, asked: i64, oldest: i64) {
        let status = Status::expired(format!("too old resource version: {asked} ({oldest})"));
        let mut out = Vec::new();
        write_event(&mut out, "ERROR", |out| write_json(out, &status.to_value()));
        self.first = out;
        self.is_over = true;
    }
}

fn drop_columns(table: &mut Vec<u8>) -> Result<(), Status> {
    let mut value: Value = serde_json::from_slice(table).map_err(Status::internal)?;
    value["columnDefinitions"] = Value::Null;
    table.clear();
    write_json(table, &value);
    Ok(())
}

fn write_event(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    write(out);
    out.extend_from_slice(b"}\n");
}
