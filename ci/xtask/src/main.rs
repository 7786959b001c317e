//! Project chores: tidy, image, docs
fn main() {}
