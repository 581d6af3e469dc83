//! The experiments of this process: hosting them, and leaving them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use dissent_domain::id::ExperimentId;
use tokio::time::{sleep, timeout};

use super::broker::RabbitBroker;
use super::hosted::{Experiments, ProposalQueueConsumer};
use super::parked::{ParkedDecoder, ParkedSource};
use super::proposals;
use super::queue_consumer::QueueConsumer;
use super::relay::Command;
use super::shared::{Drainable, LOOK_INTERVAL};
use crate::delivery::ParkedConsumer;
use crate::error::BrokerError;
use crate::lock::lock;

/// Prefetch of a consumer of parked messages. It is small because several consumers share them.
const PARKED_PREFETCH: u16 = 16;

/// Marks an experiment as leaving until it is dropped.
struct Leaving<'a> {
    experiments: &'a Mutex<Experiments>,
    experiment: &'a ExperimentId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        lock(self.experiments).leaving.remove(self.experiment);
    }
}

impl RabbitBroker {
    /// Begins to receive the proposals of hosted experiments.
    pub(super) fn receive_proposals(&self) -> Result<(), BrokerError> {
        let mut experiments = lock(&self.experiments);
        experiments.receiving = true;
        let hosted: Vec<ExperimentId> = experiments.hosted.keys().cloned().collect();
        for experiment in hosted {
            let consumer = self.proposal_consumer(&experiment)?;
            experiments.hosted.insert(experiment, Some(consumer));
        }
        Ok(())
    }

    fn proposal_consumer(&self, experiment: &ExperimentId) -> Result<ProposalQueueConsumer, BrokerError> {
        let server = self.server()?;
        let (outgoing, contexts) = (server.proposals.outgoing(), Arc::clone(&server.contexts));
        Ok(proposals::receive(&self.shared, experiment, outgoing, contexts))
    }

    pub(super) fn host_experiment(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        self.shared.check_running()?;
        let server = self.server()?;
        let mut experiments = lock(&self.experiments);
        experiments.check_staying(experiment)?;
        if experiments.hosted.contains_key(experiment) {
            return Ok(());
        }
        server.commands.send(Command::Host(experiment.clone())).map_err(|_| BrokerError::Closed)?;
        let consumer = if experiments.receiving { Some(self.proposal_consumer(experiment)?) } else { None };
        experiments.hosted.insert(experiment.clone(), consumer);
        Ok(())
    }

    pub(super) fn consume_parked(&self, experiment: &ExperimentId) -> Result<ParkedConsumer, BrokerError> {
        self.shared.check_running()?;
        let server = self.server()?;
        let mut experiments = lock(&self.experiments);
        experiments.check_staying(experiment)?;
        let start = || {
            let (topology, bytes_max) = (self.shared.topology.clone(), self.shared.options.message_bytes_max);
            let queue = topology.parked(experiment);
            QueueConsumer::start(&self.shared, queue, ParkedDecoder { topology, bytes_max })
        };
        if !experiments.hosted.contains_key(experiment) && !experiments.parked.contains_key(experiment) {
            server.commands.send(Command::Host(experiment.clone())).map_err(|_| BrokerError::Closed)?;
        }
        let consumer = experiments.parked.entry(experiment.clone()).or_insert_with(start);
        let member = consumer.join(PARKED_PREFETCH);
        Ok(ParkedConsumer { source: Box::new(ParkedSource::new(member)) })
    }

    /// Closes everything of an experiment, and waits a bounded time until its settlements are sent.
    pub(super) async fn leave_experiment(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        if self.shared.is_stopping() {
            return Err(BrokerError::Closed);
        }
        lock(&self.experiments).leaving.insert(experiment.clone());
        let _leaving = Leaving { experiments: &self.experiments, experiment };
        let consumers = self.take_consumers(experiment);
        consumers.iter().for_each(|consumer| consumer.close());
        if let Some(server) = &self.server {
            server.commands.send(Command::Leave(experiment.clone())).map_err(|_| BrokerError::Closed)?;
        }
        let settled = async {
            while !consumers.iter().all(|consumer| consumer.is_idle()) {
                sleep(LOOK_INTERVAL).await;
            }
        };
        let limit = self.shared.options.operation_timeout;
        tokio::select! {
            settled = timeout(limit, settled) => {
                settled.map_err(|_| self.shared.late("receive all settlements", limit))
            }
            () = self.shared.signals.abandoned() => Err(BrokerError::Closed),
        }
    }

    fn take_consumers(&self, experiment: &ExperimentId) -> Vec<Arc<dyn Drainable>> {
        let mut consumers: Vec<Arc<dyn Drainable>> = Vec::new();
        lock(&self.groups).retain(|_, group| {
            let is_left = group.subscription.experiment.as_ref() == Some(experiment);
            if is_left && let Some(consumer) = &group.consumer {
                consumers.push(Arc::clone(consumer) as Arc<dyn Drainable>);
            }
            !is_left
        });
        lock(&self.histories).remove(experiment);
        let mut experiments = lock(&self.experiments);
        let proposals = experiments.hosted.remove(experiment).flatten();
        consumers.extend(proposals.map(|consumer| consumer as Arc<dyn Drainable>));
        let parked = experiments.parked.remove(experiment);
        consumers.extend(parked.map(|consumer| consumer as Arc<dyn Drainable>));
        consumers
    }

    /// Returns the experiments that this process hosts, reads, or has groups of.
    pub(super) fn known_experiments(&self) -> BTreeSet<ExperimentId> {
        let mut known: BTreeSet<ExperimentId> = lock(&self.experiments).hosted().cloned().collect();
        known.extend(lock(&self.histories).iter().cloned());
        known.extend(lock(&self.groups).values().filter_map(|group| group.subscription.experiment.clone()));
        known
    }
}
