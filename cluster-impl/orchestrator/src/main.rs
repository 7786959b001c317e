//! The orchestrator: every Kubernetes component in one binary
fn main() {}
