//! Validation: what is wrong with an object, as causes with upstream's reasons, words and field paths.

pub mod names;
