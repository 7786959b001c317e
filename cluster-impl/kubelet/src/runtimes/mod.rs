//! The runtimes: CRI for real nodes, staged for simulated ones.

pub mod cri;
mod cri_access;
mod cri_files;
mod cri_log;
mod script;
pub mod staged;
mod staged_access;
mod staged_names;
