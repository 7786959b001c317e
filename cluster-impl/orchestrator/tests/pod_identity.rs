//! A process in a container talks to its API server: `orchestrator dev`, a real kubelet with the identity
//! of its node, a real containerd. Without one the test is listed as ignored, and says why.
//!
//! All of it lives in containerd's network namespace, where the API server has the address of the Service
//! `kubernetes` itself, so that no proxy is needed.

extern crate kubelet as shakedown_kubelet;

#[expect(dead_code, reason = "how long a start takes is looked at elsewhere")]
mod common;
#[expect(dead_code, reason = "the kubelet's tests use the rest")]
#[path = "../../kubelet/tests/private_containerd/mod.rs"]
mod private_containerd;

use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use apiclient::ApiClient;
use common::Cluster;
use env::Env;
use kubelet::access::Access;
use kubelet::network::BridgeNetwork;
use kubelet::runtime::ContainerRuntime;
use kubelet::runtimes::cri::CriRuntime;
use kubelet::{Config, MachineFacts};
use libtest_mimic::{Arguments, Trial};
use machinery::kinds::{POD, ROLE, ROLE_BINDING};
use machinery::{Kind, Object, ObjectKey};
use nix::sched::{CloneFlags, setns};
use private_containerd::Containerd;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use serde_json::{Value, json};

/// The address of the Service `kubernetes`.
const SERVICE: &str = "10.96.0.1";
const NODE: &str = "worker-1";

fn main() {
    let arguments = Arguments::from_args();
    let missing = private_containerd::missing();
    if let Some(why) = &missing {
        eprintln!("the test with a real containerd is ignored: {why}");
    }
    let test = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime for the test").block_on(a_pod_asks_who_it_is());
        Ok(())
    };
    let trial = Trial::test("a_pod_asks_its_api_server_who_it_is", test);
    let trial = trial.with_ignored_flag(missing.is_some());
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

/// Waits for something that another process does; the limit is for a test that fails.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..600 {
        match look().await {
            Ok(found) => return found,
            Err(why) => last = why,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}: {last}");
}

/// Moves this thread, and all that it starts from now on, to containerd's network.
fn enter_network(containerd: &Containerd) {
    let file = File::open(format!("/proc/{}/ns/net", containerd.pid())).expect("it runs");
    setns(file, CloneFlags::CLONE_NEWNET).expect("root may change its network");
    let address = format!("{SERVICE}/32");
    let added = Command::new("ip").args(["address", "add", &address, "dev", "lo"]).status();
    assert!(added.expect("there is iproute2").success());
    let network = BridgeNetwork {
        conf_dir: containerd.folder("net.d"),
        plugin_dirs: Vec::new(),
        cluster_cidr: "10.244.0.0/16".to_owned(),
    };
    let file = containerd.folder("net.d").join("10-shakedown.conflist");
    std::fs::write(file, network.conflist("10.244.1.0/24").to_string()).expect("a file");
}

/// The kubeconfig of a node, from the administrator's and the cluster's authority.
fn of_node(admin: &Value, certificates: &Value) -> String {
    let authority = |part: &str| certificates["authority"][part].as_str().expect("it is kept");
    let key = KeyPair::from_pem(authority("key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(authority("certificate"), key).expect("an authority");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{NODE}"));
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let encoded = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    let mut config = admin.clone();
    config["users"][0]["user"] = json!({
        "client-certificate-data": encoded(&certificate.pem()),
        "client-key-data": encoded(&key.serialize_pem()),
    });
    config.to_string()
}

async fn client(kubeconfig: &str) -> ApiClient {
    let file = kube::config::Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
    let client = kube::Client::try_from(config.expect("it is complete"));
    ApiClient::new(vec![client.expect("it is usable")])
}

async fn create(client: &ApiClient, kind: &'static Kind, object: Value) {
    eventually(kind.kind, async || {
        client.create(kind, &Object(object.clone())).await.map_err(|error| error.to_string())
    })
    .await;
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "kubetm/app:v1"}]},
    })
}

fn right_to_read_pods() -> (Value, Value) {
    let metadata = json!({"name": "reader", "namespace": "default"});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    });
    (role, binding)
}

/// The cluster, its administrator's client, and that of its node.
async fn start_cluster(containerd: &Containerd) -> (Cluster, ApiClient, ApiClient) {
    let (kubeconfig, data) = (containerd.folder("admin"), containerd.folder("cluster"));
    let data_flag = data.display().to_string();
    let flags = ["--nodes", "0", "--bind-address", SERVICE, "--secure-port", "443"];
    let more = [&flags[..], &["--data", &data_flag]].concat();
    let cluster = common::start(&kubeconfig, &more);
    let read = |path: std::path::PathBuf| -> Value {
        let text = std::fs::read_to_string(path).expect("it was written");
        serde_json::from_str(&text).expect("it is JSON")
    };
    let admin_config = read(kubeconfig);
    let admin = client(&admin_config.to_string()).await;
    let node = client(&of_node(&admin_config, &read(data.join("certificates.json")))).await;
    (cluster, admin, node)
}

async fn a_pod_asks_who_it_is() {
    let containerd = Containerd::start().await;
    enter_network(&containerd);
    let (_cluster, admin, node) = start_cluster(&containerd).await;
    let runtime = Arc::new(CriRuntime::new(Env::os(), containerd.config()));
    let env = Env::os();
    let config = Config::new(NODE, "10.244.1.1", MachineFacts::read());
    let _kubelet = env.spawn(kubelet::run(env.clone(), node, runtime.clone(), config));
    create(&admin, &POD, pod()).await;
    let key = ObjectKey::new("default", "web");
    let pod = eventually("the pod runs", async || {
        let pod = admin.get(&POD, &key).await.map_err(|error| error.to_string())?;
        match pod.text("/status/phase") {
            "Running" => Ok(pod),
            _ => Err(pod.get("/status").map(Value::to_string).unwrap_or_default()),
        }
    })
    .await;
    let whoami = async || {
        let containers = runtime.containers(pod.uid()).await.expect("a list");
        let command = ["/testapp", "whoami"].map(str::to_owned);
        let told = runtime.exec_and_wait(&containers[0].id, &command).await.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (told.exit_code, text(&told.stdout), text(&told.stderr))
    };
    // The server knows the account by its token, and gives it nothing yet.
    let (code, _, why) = whoami().await;
    assert_eq!(code, 1, "{why}");
    let expected = "User \"system:serviceaccount:default:default\" cannot get resource \"pods\"";
    assert!(why.contains("403") && why.contains(expected), "{why}");
    let (role, binding) = right_to_read_pods();
    create(&admin, &ROLE, role).await;
    create(&admin, &ROLE_BINDING, binding).await;
    let told = eventually("the account may read its pod", async || match whoami().await {
        (0, told, _) => Ok(told),
        (_, _, why) => Err(why),
    })
    .await;
    assert_eq!(told, format!("default/web {} on {NODE}", pod.uid()));
    let options = apiclient::DeleteOptions { grace_s: Some(1), ..Default::default() };
    admin.delete(&POD, &key, &options).await.expect("it may go");
    let folder = containerd.folder("kubelet/pods").join(pod.uid());
    eventually("nothing is left of it", async || match folder.exists() {
        true => Err("its folder is there".to_owned()),
        false => Ok(()),
    })
    .await;
}
