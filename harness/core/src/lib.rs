//! The data and the traits that every stage shares. No I/O, no clock.
//!
//! `scenario` is what a person writes, `plan` is what will be done, `timeline` is what was seen,
//! `verdict` is what follows. `target`, `lever` and `fault` are the seams between the runner and a cluster.

pub mod agent;
pub mod condition;
mod expression;
pub mod fault;
pub mod json;
pub mod kinds;
pub mod lever;
mod manifests;
pub mod partial;
pub mod plan;
pub mod planner;
pub mod probe;
pub mod read;
pub mod roles;
pub mod sabotage;
pub mod scenario;
pub mod schema;
pub mod seal;
pub mod sometimes;
pub mod steps;
mod tally;
pub mod target;
pub mod timeline;
pub mod verdict;
pub mod window;
pub mod world;
pub mod yaml;
