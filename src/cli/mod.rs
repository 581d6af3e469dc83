//! The command line. Each command has its own file; this one parses the arguments and calls it.

mod compare;
mod completions;
mod detect;
mod doctor;
mod eval;
mod experiment;
mod experiment_arg;
mod feedback;
mod generate;
mod health;
mod init;
mod interrupt;
mod lift;
mod log;
mod model;
mod paths;
mod point_args;
mod queue;
mod replay;
mod report;
mod reward_model;
mod run;
mod runtime_args;
mod schema;
mod score;
mod serve;
mod server;
mod spelling;
mod study;
mod suggestion;
mod too_long;
mod train;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use paths::data_dir;

use crate::error::FailureKind;
use crate::files;
use crate::log_access::ownership;
use crate::telemetry::{self, LogFormat, Settings, Telemetry};

/// Shown at the end of `dissent --help`.
const AFTER_HELP: &str = "\
Examples:
  dissent doctor                            check that this machine has everything a run needs
  dissent init                              write a configuration; asks for prompts and models
  dissent run experiment.toml               find the conflicts, and write a report
  dissent detect --input scored.jsonl       find the conflicts in your own completions and scores, without a model

Exit codes:
  0    done
  1    failed: the message gives the reason
  2    bad usage, configuration or input: nothing was changed
  3    the event log is damaged, or a replay differs from the recorded events
  130  interrupted: `run`, `study` and `train` keep finished work and resume next time; other commands leave no file";

/// Find the completions on which a policy and its reward model disagree, and learn from people's judgements.
#[derive(Debug, Parser)]
#[command(name = "dissent", version, after_help = AFTER_HELP, propagate_version = true)]
struct Cli {
    /// Folder of the event log and the artifacts [default: as configured, or .dissent]
    #[arg(value_parser = crate::cli::paths::path(), long, global = true, env = "DISSENT_DATA", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Filter of the log lines on stderr, such as `info` or `dissent_actors=debug`.
    #[arg(
        long,
        global = true,
        env = "DISSENT_LOG",
        default_value = "warn,sled=off,lapin=off",
        value_name = "FILTER"
    )]
    log_filter: String,
    /// Format of the log lines: text for people, or one JSON object a line.
    #[arg(long, global = true, env = "DISSENT_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(Box<init::InitArgs>),
    Schema(schema::SchemaArgs),
    Run(run::RunArgs),
    Serve(serve::ServeArgs),
    Worker(serve::WorkerArgs),
    Generate(generate::GenerateArgs),
    Score(score::ScoreArgs),
    Detect(detect::DetectArgs),
    Feedback(feedback::FeedbackArgs),
    Study(study::StudyArgs),
    Train(Box<train::TrainArgs>),
    Eval(eval::EvalArgs),
    Report(report::ReportArgs),
    Lift(lift::LiftArgs),
    Compare(compare::CompareArgs),
    Experiment(experiment::ExperimentArgs),
    Log(log::LogArgs),
    Replay(replay::ReplayArgs),
    Model(model::ModelArgs),
    Queue(queue::QueueArgs),
    Dead(queue::DeadArgs),
    Doctor(doctor::DoctorArgs),
    Health(health::HealthArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Whether the command writes files into a data folder.
    fn writes_data_folder(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::Serve(_)
            | Self::Worker(_)
            | Self::Feedback(_)
            | Self::Study(_)
            | Self::Report(_)
            | Self::Lift(_)
            | Self::Compare(_)
            | Self::Experiment(_)
            | Self::Log(_)
            | Self::Replay(_)
            | Self::Queue(_) => true,
            Self::Init(_)
            | Self::Schema(_)
            | Self::Generate(_)
            | Self::Score(_)
            | Self::Detect(_)
            | Self::Train(_)
            | Self::Eval(_)
            | Self::Model(_)
            | Self::Dead(_)
            | Self::Doctor(_)
            | Self::Health(_)
            | Self::Completions(_) => false,
        }
    }
}

/// Parses the command line, runs the command, prints its error, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let matches = spelling::with_hidden(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if cli.command.writes_data_folder() {
        files::restrict_modes();
    }
    let mut telemetry = match Telemetry::start(&cli.telemetry()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            telemetry::print_failure(cli.log_format, &error);
            return FailureKind::of(&error).exit_code();
        }
    };
    let outcome = run(&cli);
    ownership::give_back_all();
    telemetry.finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::print_failure(cli.log_format, &error);
            FailureKind::of(&error).exit_code()
        }
    }
}

impl Cli {
    fn telemetry(&self) -> Settings<'_> {
        // Only the commands that run an experiment send traces.
        let traced_as = if let Command::Run(_) = self.command {
            Some("dissent-run")
        } else if let Command::Serve(_) = self.command {
            Some("dissent-serve")
        } else if let Command::Worker(_) = self.command {
            Some("dissent-worker")
        } else {
            None
        };
        Settings { filter: &self.log_filter, format: self.log_format, traced_as }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let data = cli.data_dir.as_deref();
    match &cli.command {
        Command::Init(args) => init::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Run(args) => run::run(data, cli.log_format, args),
        Command::Serve(args) => serve::serve(data, args),
        Command::Worker(args) => serve::work(data, args),
        Command::Generate(args) => generate::run(args),
        Command::Score(args) => score::run(args),
        Command::Detect(args) => detect::run(args),
        Command::Feedback(args) => feedback::run(data, args),
        Command::Study(args) => study::run(data, args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Report(args) => report::run(data, args),
        Command::Lift(args) => lift::run(data, args),
        Command::Compare(args) => compare::run(data, args),
        Command::Experiment(args) => experiment::run(data, args),
        Command::Log(args) => log::run(data, args),
        Command::Replay(args) => replay::run(data, args),
        Command::Model(args) => model::run(args),
        Command::Queue(args) => queue::run(data, args),
        Command::Dead(args) => queue::dead(data, args),
        Command::Doctor(args) => doctor::run(&data_dir(data), args),
        Command::Health(args) => health::run(args),
        Command::Completions(args) => completions::run::<Cli>(args),
    }
}

/// Whether the reader of our output, such as `head`, has closed the pipe.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref().map(io::Error::kind);
        let json = cause.downcast_ref().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}
