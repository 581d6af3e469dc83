//! The signal that wakes the I/O thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::lock;

/// A signal that is kept until the next wait. The token of `std::thread::park` does not suffice: channels
/// that the thread blocks on, as in the log's flush, consume the token. The thread would then sleep through a
/// stop.
#[derive(Debug, Default)]
pub(super) struct Wakeup {
    /// Notifications since the last wait.
    pending: Mutex<u64>,
    notified: Condvar,
}

impl Wakeup {
    pub(super) fn notify(&self) {
        *lock(&self.pending) += 1;
        self.notified.notify_one();
    }

    /// Returns once notified since the last wait, or after `longest`.
    pub(super) fn wait(&self, longest: Option<Duration>) {
        let pending = lock(&self.pending);
        let is_silent = |pending: &mut u64| *pending == 0;
        let mut pending = match longest {
            None => self.notified.wait_while(pending, is_silent).unwrap_or_else(PoisonError::into_inner),
            Some(longest) => {
                let waited = self.notified.wait_timeout_while(pending, longest, is_silent);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *pending = 0;
    }

    #[cfg(test)]
    pub(super) fn pending(&self) -> u64 {
        *lock(&self.pending)
    }
}
