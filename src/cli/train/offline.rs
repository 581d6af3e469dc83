//! Trainings on examples: imitation, reward and cost models, direct preferences.

use std::fmt::Display;
use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::training::{Dialogue, Hyperparameters, Preference};
use dissent_models::ModelError;
use dissent_models::template::PromptTemplate;
use dissent_models::training::{
    Evaluation, Objective, StepMetrics, Trainer, TrainingObserver, TrainingSetup,
};
use serde_json::{Map, Value, json};

use super::examples::{Examples, RowKind, RowTokenizer, TrainingRows, wanted};
use super::folder::{Decision, OutputFolder, TrainingRecord, decide};
use super::metrics_log::MetricsLog;
use super::options::{DataOptions, ModelOptions};
use super::view::{TrainingView, say};
use crate::cli::interrupt;
use crate::dataset::{Dataset, ReadOptions, Row, SkippedRows, hold_back};
use crate::error::{BadInput, Interrupted};
use crate::experiment::models::{self, Model};

/// Steps from one checkpoint to the next.
const CHECKPOINT_EVERY: u32 = 20;
pub(super) const GO_ON: &str = "a checkpoint is kept: run the same command again to go on";

/// A training on examples, as the command line describes it.
pub(super) struct OfflineTraining<'a> {
    pub(super) task: &'static str,
    pub(super) model: &'a ModelOptions,
    pub(super) data: &'a DataOptions,
    pub(super) reading: ReadOptions,
    pub(super) wanted: RowKind,
    pub(super) objective: Objective,
    pub(super) settings: Hyperparameters,
    pub(super) append_eos: bool,
}

/// The rows of a training, before any tokenizer has seen them.
struct Rows {
    learnt: Part,
    /// What the result is evaluated on.
    held: Option<Part>,
}

struct Part {
    file: String,
    fingerprint: String,
    rows: TrainingRows,
    unmatched: SkippedRows,
}

impl OfflineTraining<'_> {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        // What is cheap to find wrong is looked at before what is slow to load.
        let rows = self.read()?;
        let model = open_model(self.model)?;
        let template = self.template(&model);
        let settings = self.identity(&rows, &model, &template)?;
        let folder = OutputFolder::open(&self.model.output)?;
        let found = folder.found()?;
        let decision =
            decide(&found, &settings, self.model.wish()).map_err(|reason| in_folder(&folder, reason))?;
        let learnt = self.examples(&rows.learnt, &model, &template)?;
        let held = rows.held.as_ref().map(|part| self.examples(part, &model, &template)).transpose()?;
        let about = self.about(&rows, &learnt, held.as_ref(), &model);
        let record = TrainingRecord { finished: false, settings, about, metrics: Map::new() };
        let (runtime, options) = models::runtime(&self.model.runtime.config(), 1)?;
        let setup = TrainingSetup {
            objective: self.objective,
            settings: self.settings.clone(),
            order: self.data.order(),
        };
        let Examples { data, .. } = learnt;
        let (checkpoint, adapter) = (&model.checkpoint, model.adapter.as_ref());
        let mut trainer = Trainer::open(runtime, checkpoint, adapter, setup, data, &options)?;
        if decision == Decision::Begin {
            folder.begin(&record)?;
        } else if let Some(bytes) = folder.checkpoint()? {
            trainer.resume(&bytes).with_context(|| format!("{}", folder.dir().display()))?;
            say(&format!("going on after step {} of {}", trainer.steps_done(), trainer.steps()));
        }
        self.train(&mut trainer, &folder)?;
        self.conclude(&mut trainer, &folder, record, held)
    }

    fn read(&self) -> anyhow::Result<Rows> {
        let dataset = Dataset::read(&self.data.data, &self.reading)?;
        let mut learnt = self.part(dataset)?;
        let held = match (&self.data.eval_data, self.data.eval_split) {
            (Some(path), _) => Some(self.part(Dataset::read(path, &self.reading)?)?),
            (None, Some(share)) => Some(learnt.hold_back(share, self.settings.seed)?),
            (None, None) => None,
        };
        Ok(Rows { learnt, held })
    }

    fn part(&self, dataset: Dataset) -> anyhow::Result<Part> {
        let (file, fingerprint) = (dataset.file.clone(), dataset.fingerprint());
        let (rows, unmatched) = wanted(dataset, self.wanted)?;
        if rows.is_empty() {
            return Err(BadInput(format!("{file}: no row is left to learn from")).into());
        }
        Ok(Part { file, fingerprint, rows, unmatched })
    }

    /// The template that the model sees texts in.
    fn template(&self, model: &Model) -> PromptTemplate {
        let template = self.model.template.clone();
        if self.append_eos { template.with_end_of_sequence(&model.checkpoint.tokenizer) } else { template }
    }

    fn examples(&self, part: &Part, model: &Model, template: &PromptTemplate) -> anyhow::Result<Examples> {
        let context = u32::try_from(model.checkpoint.config.context_length).unwrap_or(u32::MAX);
        let max_length = self.settings.max_length.min(context);
        let tokenising = RowTokenizer {
            file: &part.file,
            template,
            tokenizer: &model.checkpoint.tokenizer,
            wanted: self.wanted,
            max_length,
        };
        let examples = tokenising.examples(&part.rows, part.unmatched)?;
        for line in examples.left.say(max_length) {
            say(&format!("{}: {line}", part.file));
        }
        Ok(examples)
    }

    /// Everything that determines the result.
    fn identity(
        &self,
        rows: &Rows,
        model: &Model,
        template: &PromptTemplate,
    ) -> anyhow::Result<Map<String, Value>> {
        let evaluated = match (&self.data.eval_data, self.data.eval_split) {
            (Some(_), _) => rows.held.as_ref().map_or(Value::Null, |part| part.fingerprint.clone().into()),
            (None, share) => share.into(),
        };
        Ok(object(json!({
            "task": self.task,
            "base_fingerprint": model.checkpoint.fingerprint,
            "adapter_fingerprint": model.adapter.as_ref().map(|adapter| adapter.fingerprint.as_str()),
            "template": template.to_string(),
            "data_fingerprint": rows.learnt.fingerprint,
            "evaluated_on": evaluated,
            "order": self.data.order(),
            "objective": serde_json::to_value(self.objective)?,
            "training": serde_json::to_value(&self.settings)?,
        })))
    }

    fn about(
        &self,
        rows: &Rows,
        learnt: &Examples,
        held: Option<&Examples>,
        model: &Model,
    ) -> Map<String, Value> {
        object(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "base": model.name,
            "data": rows.learnt.file,
            "examples": learnt.data.len(),
            "left_out": learnt.left.counts(),
            "eval_data": rows.held.as_ref().map(|part| part.file.as_str()),
            "eval_examples": held.map(|held| held.data.len()),
        }))
    }

    fn train(&self, trainer: &mut Trainer, folder: &OutputFolder) -> anyhow::Result<()> {
        let path = self.model.log.clone().unwrap_or_else(|| folder.metrics_path());
        let reported: Vec<_> = trainer.metrics().iter().map(StepMetrics::log_line).collect();
        let log = MetricsLog::begin(&path, &reported)?;
        let view = TrainingView::new("steps", trainer.steps(), trainer.steps_done(), shown(self.wanted));
        let mut keeper = TrainingRecorder { folder, log, view };
        let cancel = interrupt::cancel_flag()?;
        let every = u64::from(self.model.checkpoint_every.unwrap_or(CHECKPOINT_EVERY));
        match trainer.run(every, &mut keeper, &cancel) {
            Err(ModelError::Cancelled) => {
                keeper.on_checkpoint(trainer.steps_done(), trainer.checkpoint()?)?;
                Err(Interrupted(GO_ON).into())
            }
            trained => {
                trained?;
                // What comes after may be interrupted too.
                Ok(keeper.on_checkpoint(trainer.steps_done(), trainer.checkpoint()?)?)
            }
        }
    }

    /// Evaluates the result, writes it, and says what it is.
    fn conclude(
        &self,
        trainer: &mut Trainer,
        folder: &OutputFolder,
        record: TrainingRecord,
        held: Option<Examples>,
    ) -> anyhow::Result<()> {
        let mut metrics = trainer.metrics().last().map(StepMetrics::log_line).unwrap_or_default();
        if let Some(held) = held {
            let cancel = interrupt::cancel_flag()?;
            say(&format!("evaluating on {} examples", held.data.len()));
            let evaluation = trainer.evaluate(&held.data, &cancel).map_err(interrupted)?;
            metrics.extend(evaluation_figures(&evaluation));
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

impl Part {
    /// Takes a share of the rows out, those with the same prompt together.
    fn hold_back(&mut self, share: f64, seed: u64) -> anyhow::Result<Self> {
        fn parted<T>(
            rows: &mut Vec<Row<T>>,
            share: f64,
            seed: u64,
            prompt: impl Fn(&T) -> String,
        ) -> Vec<Row<T>> {
            let (learnt, held) = hold_back(std::mem::take(rows), share, seed, prompt);
            *rows = learnt;
            held
        }
        let key = |prompt: &Dialogue| serde_json::to_string(prompt).unwrap_or_default();
        let held = match &mut self.rows {
            TrainingRows::Demonstrations(rows) => {
                TrainingRows::Demonstrations(parted(rows, share, seed, |row| key(&row.prompt)))
            }
            TrainingRows::Texts(rows) => {
                TrainingRows::Texts(parted(rows, share, seed, |row| row.text.clone()))
            }
            TrainingRows::Pairs(rows) => {
                TrainingRows::Pairs(parted(rows, share, seed, |row: &Preference| key(&row.prompt)))
            }
        };
        if self.rows.is_empty() {
            let reason = format!(
                "{}: all rows have prompts of which {share} cannot be held back: name another file with --eval-data",
                self.file
            );
            return Err(BadInput(reason).into());
        }
        let file = format!("{} (held back)", self.file);
        Ok(Self {
            file,
            fingerprint: self.fingerprint.clone(),
            rows: held,
            unmatched: SkippedRows::default(),
        })
    }
}

/// Opens the model that is trained, and says so: it may take a while.
pub(super) fn open_model(options: &ModelOptions) -> anyhow::Result<Model> {
    let model = Model::open(&options.base, options.layers, options.adapter.as_deref())?;
    say(&format!("training {}", model.name));
    Ok(model)
}

pub(super) fn in_folder(folder: &OutputFolder, reason: impl Display) -> BadInput {
    BadInput(format!("{} {reason}", folder.dir().display()))
}

/// The members of a JSON object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

pub(super) fn interrupted(error: ModelError) -> anyhow::Error {
    if matches!(error, ModelError::Cancelled) { Interrupted(GO_ON).into() } else { error.into() }
}

/// Prints the last figures and where the result is.
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

/// Figures that are shown beside the bar.
fn shown(wanted: RowKind) -> &'static [(&'static str, &'static str)] {
    match wanted {
        RowKind::Imitation => &[("loss", "loss"), ("mean_token_accuracy", "accuracy")],
        RowKind::Scores | RowKind::Costs => &[("loss", "loss"), ("accuracy", "accuracy")],
        RowKind::Preferences => &[("loss", "loss"), ("rewards/accuracies", "accuracy")],
    }
}

/// Under TRL's names.
fn evaluation_figures(evaluation: &Evaluation) -> Map<String, Value> {
    let Evaluation { loss, examples, details, .. } = evaluation;
    let mut figures = Map::new();
    figures.insert("eval_loss".to_owned(), (*loss).into());
    figures.insert("eval_examples".to_owned(), (*examples).into());
    figures.extend(details.named().map(|(name, value)| (format!("eval_{name}"), value.into())));
    figures
}

/// Logs steps, shows them, and keeps checkpoints.
struct TrainingRecorder<'a> {
    folder: &'a OutputFolder,
    log: MetricsLog,
    view: TrainingView,
}

impl TrainingObserver for TrainingRecorder<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<(), ModelError> {
        let line = metrics.log_line();
        self.view.show(metrics.step, &line);
        self.log.add(&line).map_err(|error| unwritable(self.log.path(), &error))
    }

    fn on_checkpoint(&mut self, _step: u64, bytes: Vec<u8>) -> Result<(), ModelError> {
        self.log.sync().map_err(|error| unwritable(self.log.path(), &error))?;
        self.folder.write_checkpoint(&bytes).map_err(|error| unwritable(self.folder.dir(), &error))
    }
}

pub(super) fn unwritable(path: &std::path::Path, error: &std::io::Error) -> ModelError {
    ModelError::Write { path: path.to_owned(), reason: error.to_string() }
}
