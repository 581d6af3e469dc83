//! Parked messages → `PromptSetAside`: one prompt that cannot be processed does not hold up the round.

use dissent_domain::event::StepName;
use dissent_queues::ParkedConsumer;

use crate::step::{self, Consequence, Surroundings};

/// Gives up on parked prompts until the broker closes.
pub(crate) async fn run(mut parked: ParkedConsumer, around: Surroundings) {
    while let Some(delivery) = parked.next().await {
        let message = &delivery.parked;
        let Some(step) = STEPS.into_iter().find(|&s| step::group(s, &around.experiment) == message.group)
        else {
            // Another experiment's: it is told when that one runs.
            continue;
        };
        let reason = format!("gave up after {} attempts: {}", message.attempts, message.reason);
        let Some(event) = step::set_aside(&message.event, step, &reason) else {
            return around.failure.report(format!("the {} step failed: {reason}", step.name()));
        };
        let consequence = Consequence { cause: message.event.event.id, events: vec![event] };
        let proposed = step::propose(&*around.broker, &around.experiment, step, &consequence).await;
        let settled = match proposed {
            Ok(_) => delivery.ack().await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            return around.failure.report(format!("failed to set a prompt aside: {error}"));
        }
    }
}

pub(crate) const STEPS: [StepName; 8] = [
    StepName::Prompt,
    StepName::Generation,
    StepName::Reward,
    StepName::Conflict,
    StepName::Round,
    StepName::Feedback,
    StepName::Training,
    StepName::Evaluation,
];
