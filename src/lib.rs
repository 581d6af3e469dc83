#![doc = include_str!("../ARCHITECTURE.md")]

pub mod cli;
mod client;
mod compare;
pub mod config;
pub mod dataset;
pub mod error;
pub mod experiment;
mod explanation;
mod feedback;
mod files;
mod forecast;
pub mod gold;
mod history;
mod http_client;
mod installation;
pub mod jsonl;
mod log_access;
mod memory;
mod pages;
mod progress;
pub mod report;
#[cfg(test)]
#[path = "../tests/support/required.rs"]
mod required;
mod serving;
mod socket_path;
pub mod study;
mod tables;
mod telemetry;
mod text;
