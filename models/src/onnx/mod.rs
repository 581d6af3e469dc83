//! ONNX graphs, built and serialised in Rust.

pub mod autodiff;
pub mod export;
pub mod graph;
pub(crate) mod memory;
pub mod op;
pub(crate) mod proto;
#[cfg(test)]
pub(crate) mod reference;
pub mod value;

pub use graph::Graph;
pub use op::Op;
pub use value::{Dim, ElementType, Shape, Value};
