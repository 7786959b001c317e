//! The orchestrator under virtual time in one process.
//!
//! The very components that run in containers run here, each behind a gate by which it is frozen and
//! killed, over etcd members in memory, joined by links that stall as TCP does. Nothing but the
//! binary is needed; the same seed gives the same bytes.
//! Invariant: nothing here reads a clock of the machine or draws randomness of its own, and every
//! task belongs to the world or to a simulated process.

mod components;
mod kubelets;
mod levers;
mod limits;
mod link;
mod meddle;
mod net;
mod node;
mod observe;
mod operator;
mod probes;
mod supervisor;
mod target;
mod watching;
mod wire;
mod world;

pub use limits::{LimitReached, RunLimits, requests, run, run_within};
pub use operator::Operator;
pub use target::{SimTarget, sabotages};
