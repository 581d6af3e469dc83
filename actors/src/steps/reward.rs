//! The reward step: `CompletionsSampled` → `RewardsScored`.
//!
//! A reward model reads prompt and completion as one text, as in its training; its output at the last token
//! is the score. This step negates the score of a cost model, so that larger is better in every later step.

use dissent_domain::event::{CompletionsSampled, RewardsScored, StepName};
use dissent_models::runtime::CancelFlag;

use crate::error::StepError;
use crate::live_models::proxy::Proxy;
use crate::live_models::run_failure::RunFailures;
use crate::live_models::shared::{Shared, lock};
use crate::live_models::versions::Versions;
use crate::runner::step::{Consequence, Received, Step};

/// Scores the completions of prompts.
pub(crate) struct RewardStep {
    proxy: Shared<Proxy>,
    versions: Versions,
    cancel: CancelFlag,
    failures: RunFailures,
}

impl RewardStep {
    pub(crate) fn new(proxy: Shared<Proxy>, versions: Versions, cancel: CancelFlag) -> Self {
        Self { proxy, versions, cancel, failures: RunFailures::default() }
    }

    fn score(&mut self, sampled: &CompletionsSampled) -> Result<RewardsScored, StepError> {
        let proxy = &mut *lock(&self.proxy);
        proxy.follow(&self.versions)?;
        let texts = sampled.completions.iter().map(|completion| completion.text.as_str());
        let rewards = proxy.score(&sampled.prompt, texts, &mut self.failures, &self.cancel)?;
        Ok(RewardsScored {
            round: sampled.round,
            prompt_id: sampled.prompt.prompt_id.clone(),
            reward_model: proxy.fingerprint.clone(),
            rewards,
        })
    }
}

impl Step for RewardStep {
    const NAME: StepName = StepName::Reward;
    type Input = CompletionsSampled;

    fn handle(&mut self, received: &Received<CompletionsSampled>) -> Result<Consequence, StepError> {
        self.score(&received.event).map(|scored| received.leads_to([scored.into()]))
    }
}
