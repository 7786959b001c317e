//! The `continue` token of a list: the revision it is pinned to, and the key where it goes on.
//!
//! The form is upstream's. The key is relative to the kind's prefix, and a token from a client can
//! never name a key outside of the range that the request may read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::Status;
use serde::{Deserialize, Serialize};

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContinueToken {
    #[serde(rename = "v")]
    version: String,
    /// The revision of the first page; -1 to go on with whatever is there now.
    #[serde(rename = "rv")]
    pub(crate) revision: i64,
    /// The first key of the next page.
    #[serde(rename = "start")]
    pub(crate) start: String,
}

impl ContinueToken {
    /// A token that goes on at `start`.
    pub(crate) fn new(revision: i64, start: &str) -> Self {
        Self { version: "meta.k8s.io/v1".to_owned(), revision, start: start.to_owned() }
    }

    /// As the client carries it.
    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("the token has only text keys"))
    }

    /// Reads what a client brought back.
    pub(crate) fn decode(text: &str) -> Result<Self, Status> {
        let token: Option<Self> = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        token
            .filter(|token| token.version == "meta.k8s.io/v1" && token.revision != 0)
            .ok_or_else(|| Status::bad_request("continue key is not valid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let token = ContinueToken::new(7, "a/web\0");
        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
        for wrong in ["", "!", "e30", &ContinueToken::new(0, "a").encode()] {
            assert_eq!(ContinueToken::decode(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }
}
