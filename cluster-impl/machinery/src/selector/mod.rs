//! Selectors: by labels (`a=b,c in (d,e),!f`), by node labels and fields, and by fields (`status.phase!=Running`).

mod field;
mod label;
mod node;

pub use field::FieldSelector;
pub use label::{LabelSelector, Operator, Requirement, SelectorError};
pub use node::{node_affinity_preferences, node_matches, term_matches};
