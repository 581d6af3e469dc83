//! The origin of an event: its one possible cause, and the id derived from that cause.

use crate::event::{
    EvaluationEvent, Event, EventId, ExperimentStarted, FeedbackEvent, FeedbackReceived, NewEvent,
    PromptAdmitted, PromptEvent, Stage, TrainingEvent, TrainingProgressed,
};
use crate::event_ids::{
    admitted_id, comparison_id, evaluation_requested_id, sampled_id, scored_id, trained_id,
};
use crate::experiment::Experiment;
use crate::id::{ExperimentId, PromptId};
use crate::learning::TrainingProgress;
use crate::operator::ExperimentStatus;
use crate::plan::FeedbackSource;
use crate::round::{PromptProgress, Round};

/// Checks the cause and the id of an event that the rules allow.
pub(super) fn check(
    state: &Experiment,
    experiment: &ExperimentId,
    new: &NewEvent,
    event: &Event,
) -> Result<(), String> {
    if let Some(e) = event.body::<ExperimentStarted>() {
        let is_its_own = e.plan.experiment == *experiment;
        let is_first = new.causation.is_none() && new.id == EventId::of_experiment(experiment);
        return if is_its_own && is_first {
            Ok(())
        } else {
            Err("the event starts another experiment".to_owned())
        };
    }
    let name = event.event_type().name();
    let cause = cause(state, event).ok_or_else(|| format!("{name} has no cause in the current state"))?;
    let id = if let Some(e) = event.body::<FeedbackReceived>() {
        cause.judged_by(&e.annotator)
    } else {
        cause.caused(name, index(event))
    };
    if new.causation == Some(cause) && new.id == id {
        Ok(())
    } else {
        Err(format!("{name} must have the cause {cause} and the id {id}, not the id {}", new.id))
    }
}

/// The event's number among those of its type with the same cause.
fn index(event: &Event) -> u32 {
    if let Some(e) = event.body::<PromptAdmitted>() {
        e.index
    } else if let Some(e) = event.body::<TrainingProgressed>() {
        e.sequence
    } else {
        0
    }
}

fn cause(state: &Experiment, event: &Event) -> Option<EventId> {
    let round = state.rounds().last()?;
    match event {
        Event::Prompt(PromptEvent::Admitted(_)) => Some(round.opened()),
        Event::Prompt(e) => last_of_prompt(round, e.prompt_id()),
        Event::Feedback(e) => match e {
            FeedbackEvent::Received(e) => Some(comparison_id(round.opened(), e.comparison)),
            FeedbackEvent::Requested(_) | FeedbackEvent::Settled(_) => None,
        },
        Event::Training(e) => match e {
            TrainingEvent::Requested(_) => None,
            TrainingEvent::Started(e) => requested(round, e.stage),
            TrainingEvent::Progressed(e) => requested(round, e.stage),
            TrainingEvent::LeaseExpired(e) => requested(round, e.stage),
            TrainingEvent::RewardModelRefined(_) => requested(round, Stage::Reward),
            TrainingEvent::PolicyTuned(_) => requested(round, Stage::Policy),
        },
        Event::Evaluation(e) => match e {
            EvaluationEvent::Requested(_) => None,
            EvaluationEvent::PolicyEvaluated(e) => evaluation_requested(state, e.evaluation),
        },
        Event::Experiment(_) | Event::Operator(_) | Event::Round(_) => None,
    }
}

/// Returns the id of an evaluation's request: of the initial policy, or of the policy tuned in the round
/// before.
fn evaluation_requested(state: &Experiment, evaluation: u32) -> Option<EventId> {
    let cause = match evaluation.checked_sub(1) {
        None => state.rounds().first()?.opened(),
        Some(round) => {
            trained_id(requested(state.rounds().get(round as usize)?, Stage::Policy)?, Stage::Policy)
        }
    };
    Some(evaluation_requested_id(cause))
}

/// Returns the events of the open round that wait for a step other than the round step; none unless the
/// experiment runs.
pub(super) fn unanswered(state: &Experiment) -> Vec<EventId> {
    let open = state
        .rounds()
        .last()
        .filter(|round| !round.is_closed() && state.status() == ExperimentStatus::Running);
    let Some((plan, round)) = state.plan().zip(open) else { return Vec::new() };
    let counts = round.counts();
    let opened = (counts.admitted < counts.expected).then(|| round.opened());
    let prompts = round.prompts().filter_map(|(prompt_id, _)| last_of_prompt(round, prompt_id));
    let trainings = [Stage::Reward, Stage::Policy].into_iter().filter_map(|stage| {
        let training = round.learning().training(stage)?;
        (training.progress == TrainingProgress::Requested).then_some(training.requested)
    });
    let evaluation =
        state.evaluation_awaited().and_then(|evaluation| evaluation_requested(state, evaluation));
    let asked = plan.learning.iter().flat_map(|learning| {
        let feedback = &learning.feedback;
        let waits =
            feedback.source == FeedbackSource::Oracle && round.learning().waits_for_feedback(feedback);
        let asked = if waits { round.learning().comparisons() } else { &[] };
        let open = asked.iter().filter(|asked| asked.judgements.len() < feedback.overlap as usize);
        open.map(|asked| comparison_id(round.opened(), asked.request.comparison))
    });
    opened.into_iter().chain(prompts).chain(asked).chain(trainings).chain(evaluation).collect()
}

fn requested(round: &Round, stage: Stage) -> Option<EventId> {
    round.learning().training(stage).map(|training| training.requested)
}

/// Returns the last event of an unfinished prompt, the cause of its next event.
fn last_of_prompt(round: &Round, prompt_id: &PromptId) -> Option<EventId> {
    let (index, progress) = round.prompt(prompt_id)?;
    match progress {
        PromptProgress::Admitted => Some(admitted_id(round.opened(), index)),
        PromptProgress::Sampled(_) => Some(sampled_id(round.opened(), index)),
        PromptProgress::Scored(_) => Some(scored_id(round.opened(), index)),
        PromptProgress::Measured { .. } | PromptProgress::SetAside(_) => None,
    }
}
