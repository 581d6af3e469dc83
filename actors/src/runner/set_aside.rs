//! Parked messages → `PromptSetAside`: one prompt that always fails does not hold up the round.

use dissent_queues::ParkedConsumer;

use super::context::{StepContext, group};
use super::propose::{propose, set_aside};
use super::step::Consequence;
use crate::error::{RunFailure, StepFault};

/// Sets aside the prompts of parked messages until the broker closes.
pub(crate) async fn run(mut parked: ParkedConsumer, context: StepContext) {
    while let Some(delivery) = parked.next().await {
        let message = &delivery.parked;
        let mut steps = context.pipeline.iter().map(|spec| spec.name);
        let Some(step) = steps.find(|&step| group(step, &context.experiment) == message.group) else {
            // The message belongs to another experiment, whose own process sets the prompt aside.
            continue;
        };
        let reason = format!("gave up after {} attempts: {}", message.attempts, message.reason);
        let Some(event) = set_aside(&message.event, step, &reason) else {
            return context.failure.report(RunFailure::Step { step, source: StepFault::GaveUp(reason) });
        };
        let consequence = Consequence { cause: message.event.event.id, events: vec![event] };
        let settled = match propose(&context, step, &consequence).await {
            Ok(_) => delivery.ack().await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            return context.failure.report(RunFailure::broker("set a prompt aside", error));
        }
    }
}
