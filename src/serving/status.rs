//! What is status of a running process.

use std::sync::atomic::{AtomicBool, Ordering};

use dissent_actors::ProcessHealth;

use super::broker_handle::BrokerHandle;

/// A running process, as its health checks and metrics see it.
pub(super) struct ServiceStatus {
    pub(super) health: ProcessHealth,
    pub(super) broker: BrokerHandle,
    draining: AtomicBool,
}

impl ServiceStatus {
    pub(super) fn new(health: ProcessHealth, broker: BrokerHandle) -> Self {
        Self { health, broker, draining: AtomicBool::new(false) }
    }

    /// From now on it takes on nothing more.
    pub(super) fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why it is not ready to work; none if it is.
    pub(super) fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("stopping");
        }
        let status = self.broker.status()?;
        if !status.connected {
            Some("not connected to RabbitMQ")
        } else if status.blocked {
            Some("RabbitMQ takes no messages for now, for want of memory or disk")
        } else {
            None
        }
    }
}
