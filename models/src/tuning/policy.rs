//! What a policy must be able to do to be tuned. The loop above it knows nothing of graphs and sessions.

use dissent_domain::generation::SamplingParams;

use crate::error::ModelError;
use crate::generation::{GenerationJob, SampledTokens};
use crate::runtime::CancelFlag;
use crate::training::{AdamWStep, BatchOutput, LossInputs, ModelOutputs, TrainingSequence, TrainingState};

/// The model whose log-probabilities [`TunedPolicy::evaluate`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluatedModel {
    /// The policy's, as it is now.
    Policy,
    /// The reference's, which the policy is held to: it never changes.
    Reference,
}

/// A policy under tuning.
pub trait TunedPolicy {
    /// Names what does not change: the base model, the reference, and what is trained. Two policies of the same name and state go
    /// on alike.
    fn fingerprint(&self) -> String;

    /// Makes the next samples those of the policy as it is now.
    ///
    /// # Errors
    /// [`ModelError`] when the sampler does not take the trained numbers.
    fn synchronise(&mut self) -> Result<(), ModelError>;

    /// Samples completions, as [`crate::generation::Generator::generate`].
    ///
    /// # Errors
    /// As there.
    fn sample(
        &mut self,
        jobs: &[GenerationJob],
        params: &SamplingParams,
        cancel: &CancelFlag,
    ) -> Result<Vec<Vec<SampledTokens>>, ModelError>;

    /// The text of response tokens, special tokens left out.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    fn text(&self, token_ids: &[u32]) -> Result<String, ModelError>;

    /// Log-probabilities of the completion tokens of some sequences, one sequence after the other, and their values where there is
    /// a value head. Nothing is learnt.
    ///
    /// # Errors
    /// As [`crate::training::EvalSession::evaluate`].
    fn evaluate(
        &mut self,
        model: EvaluatedModel,
        sequences: &[TrainingSequence],
        cancel: &CancelFlag,
    ) -> Result<ModelOutputs, ModelError>;

    /// Adds the gradient of some sequences to those of the step under way.
    ///
    /// # Errors
    /// As [`crate::training::StepSession::step`].
    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError>;

    /// Adds the gradient of some sequences to those accumulated, and changes the policy by one step of the optimiser. What is given back is
    /// from before the change.
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

    /// Everything that changes, as the last step left it.
    fn state(&self) -> &TrainingState;

    /// Goes on from a state; gradients that were accumulated since the last step are forgotten.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a state of another length.
    fn restore(&mut self, state: TrainingState) -> Result<(), ModelError>;
}
