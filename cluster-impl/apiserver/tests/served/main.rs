//! The API server from outside: one program for all these tests, as each would link everything anew.

#![expect(clippy::unwrap_used, reason = "a test ends where one of its helpers fails")]

mod custom_resources;
mod every_kind;
mod kubectl;
mod kubectl_wire;
mod loopback;
mod security;
mod serve;
mod table;
