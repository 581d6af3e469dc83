//! What wakes the keeper.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A wakeup that is heard by whoever listens later, too. A thread's own token (`std::thread::park`) would not do: channels that the keeper
/// waits on, as the log's flush does, take that token, and the keeper would sleep on after it was told to stop.
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

    /// Returns once it has rung since the last time, or after `longest`.
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
