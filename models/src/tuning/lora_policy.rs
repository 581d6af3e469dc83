//! A language model under tuning: a low-rank change that is trained, sampled with, and held to a reference, in three sessions.

use dissent_domain::generation::SamplingParams;

use super::method::Method;
use super::policy::{EvaluatedModel, TunedPolicy};
use super::tuner::TuningSettings;
use crate::adapter::{Adapters, LoraAdapter, LoraSlots, ValueHead};
use crate::checkpoint::{Checkpoint, TextTokenizer};
use crate::error::ModelError;
use crate::generation::{GenerationJob, Generator, SampledTokens};
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::training::{
    AdamWStep, BatchOutput, EvalSession, LoraPlan, LossInputs, ModelOutputs, PackedBatch, PositionReport,
    StepSession, StepSpec, Trainable, TrainingHead, TrainingSequence, TrainingState,
};

/// What the policy is held to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ReferencePolicy<'a> {
    /// The policy as tuning finds it, the adapter that it begins with included.
    #[default]
    Start,
    /// The checkpoint without any adapter.
    Base,
    /// The checkpoint with this adapter, whose changes are of the projections, rank and scaling that are tuned.
    Adapter(&'a LoraAdapter),
}

/// What tuning begins with.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyStart<'a> {
    /// The adapter that is trained further; none: a fresh one, which changes nothing at first.
    pub adapter: Option<&'a LoraAdapter>,
    /// The value head of an earlier PPO; none: a fresh one, which gives 0 everywhere.
    pub value_head: Option<&'a ValueHead>,
    /// What the policy is held to.
    pub reference: ReferencePolicy<'a>,
}

/// A language model whose low-rank change is tuned.
pub struct LoraPolicy {
    training: StepSession,
    evaluation: EvalSession,
    generator: Generator,
    /// The trained numbers of the reference.
    reference: Vec<f32>,
    head: TrainingHead,
    tokenizer: TextTokenizer,
    fingerprint: String,
}

impl LoraPolicy {
    /// Opens the sessions.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for settings without a low-rank change, a method that does not sample or an anchor of another shape,
    /// and as the sessions' `open`.
    pub fn open(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        settings: &TuningSettings,
        start: PolicyStart<'_>,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let loss = Method::try_from(settings.objective.method)?.loss();
        let plan = match (start.adapter, &settings.training.lora) {
            (Some(adapter), _) => LoraPlan::of_adapter(adapter),
            (None, Some(lora)) => LoraPlan::new(&checkpoint.config, lora)?,
            (None, None) => {
                return Err(ModelError::Invalid(
                    "a policy is tuned by a low-rank change: give the rank of one (lora)".to_owned(),
                ));
            }
        };
        let trainable = Trainable::Lora(plan);
        let nothing = PositionReport::default();
        let evaluation = EvalSession::open(runtime, checkpoint, &trainable, loss.head(), nothing, options)?;
        let layout = evaluation.layout();
        let parameters =
            layout.initial(checkpoint, start.adapter, start.value_head, settings.training.seed)?;
        let reference = match start.reference {
            ReferencePolicy::Start => parameters.clone(),
            ReferencePolicy::Base => layout.without_change(&parameters),
            ReferencePolicy::Adapter(adapter) => {
                trainable.check_reference(adapter)?;
                layout.initial(checkpoint, Some(adapter), start.value_head, settings.training.seed)?
            }
        };
        let adapter = layout.adapter(&parameters, None)?;
        let turns = Adapters::Swappable(&LoraSlots::of_adapter(&adapter), Some(&adapter));
        let generator = Generator::open(runtime, checkpoint, turns, options)?;
        let fingerprint = fingerprint(checkpoint, &adapter, &reference);
        let spec = StepSpec { trainable, loss, recompute: settings.training.recompute };
        let state = TrainingState::new(parameters);
        let training = StepSession::open(runtime, checkpoint, &spec, state, options)?;
        let tokenizer = checkpoint.tokenizer.clone();
        Ok(Self { training, evaluation, generator, reference, head: loss.head(), tokenizer, fingerprint })
    }

    /// The adapter as it is now. `base_model` is what its configuration will call the model that it belongs to.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a number is not finite.
    pub fn adapter(&self, base_model: Option<String>) -> Result<LoraAdapter, ModelError> {
        self.training.layout().adapter(&self.training.state().parameters, base_model)
    }

    /// The value head as it is now; PPO only.
    #[must_use]
    pub fn value_head(&self) -> Option<ValueHead> {
        self.training.layout().value_head(&self.training.state().parameters)
    }
}

/// Names the base model, what is trained of it (ranks and scalings included), and the reference.
fn fingerprint(checkpoint: &Checkpoint, start: &LoraAdapter, reference: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("dissent tuned policy 1");
    hasher.update(checkpoint.fingerprint.as_bytes()).update(start.fingerprint.as_bytes());
    for number in reference {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

impl TunedPolicy for LoraPolicy {
    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn synchronise(&mut self) -> Result<(), ModelError> {
        let adapter = self.adapter(None)?;
        self.generator.set_adapter(Some(&adapter))
    }

    fn sample(
        &mut self,
        jobs: &[GenerationJob],
        params: &SamplingParams,
        cancel: &CancelFlag,
    ) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
        self.generator.generate(jobs, params, cancel, &mut |_| {})
    }

    fn text(&self, token_ids: &[u32]) -> Result<String, ModelError> {
        self.tokenizer.decode(token_ids, true)
    }

    fn evaluate(
        &mut self,
        model: EvaluatedModel,
        sequences: &[TrainingSequence],
        cancel: &CancelFlag,
    ) -> Result<ModelOutputs, ModelError> {
        let parameters = match model {
            EvaluatedModel::Policy => &self.training.state().parameters,
            EvaluatedModel::Reference => &self.reference,
        };
        self.evaluation.evaluate(parameters, &PackedBatch::new(sequences, self.head)?, cancel)
    }

    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError> {
        self.training.accumulate(&PackedBatch::new(sequences, self.head)?, inputs, cancel)
    }

    fn step(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        adam: &AdamWStep,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError> {
        self.training.step(&PackedBatch::new(sequences, self.head)?, inputs, adam, cancel)
    }

    fn state(&self) -> &TrainingState {
        self.training.state()
    }

    fn restore(&mut self, state: TrainingState) -> Result<(), ModelError> {
        self.training.restore(state)
    }
}
