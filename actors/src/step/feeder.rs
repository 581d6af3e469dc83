//! Feeds a step with what the broker delivers, unless the experiment is paused.

use std::sync::Arc;

use dissent_queues::{BrokerError, Consumer, Subscription};
use tokio::sync::Notify;

use super::{Batch, StepActor, Surroundings};
use crate::gate::Gate;

/// Hands batches to the actor, one at a time: its answer is the back-pressure.
pub(super) struct Feeder {
    pub(super) subscription: Subscription,
    pub(super) actor: actix::Addr<StepActor>,
    pub(super) batch: usize,
    pub(super) around: Surroundings,
    pub(super) stop: Arc<Notify>,
}

/// Why deliveries are no longer fed.
enum Fed {
    Ended,
    Paused,
}

impl Feeder {
    pub(super) async fn run(self, mut consumer: Consumer) {
        let mut gate = self.around.gate.clone();
        while let Fed::Paused = self.feed(consumer, &mut gate).await {
            let open = tokio::select! {
                open = gate.opens() => open,
                () = self.stop.notified() => false,
            };
            if !open {
                return;
            }
            consumer = match self.around.broker.subscribe(self.subscription.clone()) {
                Ok(consumer) => consumer,
                Err(BrokerError::Closed) => return,
                Err(error) => {
                    return self.around.failure.report(format!("failed to receive events again: {error}"));
                }
            };
        }
    }

    /// Until the broker is closed or something fails, or until the experiment is paused: the consumer is then given up with what it
    /// has ready, since RabbitMQ does not let anyone hold a message for as long as a pause may take.
    async fn feed(&self, mut consumer: Consumer, gate: &mut Gate) -> Fed {
        let failure = &self.around.failure;
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
                failure.report("a step's actor is gone".to_owned());
                return Fed::Ended;
            }
        }
        if let Some(error) = consumer.failure() {
            failure.report(format!("failed to receive events: {error}"));
        }
        Fed::Ended
    }
}
