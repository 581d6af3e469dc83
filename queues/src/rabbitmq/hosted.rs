//! The experiments of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dissent_domain::id::ExperimentId;

use super::parked::ParkedQueueConsumer;
use super::proposals::ProposalDecoder;
use super::queue_consumer::QueueConsumer;
use crate::error::BrokerError;

/// The queue consumer of an experiment's proposals.
pub(super) type ProposalQueueConsumer = Arc<QueueConsumer<ProposalDecoder>>;

/// The experiments of this process.
#[derive(Default)]
pub(super) struct Experiments {
    /// Hosted experiments, with the consumer of their proposals once the journal receives.
    pub(super) hosted: BTreeMap<ExperimentId, Option<ProposalQueueConsumer>>,
    pub(super) parked: BTreeMap<ExperimentId, ParkedQueueConsumer>,
    pub(super) leaving: BTreeSet<ExperimentId>,
    /// Whether the journal receives proposals.
    pub(super) receiving: bool,
}

impl Experiments {
    /// Fails while the experiment is leaving.
    pub(super) fn check_staying(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        match self.leaving.contains(experiment) {
            true => Err(BrokerError::Leaving { experiment: experiment.clone() }),
            false => Ok(()),
        }
    }

    /// Returns the experiments that are hosted here.
    pub(super) fn hosted(&self) -> impl Iterator<Item = &ExperimentId> {
        self.hosted.keys()
    }
}
