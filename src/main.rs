//! The program `dissent`.
fn main() {}
