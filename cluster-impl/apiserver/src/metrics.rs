//! Counts of requests, as `/metrics` tells them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::request::{Request, Verb};

type Key = (&'static str, &'static str, String, u16);

/// Requests by verb, kind, subresource and code.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Key, u64>>,
    /// Audit events, and those of them that could not be written.
    audited: AtomicU64,
    audit_errors: AtomicU64,
}

impl Metrics {
    /// Counts one event of the audit.
    pub(crate) fn audited(&self, is_written: bool) {
        self.audited.fetch_add(1, Ordering::Relaxed);
        if !is_written {
            self.audit_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one request.
    pub(crate) fn count(&self, request: &Request, code: u16) {
        let verb = match request.verb {
            Verb::Create => "POST",
            Verb::Update => "PUT",
            Verb::DeleteCollection => "DELETECOLLECTION",
            Verb::Get => "GET",
            Verb::List => "LIST",
            Verb::Watch => "WATCH",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        };
        let key = (verb, request.kind.id, request.subresource.clone(), code);
        *self.lock().entry(key).or_default() += 1;
    }

    /// The text form that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, \
             resource and code.\n# TYPE apiserver_request_total counter\n",
        );
        for ((verb, id, subresource, code), count) in self.lock().iter() {
            let (resource, group) = id.split_once('.').unwrap_or((id, ""));
            let _ = writeln!(
                text,
                "apiserver_request_total{{code=\"{code}\",group=\"{group}\",resource=\"{resource}\",\
                 subresource=\"{subresource}\",verb=\"{verb}\"}} {count}"
            );
        }
        let (all, failed) = (&self.audited, &self.audit_errors);
        for (name, labels, what, count) in [
            ("apiserver_audit_event_total", "", "Counter of audit events generated.", all),
            (
                "apiserver_audit_error_total",
                "{plugin=\"log\"}",
                "Counter of audit events that failed to be audited properly.",
                failed,
            ),
        ] {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(
                text,
                "# HELP {name} {what}\n# TYPE {name} counter\n{name}{labels} {count}"
            );
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, u64>> {
        self.requests.lock().expect("no code panics while it holds the counts")
    }
}
