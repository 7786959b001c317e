//! `orchestrator dev`: a whole cluster in one process, for tests and for trying things out.
//!
//! API server, controllers, scheduler and simulated nodes share the process; their requests reach the
//! API server without sockets, everybody else's over TLS. Pods run on nodes that only play them: every
//! image exists, and a container of it runs until it is asked to end. With `--data DIR` the cluster
//! is the same one after a restart.

mod certificates;
mod nearby;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use apiclient::ApiClient;
use apiserver::{ApiServer, Plugins, ServiceAccounts, User};
use bytes::Bytes;
use controllers::certificates::Authority;
use env::{Env, Task};
use http::Request;
use http_body_util::BodyExt;
use kubelet::MachineFacts;
use kubelet::runtimes::staged::StagedRuntime;
use kubelet::server::{KubeletServer, ServerConfig};
use serde_json::{Value, json};
use storage::Store;
use storage::local::LocalStore;
use tokio::net::TcpListener;

use certificates::{Certificates, Pair, write_secret};
use nearby::Nearby;

/// The name of the only control plane, under which it also stands for election.
const SELF: &str = "dev";
/// Who issues the tokens of service accounts, as in a cluster of kubeadm.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long certificates are good for that are signed on request.
const SIGNED_FOR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Nodes are numbered from the first address of this range on (RFC 2544: for benchmarks).
const FIRST_NODE: u32 = u32::from_be_bytes([198, 18, 0, 1]);
/// That many nodes have an address and a range of pods each.
const NODES_MAX: u32 = 5000;
/// How often to look whether the cluster is ready.
const LOOK: Duration = Duration::from_millis(5);
/// A cluster that is not ready after this long says what it still waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many simulated nodes; 0 for an API with controllers and nothing that runs pods.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(NODES_MAX)))]
    nodes: u32,
    /// Keep the cluster in this directory, across restarts and crashes. Without it, it is gone at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to write the kubeconfig; otherwise it is printed, or kept as DIR/kubeconfig with --data.
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// The address to listen on.
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::LOCALHOST))]
    bind_address: IpAddr,
    /// The port to listen on; any free one if absent, or the last one with --data.
    #[arg(long)]
    secure_port: Option<u16>,
    /// How many seconds of history the API keeps at least; what is older is answered with 410 Gone, as after
    /// five minutes in other clusters. A small number shows how a client takes that.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    compaction_interval: u64,
    /// Only the API server: no controllers, no scheduler, no nodes. Pods need no ServiceAccount then, as
    /// nobody would make one.
    #[arg(long, conflicts_with = "nodes")]
    api_only: bool,
}

/// Runs until the process is asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let env = Env::os();
    let began = env.instant();
    let store: Arc<dyn Store> = match &args.data {
        Some(dir) => LocalStore::open(env.clone(), dir).context("failed to use --data")?,
        None => LocalStore::in_memory(env.clone()),
    };
    let certificates = match &args.data {
        Some(dir) => Certificates::kept(dir, args.bind_address),
        None => Certificates::new(args.bind_address),
    };
    let certificates = certificates.context("failed to make certificates")?;
    let listener = listen(&args).await?;
    let address = listener.local_addr().context("failed to learn the port")?;
    let mut config = apiserver::Config::new(SELF);
    let signing = certificates.signing_key().context("failed to use the key of tokens")?;
    config.service_accounts = Some(Arc::new(ServiceAccounts::new(signing, ISSUER)));
    config.bootstrap_tokens = true;
    config.process_metrics = Some(Arc::new(crate::process_metrics::text));
    config.compaction_period = Duration::from_secs(args.compaction_interval);
    if args.api_only {
        let off = ["ServiceAccount".to_owned()];
        config.admission = Plugins::choose(&[], &off).map_err(anyhow::Error::msg)?;
    }
    let nearby = Arc::new(Nearby::new(env.clone()));
    config.outbound = nearby.clone();
    let server = ApiServer::new(env.clone(), store, config);
    let mut cluster =
        Cluster { env: env.clone(), server: server.clone(), nearby, tasks: Vec::new() };
    cluster.tasks.push(env.spawn(server.clone().run()));
    let serving = apiserver::serve(server, certificates.tls()?, listener);
    tokio::pin!(serving);
    if !args.api_only {
        cluster.start(args.nodes, &certificates)?;
    }
    let nodes = if args.api_only { 0 } else { args.nodes };
    tokio::select! {
        biased;
        ended = &mut serving => return ended.context("failed to serve"),
        () = cluster.wait_until_ready(nodes) => {}
    }
    let kubeconfig = kubeconfig(&certificates, address);
    let told = hand_over(&args, &kubeconfig)?;
    tracing::info!(
        "ready after {} ms: https://{address}, {nodes} nodes; {told}",
        began.elapsed().as_millis()
    );
    serving.await.context("failed to serve")
}

/// Where the kubeconfig is.
fn hand_over(args: &Args, text: &str) -> anyhow::Result<String> {
    let kept = args.data.as_ref().map(|dir| dir.join("kubeconfig"));
    let Some(path) = args.kubeconfig.clone().or(kept) else {
        let mut out = std::io::stdout();
        // Whoever reads it may have gone; the cluster is as good without.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        return Ok("the kubeconfig is on standard output".to_owned());
    };
    write_secret(&path, text)?;
    Ok(format!("kubectl --kubeconfig {} get nodes", path.display()))
}

/// Listens on the port that was asked for, else on the last one, else on any.
async fn listen(args: &Args) -> anyhow::Result<TcpListener> {
    let file = args.data.as_ref().map(|dir| dir.join("port"));
    let last = file.as_deref().and_then(last_port);
    let bind = |port: u16| TcpListener::bind(SocketAddr::from((args.bind_address, port)));
    let listener = match (args.secure_port, last) {
        (Some(port), _) => bind(port)
            .await
            .with_context(|| format!("failed to listen on {}:{port}", args.bind_address))?,
        (None, Some(port)) => match bind(port).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(port, %error, "the last port is taken: the kubeconfig changes");
                bind(0).await.context("failed to listen")?
            }
        },
        (None, None) => {
            bind(0).await.with_context(|| format!("failed to listen on {}", args.bind_address))?
        }
    };
    if let Some(file) = file {
        let port = listener.local_addr().context("failed to learn the port")?.port();
        write_secret(&file, &port.to_string())?;
    }
    Ok(listener)
}

fn last_port(file: &Path) -> Option<u16> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What runs in the process.
struct Cluster {
    env: Env,
    server: Arc<ApiServer>,
    nearby: Arc<Nearby>,
    tasks: Vec<Task<()>>,
}

impl Cluster {
    fn start(&mut self, nodes: u32, certificates: &Certificates) -> anyhow::Result<()> {
        self.controllers(nodes, certificates)?;
        self.scheduler();
        for number in 0..nodes {
            self.node(number);
        }
        Ok(())
    }

    fn controllers(&mut self, nodes: u32, certificates: &Certificates) -> anyhow::Result<()> {
        let client = self.client("system:kube-controller-manager", &[], "kube-controller-manager");
        let mut config = controllers::Config::new(SELF);
        // The documented range has room for 256 nodes.
        if nodes > 200 {
            config.cluster_cidr = "10.0.0.0/8".to_owned();
        }
        let Pair { certificate, key } = &certificates.authority;
        let authority = Authority::from_pem(certificate, key, SIGNED_FOR);
        config.authority = Some(authority.map_err(anyhow::Error::msg)?);
        config.root_ca = Some(certificate.clone());
        config.service_account_key = Some(Arc::new(certificates.signing_key()?));
        let env = self.env.clone();
        self.tasks.push(self.env.spawn(async move {
            loop {
                controllers::run(env.clone(), client.clone(), config.clone()).await;
                tracing::warn!("the controllers lost their lease and stand for election again");
            }
        }));
        Ok(())
    }

    fn scheduler(&mut self) {
        let client = self.client("system:kube-scheduler", &[], "kube-scheduler");
        let config = scheduler::Config::new(SELF);
        let env = self.env.clone();
        self.tasks.push(self.env.spawn(async move {
            loop {
                scheduler::run(env.clone(), client.clone(), config.clone()).await;
                tracing::warn!("the scheduler lost its lease and stands for election again");
            }
        }));
    }

    fn node(&mut self, number: u32) {
        let name = format!("node-{}", number + 1);
        let address = Ipv4Addr::from(FIRST_NODE + number).to_string();
        let client = self.client(&format!("system:node:{name}"), &["system:nodes"], "kubelet");
        let config = kubelet::Config::new(&name, &address, MachineFacts::simulated(&name, 1));
        let runtime = StagedRuntime::of_any_image(self.env.clone());
        let server = ServerConfig {
            node_name: name,
            health: config.health.clone(),
            pods: config.pods.clone(),
            ..ServerConfig::default()
        };
        let server = KubeletServer::new(self.env.clone(), client.clone(), runtime.clone(), server);
        self.nearby.add(address, server);
        let env = self.env.clone();
        self.tasks.push(self.env.spawn(kubelet::run(env, client, runtime, config)));
    }

    /// A component's way to the API server of its own process.
    fn client(&self, user: &str, groups: &[&str], agent: &'static str) -> ApiClient {
        let (server, user) = (self.server.clone(), User::new(user, groups));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, user) = (server.clone(), user.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let answer = server.handle(user, Request::from_parts(head, body)).await;
                Ok::<_, kube::Error>(answer)
            }
        });
        ApiClient::new(vec![kube::Client::new(service, "default")]).named(agent)
    }

    /// Waits until the server says so, and every node is Ready.
    async fn wait_until_ready(&self, nodes: u32) {
        let patient_until = self.env.instant() + PATIENCE;
        let mut has_told = false;
        loop {
            let why = match self.missing(nodes).await {
                None => return,
                Some(why) => why,
            };
            if !has_told && self.env.instant() > patient_until {
                tracing::warn!("the cluster is not ready yet: {why}");
                has_told = true;
            }
            self.env.sleep(LOOK).await;
        }
    }

    /// What the cluster still lacks.
    async fn missing(&self, nodes: u32) -> Option<String> {
        if let Err(code) = self.get("/readyz").await {
            return Some(format!("/readyz answers {code}"));
        }
        let found = match self.get("/api/v1/nodes").await {
            Ok(found) => found,
            Err(code) => return Some(format!("the list of nodes answers {code}")),
        };
        let items = found["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_ready = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
                && node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
        };
        let ready = items.iter().filter(is_ready).count();
        (ready < nodes as usize).then(|| format!("{ready} of {nodes} nodes are ready"))
    }

    async fn get(&self, path: &str) -> Result<Value, u16> {
        let request = Request::get(path).body(Bytes::new()).map_err(|_| 400_u16)?;
        let user = User::new("system:apiserver", &["system:masters"]);
        let answer = self.server.handle(user, request).await;
        let code = answer.status().as_u16();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_or_else(|never| match never {}, http_body_util::Collected::to_bytes);
        match code {
            200 => Ok(serde_json::from_slice(&body).unwrap_or_default()),
            code => Err(code),
        }
    }
}

/// How kubectl and other clients reach the cluster, as its administrator.
fn kubeconfig(certificates: &Certificates, address: SocketAddr) -> String {
    let encoded = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    // Whoever listens everywhere is reached here.
    let host = match address.ip() {
        any if any.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let server = format!("https://{}", SocketAddr::from((host, address.port())));
    let name = "shakedown-dev";
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": encoded(&certificates.authority.certificate),
        }}],
        "users": [{"name": "kubernetes-admin", "user": {
            "client-certificate-data": encoded(&certificates.admin.certificate),
            "client-key-data": encoded(&certificates.admin.key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "kubernetes-admin"}}],
    });
    // JSON is YAML, and every reader of kubeconfigs takes it.
    format!("{config:#}\n")
}
