//! Which broker carries the messages, as the configuration says.

use std::sync::Arc;

use anyhow::Context as _;
use dissent_domain::experiment::Plan;
use dissent_domain::log::EventLog;
use dissent_queues::{
    Broker, BrokerError, BrokerStatus, EmbeddedBroker, EmbeddedOptions, QueueStats, RabbitBroker,
};

use crate::config::BrokerConfig;

/// A broker, by its kind: what only one of them can is asked of it here.
#[derive(Clone)]
pub(super) enum Carrier {
    /// Inside this process.
    Embedded(Arc<EmbeddedBroker>),
    /// A RabbitMQ.
    Rabbit(Arc<RabbitBroker>),
}

impl Carrier {
    /// The broker of the process that writes history.
    ///
    /// # Errors
    /// If RabbitMQ cannot be reached, or refuses.
    pub(super) async fn of_server(config: &BrokerConfig, log: Arc<dyn EventLog>) -> anyhow::Result<Self> {
        Ok(match config {
            BrokerConfig::Embedded(_) => {
                Self::Embedded(Arc::new(EmbeddedBroker::new(log, EmbeddedOptions::default())))
            }
            BrokerConfig::Rabbitmq(rabbit) => {
                let connecting = RabbitBroker::connect_server(rabbit.options()?, log);
                Self::Rabbit(connecting.await.context("failed to reach RabbitMQ")?)
            }
        })
    }

    /// The broker, as the steps see it.
    pub(super) fn broker(&self) -> Arc<dyn Broker> {
        match self {
            Self::Embedded(broker) => broker.clone(),
            Self::Rabbit(broker) => broker.clone(),
        }
    }

    /// Makes ready for workers elsewhere: the queues of every step, and the history that they follow.
    ///
    /// # Errors
    /// If RabbitMQ refuses.
    pub(super) async fn prepare(&self, plan: &Plan, batch_prompts: usize) -> Result<(), BrokerError> {
        let Self::Rabbit(broker) = self else { return Ok(()) };
        broker.declare_groups(&dissent_actors::subscriptions(plan, batch_prompts)).await?;
        broker.publish_history(&plan.experiment).await
    }

    /// How the connection is; none where there is none.
    pub(super) fn status(&self) -> Option<BrokerStatus> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => Some(broker.status()),
        }
    }

    /// The queues with what lies in them; none where they are not RabbitMQ's.
    pub(super) async fn queues(&self) -> Vec<QueueStats> {
        match self {
            Self::Embedded(_) => Vec::new(),
            Self::Rabbit(broker) => broker.queues().await.unwrap_or_default(),
        }
    }
}
