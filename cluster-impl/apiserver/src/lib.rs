//! The API server: a tower-like service over a [`storage::Store`].
//!
//! [`ApiServer::handle`] answers one request; [`serve`] puts it behind TLS sockets, a simulation calls
//! it in process. It holds no state that the store does not hold, save caches that are checked by the
//! store's own compare-then-write.
//! Invariant: every write is exactly one store transaction that compares the key's last revision, so
//! no acknowledged change is lost and no deposed leader writes.

mod accept;
mod admission;
mod allocation;
mod answer;
mod authorization;
mod body;
mod bootstrap;
mod cache;
mod codec;
mod commit;
mod compaction;
mod config;
mod decode;
mod endpoints;
mod fence;
mod hub;
mod meta;
mod metrics;
mod protobuf;
mod query;
mod request;
mod route;
mod selection;
mod serve;
mod server;
mod signing;
mod status;
mod storage_key;
mod subresources;
#[cfg(test)]
mod testing;
mod verbs;
#[cfg(test)]
mod version_tests;

pub use body::Body;
pub use config::{AuditLine, AuthorizationMode, Config, User};
pub use serve::{ServeError, serve};
pub use server::ApiServer;
