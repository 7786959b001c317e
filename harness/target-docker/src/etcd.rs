//! etcd members and API servers asked from outside the nodes, over TLS, with the cluster's own keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::lever::Reading;
use shakedown_core::target::{Observation, TargetError};
use shakedown_core::timeline::What;
use tokio::time::Instant;

use crate::docker::failed;
use crate::eyes::Eyes;

/// A server that says nothing for so long is not well.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The members are asked so often while somebody observes.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How etcd says that a revision is gone.
const COMPACTED: &str = "required revision has been compacted";

/// A client outside of the nodes: no cut between nodes is in its way.
pub(crate) struct Outside {
    client: reqwest::Client,
}

impl Outside {
    /// With the keys in this directory.
    pub fn new(pki: &Path) -> Result<Self, TargetError> {
        let read = |file: &str| {
            let path = pki.join(file);
            std::fs::read(&path)
                .map_err(|error| failed(format!("reading {}", path.display()), error, ""))
        };
        let mut identity = read("etcd-client.crt")?;
        identity.extend(read("etcd-client.key")?);
        let authority = read("ca.crt")?;
        let client = reqwest::Identity::from_pem(&identity).and_then(|identity| {
            reqwest::Client::builder()
                .use_rustls_tls()
                .tls_built_in_root_certs(false)
                .add_root_certificate(reqwest::Certificate::from_pem(&authority)?)
                .identity(identity)
                .no_proxy()
                // A member that was restarted must not be asked over a dead connection.
                .pool_max_idle_per_host(0)
                .timeout(ANSWER_WITHIN)
                .build()
        });
        let client = client.map_err(|error| failed("reading the cluster's keys", error, ""))?;
        Ok(Self { client })
    }

    /// Is the server well? Its page must answer 200.
    pub async fn health(&self, url: &str) -> Reading {
        let (ok, detail) = match self.client.get(url).send().await {
            Ok(answer) => (answer.status().is_success(), format!("{url}: {}", answer.status())),
            Err(error) => (false, chain(&error)),
        };
        Reading::Answer { ok, detail }
    }

    /// What the member at an address says of itself.
    pub async fn member(&self, address: &str) -> Result<Reading, TargetError> {
        let url = format!("https://{address}:2379/v3/maintenance/status");
        let asked = async {
            let answer = self.client.post(&url).json(&json!({})).send().await?;
            answer.error_for_status()?.json::<Value>().await
        };
        let broken = |why: String| failed(format!("asking the etcd member at {address}"), why, "");
        let status = asked.await.map_err(|error| broken(chain(&error)))?;
        parse(&status).ok_or_else(|| broken(format!("it answered {status}")))
    }

    /// Lets a member forget all revisions before the one that it is at, on its disk, too.
    pub async fn compact(&self, address: &str) -> Result<(), TargetError> {
        let Reading::EtcdMember { revision, .. } = self.member(address).await? else {
            return Err(failed(
                format!("compacting at {address}"),
                "it told nothing of itself",
                "",
            ));
        };
        let body = json!({"revision": revision.to_string(), "physical": true});
        match self.order(address, "kv/compaction", &body).await {
            // Somebody else was quicker.
            Err(error) if error.to_string().contains(COMPACTED) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Hands the leadership to another member. Only the leader can.
    pub async fn move_leader(&self, leader: &str, to: u64) -> Result<(), TargetError> {
        let body = json!({"targetID": to.to_string()});
        self.order(leader, "maintenance/transfer-leadership", &body).await.map(drop)
    }

    /// The revision that a member compacted last, found by asking for old ones; 0 if there is none.
    pub async fn compacted(&self, address: &str) -> Result<i64, TargetError> {
        let Reading::EtcdMember { revision, .. } = self.member(address).await? else {
            return Err(failed(format!("asking {address}"), "it told nothing of itself", ""));
        };
        // The least revision that can still be read: below it all are compacted.
        let (mut gone, mut kept) = (0, revision.max(1));
        while kept - gone > 1 {
            let middle = gone + (kept - gone) / 2;
            match self.can_read(address, middle).await? {
                true => kept = middle,
                false => gone = middle,
            }
        }
        // What is compacted at a revision can still be read at that revision itself.
        Ok(if gone == 0 { 0 } else { kept })
    }

    async fn can_read(&self, address: &str, revision: i64) -> Result<bool, TargetError> {
        let body = json!({
            "key": "AA==", "revision": revision.to_string(), "serializable": true, "count_only": true,
        });
        match self.order(address, "kv/range", &body).await {
            Ok(_) => Ok(true),
            Err(error) if error.to_string().contains(COMPACTED) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn order(&self, address: &str, what: &str, body: &Value) -> Result<Value, TargetError> {
        let url = format!("https://{address}:2379/v3/{what}");
        let broken = |why: String| failed(format!("asking the etcd member at {address}"), why, "");
        let asked = async {
            let answer = self.client.post(&url).json(body).send().await?;
            answer.json::<Value>().await
        };
        let answer = asked.await.map_err(|error| broken(chain(&error)))?;
        match answer["error"].as_str() {
            Some(error) => Err(broken(error.to_owned())),
            None => Ok(answer),
        }
    }

    /// Asks a member again and again and tells what it says, until nobody listens.
    pub async fn poll_member(self: Arc<Self>, node: &str, address: &str, eyes: &Eyes) {
        while eyes.is_open() {
            let asked = Instant::now();
            if let Ok(Reading::EtcdMember { member, leader, term, revision }) =
                self.member(address).await
            {
                let node = node.to_owned();
                let what = What::EtcdMember { node, member, leader, term, revision };
                let at = Instant::now();
                eyes.saw(Observation { at, error: at - asked, what });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

/// The gateway writes 64-bit numbers as text and leaves zeros out.
fn parse(status: &Value) -> Option<Reading> {
    fn number<T: std::str::FromStr + Default>(value: &Value) -> Option<T> {
        match value {
            Value::Null => Some(T::default()),
            Value::String(text) => text.parse().ok(),
            other => other.to_string().parse().ok(),
        }
    }
    let header = status.get("header")?;
    Some(Reading::EtcdMember {
        member: number(&header["member_id"])?,
        leader: number(&status["leader"])?,
        term: number(&status["raftTerm"])?,
        revision: number(&header["revision"])?,
    })
}

/// An error with its causes: the cause is what tells.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_as_text_and_zeros_not_at_all() {
        let status = json!({
            "header": {"member_id": "10276657743932975437", "revision": "42", "raft_term": "3"},
            "leader": "10276657743932975437", "raftTerm": "3"
        });
        let member = 10_276_657_743_932_975_437;
        let expected = Reading::EtcdMember { member, leader: member, term: 3, revision: 42 };
        assert_eq!(parse(&status), Some(expected));
        let alone = json!({"header": {"member_id": "7"}});
        let expected = Reading::EtcdMember { member: 7, leader: 0, term: 0, revision: 0 };
        assert_eq!(parse(&alone), Some(expected));
        assert_eq!(parse(&json!({"error": "etcdserver: not ready"})), None);
    }
}
