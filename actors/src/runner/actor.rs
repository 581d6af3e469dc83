//! The actor of a step: one batch of deliveries at a time.

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
use crate::error::StepError;

/// Deliveries to be handled together.
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
        let received = match deliveries.iter().map(|delivery| receive(&delivery.event)).collect() {
            Ok(received) => received,
            Err(reason) => return self.context.failure.report(reason),
        };
        let outcomes = match self.compute.handle(received).await {
            Ok(outcomes) if outcomes.len() == deliveries.len() => outcomes,
            Ok(_) => return self.fail("the number of outcomes differs from the number of events"),
            Err(reason) => return self.fail(&reason),
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
            self.fail(&error.to_string());
        }
    }

    /// Acknowledges and drops deliveries of a cancelled experiment.
    async fn drop_all(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            if let Err(error) = delivery.ack().await {
                return self.fail(&error.to_string());
            }
        }
    }

    /// The type of an event that the step must not emit, if it does.
    fn unexpected(&self, consequence: &Consequence) -> Option<&'static str> {
        let kinds = consequence.events.iter().map(Event::event_type);
        kinds.into_iter().find(|kind| !self.spec.emits.contains(kind)).map(EventType::name)
    }

    fn fail(&self, reason: &str) {
        self.context.failure.report(format!("the {} step failed: {reason}", self.spec.name.name()));
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
                if let Some(event) = self.unexpected(&consequence) {
                    self.fail(&format!("the table of the pipeline does not list the emitted event {event}"));
                    return Ok(());
                }
                self.propose(&consequence).await?;
                delivery.ack().await
            }
            Err(StepError::SetAside(reason)) => {
                if let Some(event) = set_aside(&delivery.event, self.spec.name, &reason) {
                    self.propose(&Consequence { cause: delivery.event.event.id, events: vec![event] })
                        .await?;
                    return delivery.ack().await;
                }
                self.fail(&reason);
                Ok(())
            }
            Err(StepError::Retry(reason)) => {
                tracing::warn!(
                    event_seq = delivery.event.position,
                    attempt = delivery.attempt,
                    redelivered = delivery.redelivered,
                    error = %reason,
                    "retrying a delivery"
                );
                delivery.retry(&reason).await
            }
            Err(StepError::Fatal(reason)) => {
                self.fail(&reason);
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
fn receive(recorded: &Recorded) -> Result<Received, String> {
    Received::decode(recorded).map_err(|error| format!("event {}: {error}", recorded.position))
}
