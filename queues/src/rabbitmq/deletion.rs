//! Deleting all queues and exchanges of a prefix, and those that version 0.1 left.

use dissent_domain::id::ExperimentId;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};

use super::broker::{RabbitBroker, unavailable};
use super::holder;
use super::identity::Holder;
use super::link_error::LinkError;
use super::old_names;
use super::topology::{Topology, is_absent, is_locked, look_at, short};
use crate::error::BrokerError;

/// An existing queue or exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its full name.
    pub name: String,
    /// Whether it is an exchange.
    pub is_exchange: bool,
    /// Messages in the queue that are ready for delivery.
    pub messages: u32,
    /// Consumers of the queue.
    pub consumers: u32,
}

/// Names to look for.
struct Names {
    exchanges: Vec<String>,
    queues: Vec<String>,
}

impl RabbitBroker {
    /// Lists what version 0.1 left under the prefix: base queues, exchanges, retry queues, and the queues of
    /// these groups and experiments.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is unavailable or does not respond in time.
    pub async fn old_leftovers(
        &self,
        experiments: &[ExperimentId],
        groups: &[String],
    ) -> Result<Vec<Leftover>, BrokerError> {
        self.process(&self.old_names(experiments, groups), false).await
    }

    /// Deletes what [`old_leftovers`](Self::old_leftovers) lists, with all messages; returns it.
    ///
    /// # Errors
    /// As [`old_leftovers`](Self::old_leftovers).
    pub async fn delete_old(
        &self,
        experiments: &[ExperimentId],
        groups: &[String],
    ) -> Result<Vec<Leftover>, BrokerError> {
        self.process(&self.old_names(experiments, groups), true).await
    }

    /// Deletes every queue and exchange of the prefix with all messages, as far as the experiments and their
    /// groups are named; returns what existed. The log keeps all events.
    ///
    /// # Errors
    /// [`BrokerError::Served`] while a server serves the prefix; otherwise as
    /// [`old_leftovers`](Self::old_leftovers).
    pub async fn delete_all(
        &self,
        experiments: &[ExperimentId],
        groups: &[String],
    ) -> Result<Vec<Leftover>, BrokerError> {
        let action = "read the lock of the server";
        let server = self.shared.bounded(self.current_server()).await;
        if let Some(holder) = server.map_err(|error| unavailable(&self.shared, action, error))? {
            let (prefix, holder) = (self.shared.options.prefix.clone(), Box::new(holder));
            return Err(BrokerError::Served { prefix, holder });
        }
        let topology = &self.shared.topology;
        let retries: Vec<String> = Topology::retry_delays(self.shared.retry_delay_max_ms())
            .into_iter()
            .map(|delay| topology.retry(delay))
            .collect();
        let mut queues = vec![topology.dead(), topology.holder(), topology.repair()];
        queues.extend(retries.iter().cloned());
        for group in groups {
            queues.push(topology.group(group)?);
        }
        for experiment in experiments {
            queues.extend([
                topology.history(experiment),
                topology.proposals(experiment),
                topology.parked(experiment),
            ]);
        }
        let exchanges = retries.into_iter().chain([topology.events()]).collect();
        self.process(&Names { exchanges, queues }, true).await
    }

    fn old_names(&self, experiments: &[ExperimentId], groups: &[String]) -> Names {
        let (prefix, most) = (&self.shared.options.prefix, self.shared.options.retry_delay_max);
        Names {
            exchanges: old_names::exchanges(prefix, most),
            queues: old_names::queues(prefix, experiments, groups, most),
        }
    }

    /// Returns the server that serves the prefix now.
    async fn current_server(&self) -> Result<Option<Holder>, LinkError> {
        let link = &self.shared.consuming;
        for connection in ["publishing", "consuming"] {
            let (_, channel) = link.channel().await?;
            match link.within(look_at(&channel, &self.shared.topology.lock(connection))).await {
                Err(LinkError::Amqp(error)) if is_locked(&error) => {
                    let holder = holder::read(link, &self.shared.topology).await?;
                    return Ok(Some(holder.unwrap_or_else(Holder::unknown)));
                }
                outcome => outcome?,
            };
        }
        Ok(None)
    }

    async fn process(&self, names: &Names, delete: bool) -> Result<Vec<Leftover>, BrokerError> {
        let link = &self.shared.publishing;
        let processing = async {
            let mut found = Vec::new();
            let (_, mut channel) = link.channel().await?;
            for name in &names.queues {
                let Some((messages, consumers)) = link.within(look_at(&channel, name)).await? else {
                    // A query for a missing queue closes the channel.
                    (_, channel) = link.channel().await?;
                    continue;
                };
                if delete {
                    link.within(channel.queue_delete(short(name), QueueDeleteOptions::default())).await?;
                }
                found.push(Leftover { name: name.clone(), is_exchange: false, messages, consumers });
            }
            for name in &names.exchanges {
                if !link.within(exchange_exists(&channel, name)).await? {
                    (_, channel) = link.channel().await?;
                    continue;
                }
                if delete {
                    link.within(channel.exchange_delete(short(name), ExchangeDeleteOptions::default()))
                        .await?;
                }
                found.push(Leftover { name: name.clone(), is_exchange: true, messages: 0, consumers: 0 });
            }
            Ok(found)
        };
        let action = if delete { "delete the queues" } else { "read the queues" };
        let processed = self.shared.bounded(processing).await;
        processed.map_err(|error| unavailable(&self.shared, action, error))
    }
}

/// Whether an exchange exists. The channel is closed if not.
async fn exchange_exists(channel: &Channel, name: &str) -> lapin::Result<bool> {
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let declared =
        channel.exchange_declare(short(name), ExchangeKind::Topic, passive, FieldTable::default()).await;
    match declared {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
