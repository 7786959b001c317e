//! Bootstrap tokens: `<id>.<secret>`, as a Secret `bootstrap-token-<id>` in kube-system holds them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::kinds::SECRET;
use machinery::{Object, ObjectKey};

use super::{Refusal, is_same_secret, read, wrong};
use crate::config::User;
use crate::server::ApiServer;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const GROUP: &str = "system:bootstrappers";
const ID_LETTERS: usize = 6;
const SECRET_LETTERS: usize = 16;

/// Whose token it is; [`Refusal::Unknown`] if it has not the form of a bootstrap token.
pub(crate) async fn check(server: &ApiServer, token: &str) -> Result<User, Refusal> {
    let Some((id, secret)) = parse(token) else { return Err(Refusal::Unknown) };
    let key = ObjectKey::new(NAMESPACE, format!("bootstrap-token-{id}"));
    let found = read(server, &[(&SECRET, key)]).await?.pop().flatten();
    let Some(object) = found.filter(|object| object.text("/type") == TYPE) else {
        return wrong("no such bootstrap token");
    };
    if object.is_terminating() {
        return wrong("the bootstrap token is being deleted");
    }
    let known = entry(&object, "token-secret");
    if known.is_empty() || !is_same_secret(known.as_bytes(), secret.as_bytes()) {
        return wrong("the bootstrap token has another secret");
    }
    if entry(&object, "token-id") != id {
        return wrong("the bootstrap token has another id");
    }
    let expiration = entry(&object, "expiration");
    if !expiration.is_empty() {
        match expiration.parse::<env::Timestamp>() {
            Ok(until) if until > server.env.now() => {}
            Ok(_) => return wrong("the bootstrap token has expired"),
            Err(_) => return wrong("the bootstrap token's expiration is no time"),
        }
    }
    if entry(&object, "usage-bootstrap-authentication") != "true" {
        return wrong("the bootstrap token is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in entry(&object, "auth-extra-groups").split(',').map(str::trim) {
        if group.is_empty() {
            continue;
        }
        if !is_group(group) {
            return wrong(format!("the bootstrap token's group {group:?} is not allowed"));
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(User::with_groups(&format!("system:bootstrap:{id}"), groups))
}

fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is_plain = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (is_plain(id, ID_LETTERS) && is_plain(secret, SECRET_LETTERS)).then_some((id, secret))
}

/// `system:bootstrappers:` and up to 256 lower-case letters, digits, colons and dashes, of which the
/// last is a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().last().is_some_and(is_plain)
        && rest.bytes().all(|byte| is_plain(byte) || matches!(byte, b':' | b'-'))
}

/// An entry of a Secret's data, as text; "" if there is none.
pub(crate) fn entry(secret: &Object, key: &str) -> String {
    let encoded = secret.text(&format!("/data/{key}"));
    STANDARD
        .decode(encoded)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}
