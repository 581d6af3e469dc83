//! The learning rate of each step, as in transformers' `get_scheduler`.

use std::f64::consts::PI;

use dissent_domain::training::{Hyperparameters, Schedule, Warmup};

/// The learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    peak: f64,
    schedule: Schedule,
    warmup_steps: u64,
    steps: u64,
}

impl LearningRate {
    /// Returns the learning rates of a training with this number of steps.
    #[must_use]
    pub fn new(settings: &Hyperparameters, steps: u64) -> Self {
        let warmup_steps = match settings.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => ceiling(steps as f64 * ratio),
        };
        Self { peak: settings.learning_rate, schedule: settings.schedule, warmup_steps, steps }
    }

    /// Returns the learning rate of the step with this number, from 0. The first step of a warm-up has the
    /// rate 0.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step as f64 / self.warmup_steps.max(1) as f64);
        }
        let span = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => self.steps.saturating_sub(step) as f64 / span,
            Schedule::Cosine => {
                let progress = (step - self.warmup_steps) as f64 / span;
                (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
        };
        self.peak * share
    }
}

/// The smallest integer that is at least a number of steps.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of steps: not negative, and far below 2⁵³"
)]
pub(super) fn ceiling(steps: f64) -> u64 {
    steps.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup: Warmup, steps: u64) -> Vec<f64> {
        let settings =
            Hyperparameters { learning_rate: 2e-4, schedule, warmup, ..Hyperparameters::default() };
        let rate = LearningRate::new(&settings, steps);
        (0..=steps).map(|step| rate.at(step)).collect()
    }

    fn check(seen: &[f64], expected: &[f64]) {
        assert_eq!(seen.len(), expected.len());
        for (step, (seen, expected)) in seen.iter().zip(expected).enumerate() {
            assert!((seen - expected).abs() <= 1e-18, "step {step}: {seen} is not {expected}");
        }
    }

    /// Values of transformers 5.23's `get_scheduler` at a peak of 2e-4.
    #[test]
    fn learning_rates_match_transformers() {
        check(
            &rates(Schedule::Constant, Warmup::Steps(4), 6),
            &[0.0, 5e-05, 0.0001, 0.000_150_000_000_000_000_01, 0.0002, 0.0002, 0.0002],
        );
        check(
            &rates(Schedule::Linear, Warmup::Steps(3), 11),
            &[
                0.0,
                6.666_666_666_666_667e-05,
                0.000_133_333_333_333_333_34,
                0.0002,
                0.000_175,
                0.000_150_000_000_000_000_01,
                0.000_125,
                0.0001,
                7.500_000_000_000_001e-05,
                5e-05,
                2.5e-05,
                0.0,
            ],
        );
        check(
            &rates(Schedule::Linear, Warmup::Steps(0), 5),
            &[0.0002, 0.000_16, 0.000_12, 8e-05, 4e-05, 0.0],
        );
        check(
            &rates(Schedule::Cosine, Warmup::Steps(3), 11),
            &[
                0.0,
                6.666_666_666_666_667e-05,
                0.000_133_333_333_333_333_34,
                0.0002,
                0.000_192_387_953_251_128_7,
                0.000_170_710_678_118_654_76,
                0.000_138_268_343_236_509,
                0.0001,
                6.173_165_676_349_103e-05,
                2.928_932_188_134_525_4e-05,
                7.612_046_748_871_327e-06,
                0.0,
            ],
        );
        check(
            &rates(Schedule::Cosine, Warmup::Steps(0), 7),
            &[
                0.0002,
                0.000_190_096_886_790_241_9,
                0.000_162_348_980_185_873_37,
                0.000_122_252_093_395_631_45,
                7.774_790_660_436_858e-05,
                3.765_101_981_412_665_4e-05,
                9.903_113_209_758_096e-06,
                0.0,
            ],
        );
    }

    #[test]
    fn fractional_warm_up_is_rounded_up_to_steps() {
        assert_eq!(
            rates(Schedule::Linear, Warmup::Ratio(0.25), 11),
            rates(Schedule::Linear, Warmup::Steps(3), 11)
        );
        assert_eq!(
            rates(Schedule::Linear, Warmup::Ratio(0.0), 5),
            rates(Schedule::Linear, Warmup::Steps(0), 5)
        );
    }

    #[test]
    fn warm_up_of_all_steps_never_divides_by_zero() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for steps in 0..4 {
                assert!(rates(schedule, Warmup::Steps(3), steps).iter().all(|rate| rate.is_finite()));
                assert!(rates(schedule, Warmup::Ratio(1.0), steps).iter().all(|rate| rate.is_finite()));
            }
        }
    }
}
