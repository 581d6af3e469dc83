//! Trains the models of a study, with a progress bar.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use dissent_domain::training::{Demonstration, Hyperparameters, Preference};
use dissent_models::ModelError;
use dissent_models::checkpoint::Checkpoint;
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::template::PromptTemplate;
use dissent_models::training::{
    DataOrder, Objective, StepMetrics, TokenPair, Trainer, TrainingData, TrainingObserver, TrainingSequence,
    TrainingSetup,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::step_cache::StepCache;

/// Steps between two checkpoints.
const CHECKPOINT_EVERY: u64 = 20;

/// The runtime of the models of a study.
#[derive(Clone)]
pub struct ModelRuntime {
    /// ONNX Runtime.
    pub runtime: &'static OnnxRuntime,
    /// The options of sessions.
    pub options: SessionOptions,
    /// The flag that an interrupt by the user sets.
    pub cancel: CancelFlag,
}

/// The examples of a training.
pub enum TrainingExamples<'a> {
    /// Demonstrations, for a policy.
    Demonstrations(&'a [Demonstration]),
    /// Preferences, for a reward model.
    Preferences(&'a [Preference]),
}

/// A training of a study.
pub struct StudyTraining<'a> {
    /// The name of the trained model, for the progress bar.
    pub name: &'a str,
    /// The initial model.
    pub checkpoint: &'a Checkpoint,
    /// The template of prompt and completion.
    pub template: &'a PromptTemplate,
    /// The examples.
    pub examples: TrainingExamples<'a>,
    /// The settings.
    pub settings: &'a Hyperparameters,
}

impl ModelRuntime {
    /// Trains a model and writes a PEFT folder, or a checkpoint if all weights are trained.
    ///
    /// Excludes examples longer than `max_length`, up to a tenth of them. Resumes from the checkpoint beside
    /// `output` after an interruption.
    ///
    /// # Errors
    /// If an example cannot be encoded, more than a tenth of them are too long, the training fails, or the
    /// folder cannot be written.
    pub fn train(&self, training: &StudyTraining<'_>, output: &Path) -> anyhow::Result<()> {
        let saved = StepCache::checkpoint_of(output);
        let mut trainer = self.open(training, &saved)?;
        let bar = ProgressBar::new(trainer.steps()).with_position(trainer.steps_done());
        bar.set_style(ProgressStyle::with_template("{msg} {bar:24} {pos}/{len} steps, {eta} left")?);
        bar.set_message(training.name.to_owned());
        trainer.run(CHECKPOINT_EVERY, &mut TrainingRecorder { bar: &bar, saved: &saved }, &self.cancel)?;
        bar.finish_and_clear();
        Ok(trainer.save(None, output)?)
    }

    /// Opens a training, and resumes it if a checkpoint is saved.
    fn open(&self, training: &StudyTraining<'_>, saved: &Path) -> anyhow::Result<Trainer> {
        let StudyTraining { checkpoint, template, examples, settings, .. } = training;
        let (data, objective) = encoded(checkpoint, template, examples, settings)?;
        let setup = TrainingSetup { objective, settings: (*settings).clone(), order: DataOrder::default() };
        let mut trainer = Trainer::open(self.runtime, checkpoint, None, setup, data, &self.options)?;
        match fs::read(saved) {
            Ok(bytes) => match trainer.resume(&bytes) {
                Ok(()) => tracing::info!(step = trainer.steps_done(), "resuming training from checkpoint"),
                // The checkpoint is incomplete or of another version; the training starts again.
                Err(error) => tracing::warn!(%error, "ignoring unusable checkpoint"),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", saved.display())),
        }
        Ok(trainer)
    }
}

/// Limit of the share of examples that are too long.
const TOO_LONG_MAX: f64 = 0.1;

fn encoded(
    checkpoint: &Checkpoint,
    template: &PromptTemplate,
    examples: &TrainingExamples<'_>,
    settings: &Hyperparameters,
) -> anyhow::Result<(TrainingData, Objective)> {
    let tokenizer = &checkpoint.tokenizer;
    let fits = |sequence: &TrainingSequence| sequence.ids.len() <= settings.max_length as usize;
    let (given, data, objective) = match examples {
        TrainingExamples::Demonstrations(rows) => {
            let sequences: Result<Vec<TrainingSequence>, ModelError> =
                rows.iter().map(|row| template.encode_demonstration(tokenizer, row)).collect();
            let mut sequences = sequences.context("failed to encode a demonstration")?;
            sequences.retain(fits);
            (rows.len(), TrainingData::Demonstrations(sequences), Objective::Sft)
        }
        TrainingExamples::Preferences(rows) => {
            let pairs: Result<Vec<TokenPair>, ModelError> =
                rows.iter().map(|row| template.encode_comparison(tokenizer, row)).collect();
            let mut pairs = pairs.context("failed to encode a preference")?;
            pairs.retain(|pair| fits(&pair.chosen) && fits(&pair.rejected));
            (rows.len(), TrainingData::Pairs(pairs), Objective::Reward { center: 0.0 })
        }
    };
    let too_long = given - data.len();
    anyhow::ensure!(
        too_long as f64 <= TOO_LONG_MAX * given as f64,
        "{too_long} of {given} examples are longer than max_length = {}: increase max_length",
        settings.max_length
    );
    Ok((data, objective))
}

/// Updates the progress bar and saves checkpoints.
struct TrainingRecorder<'a> {
    bar: &'a ProgressBar,
    saved: &'a Path,
}

impl TrainingObserver for TrainingRecorder<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<(), ModelError> {
        self.bar.set_position(metrics.step);
        tracing::info!(step = metrics.step, loss = metrics.loss, "finished training step");
        Ok(())
    }

    fn on_checkpoint(&mut self, _step: u64, bytes: Vec<u8>) -> Result<(), ModelError> {
        let partial = self.saved.with_extension("partial");
        fs::write(&partial, bytes)
            .and_then(|()| fs::rename(&partial, self.saved))
            .map_err(|error| ModelError::Write { path: self.saved.to_owned(), reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::training::Dialogue;
    use dissent_models::runtime::Provider;

    use super::*;
    use crate::experiment::models::Model;
    use crate::required::required;

    #[test]
    fn a_training_resumes_from_its_checkpoint_to_the_same_result() {
        let Some(runtime) = required(OnnxRuntime::load(None)) else { return };
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden/llama");
        let (model, folder) = (Model::open(&golden, None, None).unwrap(), tempfile::tempdir().unwrap());
        let row = |index: usize| Demonstration {
            prompt: Dialogue::Text(format!("w{}", 5 + index % 7)),
            completion: format!("w{} w{}", 20 + index, 21 + index % 5),
        };
        let rows: Vec<Demonstration> = (0..64).map(row).collect();
        let settings = Hyperparameters { batch_size: 2, ..Hyperparameters::default() };
        let training = StudyTraining {
            name: "policy",
            checkpoint: &model.checkpoint,
            template: &"{prompt} {completion}".parse().unwrap(),
            examples: TrainingExamples::Demonstrations(&rows),
            settings: &settings,
        };
        let options = SessionOptions { provider: Provider::Cpu, threads: 1, ..SessionOptions::default() };
        let models = ModelRuntime { runtime, options, cancel: CancelFlag::default() };
        let (whole, killed) = (folder.path().join("whole.begun"), folder.path().join("killed.begun"));
        models.train(&training, &whole).unwrap();
        // A kill in the last steps leaves such a checkpoint.
        fs::rename(StepCache::checkpoint_of(&whole), StepCache::checkpoint_of(&killed)).unwrap();
        let done = models.open(&training, &StepCache::checkpoint_of(&killed)).unwrap().steps_done();
        assert!(done > 0 && done.is_multiple_of(CHECKPOINT_EVERY), "{done}");
        models.train(&training, &killed).unwrap();
        let adapter = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(&killed), adapter(&whole));
        fs::write(StepCache::checkpoint_of(&killed), b"half").unwrap();
        assert_eq!(models.open(&training, &StepCache::checkpoint_of(&killed)).unwrap().steps_done(), 0);
    }
}
