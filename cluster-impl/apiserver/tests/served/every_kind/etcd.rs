//! A real etcd member for a test, without TLS.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use storage::Store;

/// A member that ends with its handle.
pub struct Member {
    process: Child,
    _data: tempfile::TempDir,
    /// Where clients reach it.
    pub url: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a member; `None` if the machine is declared to have no etcd.
pub fn start() -> Option<Member> {
    let program = std::env::var("ETCD").unwrap_or_else(|_| "etcd".to_owned());
    let data = tempfile::tempdir().unwrap();
    // Two ports that were free a moment ago.
    let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let (client, peer) = (listen(), listen());
    let [url, peer_url] = [client, peer].map(|listener| {
        format!("http://127.0.0.1:{}", listener.local_addr().expect("it is bound").port())
    });
    let process = Command::new(&program)
        .args(["--name", "one", "--log-level", "error", "--data-dir"])
        .arg(data.path())
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("one={peer_url}")])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn();
    match process {
        Ok(process) => Some(Member { process, _data: data, url }),
        Err(error) if std::env::var_os("SHAKEDOWN_NO_ETCD").is_some() => {
            eprintln!("NOT TESTED: every kind on a real etcd ({program}: {error})");
            None
        }
        Err(error) => panic!(
            "cannot start `{program}`: {error}\nhint: install etcd-server, or set ETCD to the \
             program, or set SHAKEDOWN_NO_ETCD=1 to leave this out"
        ),
    }
}

/// Waits until the member answers.
pub async fn ready(store: &dyn Store) {
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let asking = async {
        while !matches!(store.status().await, Ok(status) if status.leader != 0) {
            pace.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect("etcd starts");
}
