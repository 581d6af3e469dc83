//! Tests of the figures over seeds and of the verdict.

use proptest::prelude::*;

use super::*;

fn arm(rule: Rule, budget: Option<u64>, seed: u64) -> Arm {
    Arm {
        rule,
        budget,
        opponent: None,
        seed,
        name: format!("{rule}-{seed}"),
        experiment: format!("seed-{seed}"),
        config: String::new(),
    }
}

fn outcome(gold: f64, error: f64) -> ArmOutcome {
    ArmOutcome {
        labels: 40,
        preferences: 30,
        contradicted: 12,
        gold_before: Some(0.1),
        gold: Some(gold),
        proxy_error_before: Some(0.4),
        proxy_error: Some(error),
        kl: Some(1.0),
        judged: None,
    }
}

#[test]
fn rules_are_compared_seed_by_seed() {
    let outcomes: Vec<(Arm, ArmOutcome)> = [(1, 0.2), (2, 0.5), (3, 0.9)]
        .into_iter()
        .flat_map(|(seed, gold)| {
            [
                (arm(Rule::Random, Some(40), seed), outcome(gold, 0.3)),
                // Better by about 0.1 on every seed, although the seeds differ much.
                (arm(Rule::Gap, Some(40), seed), outcome(gold + 0.1 + 0.001 * seed as f64, 0.3)),
                (arm(Rule::None, None, seed), outcome(gold, 0.35)),
            ]
        })
        .collect();
    let result = ArmsResult::of(&outcomes, None, None);
    assert_eq!(result.points.len(), 3);
    assert!((result.points[0].precision.unwrap().mean - 0.4).abs() < 1e-12);
    let over_random = result.comparisons.iter().find(|found| found.over == Rule::Random).unwrap();
    assert_eq!(over_random.gold_result, Some(ComparisonResult::Won));
    assert_eq!(over_random.errors_result, Some(ComparisonResult::Tied));
    let over_none = result.comparisons.iter().find(|found| found.over == Rule::None).unwrap();
    assert_eq!(over_none.errors_result, Some(ComparisonResult::Won), "fewer errors win");
    let verdict = result.verdict();
    assert!(
        verdict[0].starts_with("SHF-CAS against random, by gold reward: won (gap at 40: +0.102"),
        "{verdict:?}"
    );
}

#[test]
fn opponents_of_a_rule_are_compared_with_its_default_one() {
    let matched = |seed: u64| Arm { opponent: Some(Opponent::Matched), ..arm(Rule::Budget, Some(40), seed) };
    let outcomes: Vec<(Arm, ArmOutcome)> = (1..=3)
        .flat_map(|seed| {
            let fewer = 0.2 + 0.001 * seed as f64;
            [(arm(Rule::Budget, Some(40), seed), outcome(0.5, 0.3)), (matched(seed), outcome(0.5, fewer))]
        })
        .collect();
    let result = ArmsResult::of(&outcomes, None, None);
    assert_eq!(result.points.len(), 2, "opponents tell arms apart");
    let [found] = result.comparisons.as_slice() else { panic!("{:?}", result.comparisons) };
    assert_eq!((found.opponent, found.over), (Some(Opponent::Matched), Rule::Budget));
    assert_eq!(found.errors_result, Some(ComparisonResult::Won), "fewer errors win");
    let verdict = result.verdict();
    assert!(
        verdict[1].starts_with("Other opponents against the default one, by held-out errors of the proxy: won (budget, opponent matched at 40"),
        "{verdict:?}"
    );
}

#[test]
fn a_single_seed_has_no_interval_and_no_verdict() {
    let outcomes = [
        (arm(Rule::Random, Some(40), 1), outcome(0.1, 0.3)),
        (arm(Rule::Gap, Some(40), 1), outcome(0.9, 0.1)),
    ];
    let result = ArmsResult::of(&outcomes, None, None);
    assert_eq!(result.points[0].gold, None);
    assert!(result.verdict().is_empty());
}

proptest! {
    #[test]
    fn the_verdict_agrees_with_the_interval(
        gold in prop::collection::vec((-1.0..1.0_f64, -1.0..1.0_f64), 2..6),
    ) {
        let outcomes: Vec<(Arm, ArmOutcome)> = gold
            .iter()
            .zip(1_u64..)
            .flat_map(|((one, other), seed)| [
                (arm(Rule::Gap, Some(9), seed), outcome(*one, 0.3)),
                (arm(Rule::Margin, Some(9), seed), outcome(*other, 0.3)),
            ])
            .collect();
        let result = ArmsResult::of(&outcomes, None, None);
        let differences: Vec<f64> = gold.iter().map(|(one, other)| one - other).collect();
        let interval = t_interval(&differences).unwrap();
        let sentence = result.verdict().remove(0);
        prop_assert!(sentence.starts_with("SHF-CAS against margin, by gold reward"), "{}", sentence);
        prop_assert_eq!(sentence.contains(" won ("), interval.low > 0.0);
        prop_assert_eq!(sentence.contains(" lost ("), interval.high < 0.0);
        prop_assert_eq!(sentence.contains(" tied ("), interval.low <= 0.0 && interval.high >= 0.0);
    }
}
