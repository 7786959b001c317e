//! Real sockets: a peer that is believed, one that is not, and peers that misbehave.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing;
use crate::{ApiServer, Config, User};

const NAME: &str = "hook.shop.svc";

/// An authority and a certificate that it signed for [`NAME`].
struct Paper {
    authority: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn paper() -> Paper {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    Paper {
        authority: authority.pem(),
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

/// What the peer does with a connection, once the request is in.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends this, then closes.
    Says(&'static str),
    /// Sends this, then says nothing more, and does not close.
    Stalls(&'static str),
    /// Sends a body that never ends.
    Endless,
}

/// A TLS peer on a port of its own; one connection after the other.
async fn peer(env: &Env, paper: &Paper, manner: Manner) -> (u16, Task<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let provider = Arc::new(ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![paper.certificate.clone()], paper.key.clone_key())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = env.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut seen = Vec::new();
            let mut piece = [0; 1024];
            while !is_whole(&seen) {
                match stream.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => seen.extend_from_slice(&piece[..count]),
                }
            }
            match manner {
                Manner::Says(text) => {
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
                Manner::Stalls(text) => {
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.flush().await;
                    std::future::pending::<()>().await;
                }
                Manner::Endless => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                    while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                }
            }
        }
    });
    (port, task)
}

/// Whether a request has come in, with all of its body.
fn is_whole(seen: &[u8]) -> bool {
    let text = String::from_utf8_lossy(seen);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    body.len() >= length.unwrap_or(0)
}

fn to(port: u16, trust: Trust) -> Peer {
    Peer {
        host: "127.0.0.1".to_owned(),
        port,
        server_name: NAME.to_owned(),
        trust,
        is_identified: false,
    }
}

fn request() -> Request<Bytes> {
    Request::post("/check?timeout=1s").body(Bytes::from_static(b"{}")).unwrap()
}

async fn call(sockets: &Sockets, peer: &Peer) -> Result<(u16, String), OutboundError> {
    let response = sockets.call(peer, request()).await?;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok((code, String::from_utf8_lossy(&body).into_owned()))
}

const FINE: Manner = Manner::Says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine");

#[tokio::test]
async fn who_is_believed_is_heard() {
    let (env, paper) = (Env::os(), paper());
    let (port, _task) = peer(&env, &paper, FINE).await;
    let sockets = Sockets::new(env, None);
    for trust in [Trust::Authorities(paper.authority.clone().into_bytes()), Trust::Anybody] {
        assert_eq!(call(&sockets, &to(port, trust)).await, Ok((200, "fine".to_owned())));
    }
}

#[tokio::test]
async fn who_is_not_believed_is_not_asked() {
    let (env, own, other) = (Env::os(), paper(), paper());
    let (port, _task) = peer(&env, &own, FINE).await;
    let sockets = Sockets::new(env, None);
    let wrong = call(&sockets, &to(port, Trust::Authorities(other.authority.into_bytes()))).await;
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    );
    let trust = Trust::Authorities(own.authority.into_bytes());
    let elsewhere = Peer { server_name: "other.shop.svc".to_owned(), ..to(port, trust) };
    assert_eq!(
        call(&sockets, &elsewhere).await.unwrap_err().to_string(),
        "tls: failed to verify certificate: x509: certificate is not valid for this name"
    );
    for nonsense in
        ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
    {
        let trust = Trust::Authorities(nonsense.as_bytes().to_vec());
        let wrong = call(&sockets, &to(port, trust)).await;
        assert!(matches!(wrong, Err(OutboundError::Tls(_))), "{nonsense:?}: {wrong:?}");
    }
}

#[tokio::test]
async fn a_closed_port_and_a_peer_without_tls_are_told_apart() {
    let env = Env::os();
    let sockets = Sockets::new(env.clone(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = env.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let spoken = call(&sockets, &to(port, Trust::Anybody)).await;
    assert!(matches!(spoken, Err(OutboundError::Tls(_))), "{spoken:?}");
    drop(plain);
    // The listener went with its task, which takes a moment.
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    while call(&sockets, &to(port, Trust::Anybody)).await.unwrap_err().to_string() != refused {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_peer_that_breaks_off_is_no_answer() {
    let (env, paper) = (Env::os(), paper());
    for (manner, expected) in [
        (Manner::Says(""), None),
        (Manner::Says("nonsense\r\n\r\n"), None),
        (Manner::Says("HTTP/1.1 200 OK\r\nContent-Le"), None),
        // A body that is cut off is what came of it: whoever reads it finds that it is not whole.
        (Manner::Says("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"a\""), Some("{\"a\"")),
    ] {
        let (port, _task) = peer(&env, &paper, manner).await;
        let sockets = Sockets::new(env.clone(), None);
        let answer = call(&sockets, &to(port, Trust::Anybody)).await;
        match expected {
            Some(body) => assert_eq!(answer, Ok((200, body.to_owned()))),
            None => assert!(matches!(answer, Err(OutboundError::Broken(_))), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_can_be_left() {
    let (env, paper) = (Env::os(), paper());
    let sockets = Sockets::new(env.clone(), None);
    let (port, _endless) = peer(&env, &paper, Manner::Endless).await;
    let mut body = sockets.call(&to(port, Trust::Anybody), request()).await.unwrap().into_body();
    let mut seen = 0;
    while seen < 1_000_000 {
        seen += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    drop(body);
    for text in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
        let (port, _task) = peer(&env, &paper, Manner::Stalls(text)).await;
        let peer = to(port, Trust::Anybody);
        let waiting = tokio::time::timeout(Duration::from_millis(200), call(&sockets, &peer));
        assert!(waiting.await.is_err(), "there is nothing to answer yet");
    }
}

/// Posts something to a server; answers the code and the message.
async fn post(server: &Arc<ApiServer>, path: &str, body: serde_json::Value) -> (u16, String) {
    let request = Request::post(path).body(Bytes::from(body.to_string())).unwrap();
    let user = User::new("admin", &["system:masters"]);
    let response = server.handle(user, request).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_webhook_is_asked_over_tls() {
    const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let (env, own, other) = (Env::os(), paper(), paper());
    // The older form of a review may be answered without a uid, and so by a text.
    let answer = Manner::Says(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 68\r\n\r\n\
         {\"response\": {\"allowed\": false, \"status\": {\"message\": \"not today\"}}}",
    );
    let (port, _task) = peer(&env, &own, answer).await;
    let outbound = Arc::new(Sockets::new(env, None));
    let server = testing::server(Config { outbound, ..Config::default() });
    let named = |name: &str| json!({"metadata": {"name": name}});
    assert_eq!(post(&server, "/api/v1/namespaces", named("shop")).await.0, 201);
    let mut service = named("hook");
    service["spec"] = json!({"type": "ExternalName", "externalName": "localhost"});
    let services = "/api/v1/namespaces/shop/services";
    assert_eq!(post(&server, services, service).await, (201, String::new()));
    let service = json!({"service": {"name": "hook", "namespace": "shop", "port": port}});
    let url = json!({"url": format!("https://127.0.0.1:{port}/check")});
    for (name, client, authority, expected) in [
        ("a", &service, &own.authority, (400, "denied the request: not today")),
        ("b", &service, &other.authority, (500, "certificate signed by unknown authority")),
        ("c", &url, &own.authority, (500, "certificate is not valid for this name")),
    ] {
        let mut client = client.clone();
        client["caBundle"] = STANDARD.encode(authority).into();
        let mut body = named(name);
        body["webhooks"] = json!([{
            "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1beta1"],
            "sideEffects": "None", "clientConfig": client,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["namespaces"]}],
        }]);
        assert_eq!(post(&server, HOOKS, body).await, (201, String::new()));
        // The server needs a moment to see that one configuration went and another came.
        let (code, message) = loop {
            let answer = post(&server, "/api/v1/namespaces", named(&format!("{name}-1"))).await;
            if answer.1.contains(&format!("\"{name}.example.com\"")) {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(code, expected.0, "{message}");
        assert!(message.ends_with(expected.1), "{message}");
        let gone = Request::delete(format!("{HOOKS}/{name}")).body(Bytes::new()).unwrap();
        let user = User::new("admin", &["system:masters"]);
        assert_eq!(server.handle(user, gone).await.status(), 200);
    }
}

#[tokio::test]
async fn who_does_not_answer_is_given_up() {
    const PATIENCE: Duration = Duration::from_millis(200);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody takes connections, and the kernel holds hardly any.
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = Sockets {
        connect_timeout: PATIENCE,
        handshake_timeout: PATIENCE,
        ..Sockets::new(Env::os(), None)
    };
    let ask = async |trust: Trust| {
        let peer = Peer {
            host: "127.0.0.1".to_owned(),
            port: address.port(),
            server_name: String::new(),
            trust,
            is_identified: false,
        };
        let request = Request::get("/").body(Bytes::new()).unwrap();
        sockets.call(&peer, request).await.err().unwrap().to_string()
    };
    assert_eq!(ask(Trust::Anybody).await, "net/http: TLS handshake timeout");
    let mut held = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        held.push(stream);
        assert!(held.len() < 1000, "the queue never fills");
    }
    assert_eq!(ask(Trust::Plain).await, format!("dial tcp {address}: i/o timeout"));
}
