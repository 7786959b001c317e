//! Campaigns from outside: one program for all these tests, as each would link everything anew.

mod controller_states;
mod storms;
