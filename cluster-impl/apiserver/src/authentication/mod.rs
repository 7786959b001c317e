//! Authentication: who asks. A client certificate comes first, then a bearer token: of the static file,
//! of a service account, of a bootstrap Secret.
//!
//! Invariants: who shows something that does not hold is answered 401 and never taken for somebody
//! anonymous; and what a token depends on (its account, its pod, its Secret) is read from the store at
//! every request, so a token ends with it at once. A store that does not answer is 503, not 401.

pub(crate) mod bootstrap_token;
pub(crate) mod service_account;
mod static_token;
pub(crate) mod x509;

use std::sync::Arc;

use http::{HeaderMap, header};
use machinery::{Kind, Object, ObjectKey, Status};
use storage::{KeyRange, Op, OpResult, Txn};

pub use service_account::ServiceAccounts;
pub use static_token::StaticTokens;
pub use x509::Tls;

use crate::config::User;
use crate::server::ApiServer;
use crate::{status, storage_key};

/// What somebody showed at the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Somebody vouches for this user.
    User(User),
    /// Nothing.
    Nothing,
    /// A certificate that does not hold.
    BadCertificate,
}

impl From<User> for Shown {
    fn from(user: User) -> Self {
        if user.is_anonymous() { Self::Nothing } else { Self::User(user) }
    }
}

/// Whom a token stands for, and for which of the wanted audiences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

/// Why a token was not taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// It is nobody's.
    Unknown,
    /// It is somebody's, but does not hold.
    Wrong(String),
    /// It is not known whether it holds.
    Failed(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// A refusal with its reason.
pub(crate) fn wrong<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Wrong(why.into()))
}

/// Who asks; 401 if what was shown does not hold.
pub(crate) async fn asker(
    server: &ApiServer,
    shown: Shown,
    headers: &HeaderMap,
) -> Result<User, Status> {
    let nothing = match shown {
        Shown::User(user) => return Ok(user),
        Shown::Nothing => Ok(User::anonymous()),
        Shown::BadCertificate => Err(status::unauthorized()),
    };
    let Some(token) = bearer(headers) else { return nothing };
    match by_token(server, token, &[]).await {
        Ok(identity) => Ok(identity.user),
        Err(Refusal::Failed(status)) => Err(status),
        Err(refusal) => {
            tracing::debug!(?refusal, "a token was refused");
            Err(status::unauthorized())
        }
    }
}

/// The token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    // A header that is not text holds no token that could be known; it must not pass for nothing.
    let text = headers.get(header::AUTHORIZATION)?.to_str().unwrap_or("bearer ?").trim();
    let (scheme, token) = text.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

/// Whom a token stands for, for one of these audiences; for those of the server itself if there are none.
pub(crate) async fn by_token(
    server: &ApiServer,
    token: &str,
    audiences: &[String],
) -> Result<Identity, Refusal> {
    let config = &server.config;
    let own = config.service_accounts.as_ref().map(|accounts| accounts.api_audiences.as_slice());
    let wanted = if audiences.is_empty() { own.unwrap_or_default() } else { audiences };
    // Tokens that name no audience are meant for this server.
    let agnostic = |user: User| {
        let both = wanted.iter().filter(|one| own.is_some_and(|own| own.contains(one)));
        let both: Vec<String> = both.cloned().collect();
        if !audiences.is_empty() && both.is_empty() {
            return wrong("the token is not meant for any of the wanted audiences");
        }
        Ok(Identity { user, audiences: both })
    };
    if let Some(user) = config.static_tokens.find(token) {
        return agnostic(user);
    }
    if let Some(accounts) = &config.service_accounts {
        match service_account::check(server, accounts, token, wanted).await {
            Err(Refusal::Unknown) => {}
            answer => return answer,
        }
    }
    if config.bootstrap_tokens {
        match bootstrap_token::check(server, token).await {
            Err(Refusal::Unknown) => {}
            answer => return answer.and_then(agnostic),
        }
    }
    Err(Refusal::Unknown)
}

/// What the store holds at these keys at this moment, all at one revision.
pub(crate) async fn read(
    server: &ApiServer,
    keys: &[(&'static Kind, ObjectKey)],
) -> Result<Vec<Option<Arc<Object>>>, Status> {
    let get =
        |(kind, key): &(&Kind, ObjectKey)| Op::Get(KeyRange::key(storage_key::key(kind, key)));
    let asked = Txn { success: keys.iter().map(get).collect(), ..Txn::default() };
    let answer = server.store.txn(asked).await.map_err(status::from_store)?;
    answer
        .results
        .into_iter()
        .map(|result| match result {
            OpResult::Got(mut kvs) => kvs.pop().map(|kv| server.decoded.object(&kv)).transpose(),
            OpResult::Put | OpResult::Deleted(_) => Ok(None),
        })
        .collect()
}

/// Whether two secrets are the same; takes as long whichever part differs.
pub(crate) fn is_same_secret(one: &[u8], other: &[u8]) -> bool {
    use sha2::{Digest, Sha256};
    Sha256::digest(one) == Sha256::digest(other)
}

#[cfg(test)]
mod tests;
