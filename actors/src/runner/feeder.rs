//! Feeds a step with deliveries of the broker, unless the experiment is paused.

use std::sync::Arc;

use dissent_queues::{BrokerError, Consumer, Subscription};
use tokio::sync::Notify;

use super::actor::{Batch, StepActor};
use super::context::StepContext;
use super::gate::Gate;

/// Sends batches to the actor, one at a time: its reply is the back-pressure.
pub(super) struct Feeder {
    pub(super) subscription: Subscription,
    pub(super) actor: actix::Addr<StepActor>,
    pub(super) batch: usize,
    pub(super) context: StepContext,
    pub(super) stop: Arc<Notify>,
}

/// Why feeding stopped.
enum Fed {
    Ended,
    Paused,
}

impl Feeder {
    pub(super) async fn run(self, mut consumer: Consumer) {
        let mut gate = self.context.gate.clone();
        while let Fed::Paused = self.feed(consumer, &mut gate).await {
            let open = tokio::select! {
                open = gate.opens() => open,
                () = self.stop.notified() => false,
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
                        .report(format!("failed to resume receiving events: {error}"));
                }
            };
        }
    }

    /// Feeds until the broker is closed, something fails, or the experiment is paused. On a pause the
    /// consumer is dropped with its prefetched deliveries: RabbitMQ does not let a consumer hold a message
    /// for as long as a pause may take.
    async fn feed(&self, mut consumer: Consumer, gate: &mut Gate) -> Fed {
        let failure = &self.context.failure;
        loop {
            let next = tokio::select! {
                biased;
                () = gate.closes() => return Fed::Paused,
                next = consumer.next() => next,
            };
            let Some(first) = next else { break };
            if failure.is_reported() {
                return Fed::Ended;
            }
            let mut deliveries = vec![first];
            while deliveries.len() < self.batch
                && let Some(next) = consumer.try_next()
            {
                deliveries.push(next);
            }
            if self.actor.send(Batch(deliveries)).await.is_err() {
                failure.report("the actor of a step has stopped".to_owned());
                return Fed::Ended;
            }
        }
        if let Some(error) = consumer.failure() {
            failure.report(format!("failed to receive events: {error}"));
        }
        Fed::Ended
    }
}
