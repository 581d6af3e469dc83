//! The signal that wakes the I/O thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A signal that is kept until the next wait. The token of `std::thread::park` does not suffice: channels
/// that the thread blocks on, as in the log's flush, consume the token. The thread would then sleep through a
/// stop.
#[derive(Debug, Default)]
pub(super) struct Wakeup {
    is_notified: Mutex<bool>,
    notified: Condvar,
}

impl Wakeup {
    pub(super) fn notify(&self) {
        *self.is_notified.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.notified.notify_one();
    }

    /// Returns once notified since the last wait, or after `longest`.
    pub(super) fn wait(&self, longest: Option<Duration>) {
        let is_notified = self.is_notified.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = |is_notified: &mut bool| !*is_notified;
        let mut is_notified = match longest {
            None => self.notified.wait_while(is_notified, is_silent).unwrap_or_else(PoisonError::into_inner),
            Some(longest) => {
                let waited = self.notified.wait_timeout_while(is_notified, longest, is_silent);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *is_notified = false;
    }
}
