//! What wall clocks say, told by the stamps that components write: `renewTime` of a worker's Lease, and
//! the creation time that an API server would give an object.
//!
//! A stamp is taken when it is seen to change, against the harness's monotonic clock: so its age is
//! known, and clocks of different nodes can be compared. Nobody's wall clock is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::fault::FaultCx;
use shakedown_core::target::Role;
use tokio::time::{Instant, sleep, timeout};

use crate::api;

/// How often stamps are looked at; a stamp may be older than its change by as much.
const LOOK: Duration = Duration::from_millis(100);
/// By how much the difference of two stamps may be wrong.
pub(crate) const ERROR_US: i64 = 400_000;
/// How much longer than a heartbeat a stamp is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// An API server that has not said anything for so long has no clock.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Where kubelets keep their Leases.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// A stamp that was just written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// The wall clock's microseconds, less the harness's at the same moment: comparable between nodes.
    pub(crate) wall_us: i64,
    /// When it was seen.
    pub(crate) seen: Instant,
}

/// The stamps of these nodes and of at least one peer, if one writes any; a node whose stamp did not
/// change in time is missing.
pub(crate) async fn stamps(
    cx: &mut FaultCx<'_>,
    nodes: &[String],
    peers: &[String],
) -> BTreeMap<String, Stamp> {
    let began = Instant::now();
    let until = began + cx.cluster.parameters.heartbeat + PATIENCE;
    let mut first: BTreeMap<String, i64> = BTreeMap::new();
    let mut found: BTreeMap<String, Stamp> = BTreeMap::new();
    let is_enough = |found: &BTreeMap<String, Stamp>| {
        nodes.iter().all(|node| found.contains_key(node))
            && (peers.is_empty() || peers.iter().any(|peer| found.contains_key(peer)))
    };
    while !is_enough(&found) && Instant::now() < until {
        let all = nodes.iter().chain(peers);
        let open: Vec<_> = all.filter(|node| !found.contains_key(*node)).collect();
        for (node, stamp) in look(cx, &open).await {
            let is_other = first.get(&node).is_some_and(|known| *known != stamp);
            first.entry(node.clone()).or_insert(stamp);
            if is_other {
                let elapsed = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX / 2);
                found.insert(node, Stamp { wall_us: stamp - elapsed, seen: Instant::now() });
            }
        }
        sleep(LOOK).await;
    }
    found
}

/// What these nodes' components stamp now.
async fn look(cx: &mut FaultCx<'_>, nodes: &[&String]) -> Vec<(String, i64)> {
    let workers = cx.cluster.names(Role::Worker);
    let mut seen = Vec::new();
    if nodes.iter().any(|node| workers.contains(node)) {
        let leases = api::list(cx.endpoints, LEASES).await.unwrap_or_default();
        for lease in leases {
            let name = lease["metadata"]["name"].as_str().unwrap_or_default();
            let stamp = lease["spec"]["renewTime"].as_str().and_then(micros);
            if let (true, Some(stamp)) = (nodes.iter().any(|node| *node == name), stamp) {
                seen.push((name.to_owned(), stamp));
            }
        }
    }
    for endpoint in cx.endpoints.iter().filter(|endpoint| nodes.contains(&&endpoint.node)) {
        let path = "/api/v1/namespaces/default/configmaps";
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shakedown-clock"}});
        let answer = timeout(ANSWER_WITHIN, api::would_create(endpoint, path, &object)).await;
        let created = answer.ok().and_then(Result::ok).unwrap_or(Value::Null);
        if let Some(stamp) = created["metadata"]["creationTimestamp"].as_str().and_then(micros) {
            seen.push((endpoint.node.clone(), stamp));
        }
    }
    seen
}

/// Microseconds since 1970 of an RFC 3339 time in UTC, as Kubernetes writes it.
fn micros(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fraction: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // Days since 1970, by counting from March, so that leap days come last in a year.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    let days = 365 * years + leaps + (153 * months + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_kubernetes_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2026-01-01T00:00:00Z", 1_767_225_600),
        ] {
            assert_eq!(micros(text), Some(seconds * 1_000_000), "{text}");
        }
        assert_eq!(micros("1970-01-01T00:00:01.25Z"), Some(1_250_000));
        assert_eq!(micros("1970-01-01T00:00:01.000007Z"), Some(1_000_007));
        assert_eq!((micros("yesterday"), micros("1970-01-01"), micros("")), (None, None, None));
    }
}
