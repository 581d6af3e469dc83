//! The connection of a command to the RabbitMQ of a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_queues::RabbitBroker;

use crate::cli::paths;
use crate::config::{BrokerConfig, Config, RabbitConfig};
use crate::error::BadInput;
use crate::installation::Installation;
use crate::log_access::open;

/// A configuration with RabbitMQ, and the data folder whose installation names the queues.
pub(super) struct Connection {
    pub(super) config: Config,
    pub(super) data_dir: PathBuf,
    prefix: String,
}

impl Connection {
    /// Reads a configuration. `prefix` replaces the configured one.
    ///
    /// # Errors
    /// If the configuration is invalid, has no RabbitMQ, or no prefix is known.
    pub(super) fn of(config: &Path, data_dir: Option<&Path>, prefix: Option<&str>) -> anyhow::Result<Self> {
        let config = Config::load(config)?;
        let data_dir = paths::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
        let configured = prefix.map(str::to_owned).or_else(|| rabbit(&config).ok()?.prefix.clone());
        rabbit(&config)?;
        let prefix = match configured {
            Some(prefix) => prefix,
            None => Installation::find(&data_dir)?.map(Installation::prefix).ok_or_else(|| {
                BadInput(format!(
                    "no server has run with the data folder {}: name another with --data-dir, or set broker.prefix",
                    data_dir.display()
                ))
            })?,
        };
        Ok(Self { config, data_dir, prefix })
    }

    /// Returns the experiment of the configuration, and those of the log if there is one.
    pub(super) fn experiments(&self) -> Vec<ExperimentId> {
        let of_log = open::read_log(&self.data_dir).and_then(|log| Ok(log.shared().streams()?));
        let mut experiments: Vec<ExperimentId> =
            of_log.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        if !experiments.contains(&self.config.experiment.name) {
            experiments.push(self.config.experiment.name.clone());
        }
        experiments
    }

    /// Connects, and works with the broker.
    ///
    /// # Errors
    /// If RabbitMQ cannot be reached, or as `work`.
    pub(super) fn with_broker<T>(
        &self,
        work: impl AsyncFnOnce(&RabbitBroker) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let options = rabbit(&self.config)?.options(&self.prefix)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let broker: Arc<RabbitBroker> =
                RabbitBroker::connect_operator(options).await.context("failed to reach RabbitMQ")?;
            work(&broker).await
        })
    }
}

fn rabbit(config: &Config) -> anyhow::Result<&RabbitConfig> {
    match &config.broker {
        BrokerConfig::Rabbitmq(rabbit) => Ok(rabbit),
        BrokerConfig::Embedded(_) => Err(BadInput(
            "the embedded broker has no queues to show: this command needs [broker] kind = \"rabbitmq\""
                .to_owned(),
        )
        .into()),
    }
}
