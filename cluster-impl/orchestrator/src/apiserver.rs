//! `orchestrator apiserver`: the API over TLS, from etcd.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use apiserver::{ApiServer, AuditLine, AuthorizationMode};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use storage::etcd::{EtcdConfig, EtcdStore, EtcdTls};

use crate::process::Common;

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
    /// Where a line for every write goes; nowhere if absent.
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// How long pods tolerate a node that is not ready, unless they say otherwise.
    #[arg(long, default_value_t = 300)]
    default_not_ready_toleration_seconds: i64,
    /// How long pods tolerate a node that cannot be reached, unless they say otherwise.
    #[arg(long, default_value_t = 300)]
    default_unreachable_toleration_seconds: i64,
}

/// Serves until the process is asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = args.common.env();
    let store = EtcdStore::connect(&etcd(&args)?).await.context("failed to use etcd")?;
    let mut config = apiserver::Config::new(&args.common.node);
    config.not_ready_toleration_s = args.default_not_ready_toleration_seconds;
    config.unreachable_toleration_s = args.default_unreachable_toleration_seconds;
    config.service_cluster_ip_range = args.service_cluster_ip_range.clone();
    config.authorization_modes = args.authorization_mode.clone();
    if let Some(path) = &args.audit_log_path {
        config.audit = Some(audit_log(path)?);
    }
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

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("failed to read certificates from {}", path.display()))
}

fn tls(args: &Args) -> anyhow::Result<rustls::ServerConfig> {
    let mut clients = RootCertStore::empty();
    for authority in certificates(&args.client_ca_file)? {
        clients.add(authority).context("failed to use --client-ca-file")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("failed to use --client-ca-file")?;
    let key = PrivateKeyDer::from_pem_file(&args.tls_private_key_file)
        .with_context(|| format!("failed to read {}", args.tls_private_key_file.display()))?;
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("failed to choose TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&args.tls_cert_file)?, key)
        .context("failed to use --tls-cert-file with --tls-private-key-file")
}

type Sink = Arc<dyn Fn(AuditLine) + Send + Sync>;

/// Writes a line per write, in the shape of an audit.k8s.io/v1 Event with the level Metadata.
fn audit_log(path: &Path) -> anyhow::Result<Sink> {
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    let file = Mutex::new(file);
    Ok(Arc::new(move |line| {
        let mut text = audit_event(&line).to_string();
        text.push('\n');
        let mut file = file.lock().expect("no code panics while it holds the audit log");
        if let Err(error) = file.write_all(text.as_bytes()) {
            tracing::error!(%error, "failed to write the audit log");
        }
    }))
}

fn audit_event(line: &AuditLine) -> serde_json::Value {
    let (resource, group) = line.kind.split_once('.').unwrap_or((&line.kind, ""));
    serde_json::json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "stage": "ResponseComplete", "verb": line.verb, "user": {"username": line.user},
        "stageTimestamp": line.at.to_string(),
        "objectRef": {
            "resource": resource, "apiGroup": group, "namespace": line.key.namespace,
            "name": line.key.name, "subresource": line.subresource,
        },
        "responseStatus": {"code": line.code},
        "annotations": {
            "shakedown.dev/revision": line.revision.to_string(),
            "shakedown.dev/fence": line.fence.clone().unwrap_or_default(),
        },
    })
}
