//! Consumers of the embedded broker, and the obligations to settle their deliveries.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use tokio::time::{Instant, Sleep, sleep_until};

use super::group::NextDelivery;
use super::shared::{GroupCell, Shared};
use crate::context::Contexts;
use crate::delivery::{Delivery, Outcome, ParkedDelivery, Settle, Source};
use crate::error::BrokerError;
use crate::future::BoxFuture;

/// A consumer that is a member of a group.
pub(super) struct GroupSource {
    shared: Arc<Shared>,
    cell: Arc<GroupCell>,
    member: u64,
    contexts: Arc<Contexts>,
    /// The timer that wakes this consumer when the next retry is due.
    timer: Option<Pin<Box<Sleep>>>,
}

impl GroupSource {
    pub(super) fn new(
        shared: Arc<Shared>,
        cell: Arc<GroupCell>,
        member: u64,
        contexts: Arc<Contexts>,
    ) -> Self {
        Self { shared, cell, member, contexts, timer: None }
    }

    fn turn(&self, waker: Option<&Waker>) -> NextDelivery {
        self.shared.with(&self.cell, |group| group.take(self.member, Instant::now(), waker))
    }

    fn delivery(&self, event: &Recorded, attempt: u32, redelivered: bool) -> Delivery {
        let lease = Lease {
            shared: Arc::clone(&self.shared),
            cell: Arc::clone(&self.cell),
            member: self.member,
            position: event.position,
        };
        let context = self.contexts.of(event.event.id);
        Delivery::new(event.clone(), attempt, redelivered, Box::new(lease)).with_context(context)
    }

    fn poll_timer(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }
}

impl Source<Delivery> for GroupSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            match self.turn(Some(context.waker())) {
                NextDelivery::Deliver { event, attempt, redelivered } => {
                    return Poll::Ready(Some(self.delivery(&event, attempt, redelivered)));
                }
                NextDelivery::Ended => return Poll::Ready(None),
                NextDelivery::Wait { until: None } => return Poll::Pending,
                NextDelivery::Wait { until: Some(until) } => ready!(self.poll_timer(until, context)),
            }
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        match self.turn(None) {
            NextDelivery::Deliver { event, attempt, redelivered } => {
                Some(self.delivery(&event, attempt, redelivered))
            }
            NextDelivery::Wait { .. } | NextDelivery::Ended => None,
        }
    }

    fn failure(&self) -> Option<BrokerError> {
        self.cell.lock().failure()
    }
}

impl Drop for GroupSource {
    fn drop(&mut self) {
        self.shared.with(&self.cell, |group| group.leave(self.member));
    }
}

/// The obligation to settle one delivery.
struct Lease {
    shared: Arc<Shared>,
    cell: Arc<GroupCell>,
    member: u64,
    position: u64,
}

impl Lease {
    fn take_back(&self, outcome: Outcome) -> Result<(), BrokerError> {
        if self.shared.is_stopping() {
            return Err(BrokerError::Closed);
        }
        self.shared
            .with(&self.cell, |group| group.settle(self.position, self.member, outcome, Instant::now()))
    }
}

impl Settle for Lease {
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>> {
        Box::pin(std::future::ready(self.take_back(outcome)))
    }

    fn release(self: Box<Self>) {
        // After a stop, the next start redelivers the message.
        let _stopped = self.take_back(Outcome::Released);
    }
}

/// A consumer of the parked messages of an experiment.
pub(super) struct ParkedSource {
    shared: Arc<Shared>,
    experiment: ExperimentId,
    /// Set when the experiment leaves.
    left: Arc<AtomicBool>,
}

impl ParkedSource {
    pub(super) fn new(shared: Arc<Shared>, experiment: ExperimentId) -> Self {
        let left = shared.watch_leave(&experiment);
        Self { shared, experiment, left }
    }
}

impl Source<ParkedDelivery> for ParkedSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<ParkedDelivery>> {
        // Register the waker before checking: a message parked in between then wakes it.
        self.shared.await_parked(context.waker());
        match self.try_next() {
            Some(delivery) => Poll::Ready(Some(delivery)),
            None if self.shared.is_closing() || self.left.load(Ordering::Acquire) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn try_next(&mut self) -> Option<ParkedDelivery> {
        let (cell, parked) = self.shared.take_parked(&self.experiment)?;
        let position = parked.event.position;
        let lease = ParkedLease { shared: Arc::clone(&self.shared), cell, position };
        Some(ParkedDelivery::new(parked, Box::new(lease)))
    }

    fn failure(&self) -> Option<BrokerError> {
        self.shared.failure()
    }
}

/// The obligation to settle one parked message.
struct ParkedLease {
    shared: Arc<Shared>,
    cell: Arc<GroupCell>,
    position: u64,
}

impl ParkedLease {
    fn take_back(&self, done: bool) -> Result<(), BrokerError> {
        if self.shared.is_stopping() {
            return Err(BrokerError::Closed);
        }
        self.shared.with(&self.cell, |group| group.settle_parked(self.position, done))
    }
}

impl Settle for ParkedLease {
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>> {
        Box::pin(std::future::ready(self.take_back(outcome == Outcome::Done)))
    }

    fn release(self: Box<Self>) {
        // After a stop, the next start redelivers the message.
        let _stopped = self.take_back(false);
    }
}
