//! What kubectl and kube-rs make of connections: real programs and sockets, and a kubelet that the tests
//! play. Where kubectl is missing, its tests say so and check nothing.

use std::process::Stdio;
use std::sync::Arc;

use kube::api::{Api, AttachParams};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::tests::played::{Kubelet, Plays};
use crate::Config;

#[path = "../../../tests/served/loopback/mod.rs"]
#[allow(dead_code, reason = "the tests outside of the crate use the rest")]
mod loopback;

use loopback::Loopback;

struct Cluster {
    loopback: Loopback,
    kubelet: Arc<Kubelet>,
    client: kube::Client,
    home: tempfile::TempDir,
}

impl Cluster {
    /// A server with the node `n` and the running pod `one`.
    async fn new(plays: Plays) -> Self {
        let kubelet = Kubelet::new(plays);
        let config = Config { outbound: kubelet.clone(), ..Config::default() };
        let loopback = Loopback::with(config).await;
        let home = tempfile::tempdir().unwrap();
        let text = loopback.kubeconfig("kubernetes-admin", &["system:masters"]);
        std::fs::write(home.path().join("config"), &text).unwrap();
        let file = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let cluster = Self { loopback, kubelet, client, home };
        cluster.fill().await;
        cluster
    }

    async fn fill(&self) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "web:1"}]}});
        self.send("POST", "/api/v1/nodes", &node).await;
        self.send("PUT", "/api/v1/nodes/n/status", &node).await;
        let pods = "/api/v1/namespaces/default/pods";
        for _ in 0..100 {
            if self.send("GET", "/api/v1/namespaces/default", &Value::Null).await.is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let mut pod = self.send("POST", pods, &pod).await.unwrap();
        pod["status"]["phase"] = "Running".into();
        self.send("PUT", &format!("{pods}/one/status"), &pod).await.unwrap();
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json").body(body).unwrap();
        self.client.request(request).await.ok()
    }

    /// kubectl, or `None` where there is none.
    fn kubectl(&self, args: &str, environment: &[(&str, &str)]) -> Option<Child> {
        let child = Command::new("kubectl")
            .args(args.split_whitespace())
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        if child.is_err() {
            eprintln!("kubectl is not on PATH: not tested with it");
        }
        child.ok()
    }

    /// Runs kubectl to its end; answers its exit code and what it said.
    async fn run(
        &self,
        args: &str,
        environment: &[(&str, &str)],
        stdin: &[u8],
    ) -> Option<(i32, String, String)> {
        let mut child = self.kubectl(args, environment)?;
        let mut to = child.stdin.take().unwrap();
        to.write_all(stdin).await.unwrap();
        drop(to);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Some((output.status.code().unwrap(), text(output.stdout), text(output.stderr)))
    }
}

const SPDY_EXEC: (&str, &str) = ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
const SPDY_PORTS: (&str, &str) = ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");

#[tokio::test]
async fn kubectl_reads_logs() {
    let cluster = Cluster::new(Plays::Cat).await;
    let flags = "--tail=5 --timestamps --since=1h --limit-bytes=100 --previous";
    let Some(found) = cluster.run(&format!("logs one {flags}"), &[], b"").await else { return };
    assert_eq!(found, (0, "one\ntwo\n".to_owned(), String::new()));
    let asked = cluster.kubelet.asked().join(" ");
    let expected = "containerLogs/default/one/main?previous=true&timestamps=true&sinceSeconds=3600\
                    &tailLines=5&limitBytes=100";
    assert!(asked.ends_with(expected), "{asked}");
    let (code, _, why) = cluster.run("logs one -c nope", &[], b"").await.unwrap();
    assert_eq!(code, 1);
    assert!(why.contains("container nope is not valid for pod one"), "{why}");
}

#[tokio::test]
async fn kubectl_executes_over_websocket_and_over_spdy() {
    let cluster = Cluster::new(Plays::Cat).await;
    for environment in [&[][..], &[SPDY_EXEC]] {
        let said = "half closed\n".repeat(20_000);
        let found = cluster.run("exec -i one -- cat -n", environment, said.as_bytes()).await;
        let Some((code, out, why)) = found else { return };
        assert_eq!((code, out == said), (7, true), "{environment:?} {why}");
        assert!(why.contains("command terminated with exit code 7"), "{why}");
        let asked = cluster.kubelet.asked();
        let expected = "https://10.0.0.7:10250/exec/default/one/main?command=cat&command=-n&error=1\
                        &input=1&output=1";
        assert!(asked.last().unwrap().ends_with(expected), "{asked:?}");
    }
}

/// What this process holds in memory, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn a_hundred_megabytes_need_no_memory() {
    let cluster = Cluster::new(Plays::Says(100 << 20)).await;
    for environment in [&[][..], &[SPDY_EXEC]] {
        let before = resident_mib();
        let Some(mut child) = cluster.kubectl("exec one -- x", environment) else { return };
        let (mut out, mut buffer, mut count) = (child.stdout.take().unwrap(), vec![0; 1 << 16], 0);
        while let Ok(read @ 1..) = out.read(&mut buffer).await {
            count += read;
        }
        assert!(child.wait().await.unwrap().success());
        let grown = resident_mib().saturating_sub(before);
        assert_eq!(count, 100 << 20);
        assert!(grown < 32, "{grown} MiB more than before");
    }
}

#[tokio::test]
async fn kubectl_forwards_many_connections_to_many_ports() {
    let cluster = Cluster::new(Plays::Ports).await;
    for environment in [&[][..], &[SPDY_PORTS]] {
        let child = cluster.kubectl("port-forward one :80 :8081 --address 127.0.0.1", environment);
        let Some(mut child) = child else { return };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ports = Vec::new();
        while ports.len() < 2 {
            let line = lines.next_line().await.unwrap().expect("kubectl ended early");
            let rest = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap();
            let (here, there) = rest.split_once(" -> ").unwrap();
            ports.push((here.parse::<u16>().unwrap(), there.to_owned()));
        }
        let talk = |at: usize| {
            let (here, there) = ports[at % 2].clone();
            async move {
                let mut socket = TcpStream::connect(("127.0.0.1", here)).await.unwrap();
                let said = format!("{at}").repeat(10_000);
                let (mut from, mut to) = socket.split();
                let send = async {
                    to.write_all(said.as_bytes()).await.unwrap();
                    to.shutdown().await.unwrap();
                };
                let mut heard = String::new();
                let (_, read) = tokio::join!(send, from.read_to_string(&mut heard));
                read.unwrap();
                assert!(heard == format!("{there}:{said}"), "{at}: {} bytes", heard.len());
            }
        };
        futures::future::join_all((0..8).map(talk)).await;
    }
}

#[tokio::test]
async fn kube_rs_executes_with_standard_input_and_learns_the_exit_code() {
    let cluster = Cluster::new(Plays::Cat).await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(cluster.client.clone(), "default");
    let wanted = AttachParams::default().stdin(true).stderr(false);
    let mut process = pods.exec("one", ["cat"], &wanted).await.unwrap();
    let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
    stdin.write_all(b"hello").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut heard = String::new();
    stdout.read_to_string(&mut heard).await.unwrap();
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(heard, "hello");
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!(causes[0].message.as_deref(), Some("7"));
    cluster.loopback.server.shut_down();
}
