//! The status of the broker, for metrics and people.

use std::sync::atomic::{AtomicU64, Ordering};

use super::broker::RabbitBroker;
use super::identity::Holder;

/// The status of a broker over RabbitMQ. Counters start with the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerStatus {
    /// Whether both connections are up.
    pub connected: bool,
    /// Whether RabbitMQ blocks publishing, for lack of memory or disk.
    pub blocked: bool,
    /// Messages that RabbitMQ has not confirmed, sent or not.
    pub unconfirmed: u64,
    /// The server's log is relayed and confirmed up to this position; 0 on a worker.
    pub relayed_to: u64,
    /// Deliveries that RabbitMQ marks as redelivered.
    pub redelivered: u64,
    /// Deliveries that duplicate a held or recently settled message.
    pub duplicates_dropped: u64,
    /// Messages published as dead letters.
    pub dead: u64,
    /// Messages given up after their last attempt.
    pub parked: u64,
    /// The other server that serves the prefix; nothing is published or consumed meanwhile.
    pub taken_over_by: Option<Holder>,
    /// The reason of a lasting refusal, such as a missing permission.
    pub refused: Option<String>,
    /// Number of the server's start under this prefix; 0 while unknown.
    pub start: u64,
    /// Number of lost connections.
    pub reconnects: u64,
    /// Whether every consumer is consuming, and RabbitMQ has received every settlement.
    pub steady: bool,
}

impl RabbitBroker {
    /// Returns the prefix of the names of its queues.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.shared.options.prefix
    }

    /// Returns the current status.
    #[must_use]
    pub fn status(&self) -> BrokerStatus {
        let shared = &self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let waiting = u64::try_from(shared.publisher.waiting()).unwrap_or(u64::MAX);
        BrokerStatus {
            connected: shared.publishing.is_up() && shared.consuming.is_up(),
            blocked: shared.publishing.is_blocked() || shared.consuming.is_blocked(),
            unconfirmed: waiting + read(&shared.counters.relay_unconfirmed),
            relayed_to: read(&shared.counters.relayed),
            redelivered: read(&shared.counters.redelivered),
            duplicates_dropped: read(&shared.counters.duplicates_dropped),
            dead: read(&shared.counters.dead),
            parked: read(&shared.counters.parked),
            taken_over_by: shared.publishing.taken_over_by().or_else(|| shared.consuming.taken_over_by()),
            refused: shared.refusal(),
            start: shared.signals.start(),
            reconnects: shared.publishing.losses() + shared.consuming.losses(),
            steady: shared.is_steady(),
        }
    }
}
