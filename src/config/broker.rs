//! `[broker]`: the message broker between the processes of an experiment.

use std::path::PathBuf;
use std::time::Duration;

use dissent_actors::LeaseTimes;
use dissent_queues::RabbitOptions;
use serde::Deserialize;

use super::error::{ConfigError, KeyErrorKind};
use super::range::check_range;

/// The variable with the address of RabbitMQ, which contains a password. The variable takes precedence over
/// `broker.url_file`.
const URL_VARIABLE: &str = "DISSENT_RABBITMQ_URL";
/// Largest `broker.url_file`, in bytes.
const URL_BYTES_MAX: u64 = 4096;
/// Longest lease of a training, in seconds. A long lease delays the restart of a training whose worker died.
const LEASE_SECONDS_MAX: u64 = 3600;
/// Longest wait for RabbitMQ at the start, in seconds: a day.
const CONNECT_SECONDS_MAX: u64 = 86_400;

/// `[broker]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum BrokerConfig {
    /// The broker inside the process, for one process.
    Embedded(EmbeddedConfig),
    /// RabbitMQ, for several processes.
    Rabbitmq(RabbitConfig),
}

/// The settings of the embedded broker: none.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedConfig {}

/// The settings of RabbitMQ.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RabbitConfig {
    /// The file with the address, `amqp://user:password@host:5672/vhost`. The environment variable
    /// `DISSENT_RABBITMQ_URL` takes precedence.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// The prefix of the names of exchanges and queues. By default it names the installation: the data folder
    /// of the server has its id.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Seconds without a heartbeat until the lease of a training expires, 2 to 3600.
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u64,
    /// Seconds that a server or worker waits for RabbitMQ at its start, 1 to 86,400. After the first
    /// connection, the process reconnects without a limit.
    #[serde(default = "connect_seconds")]
    pub connect_seconds: u64,
    /// Seconds without traffic until a connection counts as lost, 1 to 600.
    #[serde(default = "heartbeat_seconds")]
    pub heartbeat_seconds: u64,
    /// Largest message, in MiB, 1 to 128. RabbitMQ's own limit may be lower.
    #[serde(default = "message_mib_max")]
    pub message_mib_max: usize,
    /// Redeliveries of a message whose workers died, before it becomes a dead letter; at least 1.
    #[serde(default = "redeliveries_max")]
    pub redeliveries_max: u32,
}

fn lease_seconds() -> u64 {
    60
}

/// Returns the default wait for RabbitMQ, in seconds: enough for a RabbitMQ that starts at the same time.
fn connect_seconds() -> u64 {
    60
}

fn heartbeat_seconds() -> u64 {
    RabbitOptions::default().heartbeat.as_secs()
}

fn message_mib_max() -> usize {
    RabbitOptions::default().message_bytes_max >> 20
}

fn redeliveries_max() -> u32 {
    RabbitOptions::default().redeliveries_max
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self::Embedded(EmbeddedConfig {})
    }
}

impl BrokerConfig {
    pub(super) fn url_file_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbitmq(rabbit) => rabbit.url_file.as_mut(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let Self::Rabbitmq(rabbit) = self else { return Ok(()) };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let is_allowed = |prefix: &&String| (1..=32).contains(&prefix.len()) && prefix.chars().all(allowed);
        if let Some(prefix) = rabbit.prefix.as_ref().filter(|prefix| !is_allowed(prefix)) {
            let way_out = "use 1 to 32 of a-z, 0-9, '-' and '_'";
            return Err(ConfigError::out_of_range("broker.prefix", format_args!("{prefix:?}"), way_out));
        }
        for (name, value, least, most) in [
            ("lease_seconds", rabbit.lease_seconds, 2, LEASE_SECONDS_MAX),
            ("connect_seconds", rabbit.connect_seconds, 1, CONNECT_SECONDS_MAX),
            ("heartbeat_seconds", rabbit.heartbeat_seconds, 1, 600),
            ("message_mib_max", rabbit.message_mib_max as u64, 1, 128),
            ("redeliveries_max", rabbit.redeliveries_max.into(), 1, 1 << 30),
        ] {
            check_range(&format!("broker.{name}"), value, least..=most)?;
        }
        Ok(())
    }

    /// Returns the lease times of trainings.
    pub(crate) fn lease(&self) -> LeaseTimes {
        match self {
            Self::Embedded(_) => LeaseTimes::default(),
            Self::Rabbitmq(rabbit) => LeaseTimes::of(Duration::from_secs(rabbit.lease_seconds)),
        }
    }

    /// Returns whether several processes can run the steps of an experiment.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Rabbitmq(_))
    }
}

impl RabbitConfig {
    /// Returns the connection options, with the configured prefix of names or else this one. The options
    /// contain the address, which `self` never holds and no error shows.
    ///
    /// # Errors
    /// If no address is configured, or it cannot be read or parsed.
    pub fn options(&self, default_prefix: &str) -> Result<RabbitOptions, ConfigError> {
        let mut options = RabbitOptions::from_url(self.url()?.trim()).map_err(|error| {
            ConfigError::key_because("[broker]", KeyErrorKind::Address, "invalid address of RabbitMQ", error)
        })?;
        options.prefix = self.prefix.clone().unwrap_or_else(|| default_prefix.to_owned());
        options.heartbeat = Duration::from_secs(self.heartbeat_seconds);
        options.message_bytes_max = self.message_mib_max << 20;
        options.redeliveries_max = self.redeliveries_max;
        Ok(options)
    }

    /// Returns [`options`](Self::options) for a service, which may start before RabbitMQ.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub(crate) fn options_of_service(&self, default_prefix: &str) -> Result<RabbitOptions, ConfigError> {
        let start_timeout = Duration::from_secs(self.connect_seconds);
        Ok(RabbitOptions { start_timeout, ..self.options(default_prefix)? })
    }

    fn url(&self) -> Result<String, ConfigError> {
        if let Ok(url) = std::env::var(URL_VARIABLE) {
            return Ok(url);
        }
        let Some(path) = &self.url_file else {
            let reason = format!(
                "no address of RabbitMQ is set: set {URL_VARIABLE} to amqp://user:password@host:5672/vhost, or \
                 broker.url_file to a file that contains it"
            );
            return Err(ConfigError::key("broker.url_file", KeyErrorKind::Address, reason));
        };
        let unreadable = |error: std::io::Error| {
            let reason = format!("failed to read broker.url_file {}", path.display());
            ConfigError::key_because("broker.url_file", KeyErrorKind::Path, reason, error)
        };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > URL_BYTES_MAX {
            let reason = format!(
                "broker.url_file {}: {bytes} bytes exceed the limit of {URL_BYTES_MAX}",
                path.display()
            );
            return Err(ConfigError::key("broker.url_file", KeyErrorKind::Address, reason));
        }
        std::fs::read_to_string(path).map_err(unreadable)
    }
}
