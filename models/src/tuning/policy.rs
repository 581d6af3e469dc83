//! The interface of a policy in tuning. The loop above it does not depend on graphs and sessions.

use dissent_domain::generation::SamplingParams;

use crate::error::ModelError;
use crate::generation::{GenerationJob, SampledTokens};
use crate::runtime::CancelFlag;
use crate::training::{AdamWStep, BatchOutput, LossInputs, ModelOutputs, TrainingSequence, TrainingState};

/// The model that [`TunedPolicy::evaluate`] evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluatedModel {
    /// The current policy.
    Policy,
    /// The reference policy, which never changes.
    Reference,
}

/// A policy in tuning.
pub trait TunedPolicy {
    /// Identifies the fixed parts: the base model, the reference, and the set of trained parameters. Policies
    /// with equal fingerprint and state continue identically.
    fn fingerprint(&self) -> String;

    /// Updates the sampler to the current policy.
    ///
    /// # Errors
    /// [`ModelError`] if the sampler refuses the parameters.
    fn synchronise(&mut self) -> Result<(), ModelError>;

    /// Samples completions, as [`crate::generation::Generator::generate`].
    ///
    /// # Errors
    /// As [`crate::generation::Generator::generate`].
    fn sample(
        &mut self,
        jobs: &[GenerationJob],
        params: &SamplingParams,
        cancel: &CancelFlag,
    ) -> Result<Vec<Vec<SampledTokens>>, ModelError>;

    /// Returns the text of completion tokens, without special tokens.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    fn text(&self, token_ids: &[u32]) -> Result<String, ModelError>;

    /// Log-probabilities of the completion tokens of some sequences, sequence by sequence, with their values
    /// if there is a value head. The policy does not change.
    ///
    /// # Errors
    /// As [`crate::training::EvalSession::evaluate`].
    fn evaluate(
        &mut self,
        model: EvaluatedModel,
        sequences: &[TrainingSequence],
        cancel: &CancelFlag,
    ) -> Result<ModelOutputs, ModelError>;

    /// Adds the gradient of some sequences to the accumulated gradient.
    ///
    /// # Errors
    /// As [`crate::training::StepSession::step`].
    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError>;

    /// Adds the gradient of some sequences to the accumulated gradient, and takes one step of the optimiser.
    /// The outputs are from before the step.
    ///
    /// # Errors
    /// As [`crate::training::StepSession::step`].
    fn step(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        adam: &AdamWStep,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError>;

    /// Returns the state after the last step: parameters and moments.
    fn state(&self) -> &TrainingState;

    /// Restores a state. The accumulated gradient is discarded.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a state of another length.
    fn restore(&mut self, state: TrainingState) -> Result<(), ModelError>;
}
