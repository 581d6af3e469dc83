//! The contract of every broker, run on the embedded one, and the further guarantees of the embedded broker.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod embedded;
mod memory_log;
mod simulation;
