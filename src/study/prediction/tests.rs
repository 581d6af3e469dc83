//! Tests of predictors on samples with a constructed true order.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::*;

const KIND: LogprobKind = LogprobKind::Sum;
const CONFLICT: Predictor = Predictor::Score(PairScore::Gap, KIND);
const MARGIN: Predictor = Predictor::Score(PairScore::Margin, KIND);

/// A seeded generator.
struct SeededRng(ChaCha8Rng);

impl SeededRng {
    /// Returns a uniform draw from [0, 1).
    fn next(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns an approximately normal draw with variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// Returns scored prompts and labelled pairs. Each completion has a true value. The rewards are this value
/// plus noise; the log-probabilities are `correlation` times the value plus noise.
fn generated(prompts: usize, correlation: f64, seed: u64) -> (Vec<ScoredPrompt>, Vec<LabelledPair>) {
    let mut rng = SeededRng(ChaCha8Rng::seed_from_u64(seed));
    let (mut scored, mut judged) = (Vec::new(), Vec::new());
    for prompt in 0..prompts {
        let values: Vec<f64> = (0..4).map(|_| rng.normal()).collect();
        let noisy = |rng: &mut SeededRng, share: f64| -> Vec<f64> {
            values.iter().map(|value| share * value + rng.normal()).collect()
        };
        let rewards = noisy(&mut rng, 1.0);
        let logprobs = noisy(&mut rng, correlation);
        let ensemble = vec![rewards.clone(), noisy(&mut rng, 1.0), noisy(&mut rng, 1.0)];
        scored.push(ScoredPrompt { rewards, logprob_means: logprobs.clone(), logprobs, ensemble });
        for first in 0..4 {
            for second in first + 1..4 {
                let is_first = values[first] > values[second];
                let (better, worse) = if is_first { (first, second) } else { (second, first) };
                judged.push(LabelledPair { prompt, better, worse });
            }
        }
    }
    (scored, judged)
}

fn evaluated(correlation: f64) -> Predictions {
    let predictors: Vec<Predictor> = [Predictor::Random, MARGIN, Predictor::Ensemble]
        .into_iter()
        .chain(PairScore::ALL.into_iter().map(|score| Predictor::Score(score, KIND)))
        .filter({
            let mut seen = Vec::new();
            move |predictor| {
                let new = !seen.contains(predictor);
                seen.push(*predictor);
                new
            }
        })
        .collect();
    let (prompts, judged) = generated(200, correlation, 11);
    let sample = Sample::new(&prompts, &judged, &predictors).unwrap();
    evaluate(&[sample], &predictors, KIND, IntervalMethod::Bootstrap, 0)
}

fn auroc_of(predictions: &Predictions, rule: &str) -> Interval {
    predictions.rules.iter().find(|prediction| prediction.rule == rule).unwrap().auroc.unwrap()
}

#[test]
fn a_random_order_has_auroc_one_half() {
    let predictions = evaluated(1.0);
    let random = auroc_of(&predictions, "random");
    assert!((random.mean - 0.5).abs() < 1e-12 && (random.high - random.low).abs() < 1e-12);
    let at = &predictions.rules[0].at;
    let error_rate = predictions.error_rate.unwrap().mean;
    assert!(at.iter().all(|at| (at.precision.unwrap().mean - error_rate).abs() < 1e-9));
}

#[test]
fn opposition_predicts_errors_only_if_the_policy_correlates_with_the_true_value() {
    let (correlated, independent) = (evaluated(1.0), evaluated(0.0));
    assert!(auroc_of(&correlated, "opposition").low > 0.6);
    assert!(auroc_of(&correlated, "doubt").low > auroc_of(&correlated, "margin").mean, "two scores beat one");
    let opposition = auroc_of(&independent, "opposition");
    assert!((opposition.mean - 0.5).abs() < 0.05, "{opposition:?}");
    // A large margin makes a large difference of PACS, and is more often correct.
    assert!(auroc_of(&independent, "conflict").high < 0.5);
}

#[test]
fn the_margin_at_equal_margin_has_auroc_near_one_half() {
    let predictions = evaluated(1.0);
    let of = |rule: &str| predictions.rules.iter().find(|p| p.rule == rule).unwrap();
    let margin = of("margin");
    assert!(margin.auroc.unwrap().low > 0.55);
    assert!((margin.auroc_at_equal_margin.unwrap().mean - 0.5).abs() < 0.06);
    assert!(of("conflict").auroc_at_equal_margin.unwrap().low > 0.55);
}

#[test]
fn every_baseline_is_compared_with_conflict() {
    let predictions = evaluated(1.0);
    let against: Vec<&str> = predictions
        .comparisons
        .iter()
        .filter(|comparison| comparison.rule == "conflict")
        .map(|comparison| comparison.over.as_str())
        .collect();
    assert_eq!(against, ["random", "margin", "ensemble variance"]);
}

#[test]
fn a_proxy_that_rates_two_answers_alike_does_not_order_them() {
    let prompt = ScoredPrompt {
        rewards: vec![1.0, 1.0, 2.0],
        logprobs: vec![-1.0, -2.0, -3.0],
        logprob_means: vec![-1.0, -2.0, -3.0],
        ensemble: Vec::new(),
    };
    let judged =
        [LabelledPair { prompt: 0, better: 0, worse: 1 }, LabelledPair { prompt: 0, better: 2, worse: 0 }];
    let sample = Sample::new(&[prompt], &judged, &[Predictor::Random]).unwrap();
    assert!((sample.error_rate() - 0.5).abs() < 1e-12);
}

#[test]
fn seeds_are_independent_observations() {
    let sample = |seed| {
        let (prompts, judged) = generated(40, 1.0, seed);
        Sample::new(&prompts, &judged, &[Predictor::Random, MARGIN, CONFLICT]).unwrap()
    };
    let samples = [sample(1), sample(2), sample(3)];
    let predictors = [Predictor::Random, MARGIN, CONFLICT];
    let predictions = evaluate(&samples, &predictors, KIND, IntervalMethod::StudentT, 0);
    let each: Vec<f64> =
        samples.iter().map(|sample| sample.figures(1, &vec![1; sample.len()])[AUROC].unwrap()).collect();
    assert_eq!(predictions.rules[1].auroc, t_interval(&each));
}

proptest! {
    #[test]
    fn a_pair_that_is_drawn_twice_counts_twice(seed: u64, drawn in prop::collection::vec(0..3_usize, 30)) {
        let (prompts, judged) = generated(5, 0.5, seed);
        let sample = Sample::new(&prompts, &judged, &[MARGIN, CONFLICT]).unwrap();
        prop_assume!(sample.len() == drawn.len());
        let (mut scores, mut wrong) = (Vec::new(), Vec::new());
        for (pair, &times) in drawn.iter().enumerate() {
            scores.extend(std::iter::repeat_n(sample.scores[1][pair], times));
            wrong.extend(std::iter::repeat_n(sample.wrong[pair], times));
        }
        let (found, expected) = (sample.figures(1, &drawn)[AUROC], auroc(&scores, &wrong));
        prop_assert_eq!(found.is_some(), expected.is_some());
        prop_assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-12);
    }

    #[test]
    fn no_predictor_sees_the_true_order(seed: u64) {
        let (prompts, judged) = generated(5, 0.5, seed);
        let reversed: Vec<LabelledPair> = judged
            .iter()
            .map(|judged| LabelledPair { better: judged.worse, worse: judged.better, ..*judged })
            .collect();
        let predictors: Vec<Predictor> = PairScore::ALL
            .into_iter()
            .map(|score| Predictor::Score(score, KIND))
            .chain([Predictor::Random, Predictor::Ensemble])
            .collect();
        let found = Sample::new(&prompts, &judged, &predictors).unwrap();
        let other = Sample::new(&prompts, &reversed, &predictors).unwrap();
        prop_assert_eq!(found.scores, other.scores);
        prop_assert_eq!(found.stratum, other.stratum);
    }
}
