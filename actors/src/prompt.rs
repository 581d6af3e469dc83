//! The prompt step: `RoundOpened` → one `PromptAdmitted` for each prompt.
//!
//! The prompts lie in an artifact that the plan names by its content, so that every round, on whatever
//! machine, admits the same ones in the same order.

use dissent_domain::event::{Event, EventType, PromptAdmitted, StepName};
use dissent_domain::prompt::Prompt;

use crate::step::{Consequence, Perform, Received, StepError, follows};

/// Admits the prompts of a round.
pub(crate) struct Prompts {
    prompts: Vec<Prompt>,
}

impl Prompts {
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

impl Perform for Prompts {
    const STEP: StepName = StepName::Prompt;
    const CONSUMES: &'static [EventType] = &[EventType::RoundOpened];

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch
            .iter()
            .map(|received| {
                let Event::RoundOpened(opened) = &received.event else { return Ok(follows(received, [])) };
                Ok(follows(received, self.admit(opened.round)))
            })
            .collect()
    }
}
