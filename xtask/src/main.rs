//! `cargo xtask`: what a newcomer and CI run. `fetch` fills the cache, `test` runs the whole suite, `demo` finds the
//! conflicts of 24 prompts, `faults` disturbs experiments on RabbitMQ, `bench` measures against reference implementations.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod book;
mod cache;
mod demo;
mod faults;
mod fetch;
mod golden;
mod lint;
mod packages;
mod process;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a newcomer and CI run", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fill the cache folder: ONNX Runtime and SmolLM2, by pinned checksums
    Fetch,
    /// Set up and run the whole test suite, documentation tests included
    Test(suite::TestOptions),
    /// Check formatting, comments, import circles, workflows and clippy's lints
    Lint(lint::LintOptions),
    /// Run one round on 24 prompts, with a real policy, a real reward model and an oracle, and open the report
    Demo(demo::DemoOptions),
    /// Run the fault campaign: experiments on RabbitMQ to which everything happens
    Faults(faults::FaultsOptions),
    /// Measure against reference implementations and show figures, ratios and targets
    Bench(bench::BenchOptions),
    /// Check the links of all pages and build the book; run its commands if asked
    Book(book::BookOptions),
    /// Make the golden files of the tests again, with the reference Python
    Golden,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Fetch => fetch::fetch_all(),
        Task::Test(options) => suite::run(&options),
        Task::Lint(options) => lint::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Faults(options) => faults::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Book(options) => book::run(&options),
        Task::Golden => golden::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
