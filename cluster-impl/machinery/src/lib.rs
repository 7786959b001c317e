//! Kinds, objects, quantities, selectors, patches, defaulting, validation and tables.
//!
//! Pure functions over JSON: no I/O, no clock, no randomness. An object is a `serde_json::Value`, so
//! unknown fields survive and one code path serves built-in kinds and custom resources.

pub mod conditions;
pub mod cron;
pub mod custom;
pub mod defaulting;
pub mod discovery;
pub mod duration;
pub mod exposition;
pub mod fields;
pub mod kinds;
pub mod managed_fields;
mod object;
pub mod openapi;
pub mod openapi_v2;
pub mod patch;
pub mod pod;
pub mod pod_security;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod signing;
mod status;
pub mod table;
pub mod validation;
pub mod versions;
mod view;

pub use conditions::Condition;
pub use kinds::Kind;
pub use object::{Object, ObjectKey, OwnerReference, Taint, Toleration};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Cause, Status};
pub use view::View;
