use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Input {
    prompt_id: String,
    completions: Vec<Scores>,
}

#[derive(Deserialize)]
struct Scores {
    logprob: f64,
    reward: f64,
}

#[derive(Deserialize)]
struct Expected {
    prompt_id: String,
    degenerate: bool,
    pacs: Vec<f64>,
    mean_abs_pacs: f64,
    kendall_tau: Option<f64>,
    kendall_tau_distance: Option<f64>,
}

fn fixture<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    // The tolerance is absolute below 1: a PACS near 0 is a difference of z-scores of size 1.
    let tolerance = 1e-9 * expected.abs().max(1e-3);
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
}

#[track_caller]
fn assert_rounded(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 5.1e-7, "{found}, expected {expected}");
    }
}

#[test]
fn two_hundred_prompts_agree_with_numpy_and_scipy() {
    let inputs: Vec<Input> = fixture("conflict-input.jsonl");
    let expected: Vec<Expected> = fixture("conflict-expected.jsonl");
    assert_eq!((inputs.len(), expected.len()), (200, 200));
    let mut measurer = Measurer::default();
    for (input, expected) in inputs.iter().zip(&expected) {
        let id = &expected.prompt_id;
        assert_eq!(&input.prompt_id, id);
        let rewards: Vec<f64> = input.completions.iter().map(|completion| completion.reward).collect();
        let logprobs: Vec<f64> = input.completions.iter().map(|completion| completion.logprob).collect();
        let found = measurer.measure(&rewards, &logprobs).unwrap();
        assert_eq!(found, measure(&rewards, &logprobs).unwrap(), "{id}: scratch memory leaks into results");
        assert_eq!(found.degenerate, expected.degenerate, "{id}");
        assert_close(found.mean_abs_pacs, expected.mean_abs_pacs, id);
        assert_eq!(found.pacs.len(), expected.pacs.len(), "{id}");
        for (found, expected) in found.pacs.iter().zip(&expected.pacs) {
            assert_close(*found, *expected, id);
        }
        assert_eq!(found.kendall_tau.is_some(), expected.kendall_tau.is_some(), "{id}");
        if let (Some(found), Some(expected)) = (found.kendall_tau, expected.kendall_tau) {
            assert_close(found, expected, id);
        }
        if let (Some(found), Some(expected)) = (found.kendall_tau_distance, expected.kendall_tau_distance) {
            assert_close(found, expected, id);
        }
    }
}

#[test]
fn opposed_rankings_have_tau_minus_one_and_distance_one() {
    let found = measure(&[1.0, 2.0, 3.0, 4.0], &[-1.0, -2.0, -3.0, -4.0]).unwrap();
    assert_rounded(&found.pacs, &[-2.683_282, -0.894_427, 0.894_427, 2.683_282]);
    assert_rounded(&[found.mean_abs_pacs], &[1.788_854]);
    assert_eq!((found.kendall_tau, found.kendall_tau_distance), (Some(-1.0), Some(1.0)));
    assert_eq!((found.concordant, found.discordant, found.tied), (0, 6, 0));
}

#[test]
fn eight_untied_completions_give_the_worked_numbers() {
    let rewards = [0.3, -1.2, 2.1, 0.0, 1.5, -0.4, 0.9, -2.0];
    let logprobs = [-35.2, -41.0, -60.5, -28.1, -52.3, -33.3, -47.7, -30.9];
    let found = measure(&rewards, &logprobs).unwrap();
    let pacs = [-0.436_543, -1.071_537, 3.343_478, -1.336_291, 2.1053, -1.163_842, 1.203_914, -2.644_48];
    assert_rounded(&found.pacs, &pacs);
    assert_rounded(&[found.mean_abs_pacs], &[1.663_173]);
    assert_rounded(&[found.kendall_tau.unwrap()], &[-0.642_857]);
    assert_rounded(&[found.kendall_tau_distance.unwrap()], &[0.821_429]);
    assert_eq!((found.concordant, found.discordant, found.tied), (5, 23, 0));
}

#[test]
fn ties_give_the_worked_numbers() {
    let found = measure(&[1.0, 1.0, 2.0, 3.0], &[-1.0, -2.0, -2.0, -4.0]).unwrap();
    assert_rounded(&found.pacs, &[-2.051_613, -1.133_95, 0.072_096, 3.113_467]);
    assert_rounded(&[found.mean_abs_pacs], &[1.592_781]);
    assert_rounded(&[found.kendall_tau.unwrap(), found.kendall_tau_distance.unwrap()], &[-0.8, 0.9]);
    assert_eq!((found.concordant, found.discordant, found.tied), (0, 4, 2));
}

#[test]
fn scores_that_do_not_vary_are_degenerate_with_tau_undefined() {
    let varied: &[f64] = &[1.0, 2.0, 3.0];
    let barely = &[1.0, 1.0 + 1e-6, 1.0];
    for (rewards, logprobs) in
        [(&[1.0][..], &[-3.0][..]), (&[1e17 + 0.1; 3], varied), (varied, &[0.1; 3]), (barely, varied)]
    {
        let found = measure(rewards, logprobs).unwrap();
        assert!(found.degenerate, "{rewards:?} {logprobs:?}");
        assert_eq!(found.pacs, vec![0.0; rewards.len()]);
        assert_eq!((found.kendall_tau, found.kendall_tau_distance), (None, None));
        assert_rounded(&[found.mean_abs_pacs], &[0.0]);
    }
    let enough = measure(&[1.0, 1.0 + 4e-6, 1.0], varied).unwrap();
    assert!(!enough.degenerate, "a standard deviation of 1.9e-6 is above the limit");
}

#[test]
fn scores_near_the_largest_float_are_measured_without_overflow() {
    let found = measure(&[f64::MAX, -f64::MAX, 0.0], &[1.0, 2.0, 3.0]).unwrap();
    let small = measure(&[1.0, -1.0, 0.0], &[1.0, 2.0, 3.0]).unwrap();
    assert_rounded(&found.pacs, &small.pacs);
    assert_eq!(found.kendall_tau, small.kendall_tau);
}

#[test]
fn a_large_common_offset_costs_no_precision() {
    let rewards = [1e8, 1e8 + 0.25, 1e8 + 0.5, 1e8 + 1.0];
    let shifted = rewards.map(|reward| reward - 1e8);
    let logprobs = [-4.0, -1.0, -3.0, -2.0];
    let found = measure(&rewards, &logprobs).unwrap();
    for (found, expected) in found.pacs.iter().zip(&measure(&shifted, &logprobs).unwrap().pacs) {
        assert!((found - expected).abs() < 1e-14, "{found} {expected}");
    }
}

#[test]
fn errors_name_the_invalid_scores() {
    let message = |rewards: &[f64], logprobs: &[f64]| measure(rewards, logprobs).unwrap_err().to_string();
    assert_eq!(measure(&[], &[]), Err(ConflictError::Empty));
    assert_eq!(measure(&[1.0, 2.0], &[1.0]), Err(ConflictError::Lengths { rewards: 2, logprobs: 1 }));
    assert_eq!(
        message(&[1.0, 2.0], &[0.0, f64::NAN]),
        "completions[1].logprob: must be a finite number, found NaN"
    );
    assert_eq!(
        message(&[f64::INFINITY, 2.0], &[0.0, 1.0]),
        "completions[0].reward: must be a finite number, found inf"
    );
}

#[test]
fn a_conflict_with_undefined_tau_round_trips_through_json() {
    let conflict = measure(&[1.0, 1.0], &[1.0, 2.0]).unwrap();
    let json = serde_json::to_string(&conflict).unwrap();
    assert!(json.contains(r#""kendall_tau":null,"kendall_tau_distance":null"#), "{json}");
    assert_eq!(serde_json::from_str::<Conflict>(&json).unwrap(), conflict);
}

#[test]
fn names_of_logprob_kinds_round_trip() {
    for kind in LogprobKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
    assert_eq!(LogprobKind::default(), LogprobKind::Sum);
}

/// Scores of one prompt: continuous, or with few distinct values, so that many tie.
fn scores() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    let score = prop_oneof![-100.0..100.0_f64, (-3..3_i8).prop_map(f64::from)];
    prop::collection::vec((score.clone(), score), 1..65).prop_map(|pairs| pairs.into_iter().unzip())
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mean_x, y - mean_y)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

proptest! {
    #[test]
    fn pacs_sums_to_zero_and_its_rms_follows_from_the_correlation((rewards, logprobs) in scores()) {
        let found = measure(&rewards, &logprobs).unwrap();
        prop_assert!(found.pacs.iter().sum::<f64>().abs() < 1e-9);
        if !found.degenerate {
            let n = rewards.len() as f64;
            let mean_square = found.pacs.iter().map(|pacs| pacs * pacs).sum::<f64>() / n;
            let rho = pearson(&rewards, &logprobs);
            prop_assert!((mean_square - 2.0 * (1.0 - rho)).abs() < 1e-9, "{mean_square} {rho}");
            prop_assert!(found.mean_abs_pacs <= mean_square.sqrt() + 1e-12);
            let bound = 2.0 * (n - 1.0).sqrt() + 1e-9;
            prop_assert!(found.pacs.iter().all(|pacs| pacs.abs() <= bound));
            prop_assert!(found.mean_abs_pacs <= 2.0 + 1e-12);
        }
    }

    #[test]
    fn permuting_completions_permutes_pacs_and_keeps_the_rest(
        (rewards, logprobs) in scores(),
        keys in prop::collection::vec(any::<u64>(), 64),
    ) {
        let mut order: Vec<usize> = (0..rewards.len()).collect();
        order.sort_by_key(|&index| keys[index]);
        let permute = |values: &[f64]| order.iter().map(|&index| values[index]).collect::<Vec<_>>();
        let before = measure(&rewards, &logprobs).unwrap();
        let after = measure(&permute(&rewards), &permute(&logprobs)).unwrap();
        for (found, expected) in after.pacs.iter().zip(&permute(&before.pacs)) {
            prop_assert!((found - expected).abs() < 1e-9);
        }
        prop_assert_eq!(after.kendall_tau, before.kendall_tau);
        prop_assert_eq!(
            (after.concordant, after.discordant, after.tied),
            (before.concordant, before.discordant, before.tied)
        );
    }

    #[test]
    fn scale_and_offset_change_nothing(
        (rewards, logprobs) in scores(),
        scale in 0.01..1e6_f64,
        // An integer times a power of two keeps the ranks exactly, although scores may round.
        offset in -1000..1000_i32,
    ) {
        let before = measure(&rewards, &logprobs).unwrap();
        // Near the limit of degeneracy the scale matters.
        prop_assume!([&rewards, &logprobs].iter().all(|scores| {
            z_scores(scores).is_none() == z_scores(&scores.iter().map(|score| score * scale).collect::<Vec<_>>()).is_none()
        }));
        let moved: Vec<f64> = rewards.iter().map(|reward| reward * scale + f64::from(offset)).collect();
        let scaled: Vec<f64> = logprobs.iter().map(|logprob| logprob * scale).collect();
        prop_assume!(z_scores(&moved).is_some() == z_scores(&rewards).is_some());
        let after = measure(&moved, &scaled).unwrap();
        prop_assert_eq!(after.degenerate, before.degenerate);
        for (found, expected) in after.pacs.iter().zip(&before.pacs) {
            prop_assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn swapping_rewards_and_logprobs_negates_pacs_and_keeps_tau((rewards, logprobs) in scores()) {
        let found = measure(&rewards, &logprobs).unwrap();
        let swapped = measure(&logprobs, &rewards).unwrap();
        let negated: Vec<f64> = swapped.pacs.iter().map(|pacs| -pacs).collect();
        prop_assert_eq!(found.pacs, negated);
        prop_assert_eq!(found.kendall_tau, swapped.kendall_tau);
    }

    #[test]
    fn finite_scores_give_finite_figures(
        pairs in prop::collection::vec((prop::num::f64::NORMAL, prop::num::f64::ANY), 1..20),
    ) {
        let (rewards, logprobs): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        if let Ok(found) = measure(&rewards, &logprobs) {
            let bound = 2.0 * (rewards.len() as f64 - 1.0).sqrt() + 1e-9;
            prop_assert!(found.pacs.iter().all(|pacs| pacs.abs() <= bound), "{:?}", found.pacs);
            prop_assert!((0.0..=2.0 + 1e-9).contains(&found.mean_abs_pacs));
            prop_assert!(found.kendall_tau.is_none_or(|tau| (-1.0..=1.0).contains(&tau)));
        } else {
            prop_assert!(logprobs.iter().any(|logprob| !logprob.is_finite()));
        }
    }

    #[test]
    fn pacs_alone_agrees_with_the_whole_measurement((rewards, logprobs) in scores()) {
        prop_assert_eq!(pacs(&rewards, &logprobs), measure(&rewards, &logprobs).unwrap().pacs);
    }
}
