//! Tests of the program from outside, by its commands.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod book;
mod crash;
mod dataset;
mod detect;
mod determinism;
mod doctor;
mod feedback;
mod filters;
mod first_day;
mod history;
mod layering;
mod lift;
mod local_door;
mod many;
mod memory;
mod operator;
mod opponents;
mod pages;
mod past;
mod people;
mod pipeline;
mod report;
mod roles;
#[path = "../domain/tests/support/mod.rs"]
mod rules;
mod server;
mod study;
mod support;
mod telemetry;
mod train;
mod tuning;
