//! What an API server is told at its start, who asks, and what it tells of every write.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use env::Timestamp;
use machinery::ObjectKey;

use crate::admission::Plugins;
use crate::audit::AuditTrail;
use crate::authentication::{ServiceAccounts, StaticTokens};
use crate::cache::Decoded;
use crate::encryption::EncryptionSettings;
use crate::outbound::{Nowhere, Outbound};

/// Where the lines about writes go.
pub type AuditSink = Arc<dyn Fn(AuditLine) + Send + Sync>;

/// Tells figures in the text form that Prometheus reads.
pub type Figures = Arc<dyn Fn() -> String + Send + Sync>;

/// Settings of one API server.
#[derive(Clone)]
pub struct Config {
    /// The node it runs on, such as `cp-1`.
    pub node: String,
    /// How often an idle watch that allows bookmarks gets one.
    pub bookmark_period: Duration,
    /// How often old revisions are forgotten; what was the latest one period ago stays readable.
    pub compaction_period: Duration,
    /// `--request-timeout`: a request other than a watch is given up after this long.
    pub request_timeout: Duration,
    /// `--min-request-timeout`: a watch without `timeoutSeconds` lasts this long, or up to twice.
    pub min_request_timeout: Duration,
    /// A client must have shaken hands, and sent its headers, within this time.
    pub header_timeout: Duration,
    /// A client must have sent its body within this time.
    pub body_timeout: Duration,
    /// The largest request body, in bytes.
    pub body_bytes_max: usize,
    /// `--max-requests-inflight`: so many reads at once; 0 for any number.
    pub max_requests_inflight: usize,
    /// `--max-mutating-requests-inflight`: so many writes at once; 0 for any number.
    pub max_mutating_requests_inflight: usize,
    /// How deep a request body may nest.
    pub nesting_max: usize,
    /// `--default-not-ready-toleration-seconds`
    pub not_ready_toleration_s: i64,
    /// `--default-unreachable-toleration-seconds`
    pub unreachable_toleration_s: i64,
    /// `--service-cluster-ip-range`: where Services get their addresses from.
    pub service_cluster_ip_range: String,
    /// `--authorization-mode`: who decides whether a request is allowed, in this order.
    pub authorization_modes: Vec<AuthorizationMode>,
    /// `--enable-admission-plugins`, `--disable-admission-plugins`
    pub admission: Plugins,
    /// Who signs tokens of service accounts, and whose are taken; nobody if absent.
    pub service_accounts: Option<Arc<ServiceAccounts>>,
    /// `--token-auth-file`
    pub static_tokens: StaticTokens,
    /// `--enable-bootstrap-token-auth`
    pub bootstrap_tokens: bool,
    /// `--anonymous-auth`: whether who shows nothing may ask for more than health and version, if roles
    /// allow it. Unlike upstream's, off by default.
    pub anonymous_auth: bool,
    /// `--encryption-provider-config`: what is encrypted in the store; nothing if absent.
    pub encryption: Option<EncryptionSettings>,
    /// How the server reaches webhooks, aggregated servers and kubelets.
    pub outbound: Arc<dyn Outbound>,
    /// `--audit-policy-file`: what is written down of which requests; nothing if absent.
    pub audit_trail: Option<AuditTrail>,
    /// `--kubelet-certificate-authority`: who must have signed the certificates of kubelets, in PEM;
    /// without one they are not checked.
    pub kubelet_certificate_authority: Option<Vec<u8>>,
    /// Told of every write, also of those that were refused.
    pub audit: Option<AuditSink>,
    /// What `/metrics` says of the process, in the text form.
    pub process_metrics: Option<Figures>,
    /// What the server has decoded lately. Servers in one process may share it.
    pub decoded: Arc<Decoded>,
}

impl Config {
    /// The documented defaults.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            bookmark_period: Duration::from_secs(10),
            compaction_period: Duration::from_secs(300),
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            body_bytes_max: 3 * 1024 * 1024,
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            nesting_max: 100,
            not_ready_toleration_s: 300,
            unreachable_toleration_s: 300,
            service_cluster_ip_range: "10.96.0.0/12".to_owned(),
            authorization_modes: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            admission: Plugins::default(),
            service_accounts: None,
            static_tokens: StaticTokens::default(),
            bootstrap_tokens: false,
            anonymous_auth: false,
            encryption: None,
            outbound: Arc::new(Nowhere),
            audit_trail: None,
            kubelet_certificate_authority: None,
            audit: None,
            process_metrics: None,
            decoded: Arc::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new("localhost")
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("bookmark_period", &self.bookmark_period)
            .field("compaction_period", &self.compaction_period)
            .field("audited", &self.audit.is_some())
            .finish_non_exhaustive()
    }
}

/// Who decides whether a request is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// Everybody may do everything.
    AlwaysAllow,
    /// A kubelet may do what the pods of its node need.
    Node,
    /// Roles and their bindings decide.
    Rbac,
}

impl FromStr for AuthorizationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "AlwaysAllow" => Ok(Self::AlwaysAllow),
            "Node" => Ok(Self::Node),
            "RBAC" => Ok(Self::Rbac),
            other => Err(format!("{other:?} is none of AlwaysAllow, Node and RBAC")),
        }
    }
}

/// One write, as it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// When it ended, by the server's wall clock.
    pub at: Timestamp,
    /// Who asked.
    pub user: String,
    /// create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    /// The kind's id, such as `pods` or `deployments.apps`.
    pub kind: String,
    /// The object.
    pub key: ObjectKey,
    /// Such as `status` or `binding`; empty for the object itself.
    pub subresource: String,
    /// The HTTP status code of the answer.
    pub code: u16,
    /// The store's revision that the write made; 0 if it changed nothing.
    pub revision: i64,
    /// The fence that the writer showed, as `<lock>/<identity>/<transitions>`.
    pub fence: Option<String>,
    /// What webhooks and policies had to say.
    pub annotations: BTreeMap<String, String>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The certificate's common name.
    pub name: String,
    /// The certificate's organisations, and `system:authenticated`.
    pub groups: Vec<String>,
    /// An identity that outlives the name; empty if there is none.
    pub uid: String,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The name of somebody who showed no certificate.
    pub const ANONYMOUS: &'static str = "system:anonymous";

    /// A user; who is not anonymous is in `system:authenticated` too.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self::with_groups(name, groups.iter().map(|group| (*group).to_owned()).collect())
    }

    /// Like [`User::new`].
    pub fn with_groups(name: &str, mut groups: Vec<String>) -> Self {
        const AUTHENTICATED: &str = "system:authenticated";
        if name != Self::ANONYMOUS && !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, uid: String::new(), extra: BTreeMap::new() }
    }

    /// Somebody who showed no certificate; may only ask for the server's health.
    pub fn anonymous() -> Self {
        Self::new(Self::ANONYMOUS, &["system:unauthenticated"])
    }

    /// Whether nobody vouches for the name.
    pub fn is_anonymous(&self) -> bool {
        self.name == Self::ANONYMOUS
    }
}
