//! The broker of the configuration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dissent_domain::error::chain;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_queues::{
    Broker, BrokerError, BrokerStatus, EmbeddedBroker, EmbeddedOptions, GroupStatus, QueueStats,
    RabbitBroker, ServerIdentity,
};

use super::worker_directory::host_name;
use crate::config::BrokerConfig;
use crate::installation::Installation;

/// Longest wait for workers to disconnect, if they stop at the same time as the server.
pub(super) const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const DISCONNECT_POLL: Duration = Duration::from_millis(100);

/// A broker of either kind. It has the operations that depend on the kind.
#[derive(Clone)]
pub(super) enum BrokerHandle {
    /// Inside this process.
    Embedded(Arc<EmbeddedBroker>),
    /// A RabbitMQ.
    Rabbit(Arc<RabbitBroker>),
}

impl BrokerHandle {
    /// Opens the broker of the process that writes the history.
    ///
    /// # Errors
    /// If RabbitMQ cannot be reached or refuses, or another server has the same queues.
    pub(super) async fn of_server(
        config: &BrokerConfig,
        log: Arc<dyn EventLog>,
        installation: Installation,
    ) -> anyhow::Result<Self> {
        Ok(match config {
            BrokerConfig::Embedded(_) => {
                Self::Embedded(Arc::new(EmbeddedBroker::new(log, EmbeddedOptions::default())))
            }
            BrokerConfig::Rabbitmq(rabbit) => {
                let options = rabbit.options_of_service(&installation.prefix())?;
                let identity = ServerIdentity {
                    installation: installation.to_string(),
                    host: host_name(),
                    process: std::process::id(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    since_us: dissent_actors::now_us(),
                };
                let connecting = RabbitBroker::connect_server(options, log, identity);
                Self::Rabbit(connecting.await.context("failed to reach RabbitMQ")?)
            }
        })
    }

    /// Returns the prefix of the names of the queues; `None` for the embedded broker.
    pub(super) fn prefix(&self) -> Option<&str> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => Some(broker.prefix()),
        }
    }

    /// Ends waits for RabbitMQ.
    pub(super) fn abandon(&self) {
        self.broker().abandon();
    }

    /// Returns the reason why the broker does not work; `None` if it works.
    pub(super) fn not_ready_reason(&self) -> Option<String> {
        let status = self.status()?;
        if let Some(holder) = status.taken_over_by {
            return Some(format!("another server has taken over: {holder}"));
        }
        if let Some(reason) = status.refused {
            return Some(format!("refused by RabbitMQ: {reason}"));
        }
        if !status.connected {
            Some("not connected to RabbitMQ".to_owned())
        } else if status.blocked {
            Some("blocked by RabbitMQ, which lacks memory or disk space".to_owned())
        } else {
            None
        }
    }

    /// Returns the broker as the steps use it.
    pub(super) fn broker(&self) -> Arc<dyn Broker> {
        match self {
            Self::Embedded(broker) => broker.clone(),
            Self::Rabbit(broker) => broker.clone(),
        }
    }

    /// Declares the queues of every step and publishes the history, for workers. If RabbitMQ is unavailable,
    /// the broker does this after it reconnects.
    ///
    /// # Errors
    /// If RabbitMQ refuses.
    pub(super) async fn prepare(&self, plan: &Plan, batch_prompts: usize) -> Result<(), BrokerError> {
        let Self::Rabbit(broker) = self else { return Ok(()) };
        allow_unavailable(broker.declare_groups(&dissent_actors::subscriptions(plan, batch_prompts)).await)?;
        allow_unavailable(broker.publish_history(&plan.experiment).await)
    }

    /// Deletes the queues of an ended experiment once no worker follows its history, if that is within
    /// `time_limit`. Returns whether they are gone. A failure is only a warning, because the log holds every
    /// event.
    pub(super) async fn delete_queues(&self, experiment: &ExperimentId, time_limit: Duration) -> bool {
        let Self::Rabbit(broker) = self else { return true };
        match delete_if_unused(broker, experiment, time_limit).await {
            Ok(0) => {
                tracing::info!(%experiment, "deleted the queues of the ended experiment");
                return true;
            }
            Ok(_) if time_limit.is_zero() => {}
            Ok(followers) => tracing::warn!(
                %experiment,
                followers,
                "keeping the queues of the ended experiment for its workers; delete them later with `dissent queue forget`"
            ),
            Err(error) => {
                tracing::warn!(
                    %experiment,
                    error = %chain(&error),
                    "failed to delete the queues of the ended experiment; use `dissent queue forget`"
                );
            }
        }
        false
    }

    /// Returns the RabbitMQ; none for the embedded broker.
    pub(super) fn rabbit(&self) -> Option<Arc<RabbitBroker>> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => Some(broker.clone()),
        }
    }

    /// Returns the status of the connection; none for the embedded broker.
    pub(super) fn status(&self) -> Option<BrokerStatus> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => Some(broker.status()),
        }
    }

    /// Returns the queues with their messages and consumers.
    pub(super) async fn queues(&self) -> Vec<QueueStats> {
        match self {
            Self::Embedded(broker) => broker.status().into_iter().map(of_group).collect(),
            Self::Rabbit(broker) => broker.queues().await.unwrap_or_default(),
        }
    }
}

/// Describes a group of the embedded broker as a queue with one consumer.
fn of_group(group: GroupStatus) -> QueueStats {
    let messages = u32::try_from(group.waiting).unwrap_or(u32::MAX);
    QueueStats { name: group.group, messages, consumers: 1 }
}

/// Turns unavailability into a warning, because the broker repeats the operation after it reconnects.
fn allow_unavailable(outcome: Result<(), BrokerError>) -> Result<(), BrokerError> {
    match outcome {
        Err(error @ (BrokerError::Unavailable { .. } | BrokerError::Late { .. })) => {
            tracing::warn!(error = %chain(&error), "deferring the queue operation until RabbitMQ is available");
            Ok(())
        }
        other => other,
    }
}

/// Waits for workers to disconnect from an experiment, then deletes its queues. If some stay until the
/// timeout, the queues stay too. Returns the number of those workers.
async fn delete_if_unused(
    broker: &RabbitBroker,
    experiment: &ExperimentId,
    time_limit: Duration,
) -> Result<u32, BrokerError> {
    let begun = Instant::now();
    loop {
        match broker.followers(experiment).await? {
            0 => {
                // The relay stopped using them when the experiment left.
                let queues = broker.queues_of(experiment, &dissent_actors::groups(experiment))?;
                return broker.delete_queues(&queues).await.map(|_| 0);
            }
            followers if begun.elapsed() >= time_limit => return Ok(followers),
            _ => tokio::time::sleep(DISCONNECT_POLL).await,
        }
    }
}
