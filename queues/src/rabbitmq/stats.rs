//! How many messages lie where.

use super::broker::{RabbitBroker, unavailable};
use super::topology::look_at;
use crate::error::BrokerError;
use crate::lock::lock;

/// A queue as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// Its name, prefix included.
    pub name: String,
    /// Messages ready to be delivered; those in hand are not among them. A stream counts all it holds.
    pub messages: u32,
    /// Consumers, of all processes.
    pub consumers: u32,
}

impl RabbitBroker {
    /// The queues that this process knows of: those that are always there, and those of the groups and histories that it
    /// declared or subscribed to.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is away or does not answer in time.
    pub async fn queues(&self) -> Result<Vec<QueueStats>, BrokerError> {
        let topology = &self.shared.topology;
        let mut names = vec![topology.proposals(), topology.parked(), topology.dead()];
        for group in lock(&self.groups).keys() {
            names.push(topology.group(group)?);
        }
        names.extend(lock(&self.histories).iter().map(|experiment| topology.history(experiment)));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.queue_stats(&names).await
    }

    /// Queues by their full names; those that do not exist are left out.
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
                    // Asking for what is not there costs the channel.
                    None => (_, channel) = link.channel().await?,
                }
            }
            Ok(stats)
        };
        self.shared
            .bounded(looking)
            .await
            .map_err(|error| unavailable(&self.shared, "look at the queues", &error))
    }
}
