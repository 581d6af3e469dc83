//! A reward model as the judge of a policy's completions.

use super::rollout::{SampledCompletion, Scorer};
use crate::checkpoint::TextTokenizer;
use crate::error::ModelError;
use crate::runtime::CancelFlag;
use crate::scoring::RewardModel;
use crate::template::PromptTemplate;

/// A reward model with what turns a prompt and its completion into the text that it sees.
///
/// The completion comes as text, special tokens left out, and is encoded together with its prompt by the reward model's own tokenizer,
/// which may be another than the policy's.
pub struct RewardScorer {
    model: RewardModel,
    tokenizer: TextTokenizer,
    template: PromptTemplate,
}

impl RewardScorer {
    /// A scorer of a reward model.
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
