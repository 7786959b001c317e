//! shakedown: break a cluster on purpose and judge what was seen
fn main() {}
