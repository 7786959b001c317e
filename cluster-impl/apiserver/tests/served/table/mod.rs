//! A table of attempts: each is made over a real socket, and its answer compared and written down.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::loopback::Loopback;

/// No answer takes longer, on the slowest machine.
const LONGEST: Duration = Duration::from_secs(30);

/// What somebody shows.
#[derive(Clone)]
pub struct Identity {
    certificate: Option<(String, String)>,
    headers: Vec<(String, String)>,
}

impl Identity {
    pub fn nobody() -> Self {
        Self { certificate: None, headers: Vec::new() }
    }

    pub fn certificate(pair: (String, String)) -> Self {
        Self { certificate: Some(pair), headers: Vec::new() }
    }

    pub fn token(token: &str) -> Self {
        Self::nobody().with(&[("Authorization", &format!("Bearer {token}"))])
    }

    /// The same with further headers.
    pub fn with(mut self, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.headers.extend(headers);
        self
    }
}

/// The table, as far as it has come.
pub struct Table<'l> {
    pub loopback: &'l Loopback,
    text: String,
    wrong: Vec<String>,
}

impl<'l> Table<'l> {
    /// An empty table, once the server is ready.
    pub async fn new(loopback: &'l Loopback) -> Self {
        let table = Self { loopback, text: String::new(), wrong: Vec::new() };
        table.settle(&Identity::nobody(), "/readyz", 200).await;
        table
    }

    pub fn user(&self, name: &str, groups: &[&str]) -> Identity {
        Identity::certificate(self.loopback.certificate(name, groups))
    }

    pub fn admin(&self) -> Identity {
        self.user("kubernetes-admin", &["system:masters"])
    }

    pub fn chapter(&mut self, title: &str) {
        let _ = write!(self.text, "\n## {title}\n\n| tried | request | answer |\n|---|---|---|\n");
    }

    /// Waits until a path is answered with this code: what was written is followed with a delay.
    pub async fn settle(&self, identity: &Identity, path: &str, code: u16) {
        let limit = tokio::time::Instant::now() + LONGEST;
        loop {
            let answer = self.ask(identity, ("GET", path), &[]).await;
            if answer.starts_with(&code.to_string()) {
                return;
            }
            assert!(tokio::time::Instant::now() < limit, "{path} is answered {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn get(&mut self, what: &str, identity: &Identity, path: &str, expected: &str) {
        self.bytes(what, identity, ("GET", path, &[]), expected).await;
    }

    pub async fn send(
        &mut self,
        what: &str,
        identity: &Identity,
        (method, path, body): (&str, &str, &Value),
        expected: &str,
    ) {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let identity = identity.clone().with(&[("Content-Type", media)]);
        self.bytes(what, &identity, (method, path, body.to_string().as_bytes()), expected).await;
    }

    pub async fn bytes(
        &mut self,
        what: &str,
        identity: &Identity,
        (method, path, body): (&str, &str, &[u8]),
        expected: &str,
    ) {
        let answer = self.ask(identity, (method, path), body).await;
        self.note(what, &format!("{method} {path}"), &answer, expected);
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, what: &str, identity: &Identity, text: &str, expected: &str) {
        let answer = self.exchange(identity, text.as_bytes()).await;
        let shown = text.lines().next().unwrap_or_default();
        let shown = if shown.len() > 60 { "GET /y…" } else { shown };
        let code = answer.split(' ').next().unwrap_or_default().to_owned();
        self.note(what, shown, &code, expected);
    }

    /// Opens a connection and says nothing.
    pub async fn silent(&mut self, what: &str, expected: &str) {
        let mut socket = TcpStream::connect(self.loopback.address).await.expect("it listens");
        let mut byte = [0];
        let ended = tokio::time::timeout(LONGEST, socket.read(&mut byte)).await;
        let answer = if matches!(ended, Ok(Ok(0) | Err(_))) { "closed" } else { "open" };
        self.note(what, "", answer, expected);
    }

    /// Opens many watches on one connection, and asks for something on another.
    pub async fn many_streams(
        &mut self,
        what: &str,
        identity: &Identity,
        count: usize,
        expected: &str,
    ) {
        let stream = self.connect(identity, b"h2").await.expect("a good certificate");
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        let env = env::Env::os();
        let _connection = env.spawn(async move {
            let _ = connection.await;
        });
        let (done, mut answered) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for _ in 0..count {
            let (mut sender, done) = (sender.clone(), done.clone());
            let uri = format!("https://{}/api/v1/pods?watch=1", self.loopback.address);
            let request = http::Request::get(uri).body(Full::default()).expect("it is well formed");
            tasks.push(env.spawn(async move {
                let answer = sender.send_request(request).await;
                let _ = done.send(());
                // The stream is held open.
                let _answer = answer;
                std::future::pending::<()>().await;
            }));
        }
        let mut found = 0;
        while tokio::time::timeout(Duration::from_secs(3), answered.recv()).await.is_ok() {
            found += 1;
        }
        let other = self.ask(identity, ("GET", "/api"), &[]).await;
        assert!(other.starts_with("200"), "others are served meanwhile: {other}");
        let answer = format!("{found} answered, {} wait", count - found);
        self.note(what, "GET /api/v1/pods?watch=1", &answer, expected);
    }

    /// Creates something as an administrator.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let identity = self.admin().with(&[("Content-Type", "application/json")]);
        let request = request(&identity, ("POST", path), body.to_string().as_bytes());
        let answer = self.exchange(&identity, &request).await;
        let (code, body) = answer.split_once(' ').expect("an answer has a code");
        assert_eq!(code, "201", "POST {path}: {body}");
        serde_json::from_str(body).expect("an answer is JSON")
    }

    /// Deletes something as an administrator.
    pub async fn delete(&self, path: &str) {
        let answer = self.ask(&self.admin(), ("DELETE", path), &[]).await;
        assert!(answer.starts_with("200"), "DELETE {path}: {answer}");
    }

    /// The code of an answer, and the reason if it is a `Status`.
    async fn ask(&self, identity: &Identity, asked: (&str, &str), body: &[u8]) -> String {
        let answer = self.exchange(identity, &request(identity, asked, body)).await;
        let (code, body) = answer.split_once(' ').unwrap_or((&answer, ""));
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        match body["reason"].as_str() {
            Some(reason) if body["kind"] == "Status" => format!("{code} {reason}"),
            _ => code.to_owned(),
        }
    }

    /// Sends bytes; the code and the body of what comes back, or `closed`.
    async fn exchange(&self, identity: &Identity, bytes: &[u8]) -> String {
        let talk = async {
            let mut stream = self.connect(identity, b"http/1.1").await?;
            // The server may answer, and close, before it has read all.
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(LONGEST, talk).await.expect("every answer ends");
        let answer = answer.unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        let Some(rest) = text.strip_prefix("HTTP/1.1 ") else { return "closed".to_owned() };
        let code = rest.split(' ').next().unwrap_or_default();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        format!("{code} {body}")
    }

    async fn connect(
        &self,
        identity: &Identity,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.loopback.ca_pem.as_bytes());
        roots.add(ca.expect("its own certificate")).expect("it is an authority");
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring knows TLS 1.2 and 1.3")
                .with_root_certificates(roots);
        let mut config = match &identity.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a PEM")],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a PEM"),
                )
                .expect("the key fits"),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(self.loopback.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    fn note(&mut self, what: &str, request: &str, answer: &str, expected: &str) {
        let request = request.replace('|', "\\|");
        let shown = if request.is_empty() { String::new() } else { format!("`{request}`") };
        let _ = writeln!(self.text, "| {what} | {shown} | {answer} |");
        if answer != expected {
            self.wrong.push(format!("{what} ({request}): {answer}, not {expected}"));
        }
    }

    /// Compares the table with what it should be, and with the file.
    pub fn compare(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results/security.md");
        let head = "# The security table\n\nWhat is tried at the door of the API server, over TLS \
                    sockets, and how it is answered.\nWritten and kept true by \
                    `cluster-impl/apiserver/tests/security.rs`; `UPDATE_RESULTS=1` writes it anew.\n\
                    Bound of a token's end: none, for its account and its pod are read from the store \
                    at every request.\n";
        let table = format!("{head}{}", self.text);
        if std::env::var_os("UPDATE_RESULTS").is_some() {
            std::fs::write(&path, &table).expect("the folder of results can be written");
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(known == table, "results/security.md is not true: write it with UPDATE_RESULTS=1");
    }
}

fn request(identity: &Identity, (method, path): (&str, &str), body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in &identity.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    let mut bytes = format!("{head}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
