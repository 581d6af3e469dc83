//! Proposals of steps: the consequences of an event, decided by the journal.

use std::time::Duration;

use dissent_domain::event::{Event, PromptSetAside, Recorded, StepName, follow_from};
use dissent_queues::{Broker, BrokerError, MessageContext, Proposal, ProposalReply};
use tracing::Span;

use super::context::StepContext;
use super::step::Consequence;
use super::trace;

/// Maximum number of events in one proposal of a step that emits many: small enough for one group commit.
const PROPOSAL_EVENTS: usize = 256;
/// Delay before a proposal is repeated that the journal could not take.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The journal's decision on a consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    /// The consequence is in the log, or queued for the journal.
    Recorded,
    /// The rules reject the consequence, or part of it.
    Rejected,
}

/// Makes a proposal, and repeats it while the journal cannot take it. Returns the reason if the rules reject
/// it.
pub(crate) async fn decision(
    broker: &dyn Broker,
    proposal: impl Fn() -> Proposal,
    context: &MessageContext,
) -> Result<Result<(), String>, BrokerError> {
    loop {
        match broker.propose_in(proposal(), context.clone()).await? {
            ProposalReply::Recorded(_) | ProposalReply::Queued => return Ok(Ok(())),
            ProposalReply::Rejected { reason } => return Ok(Err(reason)),
            ProposalReply::RetryLater => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
}

/// Proposes a consequence and waits for the decision.
pub(crate) async fn propose(
    context: &StepContext,
    step: StepName,
    consequence: &Consequence,
) -> Result<Decided, BrokerError> {
    let StepContext { broker, experiment, .. } = context;
    let events = follow_from(consequence.cause, step.name(), 0, &consequence.events)
        .map_err(|error| BrokerError::encode("a consequence", error))?;
    let begins_trace = context.spec(step).is_some_and(|spec| spec.begins_trace);
    // A crash between two chunks is harmless: the step proposes the same events again, and the journal
    // recognises the recorded ones by their ids.
    for events in events.chunks(PROPOSAL_EVENTS) {
        let proposal = || Proposal {
            experiment: experiment.clone(),
            cause: Some(consequence.cause),
            events: events.to_vec(),
        };
        let _begun = if begins_trace { trace::begin(&**broker, experiment, events) } else { Vec::new() };
        let carried = trace::context_of(&Span::current());
        if let Err(reason) = decision(&**broker, proposal, &carried).await? {
            // Another worker was faster, or the round has advanced.
            tracing::warn!(experiment_id = %experiment, step = step.name(), %reason, "dropping rejected proposal");
            return Ok(Decided::Rejected);
        }
    }
    Ok(Decided::Recorded)
}

/// The event that sets aside the prompt of a recorded event; `None` if that event has no prompt.
pub(crate) fn set_aside(recorded: &Recorded, step: StepName, reason: &str) -> Option<Event> {
    without_prompt(&recorded.decode().ok()?, step, reason)
}

/// As [`set_aside`], for a decoded event.
pub(crate) fn without_prompt(event: &Event, step: StepName, reason: &str) -> Option<Event> {
    let (round, prompt_id) = event.prompt()?;
    let prompt_id = prompt_id.clone();
    Some(PromptSetAside { round, prompt_id, step, reason: reason.to_owned() }.into())
}
