//! The conflict step: `RewardsScored` → `ConflictMeasured`.
//!
//! Rewards do not carry the log-probabilities of the completions, so the step looks up the event that the
//! rewards followed from. It therefore runs where the log or a copy of it is.

use std::sync::Arc;

use dissent_domain::conflict::{LogprobKind, Measurer};
use dissent_domain::event::{CompletionsSampled, ConflictMeasured, RewardsScored, StepName};
use dissent_domain::log::EventLog;

use crate::error::StepError;
use crate::runner::step::{Consequence, Received, Step};

/// Measures PACS and Kendall's tau of the completions of a prompt.
pub(crate) struct ConflictStep {
    log: Arc<dyn EventLog>,
    logprob: LogprobKind,
    measurer: Measurer,
}

impl ConflictStep {
    pub(crate) fn new(log: Arc<dyn EventLog>, logprob: LogprobKind) -> Self {
        Self { log, logprob, measurer: Measurer::default() }
    }

    fn measure(&mut self, received: &Received<RewardsScored>) -> Result<ConflictMeasured, StepError> {
        let scored = &received.event;
        let logprobs = self.logprobs(received)?;
        let conflict = self
            .measurer
            .measure(&scored.rewards, &logprobs)
            .map_err(|error| StepError::SetAside(error.to_string()))?;
        Ok(ConflictMeasured { round: scored.round, prompt_id: scored.prompt_id.clone(), conflict })
    }

    /// The log-probabilities of the completions that were scored, in nats.
    fn logprobs(&self, received: &Received<RewardsScored>) -> Result<Vec<f64>, StepError> {
        let fatal = |reason: String| StepError::Fatal(reason);
        let cause = received.causation.ok_or_else(|| fatal("the rewards have no cause".to_owned()))?;
        let sampled = self
            .log
            .find(cause)
            .map_err(StepError::fatal)?
            .ok_or_else(|| fatal(format!("the cause {cause} of the rewards is not in the log")))?;
        let Ok(e) = CompletionsSampled::try_from(sampled.decode().map_err(StepError::fatal)?) else {
            return Err(fatal(format!(
                "the cause of the rewards is {}, not completions",
                sampled.event.event_type
            )));
        };
        Ok(e.completions.iter().map(|completion| completion.logprob_as(self.logprob)).collect())
    }
}

impl Step for ConflictStep {
    const NAME: StepName = StepName::Conflict;
    type Input = RewardsScored;

    fn batch(&self) -> usize {
        64
    }

    fn handle(&mut self, received: &Received<RewardsScored>) -> Result<Consequence, StepError> {
        self.measure(received).map(|measured| received.leads_to([measured.into()]))
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EventId, NewEvent, RoundClosed};
    use dissent_domain::id::{ExperimentId, PromptId};
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_storage::{MemoryLog, wait};

    use super::*;

    fn start() -> EventId {
        EventId::of_experiment(&ExperimentId::new("e").unwrap())
    }

    /// The failure of rewards with this cause, in a log that holds one event, which carries no completions.
    fn failure(causation: Option<EventId>) -> String {
        let log = Arc::new(MemoryLog::new());
        let event = NewEvent::new(start(), None, "test", 0, &RoundClosed { round: 0 }.into()).unwrap();
        let experiment = ExperimentId::new("e").unwrap();
        wait(log.append(Append { experiment, expected: ExpectedVersion::Any, events: vec![event] })).unwrap();
        let event = RewardsScored {
            round: 0,
            prompt_id: PromptId::new("p").unwrap(),
            reward_model: "proxy".to_owned(),
            rewards: vec![0.0, 1.0],
        };
        let received = Received { id: start().caused("test", 1), causation, event };
        let Err(StepError::Fatal(reason)) = ConflictStep::new(log, LogprobKind::Sum).handle(&received) else {
            panic!("it is fatal")
        };
        reason
    }

    #[test]
    fn rewards_without_a_cause_are_fatal() {
        assert_eq!(failure(None), "the rewards have no cause");
    }

    #[test]
    fn a_cause_that_the_log_lacks_is_fatal() {
        let unknown = start().caused("test", 2);
        assert_eq!(failure(Some(unknown)), format!("the cause {unknown} of the rewards is not in the log"));
    }

    #[test]
    fn a_cause_that_carries_no_completions_is_fatal() {
        assert_eq!(failure(Some(start())), "the cause of the rewards is round.closed, not completions");
    }
}
