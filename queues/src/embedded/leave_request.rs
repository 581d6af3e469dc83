//! A request to end the groups of an experiment.

use std::time::Instant;

use dissent_domain::id::ExperimentId;
use tokio::sync::oneshot;

use crate::error::BrokerError;

/// A request to end the groups of an experiment.
pub(super) struct LeaveRequest {
    pub(super) experiment: ExperimentId,
    /// Deliveries that are held after this time are given up.
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<Result<(), BrokerError>>,
}
