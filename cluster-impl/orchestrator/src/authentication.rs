//! The API server's flags about who asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::{ServiceAccounts, StaticTokens};
use machinery::signing::{SigningKey, VerifyingKey};

use crate::apiserver::text;
use crate::process::duration;

/// The flags, with upstream's names.
#[derive(Debug, clap::Args)]
pub struct Authentication {
    /// Whether who shows nothing may ask for more than health and version, if roles allow it.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    anonymous_auth: bool,
    /// Tokens that never change: a line each, as token,user,uid,"group1,group2".
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Takes the tokens that Secrets of the type bootstrap.kubernetes.io/token in kube-system hold.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    enable_bootstrap_token_auth: bool,
    /// The key that signs tokens of service accounts: ECDSA on P-256, or RSA.
    #[arg(long)]
    service_account_signing_key_file: Option<PathBuf>,
    /// Whose signatures of such tokens are taken: public or private keys, or certificates. Repeatable.
    #[arg(long)]
    service_account_key_file: Vec<PathBuf>,
    /// Who is named as the maker of such tokens. Repeatable: the first makes new ones, all are taken.
    #[arg(long)]
    service_account_issuer: Vec<String>,
    /// Whom tokens must be meant for to be taken here; the issuers, if absent.
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Where others find the keys that verify tokens.
    #[arg(long)]
    service_account_jwks_uri: Option<String>,
    /// The longest life of a token; 0 for any.
    #[arg(long, default_value = "0s", value_parser = duration)]
    service_account_max_token_expiration: Duration,
    /// Whether the tokens that kubelets fetch for pods live for a year.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    service_account_extend_token_expiration: bool,
}

impl Authentication {
    /// Sets what the flags say.
    pub fn apply(&self, config: &mut apiserver::Config) -> anyhow::Result<()> {
        config.anonymous_auth = self.anonymous_auth;
        config.bootstrap_tokens = self.enable_bootstrap_token_auth;
        if let Some(path) = &self.token_auth_file {
            let tokens = StaticTokens::parse(&text(path)?);
            config.static_tokens = tokens
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("failed to read tokens from {}", path.display()))?;
        }
        config.service_accounts = self.service_accounts()?.map(Arc::new);
        Ok(())
    }

    fn service_accounts(&self) -> anyhow::Result<Option<ServiceAccounts>> {
        if self.service_account_issuer.is_empty() {
            let is_given = self.service_account_signing_key_file.is_some()
                || !self.service_account_key_file.is_empty();
            if is_given {
                bail!("keys of service accounts need --service-account-issuer");
            }
            return Ok(None);
        }
        let signing = match &self.service_account_signing_key_file {
            Some(path) => Some(
                SigningKey::from_pem(text(path)?.as_bytes())
                    .with_context(|| format!("failed to read a key from {}", path.display()))?,
            ),
            None => None,
        };
        let mut keys: Vec<VerifyingKey> = signing.iter().map(|key| key.public().clone()).collect();
        for path in &self.service_account_key_file {
            let more = VerifyingKey::all_from_pem(text(path)?.as_bytes())
                .with_context(|| format!("failed to read keys from {}", path.display()))?;
            keys.extend(more);
        }
        // Usually the signing key's public half is given as well.
        keys.sort_by(|one, other| one.id().cmp(other.id()));
        keys.dedup_by(|one, other| one.id() == other.id());
        if keys.is_empty() {
            bail!("--service-account-issuer needs --service-account-key-file or a signing key");
        }
        let limit = self.service_account_max_token_expiration;
        if !limit.is_zero() && !(3600..=1 << 32).contains(&limit.as_secs()) {
            bail!("--service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
        }
        let issuers = self.service_account_issuer.clone();
        let audiences = &self.api_audiences;
        let default_uri = format!("{}/openid/v1/jwks", issuers[0].trim_end_matches('/'));
        Ok(Some(ServiceAccounts {
            signing,
            keys,
            api_audiences: if audiences.is_empty() { issuers.clone() } else { audiences.clone() },
            jwks_uri: self.service_account_jwks_uri.clone().unwrap_or(default_uri),
            issuers,
            expiration_max: (!limit.is_zero()).then_some(limit),
            is_extended: self.service_account_extend_token_expiration,
        }))
    }
}
