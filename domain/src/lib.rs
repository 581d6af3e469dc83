//! The rules of conflict-aware alignment, pure: no clock, no thread, no file, no network, no ONNX.

pub mod generation;
pub mod id;
