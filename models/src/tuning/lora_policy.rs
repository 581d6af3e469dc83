//! A language model in tuning: its low-rank change is trained, sampled from, and compared with a reference,
//! in three sessions.

use dissent_domain::generation::SamplingParams;

use super::method::Method;
use super::policy::{EvaluatedModel, TunedPolicy};
use super::tuner::TuningSettings;
use crate::adapter::{Adapters, LoraAdapter, LoraSlots, ValueHead};
use crate::checkpoint::{Checkpoint, TextTokenizer};
use crate::error::{InvalidKind, ModelError};
use crate::generation::{GenerationJob, Generator, SampledTokens};
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::training::{
    AdamWStep, BatchOutput, EvalSession, LoraPlan, LossInputs, ModelOutputs, PackedBatch, PositionReport,
    StepSession, StepSpec, Trainable, TrainingHead, TrainingSequence, TrainingState,
};

/// The reference policy of the KL divergence.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ReferencePolicy<'a> {
    /// The initial policy, including its initial adapter.
    #[default]
    Start,
    /// The checkpoint without any adapter.
    Base,
    /// The checkpoint with this adapter. Its projections, rank and scaling must be those that are tuned.
    Adapter(&'a LoraAdapter),
}

/// The initial state of a tuning.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyStart<'a> {
    /// The adapter to train further. `None` starts with a new one, which changes nothing at first.
    pub adapter: Option<&'a LoraAdapter>,
    /// The value head of an earlier PPO. `None` starts with a new one, which is 0 everywhere.
    pub value_head: Option<&'a ValueHead>,
    /// The reference policy.
    pub reference: ReferencePolicy<'a>,
}

/// A language model whose low-rank change is tuned.
pub struct LoraPolicy {
    training: StepSession,
    evaluation: EvalSession,
    generator: Generator,
    /// The parameters of the reference.
    reference: Vec<f32>,
    head: TrainingHead,
    tokenizer: TextTokenizer,
    fingerprint: String,
}

impl LoraPolicy {
    /// Opens the sessions.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the settings have no low-rank change, the method does not sample, or the
    /// reference has another shape. Else as the sessions' `open`.
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
                return Err(ModelError::invalid(
                    InvalidKind::Setting,
                    "policy tuning needs a LoRA adapter: set lora.r",
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

    /// Returns the current adapter. `base_model` is the name of the base model in its configuration.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a number is not finite.
    pub fn adapter(&self, base_model: Option<String>) -> Result<LoraAdapter, ModelError> {
        self.training.layout().adapter(&self.training.state().parameters, base_model)
    }

    /// Returns the current value head; PPO only.
    #[must_use]
    pub fn value_head(&self) -> Option<ValueHead> {
        self.training.layout().value_head(&self.training.state().parameters)
    }
}

/// Identifies the base model, its trained part (including ranks and scalings), and the reference.
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
