//! How the broker is, for metrics and people.

use std::sync::atomic::{AtomicU64, Ordering};

use super::broker::RabbitBroker;

/// How a broker over RabbitMQ is. Counters are since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerStatus {
    /// Both connections are up.
    pub connected: bool,
    /// RabbitMQ takes no messages for now, for want of memory or disk.
    pub blocked: bool,
    /// Messages sent or to be sent that RabbitMQ has not confirmed.
    pub unconfirmed: u64,
    /// The server's log is relayed and confirmed up to this position; 0 on a worker.
    pub relayed_to: u64,
    /// Deliveries that RabbitMQ had made before.
    pub redelivered: u64,
    /// Deliveries that were already here or lately done.
    pub duplicates_dropped: u64,
    /// Messages put among the dead letters.
    pub dead: u64,
    /// Messages parked after their last attempt.
    pub parked: u64,
    /// Times that a connection was lost.
    pub reconnects: u64,
    /// Every consumer is consuming, and RabbitMQ knows of everything that was settled.
    pub steady: bool,
}

impl RabbitBroker {
    /// How it is now.
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
            reconnects: shared.publishing.losses() + shared.consuming.losses(),
            steady: shared.is_steady(),
        }
    }
}
