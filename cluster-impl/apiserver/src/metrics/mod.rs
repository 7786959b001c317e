//! What the server counts, as `/metrics` tells it: under the names, labels and buckets of Kubernetes 1.33.
//!
//! Limits: what is passed on to aggregated servers is not counted, nor are sessions after their upgrade;
//! `apiserver_current_inflight_requests` is what is worked on at the moment, not the most of the last
//! second. The figures of the process itself come from whoever runs it.

mod gathered;
mod requests;
mod storage;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicI64;

use machinery::exposition::Family;
use machinery::exposition::Shape::{Counter, Gauge, Histogram};
use tokio::time::Instant;

use crate::config::User;

pub(crate) use gathered::text;
pub(crate) use requests::Counted;
pub(crate) use storage::Measured;

const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
const RESPONSE_BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_BYTES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
const ADMISSION_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Powers of two from one millisecond on.
const DECISION_SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];

macro_rules! families {
    ($($field:ident: $name:literal, $shape:expr, [$($label:literal),*], $help:literal;)+) => {
        /// The families that grow with what is done, in order of name.
        pub(crate) struct Metrics {
            $(pub(crate) $field: Family,)+
            reads: AtomicI64,
            writes: AtomicI64,
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self {
                    $($field: Family::new($name, $shape, &[$($label),*], $help),)+
                    reads: AtomicI64::default(),
                    writes: AtomicI64::default(),
                }
            }
        }

        impl Metrics {
            fn families(&self) -> Vec<&Family> {
                vec![$(&self.$field),+]
            }
        }
    };
}

families! {
    admission_seconds: "apiserver_admission_controller_admission_duration_seconds",
        Histogram(ADMISSION_SECONDS), ["name", "operation", "rejected", "type"],
        "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).";
    admission_step_seconds: "apiserver_admission_step_admission_duration_seconds",
        Histogram(ADMISSION_SECONDS), ["operation", "rejected", "type"],
        "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).";
    webhook_seconds: "apiserver_admission_webhook_admission_duration_seconds",
        Histogram(WEBHOOK_SECONDS), ["name", "operation", "rejected", "type"],
        "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).";
    webhook_fail_open: "apiserver_admission_webhook_fail_open_count", Counter, ["name", "type"],
        "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or mutating).";
    webhook_rejections: "apiserver_admission_webhook_rejection_count", Counter,
        ["error_type", "name", "operation", "rejection_code", "type"],
        "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.";
    audit_errors: "apiserver_audit_error_total", Counter, ["plugin"],
        "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.";
    audit_events: "apiserver_audit_event_total", Counter, [],
        "[ALPHA] Counter of audit events generated and sent to the audit backend.";
    audit_levels: "apiserver_audit_level_total", Counter, ["level"],
        "[ALPHA] Counter of policy levels for audit events (1 per request).";
    longrunning: "apiserver_longrunning_requests", Gauge,
        ["component", "group", "resource", "scope", "subresource", "verb", "version"],
        "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
    request_seconds: "apiserver_request_duration_seconds", Histogram(REQUEST_SECONDS),
        ["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
        "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.";
    requests: "apiserver_request_total", Counter,
        ["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
        "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.";
    response_bytes: "apiserver_response_sizes", Histogram(RESPONSE_BYTES),
        ["component", "group", "resource", "scope", "subresource", "verb", "version"],
        "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.";
    watch_cache_dispatched: "apiserver_watch_cache_events_dispatched_total", Counter, ["resource"],
        "[ALPHA] Counter of events dispatched in watch cache broken by resource type.";
    watch_cache_received: "apiserver_watch_cache_events_received_total", Counter, ["resource"],
        "[ALPHA] Counter of events received in watch cache broken by resource type.";
    watch_cache_initializations: "apiserver_watch_cache_initializations_total", Counter, ["resource"],
        "[ALPHA] Counter of watch cache initializations broken by resource type.";
    watch_event_bytes: "apiserver_watch_events_sizes", Histogram(EVENT_BYTES), ["group", "kind", "version"],
        "[ALPHA] Watch event size distribution in bytes";
    watch_events: "apiserver_watch_events_total", Counter, ["group", "kind", "version"],
        "[ALPHA] Number of events sent in watch clients";
    authenticated_users: "authenticated_user_requests", Counter, ["username"],
        "[ALPHA] Counter of authenticated requests broken out by username.";
    authentication_attempts: "authentication_attempts", Counter, ["result"],
        "[ALPHA] Counter of authenticated attempts.";
    authentication_seconds: "authentication_duration_seconds", Histogram(DECISION_SECONDS), ["result"],
        "[ALPHA] Authentication duration in seconds broken out by result.";
    authorization_attempts: "authorization_attempts_total", Counter, ["result"],
        "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.";
    authorization_seconds: "authorization_duration_seconds", Histogram(DECISION_SECONDS), ["result"],
        "[ALPHA] Authorization duration in seconds broken out by result.";
    store_seconds: "etcd_request_duration_seconds", Histogram(REQUEST_SECONDS), ["operation", "type"],
        "[ALPHA] Etcd request latency in seconds for each operation and object type.";
    store_errors: "etcd_request_errors_total", Counter, ["operation", "type"],
        "[ALPHA] Etcd failed request counts for each operation and object type.";
    store_requests: "etcd_requests_total", Counter, ["operation", "type"],
        "[ALPHA] Etcd request counts for each operation and object type.";
    health: "kubernetes_healthcheck", Gauge, ["name", "type"],
        "[STABLE] This metric records the result of a single healthcheck.";
    health_checks: "kubernetes_healthchecks_total", Counter, ["name", "status", "type"],
        "[STABLE] This metric records the results of all healthcheck.";
}

impl Metrics {
    /// Counts one event of the audit.
    pub(crate) fn audited(&self, is_written: bool) {
        self.audit_events.add(&[], 1.0);
        self.audit_errors.add(&["log"], if is_written { 0.0 } else { 1.0 });
    }

    /// Counts one look at what somebody showed; nobody if it did not hold.
    pub(crate) fn authenticated(&self, user: Result<&User, u16>, began: Instant) {
        let result = match user {
            Ok(user) => {
                self.authenticated_users.add(&[public_name(&user.name)], 1.0);
                "success"
            }
            Err(401) => "failure",
            Err(_) => "error",
        };
        self.authentication_attempts.add(&[result], 1.0);
        self.authentication_seconds.observe(&[result], began.elapsed().as_secs_f64());
    }

    /// Counts one decision on what somebody may do.
    pub(crate) fn authorized(&self, is_allowed: Option<bool>, began: Instant) {
        let result = match is_allowed {
            Some(true) => "allowed",
            // No authorizer here says more than that it does not allow something.
            Some(false) => "no-opinion",
            None => "error",
        };
        self.authorization_attempts.add(&[result], 1.0);
        self.authorization_seconds.observe(&[result], began.elapsed().as_secs_f64());
    }

    /// Counts what one plugin of admission did, or all of them if it has no name.
    pub(crate) fn admitted(
        &self,
        (name, step, operation): (&str, &str, &str),
        is_refused: bool,
        began: Instant,
    ) {
        let (refused, took) =
            (if is_refused { "true" } else { "false" }, began.elapsed().as_secs_f64());
        match name {
            "" => self.admission_step_seconds.observe(&[operation, refused, step], took),
            name => self.admission_seconds.observe(&[name, operation, refused, step], took),
        }
    }

    fn pool(&self, is_write: bool) -> &AtomicI64 {
        if is_write { &self.writes } else { &self.reads }
    }
}

/// The few names that may stand in a label: there must not be as many series as there are users.
fn public_name(name: &str) -> &str {
    match name {
        "admin"
        | "client"
        | "kube_proxy"
        | "kubelet"
        | "system:serviceaccount:kube-system:default" => name,
        name if name.contains('@') => "email_id",
        _ => "other",
    }
}
