//! The disk space of a run, in its data folder.

use std::path::Path;

use dissent_domain::training::Hyperparameters;
use dissent_models::memory::MemoryPart;
use serde::Serialize;

use crate::config::Config;
use crate::experiment::plan::PlannedExperiment;
use crate::files;
use crate::memory::Forecast;

/// Bytes of a token in the log: its id, and about four letters of text, beside the index of the log.
const TOKEN_BYTES: u64 = 12;
/// Bytes of a completion beside its tokens: envelopes, scores, conflict.
const COMPLETION_BYTES: u64 = 400;
/// Bytes of an empty log with its snapshots and a report.
const FIXED_BYTES: u64 = 2 << 20;
/// Vectors of the trained parameters that a training keeps during its steps (see the memory's prediction).
const PARAMETER_VECTORS: u64 = 5;
/// Approximate number of checkpoints of a training; each has the parameters and two moments.
const CHECKPOINTS: u64 = 10;
const CHECKPOINT_VECTORS: u64 = 3;

/// The predicted disk space, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct DiskForecast {
    /// The event log, snapshots and the report, at most.
    log_bytes: u64,
    /// Adapters and checkpoints of trainings, and prompts.
    artifact_bytes: u64,
    /// The free space of the data folder's disk.
    free_bytes: u64,
    fits: bool,
}

impl DiskForecast {
    /// Predicts the space from the lengths of the configuration.
    ///
    /// # Errors
    /// If the free space of the disk cannot be read.
    pub(super) fn of(
        config: &Config,
        planned: &PlannedExperiment,
        memory: &Forecast,
        data_dir: &Path,
    ) -> anyhow::Result<Self> {
        let rounds = u64::from(config.experiment.rounds);
        let (prompts, samples) = (planned.prompts.len() as u64, u64::from(config.generation.samples));
        let completion = u64::from(config.generation.max_new_tokens) * TOKEN_BYTES + COMPLETION_BYTES;
        let texts: u64 = planned.prompts.iter().map(|prompt| prompt.text.len() as u64).sum();
        // A prompt is recorded when it is admitted and when it is sampled.
        let log_bytes = FIXED_BYTES + rounds * (prompts * samples * completion + 4 * texts);
        let trained = |step: &str| {
            let found = memory.steps.iter().find(|forecast| forecast.step == step);
            let parameters = found.and_then(|step| {
                step.parts.parts().find(|(part, _)| *part == MemoryPart::Parameters).map(|(_, bytes)| bytes)
            });
            parameters.unwrap_or_default() / PARAMETER_VECTORS
        };
        let checkpoints = |steps: u64| 1 + CHECKPOINT_VECTORS * CHECKPOINTS.min(steps);
        let learning = planned.plan.learning.as_ref().map_or(0, |learning| {
            let steps = |settings: &Hyperparameters| settings.steps.unwrap_or(u64::MAX);
            let refinement = checkpoints(steps(&learning.refinement.hyperparameters));
            let tuning = checkpoints(steps(&learning.tuning.hyperparameters));
            trained("refinement") * refinement + trained("tuning") * tuning
        });
        let artifact_bytes = texts + rounds * learning;
        let existing = data_dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let free_bytes = files::available_space(existing)?;
        Ok(Self { log_bytes, artifact_bytes, free_bytes, fits: log_bytes + artifact_bytes <= free_bytes })
    }

    pub(super) fn text(&self) -> String {
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
        let Self { log_bytes, artifact_bytes, free_bytes, fits } = self;
        let mut text = format!(
            "disk    {:<16} {} at most, {} of it adapters and checkpoints; {} free\n",
            "data folder",
            gib(log_bytes + artifact_bytes),
            gib(*artifact_bytes),
            gib(*free_bytes)
        );
        if !fits {
            text.push_str(
                "WARNING the disk of the data folder is too small: name another one with --data-dir\n",
            );
        }
        text
    }
}
