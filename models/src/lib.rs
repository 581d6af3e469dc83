//! Checkpoints, ONNX graphs built in Rust, and sampling, scoring and training in ONNX Runtime.

pub mod adapter;
pub mod arch;
pub mod cache;
pub mod checkpoint;
pub mod error;
pub mod generation;
pub mod implicit_reward;
pub mod inspect;
mod jinja;
pub mod memory;
pub mod onnx;
pub mod processor;
#[cfg(test)]
#[path = "../../tests/support/random.rs"]
mod random;
#[cfg(test)]
#[path = "../../tests/support/required.rs"]
mod required;
pub mod runtime;
mod sampling;
pub mod scoring;
mod session;
mod start;
pub mod template;
pub mod training;
pub mod tuning;

pub use error::{InvalidKind, ModelError};
