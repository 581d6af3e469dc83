//! Delays that double from failure to failure, up to a maximum.

use std::time::Duration;

use tokio::time::sleep;

use crate::random::random_fraction;

/// A delay that doubles with each failure, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the delay after the `failures`-th failure.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

/// Counts failures in a row and waits after each, jittered so that many processes do not retry at once.
#[derive(Debug)]
pub(crate) struct Retries {
    backoff: Backoff,
    failures: u32,
}

impl Retries {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// Begins again with the first delay.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits between half of the delay and the whole delay.
    pub(crate) async fn wait(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let half = self.backoff.after(self.failures) / 2;
        sleep(half + half.mul_f64(random_fraction())).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        let delays = [0, 1, 2, 3, 4, 5, 40, u32::MAX].map(|failures| backoff.after(failures).as_secs());
        assert_eq!(delays, [1, 1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(Backoff::new(Duration::ZERO, Duration::MAX).after(9), Duration::ZERO);
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).after(9), Duration::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_jittered_between_half_and_the_whole_delay_until_reset() {
        let mut retries = Retries::new(Backoff::new(Duration::from_secs(1), Duration::from_secs(10)));
        for delay in [1, 2, 4, 8, 10, 10].map(Duration::from_secs) {
            let began = Instant::now();
            retries.wait().await;
            let waited = began.elapsed();
            // The timer of tokio counts milliseconds.
            assert!(delay / 2 <= waited && waited <= delay + Duration::from_millis(1), "{waited:?}");
        }
        retries.reset();
        let began = Instant::now();
        retries.wait().await;
        assert!(began.elapsed() <= Duration::from_millis(1001));
    }
}
