//! Kinds, objects, quantities, selectors, patches, defaulting, validation and tables.
//!
//! Pure functions over JSON: no I/O, no clock, no randomness. An object is a `serde_json::Value`, so
//! unknown fields survive and one code path serves built-in kinds and, later, custom resources.

pub mod kinds;
mod object;
mod status;
mod view;

pub use kinds::Kind;
pub use object::{Object, ObjectKey, OwnerReference, Taint, Toleration};
pub use status::{Cause, Status};
pub use view::View;
