//! Training the models of a study: the library's trainer, with a bar.

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

use super::steps::Steps;

/// Steps between two checkpoints.
const CHECKPOINT_EVERY: u64 = 20;

/// On what the models of a study run.
#[derive(Clone)]
pub struct ModelRuntime {
    /// ONNX Runtime.
    pub runtime: &'static OnnxRuntime,
    /// How sessions run on it.
    pub options: SessionOptions,
    /// Raised when the user asks to stop.
    pub cancel: CancelFlag,
}

/// What is learnt from.
pub enum TrainingExamples<'a> {
    /// Answers to imitate.
    Demonstrations(&'a [Demonstration]),
    /// Preferences, for a reward model.
    Preferences(&'a [Preference]),
}

/// A training of a study.
pub struct StudyTraining<'a> {
    /// What is trained, for people.
    pub name: &'a str,
    /// The model that it begins with.
    pub checkpoint: &'a Checkpoint,
    /// How prompt and answer stand together.
    pub template: &'a PromptTemplate,
    /// What is learnt from.
    pub lessons: TrainingExamples<'a>,
    /// How it is trained.
    pub settings: &'a Hyperparameters,
}

impl ModelRuntime {
    /// Trains a model and writes what came of it: a PEFT folder, or a whole checkpoint where all weights are
    /// trained. Examples longer than the settings allow are left out; a study in which that is more than a
    /// tenth is refused. Goes on from the checkpoint beside `output`, if an earlier run was interrupted.
    ///
    /// # Errors
    /// If an example cannot be encoded, the training fails, or the folder cannot be written.
    pub fn train(&self, training: &StudyTraining<'_>, output: &Path) -> anyhow::Result<()> {
        let keep = Steps::checkpoint_of(output);
        let mut trainer = self.open(training, &keep)?;
        let bar = ProgressBar::new(trainer.steps()).with_position(trainer.steps_done());
        bar.set_style(ProgressStyle::with_template("{msg} {bar:24} {pos}/{len} steps, {eta} left")?);
        bar.set_message(training.name.to_owned());
        trainer.run(CHECKPOINT_EVERY, &mut TrainingRecorder { bar: &bar, keep: &keep }, &self.cancel)?;
        bar.finish_and_clear();
        Ok(trainer.save(None, output)?)
    }

    /// The training where its checkpoint left it, or at its beginning.
    fn open(&self, training: &StudyTraining<'_>, keep: &Path) -> anyhow::Result<Trainer> {
        let StudyTraining { checkpoint, template, lessons, settings, .. } = training;
        let (data, objective) = encoded(checkpoint, template, lessons, settings)?;
        let setup = TrainingSetup { objective, settings: (*settings).clone(), order: DataOrder::default() };
        let mut trainer = Trainer::open(self.runtime, checkpoint, None, setup, data, &self.options)?;
        match fs::read(keep) {
            Ok(bytes) => match trainer.resume(&bytes) {
                Ok(()) => tracing::info!(step = trainer.steps_done(), "the training goes on"),
                // Nothing is lost but time: a checkpoint of another version, or half of one.
                Err(error) => tracing::warn!(%error, "the training begins again"),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", keep.display())),
        }
        Ok(trainer)
    }
}

/// The share of examples that may be too long.
const LEFT_OUT_MAX: f64 = 0.1;

fn encoded(
    checkpoint: &Checkpoint,
    template: &PromptTemplate,
    lessons: &TrainingExamples<'_>,
    settings: &Hyperparameters,
) -> anyhow::Result<(TrainingData, Objective)> {
    let tokenizer = &checkpoint.tokenizer;
    let fits = |sequence: &TrainingSequence| sequence.ids.len() <= settings.max_length as usize;
    let (given, data, objective) = match lessons {
        TrainingExamples::Demonstrations(rows) => {
            let sequences: Result<Vec<TrainingSequence>, ModelError> =
                rows.iter().map(|row| template.encode_demonstration(tokenizer, row)).collect();
            let mut sequences = sequences.context("a demonstration")?;
            sequences.retain(fits);
            (rows.len(), TrainingData::Demonstrations(sequences), Objective::Sft)
        }
        TrainingExamples::Preferences(rows) => {
            let pairs: Result<Vec<TokenPair>, ModelError> =
                rows.iter().map(|row| template.encode_comparison(tokenizer, row)).collect();
            let mut pairs = pairs.context("a preference")?;
            pairs.retain(|pair| fits(&pair.chosen) && fits(&pair.rejected));
            (rows.len(), TrainingData::Pairs(pairs), Objective::Reward { center: 0.0 })
        }
    };
    let left_out = given - data.len();
    anyhow::ensure!(
        left_out as f64 <= LEFT_OUT_MAX * given as f64,
        "{left_out} of {given} examples are longer than max_length = {}: raise it",
        settings.max_length
    );
    Ok((data, objective))
}

/// Shows steps, and keeps checkpoints.
struct TrainingRecorder<'a> {
    bar: &'a ProgressBar,
    keep: &'a Path,
}

impl TrainingObserver for TrainingRecorder<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<(), ModelError> {
        self.bar.set_position(metrics.step);
        tracing::info!(step = metrics.step, loss = metrics.loss, "training step");
        Ok(())
    }

    fn on_checkpoint(&mut self, _step: u64, bytes: Vec<u8>) -> Result<(), ModelError> {
        let written = self.keep.with_extension("partial");
        fs::write(&written, bytes)
            .and_then(|()| fs::rename(&written, self.keep))
            .map_err(|error| ModelError::Write { path: self.keep.to_owned(), reason: error.to_string() })
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
    fn a_training_goes_on_from_its_checkpoint_to_the_same_result() {
        let Some(runtime) = required(OnnxRuntime::load(None)) else { return };
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden/llama");
        let (model, folder) = (Model::open(&golden, None, None).unwrap(), tempfile::tempdir().unwrap());
        let row = |place: usize| Demonstration {
            prompt: Dialogue::Text(format!("w{}", 5 + place % 7)),
            completion: format!("w{} w{}", 20 + place, 21 + place % 5),
        };
        let rows: Vec<Demonstration> = (0..64).map(row).collect();
        let settings = Hyperparameters { batch_size: 2, ..Hyperparameters::default() };
        let training = StudyTraining {
            name: "policy",
            checkpoint: &model.checkpoint,
            template: &"{prompt} {completion}".parse().unwrap(),
            lessons: TrainingExamples::Demonstrations(&rows),
            settings: &settings,
        };
        let options = SessionOptions { provider: Provider::Cpu, threads: 1, ..SessionOptions::default() };
        let workshop = ModelRuntime { runtime, options, cancel: CancelFlag::default() };
        let (calm, killed) = (folder.path().join("calm.begun"), folder.path().join("killed.begun"));
        workshop.train(&training, &calm).unwrap();
        // The checkpoint is Steps' to remove; here it is what a kill in the last steps leaves.
        fs::rename(Steps::checkpoint_of(&calm), Steps::checkpoint_of(&killed)).unwrap();
        let done = workshop.open(&training, &Steps::checkpoint_of(&killed)).unwrap().steps_done();
        assert!(done > 0 && done.is_multiple_of(CHECKPOINT_EVERY), "{done}");
        workshop.train(&training, &killed).unwrap();
        let adapter = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(&killed), adapter(&calm));
        fs::write(Steps::checkpoint_of(&killed), b"half").unwrap();
        assert_eq!(workshop.open(&training, &Steps::checkpoint_of(&killed)).unwrap().steps_done(), 0);
    }
}
