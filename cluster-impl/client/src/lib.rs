//! How a component talks to the API server: requests, caches, leases, events.
//!
//! Every component gets an [`ApiClient`]; whether a TLS socket or a simulated link lies under it, it
//! cannot tell.

mod api;
mod elector;
mod events;
mod heard;
mod informer;
mod trimmed;

pub use api::{ApiClient, ApiError, DeleteOptions, ListOptions, PatchKind};
pub use elector::{Elector, ElectorConfig, Fence};
pub use events::EventRecorder;
pub use heard::Heard;
pub use informer::{Informed, Informer, Watched};
