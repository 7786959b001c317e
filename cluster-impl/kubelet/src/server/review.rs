//! What the API server says of tokens and rights, remembered for a while.
//!
//! Upstream's times: what is allowed is remembered for 5 minutes, what is not for 30 seconds, a token
//! for 2 minutes. More than [`ENTRIES_MAX`] answers are forgotten all at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{KubeletServer, Refusal, User};

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);
/// So many answers are remembered.
const ENTRIES_MAX: usize = 1024;

type Asked = (User, String, String);

#[derive(Default)]
struct Known {
    rights: BTreeMap<Asked, (Instant, bool)>,
    tokens: BTreeMap<String, (Instant, User)>,
}

/// What was answered.
#[derive(Default)]
pub(super) struct Reviews(Mutex<Known>);

impl Reviews {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no code panics while it holds the answers")
    }
}

/// Whether a user may do something with a subresource of this node.
pub(super) async fn may(
    server: &KubeletServer,
    user: &User,
    verb: &str,
    subresource: &str,
) -> Result<bool, Refusal> {
    let asked = (user.clone(), verb.to_owned(), subresource.to_owned());
    let now = server.env.instant();
    if let Some((until, is_allowed)) = server.reviews.lock().rights.get(&asked)
        && *until > now
    {
        return Ok(*is_allowed);
    }
    let mut spec = json!({
        "user": user.name, "groups": user.groups,
        "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes",
            "subresource": subresource, "name": server.config.node_name},
    });
    if !user.uid.is_empty() {
        spec["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    let group = "authorization.k8s.io";
    let review = json!({"apiVersion": format!("{group}/v1"), "kind": "SubjectAccessReview",
        "metadata": {}, "spec": spec});
    let answer = server.client.review(group, "subjectaccessreviews", &review).await;
    let answer = answer.map_err(|error| {
        tracing::warn!(%error, "cannot ask the API server whether a request is allowed");
        let name = &user.name;
        let why = format!(
            "Authorization error (user={name}, verb={verb}, resource=nodes, \
                           subresource={subresource})"
        );
        Refusal(500, why)
    })?;
    let is_allowed = answer["status"]["allowed"] == true && answer["status"]["denied"] != true;
    let mut known = server.reviews.lock();
    if known.rights.len() >= ENTRIES_MAX {
        known.rights.clear();
    }
    let until = now + if is_allowed { ALLOWED_FOR } else { DENIED_FOR };
    known.rights.insert(asked, (until, is_allowed));
    Ok(is_allowed)
}

/// Whose token it is; `None` if nobody's.
pub(super) async fn user_of(server: &KubeletServer, token: &str) -> Result<Option<User>, Refusal> {
    let now = server.env.instant();
    if let Some((until, user)) = server.reviews.lock().tokens.get(token)
        && *until > now
    {
        return Ok(Some(user.clone()));
    }
    let group = "authentication.k8s.io";
    let review = json!({"apiVersion": format!("{group}/v1"), "kind": "TokenReview",
        "metadata": {}, "spec": {"token": token}});
    let answer = server.client.review(group, "tokenreviews", &review).await.map_err(|error| {
        tracing::warn!(%error, "cannot ask the API server whose a token is");
        Refusal(401, "Unauthorized".to_owned())
    })?;
    let status = &answer["status"];
    if status["authenticated"] != true {
        return Ok(None);
    }
    let user = read(&status["user"]);
    let mut known = server.reviews.lock();
    if known.tokens.len() >= ENTRIES_MAX {
        known.tokens.clear();
    }
    known.tokens.insert(token.to_owned(), (now + TOKEN_FOR, user.clone()));
    Ok(Some(user))
}

fn read(user: &Value) -> User {
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let extra = user["extra"].as_object().into_iter().flatten();
    User {
        name: text("username"),
        uid: text("uid"),
        groups: texts(&user["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}
