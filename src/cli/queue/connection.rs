//! The connection of a command to the RabbitMQ of a configuration.

use std::sync::Arc;

use anyhow::Context as _;
use dissent_queues::RabbitBroker;

use crate::config::{BrokerConfig, Config, RabbitConfig};
use crate::error::BadInput;

pub(super) fn rabbit(config: &Config) -> anyhow::Result<&RabbitConfig> {
    match &config.broker {
        BrokerConfig::Rabbitmq(rabbit) => Ok(rabbit),
        BrokerConfig::Embedded(_) => Err(BadInput(
            "the embedded broker has no queues to show: this command needs [broker] kind = \"rabbitmq\""
                .to_owned(),
        )
        .into()),
    }
}

pub(super) fn with_broker<T>(
    rabbit: &RabbitConfig,
    work: impl AsyncFnOnce(&RabbitBroker) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let options = rabbit.options()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker: Arc<RabbitBroker> =
            RabbitBroker::connect_worker(options).await.context("failed to reach RabbitMQ")?;
        work(&broker).await
    })
}
