//! Which broker carries the messages, as the configuration says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_queues::{
    Broker, BrokerError, BrokerStatus, EmbeddedBroker, EmbeddedOptions, GroupStatus, QueueStats, RabbitBroker,
};

use crate::config::BrokerConfig;

/// How long workers that are told to stop at the same time may take to go.
const LEAVE_MAX: Duration = Duration::from_secs(3);
const LEAVE_POLL: Duration = Duration::from_millis(100);

/// A broker, by its kind: what only one of them can is asked of it here.
#[derive(Clone)]
pub(super) enum BrokerHandle {
    /// Inside this process.
    Embedded(Arc<EmbeddedBroker>),
    /// A RabbitMQ.
    Rabbit(Arc<RabbitBroker>),
}

impl BrokerHandle {
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
                let connecting = RabbitBroker::connect_server(rabbit.options_of_service()?, log);
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

    /// Makes ready for workers elsewhere: the queues of every step, and the history that they follow. If
    /// RabbitMQ goes away meanwhile, it is done when it is back.
    ///
    /// # Errors
    /// If RabbitMQ refuses.
    pub(super) async fn prepare(&self, plan: &Plan, batch_prompts: usize) -> Result<(), BrokerError> {
        let Self::Rabbit(broker) = self else { return Ok(()) };
        later(broker.declare_groups(&dissent_actors::subscriptions(plan, batch_prompts)).await)?;
        later(broker.publish_history(&plan.experiment).await)
    }

    /// Takes away the queues of an experiment that is over, once no worker follows its history any more. What
    /// cannot be taken away is only worth a warning: the log has it all.
    pub(super) async fn forget(&self, experiment: &ExperimentId) {
        let Self::Rabbit(broker) = self else { return };
        match leave(broker, experiment).await {
            Ok(0) => tracing::info!(%experiment, "the queues of the experiment are deleted: it is over"),
            Ok(followers) => tracing::warn!(
                %experiment,
                followers,
                "workers still follow the experiment, which is over: once they are gone, delete its queues with `dissent queue forget`"
            ),
            Err(error) => {
                tracing::warn!(%experiment, %error, "the queues of the experiment are left, though it is over: `dissent queue forget`");
            }
        }
    }

    /// How the connection is; none where there is none.
    pub(super) fn status(&self) -> Option<BrokerStatus> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => Some(broker.status()),
        }
    }

    /// The queues with what lies in them.
    pub(super) async fn queues(&self) -> Vec<QueueStats> {
        match self {
            Self::Embedded(broker) => broker.status().into_iter().map(of_group).collect(),
            Self::Rabbit(broker) => broker.queues().await.unwrap_or_default(),
        }
    }
}

/// A group of the embedded broker as a queue, which the one process consumes.
fn of_group(group: GroupStatus) -> QueueStats {
    let messages = u32::try_from(group.waiting).unwrap_or(u32::MAX);
    QueueStats { name: group.group, messages, consumers: 1 }
}

/// What the broker does by itself as soon as it can is worth a warning only.
fn later(ordered: Result<(), BrokerError>) -> Result<(), BrokerError> {
    match ordered {
        Err(error @ BrokerError::Unavailable(_)) => {
            tracing::warn!(%error, "the queues are made as soon as RabbitMQ is back");
            Ok(())
        }
        other => other,
    }
}

/// Waits a while for workers to leave an experiment, and deletes its queues if they do; gives how many did
/// not.
async fn leave(broker: &RabbitBroker, experiment: &ExperimentId) -> Result<u32, BrokerError> {
    let begun = Instant::now();
    loop {
        match broker.followers(experiment).await? {
            0 => return broker.forget(experiment).await.map(|()| 0),
            followers if begun.elapsed() >= LEAVE_MAX => return Ok(followers),
            _ => tokio::time::sleep(LEAVE_POLL).await,
        }
    }
}
