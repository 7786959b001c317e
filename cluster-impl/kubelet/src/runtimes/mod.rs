//! The runtimes: CRI for real nodes, staged for simulated ones.

pub mod cri;
mod cri_access;
mod cri_files;
pub(crate) mod cri_log;
mod cri_volumes;
mod script;
pub mod staged;
mod staged_access;
mod staged_names;
mod staged_tables;
mod staged_volumes;
