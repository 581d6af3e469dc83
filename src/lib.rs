#![doc = include_str!("../ARCHITECTURE.md")]

pub mod cli;
pub mod jsonl;
pub mod report;
