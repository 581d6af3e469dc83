//! The command line: one file for each command, and this one to choose between them.

mod detect;
mod exit;
mod report;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Find the answers on which a policy and its reward model disagree.
#[derive(Debug, Parser)]
#[command(name = "dissent", version, after_help = exit::HELP, propagate_version = true)]
struct Cli {
    /// Folder of the event log and the artifacts.
    #[arg(long, global = true, env = "DISSENT_DATA", default_value = ".dissent", value_name = "DIR")]
    data_dir: PathBuf,
    /// What to write to the log on stderr, such as `info` or `dissent_actors=debug`.
    #[arg(long, global = true, env = "DISSENT_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Detect(detect::DetectArgs),
    Report(report::ReportArgs),
}

/// Parses the command line, runs the command, reports an error, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_tracing(&cli.log) {
        return fail(&error);
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Detect(args) => detect::run(args),
        Command::Report(args) => report::run(&cli.data_dir, args),
    }
}

fn start_tracing(filter: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| exit::BadInput(format!("--log {filter}: {error}")))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Nothing can be done about a closed stderr.
    let _ = writeln!(std::io::stderr(), "dissent: {error:#}");
    exit::code(error)
}
