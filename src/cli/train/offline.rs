//! Trainings on examples: supervised fine-tuning, reward and cost models, direct preference optimisation.

use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::training::{Dialogue, Hyperparameters, Preference};
use dissent_models::ModelError;
use dissent_models::template::{Conversation, LearntTurns, PromptTemplate};
use dissent_models::training::{
    Evaluation, Objective, StepMetrics, Trainer, TrainingObserver, TrainingSetup,
};
use serde_json::{Map, Value, json};

use super::examples::{Examples, RowKind, RowTokenizer, TrainingRows, rows_of_kind};
use super::folder::{Decision, OutputFolder, TrainingRecord, decide, reading_rules, record_reading_rules};
use super::metrics_log::MetricsLog;
use super::options::{DataOptions, ModelOptions};
use super::view::{TrainingView, print_status};
use crate::cli::interrupt;
use crate::dataset::{Dataset, ReadOptions, Row, SkippedRows, hold_out};
use crate::error::{BadInput, Interrupted};
use crate::experiment::models::{self, Model};
use crate::memory::{self, Forecast, steps};

/// Default number of steps between checkpoints.
const CHECKPOINT_EVERY: u32 = 20;
pub(super) const RESUME_HINT: &str = "a checkpoint is kept: run the same command again to resume";

/// A training on examples, with the options of the command line.
pub(super) struct OfflineTraining<'a> {
    pub(super) task: &'static str,
    pub(super) model: &'a ModelOptions,
    pub(super) data: &'a DataOptions,
    pub(super) reading: ReadOptions,
    pub(super) row_kind: RowKind,
    pub(super) objective: Objective,
    pub(super) settings: Hyperparameters,
    pub(super) append_eos: bool,
    /// The turns that supervised fine-tuning learns; TRL's choice for the kind of rows if `None`.
    pub(super) learnt: Option<LearntTurns>,
}

/// The rows of a training, before they are tokenised.
struct Rows {
    training: RowSet,
    /// The rows on which the result is evaluated.
    evaluation: Option<RowSet>,
}

struct RowSet {
    file: String,
    fingerprint: String,
    rows: TrainingRows,
    unmatched: SkippedRows,
}

impl OfflineTraining<'_> {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        // Rows are checked first, because a model is slow to load.
        let rows = self.read()?;
        if self.model.dry_run {
            return self.dry_run(&rows);
        }
        let model = match self.row_kind {
            RowKind::Imitation | RowKind::Preferences => open_policy(self.model)?,
            RowKind::Scores | RowKind::Costs => open_reward_model(self.model)?,
        };
        let template = self.template(&model);
        let settings = self.identity(&rows, &model, &template)?;
        let folder = OutputFolder::open(&self.model.output)?;
        let decision = decide(&folder.content()?, &settings, self.model.resume_options())
            .with_context(|| in_folder(&folder))?;
        let training = self.examples(&rows.training, &model, &template)?;
        let evaluation = rows.evaluation.as_ref();
        let evaluation = evaluation.map(|set| self.examples(set, &model, &template)).transpose()?;
        let about = self.about(&rows, &training, evaluation.as_ref(), &model);
        let record = TrainingRecord { finished: false, settings, about, metrics: Map::new() };
        let (runtime, options) = models::runtime(&self.model.runtime.config(), 1)?;
        let setup = self.setup();
        let Examples { data, .. } = training;
        let (checkpoint, adapter) = (&model.checkpoint, model.adapter.as_ref());
        let mut trainer = Trainer::open(runtime, checkpoint, adapter, setup, data, &options)?;
        if decision == Decision::Begin {
            folder.begin(&record)?;
        } else if let Some(bytes) = folder.checkpoint()? {
            trainer.resume(&bytes).with_context(|| format!("{}", folder.dir().display()))?;
            print_status(&format!("resuming after step {} of {}", trainer.steps_done(), trainer.steps()));
        }
        self.train(&mut trainer, &folder)?;
        self.conclude(&mut trainer, &folder, record, evaluation)
    }

    /// Predicts the memory of the training, without its model's weights.
    fn dry_run(&self, rows: &Rows) -> anyhow::Result<()> {
        let ModelOptions { base, layers, adapter, .. } = self.model;
        let model = match self.row_kind {
            RowKind::Imitation | RowKind::Preferences => {
                Model::outline_policy(base, *layers, adapter.as_deref())?
            }
            RowKind::Scores | RowKind::Costs => Model::outline(base, *layers, adapter.as_deref())?,
        };
        let template = self.template(&model);
        let data = self.examples(&rows.training, &model, &template)?.data;
        let forecast = Forecast::of_process(vec![steps::training(&model, &self.setup(), &data)?], Vec::new());
        memory::show(&forecast, self.model.runtime.config().provider, self.model.json)
    }

    fn setup(&self) -> TrainingSetup {
        TrainingSetup { objective: self.objective, settings: self.settings.clone(), order: self.data.order() }
    }

    fn read(&self) -> anyhow::Result<Rows> {
        let dataset = Dataset::read(&self.data.data, &self.reading)?;
        let mut training = self.row_set(dataset)?;
        let evaluation = match (&self.data.eval_data, self.data.eval_split) {
            (Some(path), _) => Some(self.row_set(Dataset::read(path, &self.reading)?)?),
            (None, Some(share)) => Some(training.hold_out(share, self.settings.seed)?),
            (None, None) => None,
        };
        Ok(Rows { training, evaluation })
    }

    fn row_set(&self, dataset: Dataset) -> anyhow::Result<RowSet> {
        let (file, fingerprint) = (dataset.file.clone(), dataset.fingerprint());
        let (rows, unmatched) = rows_of_kind(dataset, self.row_kind)?;
        if rows.is_empty() {
            let reason = format!(
                "{file}: no row to learn from: unpaired rows need a counterpart with the same prompt, and sft needs rows \
                 with label true"
            );
            return Err(BadInput(reason).into());
        }
        Ok(RowSet { file, fingerprint, rows, unmatched })
    }

    /// Returns the template in which the model reads texts.
    fn template(&self, model: &Model) -> PromptTemplate {
        let template = self.model.template.clone();
        if !self.append_eos {
            return template;
        }
        let config = &model.checkpoint.config;
        if !config.pad_token_id.is_some_and(|id| config.eos_token_ids.contains(&id)) {
            print_status(
                "rewards are read at the end-of-sequence token; TRL takes that token as padding if the tokenizer has no \
                 padding token: set pad_token_id in config.json for the same",
            );
        }
        template.with_end_of_sequence(&model.checkpoint.tokenizer)
    }

    fn examples(&self, set: &RowSet, model: &Model, template: &PromptTemplate) -> anyhow::Result<Examples> {
        let context = u32::try_from(model.checkpoint.config.context_length).unwrap_or(u32::MAX);
        let max_length = self.settings.max_length.min(context);
        let tokenizer = RowTokenizer {
            file: &set.file,
            template,
            tokenizer: &model.checkpoint.tokenizer,
            row_kind: self.row_kind,
            max_length,
            learnt: self.learnt,
        };
        let examples = tokenizer.examples(&set.rows, set.unmatched)?;
        for message in examples.skipped.messages(max_length) {
            print_status(&format!("{}: {message}", set.file));
        }
        Ok(examples)
    }

    /// Returns the settings and inputs that determine the result.
    fn identity(
        &self,
        rows: &Rows,
        model: &Model,
        template: &PromptTemplate,
    ) -> anyhow::Result<Map<String, Value>> {
        let evaluated = match (&self.data.eval_data, self.data.eval_split) {
            (Some(_), _) => {
                rows.evaluation.as_ref().map_or(Value::Null, |set| set.fingerprint.clone().into())
            }
            (None, share) => share.into(),
        };
        let mut identity = object(json!({
            "task": self.task,
            "base_fingerprint": model.checkpoint.fingerprint,
            "adapter_fingerprint": model.adapter.as_ref().map(|adapter| adapter.fingerprint.as_str()),
            "template": template.to_string(),
            "data_fingerprint": rows.training.fingerprint,
            "evaluated_on": evaluated,
            "order": self.data.order(),
            "objective": serde_json::to_value(self.objective)?,
            "training": serde_json::to_value(&self.settings)?,
        }));
        if let Some(learnt) = self.learnt {
            identity.insert("loss_on".to_owned(), learnt.to_string().into());
        }
        record_reading_rules(&mut identity, model.checkpoint.reading);
        Ok(identity)
    }

    fn about(
        &self,
        rows: &Rows,
        training: &Examples,
        evaluation: Option<&Examples>,
        model: &Model,
    ) -> Map<String, Value> {
        object(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "base": model.name,
            "data": rows.training.file,
            "examples": training.data.len(),
            "left_out": training.skipped.counts(),
            "eval_data": rows.evaluation.as_ref().map(|set| set.file.as_str()),
            "eval_examples": evaluation.map(|examples| examples.data.len()),
        }))
    }

    fn train(&self, trainer: &mut Trainer, folder: &OutputFolder) -> anyhow::Result<()> {
        let path = self.model.log.clone().unwrap_or_else(|| folder.metrics_path());
        let reported: Vec<_> = trainer.metrics().iter().map(StepMetrics::log_line).collect();
        let log = MetricsLog::begin(&path, &reported)?;
        let view = TrainingView::new("steps", trainer.steps(), trainer.steps_done(), shown(self.row_kind));
        let mut recorder = TrainingRecorder { folder, log, view };
        let cancel = interrupt::cancel_flag()?;
        let every = u64::from(self.model.checkpoint_every.unwrap_or(CHECKPOINT_EVERY));
        match trainer.run(every, &mut recorder, &cancel) {
            Err(ModelError::Cancelled) => {
                recorder.on_checkpoint(trainer.steps_done(), trainer.checkpoint()?)?;
                Err(Interrupted(RESUME_HINT).into())
            }
            trained => {
                trained?;
                // The evaluation may be interrupted too.
                Ok(recorder.on_checkpoint(trainer.steps_done(), trainer.checkpoint()?)?)
            }
        }
    }

    /// Evaluates the result, writes it, and prints its metrics.
    fn conclude(
        &self,
        trainer: &mut Trainer,
        folder: &OutputFolder,
        record: TrainingRecord,
        evaluation: Option<Examples>,
    ) -> anyhow::Result<()> {
        let mut metrics = trainer.metrics().last().map(StepMetrics::log_line).unwrap_or_default();
        if let Some(examples) = evaluation {
            let cancel = interrupt::cancel_flag()?;
            print_status(&format!("evaluating on {} examples", examples.data.len()));
            let evaluation = trainer.evaluate(&examples.data, &cancel).map_err(map_cancelled)?;
            metrics.extend(evaluation_metrics(&evaluation));
        }
        let base = Some(self.model.base.display().to_string());
        if self.settings.lora.is_some() {
            trainer.save(base, folder.dir())?;
        } else {
            folder.put_result(|dir| Ok(trainer.save(base, dir)?))?;
        }
        let record = TrainingRecord { finished: true, metrics, ..record };
        folder.finish(&record)?;
        report(&record, folder, self.model.json)
    }
}

impl RowSet {
    /// Removes a share of the rows and returns it. Rows with the same prompt stay together.
    ///
    /// # Errors
    /// If no row would be left to learn from.
    fn hold_out(&mut self, share: f64, seed: u64) -> anyhow::Result<Self> {
        fn split_off<T>(
            rows: &mut Vec<Row<T>>,
            share: f64,
            seed: u64,
            prompt: impl Fn(&T) -> String,
        ) -> Vec<Row<T>> {
            let (remaining, held_out) = hold_out(std::mem::take(rows), share, seed, prompt);
            *rows = remaining;
            held_out
        }
        let key = |prompt: &Dialogue| serde_json::to_string(prompt).unwrap_or_default();
        let held_out = match &mut self.rows {
            TrainingRows::Demonstrations(rows) => {
                TrainingRows::Demonstrations(split_off(rows, share, seed, |row| key(&row.prompt)))
            }
            TrainingRows::Conversations(rows) => {
                TrainingRows::Conversations(split_off(rows, share, seed, conversation_key))
            }
            TrainingRows::Texts(rows) => {
                TrainingRows::Texts(split_off(rows, share, seed, |row| row.text.clone()))
            }
            TrainingRows::Pairs(rows) => {
                TrainingRows::Pairs(split_off(rows, share, seed, |row: &Preference| key(&row.prompt)))
            }
        };
        if self.rows.is_empty() {
            let reason = format!(
                "{}: --eval-split {share} leaves no row to learn from, because rows with the same prompt stay together: name an \
                 evaluation file with --eval-data",
                self.file
            );
            return Err(BadInput(reason).into());
        }
        let file = format!("{} (held out)", self.file);
        Ok(Self {
            file,
            fingerprint: self.fingerprint.clone(),
            rows: held_out,
            unmatched: SkippedRows::default(),
        })
    }
}

/// Returns the turns before the last one, as the key of a prompt.
fn conversation_key(conversation: &Conversation) -> String {
    let turns = conversation.messages.len().saturating_sub(1);
    serde_json::to_string(&conversation.messages[..turns]).unwrap_or_default()
}

/// Opens the reward model to train by the rules of its training, and prints its name.
fn open_reward_model(options: &ModelOptions) -> anyhow::Result<Model> {
    let reading = reading_rules(&options.output, options.resume_options())?;
    let model = Model::open_by(reading, &options.base, options.layers, options.adapter.as_deref())?;
    print_status(&format!("training {}", model.name));
    Ok(model)
}

/// Opens the policy to train, and prints its name.
pub(super) fn open_policy(options: &ModelOptions) -> anyhow::Result<Model> {
    let reading = reading_rules(&options.output, options.resume_options())?;
    let model = Model::open_policy_by(reading, &options.base, options.layers, options.adapter.as_deref())?;
    print_status(&format!("training {}", model.name));
    Ok(model)
}

/// Returns the error context that names the folder.
pub(super) fn in_folder(folder: &OutputFolder) -> BadInput {
    BadInput(folder.dir().display().to_string())
}

/// Returns the members of a JSON object; none of any other value.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// Turns a cancelled model run into an interruption, after which the training can resume.
pub(super) fn map_cancelled(error: ModelError) -> anyhow::Error {
    if matches!(error, ModelError::Cancelled) { Interrupted(RESUME_HINT).into() } else { error.into() }
}

/// Prints the last metrics and the folder of the result.
pub(super) fn report(record: &TrainingRecord, folder: &OutputFolder, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &record.metrics)?;
        return Ok(writeln!(out)?);
    }
    for (name, value) in &record.metrics {
        writeln!(out, "{name:<28} {value}")?;
    }
    Ok(writeln!(out, "result: {}", folder.dir().display())?)
}

/// Returns the metrics to show beside the bar, each with its label.
fn shown(row_kind: RowKind) -> &'static [(&'static str, &'static str)] {
    match row_kind {
        RowKind::Imitation => &[("loss", "loss"), ("mean_token_accuracy", "accuracy")],
        RowKind::Scores | RowKind::Costs => &[("loss", "loss"), ("accuracy", "accuracy")],
        RowKind::Preferences => &[("loss", "loss"), ("rewards/accuracies", "accuracy")],
    }
}

/// Returns the metrics of an evaluation under TRL's names.
fn evaluation_metrics(evaluation: &Evaluation) -> Map<String, Value> {
    let Evaluation { loss, examples, details, .. } = evaluation;
    let mut metrics = Map::new();
    metrics.insert("eval_loss".to_owned(), (*loss).into());
    metrics.insert("eval_examples".to_owned(), (*examples).into());
    metrics.extend(details.named().map(|(name, value)| (format!("eval_{name}"), value.into())));
    metrics
}

/// Logs the metrics of each step, shows them, and writes checkpoints.
struct TrainingRecorder<'a> {
    folder: &'a OutputFolder,
    log: MetricsLog,
    view: TrainingView,
}

impl TrainingObserver for TrainingRecorder<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<(), ModelError> {
        let line = metrics.log_line();
        self.view.show(metrics.step, &line);
        self.log.add(&line).map_err(|error| write_error(self.log.path(), &error))
    }

    fn on_checkpoint(&mut self, _step: u64, bytes: Vec<u8>) -> Result<(), ModelError> {
        self.log.sync().map_err(|error| write_error(self.log.path(), &error))?;
        self.folder.write_checkpoint(&bytes).map_err(|error| write_error(self.folder.dir(), &error))
    }
}

pub(super) fn write_error(path: &std::path::Path, error: &std::io::Error) -> ModelError {
    ModelError::Write { path: path.to_owned(), reason: error.to_string() }
}
