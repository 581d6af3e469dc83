//! The conflict step: `RewardsScored` → `ConflictMeasured`.
//!
//! Rewards alone do not say what the policy thought of the same completions, so the step looks up the event
//! that the rewards followed from. It therefore runs where the log is.

use std::sync::Arc;

use dissent_domain::conflict::{LogprobKind, Measurer};
use dissent_domain::event::{ConflictMeasured, Event, EventType, RewardsScored, StepName};
use dissent_domain::log::EventLog;

use crate::step::{Consequence, Perform, Received, StepError, follows};

/// Measures PACS and Kendall's tau of a prompt's completions.
pub(crate) struct Conflict {
    log: Arc<dyn EventLog>,
    logprob: LogprobKind,
    measurer: Measurer,
}

impl Conflict {
    pub(crate) fn new(log: Arc<dyn EventLog>, logprob: LogprobKind) -> Self {
        Self { log, logprob, measurer: Measurer::default() }
    }

    fn measure(
        &mut self,
        received: &Received,
        scored: &RewardsScored,
    ) -> Result<ConflictMeasured, StepError> {
        let logprobs = self.logprobs(received)?;
        let conflict = self
            .measurer
            .measure(&scored.rewards, &logprobs)
            .map_err(|error| StepError::SetAside(error.to_string()))?;
        Ok(ConflictMeasured { round: scored.round, prompt_id: scored.prompt_id.clone(), conflict })
    }

    /// The log-probabilities of the completions that were scored, in nats.
    fn logprobs(&self, received: &Received) -> Result<Vec<f64>, StepError> {
        let fatal = |reason: String| StepError::Fatal(reason);
        let cause = received.causation.ok_or_else(|| fatal("rewards without a cause".to_owned()))?;
        let sampled = self.log.find(cause).map_err(|error| fatal(error.to_string()))?.ok_or_else(|| {
            fatal(format!("event {cause}, which the rewards follow from, is not in the log"))
        })?;
        let Event::CompletionsSampled(e) = sampled.decode().map_err(|error| fatal(error.to_string()))? else {
            return Err(fatal(format!("rewards follow from {}", sampled.event.event_type)));
        };
        Ok(e.completions.iter().map(|completion| completion.logprob_as(self.logprob)).collect())
    }
}

impl Perform for Conflict {
    const STEP: StepName = StepName::Conflict;
    const CONSUMES: &'static [EventType] = &[EventType::RewardsScored];

    fn batch(&self) -> usize {
        64
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch
            .iter()
            .map(|received| {
                let Event::RewardsScored(scored) = &received.event else { return Ok(follows(received, [])) };
                self.measure(received, scored).map(|measured| follows(received, [measured.into()]))
            })
            .collect()
    }
}
