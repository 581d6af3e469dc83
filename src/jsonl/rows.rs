//! The rows of a file as JSON texts, in any container.

mod array;
mod compression;
mod container;
pub(super) mod lines;
mod parquet;
pub(super) mod row;
mod separated;

pub(super) use container::{open, open_stdin};
