//! Feeds a step with deliveries of the broker, unless the experiment is paused.

use dissent_queues::{BrokerError, Consumer, Subscription};

use super::actor::{Batch, StepActor};
use super::context::StepContext;
use super::gate::Gate;
use crate::error::RunFailure;

/// Sends batches to the actor, one at a time: its reply is the back-pressure.
pub(super) struct Feeder {
    pub(super) subscription: Subscription,
    pub(super) actor: actix::Addr<StepActor>,
    pub(super) batch: usize,
    pub(super) context: StepContext,
}

/// Why feeding stopped.
enum FeedEnd {
    Stopped,
    Paused,
}

impl Feeder {
    pub(super) async fn run(self, mut consumer: Consumer) {
        let mut gate = self.context.gate.clone();
        while let FeedEnd::Paused = self.feed(consumer, &mut gate).await {
            let open = tokio::select! {
                open = gate.opens() => open,
                () = self.context.stop.stopped() => false,
            };
            if !open {
                return;
            }
            consumer = match self.context.broker.subscribe(self.subscription.clone()) {
                Ok(consumer) => consumer,
                Err(BrokerError::Closed) => return,
                Err(error) => {
                    return self
                        .context
                        .failure
                        .report(RunFailure::broker("receive events after a pause", error));
                }
            };
        }
    }

    /// Feeds until the experiment stops, the broker closes, the run fails, or the experiment is paused. A
    /// pause drops the consumer with its prefetched deliveries: RabbitMQ limits the time of a delivery, and a
    /// pause may last longer.
    async fn feed(&self, mut consumer: Consumer, gate: &mut Gate) -> FeedEnd {
        let failure = &self.context.failure;
        loop {
            let next = tokio::select! {
                biased;
                () = self.context.stop.stopped() => return FeedEnd::Stopped,
                () = gate.closes() => return FeedEnd::Paused,
                next = consumer.next() => next,
            };
            let Some(first) = next else { break };
            if failure.is_reported() {
                return FeedEnd::Stopped;
            }
            let mut deliveries = vec![first];
            while deliveries.len() < self.batch
                && let Some(next) = consumer.try_next()
            {
                deliveries.push(next);
            }
            if self.actor.send(Batch(deliveries)).await.is_err() {
                failure.report(RunFailure::Gone("actor of a step"));
                return FeedEnd::Stopped;
            }
        }
        if let Some(error) = consumer.failure() {
            failure.report(RunFailure::broker("receive events", error));
        }
        FeedEnd::Stopped
    }
}
