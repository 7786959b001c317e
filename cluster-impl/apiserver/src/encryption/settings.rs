//! `--encryption-provider-config`: an EncryptionConfiguration (apiserver.config.k8s.io/v1).
//!
//! ```yaml
//! resources:
//! - resources: [secrets, "*.apps"]
//!   providers:
//!   - aescbc: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/Cg==}]}
//!   - identity: {}
//! ```

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::{Kind, kinds};
use serde::Deserialize;

use super::Provider;
use super::cipher::Cipher;
use crate::storage_key;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EncryptionError(String);

/// What is encrypted, and how.
#[derive(Debug, Clone)]
pub struct EncryptionSettings {
    /// The prefix of a kind's keys, and its providers, in order of prefix.
    kinds: Arc<ByPrefix>,
}

type ByPrefix = Vec<(Vec<u8>, Arc<Vec<Provider>>)>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    identity: Option<Nothing>,
    aescbc: Option<Keys>,
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

impl EncryptionSettings {
    /// Reads a document.
    pub fn parse(text: &str) -> Result<Self, EncryptionError> {
        let document: Document =
            serde_yaml::from_str(text).map_err(|error| EncryptionError(error.to_string()))?;
        let wrong = |why: String| Err(EncryptionError(why));
        if document.kind != "EncryptionConfiguration"
            || document.api_version != "apiserver.config.k8s.io/v1"
        {
            let found = format!("{} {}", document.api_version, document.kind);
            return wrong(format!(
                "{found:?} is no apiserver.config.k8s.io/v1 EncryptionConfiguration"
            ));
        }
        let mut kinds = ByPrefix::new();
        let mut entries = Vec::new();
        for (index, entry) in document.resources.iter().enumerate() {
            if entry.providers.is_empty() || entry.resources.is_empty() {
                return wrong(format!("resources[{index}] needs resources and providers"));
            }
            entries.push((entry, Arc::new(providers(index, &entry.providers)?)));
        }
        for kind in kinds::ALL {
            let own = entries
                .iter()
                .find(|(entry, _)| entry.resources.iter().any(|resource| matches(resource, kind)));
            if let Some((_, providers)) = own {
                kinds.push((storage_key::prefix(kind).into_bytes(), providers.clone()));
            }
        }
        kinds.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self { kinds: Arc::new(kinds) })
    }

    /// The providers of the kind that a key belongs to, if it is to be encrypted.
    pub(super) fn providers(&self, key: &[u8]) -> Option<&[Provider]> {
        let after = self.kinds.partition_point(|(prefix, _)| prefix.as_slice() <= key);
        // A prefix may stand inside another one: the longest that fits is the key's own.
        let (_, providers) =
            self.kinds[..after].iter().rev().find(|(prefix, _)| key.starts_with(prefix))?;
        Some(providers.as_slice())
    }
}

fn providers(index: usize, given: &[Given]) -> Result<Vec<Provider>, EncryptionError> {
    let mut providers = Vec::new();
    for (at, one) in given.iter().enumerate() {
        let place = format!("resources[{index}].providers[{at}]");
        let ciphers =
            [("aescbc", &one.aescbc), ("aesgcm", &one.aesgcm), ("secretbox", &one.secretbox)];
        let chosen: Vec<_> =
            ciphers.iter().filter_map(|(name, keys)| Some((*name, keys.as_ref()?))).collect();
        match (&one.identity, chosen.as_slice()) {
            (Some(_), []) => providers.push(Provider::Identity),
            (None, [(name, keys)]) => {
                if keys.keys.is_empty() {
                    return Err(EncryptionError(format!(
                        "{place}.{name}.keys: at least one is needed"
                    )));
                }
                for key in &keys.keys {
                    providers.push(encrypting(&format!("{place}.{name}"), name, key)?);
                }
            }
            _ => {
                let why = "needs exactly one of identity, aescbc, aesgcm and secretbox";
                return Err(EncryptionError(format!("{place} {why}")));
            }
        }
    }
    Ok(providers)
}

fn encrypting(place: &str, name: &str, key: &Key) -> Result<Provider, EncryptionError> {
    let wrong = |why: &str| Err(EncryptionError(format!("{place}: key {:?} {why}", key.name)));
    if key.name.is_empty() || key.name.contains(':') {
        return wrong("must have a name without a colon");
    }
    let Ok(secret) = STANDARD.decode(key.secret.trim()) else {
        return wrong("has a secret that is not base64");
    };
    let Some(cipher) = Cipher::new(name, &secret) else {
        return wrong("has a secret of the wrong length");
    };
    Ok(Provider::Encrypting {
        head: format!("k8s:enc:{name}:v1:{}:", key.name).into_bytes(),
        cipher,
    })
}

/// Whether `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*` means a kind.
fn matches(resource: &str, kind: &Kind) -> bool {
    match resource.strip_prefix("*.") {
        Some("*") => true,
        Some(group) => group == kind.group,
        None => {
            resource == kind.id
                || resource
                    .split_once('.')
                    .is_some_and(|(plural, group)| plural == kind.plural && group == kind.group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(resources: &str, providers: &str) -> Result<EncryptionSettings, EncryptionError> {
        EncryptionSettings::parse(&format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: {resources}\n  providers: {providers}\n"
        ))
    }

    #[test]
    fn resources_are_named_or_meant_by_a_star() {
        for (resources, key, expected) in [
            ("[secrets]", "/registry/secrets/a/b", true),
            ("[secrets]", "/registry/configmaps/a/b", false),
            ("[deployments.apps]", "/registry/deployments/a/b", true),
            ("['*.apps']", "/registry/deployments/a/b", true),
            ("['*.apps']", "/registry/secrets/a/b", false),
            ("['*.']", "/registry/secrets/a/b", true),
            ("['*.*']", "/registry/services/specs/a/b", true),
            ("['*.*']", "/fences/lock", false),
        ] {
            let settings = parsed(resources, "[{identity: {}}]").unwrap();
            assert_eq!(settings.providers(key.as_bytes()).is_some(), expected, "{resources} {key}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (providers, why) in [
            ("[]", "resources[0] needs resources and providers"),
            ("[{}]", "needs exactly one of"),
            ("[{aescbc: {keys: []}}]", "at least one is needed"),
            ("[{aescbc: {keys: [{name: a, secret: eA==}]}}]", "wrong length"),
            ("[{secretbox: {keys: [{name: a, secret: '!'}]}}]", "not base64"),
            ("[{aesgcm: {keys: [{name: 'a:b', secret: eA==}]}}]", "without a colon"),
            ("[{kms: {}}]", "unknown field"),
        ] {
            let error = parsed("[secrets]", providers).unwrap_err().to_string();
            assert!(error.contains(why), "{providers}: {error}");
        }
        assert!(EncryptionSettings::parse("kind: Pod").is_err());
    }
}
