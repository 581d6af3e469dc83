//! The broker over RabbitMQ: the same contract as the embedded one, between processes and hosts.

mod broker;
mod context;
mod dead_letter;
mod dead_letter_admin;
mod event_queue;
mod events;
mod experiment_queues;
mod headers;
mod history;
mod leaderless;
mod link;
mod options;
mod parked;
mod proposals;
mod publisher;
mod queue_consumer;
mod relay;
mod shared;
mod stats;
mod status;
mod topology;
mod window;
mod wire;

pub use self::broker::RabbitBroker;
pub use self::dead_letter_admin::{DeadContent, DeadMessage};
pub use self::history::HistoryConsumer;
pub use self::options::{ClientCertificate, RabbitOptions, Secret, TlsOptions};
pub use self::stats::QueueStats;
pub use self::status::BrokerStatus;
