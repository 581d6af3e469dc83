//! The completions of a round, looked up in the log by their identity.

use dissent_domain::event::CompletionsSampled;
use dissent_domain::event_ids::completions_sampled_id;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use crate::error::StepError;

/// The completions of a prompt in a round, by its place in the prompt file; an error if they are not in the
/// log.
pub(crate) fn sampled(
    log: &dyn EventLog,
    plan: &Plan,
    round: u32,
    prompt_index: u32,
) -> Result<CompletionsSampled, StepError> {
    let missing =
        || StepError::Fatal(format!("the log has no completions of prompt {prompt_index} of round {round}"));
    find(log, plan, round, prompt_index)?.ok_or_else(missing)
}

/// As [`sampled`]; none if the prompt has no completions.
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
        Err(other) => Err(StepError::Fatal(format!("event {id} is {}, not completions", other.found.name()))),
    }
}
