//! The API server: a tower-like service over a [`storage::Store`].
//!
//! [`ApiServer::handle`] answers one request; [`serve`] puts it behind TLS sockets, a simulation calls
//! it in process. It holds no state that the store does not hold, save caches that are checked by the
//! store's own compare-then-write.
//! Invariant: every write is exactly one store transaction that compares the key's last revision, so
//! no acknowledged change is lost and no deposed leader writes.

mod accept;
mod admission;
mod aggregation;
mod allocation;
mod answer;
mod audit;
mod authentication;
mod authorization;
mod body;
mod bootstrap;
mod cache;
mod cel;
mod codec;
mod commit;
mod compaction;
mod config;
mod connect;
mod custom;
mod decode;
mod encryption;
mod endpoints;
mod fence;
#[cfg(test)]
mod field_validation_tests;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hub;
mod inflight;
mod meta;
mod metrics;
mod outbound;
mod picture;
mod protobuf;
mod query;
mod request;
mod route;
mod selection;
mod serve;
mod server;
mod service_address;
mod signing;
mod spdy;
mod status;
mod storage_key;
mod subresources;
#[cfg(test)]
mod testing;
mod verbs;
#[cfg(test)]
mod version_tests;
mod yaml_keys;

// What the tests behind sockets share with those outside of the crate names it so.
#[cfg(test)]
extern crate self as shakedown_apiserver;

pub use admission::Plugins;
pub use audit::{AuditPolicy, AuditTrail, PolicyError};
pub use authentication::x509::TlsError;
pub use authentication::{ServiceAccounts, StaticTokens, Tls};
pub use body::Body;
pub use cache::Decoded;
pub use config::{AuditLine, AuthorizationMode, Config, Figures, User};
pub use connect::upgrade::{Relay, Upgrade};
pub use encryption::{EncryptionError, EncryptionSettings};
pub use outbound::{Duplex, Identity, Outbound, OutboundError, Peer, Sockets, Trust, Upgraded};
pub use serve::{ServeError, serve};
pub use server::ApiServer;
