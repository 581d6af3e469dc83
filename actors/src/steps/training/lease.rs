//! Lease expiry: a training without heartbeats is requested again.
//!
//! The rules have no clock. This watch has one: it compares the time since the last heartbeat with the lease,
//! and proposes that the lease has expired. The rules decide the consequences.

use std::time::Duration;

use dissent_domain::event::{StepName, TrainingLeaseExpired};
use dissent_queues::BrokerError;

use crate::error::RunFailure;
use crate::runner::context::StepContext;
use crate::runner::propose::propose;
use crate::runner::step::Consequence;
use crate::state::{Lease, States};

const INTERVAL: Duration = Duration::from_millis(500);

/// Proposes the expiry of leases until it is aborted.
pub(crate) async fn watch(states: States, context: StepContext) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let Some(lease) = states.lease(&context.experiment) else { continue };
        if !lease.has_expired() {
            continue;
        }
        if let Err(error) = expire(&lease, &context).await {
            return context.failure.report(RunFailure::broker("expire a lease", error));
        }
    }
}

/// Proposes that a lease has expired. Every process proposes the same event.
pub(crate) async fn expire(lease: &Lease, context: &StepContext) -> Result<(), BrokerError> {
    let &Lease { round, stage, attempt, requested, .. } = lease;
    tracing::warn!(round, stage = stage.name(), attempt, "expiring the lease of a training");
    let events = vec![TrainingLeaseExpired { round, stage, attempt }.into()];
    let consequence = Consequence { cause: requested, events };
    propose(context, StepName::Training, &consequence).await.map(drop)
}
