//! `orchestrator controller-manager`: stands for election and works while it leads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use controllers::certificates::Authority;
use machinery::signing::SigningKey;

use crate::apiserver::text;
use crate::elected::Elected;
use crate::process::duration;
use crate::{health, kubeconfig};

/// What it writes is owned under this name.
const AGENT: &str = "kube-controller-manager";

/// The flags, with upstream's names and defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    elected: Elected,
    /// How often the health of nodes is looked at.
    #[arg(long, default_value = "5s", value_parser = duration)]
    node_monitor_period: Duration,
    /// How long a node may be silent before it is Unknown.
    #[arg(long, default_value = "40s", value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// Where the pod address ranges of nodes come from.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: String,
    /// The certificate of the authority that signs CertificateSigningRequests; none are signed without.
    #[arg(long, requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// The longest life of a certificate that is signed.
    #[arg(long, default_value = "8760h", value_parser = duration)]
    cluster_signing_duration: Duration,
    /// The key that signs the tokens of service accounts in Secrets; none are made without.
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    /// The authority's certificate: published in every namespace as kube-root-ca.crt, and put into such
    /// Secrets.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// The port of /healthz (plain HTTP).
    #[arg(long, default_value_t = 10257)]
    secure_port: u16,
}

/// Runs until leadership is lost; the process then ends, and its supervisor starts it anew.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = args.elected.common.env();
    let client = kubeconfig::client(&args.elected.kubeconfig).await?.named(AGENT);
    let elector = args.elected.elector("kube-controller-manager", &env);
    let mut config = controllers::Config::new(&elector.identity);
    config.elector = elector;
    config.node_monitor_period = args.node_monitor_period;
    config.node_monitor_grace_period = args.node_monitor_grace_period;
    config.cluster_cidr = args.cluster_cidr;
    if let (Some(certificate), Some(key)) =
        (&args.cluster_signing_cert_file, &args.cluster_signing_key_file)
    {
        let (certificate, key) = (text(certificate)?, text(key)?);
        let authority = Authority::from_pem(&certificate, &key, args.cluster_signing_duration);
        let authority = authority.map_err(anyhow::Error::msg);
        config.authority = Some(authority.context("failed to use --cluster-signing-cert-file")?);
    }
    if let Some(path) = &args.service_account_private_key_file {
        let key = SigningKey::from_pem(text(path)?.as_bytes());
        let key = key.context("failed to use --service-account-private-key-file")?;
        config.service_account_key = Some(Arc::new(key));
    }
    if let Some(path) = &args.root_ca_file {
        config.root_ca = Some(text(path)?);
    }
    let address = SocketAddr::from((args.elected.bind_address, args.secure_port));
    let _health = health::serve(&env, address, Arc::new(|| true)).await?;
    controllers::run(env, client, config).await;
    anyhow::bail!("lost the lease kube-controller-manager")
}
