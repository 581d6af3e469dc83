//! The threads that serve the connections.

use std::thread;
use std::time::Duration;

use dissent_domain::error::Cause;
use tokio::runtime::{Handle, Runtime};

use crate::error::BrokerError;

/// Threads that serve the connections. The threads of actors may be busy for seconds, longer than a heartbeat
/// allows.
const THREADS: usize = 2;
/// Longest wait for the threads to end.
const THREADS_END_MAX: Duration = Duration::from_secs(5);

/// The runtime. It must not be dropped where blocking is forbidden.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) fn start() -> Result<Self, BrokerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("dissent-rabbitmq")
            .enable_all()
            .build()
            .map_err(|error| BrokerError::Threads(Cause::new(error)))?;
        Ok(Self(Some(runtime)))
    }

    /// Returns the handle of the runtime.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        // After the shutdown no task holds the log. A panic of a task was reported when it happened.
        let _panicked = thread::spawn(move || runtime.shutdown_timeout(THREADS_END_MAX)).join();
    }
}
