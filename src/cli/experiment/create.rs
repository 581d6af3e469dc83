//! `dissent experiment create`: checks and records an experiment, which then waits for its start.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::operator::BY_BYTES_MAX;
use dissent_storage::{ArtifactStore, SledLog, SledOptions};
use serde_json::json;

use crate::cli::runtime_args::OverrideArgs;
use crate::cli::server::{self, LogAccess};
use crate::cli::{paths, suggestion};
use crate::config::{Config, ConfigSource};
use crate::experiment::create;
use crate::experiment::kept_config::KeptConfigs;
use crate::log_access::{open, ownership};
use crate::text::shell_command;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment create experiment.toml
  dissent experiment create experiment.toml && dissent experiment list
  dissent serve experiment.toml &          serves the experiment, which waits for its start
  dissent experiment start tone-demo       starts it; `dissent run experiment.toml` does so, too

Configuration, models, prompts and data are checked as for a run, and the plan is recorded. No model runs. After that the
configuration may not change, as after the first `dissent run`.")]
pub(super) struct CreateArgs {
    /// Configuration of the experiment.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    #[command(flatten)]
    overrides: OverrideArgs,
    /// Name of the operator, recorded with the experiment.
    #[arg(long, env = "USER", default_value = "", hide_env_values = true)]
    by: String,
}

pub(super) fn run(data_dir: Option<&Path>, args: &CreateArgs, as_json: bool) -> anyhow::Result<()> {
    let config = Config::load_with(&args.config, &args.overrides.all())?;
    super::operator::check_length("--by", &args.by, BY_BYTES_MAX)?;
    let source = ConfigSource::read(&args.config, &args.overrides.all())?;
    let data_dir = paths::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    let with_fork =
        |error| suggestion::with_fork(error, &data_dir, |name| args.run_command(&data_dir, &["--set", name]));
    let existing = match open::log_dir(&data_dir).exists() {
        false => None,
        true => match server::writable(&data_dir)? {
            LogAccess::Here(log) => Some(log),
            LogAccess::Server(holder) => {
                let name = holder.create(&source, &args.by).map_err(with_fork)?;
                return args.print_created(&name, &data_dir, true, as_json);
            }
        },
    };
    // A refused configuration creates no log.
    let models = create::check(&config, existing.as_ref().map(|log| log as &dyn EventLog))?;
    let open_log = || SledLog::open(open::log_dir(&data_dir), &SledOptions::default());
    let log = existing.map_or_else(open_log, Ok)?;
    ownership::keep(&data_dir);
    let artifacts = ArtifactStore::open(data_dir.join("artifacts"))?;
    let name = create::record(&log, &artifacts, &config, &models, &args.by).map_err(with_fork)?;
    KeptConfigs::of(&data_dir).keep(&name, &source)?;
    args.print_created(&name, &data_dir, false, as_json)
}

impl CreateArgs {
    fn print_created(
        &self,
        name: &ExperimentId,
        data_dir: &Path,
        is_hosted: bool,
        as_json: bool,
    ) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            return Ok(writeln!(
                out,
                "{}",
                json!({ "experiment": name, "state": "created", "changed": true })
            )?);
        }
        let option = paths::data_option(data_dir);
        let or_run =
            if is_hosted { String::new() } else { format!(", or {}", self.run_command(data_dir, &[])) };
        writeln!(out, "{name} is created\nto start it: dissent experiment start {name}{option}{or_run}")?;
        Ok(())
    }

    /// Returns the command that runs the experiment, with further options.
    fn run_command(&self, data_dir: &Path, more: &[&str]) -> String {
        let (config, overrides) = (self.config.to_string_lossy(), self.overrides.words());
        let words = ["dissent", "run", &config].into_iter().chain(overrides.iter().map(String::as_str));
        format!("{}{}", shell_command(words.chain(more.iter().copied())), paths::data_option(data_dir))
    }
}
