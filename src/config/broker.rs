//! `[broker]`: what carries messages between the processes of an experiment.

use std::path::PathBuf;
use std::time::Duration;

use dissent_actors::LeaseTimes;
use dissent_queues::RabbitOptions;
use serde::Deserialize;

use crate::error::BadInput;

/// Where the address of RabbitMQ is looked for first: it holds a password.
const URL_VARIABLE: &str = "DISSENT_RABBITMQ_URL";
/// Longest file with an address, in bytes.
const URL_BYTES_MAX: u64 = 4096;
/// Longest lease of a training: nobody waits longer for one that is gone.
const LEASE_SECONDS_MAX: u64 = 3600;
/// Longest wait for RabbitMQ at the start: a day.
const CONNECT_SECONDS_MAX: u64 = 86_400;

/// `[broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum BrokerConfig {
    /// Inside the one process that does everything.
    Embedded(EmbeddedConfig),
    /// A RabbitMQ, for several processes.
    Rabbitmq(RabbitConfig),
}

/// The embedded broker has nothing to set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedConfig {}

/// A RabbitMQ.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RabbitConfig {
    /// A file that holds its address, `amqp://user:password@host:5672/vhost`; the environment variable comes
    /// first.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// What the names of its exchanges and queues begin with.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// After so many seconds without a sign of life a training is given to another worker, 2 to 3600.
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u64,
    /// So many seconds a server or worker that is started tries to reach RabbitMQ, 1 to 86,400; once it was
    /// there, it tries for ever.
    #[serde(default = "connect_seconds")]
    pub connect_seconds: u64,
    /// After so many seconds of silence a connection counts as lost, 1 to 600.
    #[serde(default = "heartbeat_seconds")]
    pub heartbeat_seconds: u64,
    /// The largest message that is sent or taken, in MiB, 1 to 128; RabbitMQ's own limit may be lower.
    #[serde(default = "message_mib_max")]
    pub message_mib_max: usize,
    /// So often RabbitMQ delivers what was in the hands of workers that died, before it is put among the dead
    /// letters; at least 1.
    #[serde(default = "redeliveries_max")]
    pub redeliveries_max: u32,
}

fn lease_seconds() -> u64 {
    60
}

/// Long enough for a RabbitMQ that is started at the same time.
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

fn prefix() -> String {
    "dissent".to_owned()
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

    pub(super) fn validate(&self) -> Result<(), String> {
        let Self::Rabbitmq(rabbit) = self else { return Ok(()) };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if rabbit.prefix.is_empty() || rabbit.prefix.len() > 32 || !rabbit.prefix.chars().all(allowed) {
            return Err(format!("broker.prefix = {:?}: use 1 to 32 of a-z, 0-9, '-' and '_'", rabbit.prefix));
        }
        for (name, value, least, most) in [
            ("lease_seconds", rabbit.lease_seconds, 2, LEASE_SECONDS_MAX),
            ("connect_seconds", rabbit.connect_seconds, 1, CONNECT_SECONDS_MAX),
            ("heartbeat_seconds", rabbit.heartbeat_seconds, 1, 600),
            ("message_mib_max", rabbit.message_mib_max as u64, 1, 128),
            ("redeliveries_max", rabbit.redeliveries_max.into(), 1, 1 << 30),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("broker.{name} = {value}: use {least} to {most}"));
            }
        }
        Ok(())
    }

    /// How long a training may be silent.
    pub(crate) fn lease(&self) -> LeaseTimes {
        match self {
            Self::Embedded(_) => LeaseTimes::default(),
            Self::Rabbitmq(rabbit) => LeaseTimes::of(Duration::from_secs(rabbit.lease_seconds)),
        }
    }

    /// Whether several processes can do the steps of an experiment.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Rabbitmq(_))
    }
}

impl RabbitConfig {
    /// How to reach it. The address is read here, and never kept or shown.
    ///
    /// # Errors
    /// If there is no address, or it is none.
    pub fn options(&self) -> anyhow::Result<RabbitOptions> {
        let mut options = RabbitOptions::from_url(self.url()?.trim())
            .map_err(|error| BadInput(format!("the address of RabbitMQ: {error}")))?;
        options.prefix.clone_from(&self.prefix);
        options.heartbeat = Duration::from_secs(self.heartbeat_seconds);
        options.message_bytes_max = self.message_mib_max << 20;
        options.redeliveries_max = self.redeliveries_max;
        Ok(options)
    }

    /// As [`options`](Self::options), for a service: it may be started before its RabbitMQ.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub(crate) fn options_of_service(&self) -> anyhow::Result<RabbitOptions> {
        Ok(RabbitOptions { start_timeout: Duration::from_secs(self.connect_seconds), ..self.options()? })
    }

    fn url(&self) -> anyhow::Result<String> {
        if let Ok(url) = std::env::var(URL_VARIABLE) {
            return Ok(url);
        }
        let Some(path) = &self.url_file else {
            return Err(BadInput(format!(
                "there is no address of RabbitMQ: set {URL_VARIABLE} to amqp://user:password@host:5672/vhost, or \
                 broker.url_file to a file that holds it"
            ))
            .into());
        };
        let unusable = |reason: String| BadInput(format!("broker.url_file {}: {reason}", path.display()));
        let bytes = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
        if bytes > URL_BYTES_MAX {
            return Err(unusable(format!("{bytes} bytes are too many for an address")).into());
        }
        Ok(std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?)
    }
}
