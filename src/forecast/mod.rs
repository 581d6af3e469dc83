//! What a run would take: time, memory, disk and labels.

mod disk;
mod labels;
mod time;

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use dissent_storage::ArtifactStore;
use serde::Serialize;

use crate::config::Config;
use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::plan_fork::check_or_suggest;
use crate::log_access::open;
use crate::memory::{Forecast, experiment, note_on_provider};
use disk::DiskForecast;
use labels::LabelForecast;
use time::TimeForecast;

/// The prediction of a run.
#[derive(Debug, Serialize)]
pub(crate) struct RunForecast {
    #[serde(flatten)]
    memory: Forecast,
    time: TimeForecast,
    disk: DiskForecast,
    labels: LabelForecast,
}

/// Checks everything that a run would read, and predicts what it takes. With `measures`, the models run for a
/// few seconds.
///
/// # Errors
/// If a run would refuse the configuration, its files, its models or its data folder.
pub(crate) fn of_run(config: &Config, data_dir: &Path, measures: bool) -> anyhow::Result<RunForecast> {
    // Headers are checked before weights are read.
    let memory = experiment::forecast(config)?;
    let has_log = open::log_dir(data_dir).is_dir();
    let log = has_log.then(|| open::read_log(data_dir)).transpose()?;
    let kept = match &log {
        Some(log) => KeptSettings::of_experiment(&**log, &config.experiment.name)?,
        None => KeptSettings::default(),
    };
    let models = Models::open(config, kept.reading)?;
    let scratch = tempfile::tempdir().context("failed to create a temporary folder")?;
    let planned = plan::plan(config, &models, &ArtifactStore::open(scratch.path())?, &kept)?;
    if let Some(log) = &log {
        check_or_suggest(&**log, &planned.plan)?;
    }
    drop(log);
    let labels = LabelForecast::of(config, &planned.plan);
    let disk = DiskForecast::of(config, &planned, &memory, data_dir)?;
    let time = match (measures, memory.fits) {
        (true, true) => TimeForecast::measured(config, &models, &planned, &labels),
        (true, false) => TimeForecast::unknown("the memory does not suffice for a measurement"),
        (false, _) => TimeForecast::unknown("not asked for"),
    };
    Ok(RunForecast { memory, time, disk, labels })
}

impl RunForecast {
    /// Prints the prediction.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(crate) fn show(&self, config: &Config, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        writeln!(out, "checked: configuration, prompts, models, templates, data folder")?;
        write!(out, "{}{}", self.labels.text(), self.time.text())?;
        write!(out, "{}{}", self.memory.text(), self.disk.text())?;
        if let Some(note) = note_on_provider(config.runtime.provider) {
            writeln!(out, "note    {note}")?;
        }
        Ok(())
    }
}
