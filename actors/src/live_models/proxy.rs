//! The proxy: the loaded reward model of an experiment.

use std::sync::Arc;

use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;

use super::cache::ModelHandle;
use super::run_failure::RunFailures;
use super::shared::lock;
use super::versions::{Base, Versions};
use crate::error::StepError;

/// A loaded reward model with its template.
pub struct Proxy {
    pub(crate) base: Base,
    model: ModelHandle<RewardModel>,
    tokenizer: Arc<TextTokenizer>,
    pub(crate) template: PromptTemplate,
    /// Fingerprint of checkpoint, kept layers and adapter.
    pub(crate) fingerprint: String,
    /// The meaning of its score.
    pub(crate) kind: RewardKind,
}

impl Proxy {
    /// The reward model that the experiment began with. Its model is loaded at the first use.
    #[must_use]
    pub fn new(base: Base, template: PromptTemplate, kind: RewardKind) -> Self {
        let (tokenizer, fingerprint) = (base.tokenizer(), base.fingerprint());
        let model = base.reward_model(base.adapter.clone());
        Self { base, model, tokenizer, template, fingerprint, kind }
    }

    /// Loads the model, to find its errors before the first use.
    ///
    /// # Errors
    /// As [`RewardModel::open`].
    pub fn load(&self) -> Result<(), ModelError> {
        self.model.session().map(drop)
    }

    /// Switches to the current version.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.reward_model()?;
        if version.fingerprint != self.fingerprint {
            self.model = self.base.reward_model(versions.adapter(&self.base, &version)?);
            self.fingerprint = version.fingerprint;
        }
        Ok(())
    }

    /// The tokens of a prompt and its completion; an error if they do not fit the model.
    fn sequence(
        &self,
        model: &RewardModel,
        prompt: &Prompt,
        completion: &str,
    ) -> Result<Vec<u32>, ModelError> {
        let sequence =
            self.template.encode_dialogue_with_completion(&self.tokenizer, &prompt.dialogue(), completion)?;
        model.check_sequence(&sequence)?;
        Ok(sequence)
    }

    /// Returns the rewards of completions; larger is better. [`StepError::SetAside`] if one can never be
    /// scored.
    pub(crate) fn score<'a>(
        &self,
        prompt: &Prompt,
        completions: impl Iterator<Item = &'a str>,
        failures: &mut RunFailures,
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, StepError> {
        let model = self.model.session().map_err(StepError::fatal)?;
        let mut model = lock(&model);
        let sequences = completions
            .map(|completion| self.sequence(&model, prompt, completion))
            .collect::<Result<Vec<Vec<u32>>, ModelError>>()
            .map_err(StepError::set_aside)?;
        let scores = failures.classify_one(model.score(&sequences, cancel, &mut |_| ()))?;
        Ok(scores.into_iter().map(|score| self.kind.reward(f64::from(score))).collect())
    }
}
