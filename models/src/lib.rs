//! Checkpoints, ONNX graphs built in Rust, sampling and scoring in ONNX Runtime.

pub mod error;

pub use error::ModelError;
