//! The actor of a step: one batch of deliveries at a time.

use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, AtomicResponse, Context, Handler, Message, WrapFuture};
use dissent_domain::event::{Event, EventType, Recorded};
use dissent_queues::{BrokerError, Delivery};
use futures_util::future::join_all;
use tracing::{Instrument as _, Span};

use super::compute::ComputeThread;
use super::context::StepContext;
use super::propose::{propose, set_aside};
use super::spec::StepSpec;
use super::step::{Consequence, Received};
use super::trace;
use super::turns::Turn;
use crate::error::{RunFailure, StepError, StepFault, chain};

/// Deliveries that a step handles together.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Batch(pub(super) Vec<Delivery>);

pub(super) struct StepActor {
    pub(super) spec: &'static StepSpec,
    pub(super) compute: ComputeThread,
    pub(super) context: StepContext,
}

impl Actor for StepActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // One batch at a time, from one feeder.
        ctx.set_mailbox_capacity(1);
    }
}

impl Handler<Batch> for StepActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Batch(deliveries): Batch, _: &mut Self::Context) -> Self::Result {
        let work = Work { spec: self.spec, compute: self.compute.clone(), context: self.context.clone() };
        AtomicResponse::new(Box::pin(work.batch(deliveries).into_actor(self)))
    }
}

/// One batch that a step handles.
struct Work {
    spec: &'static StepSpec,
    compute: ComputeThread,
    context: StepContext,
}

impl Work {
    async fn batch(self, deliveries: Vec<Delivery>) {
        let begun = Instant::now();
        // Each delivery of a batch takes as long as the batch.
        let spans: Vec<Span> =
            deliveries.iter().map(|delivery| trace::of_delivery(self.spec.name, delivery)).collect();
        let newest = deliveries.iter().map(|delivery| delivery.event.version).max().unwrap_or_default();
        if !self.context.known.reaches(newest).await {
            return deliveries.into_iter().for_each(Delivery::release);
        }
        if self.context.gate.is_closed() {
            return deliveries.into_iter().for_each(Delivery::release);
        }
        if self.context.gate.is_cancelled() {
            return self.drop_all(deliveries).await;
        }
        let received: Result<_, RunFailure> =
            deliveries.iter().map(|delivery| receive(&delivery.event)).collect();
        let received = match received {
            Ok(received) => received,
            Err(failure) => return self.context.failure.report(failure),
        };
        let Some(turn) = self.turn().await else {
            return deliveries.into_iter().for_each(Delivery::release);
        };
        let outcomes = self.compute.handle(received).await;
        drop(turn);
        let outcomes = match outcomes {
            Ok(outcomes) if outcomes.len() == deliveries.len() => outcomes,
            Ok(_) => return self.fail(StepFault::OutcomeCount),
            Err(fault) => return self.fail(fault),
        };
        // Together, so that the consequences of a batch become durable in one group commit.
        let concluding =
            deliveries.into_iter().zip(outcomes).zip(spans).map(|((delivery, outcome), span)| {
                async {
                    let concluded = self.conclude(delivery, outcome).await;
                    tracing::debug!(elapsed_ms = begun.elapsed().as_millis(), "settled a delivery");
                    concluded
                }
                .instrument(span)
            });
        if let Some(error) = join_all(concluding).await.into_iter().find_map(Result::err) {
            self.fail_at_broker(error);
        }
    }

    /// Waits for the turn of this experiment, if the step computes with models. Returns `None` if the
    /// experiment stops or is paused meanwhile.
    async fn turn(&self) -> Option<Option<Turn>> {
        if !self.spec.skips_recorded {
            return Some(None);
        }
        let model = self.context.model(self.spec.name);
        let turn = tokio::select! {
            biased;
            () = self.context.stop.stopped() => return None,
            turn = self.context.turns.take(self.spec.name, &model) => turn,
        };
        (!self.context.gate.is_closed()).then_some(Some(turn))
    }

    /// Acknowledges and drops deliveries of a cancelled experiment.
    async fn drop_all(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            if let Err(error) = delivery.ack().await {
                return self.fail_at_broker(error);
            }
        }
    }

    /// The type of the first event that the step must not emit.
    fn unexpected(&self, consequence: &Consequence) -> Option<EventType> {
        let mut kinds = consequence.events.iter().map(Event::event_type);
        kinds.find(|kind| !self.spec.emits.contains(kind))
    }

    fn fail(&self, fault: StepFault) {
        self.context.failure.report(RunFailure::Step { step: self.spec.name, source: fault });
    }

    fn fail_at_broker(&self, error: BrokerError) {
        self.context.failure.report(RunFailure::StepBroker { step: self.spec.name, source: error });
    }

    /// Proposes the consequence of a delivery, then settles the delivery: nothing is acknowledged before its
    /// consequence is durable.
    async fn conclude(
        &self,
        delivery: Delivery,
        outcome: Result<Consequence, StepError>,
    ) -> Result<(), BrokerError> {
        match outcome {
            Ok(consequence) => {
                if let Some(event_type) = self.unexpected(&consequence) {
                    self.fail(StepFault::UnexpectedEvent(event_type));
                    return Ok(());
                }
                self.propose(&consequence).await?;
                delivery.ack().await
            }
            Err(StepError::SetAside(fault)) => {
                if let Some(event) = set_aside(&delivery.event, self.spec.name, &fault.to_string()) {
                    self.propose(&Consequence { cause: delivery.event.event.id, events: vec![event] })
                        .await?;
                    return delivery.ack().await;
                }
                self.fail(fault);
                Ok(())
            }
            Err(StepError::Retry(fault)) => {
                tracing::warn!(
                    event_seq = delivery.event.position,
                    attempt = delivery.attempt,
                    redelivered = delivery.redelivered,
                    error = %chain(&fault),
                    "retrying a delivery"
                );
                // Without its sources: the reason may become the one for which the prompt is set aside.
                delivery.retry(&fault.to_string()).await
            }
            Err(StepError::Fatal(fault)) => {
                self.fail(fault);
                Ok(())
            }
            Err(StepError::Cancelled) => {
                delivery.release();
                Ok(())
            }
        }
    }

    async fn propose(&self, consequence: &Consequence) -> Result<(), BrokerError> {
        propose(&self.context, self.spec.name, consequence).await.map(drop)
    }
}

/// An event as a step receives it.
fn receive(recorded: &Recorded) -> Result<Received, RunFailure> {
    let position = recorded.position;
    Received::decode(recorded).map_err(|error| RunFailure::Event { position, source: Arc::new(error) })
}
