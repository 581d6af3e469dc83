//! What every broker must keep, run on the embedded one, and what only the embedded one promises.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod embedded;
mod memory_log;
mod simulation;
