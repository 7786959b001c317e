//! The runtimes: CRI for real nodes, staged for simulated ones.

pub mod cri;
mod cri_files;
mod script;
pub mod staged;
