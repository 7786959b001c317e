//! How many requests are worked on at once: `--max-requests-inflight` reads and
//! `--max-mutating-requests-inflight` writes; what is too many is answered 429 and may come again.
//!
//! Each user holds at most a fair share of each: the limit divided by the users at work and one more, so
//! that whoever comes next finds room. Excepted are `system:masters`, the control plane and kubelets, on
//! whom the cluster depends, and what lasts: watches, logs that are followed, and sessions.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use machinery::Status;

use crate::authorization::is_master;
use crate::config::User;
use crate::request::{Request, Verb};
use crate::status;

/// Subresources whose requests last.
const LONG: [&str; 4] = ["attach", "exec", "portforward", "proxy"];
/// Users that are never held up, masters aside.
const EXEMPT_USERS: [&str; 3] =
    ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];
const EXEMPT_GROUP: &str = "system:nodes";

/// The requests that are worked on.
pub(crate) struct Inflight {
    reads: Pool,
    writes: Pool,
}

impl Inflight {
    /// Nothing, and so many at most; 0 for any number.
    pub(crate) fn new(reads_max: usize, writes_max: usize) -> Self {
        Self { reads: Pool::new(reads_max), writes: Pool::new(writes_max) }
    }

    /// Begins a request for objects.
    pub(crate) fn enter(&self, request: &Request) -> Result<Option<Slot<'_>>, Status> {
        let follows = || request.subresource == "log" && request.query.flag("follow");
        let is_long = request.verb == Verb::Watch
            || LONG.contains(&request.subresource.as_str())
            || follows();
        if is_long {
            return Ok(None);
        }
        self.enter_as(&request.user, request.verb.is_write())
    }

    /// Begins a request; it is over when the slot is dropped.
    pub(crate) fn enter_as(&self, user: &User, is_write: bool) -> Result<Option<Slot<'_>>, Status> {
        let pool = if is_write { &self.writes } else { &self.reads };
        if pool.max == 0 || is_exempt(user) {
            return Ok(None);
        }
        pool.enter(user).map(Some)
    }
}

fn is_exempt(user: &User) -> bool {
    EXEMPT_USERS.contains(&user.name.as_str())
        || is_master(user)
        || user.groups.iter().any(|group| group == EXEMPT_GROUP)
}

struct Pool {
    max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    users: BTreeMap<String, usize>,
}

impl Pool {
    fn new(max: usize) -> Self {
        Self { max, held: Mutex::default() }
    }

    fn enter(&self, user: &User) -> Result<Slot<'_>, Status> {
        let mut held = self.lock();
        let own = held.users.get(&user.name).copied().unwrap_or_default();
        let users = held.users.len() + usize::from(own == 0);
        let share = (self.max / (users + 1)).max(1);
        if held.all >= self.max || own >= share {
            let why = "Too many requests, please try again later.";
            return Err(status::retry(Status::new(429, "TooManyRequests", why), 1));
        }
        held.all += 1;
        *held.users.entry(user.name.clone()).or_default() += 1;
        Ok(Slot { pool: self, user: user.name.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while it holds the counts")
    }
}

/// A request that is worked on.
pub(crate) struct Slot<'p> {
    pool: &'p Pool,
    user: String,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut held = self.pool.lock();
        held.all -= 1;
        if let Some(own) = held.users.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                held.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use http::Method;
    use serde_json::Value;

    use super::*;
    use crate::testing::{MAPS, World};
    use crate::{AuthorizationMode, Config};

    #[test]
    fn nobody_takes_what_is_left_for_the_next() {
        let inflight = Inflight::new(8, 1);
        let (jane, joe) = (User::new("jane", &[]), User::new("joe", &[]));
        let enter = |user: &User| inflight.enter_as(user, false).ok().flatten();
        let mut janes: Vec<_> = (0..8).filter_map(|_| enter(&jane)).collect();
        assert_eq!(janes.len(), 4, "half, though nobody else asks");
        let joes: Vec<_> = (0..8).filter_map(|_| enter(&joe)).collect();
        assert_eq!(joes.len(), 2, "a third");
        assert!(enter(&User::new("jim", &[])).is_some(), "there is room for one more");
        assert!(enter(&jane).is_none());
        janes.clear();
        assert!(enter(&jane).is_some());
        drop(joes);
        let write = inflight.enter_as(&jane, true).unwrap();
        let refused = inflight.enter_as(&joe, true).err().unwrap();
        assert_eq!((refused.code, &refused.details["retryAfterSeconds"]), (429, &1.into()));
        drop(write);
        for (name, group) in [
            ("kubernetes-admin", "system:masters"),
            ("system:node:n-1", "system:nodes"),
            ("system:kube-scheduler", "x"),
        ] {
            let user = User::new(name, &[group]);
            assert!((0..20).all(|_| matches!(inflight.enter_as(&user, true), Ok(None))), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_at_once_are_told_to_come_again() {
        let authorization_modes = vec![AuthorizationMode::AlwaysAllow];
        let config = Config { max_requests_inflight: 4, authorization_modes, ..Config::default() };
        let world = World::replicated_with(&[], config).await;
        let (jane, nothing) = (User::new("jane", &[]), Value::Null);
        let asked = || (0..6).map(|_| world.call_as(&jane, Method::GET, MAPS, &nothing));
        let codes = async || {
            let answers = join_all(asked()).await;
            answers.into_iter().map(|(code, _)| code).collect::<Vec<_>>()
        };
        let first = codes().await;
        assert_eq!(first.iter().filter(|code| **code == 200).count(), 2, "{first:?}");
        assert_eq!(first.iter().filter(|code| **code == 429).count(), 4, "{first:?}");
        assert_eq!(world.call_as(&jane, Method::GET, MAPS, &Value::Null).await.0, 200);
        let path = format!("{MAPS}?watch=1");
        let watches = (0..6).map(|_| world.watch(&path));
        assert_eq!(join_all(watches).await.len(), 6, "watches are not counted");
    }
}
