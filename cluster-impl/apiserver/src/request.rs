//! One request for objects, taken apart, and what is known of it for the audit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use http::{HeaderName, header};
use machinery::managed_fields::Writer;
use machinery::{Kind, ObjectKey};

use crate::User;
use crate::accept::Accept;
use crate::allocation::Taken;
use crate::fence::Fence;
use crate::query::Query;

/// What is asked for, in the words of authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// As metrics and audit write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// Whether it may change something.
    pub(crate) fn is_write(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// One request for objects.
pub(crate) struct Request {
    pub(crate) user: User,
    pub(crate) verb: Verb,
    pub(crate) kind: &'static Kind,
    /// What the path names; the name is empty for a collection.
    pub(crate) key: ObjectKey,
    pub(crate) subresource: String,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
    pub(crate) fence: Option<Fence>,
    /// Who owns what is written.
    pub(crate) manager: String,
    /// Decide everything, write nothing.
    pub(crate) dry_run: AtomicBool,
    pub(crate) trace: Mutex<Trace>,
    /// What Services held when a write of one began.
    pub(crate) taken: OnceLock<Taken>,
}

/// What a write came to, for the audit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// The object, once its name is known.
    pub(crate) key: Option<ObjectKey>,
    /// The last revision that was written; 0 for none.
    pub(crate) revision: i64,
    /// What the client should be warned of.
    pub(crate) warnings: Vec<String>,
    /// What the audit should know besides.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Request {
    /// A write of another object on behalf of this request, by the same user, fence and dry run.
    pub(crate) fn about(&self, kind: &'static Kind, key: &ObjectKey, subresource: &str) -> Self {
        Self {
            user: self.user.clone(),
            verb: Verb::Update,
            kind,
            key: key.clone(),
            subresource: subresource.to_owned(),
            query: self.query.clone(),
            accept: self.accept,
            content_type: self.content_type.clone(),
            body: Bytes::new(),
            fence: self.fence.clone(),
            manager: self.manager.clone(),
            dry_run: AtomicBool::new(self.is_dry_run()),
            trace: Mutex::default(),
            taken: OnceLock::new(),
        }
    }

    /// A request by the server itself.
    pub(crate) fn own(user: User, verb: Verb, kind: &'static Kind, key: ObjectKey) -> Self {
        Self {
            user,
            verb,
            kind,
            key,
            subresource: String::new(),
            query: Query::parse(""),
            accept: Accept::JSON,
            content_type: String::new(),
            body: Bytes::new(),
            fence: None,
            manager: String::new(),
            dry_run: AtomicBool::new(false),
            trace: Mutex::default(),
            taken: OnceLock::new(),
        }
    }

    /// Whether nothing may be written.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.load(Ordering::Relaxed)
    }

    /// Writes nothing from now on.
    pub(crate) fn set_dry_run(&self) {
        self.dry_run.store(true, Ordering::Relaxed);
    }

    /// Who owns what is written at this time.
    pub(crate) fn writer<'r>(&'r self, time: &'r str) -> Writer<'r> {
        Writer { manager: &self.manager, subresource: &self.subresource, time }
    }

    /// Notes which object is written.
    pub(crate) fn trace_key(&self, key: &ObjectKey) {
        self.trace().key = Some(key.clone());
    }

    /// Notes that something was written.
    pub(crate) fn trace_revision(&self, revision: i64) {
        self.trace().revision = revision;
    }

    /// Tells the audit.
    pub(crate) fn annotate(&self, key: String, value: String) {
        self.trace().annotations.insert(key, value);
    }

    /// Warns the client.
    pub(crate) fn warn(&self, warnings: Vec<String>) {
        let mut trace = self.trace();
        for warning in warnings {
            // A write that is tried again is not warned of again.
            if !trace.warnings.contains(&warning) {
                trace.warnings.push(warning);
            }
        }
    }

    /// The warnings as headers (RFC 7234, code 299).
    pub(crate) fn warnings(&self) -> Vec<(HeaderName, String)> {
        let quoted = |text: &String| text.replace('\\', "\\\\").replace('"', "\\\"");
        let header = |text: &String| (header::WARNING, format!("299 - \"{}\"", quoted(text)));
        self.trace().warnings.iter().map(header).collect()
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().expect("no code panics while it holds the trace")
    }
}
