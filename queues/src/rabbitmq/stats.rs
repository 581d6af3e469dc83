//! Message and consumer counts of queues.

use super::broker::{RabbitBroker, unavailable};
use super::topology::look_at;
use crate::error::BrokerError;
use crate::lock::lock;

/// The counts of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// Name of the queue, with its prefix.
    pub name: String,
    /// Messages ready for delivery, without unsettled ones. For a stream: all messages.
    pub messages: u32,
    /// Consumers, of all processes.
    pub consumers: u32,
}

impl RabbitBroker {
    /// Returns the counts of the dead letters, and of the queues of the groups and experiments that this
    /// process hosts, declared or subscribed to.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is unavailable or does not respond in time.
    pub async fn queues(&self) -> Result<Vec<QueueStats>, BrokerError> {
        let topology = &self.shared.topology;
        let mut names = vec![topology.dead()];
        for experiment in self.known_experiments() {
            names.extend([topology.proposals(&experiment), topology.parked(&experiment)]);
        }
        for group in lock(&self.groups).keys() {
            names.push(topology.group(group)?);
        }
        names.extend(lock(&self.histories).iter().map(|experiment| topology.history(experiment)));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.queue_stats(&names).await
    }

    /// Returns the counts of queues by their full names; missing queues are omitted.
    ///
    /// # Errors
    /// As [`queues`](Self::queues).
    pub async fn queue_stats(&self, names: &[&str]) -> Result<Vec<QueueStats>, BrokerError> {
        let link = &self.shared.consuming;
        let looking = async {
            let mut stats = Vec::new();
            let (_, mut channel) = link.channel().await?;
            for &name in names {
                match link.within(look_at(&channel, name)).await? {
                    Some((messages, consumers)) => {
                        stats.push(QueueStats { name: name.to_owned(), messages, consumers });
                    }
                    // A query for a missing queue closes the channel.
                    None => (_, channel) = link.channel().await?,
                }
            }
            Ok(stats)
        };
        self.shared
            .bounded(looking)
            .await
            .map_err(|error| unavailable(&self.shared, "read the queues", error))
    }
}
