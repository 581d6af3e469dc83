//! The time of an iteration, by phase.

use std::time::{Duration, Instant};

/// A phase of an iteration that is spent in models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Sampling,
    Scoring,
    Forward,
    Training,
}

/// The time of each phase of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PhaseTimes {
    /// Sampling completions.
    pub sampling: Duration,
    /// Scoring them.
    pub scoring: Duration,
    /// Log-probabilities and values of the completions, under the policy and the reference.
    pub forward: Duration,
    /// Steps of the optimiser.
    pub training: Duration,
    /// The rest: drawing, decoding, packing, advantages, updating the sampler.
    pub other: Duration,
}

impl PhaseTimes {
    /// Returns the whole time of the iteration.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.sampling + self.scoring + self.forward + self.training + self.other
    }

    /// Returns the share of the time outside the models, in [0, 1]; 0 if the total is 0.
    #[must_use]
    pub fn overhead(&self) -> f64 {
        let total = self.total().as_secs_f64();
        if total > 0.0 { self.other.as_secs_f64() / total } else { 0.0 }
    }
}

/// Measures the phases of one iteration.
pub(super) struct PhaseTimer {
    begin: Instant,
    times: PhaseTimes,
}

impl PhaseTimer {
    pub(super) fn begin() -> Self {
        Self { begin: Instant::now(), times: PhaseTimes::default() }
    }

    /// Runs a function and adds its time to a phase.
    pub(super) fn time<T>(&mut self, phase: Phase, run: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = run();
        let slot = match phase {
            Phase::Sampling => &mut self.times.sampling,
            Phase::Scoring => &mut self.times.scoring,
            Phase::Forward => &mut self.times.forward,
            Phase::Training => &mut self.times.training,
        };
        *slot += begin.elapsed();
        result
    }

    /// Returns the measured times. The rest of the time since the beginning is `other`.
    pub(super) fn end(self) -> PhaseTimes {
        let counted = self.times.total();
        PhaseTimes { other: self.begin.elapsed().saturating_sub(counted), ..self.times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outside_phases_is_other() {
        let mut timer = PhaseTimer::begin();
        let spin = |length: Duration| {
            let begin = Instant::now();
            while begin.elapsed() < length {
                std::hint::spin_loop();
            }
        };
        timer.time(Phase::Training, || spin(Duration::from_millis(6)));
        spin(Duration::from_millis(2));
        let times = timer.end();
        assert!(times.training >= Duration::from_millis(6), "{times:?}");
        assert!(times.other >= Duration::from_millis(2), "{times:?}");
        assert_eq!(times.scoring, Duration::ZERO);
        assert!(times.overhead() > 0.0 && times.overhead() < 1.0, "{times:?}");
        assert!(PhaseTimes::default().overhead().abs() < 1e-12);
    }
}
