//! The implicit reward of a policy that was trained by direct preference optimisation.

use dissent_domain::training::{Demonstration, Dialogue};

use crate::adapter::LoraAdapter;
use crate::checkpoint::{Checkpoint, TextTokenizer};
use crate::error::{InvalidKind, ModelError};
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::scoring::{PolicyScorer, ScoreItem};
use crate::template::PromptTemplate;

/// The reward β (log π(y | x) − log π_ref(y | x)) of a policy π and its reference, in nats times β (Rafailov
/// et al. 2023, arXiv 2305.18290, equation 5 without the term that is equal for all completions of a prompt).
pub struct ImplicitReward {
    policy: PolicyScorer,
    reference: PolicyScorer,
    tokenizer: TextTokenizer,
    beta: f64,
}

/// A policy or its reference: a checkpoint, and its adapter if it has one.
#[derive(Debug, Clone, Copy)]
pub struct PolicyModel<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// The adapter.
    pub adapter: Option<&'a LoraAdapter>,
}

impl ImplicitReward {
    /// Opens the sessions of both models. The policy's tokenizer encodes the texts for both.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if β is not positive, or the models have vocabularies of different sizes. Else
    /// as [`PolicyScorer::open`].
    pub fn open(
        runtime: &'static OnnxRuntime,
        policy: PolicyModel<'_>,
        reference: PolicyModel<'_>,
        beta: f64,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let invalid = |reason: String| Err(ModelError::invalid(InvalidKind::Setting, reason));
        if !(beta.is_finite() && beta > 0.0) {
            return invalid(format!("beta {beta} is out of range: use a number above 0"));
        }
        let sizes = [policy, reference].map(|model| model.checkpoint.config.vocab_size);
        if sizes[0] != sizes[1] {
            return invalid(format!(
                "the policy has {} tokens and its reference {}: use the model that the policy was trained from",
                sizes[0], sizes[1]
            ));
        }
        let open =
            |model: PolicyModel<'_>| PolicyScorer::open(runtime, model.checkpoint, model.adapter, options);
        let tokenizer = policy.checkpoint.tokenizer.clone();
        Ok(Self { policy: open(policy)?, reference: open(reference)?, tokenizer, beta })
    }

    /// Returns the reward of each completion of a prompt, in order. The tokens are those of the training: the
    /// end of the completion counts, as the template or the end-of-sequence token marks it.
    ///
    /// # Errors
    /// As [`PromptTemplate::encode_demonstration`] and [`PolicyScorer::score`].
    pub fn score(
        &mut self,
        template: &PromptTemplate,
        prompt: &Dialogue,
        completions: &[&str],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let items = self.items(template, prompt, completions)?;
        let policy = self.policy.score(&items, cancel, &mut |_| {})?;
        let reference = self.reference.score(&items, cancel, &mut |_| {})?;
        let sum = |tokens: &[f32]| tokens.iter().copied().map(f64::from).sum::<f64>();
        let reward = |(policy, reference): (&Vec<f32>, &Vec<f32>)| self.beta * (sum(policy) - sum(reference));
        Ok(policy.iter().zip(&reference).map(reward).collect())
    }

    /// Checks that both policies can score the completions of a prompt.
    ///
    /// # Errors
    /// As [`ImplicitReward::score`].
    pub fn check(
        &self,
        template: &PromptTemplate,
        prompt: &Dialogue,
        completions: &[&str],
    ) -> Result<(), ModelError> {
        for item in self.items(template, prompt, completions)? {
            self.policy.check(&item)?;
            self.reference.check(&item)?;
        }
        Ok(())
    }

    fn items(
        &self,
        template: &PromptTemplate,
        prompt: &Dialogue,
        completions: &[&str],
    ) -> Result<Vec<ScoreItem>, ModelError> {
        let item = |completion: &&str| {
            let demonstration =
                Demonstration { prompt: prompt.clone(), completion: (*completion).to_owned() };
            let sequence = template.encode_demonstration(&self.tokenizer, &demonstration)?;
            let (prompt_ids, completion_ids) = sequence.ids.split_at(sequence.completion_start);
            Ok(ScoreItem { prompt_ids: prompt_ids.to_vec(), completion_ids: completion_ids.to_vec() })
        };
        completions.iter().map(item).collect()
    }
}
