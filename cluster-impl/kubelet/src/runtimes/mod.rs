//! The runtimes: CRI for real nodes, staged for simulated ones.

pub mod cri;
mod script;
pub mod staged;
