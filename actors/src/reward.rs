//! The reward step: `CompletionsSampled` → `RewardsScored`.
//!
//! A reward model reads prompt and answer as one text, the way it was trained, and is scored on the last token.
//! A cost model's score is negated here, so that everything after this step knows only "larger is better".

use std::sync::Arc;

use dissent_domain::event::{CompletionsSampled, Event, EventType, RewardsScored, Step};
use dissent_domain::generation::Completion;
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;

use crate::model_run::Judge;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// A loaded proxy reward model, and how answers are put to it.
pub struct Proxy {
    /// Scores token sequences.
    pub model: RewardModel,
    /// Its tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// How prompt and completion become its input.
    pub template: PromptTemplate,
    /// Fingerprint of checkpoint, kept layers and adapter.
    pub fingerprint: String,
    /// What its score means.
    pub kind: RewardKind,
}

/// Scores the completions of prompts.
pub(crate) struct Reward {
    proxy: Proxy,
    cancel: CancelFlag,
    judge: Judge,
}

impl Reward {
    pub(crate) fn new(proxy: Proxy, cancel: CancelFlag) -> Self {
        Self { proxy, cancel, judge: Judge::default() }
    }

    fn score(&mut self, sampled: &CompletionsSampled) -> Result<RewardsScored, StepError> {
        let sequences = sampled
            .completions
            .iter()
            .map(|completion| self.sequence(&sampled.prompt, completion))
            .collect::<Result<Vec<Vec<u32>>, ModelError>>()
            .map_err(|error| StepError::SetAside(error.to_string()))?;
        let scores = self.proxy.model.score(&sequences, &self.cancel, &mut |_| ());
        let scores = self.judge.one(scores)?;
        Ok(RewardsScored {
            round: sampled.round,
            prompt_id: sampled.prompt.prompt_id.clone(),
            reward_model: self.proxy.fingerprint.clone(),
            rewards: scores.into_iter().map(|score| self.proxy.kind.reward(f64::from(score))).collect(),
        })
    }

    /// An answer as the reward model reads it; an error if it never can.
    fn sequence(&self, prompt: &Prompt, completion: &Completion) -> Result<Vec<u32>, ModelError> {
        let Proxy { tokenizer, template, model, .. } = &self.proxy;
        let sequence = template.encode_whole(tokenizer, &prompt.text, &completion.text)?;
        model.check_sequence(&sequence)?;
        Ok(sequence)
    }
}

impl Perform for Reward {
    const STEP: Step = Step::Reward;
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
