//! Compares figures with those of scipy, and checks properties of any input.

use proptest::prelude::*;

use super::*;
use crate::random::Random;

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
}

const SCORES: [f64; 10] = [0.1, 0.4, 0.35, 0.8, 0.4, 0.2, 0.9, 0.35, 0.5, 0.4];
const POSITIVE: [bool; 10] = [false, false, true, true, true, false, true, false, false, false];

#[test]
fn ranks_are_those_of_scipy() {
    assert_eq!(midranks(&SCORES), [1.0, 6.0, 3.5, 9.0, 6.0, 2.0, 10.0, 3.5, 8.0, 6.0]);
    assert_eq!(midranks(&[0.0, -0.0, -1.0]), [2.5, 2.5, 1.0], "zeros are equal");
    assert_eq!(midranks(&[]), Vec::<f64>::new());
}

#[test]
fn auroc_is_the_mann_whitney_statistic_of_scipy_over_all_pairs() {
    near(auroc(&SCORES, &POSITIVE).unwrap(), 0.770_833_333_333_333_4);
    // 500 items with few distinct scores, from the linear congruential generator that the reference used.
    let (mut state, mut scores, mut positive) = (12_345_u64, Vec::new(), Vec::new());
    let mut next = || {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        state
    };
    for _ in 0..500 {
        let score = next() % 50;
        scores.push(score as f64);
        positive.push((next() >> 8) % 60 < score);
    }
    assert_eq!(positive.iter().filter(|positive| **positive).count(), 198);
    near(auroc(&scores, &positive).unwrap(), 0.793_623_319_285_571);
}

#[test]
fn auroc_needs_both_kinds() {
    assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
    assert_eq!(auroc(&[], &[]), None);
    near(auroc(&[2.0, 2.0, 2.0], &[true, false, false]).unwrap(), 0.5);
}

#[test]
fn a_stratified_auroc_compares_within_strata_only() {
    let stratum = [0, 0, 0, 1, 1, 0, 1, 1, 1, 0];
    // (.5 of 4 pairs + .8333 of 6 pairs) / 10.
    near(stratified_auroc(&SCORES, &POSITIVE, &stratum).unwrap(), 0.7);
    // A score that only tells the stratum, where strata have different shares of positives: within strata the
    // score is worthless.
    let by_stratum = stratum.map(f64::from);
    assert!(auroc(&by_stratum, &POSITIVE).unwrap() > 0.6);
    near(stratified_auroc(&by_stratum, &POSITIVE, &stratum).unwrap(), 0.5);
    assert_eq!(stratified_auroc(&[1.0, 2.0], &[true, false], &[0, 1]), None);
}

#[test]
fn strata_have_about_equal_sizes_and_share_ties() {
    assert_eq!(strata(&[5.0, 1.0, 3.0, 4.0, 2.0, 6.0], 3), [2, 0, 1, 1, 0, 2]);
    assert_eq!(strata(&[1.0; 4], 2), [1, 1, 1, 1]);
    assert_eq!(strata(&[1.0, 2.0], 0), [0, 0]);
}

#[test]
fn precision_and_recall_are_counted_at_each_budget() {
    let scores = [9.0, 8.0, 7.0, 6.0, 5.0];
    let positive = [true, false, true, false, false];
    let found = at_budgets(&scores, &positive, &[0, 1, 2, 3, 5, 6]);
    let of = |budget, precision, recall| AtBudget { budget, precision, recall };
    assert_eq!(found, [of(1, 1.0, 0.5), of(2, 0.5, 0.5), of(3, 2.0 / 3.0, 1.0), of(5, 0.4, 1.0)]);
    assert_eq!(at_budgets(&scores, &[false; 5], &[1]), []);
    near(mean_precision(&scores, &positive).unwrap(), (1.0 + 0.5 + 2.0 / 3.0 + 0.5 + 0.4) / 5.0);
}

#[test]
fn tied_scores_give_the_mean_over_random_draws() {
    let found = at_budgets(&[1.0; 4], &[true, false, false, false], &[1, 2, 4]);
    let recalls: Vec<f64> = found.iter().map(|at| at.recall).collect();
    assert_eq!(recalls, [0.25, 0.5, 1.0]);
    assert!(found.iter().all(|at| (at.precision - 0.25).abs() < 1e-12));
}

#[test]
fn quantiles_of_student_t_are_those_of_scipy() {
    for (degrees, expected) in [
        (1, 12.706_204_736_174_694),
        (2, 4.302_652_729_749_462),
        (3, 3.182_446_305_283_707_8),
        (4, 2.776_445_105_197_793_4),
        (5, 2.570_581_835_636_314_6),
        (9, 2.262_157_162_798_205),
        (10, 2.228_138_851_986_274),
        (29, 2.045_229_642_132_703),
        (30, 2.042_272_456_301_237_8),
        (99, 1.984_216_951_586_417_4),
    ] {
        near(student_t_quantile(0.975, degrees), expected);
    }
    near(student_t_quantile(0.9, 7), 1.414_923_927_650_508_6);
}

#[test]
fn a_t_interval_is_that_of_scipy() {
    let interval = t_interval(&[0.42, 0.5, 0.61, 0.38, 0.55]).unwrap();
    near(interval.mean, 0.492);
    near(interval.low, 0.375_720_304_530_420_77);
    near(interval.high, 0.608_279_695_469_579_3);
    let three = t_interval(&[0.5, 0.6, 0.7]).unwrap();
    near(three.low, 0.351_586_228_824_967);
    assert_eq!(t_interval(&[1.0]), None);
    let same = t_interval(&[2.0, 2.0]).unwrap();
    near(same.high - same.low, 0.0);
}

#[test]
fn a_bootstrap_interval_of_a_mean_is_near_the_normal_interval() {
    // 400 groups with mean .5 and standard deviation .5: the standard error of the mean is .025.
    let values: Vec<f64> = (0..400).map(|group| f64::from(group % 2)).collect();
    let mean =
        |groups: &[usize]| Some(groups.iter().map(|&group| values[group]).sum::<f64>() / groups.len() as f64);
    let interval = bootstrap_interval(400, 2000, 1, mean).unwrap();
    near(interval.mean, 0.5);
    assert!((interval.low - 0.451).abs() < 0.005 && (interval.high - 0.549).abs() < 0.005, "{interval:?}");
    assert_eq!(interval, bootstrap_interval(400, 2000, 1, mean).unwrap(), "one seed, one interval");
    assert_eq!(bootstrap_interval(3, 10, 0, |_| None), None);
}

/// Over many samples of a known distribution, about 95 of 100 intervals contain the true mean.
#[test]
fn intervals_contain_the_true_mean_at_their_nominal_rate() {
    let (mut random, mut covered) = (Random::new(7), 0);
    for _ in 0..2000 {
        // A sum of 12 uniform numbers is nearly normal, with mean 6.
        let sample: Vec<f64> = (0..5).map(|_| (0..12).map(|_| random.unit()).sum()).collect();
        let interval = t_interval(&sample).unwrap();
        covered += u32::from((interval.low..=interval.high).contains(&6.0));
    }
    // The expected number is 1900, with standard deviation 10.
    assert!((1860..=1940).contains(&covered), "{covered}");
}

fn labelled() -> impl Strategy<Value = (Vec<f64>, Vec<bool>)> {
    let score = prop_oneof![-5.0..5.0_f64, (-2..3_i8).prop_map(f64::from)];
    prop::collection::vec((score, any::<bool>()), 0..40).prop_map(|items| items.into_iter().unzip())
}

proptest! {
    #[test]
    fn auroc_counts_every_pair((scores, positive) in labelled()) {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (score, _) in scores.iter().zip(&positive).filter(|(_, positive)| **positive) {
            for (other, _) in scores.iter().zip(&positive).filter(|(_, positive)| !**positive) {
                pairs += 1.0;
                wins += if score > other { 1.0 } else if score < other { 0.0 } else { 0.5 };
            }
        }
        let expected = (pairs > 0.0).then(|| wins / pairs);
        let found = auroc(&scores, &positive);
        prop_assert_eq!(found.is_some(), expected.is_some());
        prop_assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-9);
    }

    #[test]
    fn negated_scores_or_labels_give_the_complement_of_auroc((scores, positive) in labelled()) {
        let Some(found) = auroc(&scores, &positive) else { return Ok(()) };
        let negated: Vec<f64> = scores.iter().map(|score| -score).collect();
        let others: Vec<bool> = positive.iter().map(|positive| !positive).collect();
        prop_assert!((auroc(&negated, &positive).unwrap() - (1.0 - found)).abs() < 1e-9);
        prop_assert!((auroc(&scores, &others).unwrap() - (1.0 - found)).abs() < 1e-9);
        let raised: Vec<f64> = scores.iter().map(|score| score.exp()).collect();
        prop_assert!((auroc(&raised, &positive).unwrap() - found).abs() < 1e-9, "only the order counts");
    }

    #[test]
    fn a_single_stratum_gives_the_plain_auroc((scores, positive) in labelled()) {
        prop_assert_eq!(
            stratified_auroc(&scores, &positive, &vec![0; scores.len()]), auroc(&scores, &positive)
        );
    }

    #[test]
    fn recall_grows_with_the_budget_to_1((scores, positive) in labelled()) {
        let budgets: Vec<usize> = (1..=scores.len()).collect();
        let found = at_budgets(&scores, &positive, &budgets);
        prop_assert!(found.windows(2).all(|two| two[0].recall <= two[1].recall + 1e-12));
        if let Some(last) = found.last() {
            prop_assert!((last.recall - 1.0).abs() < 1e-12);
            let base = positive.iter().filter(|positive| **positive).count() as f64 / positive.len() as f64;
            prop_assert!((last.precision - base).abs() < 1e-12);
        }
    }

    #[test]
    fn the_interval_decides_the_result(low in -1.0..1.0_f64, width in 0.0..1.0_f64) {
        let interval = Interval { mean: low + width / 2.0, low, high: low + width, n: 3 };
        let expected = match ComparisonResult::of(&interval) {
            ComparisonResult::Won => interval.low > 0.0,
            ComparisonResult::Lost => interval.high < 0.0,
            ComparisonResult::Tied => interval.low <= 0.0 && interval.high >= 0.0,
        };
        prop_assert!(expected);
    }
}
