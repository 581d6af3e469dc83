//! Checkpoints, ONNX graphs built in Rust, sampling and scoring in ONNX Runtime.

pub mod adapter;
pub mod cache;
pub mod checkpoint;
pub mod error;
pub mod template;

pub use error::ModelError;
