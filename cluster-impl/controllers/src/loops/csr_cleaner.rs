//! Deletes CertificateSigningRequests that nobody needs any more: an hour after they were answered, a day
//! after they were asked for, and when their certificate has expired.

use std::time::Duration;

use apiclient::Informed;
use env::Timestamp;
use machinery::kinds::CERTIFICATE_SIGNING_REQUEST;
use machinery::{Kind, Object, View};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::pem::parse_x509_pem;

use super::csr_signing::there_is;
use crate::{Config, Controller, DecideCx, Decision, Key, Write};

/// How long an answer is kept.
const ANSWERED: Duration = Duration::from_secs(3600);
/// How long a request waits for an answer.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// The controller. It remembers nothing.
pub struct CsrCleaner;

impl CsrCleaner {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for CsrCleaner {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        vec![&CERTIFICATE_SIGNING_REQUEST]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        there_is(change).into_iter().collect()
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(csr) = view.get(&CERTIFICATE_SIGNING_REQUEST, &key.object) else {
            return Decision::settled();
        };
        let Some(end) = end(csr) else { return Decision::settled() };
        let mut decision = Decision::settled();
        match Duration::try_from(end.duration_since(cx.now)) {
            Ok(left) if !left.is_zero() => decision.again(left),
            _ if csr.is_terminating() => {}
            _ => decision.writes.push(Write::Delete {
                kind: &CERTIFICATE_SIGNING_REQUEST,
                object: csr.clone(),
                grace_s: None,
                propagation: "",
                note: None,
            }),
        }
        decision
    }
}

/// When a request has been there for long enough.
fn end(csr: &Object) -> Option<Timestamp> {
    let is_issued = !csr.text("/status/certificate").is_empty();
    let answers = csr.list("/status/conditions").iter().filter(|one| {
        let kind = one["type"].as_str().unwrap_or_default();
        // An approval is no answer as long as nobody has signed.
        matches!(kind, "Denied" | "Failed") || kind == "Approved" && is_issued
    });
    let answered = answers
        .filter_map(|one| one["lastUpdateTime"].as_str()?.parse::<Timestamp>().ok())
        .min()
        .map(|at| at + ANSWERED);
    let pending = csr.created().filter(|_| !is_issued).map(|at| at + PENDING);
    [answered, pending, expiry(csr)].into_iter().flatten().min()
}

/// When the certificate that was issued expires.
fn expiry(csr: &Object) -> Option<Timestamp> {
    let pem = STANDARD.decode(csr.text("/status/certificate")).ok()?;
    let (_, block) = parse_x509_pem(&pem).ok()?;
    let at = block.parse_x509().ok()?.validity().not_after.timestamp();
    Timestamp::from_second(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn what_was_answered_goes_after_an_hour_and_what_was_not_after_a_day() {
        let answered = |kind: &str| {
            format!("csr/a /status={{\"conditions\":[{{\"type\":\"{kind}\",\"lastUpdateTime\":\"2024-01-01T00:00:00Z\"}}]}}")
        };
        for (world, end) in [
            (answered("Denied"), 3600),
            (answered("Failed"), 3600),
            (answered("Approved"), 24 * 3600),
            ("csr/a /status={}".to_owned(), 24 * 3600),
        ] {
            let mut world = World::new(|config| Box::new(CsrCleaner::new(config)), &world);
            assert_eq!(world.run_to(end - 1), "");
            let log = world.run_to(end);
            assert!(log.contains("delete certificatesigningrequests/a"), "{log}");
        }
    }
}
