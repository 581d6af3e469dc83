//! What wakes the keeper.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A bell that is heard by whoever listens later, too. A thread's own token (`std::thread::park`) would not do: channels that the keeper
/// waits on, as the log's flush does, take that token, and the keeper would sleep on after it was told to stop.
#[derive(Debug, Default)]
pub(super) struct Bell {
    is_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.is_rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rings.notify_one();
    }

    /// Returns once it has rung since the last time, or after `longest`.
    pub(super) fn listen(&self, longest: Option<Duration>) {
        let is_rung = self.is_rung.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = |is_rung: &mut bool| !*is_rung;
        let mut is_rung = match longest {
            None => self.rings.wait_while(is_rung, is_silent).unwrap_or_else(PoisonError::into_inner),
            Some(longest) => {
                let waited = self.rings.wait_timeout_while(is_rung, longest, is_silent);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *is_rung = false;
    }
}
