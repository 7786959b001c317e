//! The docker target: a cluster of node containers, its levers, its probes and its cleaning up.
//!
//! testcontainers launches the nodes, bollard does the rest. Everything in Docker carries the labels of
//! `labels.rs`; faults are held by the agents and die with them, or are in the undo log and are taken
//! back by `heal`; what is left is swept by label. Nothing here needs root on the host, only Docker.

mod binaries;
mod boot;
mod docker;
mod doctor;
mod etcd;
mod eyes;
mod heal;
mod image;
mod labels;
mod launch;
mod levers;
mod link;
mod network;
mod node_files;
mod pki;
mod probes;
mod reaper;
mod record;
mod sweep;
mod target;
mod trial;

pub use binaries::{BIN_DIR_VARIABLE, Binaries};
pub use doctor::{Finding, State, doctor};
pub use heal::{Healed, heal};
pub use launch::CAPABILITIES;
pub use reaper::{Reaper, Reaping, reap_main, spawn_reaper};
pub use record::{ClusterDir, NodeRecord, Record, default_state_dir};
pub use sweep::{Leftover, Sweep, list_leftovers, sweep};
pub use target::{DockerTarget, Options};
