//! The reward step: `CompletionsSampled` → `RewardsScored`.
//!
//! A reward model reads prompt and answer as one text, the way it was trained, and is scored on the last token.
//! A cost model's score is negated here, so that everything after this step knows only "larger is better".

use std::sync::Arc;

use dissent_domain::event::{CompletionsSampled, Event, EventType, RewardsScored, StepName};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;

use crate::model::{self, Base, Shared, Versions, lock};
use crate::model_run::Judge;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// A loaded reward model, and how answers are put to it.
pub struct Proxy {
    pub(crate) base: Base,
    pub(crate) model: RewardModel,
    tokenizer: Arc<TextTokenizer>,
    pub(crate) template: PromptTemplate,
    /// Fingerprint of checkpoint, kept layers and adapter.
    pub(crate) fingerprint: String,
    /// What its score means.
    pub(crate) kind: RewardKind,
}

impl Proxy {
    /// Starts a reward model as the experiment began with it.
    ///
    /// # Errors
    /// As [`RewardModel::open`].
    pub fn open(base: Base, template: PromptTemplate, kind: RewardKind) -> Result<Self, ModelError> {
        let adapter = base.adapter.clone();
        Self::with_adapter(base, adapter.as_deref(), template, kind)
    }

    /// Starts a reward model with another adapter than the one that it began with.
    pub(crate) fn with_adapter(
        base: Base,
        adapter: Option<&LoraAdapter>,
        template: PromptTemplate,
        kind: RewardKind,
    ) -> Result<Self, ModelError> {
        let model = base.reward_model(adapter)?;
        let fingerprint = model::fingerprint(&base.checkpoint, adapter);
        Ok(Self { tokenizer: base.tokenizer(), base, model, template, fingerprint, kind })
    }

    /// Becomes the version that is current.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.reward_model()?;
        if version.fingerprint != self.fingerprint {
            let adapter = versions.adapter(&self.base, &version)?;
            self.model = self.base.reward_model(adapter.as_deref()).map_err(model::fatal)?;
            self.fingerprint = version.fingerprint;
        }
        Ok(())
    }

    /// An answer as the reward model reads it; an error if it never can.
    fn sequence(&self, prompt: &Prompt, answer: &str) -> Result<Vec<u32>, ModelError> {
        let sequence = self.template.encode_with_completion(&self.tokenizer, &prompt.text, answer)?;
        self.model.check_sequence(&sequence)?;
        Ok(sequence)
    }

    /// Rewards of answers, larger is better; [`StepError::SetAside`] if one can never be scored.
    pub(crate) fn score<'a>(
        &mut self,
        prompt: &Prompt,
        answers: impl Iterator<Item = &'a str>,
        judge: &mut Judge,
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, StepError> {
        let sequences = answers
            .map(|answer| self.sequence(prompt, answer))
            .collect::<Result<Vec<Vec<u32>>, ModelError>>()
            .map_err(|error| StepError::SetAside(error.to_string()))?;
        let scores = judge.one(self.model.score(&sequences, cancel, &mut |_| ()))?;
        Ok(scores.into_iter().map(|score| self.kind.reward(f64::from(score))).collect())
    }
}

/// Scores the completions of prompts.
pub(crate) struct Reward {
    proxy: Shared<Proxy>,
    versions: Versions,
    cancel: CancelFlag,
    judge: Judge,
}

impl Reward {
    pub(crate) fn new(proxy: Shared<Proxy>, versions: Versions, cancel: CancelFlag) -> Self {
        Self { proxy, versions, cancel, judge: Judge::default() }
    }

    fn score(&mut self, sampled: &CompletionsSampled) -> Result<RewardsScored, StepError> {
        let proxy = &mut *lock(&self.proxy);
        proxy.follow(&self.versions)?;
        let answers = sampled.completions.iter().map(|completion| completion.text.as_str());
        let rewards = proxy.score(&sampled.prompt, answers, &mut self.judge, &self.cancel)?;
        Ok(RewardsScored {
            round: sampled.round,
            prompt_id: sampled.prompt.prompt_id.clone(),
            reward_model: proxy.fingerprint.clone(),
            rewards,
        })
    }
}

impl Perform for Reward {
    const STEP: StepName = StepName::Reward;
    const CONSUMES: &'static [EventType] = &[EventType::CompletionsSampled];

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch
            .iter()
            .map(|received| {
                let Event::CompletionsSampled(sampled) = &received.event else {
                    return Ok(follows(received, []));
                };
                self.score(sampled).map(|scored| follows(received, [scored.into()]))
            })
            .collect()
    }
}
