//! Training on examples, from the first step to the result: supervised fine-tuning, reward and cost models,
//! direct preferences.

use std::path::Path;
use std::time::Instant;

use dissent_domain::training::Hyperparameters;
use serde::Serialize;

use super::checkpoint::TrainingCheckpoint;
use super::data::TrainingData;
use super::data_order::{DataOrder, DataPlan};
use super::evaluation::EvalSession;
use super::metrics::{Details, StepMetrics};
use super::objective::{Objective, Observed};
use super::optimizer::AdamWStep;
use super::packing::PackedBatch;
use super::parameters::ParameterLayout;
use super::schedule::LearningRate;
use super::spec::{LoraPlan, StepSpec, Trainable, TrainingHead};
use super::step::{StepSession, TrainingState};
use crate::adapter::LoraAdapter;
use crate::checkpoint::{Checkpoint, Dtype, write};
use crate::error::{InvalidKind, ModelError};
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};

/// A training on examples, without its model and its data.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSetup {
    /// The objective.
    pub objective: Objective,
    /// The hyperparameters.
    pub settings: Hyperparameters,
    /// The data order.
    pub order: DataOrder,
}

/// A model in training, between two steps.
pub struct Trainer {
    checkpoint: Checkpoint,
    runtime: &'static OnnxRuntime,
    options: SessionOptions,
    setup: TrainingSetup,
    data: TrainingData,
    plan: DataPlan,
    rate: LearningRate,
    steps: u64,
    session: StepSession,
    /// The session of evaluations, opened at the first one.
    evaluation: Option<EvalSession>,
    /// The parameters before the first step.
    initial: Vec<f32>,
    /// The parameters of the reference, if it is not the model without its change.
    reference_parameters: Option<Vec<f32>>,
    /// Log-probabilities under the reference, `[chosen, rejected]` for each example; empty until the first
    /// step.
    reference: Vec<[f32; 2]>,
    fingerprint: String,
    /// Whether a step was interrupted between micro-batches.
    is_interrupted: bool,
    num_tokens: u64,
    metrics: Vec<StepMetrics>,
}

/// The evaluation of a model on held-out examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The loss: the mean over completion tokens, or over pairs.
    pub loss: f64,
    /// Examples.
    pub examples: u64,
    /// Tokens, prompts included.
    pub num_tokens: u64,
    /// The metrics that depend on the objective.
    pub details: Details,
    /// The outputs for each pair, `[chosen, rejected]`: scores, or log-probabilities of completions in the
    /// form of the loss (sums; means for IPO). Empty for demonstrations.
    pub pairs: Vec<[f32; 2]>,
}

/// Observes the progress of a training and stores its checkpoints.
pub trait TrainingObserver {
    /// A step is done.
    ///
    /// # Errors
    /// Any error ends the training.
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<(), ModelError>;

    /// Stores a checkpoint, taken after `step` steps.
    ///
    /// # Errors
    /// Any error ends the training.
    fn on_checkpoint(&mut self, step: u64, bytes: Vec<u8>) -> Result<(), ModelError>;
}

impl Trainer {
    /// Prepares a training. It starts from the adapter `from`, and then trains its projections and ranks, or
    /// from new parameters.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for settings out of range, examples that the objective cannot use, or an
    /// adapter that does not fit. [`ModelError::Runtime`] if ONNX Runtime fails.
    pub fn open(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        from: Option<&LoraAdapter>,
        setup: TrainingSetup,
        data: TrainingData,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let TrainingSetup { objective, settings, order } = &setup;
        settings.validate().map_err(|error| ModelError::invalid(InvalidKind::Setting, error.to_string()))?;
        data.check(objective.loss())?;
        if objective.loss().head() != TrainingHead::Score {
            checkpoint.check_policy(from)?;
        }
        let trainable = trainable(checkpoint, from, settings)?;
        let spec = StepSpec { trainable, loss: objective.loss(), recompute: settings.recompute };
        let layout =
            ParameterLayout::new(&checkpoint.config, &checkpoint.weights, &spec.trainable, spec.loss.head())?;
        let initial = layout.initial(checkpoint, from, None, settings.seed)?;
        let state = TrainingState::new(initial.clone());
        let session = StepSession::open(runtime, checkpoint, &spec, state, options)?;
        let plan = DataPlan::new(data.len(), settings, *order);
        let steps = plan.steps(settings);
        let fingerprint = fingerprint(checkpoint, from, &setup, &data)?;
        Ok(Self {
            checkpoint: checkpoint.clone(),
            runtime,
            options: options.clone(),
            rate: LearningRate::new(settings, steps),
            setup,
            data,
            plan,
            steps,
            session,
            evaluation: None,
            initial,
            reference_parameters: None,
            reference: Vec::new(),
            fingerprint,
            is_interrupted: false,
            num_tokens: 0,
            metrics: Vec::new(),
        })
    }

    /// Sets the model with this adapter as the reference, instead of the model without an adapter. Call it
    /// before the first step and before [`Trainer::resume`].
    ///
    /// # Errors
    /// As [`Trainable::check_reference`].
    pub fn set_reference(&mut self, adapter: &LoraAdapter) -> Result<(), ModelError> {
        self.session.spec().trainable.check_reference(adapter)?;
        let seed = self.setup.settings.seed;
        self.reference_parameters =
            Some(self.session.layout().initial(&self.checkpoint, Some(adapter), None, seed)?);
        let both = format!("{}, held to {}", self.fingerprint, adapter.fingerprint);
        self.fingerprint = blake3::hash(both.as_bytes()).to_hex().to_string();
        Ok(())
    }

    /// Resumes from a checkpoint of the same training, at any point of this one.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for damaged bytes, or for a checkpoint with another model, adapter, objective,
    /// setting or example.
    pub fn resume(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        let checkpoint = TrainingCheckpoint::from_bytes(bytes)?;
        let steps = checkpoint.metrics.len() as u64;
        if checkpoint.training != self.fingerprint
            || checkpoint.step != steps
            || checkpoint.cursor != self.plan.cursor(steps)
            || !(checkpoint.reference.is_empty() || checkpoint.reference.len() == 2 * self.data.len())
        {
            return Err(ModelError::invalid(
                InvalidKind::Checkpoint,
                "the checkpoint belongs to another training: model, adapter, objective, settings and examples must be equal; \
                 restart the training, or use its original inputs",
            ));
        }
        self.session.restore(checkpoint.state)?;
        self.reference = checkpoint.reference.as_chunks::<2>().0.to_vec();
        self.num_tokens = checkpoint.num_tokens;
        self.metrics = checkpoint.metrics;
        self.is_interrupted = false;
        Ok(())
    }

    /// Returns a checkpoint of the current state.
    ///
    /// # Errors
    /// As [`TrainingCheckpoint::to_bytes`].
    pub fn checkpoint(&self) -> Result<Vec<u8>, ModelError> {
        let step = self.steps_done();
        TrainingCheckpoint {
            training: self.fingerprint.clone(),
            state: self.session.state().clone(),
            step,
            cursor: self.plan.cursor(step),
            seed: self.setup.settings.seed,
            num_tokens: self.num_tokens,
            reference: self.reference.as_flattened().to_vec(),
            metrics: self.metrics.clone(),
        }
        .to_bytes()
    }

    /// Steps done.
    #[must_use]
    pub fn steps_done(&self) -> u64 {
        self.metrics.len() as u64
    }

    /// Returns the number of steps of the whole training.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the reports of all steps so far, including those before a resume.
    #[must_use]
    pub fn metrics(&self) -> &[StepMetrics] {
        &self.metrics
    }

    /// Identifies the training: model, initial adapter, objective, settings and examples.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Takes the remaining steps, with a checkpoint after every `checkpoint_every` of them; 0 disables
    /// checkpoints.
    ///
    /// # Errors
    /// As [`Trainer::step`], and the observer's errors.
    pub fn run(
        &mut self,
        checkpoint_every: u64,
        observer: &mut dyn TrainingObserver,
        cancel: &CancelFlag,
    ) -> Result<(), ModelError> {
        while let Some(metrics) = self.step(cancel)? {
            observer.on_step(&metrics)?;
            if checkpoint_every > 0 && metrics.step % checkpoint_every == 0 && metrics.step < self.steps {
                observer.on_checkpoint(metrics.step, self.checkpoint()?)?;
            }
        }
        Ok(())
    }

    /// Takes one step; `None` if all are done. Before the first step, the reference's log-probabilities are
    /// computed if the objective needs them.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] for an example that the model cannot run, or a loss
    /// that is not finite. [`ModelError::Runtime`] if a run fails. An error leaves the training as before the
    /// step.
    pub fn step(&mut self, cancel: &CancelFlag) -> Result<Option<StepMetrics>, ModelError> {
        let done = self.steps_done();
        if done >= self.steps {
            return Ok(None);
        }
        if self.setup.objective.has_reference() && self.reference.is_empty() {
            let data = std::mem::replace(&mut self.data, TrainingData::Pairs(Vec::new()));
            let reference = self.reference_of(&data, cancel);
            self.data = data;
            self.reference = reference?;
        }
        if self.is_interrupted {
            self.session.restore(self.session.state().clone())?;
        }
        self.is_interrupted = true;
        let metrics = self.take_step(done, cancel)?;
        self.is_interrupted = false;
        self.num_tokens = metrics.num_tokens;
        self.metrics.push(metrics.clone());
        Ok(Some(metrics))
    }

    fn take_step(&mut self, done: u64, cancel: &CancelFlag) -> Result<StepMetrics, ModelError> {
        let begun = Instant::now();
        let (objective, padding) = (self.setup.objective, self.checkpoint.classifier_padding());
        let micro_batches = self.plan.micro_batches(done);
        let batches = micro_batches
            .iter()
            .map(|places| objective.batch(&self.data, places, padding))
            .collect::<Result<Vec<PackedBatch>, _>>()?;
        let units = batches.iter().map(|batch| objective.units(batch)).sum();
        let tokens: usize = batches.iter().map(PackedBatch::tokens).sum();
        let learning_rate = self.rate.at(done);
        let adam = AdamWStep::new(&self.setup.settings, learning_rate, done + 1);
        let (mut loss, mut grad_norm, mut observed) = (0.0, 0.0, Observed::default());
        for (index, (places, batch)) in micro_batches.iter().zip(&batches).enumerate() {
            let inputs = objective.inputs(&self.data, places, batch, units, &self.reference);
            let output = if index + 1 < batches.len() {
                self.session.accumulate(batch, &inputs, cancel)?
            } else {
                self.session.step(batch, &inputs, &adam, cancel)?
            };
            loss += f64::from(output.loss);
            grad_norm = f64::from(output.gradient_norm);
            observed.add(&objective, batch, &output.model);
        }
        let places = micro_batches.concat();
        let seconds = begun.elapsed().as_secs_f64();
        Ok(StepMetrics {
            step: done + 1,
            epoch: self.plan.epochs_after(done + 1),
            loss,
            grad_norm,
            learning_rate,
            num_tokens: self.num_tokens + tokens as u64,
            tokens_per_second: if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
            details: objective.details(&self.data, &places, &observed, &self.reference),
        })
    }

    /// Evaluates the current model on these examples.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn evaluate(&mut self, data: &TrainingData, cancel: &CancelFlag) -> Result<Evaluation, ModelError> {
        let (objective, padding) = (self.setup.objective, self.checkpoint.classifier_padding());
        data.check(objective.loss())?;
        let reference = if objective.has_reference() { self.reference_of(data, cancel)? } else { Vec::new() };
        let parameters = self.session.state().parameters.clone();
        let places: Vec<usize> = (0..data.len()).collect();
        let (mut observed, mut sum, mut units, mut num_tokens) = (Observed::default(), 0.0, 0, 0);
        for places in places.chunks(self.batch_size()) {
            let batch = objective.batch(data, places, padding)?;
            let outputs = self.evaluation()?.evaluate(&parameters, &batch, cancel)?;
            units += objective.units(&batch);
            num_tokens += batch.tokens() as u64;
            if let TrainingData::Demonstrations(_) = data {
                sum -= outputs.logprobs.iter().map(|&logprob| f64::from(logprob)).sum::<f64>();
            }
            observed.add(&objective, &batch, &outputs);
        }
        if let TrainingData::Pairs(all) = data {
            let each = all.iter().zip(&observed.pairs).enumerate();
            sum = each
                .map(|(place, (pair, outputs))| objective.pair_loss(pair, *outputs, reference.get(place)))
                .sum();
        }
        Ok(Evaluation {
            loss: sum / units.max(1) as f64,
            examples: data.len() as u64,
            num_tokens,
            details: objective.details(data, &places, &observed, &reference),
            pairs: observed.pairs,
        })
    }

    /// Log-probabilities of the completions under the reference, `[chosen, rejected]`.
    fn reference_of(
        &mut self,
        data: &TrainingData,
        cancel: &CancelFlag,
    ) -> Result<Vec<[f32; 2]>, ModelError> {
        let (objective, padding) = (self.setup.objective, self.checkpoint.classifier_padding());
        let unchanged = || self.session.layout().without_change(&self.initial);
        let parameters = self.reference_parameters.clone().unwrap_or_else(unchanged);
        let places: Vec<usize> = (0..data.len()).collect();
        let mut reference = Vec::with_capacity(places.len());
        for places in places.chunks(self.batch_size()) {
            let batch = objective.batch(data, places, padding)?;
            let outputs = self.evaluation()?.evaluate(&parameters, &batch, cancel)?;
            reference.extend(objective.pair_outputs(&batch, &outputs));
        }
        Ok(reference)
    }

    fn batch_size(&self) -> usize {
        usize::try_from(self.setup.settings.batch_size).unwrap_or(usize::MAX).max(1)
    }

    fn evaluation(&mut self) -> Result<&mut EvalSession, ModelError> {
        if self.evaluation.is_none() {
            let spec = self.session.spec();
            let (trainable, head, report) = (&spec.trainable, spec.loss.head(), spec.loss.report());
            let session =
                EvalSession::open(self.runtime, &self.checkpoint, trainable, head, report, &self.options)?;
            self.evaluation = Some(session);
        }
        self.evaluation.as_mut().ok_or_else(|| ModelError::Runtime("no evaluation session".to_owned()))
    }

    /// Returns the current result as an adapter. `base_model` is the name of the base model in its
    /// configuration.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if all weights are trained.
    pub fn adapter(&self, base_model: Option<String>) -> Result<LoraAdapter, ModelError> {
        self.session.layout().adapter(&self.session.state().parameters, base_model)
    }

    /// Writes the current result: a PEFT folder, or a Hugging Face folder if all weights are trained.
    ///
    /// # Errors
    /// As [`LoraAdapter::save`] and [`write::merge`].
    pub fn save(&self, base_model: Option<String>, output: &Path) -> Result<(), ModelError> {
        match &self.session.spec().trainable {
            Trainable::Lora(_) => self.adapter(base_model)?.save(output).map(|_| ()),
            Trainable::Full => {
                let (layout, parameters) = (self.session.layout(), &self.session.state().parameters);
                let trained = |name: &str| {
                    let parameter = layout.parameters().iter().find(|parameter| parameter.name == name)?;
                    parameters.get(parameter.range())
                };
                write::write_trained(&self.checkpoint, &trained, Dtype::F32, output)
            }
        }
    }
}

/// Returns the initial adapter of a training with these settings; it changes nothing.
///
/// # Errors
/// [`ModelError::Invalid`] if the settings have no low-rank change, or one of a projection that the model
/// does not have.
pub fn fresh_adapter(checkpoint: &Checkpoint, settings: &Hyperparameters) -> Result<LoraAdapter, ModelError> {
    let (Checkpoint { config, weights, .. }, head) = (checkpoint, TrainingHead::Vocabulary);
    let layout = ParameterLayout::new(config, weights, &trainable(checkpoint, None, settings)?, head)?;
    layout.adapter(&layout.initial(checkpoint, None, None, settings.seed)?, None)
}

/// Returns the trained parameters: those of the given adapter, those of the settings, or all weights.
pub(super) fn trainable(
    checkpoint: &Checkpoint,
    from: Option<&LoraAdapter>,
    settings: &Hyperparameters,
) -> Result<Trainable, ModelError> {
    match (from, &settings.lora) {
        (Some(adapter), Some(_)) => {
            adapter.check(&checkpoint.config)?;
            Ok(Trainable::Lora(LoraPlan::of_adapter(adapter)))
        }
        (None, Some(lora)) => Ok(Trainable::Lora(LoraPlan::new(&checkpoint.config, lora)?)),
        (None, None) => Ok(Trainable::Full),
        (Some(_), None) => Err(ModelError::invalid(
            InvalidKind::Unsupported,
            "training all weights cannot start from an adapter: merge it into the model first",
        )),
    }
}

/// Identifies a training: equal trainings have equal fingerprints.
fn fingerprint(
    checkpoint: &Checkpoint,
    from: Option<&LoraAdapter>,
    setup: &TrainingSetup,
    data: &TrainingData,
) -> Result<String, ModelError> {
    #[derive(Serialize)]
    struct Identity<'a> {
        model: &'a str,
        adapter: Option<&'a str>,
        objective: &'a Objective,
        settings: &'a Hyperparameters,
        order: DataOrder,
        data: String,
    }
    let identity = Identity {
        model: &checkpoint.fingerprint,
        adapter: from.map(|adapter| adapter.fingerprint.as_str()),
        objective: &setup.objective,
        settings: &setup.settings,
        order: setup.order,
        data: data.fingerprint(),
    };
    let text = serde_json::to_vec(&identity).map_err(|error| {
        ModelError::invalid_because(
            InvalidKind::Serialisation,
            "the settings of the training cannot be serialised",
            error,
        )
    })?;
    Ok(blake3::hash(&text).to_hex().to_string())
}
