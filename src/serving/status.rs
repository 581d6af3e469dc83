//! The status of a running process.

use std::sync::atomic::{AtomicBool, Ordering};

use dissent_actors::ProcessHealth;

use super::broker_handle::BrokerHandle;

/// The status of a running process, for health checks and metrics.
pub(super) struct ServiceStatus {
    pub(super) health: ProcessHealth,
    pub(super) broker: BrokerHandle,
    draining: AtomicBool,
}

impl ServiceStatus {
    pub(super) fn new(health: ProcessHealth, broker: BrokerHandle) -> Self {
        Self { health, broker, draining: AtomicBool::new(false) }
    }

    /// Marks the process as stopping, which makes it not ready.
    pub(super) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns the reason why the process is not ready; none if it is ready.
    pub(super) fn not_ready_reason(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("stopping");
        }
        let status = self.broker.status()?;
        if !status.connected {
            Some("not connected to RabbitMQ")
        } else if status.blocked {
            Some("blocked by RabbitMQ, which lacks memory or disk space")
        } else {
            None
        }
    }
}
