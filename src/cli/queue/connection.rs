//! The connection of a command to the RabbitMQ of a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_queues::RabbitBroker;

use crate::cli::paths;
use crate::config::{BrokerConfig, RabbitConfig, WorkerConfig};
use crate::error::BadInput;
use crate::installation::Installation;
use crate::log_access::open;

/// Settings with RabbitMQ, of an experiment or of a server, and the data folder whose installation names the
/// queues.
pub(super) struct Connection {
    settings: WorkerConfig,
    pub(super) data_dir: PathBuf,
    prefix: String,
}

impl Connection {
    /// Reads a configuration. `prefix` replaces the configured one.
    ///
    /// # Errors
    /// If the configuration is invalid, has no RabbitMQ, or no prefix is known.
    pub(super) fn of(config: &Path, data_dir: Option<&Path>, prefix: Option<&str>) -> anyhow::Result<Self> {
        let settings = WorkerConfig::load(config)?;
        let of_experiment =
            settings.experiment.as_ref().and_then(|experiment| experiment.data_dir.as_deref());
        let data_dir = paths::data_dir(data_dir.or(of_experiment).or(settings.data_dir.as_deref()));
        let configured = rabbit(&settings)?.prefix.clone();
        let configured = prefix.map(str::to_owned).or(configured);
        let prefix = match configured {
            Some(prefix) => prefix,
            None => Installation::find(&data_dir)?.map(Installation::prefix).ok_or_else(|| {
                BadInput(format!(
                    "no server has run with the data folder {}: name another with --data-dir, or set broker.prefix",
                    data_dir.display()
                ))
            })?,
        };
        Ok(Self { settings, data_dir, prefix })
    }

    /// Returns the experiment that the settings name, if they are those of an experiment.
    pub(super) fn experiment(&self) -> Option<&ExperimentId> {
        self.settings.experiment.as_ref().map(|experiment| &experiment.name)
    }

    /// Returns the experiment of the settings, and those of the log if there is one.
    pub(super) fn experiments(&self) -> Vec<ExperimentId> {
        let of_log = open::read_log(&self.data_dir).and_then(|log| Ok(log.shared().streams()?));
        let mut experiments: Vec<ExperimentId> =
            of_log.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        if let Some(named) = self.experiment()
            && !experiments.contains(named)
        {
            experiments.push(named.clone());
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
        let options = rabbit(&self.settings)?.options(&self.prefix)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let broker: Arc<RabbitBroker> =
                RabbitBroker::connect_operator(options).await.context("failed to reach RabbitMQ")?;
            work(&broker).await
        })
    }
}

fn rabbit(settings: &WorkerConfig) -> anyhow::Result<&RabbitConfig> {
    match &settings.broker {
        BrokerConfig::Rabbitmq(rabbit) => Ok(rabbit),
        BrokerConfig::Embedded(_) => Err(BadInput(
            "the embedded broker has no queues to show: this command needs [broker] kind = \"rabbitmq\""
                .to_owned(),
        )
        .into()),
    }
}
