//! The agent that the docker target runs inside a node container
fn main() {}
