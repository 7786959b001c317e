//! The target `sim` from outside: one program for all these tests, as each would link everything anew.

#![expect(clippy::unwrap_used, reason = "what the tests' own helpers need must be there")]

mod levers;
mod rough;
mod world;
