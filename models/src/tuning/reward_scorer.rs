//! A reward model as the scorer of a policy's completions.

use super::rollout::{SampledCompletion, Scorer};
use crate::checkpoint::TextTokenizer;
use crate::error::ModelError;
use crate::runtime::CancelFlag;
use crate::scoring::RewardModel;
use crate::template::PromptTemplate;

/// A reward model with the template of its inputs.
///
/// The completion comes as text without special tokens. The reward model's own tokenizer encodes it together
/// with its prompt, and may differ from the policy's.
pub struct RewardScorer {
    model: RewardModel,
    tokenizer: TextTokenizer,
    template: PromptTemplate,
}

impl RewardScorer {
    /// Returns a scorer for a reward model.
    #[must_use]
    pub fn new(model: RewardModel, tokenizer: TextTokenizer, template: PromptTemplate) -> Self {
        Self { model, tokenizer, template }
    }
}

impl Scorer for RewardScorer {
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let encode = |completion: &SampledCompletion<'_>| {
            self.template.encode_dialogue_with_completion(
                &self.tokenizer,
                completion.dialogue,
                completion.text,
            )
        };
        let sequences = completions.iter().map(encode).collect::<Result<Vec<_>, ModelError>>()?;
        let rewards = self.model.score(&sequences, cancel, &mut |_| {})?;
        Ok(rewards.into_iter().map(f64::from).collect())
    }
}
