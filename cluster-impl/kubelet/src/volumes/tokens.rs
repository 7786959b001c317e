//! Tokens of one pod: fetched once, kept, and fetched again when four fifths of their life or a day are
//! over, as upstream's kubelet does.

use std::collections::BTreeMap;
use std::time::Duration;

use apiclient::{ApiClient, ApiError};
use env::{Env, Timestamp};
use machinery::kinds::SERVICE_ACCOUNT;
use machinery::{Object, ObjectKey};
use rand::Rng;
use serde_json::{Value, json};

use crate::pod_spec::text;

/// `expirationSeconds` if absent.
const LIFE_DEFAULT_S: i64 = 3600;
/// No token is used for longer, however long it is good for.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The moment of renewal is spread over so much, so that the pods of a node do not ask all at once.
const JITTER_MAX: Duration = Duration::from_secs(10);
/// A renewal that fails is tried again after so long.
const RETRY: Duration = Duration::from_secs(60);

/// Audience (may be empty) and life in seconds.
type Asked = (String, i64);

struct Token {
    text: String,
    renew_at: Timestamp,
    expires: Timestamp,
}

/// The tokens of one pod.
#[derive(Default)]
pub(crate) struct Tokens {
    held: BTreeMap<Asked, Token>,
}

impl Tokens {
    /// The token that a projection asks for.
    pub(crate) async fn get(
        &mut self,
        (env, client): (&Env, &ApiClient),
        pod: &Object,
        source: &Value,
    ) -> Result<String, String> {
        let life_s = source["expirationSeconds"].as_i64().unwrap_or(LIFE_DEFAULT_S);
        let asked = (text(source, "audience").to_owned(), life_s);
        let now = env.now();
        let is_fresh = |token: &&Token| now < token.renew_at && now < token.expires;
        if let Some(token) = self.held.get(&asked).filter(is_fresh) {
            return Ok(token.text.clone());
        }
        match fetch(env, client, pod, &asked).await {
            Ok(token) => {
                let text = token.text.clone();
                self.held.insert(asked, token);
                Ok(text)
            }
            Err(problem) => {
                let Some(token) = self.held.get_mut(&asked) else {
                    return Err(format!("failed to fetch token: {problem}"));
                };
                token.renew_at = now + RETRY;
                // A token that is still good is better than none.
                if now < token.expires {
                    tracing::warn!(pod = %pod.key(), problem, "a token is not renewed");
                    return Ok(token.text.clone());
                }
                Err(format!("token expired and refresh failed: {problem}"))
            }
        }
    }

    /// When the first of them is to be renewed.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.held.values().map(|token| token.renew_at).min()
    }
}

async fn fetch(
    env: &Env,
    client: &ApiClient,
    pod: &Object,
    (audience, life_s): &Asked,
) -> Result<Token, String> {
    let account = pod.text("/spec/serviceAccountName");
    let mut body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": life_s,
            "boundObjectRef":
                {"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()},
        },
    });
    if !audience.is_empty() {
        body["spec"]["audiences"] = json!([audience]);
    }
    let key = ObjectKey::new(pod.namespace(), account);
    let answer = client.post(&SERVICE_ACCOUNT, &key, "token", &body).await;
    let answer = Object(answer.map_err(|error| match error {
        ApiError::Status(status) => status.message,
        error => error.to_string(),
    })?);
    let now = env.now();
    let expires = answer.time("/status/expirationTimestamp");
    let (text, Some(expires)) = (answer.text("/status/token").to_owned(), expires) else {
        return Err("the API server's answer holds no token".to_owned());
    };
    // The server may give less than was asked for.
    let given_s = answer.integer("/spec/expirationSeconds").unwrap_or(*life_s);
    let jitter = env.entropy("token-renewal").random_range(Duration::ZERO..JITTER_MAX);
    // A clock that is far ahead of the server's must not make this spin.
    let renew_at = renewal(expires, given_s, jitter).max(now + RETRY);
    Ok(Token { text, renew_at, expires })
}

/// A fifth of its life before the end, or a day after the beginning, less the jitter.
fn renewal(expires: Timestamp, life_s: i64, jitter: Duration) -> Timestamp {
    let life = Duration::from_secs(life_s.try_into().unwrap_or_default());
    let late = expires - life / 5;
    let aged = expires - life + AGE_MAX;
    late.min(aged) - jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_after_four_fifths_or_a_day() {
        let begin = Timestamp::from_second(1_000_000).unwrap();
        for (life_s, jitter_s, after_s) in [
            (3607, 0, 3607 * 4 / 5),
            (3600, 7, 2873),
            (600, 0, 480),
            (7 * 86_400, 0, 86_400),
            (7 * 86_400, 9, 86_391),
        ] {
            let expires = begin + Duration::from_secs(u64::try_from(life_s).unwrap());
            let at = renewal(expires, life_s, Duration::from_secs(jitter_s));
            assert_eq!(at.duration_since(begin).as_secs(), after_s, "{life_s}");
        }
    }
}
