//! The proxy: the loaded reward model of an experiment.

use std::sync::Arc;

use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;

use super::run_failure::RunFailures;
use super::versions::{Base, Versions, fingerprint};
use crate::error::StepError;

/// A loaded reward model with its template.
pub struct Proxy {
    pub(crate) base: Base,
    pub(crate) model: RewardModel,
    tokenizer: Arc<TextTokenizer>,
    pub(crate) template: PromptTemplate,
    /// Fingerprint of checkpoint, kept layers and adapter.
    pub(crate) fingerprint: String,
    /// The meaning of its score.
    pub(crate) kind: RewardKind,
}

impl Proxy {
    /// Opens the reward model that the experiment began with.
    ///
    /// # Errors
    /// As [`RewardModel::open`].
    pub fn open(base: Base, template: PromptTemplate, kind: RewardKind) -> Result<Self, ModelError> {
        let adapter = base.adapter.clone();
        Self::with_adapter(base, adapter.as_deref(), template, kind)
    }

    /// Opens a reward model with another adapter than the first.
    pub(crate) fn with_adapter(
        base: Base,
        adapter: Option<&LoraAdapter>,
        template: PromptTemplate,
        kind: RewardKind,
    ) -> Result<Self, ModelError> {
        let model = base.reward_model(adapter)?;
        let fingerprint = fingerprint(&base.checkpoint, adapter);
        Ok(Self { tokenizer: base.tokenizer(), base, model, template, fingerprint, kind })
    }

    /// Switches to the current version.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.reward_model()?;
        if version.fingerprint != self.fingerprint {
            let adapter = versions.adapter(&self.base, &version)?;
            self.model = self.base.reward_model(adapter.as_deref()).map_err(StepError::fatal)?;
            self.fingerprint = version.fingerprint;
        }
        Ok(())
    }

    /// The tokens of a prompt and its completion; an error if they do not fit the model.
    fn sequence(&self, prompt: &Prompt, completion: &str) -> Result<Vec<u32>, ModelError> {
        let sequence =
            self.template.encode_dialogue_with_completion(&self.tokenizer, &prompt.dialogue(), completion)?;
        self.model.check_sequence(&sequence)?;
        Ok(sequence)
    }

    /// Returns the rewards of completions; larger is better. [`StepError::SetAside`] if one can never be
    /// scored.
    pub(crate) fn score<'a>(
        &mut self,
        prompt: &Prompt,
        completions: impl Iterator<Item = &'a str>,
        failures: &mut RunFailures,
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, StepError> {
        let sequences = completions
            .map(|completion| self.sequence(prompt, completion))
            .collect::<Result<Vec<Vec<u32>>, ModelError>>()
            .map_err(StepError::set_aside)?;
        let scores = failures.classify_one(self.model.score(&sequences, cancel, &mut |_| ()))?;
        Ok(scores.into_iter().map(|score| self.kind.reward(f64::from(score))).collect())
    }
}
