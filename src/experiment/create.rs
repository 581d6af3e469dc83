//! Records an experiment, which then waits for its start.

use anyhow::Context as _;
use dissent_domain::event::{EventId, ExperimentStarted, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::operator::created;
use dissent_domain::plan::Plan;
use dissent_models::template::PromptTemplate;
use dissent_storage::{ArtifactStore, wait};

use super::kept_settings::KeptSettings;
use super::models::Models;
use super::plan;
use super::plan_fork::check_or_suggest;
use crate::config::{Config, ConfigSource};
use crate::error::BadInput;

/// Checks a configuration as for a run, and records its experiment.
///
/// # Errors
/// If the configuration, its data or its models cannot be used, the experiment exists, or the log fails.
pub(crate) fn record_experiment(
    log: &dyn EventLog,
    artifacts: &ArtifactStore,
    source: &ConfigSource,
    by: &str,
) -> anyhow::Result<ExperimentId> {
    let config = source.load()?;
    let models = check(&config, Some(log))?;
    record(log, artifacts, &config, &models, by)
}

/// Checks a configuration against its experiment, and records the experiment if the log lacks it. Returns
/// whether it was recorded.
///
/// # Errors
/// If the configuration, its data or its models cannot be used, its plan differs from the recorded one, or
/// the log fails.
pub(crate) fn record_or_check(
    log: &dyn EventLog,
    artifacts: &ArtifactStore,
    source: &ConfigSource,
    by: &str,
) -> anyhow::Result<bool> {
    let config = source.load()?;
    let models = check(&config, Some(log))?;
    if log.read_stream(&config.experiment.name, 0, 1)?.is_empty() {
        return record(log, artifacts, &config, &models, by).map(|_| true);
    }
    let plan = plan::plan(&config, &models, artifacts, &kept(&config, Some(log))?)?.plan;
    check_or_suggest(log, &plan)?;
    Ok(false)
}

/// Opens the models of a configuration, and checks its templates. Without a log the experiment is new.
///
/// # Errors
/// If a model or a template cannot be used.
pub(crate) fn check(config: &Config, log: Option<&dyn EventLog>) -> anyhow::Result<Models> {
    let models = Models::open(config, kept(config, log)?.reading)?;
    check_templates(config, &models)?;
    Ok(models)
}

fn kept(config: &Config, log: Option<&dyn EventLog>) -> anyhow::Result<KeptSettings> {
    log.map_or_else(
        || Ok(KeptSettings::default()),
        |log| KeptSettings::of_experiment(log, &config.experiment.name),
    )
}

/// Records the experiment of a checked configuration.
///
/// # Errors
/// As [`record_experiment`].
pub(crate) fn record(
    log: &dyn EventLog,
    artifacts: &ArtifactStore,
    config: &Config,
    models: &Models,
    by: &str,
) -> anyhow::Result<ExperimentId> {
    let plan = plan::plan(config, models, artifacts, &kept(config, Some(log))?)?.plan;
    check_or_suggest(log, &plan)?;
    let name = plan.experiment.clone();
    if !log.read_stream(&name, 0, 1)?.is_empty() {
        return Err(BadInput(format!(
            "experiment {name} exists already, with this plan: change experiment.name"
        ))
        .into());
    }
    append(log, plan, by.to_owned())?;
    Ok(name)
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
fn append(log: &dyn EventLog, plan: Plan, by: String) -> anyhow::Result<()> {
    let (now, experiment) = (dissent_actors::now_us(), plan.experiment.clone());
    let paused = created(&plan, by, now)?;
    let id = EventId::of_experiment(&experiment);
    let started = NewEvent::new(id, None, "cli", now, &ExperimentStarted::new(plan).into())?;
    let expected = ExpectedVersion::Exact(0);
    wait(log.append(Append { experiment, expected, events: vec![started, paused] }))?;
    Ok(())
}
