//! `--token-auth-file`: tokens that never change, one a line: `token,user,uid,"group,group"`.
//!
//! Tokens are looked up by their hash, so the time that a look-up takes tells nothing of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::config::User;

/// The tokens of a file.
#[derive(Debug, Clone, Default)]
pub struct StaticTokens(Arc<BTreeMap<[u8; 32], User>>);

impl StaticTokens {
    /// Reads a file; says which line is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let fields = fields(line);
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                let found = fields.len();
                return Err(format!(
                    "line {} has {found} of the 3 fields token, user and uid",
                    index + 1
                ));
            };
            if token.is_empty() || name.is_empty() {
                return Err(format!("line {} has an empty token or user", index + 1));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default().split(',');
            let groups = groups.map(str::trim).filter(|group| !group.is_empty());
            let mut user = User::with_groups(name, groups.map(str::to_owned).collect());
            user.uid.clone_from(uid);
            tokens.insert(Sha256::digest(token).into(), user);
        }
        Ok(Self(Arc::new(tokens)))
    }

    /// Whose token it is.
    pub(crate) fn find(&self, token: &str) -> Option<User> {
        if self.0.is_empty() {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&hash).cloned()
    }
}

/// The fields of a line of comma-separated values; in quotes a comma is a comma, and `""` a quote.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens_is_read() {
        let text = "secret,jane,u-1,\"dev,ops\"\nother,joe,u-2\n\n\"a,b\",jim,,dev\n";
        let tokens = StaticTokens::parse(text).unwrap();
        let jane = tokens.find("secret").unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "u-1"));
        assert_eq!(jane.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(tokens.find("other").unwrap().groups, ["system:authenticated"]);
        assert_eq!(tokens.find("a,b").unwrap().name, "jim");
        assert_eq!(tokens.find("secre"), None);
        assert!(StaticTokens::parse("a,b\n").unwrap_err().starts_with("line 1"));
        assert!(StaticTokens::parse("a,b,c\n,x,y").unwrap_err().starts_with("line 2"));
    }
}
