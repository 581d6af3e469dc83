//! `dissent experiment create`: checks and records an experiment, which then waits for its start.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::event::{EventId, ExperimentStarted, NewEvent};
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::operator::{BY_BYTES_MAX, created};
use dissent_domain::plan::Plan;
use dissent_models::template::PromptTemplate;
use dissent_storage::{ArtifactStore, SledLog, SledOptions, wait};
use serde_json::json;

use crate::cli::runtime_args::OverrideArgs;
use crate::cli::{paths, suggestion};
use crate::config::Config;
use crate::error::BadInput;
use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::plan_fork::check_or_suggest;
use crate::log_access::open;
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
    let data_dir = paths::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    let open_log = || SledLog::open(open::log_dir(&data_dir), &SledOptions::default());
    // A refused configuration creates no log.
    let existing = open::log_dir(&data_dir).exists().then(open_log).transpose()?;
    let kept = match &existing {
        Some(log) => KeptSettings::of_experiment(log, &config.experiment.name)?,
        None => KeptSettings::default(),
    };
    let models = Models::open(&config, kept.reading)?;
    check_templates(&config, &models)?;
    let log = existing.map_or_else(open_log, Ok)?;
    let artifacts = ArtifactStore::open(data_dir.join("artifacts"))?;
    let plan = plan::plan(&config, &models, &artifacts, &kept)?.plan;
    check_or_suggest(&log, &plan).map_err(|error| {
        suggestion::with_fork(error, &data_dir, |name| args.run_command(&data_dir, &["--set", name]))
    })?;
    let name = plan.experiment.clone();
    if !log.read_stream(&name, 0, 1)?.is_empty() {
        return Err(BadInput(format!(
            "experiment {name} exists already, with this plan: change experiment.name"
        ))
        .into());
    }
    record(&log, plan, args.by.clone())?;
    let mut out = std::io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "experiment": name, "state": "created", "changed": true }))?);
    }
    let option = paths::data_option(&data_dir);
    let run = args.run_command(&data_dir, &[]);
    writeln!(out, "{name} is created\nto start it: dissent experiment start {name}{option}, or {run}")?;
    Ok(())
}

impl CreateArgs {
    /// Returns the command that runs the experiment, with further options.
    fn run_command(&self, data_dir: &Path, more: &[&str]) -> String {
        let (config, overrides) = (self.config.to_string_lossy(), self.overrides.words());
        let words = ["dissent", "run", &config].into_iter().chain(overrides.iter().map(String::as_str));
        format!("{}{}", shell_command(words.chain(more.iter().copied())), paths::data_option(data_dir))
    }
}

/// Renders both templates once: a template that fails for every prompt is a mistake in the configuration.
fn check_templates(config: &Config, models: &Models) -> anyhow::Result<()> {
    let policy: PromptTemplate = config.policy.template.parse()?;
    policy.render_prompt(&models.policy.checkpoint.tokenizer, "prompt").context("policy.template")?;
    let reward: PromptTemplate = config.reward.template.parse()?;
    reward
        .render_with_completion(&models.reward.checkpoint.tokenizer, "prompt", "answer")
        .context("reward.template")?;
    Ok(())
}

/// Appends the start and the pause together, so that both become durable at once.
fn record(log: &dyn EventLog, plan: Plan, by: String) -> anyhow::Result<()> {
    let (now, experiment) = (dissent_actors::now_us(), plan.experiment.clone());
    let paused = created(&plan, by, now)?;
    let id = EventId::of_experiment(&experiment);
    let started = NewEvent::new(id, None, "cli", now, &ExperimentStarted::new(plan).into())?;
    let expected = ExpectedVersion::Exact(0);
    wait(log.append(Append { experiment, expected, events: vec![started, paused] }))?;
    Ok(())
}
