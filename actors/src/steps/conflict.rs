//! The conflict step: `RewardsScored` → `ConflictMeasured`.
//!
//! Rewards do not carry the log-probabilities of the completions, so the step looks up the event from which
//! the rewards follow. The step therefore runs where the log or a copy of it is.

use std::sync::Arc;

use dissent_domain::conflict::{LogprobKind, Measurer};
use dissent_domain::event::{CompletionsSampled, ConflictMeasured, RewardsScored, StepName};
use dissent_domain::flags::{Flag, completion_flags};
use dissent_domain::generation::Completion;
use dissent_domain::log::EventLog;
use dissent_domain::plan::{DegenerateCompletions, Plan};

use crate::error::{StepError, StepFault};
use crate::runner::step::{Consequence, Received, Step};

/// Measures PACS and Kendall's tau of the completions of a prompt.
pub(crate) struct ConflictStep {
    log: Arc<dyn EventLog>,
    logprob: LogprobKind,
    /// Whether the flags of completions are recorded.
    flags: bool,
    measurer: Measurer,
}

impl ConflictStep {
    pub(crate) fn new(log: Arc<dyn EventLog>, plan: &Plan) -> Self {
        let learning = plan.learning.as_ref();
        let flags =
            learning.is_some_and(|learning| learning.feedback.degenerate == DegenerateCompletions::Skip);
        Self { log, logprob: plan.conflict.logprob, flags, measurer: Measurer::default() }
    }

    fn measure(&mut self, received: &Received<RewardsScored>) -> Result<ConflictMeasured, StepError> {
        let scored = &received.event;
        let sampled = self.sampled(received)?;
        let logprobs: Vec<f64> =
            sampled.completions.iter().map(|completion| completion.logprob_as(self.logprob)).collect();
        let conflict = self.measurer.measure(&scored.rewards, &logprobs).map_err(StepError::set_aside)?;
        let flags = if self.flags { flags(&sampled) } else { Vec::new() };
        Ok(ConflictMeasured { round: scored.round, prompt_id: scored.prompt_id.clone(), conflict, flags })
    }

    /// The completions that were scored.
    fn sampled(&self, received: &Received<RewardsScored>) -> Result<CompletionsSampled, StepError> {
        let id = received.causation.ok_or_else(|| StepError::fatal(StepFault::NoCause))?;
        let missing = || StepError::fatal(StepFault::MissingCause(id));
        let sampled = self.log.find(id).map_err(StepError::fatal)?.ok_or_else(missing)?;
        let Ok(e) = CompletionsSampled::try_from(sampled.decode().map_err(StepError::fatal)?) else {
            let event_type = sampled.event.event_type;
            return Err(StepError::fatal(StepFault::NotCompletions { id, event_type }));
        };
        Ok(e)
    }
}

/// The flags of each completion.
fn flags(sampled: &CompletionsSampled) -> Vec<Vec<Flag>> {
    let prompt = &sampled.prompt.text;
    let of = |completion: &Completion| {
        completion_flags(prompt, &completion.text, Some(completion.finish_reason)).iter().collect()
    };
    sampled.completions.iter().map(of).collect()
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
    fn failure(causation: Option<EventId>) -> StepFault {
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
        let Err(StepError::Fatal(fault)) = ConflictStep::new(log, &crate::tests::plan()).handle(&received)
        else {
            panic!("the failure is fatal")
        };
        fault
    }

    #[test]
    fn rewards_without_a_cause_are_fatal() {
        assert!(matches!(failure(None), StepFault::NoCause));
    }

    #[test]
    fn a_cause_that_the_log_lacks_is_fatal() {
        let unknown = start().caused("test", 2);
        assert!(matches!(failure(Some(unknown)), StepFault::MissingCause(id) if id == unknown));
    }

    #[test]
    fn a_cause_that_carries_no_completions_is_fatal() {
        let StepFault::NotCompletions { id, event_type } = failure(Some(start())) else {
            panic!("the cause is of another type")
        };
        assert_eq!((id, event_type.as_str()), (start(), "round.closed"));
    }
}
