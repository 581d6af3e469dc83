//! Watching leases: a training whose worker gives no sign of life is requested again.
//!
//! Rules know no time. Here someone with a clock looks when the log last heard of a training, and proposes that its lease has
//! expired; what follows from that is the rules' business.

use std::time::Duration;

use dissent_domain::event::{StepName, TrainingLeaseExpired};
use dissent_queues::BrokerError;

use crate::journal::{Lease, States};
use crate::step::{self, Consequence, Surroundings};

const INTERVAL: Duration = Duration::from_millis(500);

/// Proposes the expiry of leases until it is aborted.
pub(crate) async fn watch(states: States, around: Surroundings) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let Some(lease) = states.lease(&around.experiment) else { continue };
        if lease.silent <= Duration::from_millis(lease.lease_ms) {
            continue;
        }
        if let Err(error) = expire(&lease, &around).await {
            return around.failure.report(format!("failed to give up a training: {error}"));
        }
    }
}

/// Proposes that a lease has expired. Whoever proposes it, it is the same event.
pub(crate) async fn expire(lease: &Lease, around: &Surroundings) -> Result<(), BrokerError> {
    let &Lease { round, stage, attempt, requested, .. } = lease;
    tracing::warn!(round, stage = stage.name(), attempt, "a training was given up: it is requested again");
    let events = vec![TrainingLeaseExpired { round, stage, attempt }.into()];
    let consequence = Consequence { cause: requested, events };
    step::propose(&*around.broker, &around.experiment, StepName::Training, &consequence).await.map(drop)
}
