//! The frame that all steps share: take a batch of deliveries, work out on the step's own thread what follows
//! from each, propose it, and only when that is durable acknowledge.
//!
//! Nothing here knows what a step does; nothing in a step knows of brokers, threads or acknowledgements.

mod feeder;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AtomicResponse, Context, Handler, Message, WrapFuture};
use dissent_domain::event::{Event, EventId, EventType, PromptSetAside, Recorded, StepName, follow_from};
use dissent_domain::id::ExperimentId;
use dissent_queues::{Broker, BrokerError, Delivery, Proposal, ProposalReply, Subscription};
use futures_util::future::join_all;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{Instrument as _, Span};

use crate::trace;

use crate::gate::Gate;
use feeder::Feeder;

/// Why nothing follows from an event, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It may work another time: the delivery is tried again, and parked after several attempts.
    #[error("{0}")]
    Retry(String),
    /// It will never work for this prompt: the round goes on without it.
    #[error("{0}")]
    SetAside(String),
    /// The step itself is broken: the run stops, and nothing is acknowledged.
    #[error("{0}")]
    Fatal(String),
    /// Stopped on request: the delivery is given back.
    #[error("cancelled")]
    Cancelled,
}

/// Events that follow from a cause, to be proposed together.
#[derive(Debug, Clone, PartialEq)]
pub struct Consequence {
    /// What they follow from: usually the event that was delivered.
    pub cause: EventId,
    /// The events; none is fine.
    pub events: Vec<Event>,
}

/// An event in a step's hands.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Its identity.
    pub id: EventId,
    /// What it followed from.
    pub causation: Option<EventId>,
    /// What happened.
    pub event: Event,
}

/// What one step does: from events to the events that follow.
pub trait Perform: Send + 'static {
    /// Which step it is.
    const STEP: StepName;
    /// The events it consumes.
    const CONSUMES: &'static [EventType];

    /// Most events it works on at once, ≥ 1.
    fn batch(&self) -> usize {
        1
    }

    /// What follows from each event of a batch, in its order. Called on the step's own thread, where it may
    /// take its time.
    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>>;
}

/// A step, whichever it is.
pub(crate) trait AnyStep {
    fn step(&self) -> StepName;
    fn consumes(&self) -> &'static [EventType];
    fn at_once(&self) -> usize;
    fn consequences(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>>;
}

impl<P: Perform> AnyStep for P {
    fn step(&self) -> StepName {
        P::STEP
    }

    fn consumes(&self) -> &'static [EventType] {
        P::CONSUMES
    }

    fn at_once(&self) -> usize {
        self.batch().max(1)
    }

    fn consequences(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        self.perform(batch)
    }
}

/// The consequence that most steps have: these events, because of the one received.
pub(crate) fn follows(received: &Received, events: impl Into<Vec<Event>>) -> Consequence {
    Consequence { cause: received.id, events: events.into() }
}

/// Where a step says that it cannot go on. The first to say so is heard.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<watch::Sender<Option<String>>>);

impl Failure {
    pub(crate) fn new() -> (Self, watch::Receiver<Option<String>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(Arc::new(sender)), receiver)
    }

    pub(crate) fn is_reported(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn report(&self, reason: String) {
        tracing::error!(error = %reason, "the pipeline stops");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }
}

/// What every step needs to take part.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) experiment: ExperimentId,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) failure: Failure,
    pub(crate) known: Known,
    pub(crate) gate: Gate,
}

/// How much of the experiment's history this process knows. A step works on an event only once it knows what led to it.
#[derive(Debug, Clone)]
pub(crate) struct Known(Option<watch::Receiver<u64>>);

impl Known {
    /// All of it: history is written here.
    pub(crate) fn all() -> Self {
        Self(None)
    }

    /// Up to the version that is told; none that follows is known before.
    pub(crate) fn up_to(version: watch::Receiver<u64>) -> Self {
        Self(Some(version))
    }

    /// Waits until this version is known; false if it never will be.
    async fn reaches(&self, version: u64) -> bool {
        match &self.0 {
            None => true,
            Some(known) => known.clone().wait_for(|known| *known >= version).await.is_ok(),
        }
    }
}

/// Attempts before a message is parked. Only failures count: a killed process is no fault of the message.
const DELIVERY_LIMIT: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Most events in one proposal of a step that emits many: small enough for one group commit.
const PROPOSAL_EVENTS: usize = 256;

/// A running step.
pub(crate) struct StepHandle {
    feeder: tokio::task::JoinHandle<()>,
    stop: Arc<Notify>,
}

impl StepHandle {
    /// Waits until the step has finished what it had in hand, after the broker was closed.
    pub(crate) async fn drained(self) {
        self.stop.notify_one();
        if let Err(error) = self.feeder.await {
            tracing::error!(%error, "a feeder ended abnormally");
        }
    }
}

/// Starts a step on the current arbiter.
pub(crate) fn start<P: Perform>(perform: P, around: &Surroundings) -> Result<StepHandle, BrokerError> {
    let batch = perform.batch().max(1);
    let subscription = subscription::<P>(&around.experiment, batch);
    let consumer = around.broker.subscribe(subscription.clone())?;
    let compute = ComputeThread::start(perform).map_err(|error| {
        BrokerError::Invalid(format!("failed to start the {} thread: {error}", P::STEP.name()))
    })?;
    let actor = StepActor { step: P::STEP, compute, around: around.clone() }.start();
    let stop = Arc::new(Notify::new());
    let feeder = Feeder { subscription, actor, batch, around: around.clone(), stop: stop.clone() };
    Ok(StepHandle { feeder: actix::spawn(feeder.run(consumer)), stop })
}

/// What a step asks of the broker.
pub(crate) fn subscription<P: Perform>(experiment: &ExperimentId, batch: usize) -> Subscription {
    Subscription {
        group: group(P::STEP, experiment),
        experiment: Some(experiment.clone()),
        kinds: P::CONSUMES,
        // The next batch waits ready while one is worked on.
        prefetch: (2 * batch).min(dissent_queues::PREFETCH_MAX),
        delivery_limit: DELIVERY_LIMIT,
        retry_delay: RETRY_DELAY,
    }
}

/// The name under which a step's progress on an experiment is remembered.
pub(crate) fn group(step: StepName, experiment: &ExperimentId) -> String {
    format!("{}.{}", step.name(), EventId::of_experiment(experiment).0.simple())
}

/// Deliveries to be worked on together.
#[derive(Message)]
#[rtype(result = "()")]
struct Batch(Vec<Delivery>);

struct StepActor {
    step: StepName,
    compute: ComputeThread,
    around: Surroundings,
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
        let work = Work { step: self.step, compute: self.compute.clone(), around: self.around.clone() };
        AtomicResponse::new(Box::pin(work.batch(deliveries).into_actor(self)))
    }
}

/// One batch on its way through a step.
struct Work {
    step: StepName,
    compute: ComputeThread,
    around: Surroundings,
}

impl Work {
    async fn batch(self, deliveries: Vec<Delivery>) {
        let begun = Instant::now();
        // All that is worked on together takes as long as all of it.
        let spans: Vec<Span> =
            deliveries.iter().map(|delivery| trace::of_delivery(self.step, delivery)).collect();
        let newest = deliveries.iter().map(|delivery| delivery.event.version).max().unwrap_or_default();
        if !self.around.known.reaches(newest).await {
            return deliveries.into_iter().for_each(Delivery::release);
        }
        if self.around.gate.is_closed() {
            return deliveries.into_iter().for_each(Delivery::release);
        }
        if self.around.gate.is_for_nothing() {
            return self.drop_all(deliveries).await;
        }
        let received = match deliveries.iter().map(|delivery| receive(&delivery.event)).collect() {
            Ok(received) => received,
            Err(reason) => return self.around.failure.report(reason),
        };
        let outcomes = match self.compute.perform(received).await {
            Ok(outcomes) if outcomes.len() == deliveries.len() => outcomes,
            Ok(_) => return self.fail("it answered another number of events than it was given"),
            Err(reason) => return self.fail(&reason),
        };
        // Together, so that what follows from a batch becomes durable in one group commit and not in one for each.
        let concluding =
            deliveries.into_iter().zip(outcomes).zip(spans).map(|((delivery, outcome), span)| {
                async {
                    let concluded = self.conclude(delivery, outcome).await;
                    tracing::debug!(elapsed_ms = begun.elapsed().as_millis(), "done");
                    concluded
                }
                .instrument(span)
            });
        if let Some(error) = join_all(concluding).await.into_iter().find_map(Result::err) {
            self.fail(&error.to_string());
        }
    }

    /// Takes what nobody wants any more out of the queue.
    async fn drop_all(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            if let Err(error) = delivery.ack().await {
                return self.fail(&error.to_string());
            }
        }
    }

    fn fail(&self, reason: &str) {
        self.around.failure.report(format!("the {} step failed: {reason}", self.step.name()));
    }

    /// Proposes what follows from a delivery and settles it, in that order: nothing is acknowledged before
    /// what follows from it is durable.
    async fn conclude(
        &self,
        delivery: Delivery,
        outcome: Result<Consequence, StepError>,
    ) -> Result<(), BrokerError> {
        match outcome {
            Ok(consequence) => {
                self.propose(&consequence).await?;
                delivery.ack().await
            }
            Err(StepError::SetAside(reason)) => {
                if let Some(event) = set_aside(&delivery.event, self.step, &reason) {
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
                    "retrying"
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
        propose(&*self.around.broker, &self.around.experiment, self.step, consequence).await.map(drop)
    }
}

/// What became of a consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It is in the log, or will be.
    Recorded,
    /// The rules said no, to some of it at least.
    Rejected,
}

/// Proposes a consequence and waits until it is decided.
pub(crate) async fn propose(
    broker: &dyn Broker,
    experiment: &ExperimentId,
    step: StepName,
    consequence: &Consequence,
) -> Result<Decided, BrokerError> {
    let events = follow_from(consequence.cause, step.name(), 0, &consequence.events)
        .map_err(|error| BrokerError::Invalid(error.to_string()))?;
    // A crash between two chunks is harmless: the same events are proposed again, and the recorded ones are
    // recognised by their ids.
    for events in events.chunks(PROPOSAL_EVENTS) {
        let proposal = Proposal {
            experiment: experiment.clone(),
            cause: Some(consequence.cause),
            events: events.to_vec(),
        };
        let _begun = trace::begin(broker, experiment, step, events);
        let context = trace::context_of(&Span::current());
        if let ProposalReply::Rejected { reason } = broker.propose_in(proposal, context).await? {
            // Another worker was faster, or the round moved on: there is nothing left to do here.
            tracing::warn!(experiment_id = %experiment, step = step.name(), %reason, "a proposal was rejected");
            return Ok(Decided::Rejected);
        }
    }
    Ok(Decided::Recorded)
}

/// An event as a step is given it.
pub(crate) fn receive(recorded: &Recorded) -> Result<Received, String> {
    let event = recorded.decode().map_err(|error| format!("event {}: {error}", recorded.position))?;
    Ok(Received { id: recorded.event.id, causation: recorded.event.causation, event })
}

/// The event that lets a round go on without the prompt of this event; none if it has no prompt.
pub(crate) fn set_aside(recorded: &Recorded, step: StepName, reason: &str) -> Option<Event> {
    without_prompt(&recorded.decode().ok()?, step, reason)
}

/// As `set_aside`, for an event that was read.
pub(crate) fn without_prompt(event: &Event, step: StepName, reason: &str) -> Option<Event> {
    let (round, prompt_id) = event.prompt()?;
    let prompt_id = prompt_id.clone();
    Some(PromptSetAside { round, prompt_id, step, reason: reason.to_owned() }.into())
}

type Outcomes = Vec<Result<Consequence, StepError>>;

struct Job {
    batch: Vec<Received>,
    reply: oneshot::Sender<Result<Outcomes, String>>,
}

/// The step's own thread: model runs take seconds, and an arbiter that computes answers nobody.
#[derive(Clone)]
struct ComputeThread {
    jobs: mpsc::Sender<Job>,
}

impl ComputeThread {
    fn start<P: Perform>(mut perform: P) -> std::io::Result<Self> {
        // The actor sends one batch and waits: room for one is all that is ever needed.
        let (jobs, mut inbox) = mpsc::channel::<Job>(1);
        std::thread::Builder::new().name(P::STEP.name().to_owned()).spawn(move || {
            while let Some(Job { batch, reply }) = inbox.blocking_recv() {
                let outcomes = catch_unwind(AssertUnwindSafe(|| perform.perform(&batch)))
                    .map_err(|panic| panicked(&*panic));
                let panicked = outcomes.is_err();
                // A step that is no longer waited for has been cancelled.
                let _ = reply.send(outcomes);
                if panicked {
                    return;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    async fn perform(&self, batch: Vec<Received>) -> Result<Outcomes, String> {
        let gone = || "its thread is gone".to_owned();
        let (reply, outcomes) = oneshot::channel();
        self.jobs.send(Job { batch, reply }).await.map_err(|_| gone())?;
        outcomes.await.map_err(|_| gone())?
    }
}

/// What a panic said.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", message.unwrap_or("no message"))
}
