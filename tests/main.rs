//! The program as its users meet it.

mod crash;
mod detect;
mod determinism;
mod layering;
mod pipeline;
mod report;
mod support;
