//! The prompt step: `RoundOpened` → one `PromptAdmitted` for each prompt.
//!
//! The plan names the artifact of the prompts by its content. So every round, on any machine, admits the same
//! prompts in the same order.

use dissent_domain::event::{Event, PromptAdmitted, RoundOpened, StepName};
use dissent_domain::prompt::Prompt;

use crate::error::StepError;
use crate::runner::step::{Consequence, Received, Step};

/// Admits the prompts of a round.
pub(crate) struct PromptStep {
    prompts: Vec<Prompt>,
}

impl PromptStep {
    pub(crate) fn new(prompts: Vec<Prompt>) -> Self {
        Self { prompts }
    }

    fn admit(&self, round: u32) -> Vec<Event> {
        (0..)
            .zip(&self.prompts)
            .map(|(index, prompt)| PromptAdmitted { round, index, prompt: prompt.clone() }.into())
            .collect()
    }
}

impl Step for PromptStep {
    const NAME: StepName = StepName::Prompt;
    type Input = RoundOpened;

    fn handle(&mut self, received: &Received<RoundOpened>) -> Result<Consequence, StepError> {
        Ok(received.leads_to(self.admit(received.event.round)))
    }
}
