#![doc = include_str!("../ARCHITECTURE.md")]

mod backups;
mod bundle;
pub mod cli;
pub mod config;
mod copies;
pub mod dataset;
mod error;
pub mod gold;
mod history;
pub mod inbox;
pub mod jsonl;
pub mod loading;
mod opening;
pub mod planning;
mod progress;
pub mod prompts;
pub mod report;
#[cfg(test)]
#[path = "../tests/support/required.rs"]
mod required;
mod running;
mod serving;
pub mod study;
mod telemetry;
mod token;
