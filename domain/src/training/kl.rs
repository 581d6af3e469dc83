//! Estimates of the KL divergence from a reference, and the controller that keeps it near a target.

use serde::{Deserialize, Serialize};

use super::settings::{KlEstimator, PpoSettings};

/// Largest relative distance from the target that one update uses (arXiv 1909.08593).
const ERROR_MAX: f64 = 0.2;

impl KlEstimator {
    /// Estimates KL(π ‖ π_ref) in nats from one token drawn from π, by its log-probabilities under the policy
    /// and the reference. The mean over draws converges to the divergence, for k2 with a bias; see
    /// <http://joschu.net/blog/kl-approx.html>.
    #[must_use]
    pub fn estimate(self, logprob: f64, reference_logprob: f64) -> f64 {
        let difference = logprob - reference_logprob;
        match self {
            Self::K1 => difference,
            Self::K2 => 0.5 * difference * difference,
            // exp(−x) − 1, exact near 0.
            Self::K3 => (-difference).exp_m1() + difference,
        }
    }

    /// Returns the [`KlEstimator::estimate`] of each token of a completion, shape `[T]`.
    #[must_use]
    pub fn estimates(self, logprobs: &[f64], reference_logprobs: &[f64]) -> Vec<f64> {
        debug_assert_eq!(logprobs.len(), reference_logprobs.len(), "one log-probability per token and model");
        logprobs
            .iter()
            .zip(reference_logprobs)
            .map(|(&policy, &reference)| self.estimate(policy, reference))
            .collect()
    }
}

/// The weight β of the KL divergence, fixed or adapted to the measured divergence.
///
/// The adaptation is that of arXiv 1909.08593, section 2.2. After `n` completions with a mean divergence of
/// `kl` nats: β ← β·(1 + clip(kl/target − 1, ±0.2)·n/horizon).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KlController {
    coefficient: f64,
    target: Option<f64>,
    horizon: f64,
}

impl KlController {
    /// A controller with these settings.
    #[must_use]
    pub fn new(settings: &PpoSettings) -> Self {
        Self {
            coefficient: settings.kl_coefficient,
            target: settings.kl_target,
            horizon: settings.kl_horizon,
        }
    }

    /// A controller that resumes with this coefficient, after earlier updates.
    #[must_use]
    pub fn resumed(settings: &PpoSettings, coefficient: f64) -> Self {
        Self { coefficient, ..Self::new(settings) }
    }

    /// The current weight β of the divergence.
    #[must_use]
    pub fn coefficient(&self) -> f64 {
        self.coefficient
    }

    /// Adapts the weight to the mean divergence of `completions` completions, in nats per completion. Without
    /// a target it has no effect.
    pub fn update(&mut self, kl: f64, completions: usize) {
        let Some(target) = self.target else { return };
        let error = (kl / target - 1.0).clamp(-ERROR_MAX, ERROR_MAX);
        // A batch of more than five horizons would make the weight negative.
        self.coefficient *= (1.0 + error * completions as f64 / self.horizon).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_rounded(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 5.1e-7, "{found}, expected {expected}");
    }

    #[test]
    fn the_estimators_give_the_worked_numbers() {
        for (policy, reference, expected) in
            [(-1.0, -1.5, [0.5, 0.125, 0.106_531]), (-2.0, -1.2, [-0.8, 0.32, 0.425_541])]
        {
            for (estimator, expected) in
                [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3].into_iter().zip(expected)
            {
                assert_rounded(estimator.estimate(policy, reference), expected);
            }
        }
        assert_eq!(KlEstimator::K1.estimates(&[-1.0, -2.0], &[-1.5, -1.5]), [0.5, -0.5]);
    }

    fn adaptive(target: Option<f64>) -> KlController {
        KlController::new(&PpoSettings { kl_coefficient: 0.2, kl_target: target, ..PpoSettings::default() })
    }

    #[test]
    fn the_adaptive_coefficient_gives_the_worked_numbers() {
        for (kl, expected) in [(9.0, 0.201_024), (5.0, 0.199_147)] {
            let mut controller = adaptive(Some(6.0));
            controller.update(kl, 256);
            assert_rounded(controller.coefficient(), expected);
        }
    }

    #[test]
    fn a_coefficient_without_a_target_is_fixed() {
        let mut controller = adaptive(None);
        controller.update(1e9, 256);
        assert_rounded(controller.coefficient(), 0.2);
    }

    #[test]
    fn a_resumed_controller_continues_from_its_coefficient() {
        let settings = PpoSettings { kl_coefficient: 0.2, kl_target: Some(6.0), ..PpoSettings::default() };
        let mut whole = KlController::new(&settings);
        whole.update(9.0, 256);
        let mut resumed = KlController::resumed(&settings, whole.coefficient());
        assert_eq!(resumed, whole);
        resumed.update(3.0, 128);
        whole.update(3.0, 128);
        assert_eq!(resumed, whole);
    }

    proptest! {
        #[test]
        fn k2_and_k3_are_never_negative_and_zero_where_the_models_agree(
            policy in -30.0..0.0_f64, reference in -30.0..0.0_f64,
        ) {
            for estimator in [KlEstimator::K2, KlEstimator::K3] {
                prop_assert!(estimator.estimate(policy, reference) >= 0.0);
                prop_assert!(estimator.estimate(policy, policy).abs() < 1e-15);
            }
            prop_assert!(KlEstimator::K1.estimate(policy, policy).abs() < 1e-15);
        }

        #[test]
        fn k1_and_k3_average_to_the_divergence(weights in prop::collection::vec((0.01..1.0_f64, 0.01..1.0_f64), 2..20)) {
            let totals = weights.iter().fold((0.0, 0.0), |sum, weight| (sum.0 + weight.0, sum.1 + weight.1));
            let distributions: Vec<(f64, f64)> =
                weights.iter().map(|weight| (weight.0 / totals.0, weight.1 / totals.1)).collect();
            let exact: f64 = distributions.iter().map(|(p, q)| p * (p / q).ln()).sum();
            for estimator in [KlEstimator::K1, KlEstimator::K3] {
                let average: f64 =
                    distributions.iter().map(|(p, q)| p * estimator.estimate(p.ln(), q.ln())).sum();
                prop_assert!((average - exact).abs() < 1e-9, "{average} {exact}");
            }
        }

        #[test]
        fn k3_of_small_differences_keeps_its_precision(difference in -1e-5..1e-5_f64) {
            let series = difference * difference / 2.0 - difference.powi(3) / 6.0;
            let found = KlEstimator::K3.estimate(difference, 0.0);
            prop_assert!((found - series).abs() <= 1e-20 + 1e-8 * series.abs(), "{found} {series}");
        }

        #[test]
        fn the_coefficient_rises_above_the_target_and_falls_below_it(kl in 0.0..100.0_f64, n in 1_usize..4096) {
            let mut controller = adaptive(Some(6.0));
            controller.update(kl, n);
            let change = controller.coefficient() - 0.2;
            prop_assert!(change * (kl - 6.0) >= 0.0);
            prop_assert!(change.abs() <= 0.2 * 0.2 * n as f64 / 10_000.0 + 1e-12);
        }
    }
}
