//! How the server reaches others: webhooks, aggregated API servers, kubelets.
//!
//! [`Sockets`] is TLS over TCP; a simulation answers in process; [`Nowhere`] reaches nobody.

mod sockets;

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::Body;

pub use sockets::{Identity, Sockets};

/// Whom to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name that the peer's certificate must be made out to; the host if empty.
    pub server_name: String,
    /// Who must have signed it.
    pub trust: Trust,
    /// Whether to show the server's own client certificate.
    pub is_identified: bool,
}

/// Whom a peer's certificate must come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// One of these authorities, in PEM.
    Authorities(Vec<u8>),
    /// Anybody: `insecureSkipTLSVerify`, or a kubelet without `--kubelet-certificate-authority`.
    Anybody,
    /// No TLS at all: a port of a pod that speaks plain HTTP.
    Plain,
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// It cannot be reached.
    #[error("dial tcp {0}: {1}")]
    Unreachable(String, String),
    /// It is not who it should be, or does not believe who asks.
    #[error("tls: {0}")]
    Tls(String),
    /// What it says is not HTTP, or breaks off.
    #[error("{0}")]
    Broken(String),
}

/// A two-way stream of bytes, after both sides have left HTTP.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// What came of asking for another protocol.
pub enum Upgraded {
    /// The peer agreed, with this head (101).
    Stream(Response<()>, Pin<Box<dyn Duplex>>),
    /// It answered in HTTP.
    Answer(Response<Body>),
}

/// The way to others.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Asks a peer. The body of the answer may go on for ever; dropped, the connection goes too.
    /// Time limits are the caller's business.
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError>;

    /// Asks a peer to leave HTTP; the request holds the headers that say so.
    async fn upgrade(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Upgraded, OutboundError>;
}

/// Reaches nobody.
pub(crate) struct Nowhere;

impl Nowhere {
    fn refusal(peer: &Peer) -> OutboundError {
        let address = format!("{}:{}", peer.host, peer.port);
        OutboundError::Unreachable(address, "this server has no way to others".to_owned())
    }
}

#[async_trait]
impl Outbound for Nowhere {
    async fn call(
        &self,
        peer: &Peer,
        _request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        Err(Self::refusal(peer))
    }

    async fn upgrade(
        &self,
        peer: &Peer,
        _request: Request<Bytes>,
    ) -> Result<Upgraded, OutboundError> {
        Err(Self::refusal(peer))
    }
}
