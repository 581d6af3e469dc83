//! ONNX graphs, built and written in Rust.

pub mod export;
pub mod graph;
pub mod op;
pub(crate) mod proto;

pub use graph::{Dim, ElementType, Graph, Shape, Value};
pub use op::Op;
