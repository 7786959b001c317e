//! A server behind a real TLS socket on the loopback device, with certificates of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use env::{Env, Task};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::RootCertStore;
use rustls_pki_types::PrivateKeyDer;
use shakedown_apiserver::{ApiServer, Config, Tls, User, serve};
use storage::memory::MemoryCluster;
use tokio::net::TcpListener;

/// A running server.
pub struct Loopback {
    /// The server.
    pub server: Arc<ApiServer>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate authority's certificate.
    pub ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    _cluster: MemoryCluster,
    /// Ends when the server has shut down.
    pub serving: Task<()>,
    _running: Task<()>,
}

impl Loopback {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        Self::with(Config::default()).await
    }

    /// Starts a server with these settings on a free port.
    pub async fn with(config: Config) -> Self {
        let env = Env::os();
        let cluster = MemoryCluster::new(env.clone(), 1);
        let server = ApiServer::new(env.clone(), cluster.member(0), config);
        let running = env.spawn(server.clone().run());
        make_account(&env, &server).await;
        let (ca_pem, issuer) = authority();
        let tls = tls(&ca_pem, &issuer);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let inner = server.clone();
        let serving = env.spawn(async move {
            serve(inner, tls, listener).await.expect("the listener is usable");
        });
        Self { server, address, ca_pem, issuer, _cluster: cluster, serving, _running: running }
    }

    /// A certificate and key for a user.
    pub fn certificate(&self, name: &str, groups: &[&str]) -> (String, String) {
        self.sign(client(name, groups))
    }

    /// Has a certificate signed as it is wanted.
    pub fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = params.signed_by(&key, &self.issuer).expect("the issuer can sign");
        (certificate.pem(), key.serialize_pem())
    }

    /// A kubeconfig for a user; without a certificate if `name` is empty.
    pub fn kubeconfig(&self, name: &str, groups: &[&str]) -> String {
        let base64 = |text: &str| {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        let user = if name.is_empty() {
            "{}".to_owned()
        } else {
            let (certificate, key) = self.certificate(name, groups);
            format!(
                "{{client-certificate-data: {}, client-key-data: {}}}",
                base64(&certificate),
                base64(&key)
            )
        };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: loopback\n\
             clusters: [{{name: loopback, cluster: {{server: 'https://{}', \
             certificate-authority-data: {}}}}}]\n\
             contexts: [{{name: loopback, context: {{cluster: loopback, user: user}}}}]\n\
             users: [{{name: user, user: {user}}}]\n",
            self.address,
            base64(&self.ca_pem),
        )
    }
}

/// Makes the account that a controller would make, as soon as its namespace is there.
async fn make_account(env: &Env, server: &Arc<ApiServer>) {
    let body = r#"{"metadata":{"name":"default"}}"#;
    for _ in 0..100 {
        let request = http::Request::post("/api/v1/namespaces/default/serviceaccounts")
            .header("content-type", "application/json")
            .body(bytes::Bytes::from_static(body.as_bytes()))
            .expect("a constant path makes a valid request");
        let user = User::new("kubernetes-admin", &["system:masters"]);
        if server.handle(user, request).await.status() == 201 {
            return;
        }
        env.sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the namespace default was never made");
}

/// The certificate of a user, before it is signed.
pub fn client(name: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names, no wrong names");
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A certificate authority of its own.
pub fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names, no wrong names");
    params.distinguished_name.push(DnType::CommonName, "loopback-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("ring makes keys");
    let certificate = params.self_signed(&key).expect("a key can sign for itself");
    (certificate.pem(), Issuer::new(params, key))
}

fn tls(ca_pem: &str, issuer: &Issuer<'static, KeyPair>) -> Tls {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let params = CertificateParams::new(names).expect("the names are well formed");
    let key = KeyPair::generate().expect("ring makes keys");
    let certificate = params.signed_by(&key, issuer).expect("the issuer can sign");
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("just written");
    roots.add(ca).expect("a certificate authority of our own");
    let own = PrivateKeyDer::try_from(key.serialize_der()).expect("just written");
    Tls::new(roots, vec![certificate.der().clone()], own).expect("the key fits the certificate")
}
