//! `orchestrator apiserver`: the API over TLS, from etcd.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use apiserver::{
    ApiServer, AuthorizationMode, EncryptionSettings, Identity, Plugins, Sockets, Tls,
};
use rustls::RootCertStore;
use storage::etcd::{EtcdConfig, EtcdStore, EtcdTls};

use crate::audit::Audit;
use crate::authentication::Authentication;
use crate::process::Common;
use crate::{process_metrics, serving};

/// The flags, with upstream's names.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// The address to listen on.
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// The port to listen on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// etcd's client URLs, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    etcd_servers: Vec<String>,
    /// The authority that signed etcd's certificate.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd.
    #[arg(long, requires = "etcd_cafile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// The authority that vouches for clients.
    #[arg(long)]
    client_ca_file: PathBuf,
    /// The certificate to show to clients.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// Where Services get their addresses from.
    #[arg(long, default_value = "10.96.0.0/12")]
    service_cluster_ip_range: String,
    /// Who decides whether a request is allowed, in this order: AlwaysAllow, Node, RBAC.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    authorization_mode: Vec<AuthorizationMode>,
    #[arg(long, value_delimiter = ',', help = enable_help())]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins that are not to run although they do by default.
    #[arg(long, value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// The certificate to show to kubelets.
    #[arg(long, requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// The authority that signed the kubelets' certificates; without one they are not checked.
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// What is encrypted in etcd, and how: an EncryptionConfiguration (apiserver.config.k8s.io/v1).
    #[arg(long)]
    encryption_provider_config: Option<PathBuf>,
    /// So many reads are worked on at once; 0 for any number.
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: usize,
    /// So many writes are worked on at once; 0 for any number.
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: usize,
    #[command(flatten)]
    authentication: Authentication,
    #[command(flatten)]
    audit: Audit,
    /// How long pods tolerate a node that is not ready, unless they say otherwise.
    #[arg(long, default_value_t = 300)]
    default_not_ready_toleration_seconds: i64,
    /// How long pods tolerate a node that cannot be reached, unless they say otherwise.
    #[arg(long, default_value_t = 300)]
    default_unreachable_toleration_seconds: i64,
}

fn enable_help() -> String {
    let known: Vec<_> = Plugins::names().collect();
    format!("Admission plugins that are to run; by default all do: {}", known.join(", "))
}

/// Serves until the process is asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = args.common.env();
    let store = EtcdStore::connect(&etcd(&args)?).await.context("failed to use etcd")?;
    let mut config = apiserver::Config::new(&args.common.node);
    config.outbound = Arc::new(Sockets::new(env.clone(), None));
    config.not_ready_toleration_s = args.default_not_ready_toleration_seconds;
    config.unreachable_toleration_s = args.default_unreachable_toleration_seconds;
    config.service_cluster_ip_range = args.service_cluster_ip_range.clone();
    config.authorization_modes = args.authorization_mode.clone();
    config.admission =
        Plugins::choose(&args.enable_admission_plugins, &args.disable_admission_plugins)
            .map_err(anyhow::Error::msg)?;
    config.max_requests_inflight = args.max_requests_inflight;
    config.max_mutating_requests_inflight = args.max_mutating_requests_inflight;
    if let Some(path) = &args.encryption_provider_config {
        let settings = EncryptionSettings::parse(&text(path)?);
        config.encryption =
            Some(settings.with_context(|| format!("failed to use {}", path.display()))?);
    }
    config.outbound = Arc::new(Sockets::new(env.clone(), identity(&args)?));
    if let Some(path) = &args.kubelet_certificate_authority {
        config.kubelet_certificate_authority = Some(text(path)?.into_bytes());
    }
    config.process_metrics = Some(Arc::new(process_metrics::text));
    args.authentication.apply(&mut config)?;
    args.audit.apply(&env, &mut config)?;
    let tls = tls(&args)?;
    let address = SocketAddr::from((args.bind_address, args.secure_port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}"))?;
    let server = ApiServer::new(env.clone(), Arc::new(store), config);
    let _work = env.spawn(server.clone().run());
    apiserver::serve(server, tls, listener).await.context("failed to serve")
}

fn etcd(args: &Args) -> anyhow::Result<EtcdConfig> {
    let tls = match (&args.etcd_cafile, &args.etcd_certfile, &args.etcd_keyfile) {
        (Some(ca), Some(certificate), Some(key)) => {
            Some(EtcdTls { ca: text(ca)?, certificate: text(certificate)?, key: text(key)? })
        }
        (None, None, None) => None,
        _ => anyhow::bail!(
            "--etcd-cafile, --etcd-certfile and --etcd-keyfile must be given together"
        ),
    };
    Ok(EtcdConfig::new(args.etcd_servers.clone(), tls))
}

pub fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Who this server is to kubelets.
fn identity(args: &Args) -> anyhow::Result<Option<Identity>> {
    let (Some(certificate), Some(key)) =
        (&args.kubelet_client_certificate, &args.kubelet_client_key)
    else {
        return Ok(None);
    };
    Ok(Some(Identity {
        certificates: serving::certificates(certificate)?,
        key: serving::key(key)?,
    }))
}

fn tls(args: &Args) -> anyhow::Result<Tls> {
    let mut clients = RootCertStore::empty();
    for authority in serving::certificates(&args.client_ca_file)? {
        clients.add(authority).context("failed to use --client-ca-file")?;
    }
    let key = serving::key(&args.tls_private_key_file)?;
    Tls::new(clients, serving::certificates(&args.tls_cert_file)?, key)
        .context("failed to use --client-ca-file, --tls-cert-file and --tls-private-key-file")
}
