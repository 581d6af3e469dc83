//! The completions of a round, looked up in the log by their ids.

use dissent_domain::event::CompletionsSampled;
use dissent_domain::event_ids::completions_sampled_id;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use crate::error::{StepError, StepFault};

/// The completions of a prompt in a round, by its place in the prompt file; an error if the log lacks them.
pub(crate) fn sampled(
    log: &dyn EventLog,
    plan: &Plan,
    round: u32,
    prompt_index: u32,
) -> Result<CompletionsSampled, StepError> {
    let missing = || StepError::fatal(StepFault::MissingCompletions { round, prompt_index });
    find(log, plan, round, prompt_index)?.ok_or_else(missing)
}

/// As [`sampled`]; `None` if the prompt has no completions.
pub(crate) fn find(
    log: &dyn EventLog,
    plan: &Plan,
    round: u32,
    prompt_index: u32,
) -> Result<Option<CompletionsSampled>, StepError> {
    let id = completions_sampled_id(plan, round, prompt_index);
    let Some(recorded) = log.find(id).map_err(StepError::fatal)? else { return Ok(None) };
    let event = recorded.decode().map_err(StepError::fatal)?;
    match CompletionsSampled::try_from(event) {
        Ok(e) => Ok(Some(e)),
        Err(other) => {
            let event_type = other.found.name().to_owned();
            Err(StepError::fatal(StepFault::NotCompletions { id, event_type }))
        }
    }
}
