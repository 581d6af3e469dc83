//! `cargo xtask`: the commands of developers and CI. `fetch` fills the cache, `test` runs the whole suite,
//! `ci` runs everything that must hold before a merge. `cargo xtask --help` lists all commands with an
//! example each.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod book;
mod cache;
mod checks;
mod ci;
mod cuda_plan;
mod demo;
mod faults;
mod fetch;
mod golden;
mod lint;
mod packages;
mod pages;
mod process;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An example for every command, shown below the list of commands.
const EXAMPLES: &str = "\
Examples:
  cargo xtask fetch                        download ONNX Runtime and SmolLM2 into the cache folder
  cargo xtask test                         run every test
  cargo xtask lint --only circles          look for import circles between files
  cargo xtask doc                          build the documentation; a warning is an error
  cargo xtask book                         check every link and build the book
  cargo xtask ci                           run every check that a merge requires
  cargo xtask demo --fresh                 run the demo from the start and open its report
  cargo xtask faults --rounds 5 --seed 7   run the fault campaign with five experiments
  cargo xtask cuda-plan --family llama     check without a GPU that Llama's graphs are placed on CUDA
  cargo xtask bench --only log             measure durable appends
  cargo xtask pages                        check the HTML pages in a browser
  cargo xtask golden                       regenerate the golden files
  cargo xtask deny                         check licences, bans and sources of dependencies
  cargo xtask msrv                         compile with the oldest supported Rust
  cargo xtask features                     compile without default features, and with s3,amqps";

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of developers and CI", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Download ONNX Runtime and SmolLM2 into the cache folder, and check their checksums
    Fetch,
    /// Set up and run the whole test suite, documentation tests included
    Test(suite::TestOptions),
    /// Check formatting, comment width, words, import circles, workflows and clippy's lints
    Lint(lint::LintOptions),
    /// Build the documentation of all crates; a warning is an error
    Doc,
    /// Check the links of all pages and build the book; run its commands on request
    Book(book::BookOptions),
    /// Run lint, doc, book and test, as CI does
    Ci,
    /// Run one round on 24 prompts, with a real policy, a real reward model and an oracle, and open the
    /// report
    Demo(demo::DemoOptions),
    /// Run the fault campaign: experiments on RabbitMQ under injected faults
    Faults(faults::FaultsOptions),
    /// Check, without a GPU, that ONNX Runtime places every graph of every family on CUDA
    CudaPlan(cuda_plan::CudaPlanOptions),
    /// Measure against reference implementations and show figures, ratios and targets
    Bench(bench::BenchOptions),
    /// Regenerate the golden files of the tests with the reference Python
    Golden,
    /// Check the HTML pages in Chromium with axe-core, or take the pictures of the documentation
    Pages(pages::PagesOptions),
    /// Check licences, bans and sources of all dependencies with cargo-deny
    Deny(checks::DenyOptions),
    /// Compile the workspace with the oldest supported Rust (`rust-version` in Cargo.toml)
    Msrv,
    /// Compile the program without default features, and with s3 and amqps
    Features,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Fetch => fetch::fetch_all(),
        Task::Test(options) => suite::run(&options),
        Task::Lint(options) => lint::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Faults(options) => faults::run(&options),
        Task::CudaPlan(options) => cuda_plan::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Book(options) => book::run(&options),
        Task::Golden => golden::run(),
        Task::Pages(options) => pages::run(&options),
        Task::Doc => checks::doc(),
        Task::Ci => ci::run(),
        Task::Deny(options) => checks::deny(&options),
        Task::Msrv => checks::msrv(),
        Task::Features => checks::features(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
