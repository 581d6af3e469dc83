//! The queues of one experiment: their names, and their deletion.

use dissent_domain::id::ExperimentId;
use lapin::options::QueueDeleteOptions;

use super::broker::{RabbitBroker, unavailable};
use super::relay::Command;
use super::topology::{look_at, short};
use crate::error::BrokerError;
use crate::lock::lock;

impl RabbitBroker {
    /// Returns the names of the queues of an experiment and of these groups, whether they exist or not.
    ///
    /// # Errors
    /// [`BrokerError::InvalidName`] if a group name is reserved.
    pub fn queues_of(
        &self,
        experiment: &ExperimentId,
        groups: &[String],
    ) -> Result<Vec<String>, BrokerError> {
        let topology = &self.shared.topology;
        let mut names = groups.iter().map(|group| topology.group(group)).collect::<Result<Vec<_>, _>>()?;
        names.extend([
            topology.history(experiment),
            topology.proposals(experiment),
            topology.parked(experiment),
        ]);
        Ok(names)
    }

    /// Returns the number of processes that follow the history of an experiment.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is unavailable or does not respond in time.
    pub async fn followers(&self, experiment: &ExperimentId) -> Result<u32, BrokerError> {
        let history = self.shared.topology.history(experiment);
        Ok(self.queue_stats(&[&history]).await?.iter().map(|queue| queue.consumers).sum())
    }

    /// Deletes the queues of an experiment: its history, proposals and parked messages, and the groups that
    /// this server declared since its start. Works after [`close`](crate::Broker::close), too. The log keeps
    /// all events: a queue that is subscribed to again is filled again.
    ///
    /// # Errors
    /// As [`declare_groups`](Self::declare_groups).
    pub async fn forget(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        if self.shared.is_stopping() {
            return Err(BrokerError::Closed);
        }
        let server = self.server()?;
        lock(&self.histories).remove(experiment);
        lock(&self.groups).retain(|_, group| group.subscription.experiment.as_ref() != Some(experiment));
        self.execute(server, |done| Command::Forget { experiment: experiment.clone(), done }).await
    }

    /// Deletes queues and their messages by their full names, also those of other processes. Returns the
    /// names of the queues that existed. A running server declares its own queues again.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is unavailable or does not respond in time.
    pub async fn delete_queues(&self, names: &[String]) -> Result<Vec<String>, BrokerError> {
        let link = &self.shared.publishing;
        let deleting = async {
            let mut deleted = Vec::new();
            for name in names {
                // A query for a missing queue closes the channel.
                let (_, channel) = link.channel().await?;
                if link.within(look_at(&channel, name)).await?.is_some() {
                    link.within(channel.queue_delete(short(name), QueueDeleteOptions::default())).await?;
                    deleted.push(name.clone());
                }
            }
            Ok(deleted)
        };
        self.shared
            .bounded(deleting)
            .await
            .map_err(|error| unavailable(&self.shared, "delete the queues", error))
    }
}
