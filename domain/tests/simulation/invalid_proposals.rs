//! Proposals of a broken or hostile worker. The journal must reject them, or accept them without harm.

use dissent_domain::event::{
    EvaluationEvent, Event, EventId, ExperimentCancelled, ExperimentFinished, ExperimentResumed,
    FeedbackEvent, FeedbackSettled, NewEvent, PairSelected, PromptAdmitted, PromptEvent, RoundClosed,
    RoundOpened, Stage, StepName, StopDecided, StopReason, TrainingEvent, TrainingRequested, TrainingStarted,
    follow_from,
};
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::Agreement;
use dissent_domain::id::{ExperimentId, PromptId};

use crate::broker::Proposal;
use crate::models;
use crate::random::Random;

/// A proposal that differs from the valid result `truth` of a delivery.
pub(crate) fn invalid_result(step: StepName, cause: EventId, truth: &Event, random: &mut Random) -> Proposal {
    let wrap = |cause, events: &[Event]| follow_from(cause, step.name(), 0, events).unwrap();
    let elsewhere = cause.caused("elsewhere", u32::try_from(random.below(100)).unwrap());
    let mut experiment = models::experiment();
    let events = match random.below(9) {
        0 => {
            let mut events = wrap(cause, std::slice::from_ref(truth));
            let body = &mut events[0].body;
            let at = random.below(body.len());
            body.truncate(at);
            events
        }
        1 => {
            let mut events = wrap(cause, std::slice::from_ref(truth));
            events[0].event_type = "reward.invented".to_owned();
            events
        }
        2 => {
            let mut events = wrap(cause, std::slice::from_ref(truth));
            events[0].schema_version += 1;
            events
        }
        3 => {
            experiment = ExperimentId::new("another").unwrap();
            wrap(cause, std::slice::from_ref(truth))
        }
        // The valid result, with another cause.
        4 => wrap(elsewhere, std::slice::from_ref(truth)),
        // The valid result, twice in one proposal.
        5 => wrap(cause, &[truth.clone(), truth.clone()]),
        6 => {
            [wrap(cause, std::slice::from_ref(truth)), wrap(elsewhere, std::slice::from_ref(truth))].concat()
        }
        _ => wrap(cause, &[distorted(truth, random)]),
    };
    Proposal { experiment, events }
}

/// The valid result with an impossible value.
fn distorted(truth: &Event, random: &mut Random) -> Event {
    let not_a_number = [f64::NAN, f64::INFINITY][random.below(2)];
    let other = random.percent(50);
    match truth.clone() {
        Event::Prompt(PromptEvent::Sampled(mut e)) => {
            match random.below(3) {
                0 => e.policy = "another".to_owned(),
                1 => e.completions[0].logprob = not_a_number,
                _ => drop(e.completions.pop()),
            }
            e.into()
        }
        Event::Prompt(PromptEvent::Scored(mut e)) => {
            match random.below(3) {
                0 => e.reward_model = "another".to_owned(),
                1 => e.rewards[1] = not_a_number,
                _ => e.rewards.push(0.0),
            }
            e.into()
        }
        Event::Prompt(PromptEvent::Measured(mut e)) => {
            match random.below(3) {
                0 => e.conflict.pacs[0] = not_a_number,
                1 => e.conflict.mean_abs_pacs = not_a_number,
                _ => drop(e.conflict.pacs.pop()),
            }
            e.into()
        }
        Event::Evaluation(EvaluationEvent::PolicyEvaluated(mut e)) => {
            match random.below(5) {
                0 => e.policy = "another".to_owned(),
                1 => e.reward_model = "another".to_owned(),
                2 => e.kl = not_a_number,
                3 => e.mean_abs_pacs = Some(not_a_number),
                _ => e.refined_agreement = Some(not_a_number),
            }
            e.into()
        }
        Event::Training(TrainingEvent::Started(mut e)) => {
            if other {
                e.attempt += 1
            } else {
                e.lease_ms = u64::MAX
            }
            e.into()
        }
        Event::Feedback(FeedbackEvent::Received(mut e)) => {
            if other {
                e.annotator = String::new()
            } else {
                e.comparison += 1000
            }
            e.into()
        }
        Event::Prompt(PromptEvent::SetAside(mut e)) => {
            e.prompt_id = PromptId::new("unheard of").unwrap();
            e.into()
        }
        other => other,
    }
}

/// An event that a worker may not propose.
pub(crate) fn unauthorised(experiment: &Experiment, random: &mut Random) -> Option<Proposal> {
    let round = experiment.rounds().last()?;
    let (number, cause) = (round.number(), EventId::of_experiment(&models::experiment()));
    let cause = cause.caused("unauthorised", u32::try_from(random.below(1000)).unwrap());
    let (prompt_id, _) = round.prompts().next()?.clone();
    let event: Event = match random.below(12) {
        0 => RoundClosed { round: number }.into(),
        1 => RoundOpened { round: number + 1, prompts: models::PROMPTS }.into(),
        2 => ExperimentFinished { rounds: number + 1 }.into(),
        3 => StopDecided { round: number, reason: StopReason::Kl }.into(),
        4 => PairSelected { round: number, prompt_id, completion: 0, pacs: 0.0 }.into(),
        5 => FeedbackSettled {
            round: number,
            comparisons: 0,
            judgements: 0,
            preferences: 1,
            ties: 0,
            contradicted: 0,
            agreement: Agreement::of::<bool>(&[]),
        }
        .into(),
        6 => TrainingRequested { round: number, stage: Stage::Policy, attempt: 0, resume_from: None }.into(),
        7 => {
            let (worker, lease_ms) = ("unauthorised".to_owned(), 1);
            TrainingStarted { round: number, stage: Stage::Reward, attempt: 0, worker, lease_ms }.into()
        }
        8 => {
            let truth = PromptAdmitted::try_from(models::admitted(number).remove(0)).ok()?;
            let prompt_id = PromptId::new("unauthorised").unwrap();
            let prompt = dissent_domain::prompt::Prompt { prompt_id, ..truth.prompt };
            PromptAdmitted { prompt, ..truth }.into()
        }
        9 => ExperimentCancelled { by: "unauthorised".to_owned(), reason: None }.into(),
        10 => ExperimentResumed { number: 0, by: "unauthorised".to_owned(), reason: None }.into(),
        _ => experiment.due()?.events.pop()?,
    };
    // An operator command with the id that the real command would have.
    let cause = if random.percent(50) { EventId::of_experiment(&models::experiment()) } else { cause };
    let event = NewEvent::new(cause.caused(event.event_type().name(), 0), Some(cause), "worker", 0, &event);
    Some(Proposal { experiment: models::experiment(), events: vec![event.unwrap()] })
}
