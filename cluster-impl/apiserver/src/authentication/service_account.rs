//! Tokens of service accounts: what they say, and whether it still holds.
//!
//! Two sorts: those of the TokenRequest API, bound to an audience, a time and perhaps an object, and the
//! old ones that a Secret holds, which end with that Secret.
//! Limit: as upstream, clocks may differ by a minute, so a token lives that much longer than it says.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use env::Timestamp;
use machinery::kinds::{NODE, POD, SECRET, SERVICE_ACCOUNT};
use machinery::signing::{SigningKey, Token, VerifyingKey};
use machinery::{Object, ObjectKey};
use serde_json::{Value, json};

use super::bootstrap_token::entry;
use super::{Identity, Refusal, is_same_secret, read, wrong};
use crate::config::User;
use crate::server::ApiServer;

/// Who signed the tokens in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// By so much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(60);
/// The issuer of a simulated cluster, and of one whose flags name none.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Who signs the tokens of service accounts here, and whose are taken.
#[derive(Debug)]
pub struct ServiceAccounts {
    /// `--service-account-signing-key-file`; without it no tokens are made.
    pub signing: Option<SigningKey>,
    /// `--service-account-key-file`: whose signatures are taken.
    pub keys: Vec<VerifyingKey>,
    /// `--service-account-issuer`: the first makes tokens, the tokens of all are taken.
    pub issuers: Vec<String>,
    /// `--api-audiences`: whom tokens must be meant for, to be taken by this server.
    pub api_audiences: Vec<String>,
    /// `--service-account-jwks-uri`
    pub jwks_uri: String,
    /// `--service-account-max-token-expiration`
    pub expiration_max: Option<Duration>,
    /// `--service-account-extend-token-expiration`: whether the tokens that kubelets fetch for pods live
    /// for a year, for clients that never read them again.
    pub is_extended: bool,
}

impl ServiceAccounts {
    /// What an issuer signs is taken by its servers, who are also its audience.
    pub fn new(signing: SigningKey, issuer: &str) -> Self {
        let keys = vec![signing.public().clone()];
        let (issuers, api_audiences) = (vec![issuer.to_owned()], vec![issuer.to_owned()]);
        let jwks_uri = format!("{issuer}/openid/v1/jwks");
        let signing = Some(signing);
        Self {
            signing,
            keys,
            issuers,
            api_audiences,
            jwks_uri,
            expiration_max: None,
            is_extended: true,
        }
    }

    /// For simulations: a key that is always the same.
    pub fn simulated() -> Arc<Self> {
        static ACCOUNTS: LazyLock<Arc<ServiceAccounts>> =
            LazyLock::new(|| Arc::new(ServiceAccounts::new(simulated(), ISSUER)));
        ACCOUNTS.clone()
    }

    /// ... and which controllers have, too.
    pub fn simulated_key() -> Arc<SigningKey> {
        static KEY: LazyLock<Arc<SigningKey>> = LazyLock::new(|| Arc::new(simulated()));
        KEY.clone()
    }

    /// The issuer of new tokens.
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or(ISSUER, String::as_str)
    }

    /// `/.well-known/openid-configuration`
    pub(crate) fn configuration(&self) -> Value {
        let mut algorithms: Vec<_> = self.keys.iter().map(VerifyingKey::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuer(), "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// `/openid/v1/jwks`
    pub(crate) fn key_set(&self) -> Value {
        json!({"keys": self.keys.iter().map(VerifyingKey::to_jwk).collect::<Vec<_>>()})
    }
}

fn simulated() -> SigningKey {
    SigningKey::of_seed("simulated service accounts")
}

/// Whose token it is; [`Refusal::Unknown`] if it is not one of a service account of this cluster.
pub(super) async fn check(
    server: &ApiServer,
    accounts: &ServiceAccounts,
    text: &str,
    audiences: &[String],
) -> Result<Identity, Refusal> {
    let Some(token) = Token::parse(text) else { return Err(Refusal::Unknown) };
    let issuer = token.claims["iss"].as_str().unwrap_or_default();
    let is_legacy = issuer == LEGACY_ISSUER;
    if !is_legacy && !accounts.issuers.iter().any(|known| known == issuer) {
        return Err(Refusal::Unknown);
    }
    if !token.is_signed_by(accounts.keys.iter()) {
        return wrong("service account token has an invalid signature");
    }
    let claims = Object(token.claims);
    if is_legacy {
        let user = legacy(server, &claims, text).await?;
        let both = audiences.iter().filter(|one| accounts.api_audiences.contains(one));
        let audiences: Vec<String> = both.cloned().collect();
        if audiences.is_empty() {
            return wrong("token audiences are invalid for the target audiences");
        }
        return Ok(Identity { user, audiences });
    }
    let own = claims.list("/aud").iter().filter_map(Value::as_str);
    let own: Vec<&str> =
        own.chain(Some(claims.text("/aud")).filter(|one| !one.is_empty())).collect();
    let both = audiences.iter().filter(|one| own.contains(&one.as_str()));
    let audiences: Vec<String> = both.cloned().collect();
    if audiences.is_empty() {
        return wrong(format!("token audiences {own:?} are invalid for the target audiences"));
    }
    check_times(&claims, server.env.now())?;
    let user = bound(server, &claims).await?;
    Ok(Identity { user, audiences })
}

fn check_times(claims: &Object, now: Timestamp) -> Result<(), Refusal> {
    let (now, leeway) = (now.as_second(), LEEWAY.as_secs() as i64);
    let Some(end) = claims.integer("/exp") else {
        return wrong("service account token has no expiry");
    };
    if end.saturating_add(leeway) < now {
        return wrong("service account token has expired");
    }
    for member in ["/nbf", "/iat"] {
        if claims.integer(member).is_some_and(|from| from > now.saturating_add(leeway)) {
            return wrong("service account token is not valid yet");
        }
    }
    Ok(())
}

/// Whether the grace of something that goes is over. It may last until the end of the calendar.
fn is_over(object: &Object, now: Timestamp) -> bool {
    let (now, leeway) = (now.as_second(), LEEWAY.as_secs() as i64);
    object.deletion_timestamp().is_some_and(|end| end.as_second().saturating_add(leeway) < now)
}

/// One thing that a token depends on.
#[derive(Clone, Copy)]
struct Tie<'c> {
    what: &'static str,
    name: &'c str,
    uid: &'c str,
}

impl<'c> Tie<'c> {
    fn read(claims: &'c Object, what: &'static str) -> Option<Self> {
        let part = |member: &str| claims.get(&format!("/kubernetes.io/{what}/{member}"));
        let text = |member: &str| part(member).and_then(Value::as_str).unwrap_or_default();
        claims.map(&format!("/kubernetes.io/{what}"))?;
        Some(Self { what, name: text("name"), uid: text("uid") })
    }

    /// Whether it is still what it was when the token was made.
    fn check(&self, found: Option<&Object>, now: Timestamp) -> Result<(), Refusal> {
        let Self { what, name, uid } = *self;
        let Some(object) = found else {
            return wrong(format!(
                "service account token is bound to {what} {name}, which is gone"
            ));
        };
        if object.uid() != uid {
            return wrong(format!(
                "the {what} {name} has another uid than the service account token is bound to"
            ));
        }
        // What is going may use its token until its grace is over.
        if is_over(object, now) {
            return wrong(format!("the {what} {name} has been deleted"));
        }
        Ok(())
    }
}

/// The user of a token of the TokenRequest API.
async fn bound(server: &ApiServer, claims: &Object) -> Result<User, Refusal> {
    let namespace = claims.text("/kubernetes.io/namespace");
    let Some(account) = Tie::read(claims, "serviceaccount") else {
        return wrong("service account token names no account");
    };
    let pod = Tie::read(claims, "pod");
    let node = Tie::read(claims, "node");
    let mut keys = vec![(&SERVICE_ACCOUNT, ObjectKey::new(namespace, account.name))];
    let mut ties = vec![account];
    for (kind, tie) in [(&POD, pod), (&SECRET, Tie::read(claims, "secret"))] {
        if let Some(tie) = tie {
            keys.push((kind, ObjectKey::new(namespace, tie.name)));
            ties.push(tie);
        }
    }
    // The node of a pod's token is only told; that of a token bound to the node itself must be there.
    if let Some(node) = node.filter(|_| pod.is_none()) {
        keys.push((&NODE, ObjectKey::new("", node.name)));
        ties.push(node);
    }
    let found = read(server, &keys).await?;
    let now = server.env.now();
    for (tie, found) in ties.iter().zip(&found) {
        tie.check(found.as_deref(), now)?;
    }
    let mut user = user(namespace, account.name, account.uid);
    let mut note = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    let id = claims.text("/jti");
    if !id.is_empty() {
        note("credential-id", format!("JTI={id}"));
    }
    for tie in [pod, node].into_iter().flatten() {
        note(&format!("{}-name", tie.what), tie.name.to_owned());
        note(&format!("{}-uid", tie.what), tie.uid.to_owned());
    }
    Ok(user)
}

/// The user of a token that a Secret holds.
async fn legacy(server: &ApiServer, claims: &Object, text: &str) -> Result<User, Refusal> {
    let claim = |name: &str| claims.text(&format!("/kubernetes.io~1serviceaccount~1{name}"));
    let (namespace, name) = (claim("namespace"), claim("service-account.name"));
    let (uid, secret) = (claim("service-account.uid"), claim("secret.name"));
    if [namespace, name, uid, secret].contains(&"") {
        return wrong("service account token has no namespace, secret or account");
    }
    if claims.text("/sub") != format!("system:serviceaccount:{namespace}:{name}") {
        return wrong("service account token has another subject than its account");
    }
    let keys = [
        (&SECRET, ObjectKey::new(namespace, secret)),
        (&SERVICE_ACCOUNT, ObjectKey::new(namespace, name)),
    ];
    let found = read(server, &keys).await?;
    let now = server.env.now();
    match found.first().and_then(Option::as_ref) {
        Some(secret) if is_same_secret(entry(secret, "token").as_bytes(), text.as_bytes()) => {
            if is_over(secret, now) {
                return wrong("service account token has been invalidated");
            }
        }
        _ => return wrong("service account token has been invalidated"),
    }
    let account = Tie { what: "serviceaccount", name, uid };
    account.check(found.get(1).and_then(Option::as_deref), now)?;
    Ok(user(namespace, name, uid))
}

fn user(namespace: &str, name: &str, uid: &str) -> User {
    let groups =
        ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    let name = format!("system:serviceaccount:{namespace}:{name}");
    let mut user = User::with_groups(&name, groups.to_vec());
    user.uid = uid.to_owned();
    user
}
