//! Leader election by Lease (coordination.k8s.io/v1), with a fence for the leader's writes.
//!
//! As in client-go, a candidate judges a lease by how long *its own* clock has seen it unchanged,
//! never by comparing its clock with the holder's.

use std::fmt;
use std::time::Duration;

use env::{Env, Sabotage};
use machinery::kinds::LEASE;
use machinery::{Object, ObjectKey};
use rand::Rng;
use serde_json::json;
use tokio::time::Instant;

use crate::{ApiClient, ApiError};

/// Where the locks of the control plane live.
const LOCK_NAMESPACE: &str = "kube-system";

/// `--leader-elect-*`, with the documented defaults.
#[derive(Debug, Clone)]
pub struct ElectorConfig {
    /// The Lease's name in kube-system, such as `kube-scheduler`.
    pub lock: String,
    /// Who stands for election: unique to the process, such as `cp-1_<uid>`.
    pub identity: String,
    /// `--leader-elect-lease-duration`
    pub lease_duration: Duration,
    /// `--leader-elect-renew-deadline`
    pub renew_deadline: Duration,
    /// `--leader-elect-retry-period`
    pub retry_period: Duration,
}

impl ElectorConfig {
    /// The documented defaults: 15 s, 10 s, 2 s.
    pub fn new(lock: &str, identity: &str) -> Self {
        Self {
            lock: lock.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What a leader shows with every write: the API server refuses it (409, reason `Conflict`) once the
/// lease has changed hands, in the same transaction that would have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The Lease's name in kube-system.
    pub lock: String,
    /// The holder.
    pub identity: String,
    /// The Lease's `leaseTransitions` when it was acquired.
    pub transitions: i64,
}

impl Fence {
    /// The request header that carries it, as `<lock>/<identity>/<transitions>`.
    pub const HEADER: &'static str = "x-shakedown-fence";
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.lock, self.identity, self.transitions)
    }
}

/// Stands for election and keeps what it won.
pub struct Elector {
    client: ApiClient,
    env: Env,
    config: ElectorConfig,
    /// The lease as last seen, and since when it has looked so.
    seen: Option<(Object, Instant)>,
}

impl Elector {
    /// A candidate.
    pub fn new(client: ApiClient, env: Env, config: ElectorConfig) -> Self {
        Self { client, env, config, seen: None }
    }

    /// Waits until the lease is won; answers the fence that it gives.
    pub async fn acquire(&mut self) -> Fence {
        let mut jitter = self.env.entropy(&format!("elector/{}", self.config.lock));
        loop {
            match self.attempt().await {
                Ok(Some(fence)) => return fence,
                Ok(None) => {}
                Err(error) => tracing::debug!(lock = self.config.lock, %error, "not elected"),
            }
            // client-go's JitterFactor is 1.2: candidates must not try in step for ever.
            let wait = self.config.retry_period.mul_f64(1.0 + 1.2 * jitter.random::<f64>());
            self.env.sleep(wait).await;
        }
    }

    /// Renews until the lease is lost or could not be renewed within the deadline; then returns,
    /// and the process must end at once, as upstream's does.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            self.env.sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            // A process that stood still for too long finds here that its time is over.
            if Instant::now() >= deadline && !self.env.sabotaged(Sabotage::LeaderStaysOn) {
                tracing::warn!(lock = self.config.lock, "lease not renewed in time");
                return;
            }
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(Some(_))) => renewed = asked,
                Ok(Ok(None)) if !self.env.sabotaged(Sabotage::LeaderStaysOn) => {
                    tracing::warn!(lock = self.config.lock, "lease lost to another holder");
                    return;
                }
                Ok(Err(error)) => tracing::debug!(lock = self.config.lock, %error, "not renewed"),
                Err(_) if !self.env.sabotaged(Sabotage::LeaderStaysOn) => {
                    tracing::warn!(lock = self.config.lock, "lease not renewed in time");
                    return;
                }
                Ok(Ok(None)) | Err(_) => {}
            }
        }
    }

    /// Takes or renews the lease if that is allowed; `None` while somebody else holds it.
    async fn attempt(&mut self) -> Result<Option<Fence>, ApiError> {
        let key = ObjectKey::new(LOCK_NAMESPACE, self.config.lock.as_str());
        let current = match self.client.get(&LEASE, &key).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => {
                let lease = self.lease(None);
                let lease = self.client.create(&LEASE, &lease).await?;
                return Ok(Some(self.won(lease)));
            }
            Err(error) => return Err(error),
        };
        let unchanged_since = self.observe(&current);
        let holder = current.text("/spec/holderIdentity");
        let is_mine = holder == self.config.identity;
        let duration_s = current.integer("/spec/leaseDurationSeconds").unwrap_or_default();
        let mut valid = Duration::from_secs(u64::try_from(duration_s).unwrap_or_default());
        if self.env.sabotaged(Sabotage::LeaseTakenEarly) {
            valid /= 6;
        }
        if !is_mine && !holder.is_empty() && unchanged_since.elapsed() < valid {
            return Ok(None);
        }
        let lease = self.lease(Some(&current));
        match self.client.update(&LEASE, &lease).await {
            Ok(lease) => Ok(Some(self.won(lease))),
            // Somebody else was faster: the next look will tell.
            Err(error) if error.is_conflict() && !is_mine => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes the lease as it is now; answers since when it has looked so.
    fn observe(&mut self, lease: &Object) -> Instant {
        match &self.seen {
            Some((seen, since)) if seen.get("/spec") == lease.get("/spec") => *since,
            _ => {
                let now = Instant::now();
                self.seen = Some((lease.clone(), now));
                now
            }
        }
    }

    fn won(&mut self, lease: Object) -> Fence {
        self.observe(&lease);
        Fence {
            lock: self.config.lock.clone(),
            identity: self.config.identity.clone(),
            transitions: lease.integer("/spec/leaseTransitions").unwrap_or_default(),
        }
    }

    /// The lease as this candidate would write it.
    fn lease(&self, current: Option<&Object>) -> Object {
        let now = micro_time(self.env.now());
        let mut lease = current.cloned().unwrap_or_else(|| {
            Object::new("coordination.k8s.io/v1", "Lease", LOCK_NAMESPACE, &self.config.lock)
        });
        let holder = lease.text("/spec/holderIdentity");
        let mut transitions = lease.integer("/spec/leaseTransitions").unwrap_or_default();
        let mut acquired = lease.get("/spec/acquireTime").cloned().unwrap_or_default();
        if holder != self.config.identity {
            transitions += i64::from(current.is_some());
            acquired = now.as_str().into();
        }
        lease.set(
            "/spec",
            json!({
                "holderIdentity": self.config.identity,
                "leaseDurationSeconds": self.config.lease_duration.as_secs(),
                "acquireTime": acquired,
                "renewTime": now,
                "leaseTransitions": transitions,
            }),
        );
        lease
    }
}

/// RFC 3339 with six decimals, as `MicroTime` is written.
fn micro_time(at: env::Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use env::{SimMachine, Timestamp};
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt, Full};
    use machinery::Status;
    use serde_json::Value;

    use super::*;

    /// An API server that holds one Lease and refuses stale updates.
    fn server(lease: Arc<Mutex<Option<Value>>>) -> ApiClient {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let lease = lease.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a request has a body").to_bytes();
                let mut held = lease.lock().unwrap();
                let (code, answer) = if parts.method == Method::GET {
                    match &*held {
                        Some(lease) => (200, lease.clone()),
                        None => (404, Status::not_found("", "leases", "lock").to_value()),
                    }
                } else {
                    let mut wanted: Value = serde_json::from_slice(&body).unwrap();
                    let current = held.as_ref().map_or(0, |lease| Object(lease.clone()).revision());
                    let named = Object(wanted.clone()).revision();
                    if named == current {
                        wanted["metadata"]["resourceVersion"] = (current + 1).to_string().into();
                        *held = Some(wanted.clone());
                        (200, wanted)
                    } else {
                        (409, Status::conflict("", "leases", "lock", "stale").to_value())
                    }
                };
                let body = Full::new(bytes::Bytes::from(answer.to_string()));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(body).unwrap(),
                )
            }
        });
        ApiClient::new(vec![kube::Client::new(service, "default")])
    }

    fn candidate(name: &str, lease: &Arc<Mutex<Option<Value>>>) -> Elector {
        let env = Env::new(Arc::new(SimMachine::new(1, name, Timestamp::UNIX_EPOCH)), None);
        Elector::new(server(lease.clone()), env, ElectorConfig::new("lock", name))
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_candidate_waits_until_it_has_seen_the_lease_unchanged_for_its_duration() {
        let lease = Arc::new(Mutex::new(None));
        let first = candidate("a", &lease).acquire().await;
        assert_eq!(first.to_string(), "lock/a/0");
        let began = Instant::now();
        let second = candidate("b", &lease).acquire().await;
        assert_eq!(second.to_string(), "lock/b/1", "each change of hands is counted");
        let waited = began.elapsed().as_secs_f64();
        assert!((15.0..15.0 + 2.0 * 2.2).contains(&waited), "took over after {waited} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_robbed_gives_up_at_its_next_renewal() {
        let lease = Arc::new(Mutex::new(None));
        let mut holder = candidate("a", &lease);
        holder.acquire().await;
        {
            let mut held = lease.lock().unwrap();
            let lease = held.as_mut().expect("was acquired");
            lease["spec"]["holderIdentity"] = "thief".into();
            lease["metadata"]["resourceVersion"] = "100".into();
        }
        let began = Instant::now();
        holder.hold().await;
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_renew_gives_up_at_its_deadline() {
        let lease = Arc::new(Mutex::new(None));
        let mut holder = candidate("a", &lease);
        holder.acquire().await;
        holder.client = ApiClient::new(vec![kube::Client::new(
            tower::service_fn(|_: Request<kube::client::Body>| {
                std::future::pending::<Result<Response<Full<bytes::Bytes>>, std::io::Error>>()
            }),
            "default",
        )]);
        let began = Instant::now();
        holder.hold().await;
        let waited = began.elapsed().as_secs_f64();
        assert!((9.9..10.1).contains(&waited), "gave up after {waited} s");
    }
}
