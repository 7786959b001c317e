//! The workload image: one static binary that serves, crashes and burns on demand
fn main() {}
