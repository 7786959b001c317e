//! The conformance suite on a real etcd member with TLS, started for the test.
//!
//! Needs the program `etcd` (`apt-get install etcd-server`, or the variable `ETCD`). A machine that
//! cannot have it sets `SHAKEDOWN_NO_ETCD=1`, and the test says by that name what was not tested.

#![expect(clippy::unwrap_used, reason = "what the tests' own helpers need must be there")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use shakedown_storage::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use shakedown_storage::{Store, StoreError, conformance};

struct Member {
    process: Child,
    _data: tempfile::TempDir,
    config: EtcdConfig,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two ports that were free a moment ago.
fn free_ports() -> (u16, u16) {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let (one, other) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    (port(&one), port(&other))
}

/// Writes an authority and one certificate for everybody; answers what a client needs.
fn certificates(folder: &Path) -> EtcdTls {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let tls = EtcdTls { ca: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() };
    std::fs::write(folder.join("ca.pem"), &tls.ca).unwrap();
    std::fs::write(folder.join("member.pem"), &tls.certificate).unwrap();
    std::fs::write(folder.join("member.key"), &tls.key).unwrap();
    tls
}

/// Starts a member; `None` if the machine is declared to have no etcd.
fn start() -> Option<Member> {
    let program = std::env::var("ETCD").unwrap_or_else(|_| "etcd".to_owned());
    let data = tempfile::tempdir().unwrap();
    let tls = certificates(data.path());
    let (client, peer) = free_ports();
    let (client_url, peer_url) =
        (format!("https://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let file = |name: &str| data.path().join(name).display().to_string();
    let process = Command::new(&program)
        .args(["--name", "one", "--data-dir", &file("data"), "--log-level", "error"])
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("one={peer_url}"), "--client-cert-auth"])
        .args(["--trusted-ca-file", &file("ca.pem"), "--cert-file", &file("member.pem")])
        .args(["--key-file", &file("member.key")])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn();
    match process {
        Ok(process) => {
            let config = EtcdConfig::new(vec![client_url], Some(tls));
            Some(Member { process, _data: data, config })
        }
        Err(error) if std::env::var_os("SHAKEDOWN_NO_ETCD").is_some() => {
            eprintln!("NOT TESTED: the store on a real etcd ({program}: {error})");
            None
        }
        Err(error) => panic!(
            "cannot start `{program}`: {error}\nhint: install etcd-server, or set ETCD to the \
             program, or set SHAKEDOWN_NO_ETCD=1 to leave this out"
        ),
    }
}

/// Waits until the member answers.
async fn ready(store: &dyn Store) {
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let asking = async {
        while !matches!(store.status().await, Ok(status) if status.leader != 0) {
            pace.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect("etcd starts");
}

#[tokio::test(flavor = "current_thread")]
async fn real_etcd_conforms() {
    let Some(mut member) = start() else { return };
    let config = EtcdConfig { request_timeout: Duration::from_secs(3), ..member.config.clone() };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(&config).await.unwrap());
    ready(store.as_ref()).await;
    let status = store.status().await.unwrap();
    assert_eq!(status.leader, status.member);
    assert!(status.term > 0 && status.revision == 1, "{status:?}");
    assert_eq!(conformance::run_all(&store).await, []);
    a_dead_member_is_unavailable(&mut member, store.as_ref()).await;
}

async fn a_dead_member_is_unavailable(member: &mut Member, store: &dyn Store) {
    let mut watch = store.watch(shakedown_storage::KeyRange::prefix("x"), 0).await.unwrap();
    member.process.kill().unwrap();
    member.process.wait().unwrap();
    let end = loop {
        match futures::StreamExt::next(&mut watch).await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(StoreError::Unavailable(_)))), "{end:?}");
    let read = shakedown_storage::RangeRequest::latest(shakedown_storage::KeyRange::key("x"));
    let read = store.range(read).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    let op = shakedown_storage::Op::Delete(shakedown_storage::KeyRange::key("x"));
    let write = store.txn(shakedown_storage::Txn { success: vec![op], ..Default::default() }).await;
    // The second attempt finds the connection refused: nothing was sent.
    assert!(matches!(write, Err(StoreError::Unavailable(_))), "{write:?}");
}
